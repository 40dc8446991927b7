//! The release: a folder of carriers, with manifest, SBOM and checksums.
//!
//! In: carriers and systems. Out: a folder under its final name. Runs: nothing.
//!
//! Everything is written to a hidden neighbour of the final folder, synced, and renamed: the name shows a whole release or
//! none. What it was made of is kept beside it (`.<name>.key`), not in it: a release holds nothing that depends on which
//! build of castiron made it.

pub mod compare;
pub mod manifest;
pub mod paths;
mod sbom;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::cache::Planned;
use crate::carrier::Carrier;
use crate::context::Context;
use crate::digest::Sha256;
use crate::error::{Failure, Kind};
use crate::lock::{BOOT, INITRD, Lock};
use crate::profile::Profile;
use crate::store::{self, Store, on_all_cores};
use crate::system::{Licences, System, licences_of};
use crate::{deb, fs};
use manifest::{File, Manifest, PackageFacts, Role};

/// The checksums' file, as `sha256sum --check` reads it.
pub const SUMS: &str = "SHA256SUMS";

/// Where a release goes, and what it is made of.
#[derive(Debug)]
pub struct Place {
    output: PathBuf,
    name: String,
    key: Sha256,
}

/// What is remembered beside a release.
#[derive(Debug, Serialize, Deserialize)]
struct Memory {
    key: Sha256,
    sums: Sha256,
}

/// A release in the making. Dropped unfinished, it leaves nothing.
pub struct Draft {
    place: Place,
    folder: tempfile::TempDir,
    _lock: std::fs::File,
}

impl Place {
    /// A release called `name` in the folder `output`, made of what `planned` names.
    pub fn new(output: &Path, name: String, planned: &Planned) -> Self {
        Self { output: output.to_owned(), name, key: planned.key() }
    }

    /// Where it will be.
    pub fn path(&self) -> PathBuf {
        self.output.join(&self.name)
    }

    fn beside(&self, what: &str) -> PathBuf {
        self.output.join(format!(".{}.{what}", self.name))
    }

    /// Whether this very release is there already, whole.
    pub fn is_there(&self, ctx: &Context) -> Result<bool> {
        let Ok(memory) = fs::read_to_string(&self.beside("key")) else { return Ok(false) };
        let Ok(memory) = serde_json::from_str::<Memory>(&memory) else { return Ok(false) };
        let sums = self.path().join(SUMS);
        if memory.key != self.key || !sums.is_file() || Sha256::of_file(&sums)?.0 != memory.sums {
            return Ok(false);
        }
        let step = ctx.ui.step("release", format!("checking `{}`", self.name));
        match verify(&self.path()) {
            Ok(()) => {
                step.cached("no input changed");
                Ok(true)
            }
            Err(why) => {
                ctx.ui.warn(format!("`{}` is damaged and made again: {why:#}", self.path().display()));
                step.done();
                Ok(false)
            }
        }
    }

    /// Begins to make it, or waits for another build that makes the same: then there is nothing to do any more.
    pub fn begin(self, ctx: &Context) -> Result<Option<Draft>> {
        let cannot = || {
            Failure::new(Kind::Other, format!("the output folder `{}` can not be written", self.output.display()))
                .hint("name another with `--output DIR`")
        };
        fs::create_dir_all(&self.output).with_context(cannot)?;
        let lock = fs::create(&self.beside("lock")).with_context(cannot)?;
        let waited = store::lock(ctx, &lock, &format!("waiting for another build of `{}`", self.path().display()))?;
        if waited && self.is_there(ctx)? {
            return Ok(None);
        }
        for stale in fs::list(&self.output)? {
            let name = stale.file_name().unwrap_or_default().to_string_lossy();
            // Left by a power cut or a kill: nobody else holds the lock, so nobody is writing there.
            if name.starts_with(&format!(".{}.making-", self.name)) {
                fs::remove(&stale)?;
            }
        }
        let folder = tempfile::Builder::new()
            .prefix(&format!(".{}.making-", self.name))
            .tempdir_in(&self.output)
            .with_context(cannot)?;
        Ok(Some(Draft { place: self, folder, _lock: lock }))
    }
}

