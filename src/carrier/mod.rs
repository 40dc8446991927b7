//! Carriers: the files in which a root image travels.
//!
//! In: [`crate::system::System`], the lock's layer `boot`. Out: [`Carrier`], files in a folder of the caller's.
//! Runs: `grub-mkimage`, `qemu-img`, `xorriso`.
//!
//! The raw disk comes first; every other format is made from it. GPT by the crate `gpt`, FAT by the crate `fatfs`:
//! nothing is mounted, no loop device is needed.

pub mod bios;
pub mod disk;
pub mod esp;
pub mod iso;
mod map;
mod qcow2;
pub mod region;

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::context::Context;
use crate::digest::{HashWriter, Sha256};
use crate::fs;
use crate::region::HEADER;
use crate::tools::Tools;
use region::Region;

/// The formats of a disk image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// The disk as it is, sparse.
    Raw,
    /// QEMU's copy-on-write format, version 3 (Proxmox, libvirt).
    Qcow2,
}

impl Format {
    /// The format's name, and its files' extension.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// One file of a release.
#[derive(Clone, Debug)]
pub struct Carrier {
    /// Where it lies.
    pub path: PathBuf,
    /// `raw`, `qcow2`, `raw.zst`, `qcow2.zst`, `iso`.
    pub format: String,
    /// The file's digest.
    pub sha256: Sha256,
    /// Its length in bytes; a raw disk is sparse, and takes less.
    pub size: u64,
}

/// Makes the wanted formats of a raw disk, beside it, each also compressed. The raw disk itself stays.
pub fn export(ctx: &Context, tools: &Tools, raw: &Path, formats: &[Format]) -> Result<Vec<Carrier>> {
    let mut carriers = Vec::new();
    for format in formats {
        let path = raw.with_extension(format.name());
        if *format == Format::Qcow2 {
            qcow2(ctx, tools, raw, &path)?;
        }
        let packed = raw.with_extension(format!("{}.zst", format.name()));
        // The disk's own time to write it is not waited for twice: it goes by while the other is made.
        let (plain, packed) = std::thread::scope(|scope| {
            let synced = scope.spawn(|| fs::sync(&path));
            let made = compress(ctx, &path, &packed);
            synced.join().unwrap_or_else(|_| bail!("syncing a disk panicked"))?;
            made
        })?;
        carriers.extend([
            Carrier { format: format.name().to_owned(), ..plain },
            Carrier { format: format!("{}.zst", format.name()), ..packed },
        ]);
    }
    Ok(carriers)
}

fn qcow2(ctx: &Context, tools: &Tools, raw: &Path, to: &Path) -> Result<()> {
    let folder = raw.parent().context("a disk lies in a folder")?;
    let inside = |path: &Path| format!("/mnt/out/{}", path.file_name().unwrap_or_default().to_string_lossy());
    let step = ctx.ui.step("carrier", format!("writing `{}`", to.file_name().unwrap_or_default().display()));
    // The conversion drops zeros, and a seed is stamped into clusters that are there: a byte in each that is not zero until
    // then makes them.
    let disk = fs::open_rw(raw)?;
    let seeds = Region::find(&disk).with_context(|| format!("finding the seed region of `{}`", raw.display()))?;
    mark(&seeds, 0xff)?;
    tools
        .cmd("converting a disk to qcow2")
        .bind_rw(folder, "out")
        // One request at a time: clusters are laid down in the order of the disk, the same each time.
        .step(["qemu-img", "convert", "-m", "1", "-f", "raw", "-O", "qcow2", &inside(raw), &inside(to)])
        .run(ctx)?;
    mark(&seeds, 0)?;
    let made = fs::open_rw(to)?;
    mark(&Region::find(&made).with_context(|| format!("finding the seed region of `{}`", to.display()))?, 0)?;
    step.done();
    Ok(())
}

/// Writes `byte` at the beginning of each of the region's clusters (64 KiB, as `qemu-img` makes them).
fn mark(region: &Region<'_>, byte: u8) -> Result<()> {
    (0..region.size - HEADER as u64).step_by(64 << 10).try_for_each(|at| region.write(at, &[byte]))
}

/// zstd's level: what is large in a disk is compressed already.
const ZSTD_LEVEL: i32 = 1;
/// Fixed, since the bytes depend on whether there are workers at all.
const ZSTD_WORKERS: u32 = 2;
/// What is read, hashed and compressed at a time.
const BLOCK: usize = 1 << 20;

/// Compresses a carrier; its digest and that of the new one are those of the bytes that passed.
fn compress(ctx: &Context, from: &Path, to: &Path) -> Result<(Carrier, Carrier)> {
    let name = to.file_name().unwrap_or_default().display().to_string();
    let step = ctx.ui.step_bytes("carrier", format!("writing `{name}`"), fs::len(from)?);
    let compressing = || format!("writing `{}`", to.display());
    let mut encoder = zstd::Encoder::new(HashWriter::new(fs::create(to)?), ZSTD_LEVEL).with_context(compressing)?;
    encoder.multithread(ZSTD_WORKERS).with_context(compressing)?;
    encoder.include_checksum(true).with_context(compressing)?;
    encoder.long_distance_matching(false).with_context(compressing)?;
    let input = fs::open(from)?;
    let size = fs::len(from)?;
    let mut read = HashWriter::new(std::io::sink());
    let (zeros, mut buffer) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut data = fs::next_data(&input, 0)?;
    for at in (0..size).step_by(BLOCK) {
        ctx.check_interrupt()?;
        let end = size.min(at + BLOCK as u64);
        let length = (end - at) as usize;
        if data.as_ref().is_some_and(|data| data.end <= at) {
            data = fs::next_data(&input, at)?;
        }
        // A hole is not read: the kernel would fill pages with its zeros, which takes longer than all the rest.
        let block = if data.as_ref().is_some_and(|data| data.start < end) {
            input.read_exact_at(&mut buffer[..length], at).with_context(compressing)?;
            &buffer[..length]
        } else {
            &zeros[..length]
        };
        encoder.write_all(block).with_context(compressing)?;
        read.write_all(block).with_context(compressing)?;
        step.advance(length as u64);
    }
    let written = encoder.finish().with_context(compressing)?;
    step.done();
    let carrier = |path: &Path, (sha256, size)| Carrier { path: path.to_owned(), format: String::new(), sha256, size };
    Ok((carrier(from, read.finish()), carrier(to, written.finish())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::{Ui, Verbosity};

    #[test]
    fn a_sparse_disk_is_packed_as_if_it_were_read_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let context = Context::new(Ui::new(false, Verbosity::Quiet), folder.path().into(), folder.path().into());
        let disk = folder.path().join("db.raw");
        let file = fs::create(&disk).expect("creates");
        // Data at the beginning, over the border of two blocks, in the middle of one, and a last block that is shorter.
        for (at, length) in [(0, 5000), ((3 << 20) - 4096, 8192), ((7 << 20) + 65536, 4096)] {
            file.write_all_at(&vec![7; length], at).expect("writes");
        }
        file.set_len((20 << 20) + 1234).expect("sizes");
        let packed = folder.path().join("db.raw.zst");
        let (plain, made) = compress(&context, &disk, &packed).expect("packs");
        let whole = fs::read(&disk).expect("reads");
        assert!(zstd::decode_all(fs::open(&packed).expect("opens")).expect("unpacks") == whole);
        assert_eq!((plain.sha256, plain.size), (Sha256::of(&whole), whole.len() as u64));
        assert_eq!((made.sha256, made.size), Sha256::of_file(&packed).expect("reads"));
    }
}
