//! The partition table of the real disk: the image's own, with its backup at the end of this disk.
//!
//! In: the first MiB of the image, the disk's size. Out: [`Table`], bytes for the disk's beginning and its end. By the crate
//! `gpt`, on a sparse file in memory that is as long as the disk, so that what goes to the disk, and when, is the writer's affair alone.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};

use anyhow::{Context as _, Result, ensure};
use gpt::partition_types::EFI;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::boot_entry::Esp;

/// Bytes of a logical block.
pub const BLOCK: u64 = 512;
/// Bytes of the disk's beginning that are written last: everything that makes it a disk with something on it.
pub const HEAD: u64 = 1 << 20;
/// Bytes at the disk's end that hold the backup: 32 blocks of entries and the header.
pub const TAIL: u64 = 33 * BLOCK;

/// A partition of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its number.
    pub number: u32,
    /// Its own GUID, as it lies in the table.
    pub guid: [u8; 16],
    /// Its label.
    pub label: String,
    /// Its type, in small letters.
    pub kind: String,
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A partition table that fits the disk.
#[derive(Debug)]
pub struct Table {
    /// The disk's first MiB.
    pub head: Vec<u8>,
    /// The disk's last [`TAIL`] bytes.
    pub tail: Vec<u8>,
    /// The partitions.
    pub slices: Vec<Slice>,
}

/// The image's partition table for a disk of `size` bytes.
pub fn fit(head: &[u8], size: u64) -> Result<Table> {
    ensure!(head.len() as u64 == HEAD, "the beginning of a disk has {HEAD} bytes, not {}", head.len());
    let mut file =
        File::from(memfd_create(c"castiron-table", MFdFlags::MFD_CLOEXEC).context("creating a file in memory")?);
    file.set_len(size).context("sizing a file in memory")?;
    file.write_all(head).context("writing a file in memory")?;
    let mut disk = gpt::GptConfig::new()
        .writable(true)
        .only_valid_headers(false)
        .logical_block_size(gpt::disk::LogicalBlockSize::Lb512)
        .open_from_device(file)
        .context("reading the image's partition table")?;
    let partitions = disk.partitions().clone();
    let slices = partitions
        .iter()
        .map(|(number, part)| {
            Ok(Slice {
                number: *number,
                guid: part.part_guid.to_bytes_le(),
                label: part.name.clone(),
                kind: part.part_type_guid.guid.to_string(),
                start: part.first_lba * BLOCK,
                len: part.sectors_len().context("a partition of the image ends before it begins")? * BLOCK,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    // Only this looks for the disk's end again.
    disk.update_partitions(partitions).context("fitting the partition table to the disk")?;
    let mut file = disk.write().context("fitting the partition table to the disk")?;
    let mut table = Table { head: vec![0; HEAD as usize], tail: vec![0; TAIL as usize], slices };
    file.rewind().and_then(|()| file.read_exact(&mut table.head)).context("reading a file in memory")?;
    file.seek(SeekFrom::Start(size - TAIL))
        .and_then(|_| file.read_exact(&mut table.tail))
        .context("reading a file in memory")?;
    Ok(table)
}

/// The EFI system partition of an image or an installed disk.
pub fn esp(slices: &[Slice]) -> Result<Esp> {
    let esp = slices.iter().find(|slice| slice.kind.eq_ignore_ascii_case(&EFI.guid.to_string()));
    let esp = esp.context("the disk has no EFI system partition")?;
    Ok(Esp { number: esp.number, first: esp.start / BLOCK, blocks: esp.len / BLOCK, guid: esp.guid })
}
