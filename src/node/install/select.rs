//! Which disk: exactly one, or none.
//!
//! In: the machine's disks, the site's rule for this node. Out: the one disk, or why not, with the table of all disks.
//!
//! A disk is never guessed. Every key of the rule must agree; what is too small, read-only, in use, the medium itself, or
//! of blocks that the image was not made for is out, and says so. Two that remain are as wrong as none.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Deserialize;

use super::disks::Disk;
use crate::autoinstall::{Extreme, Match};
use crate::error::{Failure, Kind};

/// How a node's disk is known. A key that is not there agrees with every disk; a rule without keys with none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// The serial number.
    pub serial: Option<String>,
    /// The World Wide Name.
    pub wwn: Option<String>,
    /// The name in `/dev/disk/by-path`.
    pub by_path: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// The least number of bytes.
    pub min_size: Option<u64>,
    /// The largest number of bytes.
    pub max_size: Option<u64>,
}

impl Rule {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The key that does not agree, if one does not.
    fn against(&self, disk: &Disk) -> Option<&'static str> {
        let differs = |wanted: &Option<String>, found: &Option<String>| {
            wanted.as_ref().is_some_and(|wanted| !found.as_ref().is_some_and(|found| same(wanted, found)))
        };
        if differs(&self.serial, &disk.serial) {
            Some("another serial number")
        } else if differs(&self.wwn, &disk.wwn) {
            Some("another WWN")
        } else if self.by_path.as_ref().is_some_and(|wanted| !disk.by_path.contains(wanted)) {
            Some("another path")
        } else if differs(&self.model, &disk.model) {
            Some("another model")
        } else if self.min_size.is_some_and(|least| disk.size < least) {
            Some("smaller than the site allows")
        } else if self.max_size.is_some_and(|most| disk.size > most) {
            Some("larger than the site allows")
        } else {
            None
        }
    }
}

/// udev writes `_` for what is no plain character, labels and tools write blanks; and WWNs come with and without `0x`.
fn same(wanted: &str, found: &str) -> bool {
    let plain = |text: &str| text.trim().trim_start_matches("0x").replace(' ', "_").to_lowercase();
    plain(wanted) == plain(found)
}

/// Bytes of a logical block that the images are made for.
const BLOCK: u64 = 512;

/// Why a disk can not be installed on, whatever the rule says.
fn unfit(disk: &Disk, size: u64) -> Option<String> {
    if let Some(held) = disk.held.first() {
        return Some(held.clone());
    }
    if disk.read_only {
        return Some("it is read-only".to_owned());
    }
    if disk.block != BLOCK {
        return Some(format!("its blocks have {} bytes, the image is made for {BLOCK}", disk.block));
    }
    (disk.size < size).then(|| format!("it has {} bytes, the image needs {size}", disk.size))
}

/// The one disk that agrees with the rule and with the alternatives, and can hold an image of `size` bytes. Without
/// alternatives the rule alone counts; without a rule the alternatives do.
pub fn select<'a>(disks: &'a [Disk], rule: &Rule, alternatives: &[Match], size: u64) -> Result<&'a Disk> {
    let says_nothing = rule.is_empty() && alternatives.is_empty();
    let ruled: Vec<&Disk> = disks.iter().filter(|disk| !says_nothing && rule.against(disk).is_none()).collect();
    let agreeing = narrowed(&ruled, alternatives, size);
    let why = match agreeing.as_slice() {
        [disk] => match unfit(disk, size) {
            None => return Ok(disk),
            Some(why) => format!("the disk `{}` can not be installed on: {why}", disk.name),
        },
        [] if disks.is_empty() => "this machine has no disk".to_owned(),
        [] => "no disk of this machine is the one that the site names".to_owned(),
        several => {
            let names: Vec<&str> = several.iter().map(|disk| disk.name.as_str()).collect();
            format!("{} disks agree with the site's rule: {}", several.len(), names.join(", "))
        }
    };
    let reason = |disk: &Disk| match rule.against(disk) {
        _ if says_nothing => "the site names no disk".to_owned(),
        Some(why) => why.to_owned(),
        None if !agreeing.iter().any(|other| other.name == disk.name) => {
            "not what the medium's `match` says".to_owned()
        }
        None => unfit(disk, size).unwrap_or_else(|| "agrees".to_owned()),
    };
    Err(Failure::new(Kind::Input, format!("{why}\n{}", table(disks, reason)))
        .hint("name exactly one of them in the node's `disk` of site.toml, by serial number or WWN")
        .into())
}

