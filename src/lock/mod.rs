//! The lock: exactly which bytes.
//!
//! In: the profiles, the archive's signed indices, the publishers of programs and images. Out: [`Lock`], kept as `profiles/castiron.lock`. Runs: `apt-get`, `apt-cache`
//! of the tools tree.
//!
//! ```text
//! key → archive (signed indices) → index (one table) → resolve (noble's own apt) → Lock → file, diff
//! ```
//!
//! The lock stores the request that it answers, so that whether it still does is known offline. It is the only place where
//! versions are decided: everything after it goes by digest.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::digest::Sha256;
use crate::download;
use crate::mirror::Origin;
use crate::profile::{Archive, Profile};
use crate::store::Store;
use crate::tools::Tools;

mod archive;
mod diff;
mod file;
mod index;
mod key;
mod published;
mod release;
mod resolve;
mod wish;

pub use diff::Difference;
pub use file::{FILE, TOOLS_FILE, load, load_from, path, save};
pub use published::{Blob, Image, Program, manifest, program_item};
pub use wish::ToolsList;

use published::Published;
use wish::Wish;

/// The layer of packages that only the initrd is made with.
pub const INITRD: &str = "initrd";
/// The layer of packages that carry boot files and are unpacked only.
pub const BOOT: &str = "boot";

/// What a lock file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Lock {
    /// The format's version.
    pub schema: u32,
    /// When: the date of the newest index that was read, RFC 3339, UTC. The snapshot service is asked for this time.
    pub made: String,
    /// The request that this answers: layer → packages as the profiles write them, sorted.
    pub request: BTreeMap<String, Vec<String>>,
    /// The archive that was asked.
    pub archive: Asked,
    /// Where programs and images were resolved, if not at their publishers'.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// The packages, sorted by name and version.
    #[serde(default, rename = "package")]
    pub packages: Vec<Package>,
    /// The programs of the version sets, sorted by address.
    #[serde(default, rename = "program")]
    pub programs: Vec<Program>,
    /// The images of the version sets, sorted by name.
    #[serde(default, rename = "image")]
    pub images: Vec<Image>,
}

/// What of the archive a lock depends on. Mirrors are not among it: they hold the same bytes, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Asked {
    /// Suites in rising precedence.
    pub suites: Vec<String>,
    /// Components.
    pub components: Vec<String>,
    /// Fingerprint of the key that signed the indices.
    pub key: String,
}

impl Asked {
    fn of(archive: &Archive) -> Self {
        let key = archive.key.to_ascii_uppercase();
        Self { suites: archive.suites.clone(), components: archive.components.clone(), key }
    }
}

/// One .deb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Package {
    /// Binary package name.
    pub name: String,
    /// Debian version.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Path below a mirror's base: `pool/main/z/zlib/zlib1g_…_amd64.deb`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Digest of the .deb.
    pub sha256: Sha256,
    /// The suite that it came from: `noble`, `noble-updates`, `noble-security`.
    pub pocket: String,
    /// The layers that it belongs to, sorted: profile names, [`INITRD`], [`BOOT`].
    pub layers: Vec<String>,
}

impl Lock {
    /// The packages of one layer.
    pub fn layer<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Package> {
        self.packages.iter().filter(move |p| p.layers.iter().any(|l| l == name))
    }

    /// An error that names every difference, where this lock does not answer these profiles (some or all). Offline.
    pub fn check(&self, profiles: &[Profile]) -> Result<()> {
        wish::compare(self, profiles, wish::Extent::Some)
    }

    /// The same for all profiles at once: what the lock holds besides is a difference, too.
    pub fn check_all(&self, profiles: &[Profile]) -> Result<()> {
        wish::compare(self, profiles, wish::Extent::All)
    }

    /// The time for which the snapshot service is asked.
    pub fn made(&self) -> Result<Timestamp> {
        self.made.parse().with_context(|| format!("the lock's date `{}` is not RFC 3339", self.made))
    }
}

/// What is asked of a new lock, beyond the profiles.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Packages and images that may move; all others keep their locked version. Empty: everything may move.
    pub upgrade: Vec<String>,
    /// Accept indices older than the lock.
    pub allow_older: bool,
    /// Take programs and images from this origin instead of their publishers.
    pub origin: Option<String>,
}

/// Resolves all that the profiles ask for into a new lock. `old` is what it replaces.
pub fn resolve(ctx: &Context, profiles: &[Profile], old: Option<&Lock>, options: &Options) -> Result<Lock> {
    let wishes = wish::of_profiles(profiles)?;
    let store = Store::new(&ctx.store);
    let _hold = store.hold(ctx)?;
    let published = published::resolve(ctx, &store, profiles, old, options)?;
    resolve_wishes(ctx, &wishes, wish::archive_of(profiles)?, published, old, options)
}

/// Resolves the packages of the tools tree into a new lock.
pub fn resolve_tools(ctx: &Context, list: &ToolsList, old: Option<&Lock>, options: &Options) -> Result<Lock> {
    resolve_wishes(ctx, &list.wishes(), &list.archive(), Published::default(), old, options)
}

fn resolve_wishes(
    ctx: &Context,
    wishes: &[Wish],
    archive: &Archive,
    published: Published,
    old: Option<&Lock>,
    options: &Options,
) -> Result<Lock> {
    let store = Store::new(&ctx.store);
    let _hold = store.hold(ctx)?;
    let tools = file::load_from(ctx, TOOLS_FILE)?;
    let key = archive::key(ctx, &store, archive, &tools.packages)?;
    let not_before = old.filter(|_| !options.allow_older).map(Lock::made).transpose()?;
    let indices = archive::indices(ctx, &store, archive, &key, not_before)?;
    let index = index::Index::read(&indices)?;
    wish::check_names(ctx, wishes, &index)?;
    let pins = resolve::pins(ctx, old, &options.upgrade, &index)?;
    let tools = Tools::ensure(ctx)?;
    let mut packages = resolve::Apt::new(ctx, &tools, &indices, &key)?.all(wishes, pins, &index)?;
    packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    let mut lock = Lock {
        schema: file::SCHEMA,
        made: indices.made.to_string(),
        request: wish::request(wishes),
        archive: Asked::of(archive),
        origin: published.origin,
        packages,
        programs: published.programs,
        images: published.images,
    };
    if let Some(old) = old {
        // An archive that moved on without touching our packages changes nothing.
        let now = std::mem::replace(&mut lock.made, old.made.clone());
        if lock != *old {
            lock.made = now;
        }
    }
    Ok(lock)
}

/// Base addresses and folders to try, in order: the command line's, then the profile's.
pub fn mirrors(ctx: &Context, archive: &Archive) -> Vec<String> {
    let profiles = archive.mirrors.iter().map(|mirror| {
        if download::is_address(mirror) { mirror.clone() } else { ctx.project.join(mirror).display().to_string() }
    });
    let mut mirrors: Vec<String> = Vec::new();
    for mirror in ctx.mirrors.iter().cloned().chain(profiles) {
        let mirror = mirror.trim_end_matches('/').to_owned();
        if !mirrors.contains(&mirror) {
            mirrors.push(mirror);
        }
    }
    mirrors
}

/// A path below each of the mirrors.
pub fn below(mirrors: &[String], path: &str) -> Vec<String> {
    mirrors.iter().map(|mirror| format!("{mirror}/{path}")).collect()
}
