//! The archive's indices: fetched, and believed only by signature and digest.
//!
//! In: the [`Archive`] of the profiles, the pinned key. Out: [`Indices`], whose files lie verified in the store. Runs: nothing.
//!
//! - A mirror whose `InRelease` is not signed as it must be is passed over; when all are, that is the error.
//! - Indices are asked for by digest first (`by-hash`): so an archive that is being updated does not tear a lock in two.
//! - An old `InRelease` stays correctly signed for ever. So one that is older than the lock's is refused: whoever replays
//!   it may be hiding security updates.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;

use super::key::Key;
use super::release::Release;
use crate::context::Context;
use crate::deb;
use crate::digest::Sha256;
use crate::download::{self, Item};
use crate::error::{Failure, Kind};
use crate::lock::Package;
use crate::profile::Archive;
use crate::store::Store;

/// noble's `InRelease` has 256 KB.
const RELEASE_LIMIT: u64 = 16 << 20;
const KEYRING_PACKAGE: &str = "ubuntu-keyring";
const KEYRING: &str = "usr/share/keyrings/ubuntu-archive-keyring.gpg";

/// What the archive holds, at one moment.
#[derive(Clone, Debug)]
pub struct Indices {
    /// The suites, in rising precedence.
    pub suites: Vec<Suite>,
    /// The date of the newest `InRelease`.
    pub made: Timestamp,
}

/// One suite's verified indices.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Its name: `noble-updates`.
    pub name: String,
    /// Its `InRelease` as it came.
    pub in_release: String,
    /// Its package indices: path below the suite, and where the file lies.
    pub packages: Vec<(String, PathBuf)>,
}

/// The archive's key, out of the ubuntu-keyring package that the tools' lock names.
pub fn key(ctx: &Context, store: &Store, archive: &Archive, tools: &[Package]) -> Result<Key> {
    let Some(package) = tools.iter().find(|p| p.name == KEYRING_PACKAGE) else {
        let message =
            format!("`profiles/tools.lock` has no package `{KEYRING_PACKAGE}`, which carries the archive's key");
        return Err(Failure::new(Kind::Input, message).into());
    };
    let item = Item {
        name: package.name.clone(),
        sha256: package.sha256,
        size: package.size,
        sources: super::below(&super::mirrors(ctx, archive), &package.path),
        token: None,
    };
    download::bring(ctx, store, &[item]).context("fetching the archive's key")?;
    let files = deb::read_files(&store.path(&package.sha256), &[KEYRING])?;
    Key::find(&files[KEYRING], &archive.key)
}

/// Fetches and verifies the indices of every suite. `not_before` is the date of the lock that is to be replaced.
pub fn indices(
    ctx: &Context,
    store: &Store,
    archive: &Archive,
    key: &Key,
    not_before: Option<Timestamp>,
) -> Result<Indices> {
    let step = ctx.ui.step("lock", format!("reading the indices of {}", archive.suites.join(", ")));
    let mut suites = Vec::new();
    let mut items = Vec::new();
    let mut made = Timestamp::UNIX_EPOCH;
    for suite in &archive.suites {
        let (mirror, in_release, release) = in_release(ctx, archive, suite, key)?;
        made = made.max(release.date);
        // The mirror that gave the `InRelease` most likely has the indices that it names.
        let mut mirrors = super::mirrors(ctx, archive);
        mirrors.retain(|m| *m != mirror);
        mirrors.insert(0, mirror);
        let mut packages = Vec::new();
        for component in &archive.components {
            let (path, digest, size) = package_index(&release, suite, component)?;
            packages.push((path.clone(), store.path(&digest)));
            items.push(index_item(&mirrors, suite, &path, digest, size));
        }
        suites.push(Suite { name: suite.clone(), in_release, packages });
    }
    if let Some(lock) = not_before.filter(|lock| made < *lock) {
        let message = format!("the archive's newest index is of {made}, older than the lock, which is of {lock}");
        return Err(Failure::new(Kind::Integrity, message)
            .hint("a mirror that lags behind or replays old indices hides updates: use another, or say `--allow-older`")
            .into());
    }
    download::bring(ctx, store, &items).context("fetching the archive's indices")?;
    step.done();
    Ok(Indices { suites, made })
}

/// The first `InRelease` of a suite that is signed and dated as it must be, and the mirror that gave it.
fn in_release(ctx: &Context, archive: &Archive, suite: &str, key: &Key) -> Result<(String, String, Release)> {
    let name = format!("dists/{suite}/InRelease");
    let mut refused = Vec::new();
    let mut unreachable = Vec::new();
    for mirror in super::mirrors(ctx, archive) {
        let source = super::below(std::slice::from_ref(&mirror), &name);
        let (source, bytes) = match download::small(ctx, &name, &source, RELEASE_LIMIT) {
            Ok(found) => found,
            Err(error) => {
                ctx.check_interrupt()?;
                unreachable.push(error.to_string());
                continue;
            }
        };
        match believe(&bytes, suite, key) {
            Ok((text, release)) => return Ok((mirror, text, release)),
            Err(why) => {
                ctx.ui.warn(format!("{source}: {why}"));
                refused.push(format!("\n  {source}: {why}"));
            }
        }
    }
    if refused.is_empty() {
        let message = format!("no mirror gives the index of `{suite}`\n{}", unreachable.join("\n"));
        let hint = "check the network and the proxy variables, or name a mirror with `--mirror`";
        return Err(Failure::new(Kind::Network, message).hint(hint).into());
    }
    let message = format!("no mirror gives an index of `{suite}` that can be believed{}", refused.concat());
    Err(Failure::new(Kind::Integrity, message).hint("use another mirror; never trust this one").into())
}

fn believe(bytes: &[u8], suite: &str, key: &Key) -> Result<(String, Release), String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    let release = Release::parse(&key.signed_text(text)?).map_err(|e| format!("{e:#}"))?;
    if !release.names.iter().any(|name| name == suite) {
        return Err(format!("it is the index of `{}`, not of `{suite}`", release.names.join("`, `")));
    }
    // A lock says what the archive held on a day: nothing that is built from it looks at the clock.
    let now = Timestamp::now();
    if let Some(end) = release.valid_until.filter(|end| *end < now) {
        return Err(format!("it was valid until {end} only"));
    }
    Ok((text.to_owned(), release))
}

/// The compressed package index of a component: path, digest, length.
fn package_index(release: &Release, suite: &str, component: &str) -> Result<(String, Sha256, u64)> {
    for suffix in ["xz", "gz"] {
        let path = format!("{component}/binary-amd64/Packages.{suffix}");
        if let Some((digest, size)) = release.files.get(&path) {
            return Ok((path, *digest, *size));
        }
    }
    bail!("the suite `{suite}` has no component `{component}` for amd64")
}

fn index_item(mirrors: &[String], suite: &str, path: &str, digest: Sha256, size: u64) -> Item {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let by_hash = format!("dists/{suite}/{folder}/by-hash/SHA256/{digest}");
    let by_name = format!("dists/{suite}/{path}");
    let sources = mirrors.iter().flat_map(|m| [format!("{m}/{by_hash}"), format!("{m}/{by_name}")]).collect();
    Item { name: by_name, sha256: digest, size, sources, token: None }
}
