//! `castiron store`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use indicatif::HumanBytes;

use crate::context::Context;
use crate::digest::Sha256;
use crate::error::{Failure, Kind};
use crate::lock::{self, FILE, Lock, TOOLS_FILE};
use crate::store::{Object, on_all_cores};
use crate::tools::Tools;
use crate::{cache, fs, profile, store};

/// Arguments of `castiron store`.
#[derive(Debug, Args)]
pub struct Store {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List what the store holds: digest, bytes, name
    Ls,
    /// Hash everything, and remove what is damaged so that it is fetched again
    Verify,
    /// Remove what no lock of this project names, partial files, and results that can be made again
    Gc {
        /// Say what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// Runs the verb.
pub fn run(ctx: &Context, args: Store) -> Result<ExitCode> {
    let store = store::Store::new(&ctx.store);
    match args.verb {
        Verb::Ls => list(ctx, &store),
        Verb::Verify => verify(ctx, &store),
        Verb::Gc { dry_run } => collect(ctx, &store, dry_run),
    }
}

fn list(ctx: &Context, store: &store::Store) -> Result<ExitCode> {
    let names = names(ctx)?;
    let objects = store.objects()?;
    for object in &objects {
        let name = names.get(&object.sha256).map_or("(named by no lock of this project)", String::as_str);
        ctx.ui.data(format!("{} {:>12} {name}", object.sha256, object.size));
    }
    ctx.ui.note(format!("{} objects, {}, in `{}`", objects.len(), HumanBytes(bytes(&objects)), ctx.store.display()));
    Ok(ExitCode::SUCCESS)
}

fn verify(ctx: &Context, store: &store::Store) -> Result<ExitCode> {
    let _hold = store.hold(ctx)?;
    let names = names(ctx)?;
    let objects = store.objects()?;
    let step = ctx.ui.step_bytes("store", format!("hashing {} objects", objects.len()), bytes(&objects));
    let checked = on_all_cores(&objects, |object| {
        ctx.check_interrupt()?;
        let intact = store.verified(&object.sha256, object.size)?.is_some();
        step.advance(object.size);
        anyhow::Ok(intact)
    });
    let mut damaged = Vec::new();
    for (object, intact) in objects.iter().zip(checked) {
        if !intact? {
            let name = names.get(&object.sha256).map_or("", String::as_str);
            damaged.push(format!("{} {name}", object.sha256).trim_end().to_owned());
        }
    }
    step.done();
    if damaged.is_empty() {
        ctx.ui.note("every object is what its name says");
        return Ok(ExitCode::SUCCESS);
    }
    for line in &damaged {
        ctx.ui.data(line);
    }
    let message = format!("{} of {} objects were damaged and are removed", damaged.len(), objects.len());
    Err(Failure::new(Kind::Integrity, message).hint("castiron fetch").into())
}

fn collect(ctx: &Context, store: &store::Store, dry_run: bool) -> Result<ExitCode> {
    let _alone = store.hold_alone()?;
    let names = names(ctx)?;
    let mut freed = 0;
    let mut count = 0_usize;
    let mut remove = |path: &Path, size: u64, what: &str| {
        ctx.check_interrupt()?;
        ctx.ui.data(format!("{what} {}", path.strip_prefix(&ctx.store).unwrap_or(path).display()));
        freed += size;
        count += 1;
        if dry_run { Ok(()) } else { fs::remove(path) }
    };
    for object in store.objects()? {
        if !names.contains_key(&object.sha256) {
            remove(&store.path(&object.sha256), object.size, "unnamed")?;
        }
    }
    for partial in store.partials()? {
        remove(&partial, fs::len(&partial)?, "partial")?;
    }
    for (what, path) in leftovers(ctx)? {
        remove(&path, size_of(&path), what)?;
    }
    let verb = if dry_run { "would be" } else { "are" };
    ctx.ui.note(format!("{count} entries, {}, {verb} removed", HumanBytes(freed)));
    Ok(ExitCode::SUCCESS)
}

/// What something unfinished, or an older state of this project, left behind.
fn leftovers(ctx: &Context) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut found = Vec::new();
    for path in entries(&ctx.store)? {
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".lock-")) {
            found.push(("unfinished", path));
        }
    }
    found.extend(entries(&ctx.derived("logs"))?.into_iter().map(|log| ("log", log)));
    let current = Tools::folder(ctx).ok();
    let trees = entries(&ctx.derived("tools"))?;
    found.extend(trees.into_iter().filter(|tree| Some(tree) != current.as_ref()).map(|tree| ("tools", tree)));
    for shelf in entries(&ctx.derived(cache::FOLDER))? {
        // The result that was used last is the one that the next build may use.
        let mut results = entries(&shelf)?;
        results.sort_by_key(|result| std::fs::metadata(result.join(cache::RECORD)).and_then(|m| m.modified()).ok());
        if results.last().is_some_and(|last| last.join(cache::RECORD).exists()) {
            results.pop();
        }
        found.extend(results.into_iter().map(|result| ("stage", result)));
    }
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    if folder.is_dir() { fs::list(folder) } else { Ok(Vec::new()) }
}

fn size_of(path: &Path) -> u64 {
    walkdir::WalkDir::new(path).into_iter().flatten().filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum()
}

fn bytes(objects: &[Object]) -> u64 {
    objects.iter().map(|o| o.size).sum()
}

/// What this project's locks and profiles call the objects that they name.
fn names(ctx: &Context) -> Result<BTreeMap<Sha256, String>> {
    let mut names = BTreeMap::new();
    for name in [FILE, TOOLS_FILE] {
        if lock::path(ctx, name).exists() {
            let Lock { packages, programs, images, .. } = lock::load_from(ctx, name)?;
            names.extend(packages.into_iter().map(|p| (p.sha256, format!("{} {}", p.name, p.version))));
            names.extend(programs.into_iter().map(|p| (p.sha256, p.url)));
            for image in images {
                names.insert(image.digest, image.reference.clone());
                names.extend(image.blobs.iter().map(|b| (b.sha256, image.reference.clone())));
            }
        }
    }
    let files: BTreeSet<_> =
        profile::load_all(ctx)?.into_iter().flat_map(|p| p.files).map(|f| (f.sha256, f.url)).collect();
    names.extend(files);
    Ok(names)
}