impl Draft {
    /// The folder to write carriers into.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends it: manifest, SBOM, checksums; then the final name.
    pub fn finish(self, ctx: &Context, manifest: &Manifest) -> Result<PathBuf> {
        let step = ctx.ui.step("release", format!("naming `{}`", self.place.name));
        let folder = self.folder.path();
        let text = serde_json::to_string_pretty(manifest).context("writing the manifest")?;
        fs::write_atomic(&folder.join(manifest::FILE), text + "\n")?;
        fs::write_atomic(&folder.join(sbom::FILE), sbom::write(manifest)?)?;

        let known: BTreeMap<&str, Sha256> = manifest.files().map(|f| (f.file.as_str(), f.sha256)).collect();
        let mut sums = String::new();
        for path in fs::list(folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let digest = match known.get(name.as_str()) {
                Some(digest) => *digest,
                None => Sha256::of_file(&path)?.0,
            };
            let _ = writeln!(sums, "{digest}  {name}");
            fs::sync(&path)?;
        }
        fs::write_atomic(&folder.join(SUMS), &sums)?;
        open_to_read(folder)?;
        fs::sync(folder)?;

        ctx.check_interrupt()?;
        let path = self.place.path();
        let old = self.place.beside("old");
        fs::remove(&old)?;
        fs::remove(&self.place.beside("key"))?;
        if path.exists() {
            fs::rename(&path, &old)?;
        }
        fs::rename(folder, &path)?;
        // Its name is another now: there is nothing to clean up.
        let _ = self.folder.keep();
        fs::sync(&self.place.output)?;
        fs::remove(&old)?;
        let memory = Memory { key: self.place.key, sums: Sha256::of(&sums) };
        fs::write_atomic(
            &self.place.beside("key"),
            serde_json::to_string(&memory).context("writing a release's key")?,
        )?;
        step.done();
        Ok(path)
    }
}

/// A temporary folder is its maker's alone; a release is for all who may look there.
fn open_to_read(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("opening `{}` to readers", folder.display()))
}

/// Checks every file of a release against its checksums, on all cores.
pub fn verify(release: &Path) -> Result<()> {
    let sums = fs::read_to_string(&release.join(SUMS))?;
    let lines: Vec<(&str, &str)> = sums.lines().filter_map(|line| line.split_once("  ")).collect();
    let wrong: Vec<String> = on_all_cores(&lines, |(digest, name)| {
        let found = Sha256::of_file(&release.join(name))?.0.to_string();
        anyhow::ensure!(found == *digest, "`{name}` has the digest {found}, `{SUMS}` says {digest}");
        Ok(())
    })
    .into_iter()
    .filter_map(Result::err)
    .map(|e| format!("{e:#}"))
    .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Kind::Integrity, wrong.join("\n")).hint("build or copy the release again").into())
}

/// What the manifest says of a file.
pub fn file(carrier: &Carrier) -> File {
    File {
        file: carrier.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        format: carrier.format.clone(),
        size: carrier.size,
        sha256: carrier.sha256,
    }
}

/// What the manifest says of one role; writes the list of paths.
pub fn describe(
    ctx: &Context,
    profile: &Profile,
    lock: &Lock,
    system: &System,
    inputs: BTreeMap<String, String>,
    carriers: &[Carrier],
    folder: &Path,
) -> Result<Role> {
    let step = ctx.ui.step("release", format!("describing `{}`", profile.name));
    let contents = format!("{}.contents.jsonl.zst", profile.name);
    let packed = fs::create(&folder.join(&contents))?;
    zstd::stream::copy_encode(fs::open(&system.contents)?, packed, 3)
        .with_context(|| format!("writing `{}`", folder.join(&contents).display()))?;

    let packages = packages(ctx, profile, lock, system)?;

    let files = carriers.iter().map(file).collect();
    step.done();
    Ok(Role {
        description: profile.description.clone(),
        kernel: crate::rootfs::kernel_version(lock.layer(&profile.layers[0].name))
            .context("the lock names no kernel")?,
        roothash: system.roothash.clone(),
        root_bytes: fs::len(&system.root)?,
        verity_bytes: fs::len(&system.verity)?,
        inputs,
        carriers: files,
        contents,
        packages,
    })
}

/// The packages of the image, and those whose files only the ESP or the initrd has, with their licences.
fn packages(ctx: &Context, profile: &Profile, lock: &Lock, system: &System) -> Result<Vec<PackageFacts>> {
    let licences: Licences =
        serde_json::from_str(&fs::read_to_string(&system.licences)?).context("reading the packages' licences")?;
    let store = Store::new(&ctx.store);
    let layers = profile.layers.iter().map(|l| (l.name.as_str(), "image"));
    let mut packages = Vec::new();
    for (layer, part) in layers.chain([(BOOT, "boot"), (INITRD, "initrd")]) {
        for package in lock.layer(layer) {
            let licences = if part == "image" {
                licences.get(&package.name).cloned().unwrap_or_default()
            } else {
                let copyright = format!("usr/share/doc/{}/copyright", package.name);
                let found = deb::read_files(&store.path(&package.sha256), &[copyright.as_str()])?;
                found.get(&copyright).map(|bytes| licences_of(&String::from_utf8_lossy(bytes))).unwrap_or_default()
            };
            packages.push(PackageFacts {
                name: package.name.clone(),
                version: package.version.clone(),
                architecture: package.architecture.clone(),
                pocket: package.pocket.clone(),
                sha256: package.sha256,
                part: part.to_owned(),
                licences: licences.into_iter().collect(),
            });
        }
    }
    packages.sort_by(|a, b| (&a.name, &a.part).cmp(&(&b.name, &b.part)));
    Ok(packages)
}