/// Those that the first alternative agrees with that agrees with any.
fn narrowed<'a>(disks: &[&'a Disk], alternatives: &[Match], size: u64) -> Vec<&'a Disk> {
    if alternatives.is_empty() {
        return disks.to_vec();
    }
    let found = alternatives.iter().map(|wanted| {
        let mut found: Vec<&Disk> = disks.iter().copied().filter(|disk| agrees(wanted, disk)).collect();
        if let Some(extreme) = wanted.size {
            // As in Ubuntu's installer, what is in use is no candidate then.
            found.retain(|disk| unfit(disk, size).is_none());
            let sizes = found.iter().map(|disk| disk.size);
            let end = if extreme == Extreme::Largest { sizes.max() } else { sizes.min() };
            found.retain(|disk| Some(disk.size) == end);
        }
        found
    });
    found.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
}

fn agrees(wanted: &Match, disk: &Disk) -> bool {
    let text = |pattern: &Option<String>, found: &[Option<&str>]| {
        pattern.as_ref().is_none_or(|pattern| {
            // The build has tried them all.
            let pattern = glob::Pattern::new(pattern).ok();
            pattern.is_some_and(|pattern| found.iter().flatten().any(|found| pattern.matches(found)))
        })
    };
    let path = format!("/dev/{}", disk.name);
    text(&wanted.serial, &[disk.serial.as_deref(), disk.long_serial.as_deref()])
        && text(&wanted.model, &[disk.model.as_deref()])
        && text(&wanted.vendor, &[disk.vendor.as_deref()])
        && text(&wanted.path, &[Some(&path)])
        && text(&wanted.id_path, &[disk.id_path.as_deref()])
        && text(&wanted.devpath, &[disk.devpath.as_deref()])
        && wanted.ssd.is_none_or(|ssd| ssd == disk.ssd)
}

