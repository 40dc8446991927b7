//! Programs and container images: from a version set's names to bytes.
//!
//! In: the profiles, what the old lock holds, an origin. Out: [`Program`]s and [`Image`]s, and the manifests of images in the store.
//! Asks: the publishers' sites and registries, or the origin.
//!
//! - A program's digest is the version set's. The only thing to learn is how long it is.
//! - An image's tag becomes the digest of its linux/amd64 manifest, once: a name that the old lock answers keeps its digest, so that
//!   a lock is made anew without a registry, and a tag that was moved upstream moves here only when it is asked for.
//! - An origin other than the publishers has other bytes under the same names: there the digests are the origin's, and the lock
//!   names it. A lock of one origin never keeps entries of another.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Lock, Options};
use crate::context::Context;
use crate::digest::Sha256;
use crate::download::{self, Item};
use crate::error::{Failure, Kind};
use crate::fs;
use crate::mirror::{self, Mirror, Origin};
use crate::profile::Profile;
use crate::registry::{self, Registry};
use crate::store::Store;

/// A program of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Program {
    /// Where its publisher has it.
    pub url: String,
    /// Bytes.
    pub size: u64,
    /// Digest of the file.
    pub sha256: Sha256,
}

/// A container image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Image {
    /// Registry, repository and tag.
    pub reference: String,
    /// Digest of the manifest for linux/amd64.
    pub digest: Sha256,
    /// Bytes of that manifest.
    pub size: u64,
    /// Its configuration, then its layers, lowest first.
    pub blobs: Vec<Blob>,
}

/// A part of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Blob {
    /// Digest.
    pub sha256: Sha256,
    /// Bytes.
    pub size: u64,
}

/// What was resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) origin: Option<Origin>,
    pub(super) programs: Vec<Program>,
    pub(super) images: Vec<Image>,
}

/// Resolves what all profiles want of their version sets.
pub(super) fn resolve(
    ctx: &Context,
    store: &Store,
    profiles: &[Profile],
    old: Option<&Lock>,
    options: &Options,
) -> Result<Published> {
    let mirror = options.origin.as_deref().map(Mirror::new);
    let origin = mirror.as_ref().map(|m| described(ctx, m)).transpose()?;
    let old = old.filter(|lock| lock.origin == origin);
    let programs = programs(ctx, profiles, old, mirror.as_ref())?;
    let images = images(ctx, store, profiles, old, mirror.as_ref(), &options.upgrade)?;
    Ok(Published { origin, programs, images })
}

/// What an origin says of itself.
fn described(ctx: &Context, mirror: &Mirror) -> Result<Origin> {
    mirror.origin(ctx)?.ok_or_else(|| {
        let message = format!(
            "`{}` has no `{}`: it is a copy of what the publishers have, not an origin",
            mirror.base(),
            mirror::ORIGIN
        );
        Failure::new(Kind::Input, message).hint("a copy is named with `--mirror`").into()
    })
}

/// The programs that all profiles want, by address.
pub fn wanted_programs(profiles: &[Profile]) -> BTreeMap<&str, Sha256> {
    profiles.iter().flat_map(|p| &p.programs).map(|p| (p.url.as_str(), p.sha256)).collect()
}

