//! The rules that no single value can break: across keys, files and folders.
//!
//! In: the profiles that could be read. Out: every problem, each once, at the file whose author can mend it.
//! Where a file was not read whole, rules about what it lacks are silent.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::file::ProfileFile;
use super::merge;
use super::set::{BASE, Named, Set, VERSIONS, Written};
use super::sizes;
use super::value::{Name, Package, Unit};
use crate::diagnostic::{Diagnostic, literal, suggest};
use crate::document::At;

/// Units of this prefix are castiron's own.
const OWN_UNITS: &str = "castiron-";

/// The overlay of `castiron build --debug-shell`. A profile that named it would open every machine of its role.
const DEBUG_SHELL: &str = "debug-shell";

/// Tries all rules.
pub(super) fn check(set: &Set, named: &Named) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    for written in set.profiles.values() {
        parent(set, written, &mut problems);
        overlays(written, named, &mut problems);
        units(written, named, &mut problems);
        if let Some(chain) = set.chain(&written.name) {
            repeats(&chain, &mut problems);
            sizes::check(&chain, &mut problems);
            kubernetes(set, &chain, &mut problems);
        }
    }
    circles(set, &mut problems);
    versions(set, &mut problems);
    digests(set, &mut problems);
    gaps(set, &mut problems);
    problems
}

fn parent(set: &Set, written: &Written, problems: &mut Vec<Diagnostic>) {
    let Some(parent) = &written.file.extends else { return };
    if !set.names.contains(&parent.text) {
        let known = set.names.iter().map(String::as_str).filter(|n| *n != written.name);
        let message = format!("no profile {}", literal(&parent.text));
        problems
            .push(Diagnostic::new(message, &written.source, parent.span.clone()).help(suggest(&parent.text, known)));
    }
    if let Some(archive) = &written.file.archive {
        let message = "`[archive]` in a profile that extends another";
        problems.push(
            Diagnostic::new(message, &written.source, archive.span())
                .and(&written.source, parent.span.clone(), "it extends this one")
                .help("all roles share one archive: name it in the profile that extends nothing".to_owned()),
        );
    }
}

/// Profiles that extend each other, each circle once.
fn circles(set: &Set, problems: &mut Vec<Diagnostic>) {
    let mut told = BTreeSet::new();
    for written in set.profiles.values() {
        let mut circle = vec![written];
        while let Some(next) = circle.last().and_then(|w| w.file.extends.as_ref()).map(|e| &e.text) {
            if let Some(start) = circle.iter().position(|w| w.name == *next) {
                circle.drain(..start);
                break;
            }
            match set.profiles.get(next) {
                Some(next) => circle.push(next),
                None => circle.clear(),
            }
        }
        if circle.iter().any(|w| w.file.extends.is_none()) || !circle.iter().all(|w| told.insert(&w.name)) {
            continue;
        }
        let place = |w: &Written| w.file.extends.as_ref().map_or(0..0, |e| e.span.clone());
        let [first, rest @ ..] = circle.as_slice() else { continue };
        let names = circle.iter().chain([first]).map(|w| literal(&w.name)).collect::<Vec<_>>().join(" → ");
        let problem = Diagnostic::new(format!("profiles that extend each other: {names}"), &first.source, place(first));
        let problem = rest.iter().fold(problem, |p, w| p.and(&w.source, place(w), ""));
        problems.push(problem.help(format!("one of them must extend {} or nothing", literal(BASE))));
    }
}

fn overlays(written: &Written, named: &Named, problems: &mut Vec<Diagnostic>) {
    for overlay in written.file.overlays.iter().chain(&written.file.initrd.overlays) {
        let (message, help) = if overlay.text == DEBUG_SHELL {
            let message = format!("the overlay `{DEBUG_SHELL}` is laid down by a flag only");
            (message, Some(format!("take it out, and give `castiron build` the flag `--{DEBUG_SHELL}`")))
        } else if !named.overlays.contains(&overlay.text) {
            let known = named.overlays.iter().map(String::as_str).filter(|o| *o != DEBUG_SHELL);
            let missing = || format!("make the folder `overlays/{}`", overlay.text);
            let help = suggest(&overlay.text, known).unwrap_or_else(missing);
            (format!("no overlay {}", literal(&overlay.text)), Some(help))
        } else {
            continue;
        };
        problems.push(Diagnostic::new(message, &written.source, overlay.span.clone()).help(help));
    }
}

