//! The image to boot: found in a release's folder or named outright, and looked at before QEMU is.
//!
//! In: a path. Out: an [`Image`] that is whole. Runs: `qemu-img check`.
//!
//! A download cut short boots half-way and then fails in ways that tell nobody why, so it is found here: a raw image must
//! hold the second copy of its partition table, whose place the first copy names; a qcow2 image must pass `qemu-img check`,
//! which sees all but a cut within the last cluster. In a release's folder the manifest's size sees that, too.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use gpt::disk::LogicalBlockSize;

pub use crate::carrier::Format;
use crate::carrier::region::Medium;
use crate::context::Context;
use crate::error::{Failure, Kind};
use crate::fs;
use crate::release::manifest::Manifest;
use crate::tools::Tools;

/// An image that was looked at.
#[derive(Clone, Debug)]
pub struct Image {
    /// Where it lies.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
}

const QCOW2_MAGIC: &[u8] = b"QFI\xfb";
const ZSTD_MAGIC: &[u8] = b"\x28\xb5\x2f\xfd";
const SECTOR: u64 = 512;

/// Finds the image that `path`, a release's folder or an image file, and `role` mean.
pub fn find(path: &Path, role: Option<&str>) -> Result<PathBuf> {
    let wrong = |what: String| Failure::new(Kind::Input, format!("`{}` {what}", path.display()));
    if !path.exists() {
        let text = "does not exist".to_owned();
        return Err(wrong(text).hint("name a release's folder, or an image in it").into());
    }
    if path.is_file() {
        return match role {
            Some(role) => Err(wrong(format!("is an image: there is no role `{role}` to choose in it")).into()),
            None => Ok(path.to_owned()),
        };
    }
    let manifest = Manifest::read(path)?;
    let names = || manifest.roles.keys().map(|role| format!("`{role}`")).collect::<Vec<_>>().join(", ");
    let (role, contents) = match (role, manifest.roles.len()) {
        (Some(name), _) => manifest
            .roles
            .get_key_value(name)
            .ok_or_else(|| wrong(format!("holds no role `{name}`")).hint(format!("it holds {}", names())))?,
        (None, 1) => manifest.roles.first_key_value().context("there is one")?,
        (None, _) => return Err(wrong("holds several roles".into()).hint(format!("name one of {}", names())).into()),
    };
    let format = |format: Format| contents.carriers.iter().find(|file| file.format == format.name());
    let Some(carrier) = format(Format::Raw).or_else(|| format(Format::Qcow2)) else {
        let text = format!("holds no disk image of the role `{role}`");
        return Err(wrong(text).hint(format!("castiron build {role} --format qcow2")).into());
    };
    whole(path.join(&carrier.file), carrier.size)
}

/// The installer medium of a release's folder.
pub fn medium(release: &Path) -> Result<PathBuf> {
    let manifest = Manifest::read(release)?;
    let media = manifest.media.first().ok_or_else(|| {
        let roles: Vec<&str> = manifest.roles.keys().map(String::as_str).collect();
        Failure::new(Kind::Input, format!("`{}` holds no installer medium", release.display()))
            .hint(format!("castiron build {} --format qcow2,iso", roles.join(" ")))
    })?;
    whole(release.join(&media.file), media.size)
}

/// The file of a release, of the size that its manifest says.
fn whole(file: PathBuf, size: u64) -> Result<PathBuf> {
    let length = fs::len(&file)?;
    if length != size {
        let why = format!("it has {length} bytes, the release's manifest says {size}");
        return Err(damaged(&file, &why).into());
    }
    Ok(file)
}

impl Image {
    /// Looks at an image: its format, and whether it is whole.
    pub fn open(ctx: &Context, tools: &Tools, path: &Path) -> Result<Self> {
        let path = &std::path::absolute(path).with_context(|| format!("resolving `{}`", path.display()))?;
        let format = check_length(path)?;
        match format {
            Format::Raw => {}
            Format::Qcow2 => tools
                .cmd(format!("checking `{}`", path.display()))
                .bind(path, "image")
                .step(["qemu-img", "check", "-q", "-f", "qcow2", "/mnt/image"])
                .run(ctx)
                .map_err(|error| match crate::error::kind(&error) {
                    Kind::Interrupted => error,
                    _ => damaged(path, &format!("it is cut short or damaged\n{error:#}")).into(),
                })?,
        }
        Ok(Self { path: path.clone(), format })
    }
}

/// Whether a file is an ISO.
pub fn is_iso(path: &Path) -> Result<bool> {
    Ok(Medium::of(&fs::open(path)?)? == Medium::Iso)
}

/// The format of an image that reaches as far as its tables say. Needs no tool, so that nothing is downloaded in vain.
pub fn check_length(path: &Path) -> Result<Format> {
    let format = sniff(path)?;
    match format {
        Format::Raw => check_raw(path)?,
        Format::Qcow2 => check_qcow2(path)?,
    }
    Ok(format)
}

/// The format of a file, by its first bytes.
fn sniff(path: &Path) -> Result<Format> {
    let mut head = Vec::new();
    fs::open(path)?.take(4).read_to_end(&mut head).with_context(|| format!("reading `{}`", path.display()))?;
    if head == ZSTD_MAGIC {
        let text = format!("`{}` is compressed, and QEMU boots no compressed image", path.display());
        return Err(Failure::new(Kind::Input, text).hint(format!("unzstd --keep {}", path.display())).into());
    }
    Ok(if head == QCOW2_MAGIC { Format::Qcow2 } else { Format::Raw })
}

/// Checks that a qcow2 image (`docs/interop/qcow2.txt`) holds its tables: `qemu-img check` takes a first table that is cut
/// off for one that is empty (tried).
fn check_qcow2(path: &Path) -> Result<()> {
    let length = fs::len(path)?;
    let mut head = [0; 72];
    fs::open(path)?
        .read_exact(&mut head)
        .map_err(|_| damaged(path, "it is cut short or damaged: its head is not whole"))?;
    let number = |at: usize, bytes: usize| head[at..at + bytes].iter().fold(0_u64, |n, &b| n << 8 | u64::from(b));
    let cluster = 1_u64.checked_shl(number(20, 4) as u32).unwrap_or(u64::MAX);
    for (at, size) in [(40, number(36, 4).saturating_mul(8)), (48, number(56, 4).saturating_mul(cluster))] {
        let end = number(at, 8).saturating_add(size);
        if end > length {
            let why = format!("it is cut short or damaged: a table ends at byte {end}, the file at byte {length}");
            return Err(damaged(path, &why).into());
        }
    }
    Ok(())
}

/// Checks that a raw image reaches as far as its partition table says.
fn check_raw(path: &Path) -> Result<()> {
    let length = fs::len(path)?;
    let header = gpt::header::read_header_from_arbitrary_device(&mut fs::open(path)?, LogicalBlockSize::Lb512)
        .map_err(|error| {
            let why = format!("it is neither qcow2 nor a raw disk with a GUID partition table ({error})");
            damaged(path, &why)
        })?;
    let needed = header.backup_lba.saturating_add(1).saturating_mul(SECTOR);
    if length < needed {
        let why = format!("it is cut short: its partition table ends at byte {needed}, the file at byte {length}");
        return Err(damaged(path, &why).into());
    }
    Ok(())
}

fn damaged(path: &Path, why: &str) -> Failure {
    Failure::new(Kind::Input, format!("`{}` cannot be booted: {why}", path.display()))
        .hint("copy or build it again; `sha256sum -c SHA256SUMS` in the release's folder checks every file")
}
