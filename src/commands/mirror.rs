//! `castiron mirror`: a copy of all that the lock names, for places that reach nothing else.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::commands::fetch;
use crate::context::Context;
use crate::digest::Sha256;
use crate::lock::{self, Lock, TOOLS_FILE};
use crate::store::Store;
use crate::{fs, mirror, profile};

/// Arguments of `castiron mirror`.
#[derive(Debug, Args)]
pub struct Mirror {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring a folder up to date: all packages, programs and images of the lock and of the tools tree
    #[command(after_help = "Examples:
  castiron mirror sync /media/usb/mirror
  castiron --mirror /media/usb/mirror build control-plane     # elsewhere, without any network")]
    Sync {
        /// The folder; what the lock no longer names is removed from it
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// Runs the verb.
pub fn run(ctx: &Context, args: Mirror) -> Result<ExitCode> {
    let Verb::Sync { folder } = args.verb;
    fetch::everything(ctx)?;
    let lock = lock::load(ctx)?;
    let tools = lock::load_from(ctx, TOOLS_FILE)?;
    let store = Store::new(&ctx.store);
    let _hold = store.hold(ctx)?;
    fs::create_dir_all(&folder)?;
    let files = files(ctx, &lock, &tools)?;
    let bytes = files.iter().map(|f| f.size).sum();
    let step = ctx.ui.step_bytes("mirror", format!("copying {} files", files.len()), bytes);
    let mut copied = 0_usize;
    for file in &files {
        ctx.check_interrupt()?;
        copied += usize::from(copy(&store, file, &folder.join(&file.path))?);
        step.advance(file.size);
    }
    // What lists the files comes after them: a copy that was cut short lists nothing that is not there.
    describe(&store, &lock, &folder)?;
    step.done();
    let removed = sweep(&folder, &files)?;
    ctx.ui.note(format!(
        "`{}` holds all that the lock names: {} files, {copied} of them new; {removed} removed",
        folder.display(),
        files.len()
    ));
    Ok(ExitCode::SUCCESS)
}

/// A file of a mirror, and the object of the store that it is a copy of.
struct Copy {
    path: String,
    sha256: Sha256,
    size: u64,
}

fn files(ctx: &Context, lock: &Lock, tools: &Lock) -> Result<Vec<Copy>> {
    let mut files: Vec<Copy> = Vec::new();
    for package in lock.packages.iter().chain(&tools.packages) {
        files.push(Copy { path: package.path.clone(), sha256: package.sha256, size: package.size });
    }
    for program in &lock.programs {
        files.push(Copy { path: mirror::file_path(&program.url), sha256: program.sha256, size: program.size });
    }
    for file in profile::load_all(ctx)?.into_iter().flat_map(|p| p.files) {
        let size = fs::len(&Store::new(&ctx.store).path(&file.sha256))?;
        files.push(Copy { path: mirror::file_path(&file.url), sha256: file.sha256, size });
    }
    for image in &lock.images {
        let parts = image.blobs.iter().map(|b| (b.sha256, b.size)).chain([(image.digest, image.size)]);
        files.extend(parts.map(|(sha256, size)| Copy { path: mirror::blob_path(&sha256), sha256, size }));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files.dedup_by(|a, b| a.path == b.path);
    Ok(files)
}

/// Copies an object, unless the very file is there; whether it did.
fn copy(store: &Store, file: &Copy, to: &Path) -> Result<bool> {
    if fs::len(to).is_ok_and(|len| len == file.size) && Sha256::of_file(to)?.0 == file.sha256 {
        return Ok(false);
    }
    let from = store.path(&file.sha256);
    let folder = to.parent().context("a mirror's file has no folder")?;
    fs::create_dir_all(folder)?;
    let mut new =
        tempfile::NamedTempFile::new_in(folder).with_context(|| format!("writing in `{}`", folder.display()))?;
    let writing = || format!("copying `{}` to `{}`", from.display(), to.display());
    std::io::copy(&mut fs::open(&from)?, &mut new).with_context(writing)?;
    new.as_file().sync_all().with_context(writing)?;
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    new.as_file().set_permissions(readable).with_context(writing)?;
    new.persist(to).with_context(writing)?;
    Ok(true)
}

/// Writes what says which files and images there are.
fn describe(store: &Store, lock: &Lock, folder: &Path) -> Result<()> {
    let sums = lock.programs.iter().map(|p| format!("{}  {}\n", p.sha256, mirror::file_path(&p.url)));
    fs::write_atomic(&folder.join(mirror::SUMS), sums.collect::<String>())?;
    let mut manifests = Vec::new();
    for image in &lock.images {
        let manifest: serde_json::Value = serde_json::from_slice(&lock::manifest(store, image)?)
            .with_context(|| format!("reading the manifest of `{}`", image.reference))?;
        let kind = manifest["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json");
        manifests.push(json!({
            "mediaType": kind,
            "digest": format!("sha256:{}", image.digest),
            "size": image.size,
            "platform": { "os": "linux", "architecture": "amd64" },
            "annotations": { mirror::IMAGE_NAME: image.reference },
        }));
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": manifests });
    fs::create_dir_all(&folder.join("images"))?;
    fs::write_atomic(&folder.join("images/oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}")?;
    fs::write_atomic(&folder.join(mirror::INDEX), serde_json::to_vec_pretty(&index).context("writing an index")?)?;
    let origin = folder.join(mirror::ORIGIN);
    match &lock.origin {
        None => fs::remove(&origin),
        Some(known) => fs::write_atomic(&origin, toml::to_string(known).context("writing the origin")?),
    }
}

/// Removes what no lock names from the folders that are the mirror's alone; returns how many files that were.
fn sweep(folder: &Path, files: &[Copy]) -> Result<usize> {
    let known: std::collections::BTreeSet<PathBuf> = files.iter().map(|f| folder.join(&f.path)).collect();
    let mut removed = 0;
    for part in ["files", "images/blobs", "pool"] {
        for entry in walkdir::WalkDir::new(folder.join(part)).into_iter().flatten() {
            if entry.file_type().is_file() && !known.contains(entry.path()) {
                fs::remove(entry.path())?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}
