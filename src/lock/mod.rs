//! The lock: exactly which bytes.
//!
//! In: the profiles, the archive's signed indices. Out: [`Lock`], kept as `profiles/castiron.lock`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;

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
    /// The packages, sorted by name and version.
    #[serde(default, rename = "package")]
    pub packages: Vec<Package>,
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
}

/// The file's name in `profiles/`.
pub const FILE: &str = "castiron.lock";

/// tmp
pub fn load(ctx: &crate::context::Context) -> anyhow::Result<Lock> {
    Ok(toml::from_str(&crate::fs::read_to_string(&ctx.profiles().join(FILE))?)?)
}
impl Lock {
    /// tmp
    pub fn check(&self, _: &[crate::profile::Profile]) -> anyhow::Result<()> {
        Ok(())
    }
}