fn units(written: &Written, named: &Named, problems: &mut Vec<Diagnostic>) {
    for unit in written.file.units.iter().filter(|u| u.text.starts_with(OWN_UNITS)) {
        let file = Unit::file(&unit.text);
        if !named.units.contains(&file) {
            let known = named.units.iter().map(String::as_str).filter(|u| u.starts_with(OWN_UNITS));
            let help = suggest(&file, known).unwrap_or_else(|| format!("write the file `firstboot/{file}`"));
            let message = format!("no unit {}", literal(&unit.text));
            problems.push(Diagnostic::new(message, &written.source, unit.span.clone()).help(help));
        }
    }
}

/// The version set of the last profile of a chain, and what it takes of it.
fn kubernetes(set: &Set, chain: &[&Written], problems: &mut Vec<Diagnostic>) {
    let Some(last) = chain.last() else { return };
    if let Some(name) = last.file.kubernetes.as_ref().filter(|name| !set.version_names.contains(&name.text)) {
        let help = suggest(&name.text, set.version_names.iter().map(String::as_str))
            .unwrap_or_else(|| format!("write the file `profiles/{VERSIONS}/{}.toml`", name.text));
        let message = format!("no version set {}", literal(&name.text));
        problems.push(Diagnostic::new(message, &last.source, name.span.clone()).help(help));
    }
    let chosen = chain.iter().rev().find_map(|w| w.file.kubernetes.as_ref());
    let Some(chosen) = chosen else {
        if let Some(first) = last.file.programs.first().or(last.file.images.first()) {
            let message = format!("{} is of a version set, and none is chosen", literal(&first.text));
            let help = "say which: `kubernetes = \"…\"`".to_owned();
            problems.push(Diagnostic::new(message, &last.source, first.span.clone()).help(help));
        }
        return;
    };
    let Some(versions) = set.versions.get(&chosen.text) else { return };
    let programs: BTreeSet<&str> = versions.programs().collect();
    let images: BTreeSet<&str> = versions.images().collect();
    for (kind, names, known) in [("program", &last.file.programs, &programs), ("image", &last.file.images, &images)] {
        for name in names.iter().filter(|n| !known.contains(n.text.as_str())) {
            let message = format!("{} has no {kind} {}", literal(&chosen.text), literal(&name.text));
            let help = suggest(&name.text, known.iter().copied())
                .or_else(|| Some(format!("add it to `profiles/{VERSIONS}/{}.toml`", chosen.text)));
            problems.push(Diagnostic::new(message, &last.source, name.span.clone()).help(help));
        }
    }
}

