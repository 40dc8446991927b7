//! From the lock to the store: every byte that a build needs, verified.
//!
//! In: the [`Lock`], the layers wanted, pinned files. Out: verified objects of the [`Store`]. Runs: nothing.
//!
//! A package of -updates or -security leaves the mirrors when a newer one lands. So the last source of every package is Ubuntu's
//! snapshot service, of the time when the lock was made; where that does not help either, only a new lock does.

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::download::{self, Item, Missing, Trouble};
use crate::error::{Failure, Kind};
use crate::lock::{self, Lock, Package};
use crate::profile::{Archive, PinnedFile, Profile};
use crate::store::Store;

/// Brings the packages of some layers into the store, verified. With all of them there it needs no network.
pub fn fetch(ctx: &Context, profile: &Profile, lock: &Lock, layers: &[&str]) -> Result<()> {
    let store = Store::new(&ctx.store);
    let wanted = |p: &&Package| p.layers.iter().any(|l| layers.contains(&l.as_str()));
    let packages: Vec<&Package> = lock.packages.iter().filter(wanted).collect();
    let items = packages.iter().map(|p| package_item(ctx, &profile.archive, lock, p)).collect::<Result<Vec<_>>>()?;
    let missing = download::attempt(ctx, &store, &items)?;
    if missing.is_empty() { Ok(()) } else { Err(failure(&missing, &profile.archive).into()) }
}

/// Brings the files that a profile pins into the store, verified.
pub fn fetch_files(ctx: &Context, profile: &Profile) -> Result<()> {
    let store = Store::new(&ctx.store);
    let items = profile.files.iter().map(|f| file_item(ctx, &store, f)).collect::<Result<Vec<_>>>()?;
    download::bring(ctx, &store, &items)
}

fn package_item(ctx: &Context, archive: &Archive, lock: &Lock, package: &Package) -> Result<Item> {
    let mut sources = lock::below(&lock::mirrors(ctx, archive), &package.path);
    if !archive.snapshot.is_empty() {
        let snapshot = archive.snapshot.trim_end_matches('/');
        sources.push(format!("{snapshot}/{}/{}", lock.made()?.strftime("%Y%m%dT%H%M%SZ"), package.path));
    }
    Ok(Item {
        name: format!("{} {}", package.name, package.version),
        sha256: package.sha256,
        size: package.size,
        sources,
    })
}

fn file_item(ctx: &Context, store: &Store, file: &PinnedFile) -> Result<Item> {
    let name = file.url.rsplit('/').next().unwrap_or(&file.url).to_owned();
    let sources = vec![file.url.clone()];
    // A profile pins the digest only, which is all that matters; the length is what the source says.
    let size = match std::fs::metadata(store.path(&file.sha256)) {
        Ok(there) => there.len(),
        Err(_) => download::length(ctx, &name, &sources)
            .with_context(|| format!("fetching the file for `{}`", file.destination.display()))?,
    };
    Ok(Item { name, sha256: file.sha256, size, sources })
}

/// Tells what left the archive, where only a new lock helps, from all other trouble.
fn failure(missing: &[Missing], archive: &Archive) -> Failure {
    let left = |m: &Missing| {
        m.tries.iter().any(|t| t.trouble == Trouble::Gone) && m.tries.iter().all(|t| t.trouble != Trouble::Wrong)
    };
    let (gone, other): (Vec<Missing>, Vec<Missing>) = missing.iter().cloned().partition(left);
    if gone.is_empty() {
        return download::failure(&other);
    }
    let mut lines = vec![match gone.len() {
        1 => "a locked package has left the archive".to_owned(),
        n => format!("{n} locked packages have left the archive"),
    }];
    for one in &gone {
        lines.push(format!("  {}", one.item.name));
    }
    if let Some(last) =
        gone[0].tries.last().filter(|t| !archive.snapshot.is_empty() && t.source.starts_with(&archive.snapshot))
    {
        lines.push(format!("and the snapshot service does not help: {}: {}", last.source, last.message));
    }
    let mut kind = Kind::Network;
    if !other.is_empty() {
        let other = download::failure(&other);
        kind = other.kind;
        lines.push(other.to_string());
    }
    Failure::new(kind, lines.join("\n")).hint("castiron lock")
}
