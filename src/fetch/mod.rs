//! From the lock to the store: every byte that a build needs, verified.
//!
//! In: the [`Lock`], the layers wanted, pinned files. Out: verified objects of the [`Store`]. Runs: nothing.
//!
//! Programs and images come from mirrors and from their publishers; those of a lock that was made from another origin come
//! from that origin alone, which has to be named as a mirror.
//!
//! A package of -updates or -security leaves the mirrors when a newer one lands. So the last source of every package is Ubuntu's
//! snapshot service, of the time when the lock was made; where that does not help either, only a new lock does.

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::digest::Sha256;
use crate::download::{self, Item, Missing, Trouble};
use crate::error::{Failure, Kind};
use crate::lock::{self, Image, Lock, Package};
use crate::mirror::Mirror;
use crate::profile::{Archive, PinnedFile, Profile};
use crate::registry::{self, Registry};
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

/// Brings the programs and the container images of a role into the store, verified.
pub fn fetch_published(ctx: &Context, profile: &Profile, lock: &Lock) -> Result<()> {
    let store = Store::new(&ctx.store);
    let programs = profile.programs.iter().filter_map(|p| lock.program(&p.url));
    let images: Vec<&Image> = profile.images.iter().filter_map(|i| lock.image(&i.reference)).collect();
    let items =
        programs.map(|p| lock::program_item(ctx, lock, p)).chain(images.iter().flat_map(|i| image_items(ctx, i)));
    // What no mirror is asked for is no failure of theirs.
    let (askable, absent): (Vec<Item>, Vec<Item>) =
        items.partition(|item| !item.sources.is_empty() || store.contains(&item.sha256, item.size));
    let mut missing = download::attempt(ctx, &store, &askable)?;
    missing.extend(absent.into_iter().map(|item| Missing { item, tries: Vec::new() }));
    let (of_images, others): (Vec<Missing>, Vec<Missing>) =
        missing.into_iter().partition(|m| images.iter().any(|i| has(i, m)));
    if !others.is_empty() || (lock.origin.is_some() && !of_images.is_empty()) {
        let missing: Vec<Missing> = others.into_iter().chain(of_images).collect();
        return Err(elsewhere(lock, download::failure(&missing)).into());
    }
    let wanted: Vec<&Image> = images.into_iter().filter(|i| of_images.iter().any(|m| has(i, m))).collect();
    if wanted.is_empty() { Ok(()) } else { from_registries(ctx, &store, &wanted) }
}

fn has(image: &Image, missing: &Missing) -> bool {
    image.digest == missing.item.sha256 || image.blobs.iter().any(|b| b.sha256 == missing.item.sha256)
}

/// The manifest and the blobs of an image, from mirrors.
fn image_items(ctx: &Context, image: &Image) -> Vec<Item> {
    let item = |sha256: &Sha256, size: u64| Item {
        name: format!("{} {}", image.reference, sha256.short()),
        sha256: *sha256,
        size,
        sources: ctx.mirrors.iter().map(|m| Mirror::new(m).blob(sha256)).collect(),
        token: None,
    };
    let blobs = image.blobs.iter().map(|b| item(&b.sha256, b.size));
    std::iter::once(item(&image.digest, image.size)).chain(blobs).collect()
}

/// What no mirror has.
fn from_registries(ctx: &Context, store: &Store, images: &[&Image]) -> Result<()> {
    let registry = Registry::new()?;
    let mut items = Vec::new();
    for image in images {
        if !store.contains(&image.digest, image.size) {
            store.put(ctx, &registry.manifest_of(ctx, &image.reference, &image.digest)?)?;
        }
        let token = registry.token(ctx, &image.reference)?;
        for blob in image.blobs.iter().filter(|b| !store.contains(&b.sha256, b.size)) {
            items.push(Item {
                name: format!("{} {}", image.reference, blob.sha256.short()),
                sha256: blob.sha256,
                size: blob.size,
                sources: vec![registry::blob_address(&image.reference, &blob.sha256)?],
                token: token.clone(),
            });
        }
    }
    download::bring(ctx, store, &items)
}

/// A lock that was made elsewhere says where its bytes are to be had.
fn elsewhere(lock: &Lock, failure: Failure) -> Failure {
    match &lock.origin {
        None => failure,
        Some(origin) => {
            let message =
                format!("{failure}\nthe lock was made from another origin than the publishers: {}", origin.name);
            Failure::new(failure.kind, message)
                .hint("name that origin with `--mirror`, or lock what the publishers have: `castiron lock`")
        }
    }
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
        token: None,
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
    Ok(Item { name, sha256: file.sha256, size, sources, token: None })
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