/// What a list of a profile is called, and its entries.
type List<'a> = (&'static str, Vec<(&'a str, Range<usize>)>);

fn lists(file: &ProfileFile) -> [List<'_>; 9] {
    fn packages(list: &[At<Package>]) -> Vec<(&str, Range<usize>)> {
        list.iter().map(|p| (p.value.name.as_str(), p.span.clone())).collect()
    }
    fn names(list: &[At<Name>]) -> Vec<(&str, Range<usize>)> {
        list.iter().map(|o| (o.text.as_str(), o.span.clone())).collect()
    }
    [
        ("package", packages(&file.packages)),
        ("initrd package", packages(&file.initrd.packages)),
        ("boot package", packages(&file.boot.packages)),
        ("overlay", names(&file.overlays)),
        ("initrd overlay", names(&file.initrd.overlays)),
        ("program", names(&file.programs)),
        ("image", names(&file.images)),
        ("unit", file.units.iter().map(|u| (u.text.as_str(), u.span.clone())).collect()),
        ("destination", file.files.iter().map(|f| (f.destination.text.as_str(), f.destination.span.clone())).collect()),
    ]
}

fn each((kind, list): List<'_>) -> impl Iterator<Item = (&'static str, (&str, Range<usize>))> {
    list.into_iter().map(move |entry| (kind, entry))
}

/// What the last profile of a chain names although it, or one before it, names it already.
fn repeats(chain: &[&Written], problems: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<(&str, &str), (&Written, Range<usize>)> = BTreeMap::new();
    let Some((last, before)) = chain.split_last() else { return };
    for written in before {
        for (kind, (entry, span)) in lists(&written.file).into_iter().flat_map(each) {
            seen.entry((kind, entry)).or_insert((written, span));
        }
    }
    for (kind, (entry, span)) in lists(&last.file).into_iter().flat_map(each) {
        let Some((first, first_span)) = seen.get(&(kind, entry)) else {
            seen.insert((kind, entry), (last, span));
            continue;
        };
        let help = if kind == "destination" {
            "one place holds one file: give one of the two another destination".to_owned()
        } else if first.name == last.name {
            "take one of the two out".to_owned()
        } else {
            format!("{} has it from {} already: take it out here", literal(&last.name), literal(&first.name))
        };
        problems.push(
            Diagnostic::new(format!("the {kind} {} is named twice", literal(entry)), &last.source, span)
                .label("again here")
                .and(&first.source, first_span.clone(), "first here")
                .help(help),
        );
    }
}

/// Packages that two profiles want at different versions: the lock holds one.
fn versions(set: &Set, problems: &mut Vec<Diagnostic>) {
    let mut pins: BTreeMap<&str, (&Written, &'static str, &At<Package>)> = BTreeMap::new();
    for written in set.profiles.values() {
        let ProfileFile { packages, initrd, boot, .. } = &written.file;
        let kinds = [("", packages), ("initrd", &initrd.packages), ("boot", &boot.packages)];
        let all = kinds.into_iter().flat_map(|(kind, list)| list.iter().map(move |p| (kind, p)));
        for (kind, package) in all.filter(|(_, p)| p.value.version.is_some()) {
            let (first, first_kind, other) = *pins.entry(&package.value.name).or_insert((written, kind, package));
            // One list of one chain: named twice, and told so already.
            if other.value.version == package.value.version || (kind == first_kind && related(set, first, written)) {
                continue;
            }
            problems.push(
                Diagnostic::new(
                    format!("two versions of the package {}", literal(&package.value.name)),
                    &written.source,
                    package.span.clone(),
                )
                .label("this one here")
                .and(&first.source, other.span.clone(), "another here")
                .help("all profiles share one lock: pin the same version, or in one place only".to_owned()),
            );
        }
    }
}

fn related(set: &Set, a: &Written, b: &Written) -> bool {
    let extends = |child: &Written, parent: &Written| {
        set.chain(&child.name).is_some_and(|chain| chain.iter().any(|w| w.name == parent.name))
    };
    extends(a, b) || extends(b, a)
}

/// Addresses whose content two places expect to be different.
fn digests(set: &Set, problems: &mut Vec<Diagnostic>) {
    let mut pins = BTreeMap::new();
    for written in set.profiles.values() {
        for file in &written.file.files {
            let (first, digest) = *pins.entry(&file.url.text).or_insert((written, &file.sha256));
            if digest.value != file.sha256.value {
                problems.push(
                    Diagnostic::new(
                        format!("two digests for {}", literal(&file.url.text)),
                        &written.source,
                        file.sha256.span.clone(),
                    )
                    .label("this one here")
                    .and(&first.source, digest.span.clone(), "another here")
                    .help("one address has one content: fetch it, and write what `sha256sum` says".to_owned()),
                );
            }
        }
    }
}

/// Settings that a role must have and that no profile of its chain gives.
fn gaps(set: &Set, problems: &mut Vec<Diagnostic>) {
    let mut roles_without: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for role in set.names.iter().filter(|name| *name != BASE) {
        let Some(chain) = set.chain(role).filter(|chain| chain.iter().all(|w| w.cut.is_empty())) else { continue };
        for key in merge::merge(&chain, &set.versions).err().unwrap_or_default() {
            roles_without.entry((&chain[0].name, key)).or_default().push(role);
        }
    }
    let mut keys_without: BTreeMap<(&str, Vec<&str>), Vec<&str>> = BTreeMap::new();
    for ((root, key), roles) in roles_without {
        keys_without.entry((root, roles)).or_default().push(key);
    }
    for ((root, roles), keys) in keys_without {
        let list = |names: &[&str]| names.iter().map(|n| literal(n)).collect::<Vec<_>>().join(", ");
        let have = if roles.len() == 1 { "has" } else { "have" };
        let help = if roles == [root] {
            format!("write them here, or extend {}", literal(BASE))
        } else {
            "write them here for all that extend this profile, or in each role's own".to_owned()
        };
        let message = format!("{} {have} no {}", list(&roles), list(&keys));
        problems.push(Diagnostic::of_file(message, &set.profiles[root].source).help(help));
    }
}
