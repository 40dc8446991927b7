//! Profiles: what a role's image contains.
//!
//! In: `profiles/base.toml`, `profiles/<role>.toml`, `profiles/kubernetes/<version>.toml`. Out: [`Profile`], complete and checked; nothing changes it afterwards.
//!
//! Each file is parsed alone, so every span belongs to the file that wrote it; then the chain of `extends` is merged:
//! lists add up (parent first), single values of the child win. All files are read and checked whichever role is
//! asked for: one lock serves all of them, so one cannot be right while another is wrong.

mod check;
mod file;
mod merge;
mod set;
mod sizes;
mod trace;
mod value;
mod versions;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use crate::context::Context;
use crate::diagnostic::{literal, suggest};
use crate::digest::Sha256;
use crate::document;
use crate::error::{Failure, Kind};

use set::{BASE, Set};
pub use trace::Traced;

/// The names of all roles, sorted: every file of `profiles/` but `base.toml`.
pub fn roles(ctx: &Context) -> Result<Vec<String>> {
    set::roles(ctx)
}

/// A role's profile. One error shows all problems of all profiles.
pub fn load(ctx: &Context, role: &str) -> Result<Profile> {
    known(ctx, role)?;
    let set = Set::read(ctx)?;
    merged(&set, role)
}

/// The profiles of all roles, sorted by name. One error shows all problems of all profiles.
pub fn load_all(ctx: &Context) -> Result<Vec<Profile>> {
    let set = Set::read(ctx)?;
    set.names.iter().filter(|name| *name != BASE).map(|role| merged(&set, role)).collect()
}

/// Checks every file of `profiles/`, and says how many there are.
pub fn check(ctx: &Context) -> Result<usize> {
    Ok(Set::read(ctx)?.names.len())
}

/// The settings of a role as they are written, the file that each came from, and the chain of profiles, root first.
pub fn trace(ctx: &Context, role: &str) -> Result<(Vec<String>, Traced)> {
    known(ctx, role)?;
    let set = Set::read(ctx)?;
    let chain = set.chain(role).unwrap_or_default();
    Ok((chain.iter().map(|written| written.name.clone()).collect(), trace::trace(&chain)?))
}

/// The JSON Schema of profiles.
pub fn schema() -> schemars::Schema {
    document::schema::<file::ProfileFile>()
}

/// The JSON Schema of version sets.
pub fn versions_schema() -> schemars::Schema {
    document::schema::<versions::VersionsFile>()
}

fn merged(set: &Set, role: &str) -> Result<Profile> {
    let chain = set.chain(role).unwrap_or_default();
    merge::merge(&chain, &set.versions)
        .map_err(|gaps| anyhow::anyhow!("`{role}` was checked and has no `{}`", gaps.join("`, `")))
}

fn known(ctx: &Context, role: &str) -> Result<()> {
    let roles = roles(ctx)?;
    if roles.iter().any(|r| r == role) {
        return Ok(());
    }
    let failure = if role == BASE {
        Failure::new(Kind::Input, format!("`{BASE}` is no role, but what roles extend"))
    } else {
        Failure::new(Kind::Input, format!("no role {}", literal(role)))
    };
    let hint = suggest(role, roles.iter().map(String::as_str));
    Err(match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
    .into())
}

/// A role's profile, merged over all that it extends.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The role: the file's name without `.toml`.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// The chain of `extends`, root first: `["base", "worker", "gpu-worker"]`. Each is one layer of packages.
    pub layers: Vec<Layer>,
    /// Overlays (folders of `overlays/`), in the order in which they are laid down.
    pub overlays: Vec<String>,
    /// Units of `firstboot/` (or of a package) that are enabled.
    pub units: Vec<String>,
    /// Files pinned by digest.
    pub files: Vec<PinnedFile>,
    /// The version set that `programs` and `images` are of.
    pub kubernetes: Option<Kubernetes>,
    /// Programs of the version set.
    pub programs: Vec<Program>,
    /// Container images of the version set, which the role's root image holds.
    pub images: Vec<BakedImage>,
    /// The kernel.
    pub kernel: Kernel,
    /// Packages and overlays that only the initrd is made with.
    pub initrd: Initrd,
    /// Packages that carry boot files (shim, GRUB); unpacked, never installed.
    pub boot_packages: Vec<String>,
    /// Sizes of the disk image.
    pub image: Image,
    /// Where packages come from.
    pub archive: Archive,
}

/// The packages that one profile of the chain adds to those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The profile's name.
    pub name: String,
    /// Package names as written, optionally `name=version`.
    pub packages: Vec<String>,
}

/// A file of somebody else's, by digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedFile {
    /// Where the publisher has it.
    pub url: String,
    /// Its digest.
    pub sha256: Sha256,
    /// Its absolute path in the image.
    pub destination: PathBuf,
    /// Its permission bits.
    pub mode: u32,
}

/// A version set, as the machine needs to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Kubernetes {
    /// As kubeadm writes it: `v1.30.3`.
    pub version: String,
    /// The registry that kubeadm's own images come from.
    pub image_repository: String,
    /// All images of the set: name and reference.
    pub images: BTreeMap<String, String>,
}

/// A program of a version set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// What profiles call it.
    pub name: String,
    /// Where its publisher has it.
    pub url: String,
    /// The digest that its publisher gives.
    pub sha256: Sha256,
    /// What of it goes where.
    pub places: Vec<Place>,
}

/// One file of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its path in the archive; none where the program is the file itself.
    pub member: Option<String>,
    /// Its absolute path in the image.
    pub destination: PathBuf,
}

/// A container image that is laid down in the root image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BakedImage {
    /// What profiles call it.
    pub name: String,
    /// Registry, repository and tag.
    pub reference: String,
}

/// The kernel of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Ubuntu's flavour; the package is `linux-image-<flavour>`.
    pub flavour: String,
    /// Arguments after those that castiron itself gives.
    pub arguments: Vec<String>,
}

/// What the initrd is made with, besides the base layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initrd {
    /// Packages installed only while it is made, e.g. `dracut`.
    pub packages: Vec<String>,
    /// Overlays laid over the tree only while it is made.
    pub overlays: Vec<String>,
}

/// Sizes of the disk image, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// The whole disk as delivered; a larger disk is used when it is met.
    pub size: u64,
    /// One slot's root partition.
    pub slot: u64,
    /// One slot's hash tree partition.
    pub verity: u64,
    /// The EFI system partition.
    pub esp: u64,
}

/// Ubuntu's archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Base addresses or folders, tried in order.
    pub mirrors: Vec<String>,
    /// Address of the snapshot service, where a package that left the archive may be found.
    pub snapshot: String,
    /// Suites in rising precedence, e.g. `noble`, `noble-updates`, `noble-security`.
    pub suites: Vec<String>,
    /// Components.
    pub components: Vec<String>,
    /// Fingerprint of the key that signs the suites, 40 hexadecimal digits.
    pub key: String,
}
