//! What the builder says to the machine: small JSON files in the image, under dm-verity like all the rest of it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use anyhow::{Context as _, Result};

use crate::digest::Sha256;
use crate::node::machine::Machine;

/// Where [`Image`] lies in the image.
pub const IMAGE: &str = "/usr/lib/castiron/image.json";

/// Where [`BootFiles`] lies in the image.
pub const BOOT_FILES: &str = "/usr/lib/castiron/boot.json";

/// What the image is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Image {
    /// The profile it was built from: `worker`.
    pub role: String,
    /// The release's version.
    pub version: String,
    /// Whether anybody at a console is root (`castiron build --debug-shell`).
    pub debug_shell: bool,
}

/// The files that GRUB loads before there is any verity: those that this root image was built with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootFiles {
    /// The kernel.
    pub vmlinuz: BootFile,
    /// The initrd.
    pub initrd: BootFile,
}

/// A file as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootFile {
    /// Its digest.
    pub sha256: Sha256,
    /// Its length in bytes.
    pub size: u64,
}

impl Image {
    /// Reads it from the running image.
    pub fn read(machine: &Machine) -> Result<Self> {
        json(machine, IMAGE)
    }
}

impl BootFiles {
    /// Reads it from the running image.
    pub fn read(machine: &Machine) -> Result<Self> {
        json(machine, BOOT_FILES)
    }
}

fn json<T: DeserializeOwned>(machine: &Machine, path: &str) -> Result<T> {
    serde_json::from_str(&machine.read(path)?).with_context(|| format!("reading `{path}`"))
}
