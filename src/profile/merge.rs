//! A chain of profiles as one [`Profile`]: lists add up, the parent's first; of single values the child's wins.

use std::collections::BTreeMap;

use toml::Spanned;

use super::file::{FileTable, ProfileFile};
use super::set::Written;
use super::value::Size;
use super::versions::Versions;
use super::{Archive, Image, Initrd, Kernel, Layer, PinnedFile, Profile};
use crate::document::At;

/// Merges a chain, the root first; an error names the settings that it does not give.
pub(super) fn merge(chain: &[&Written], versions: &BTreeMap<String, Versions>) -> Result<Profile, Vec<&'static str>> {
    let size = |key: &str| {
        let given = |written: &&Written| {
            let mut sizes = written.file.sizes().into_iter();
            sizes.find_map(|(name, size)| size.filter(|_| name == key)).map(|At { value: Size(bytes), .. }| *bytes)
        };
        chain.iter().rev().find_map(given)
    };
    let flavour = chain.iter().rev().find_map(|w| w.file.kernel.flavour.as_ref());
    let archive = chain.iter().find_map(|w| w.file.archive.as_ref()).map(Spanned::get_ref);
    let (Some(last), Some(flavour), Some(archive), Some(disk), Some(slot), Some(verity), Some(esp)) =
        (chain.last(), flavour, archive, size("size"), size("slot"), size("verity"), size("esp"))
    else {
        let missing = [
            ("kernel.flavour", flavour.is_none()),
            ("archive", archive.is_none()),
            ("image.size", size("size").is_none()),
            ("image.slot", size("slot").is_none()),
            ("image.verity", size("verity").is_none()),
            ("image.esp", size("esp").is_none()),
        ];
        return Err(missing.into_iter().filter(|(_, is)| *is).map(|(key, _)| key).collect());
    };
    let set = chain.iter().rev().find_map(|w| w.file.kubernetes.as_ref()).and_then(|name| versions.get(&name.text));
    let of_set = |names: Vec<String>| names.into_iter().zip(std::iter::repeat(set));
    let layer = |w: &&Written| Layer { name: w.name.clone(), packages: texts(&w.file.packages) };
    Ok(Profile {
        name: last.name.clone(),
        description: last.file.description.as_ref().map(|d| d.text.clone()).unwrap_or_default(),
        layers: chain.iter().map(layer).collect(),
        overlays: every(chain, |f| texts(&f.overlays)),
        units: every(chain, |f| texts(&f.units)),
        files: every(chain, pinned),
        kubernetes: set.and_then(Versions::facts),
        programs: of_set(every(chain, |f| texts(&f.programs))).filter_map(|(n, set)| set?.program(&n)).collect(),
        images: of_set(every(chain, |f| texts(&f.images))).filter_map(|(n, set)| set?.image(&n)).collect(),
        kernel: Kernel { flavour: flavour.text.clone(), arguments: every(chain, |f| texts(&f.kernel.arguments)) },
        initrd: Initrd {
            packages: every(chain, |f| texts(&f.initrd.packages)),
            overlays: every(chain, |f| texts(&f.initrd.overlays)),
        },
        boot_packages: every(chain, |f| texts(&f.boot.packages)),
        image: Image { size: disk, slot, verity, esp },
        archive: Archive {
            mirrors: texts(&archive.mirrors),
            snapshot: archive.snapshot.text.clone(),
            suites: texts(&archive.suites),
            components: texts(&archive.components),
            key: archive.key.value.0.clone(),
        },
    })
}

fn every<T>(chain: &[&Written], list: fn(&ProfileFile) -> Vec<T>) -> Vec<T> {
    chain.iter().flat_map(|written| list(&written.file)).collect()
}

fn texts<T>(list: &[At<T>]) -> Vec<String> {
    list.iter().map(|at| at.text.clone()).collect()
}

fn pinned(file: &ProfileFile) -> Vec<PinnedFile> {
    let pin = |f: &FileTable| PinnedFile {
        url: f.url.text.clone(),
        sha256: f.sha256.value,
        destination: f.destination.value.0.clone(),
        mode: f.mode.value.0,
    };
    file.files.iter().map(pin).collect()
}