/// The images that all profiles want.
pub fn wanted_images(profiles: &[Profile]) -> Vec<&str> {
    let mut names: Vec<&str> = profiles.iter().flat_map(|p| &p.images).map(|i| i.reference.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn programs(ctx: &Context, profiles: &[Profile], old: Option<&Lock>, origin: Option<&Mirror>) -> Result<Vec<Program>> {
    let wanted = wanted_programs(profiles);
    let sums = origin.filter(|_| !wanted.is_empty()).map(|origin| origin.sums(ctx)).transpose()?;
    let mut programs = Vec::new();
    let mut missing = Vec::new();
    for (url, published) in wanted {
        let found = sums.as_ref().map_or(Some(&published), |sums| sums.get(mirror::without_scheme(url)));
        let Some(sha256) = found.copied() else {
            missing.push(format!("  {url}"));
            continue;
        };
        let known = old.and_then(|lock| lock.programs.iter().find(|p| p.url == url && p.sha256 == sha256));
        let size = match known {
            Some(program) => program.size,
            None => download::length(ctx, name(url), &sources(ctx, url, origin))?,
        };
        programs.push(Program { url: url.to_owned(), size, sha256 });
    }
    if missing.is_empty() { Ok(programs) } else { Err(lacking(origin, &missing).into()) }
}

/// The last part of an address.
pub fn name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// Where to look for a program: mirrors, then its publisher; or the one origin that has these bytes.
fn sources(ctx: &Context, url: &str, origin: Option<&Mirror>) -> Vec<String> {
    match origin {
        Some(origin) => vec![origin.file(url)],
        None => ctx.mirrors.iter().map(|m| Mirror::new(m).file(url)).chain([url.to_owned()]).collect(),
    }
}

fn images(
    ctx: &Context,
    store: &Store,
    profiles: &[Profile],
    old: Option<&Lock>,
    origin: Option<&Mirror>,
    upgrade: &[String],
) -> Result<Vec<Image>> {
    let wanted = wanted_images(profiles);
    let index = origin.filter(|_| !wanted.is_empty()).map(|origin| origin.images(ctx)).transpose()?;
    let mut registry = None;
    let mut images = Vec::new();
    let mut missing = Vec::new();
    for reference in wanted {
        let known = old.and_then(|lock| lock.image(reference));
        // An origin is at hand, and made anew when its sources change; a registry's tag is believed once.
        if let Some(known) = known.filter(|_| index.is_none() && !upgrade.iter().any(|u| u == reference)) {
            images.push(known.clone());
            continue;
        }
        let manifest = if let (Some(index), Some(origin)) = (&index, origin) {
            let Some(digest) = index.get(reference) else {
                missing.push(format!("  {reference}"));
                continue;
            };
            of_origin(ctx, origin, reference, digest)?
        } else {
            let step = ctx.ui.step("lock", format!("asking for `{reference}`"));
            let asked = registry.take().map_or_else(Registry::new, Ok)?;
            let bytes = asked.manifest(ctx, reference)?;
            registry = Some(asked);
            step.done();
            bytes
        };
        let digest = store.put(ctx, &manifest)?;
        let blobs = registry::blobs(reference, &manifest)?;
        let blobs = blobs.into_iter().map(|(sha256, size)| Blob { sha256, size }).collect();
        images.push(Image { reference: reference.to_owned(), digest, size: manifest.len() as u64, blobs });
    }
    if missing.is_empty() { Ok(images) } else { Err(lacking(origin, &missing).into()) }
}

fn of_origin(ctx: &Context, origin: &Mirror, reference: &str, digest: &Sha256) -> Result<Vec<u8>> {
    let (_, bytes) = download::small(ctx, reference, &[origin.blob(digest)], MANIFEST_LIMIT)?;
    if Sha256::of(&bytes) != *digest {
        let message = format!("the manifest of `{reference}` in `{}` does not have the digest {digest}", origin.base());
        return Err(Failure::new(Kind::Integrity, message).into());
    }
    Ok(bytes)
}

/// Longer than any manifest (the distribution specification asks registries to take 4 MiB).
const MANIFEST_LIMIT: u64 = 4 << 20;

fn lacking(origin: Option<&Mirror>, missing: &[String]) -> Failure {
    let base = origin.map_or("the origin", Mirror::base);
    Failure::new(Kind::Input, format!("`{base}` does not have what the profiles ask for:\n{}", missing.join("\n")))
}

impl Lock {
    /// What is locked of an image.
    pub fn image(&self, reference: &str) -> Option<&Image> {
        self.images.iter().find(|image| image.reference == reference)
    }

    /// What is locked of a program.
    pub fn program(&self, url: &str) -> Option<&Program> {
        self.programs.iter().find(|program| program.url == url)
    }

    /// What of the version sets this lock does not answer; with `all`, also what it holds and no profile asks for.
    pub(super) fn published_differences(&self, profiles: &[Profile], all: bool) -> Vec<String> {
        let mut lines = Vec::new();
        let programs = wanted_programs(profiles);
        for (url, sha256) in &programs {
            match self.program(url) {
                None => lines.push(format!("+ {url}")),
                Some(locked) if self.origin.is_none() && locked.sha256 != *sha256 => {
                    lines.push(format!("{url}: its sha256 was {} and is {sha256}", locked.sha256));
                }
                Some(_) => {}
            }
        }
        let images = wanted_images(profiles);
        lines.extend(images.iter().filter(|i| self.image(i).is_none()).map(|i| format!("+ {i}")));
        if all {
            let unused = self.programs.iter().filter(|p| !programs.contains_key(p.url.as_str()));
            lines.extend(unused.map(|p| format!("- {}", p.url)));
            let unused = self.images.iter().filter(|i| !images.contains(&i.reference.as_str()));
            lines.extend(unused.map(|i| format!("- {}", i.reference)));
        }
        lines
    }
}

/// A program as a download: from a mirror, or from where the lock was made.
pub fn program_item(ctx: &Context, lock: &Lock, program: &Program) -> Item {
    let upstream = lock.origin.is_none().then(|| program.url.clone());
    let mirrors = ctx.mirrors.iter().map(|m| Mirror::new(m).file(&program.url));
    Item {
        name: name(&program.url).to_owned(),
        sha256: program.sha256,
        size: program.size,
        sources: mirrors.chain(upstream).collect(),
        token: None,
    }
}

/// Reads the manifest of a locked image from the store.
pub fn manifest(store: &Store, image: &Image) -> Result<Vec<u8>> {
    fs::read(&store.path(&image.digest)).with_context(|| format!("reading the manifest of `{}`", image.reference))
}