/// The disks as a table, with what `last` says of each.
pub fn table(disks: &[Disk], last: impl Fn(&Disk) -> String) -> String {
    let mut rows = vec![["disk", "bytes", "serial", "wwn", "model", ""].map(str::to_owned)];
    for disk in disks {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let row =
            [disk.name.clone(), disk.size.to_string(), or_none(&disk.serial), or_none(&disk.wwn), or_none(&disk.model)];
        let [name, size, serial, wwn, model] = row;
        rows.push([name, size, serial, wwn, model, last(disk)]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(text, "  {}  {}", cells.collect::<Vec<_>>().join("  "), row[5]);
    }
    text.trim_end().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn disk(name: &str, serial: &str) -> Disk {
        Disk { name: name.into(), size: 8 << 30, block: 512, serial: Some(serial.into()), ..Disk::default() }
    }

    fn refused(disks: &[Disk], rule: &Rule) -> String {
        format!("{:#}", select(disks, rule, &[], 4 << 30).expect_err("is refused"))
    }

    #[test]
    fn the_one_that_is_named() {
        let disks = [disk("vda", "A"), disk("vdb", "B"), disk("vdc", "C")];
        let rule = Rule { serial: Some("B".into()), ..Rule::default() };
        assert_eq!(select(&disks, &rule, &[], 4 << 30).expect("is one").name, "vdb");
    }

    #[test]
    fn none_or_two_or_no_rule_is_refused_with_a_table() {
        let disks = [disk("vda", "A"), Disk { size: 9 << 30, ..disk("vdb", "A") }];
        insta::assert_snapshot!(refused(&disks, &Rule { serial: Some("X".into()), ..Rule::default() }));
        insta::assert_snapshot!(refused(&disks, &Rule { serial: Some("A".into()), ..Rule::default() }));
        insta::assert_snapshot!(refused(&disks, &Rule::default()));
        assert!(refused(&[], &Rule::default()).contains("has no disk"));
    }

    #[test]
    fn what_can_not_be_installed_on_says_why() {
        let rule = Rule { serial: Some("A".into()), ..Rule::default() };
        let one = || disk("vda", "A");
        for (disk, why) in [
            (Disk { size: (4 << 30) - 1, ..one() }, "it has 4294967295 bytes, the image needs 4294967296"),
            (Disk { read_only: true, ..one() }, "it is read-only"),
            (Disk { block: 4096, ..one() }, "its blocks have 4096 bytes, the image is made for 512"),
            (Disk { held: vec!["vda1 is mounted at /x".into()], ..one() }, "vda1 is mounted at /x"),
        ] {
            assert!(refused(&[disk], &rule).contains(why), "{why}");
        }
    }

    fn text() -> impl Strategy<Value = Option<String>> {
        proptest::option::of(proptest::sample::select(vec!["A", "B", "A B", "a_b", "0xA", ""]).prop_map(str::to_owned))
    }

    prop_compose! {
        fn any_disk()(
            serial in text(), wwn in text(), model in text(), path in text(), size in 0u64..6, block in 0usize..2,
            read_only in proptest::bool::weighted(0.1), held in proptest::bool::weighted(0.1),
        ) -> Disk {
            Disk {
                name: String::new(), size: size << 30, block: [512, 4096][block], serial, wwn, model,
                by_path: path.into_iter().collect(), read_only, removable: false,
                held: if held { vec!["held".into()] } else { Vec::new() }, ..Disk::default()
            }
        }
    }

    prop_compose! {
        fn any_rule()(serial in text(), wwn in text(), model in text(), by_path in text(),
            min in proptest::option::of(0u64..6), max in proptest::option::of(0u64..6)) -> Rule {
            let bytes = |size: Option<u64>| size.map(|gib| gib << 30);
            Rule { serial, wwn, by_path, model, min_size: bytes(min), max_size: bytes(max) }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        /// Never a disk that another one could be taken for, nor one that can not hold the image.
        #[test]
        fn never_a_wrong_disk(mut disks in proptest::collection::vec(any_disk(), 0..6), rule in any_rule()) {
            for (index, disk) in disks.iter_mut().enumerate() {
                disk.name = format!("vd{index}");
            }
            let agrees = |disk: &Disk| {
                let text = |wanted: &Option<String>, found: &Option<String>| match (wanted, found) {
                    (None, _) => true,
                    (Some(_), None) => false,
                    (Some(wanted), Some(found)) => same(wanted, found),
                };
                text(&rule.serial, &disk.serial) && text(&rule.wwn, &disk.wwn) && text(&rule.model, &disk.model)
                    && rule.by_path.as_ref().is_none_or(|path| disk.by_path.contains(path))
                    && rule.min_size.is_none_or(|least| disk.size >= least)
                    && rule.max_size.is_none_or(|most| disk.size <= most)
            };
            let all: Vec<&Disk> = disks.iter().filter(|disk| agrees(disk)).collect();
            match select(&disks, &rule, &[], 4 << 30) {
                Ok(disk) => {
                    prop_assert_eq!(all.len(), 1);
                    prop_assert_eq!(&all[0].name, &disk.name);
                    prop_assert!(rule != Rule::default());
                    prop_assert!(disk.size >= 4 << 30 && disk.block == 512 && !disk.read_only && disk.held.is_empty());
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    for disk in &disks {
                        prop_assert!(text.contains(&disk.name), "the table has every disk: {}", text);
                    }
                }
            }
        }
    }
}
