//! `manifest.json`: what a release is made of, for programs and for people.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::error::{Failure, Kind};
use crate::fs;

/// The file's name in a release.
pub const FILE: &str = "manifest.json";
/// The version of its format.
pub const SCHEMA: u32 = 1;

/// What a release says of itself. Nothing in it depends on when, where or by whom it was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// The format's version.
    pub schema: u32,
    /// The release's version, `IMAGE_VERSION` of its images.
    pub version: String,
    /// Whether the images give a root shell to anybody at the console.
    pub debug_shell: bool,
    /// The lock it was built from.
    pub lock: LockFacts,
    /// The castiron version and the external tools' package versions.
    pub tools: BTreeMap<String, String>,
    /// Role → what its image is.
    pub roles: BTreeMap<String, Role>,
    /// Files of the release that carry all roles: installer media.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub media: Vec<File>,
}

/// Which lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LockFacts {
    /// When the lock was made.
    pub made: String,
    /// Digest of the lock file.
    pub sha256: Sha256,
    /// Digest of the tools' lock file.
    pub tools_sha256: Sha256,
}

/// One role's image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Role {
    /// The profile's description.
    pub description: String,
    /// The kernel's version.
    pub kernel: String,
    /// The root hash.
    pub roothash: String,
    /// Bytes of the root image and of its hash tree.
    pub root_bytes: u64,
    /// Bytes of the hash tree.
    pub verity_bytes: u64,
    /// Digests of what went in: profile parts, overlays, castiron-node …
    pub inputs: BTreeMap<String, String>,
    /// Files of the release that carry this role.
    pub carriers: Vec<File>,
    /// The file that lists every path of the image.
    pub contents: String,
    /// The packages of image, ESP and initrd, sorted by name.
    pub packages: Vec<PackageFacts>,
}

/// One file of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct File {
    /// Its name in the release folder.
    pub file: String,
    /// `raw`, `qcow2`, `raw.zst`, `qcow2.zst`, `iso`.
    pub format: String,
    /// Bytes.
    pub size: u64,
    /// Digest.
    pub sha256: Sha256,
}

/// One package of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PackageFacts {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture.
    pub architecture: String,
    /// The suite it came from.
    pub pocket: String,
    /// Digest of the .deb.
    pub sha256: Sha256,
    /// Where it is: `image` (installed in the root image), `boot` (its files are on the ESP), `initrd` (the initrd was made with it).
    pub part: String,
    /// Licences that its copyright file names; empty where it names none in the machine-readable form.
    pub licences: Vec<String>,
}

impl Manifest {
    /// Every carrier: those of one role, then those of all.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.roles.values().flat_map(|role| &role.carriers).chain(&self.media)
    }

    /// Reads the manifest of a release folder.
    pub fn read(release: &Path) -> Result<Self> {
        let path = release.join(FILE);
        if !path.is_file() {
            return Err(Failure::new(
                Kind::Input,
                format!("`{}` is no release: it has no `{FILE}`", release.display()),
            )
            .hint("name a folder that `castiron build` printed")
            .into());
        }
        let reading = || format!("reading `{}`", path.display());
        let manifest: Self = serde_json::from_str(&fs::read_to_string(&path)?).with_context(reading)?;
        ensure!(
            manifest.schema == SCHEMA,
            "`{}` has schema {}, this castiron reads {SCHEMA}",
            path.display(),
            manifest.schema
        );
        Ok(manifest)
    }
}
