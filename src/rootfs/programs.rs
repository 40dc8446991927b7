//! The programs of a role's version set: locked files, and what is taken out of locked archives.
//!
//! In: [`Profile`], [`Lock`], the store. Out: paths for the image's overlay. Runs: nothing; `tar` and `flate2` read the archives.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::read::MultiGzDecoder;

use super::overlay::Overlay;
use crate::cache::Planned;
use crate::context::Context;
use crate::digest::Sha256;
use crate::error::{Failure, Kind};
use crate::lock::Lock;
use crate::profile::{Place, Profile, Program};
use crate::store::Store;
use crate::{fetch, fs};

const MODE: u32 = 0o755;

/// The programs of a role, planned.
#[derive(Clone, Debug)]
pub struct Programs<'a> {
    profile: &'a Profile,
    lock: &'a Lock,
    planned: Planned,
    files: Vec<(&'a Program, Sha256)>,
}

impl<'a> Programs<'a> {
    /// Those of a role.
    pub fn plan(profile: &'a Profile, lock: &'a Lock) -> Result<Self> {
        let mut planned = Planned::new("programs", profile.name.clone());
        let mut files = Vec::new();
        for program in &profile.programs {
            let locked = lock.program(&program.url).with_context(|| format!("the lock has no `{}`", program.url))?;
            planned.input(format!("program {}", program.name), format!("{} {:?}", locked.sha256, program.places));
            files.push((program, locked.sha256));
        }
        Ok(Self { profile, lock, planned, files })
    }

    /// The digest of all that goes into it.
    pub fn key(&self) -> Sha256 {
        self.planned.key()
    }

    /// Lays them over an image.
    pub fn lay(&self, ctx: &Context, overlay: &mut Overlay) -> Result<()> {
        if self.files.is_empty() {
            return Ok(());
        }
        let store = Store::new(&ctx.store);
        let prepare = || fetch::fetch_published(ctx, self.profile, self.lock);
        let text = format!("unpacking the programs of `{}`", self.profile.name);
        let folder = self.planned.ensure(ctx, &text, prepare, |(), folder, _| {
            for (program, sha256) in &self.files {
                unpack(&store.path(sha256), program, folder)
                    .with_context(|| format!("unpacking `{}` ({})", program.name, program.url))?;
            }
            Ok(())
        })?;
        for (program, sha256) in &self.files {
            for (index, place) in program.places.iter().enumerate() {
                let from = match place.member {
                    None => store.path(sha256),
                    Some(_) => folder.join(file_name(program, index)),
                };
                let destination = place.destination.strip_prefix("/").unwrap_or(&place.destination);
                overlay.add_file(destination, &from, MODE, &format!("program {}", program.name));
            }
        }
        Ok(())
    }
}

/// What is taken out of an archive keeps no name of its own: two members may share one.
fn file_name(program: &Program, index: usize) -> String {
    format!("{}-{index}", program.name)
}

fn unpack(archive: &Path, program: &Program, folder: &Path) -> Result<()> {
    let mut wanted: BTreeMap<PathBuf, usize> = program
        .places
        .iter()
        .enumerate()
        .filter_map(|(index, Place { member, .. })| Some((clean(Path::new(member.as_ref()?)), index)))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let mut tar = tar::Archive::new(MultiGzDecoder::new(fs::open(archive)?));
    let mut seen = Vec::new();
    for entry in tar.entries().context("reading the archive")? {
        let mut entry = entry.context("reading the archive")?;
        let path = clean(&entry.path().context("reading a path of the archive")?);
        if entry.header().entry_type().is_file()
            && let Some(index) = wanted.remove(&path)
        {
            let to = folder.join(file_name(program, index));
            let mut file = fs::create(&to)?;
            std::io::copy(&mut entry, &mut file).with_context(|| format!("writing `{}`", to.display()))?;
        } else {
            seen.push(format!("`{}`", path.display()));
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let missing: Vec<String> = wanted.keys().map(|path| format!("`{}`", path.display())).collect();
    let message = format!("it has no file {}; it has {}", missing.join(", "), seen.join(", "));
    Err(Failure::new(Kind::Input, message).hint("correct `unpack` of this program in its version set").into())
}

fn clean(path: &Path) -> PathBuf {
    path.components().filter(|c| matches!(c, std::path::Component::Normal(_))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};

    #[test]
    fn members_are_taken_out_by_path_and_a_missing_one_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let archive = folder.path().join("a.tgz");
        let mut tar = tar::Builder::new(GzEncoder::new(fs::create(&archive).expect("a file"), Compression::fast()));
        for (path, text) in [("./bridge", "one"), ("./dir/tool", "two")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o755);
            tar.append_data(&mut header, path, text.as_bytes()).expect("appends");
        }
        tar.into_inner().and_then(GzEncoder::finish).expect("ends");
        let place = |member: &str| Place { member: Some(member.into()), destination: "/usr/bin/x".into() };
        let mut program = Program {
            name: "p".into(),
            url: "https://example.com/a.tgz".into(),
            sha256: Sha256::of(""),
            places: vec![place("dir/tool"), place("bridge")],
        };
        unpack(&archive, &program, folder.path()).expect("unpacks");
        let text = |name: &str| fs::read_to_string(&folder.path().join(name)).expect("is there");
        assert_eq!((text("p-0"), text("p-1")), ("two".to_owned(), "one".to_owned()));
        program.places.push(place("portmap"));
        let error = unpack(&archive, &program, folder.path()).expect_err("portmap is not there").to_string();
        assert!(error.contains("no file `portmap`; it has"), "{error}");
    }
}
