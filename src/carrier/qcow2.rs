//! qcow2 files from outside: where the bytes of a virtual disk lie in the file.
//!
//! In: a qcow2 of version 2 or 3. Out: [`Qcow2`]. Source: QEMU's docs/interop/qcow2.txt.
//!
//! Only clusters that belong to the active disk alone (reference count 1, which the tables' bit 63 says), that are
//! neither compressed nor marked as zeros, are ever handed out for writing; nothing here changes a table.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, bail, ensure};

use crate::error::{Failure, Kind};

/// How a qcow2 begins.
pub const MAGIC: &[u8] = b"QFI\xfb";

/// Bits 9 to 55 of a table's entry: an offset of the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// The cluster's reference count is exactly one.
const COPIED: u64 = 1 << 63;
/// The cluster reads as zeros, whatever lies there.
const ZERO: u64 = 1;
/// Of the incompatible features only the kind of compression changes nothing here.
const COMPRESSION_TYPE: u64 = 1 << 3;

/// An open qcow2.
#[derive(Debug)]
pub struct Qcow2<'a> {
    file: &'a File,
    cluster_bits: u32,
    size: u64,
    l1: u64,
    l1_entries: u32,
}

impl<'a> Qcow2<'a> {
    /// Reads the header.
    pub fn open(file: &'a File) -> Result<Self> {
        let mut header = [0; 104];
        file.read_exact_at(&mut header[..72], 0).context("reading the qcow2's header")?;
        ensure!(header.starts_with(MAGIC), "it is no qcow2");
        let half = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("has four bytes"));
        let version = half(4);
        ensure!(matches!(version, 2 | 3), "it is a qcow2 of version {version}; castiron knows 2 and 3");
        let (cluster_bits, crypt) = (half(20), half(32));
        ensure!(
            (9..=21).contains(&cluster_bits),
            "its clusters have 2^{cluster_bits} bytes, which qcow2 does not allow"
        );
        ensure!(crypt == 0, "it is an encrypted qcow2");
        if version == 3 {
            file.read_exact_at(&mut header[72..], 72).context("reading the qcow2's header")?;
        }
        let long = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("has eight bytes"));
        let unusual = long(72) & !COMPRESSION_TYPE;
        if unusual != 0 {
            let why = "this qcow2 was not closed properly, is damaged, or has an external data file or extended tables";
            return Err(Failure::new(Kind::Input, format!("{why} (feature bits {unusual:#x})"))
                .hint("take the release's own file, and stamp it before a machine runs from it")
                .into());
        }
        let l1_entries = u32::from_be_bytes(header[36..40].try_into().expect("has four bytes"));
        Ok(Self { file, cluster_bits, size: long(24), l1: long(40), l1_entries })
    }

    /// Up to `length` bytes of the virtual disk at `start`, fewer at its end.
    pub fn read_up_to(&self, start: u64, length: usize) -> Result<Vec<u8>> {
        let length = (length as u64).min(self.size.saturating_sub(start));
        let mut bytes = vec![0; length as usize];
        let mut done = 0;
        while done < length {
            let (entry, within, part) = self.step(start + done, length - done)?;
            ensure!(entry & COMPRESSED == 0, "its partition table is compressed");
            if entry & OFFSET != 0 && entry & ZERO == 0 {
                let buffer = &mut bytes[done as usize..(done + part) as usize];
                self.file.read_exact_at(buffer, (entry & OFFSET) + within).context("reading a cluster of the qcow2")?;
            }
            done += part;
        }
        Ok(bytes)
    }

    /// Where `length` bytes of the virtual disk at `start` lie in the file: offsets and lengths, in order. An error where one
    /// of their clusters cannot be written in place.
    pub fn clusters(&self, start: u64, length: u64) -> Result<Vec<(u64, u64)>> {
        ensure!(
            start.checked_add(length).is_some_and(|end| end <= self.size),
            "the region ends beyond the qcow2's disk"
        );
        let file_size = self.file.metadata().context("reading the file's size")?.len();
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut done = 0;
        while done < length {
            let (entry, within, part) = self.step(start + done, length - done)?;
            let why = if entry & COMPRESSED != 0 {
                Some("compressed")
            } else if entry & ZERO != 0 || entry & OFFSET == 0 {
                Some("not allocated")
            } else if entry & COPIED == 0 {
                Some("shared with a snapshot")
            } else {
                None
            };
            if let Some(why) = why {
                let text = format!("the seed region of this qcow2 is {why}, so nothing can be written there in place");
                let hint = "stamp the release's own file, or the raw disk, and convert afterwards";
                return Err(Failure::new(Kind::Input, text).hint(hint).into());
            }
            let at = (entry & OFFSET) + within;
            ensure!(at + part <= file_size, "the qcow2 was cut short: a cluster lies beyond the file's end");
            match runs.last_mut() {
                Some((before, run)) if *before + *run == at => *run += part,
                _ => runs.push((at, part)),
            }
            done += part;
        }
        Ok(runs)
    }

    /// Of the byte `at` of the disk: the entry of its cluster, its place in the cluster, and how many of `left` bytes are there.
    fn step(&self, at: u64, left: u64) -> Result<(u64, u64, u64)> {
        let cluster = 1_u64 << self.cluster_bits;
        let within = at % cluster;
        Ok((self.entry(at >> self.cluster_bits)?, within, left.min(cluster - within)))
    }

    /// The L2 entry of a cluster of the disk; 0 where there is no L2 table.
    fn entry(&self, cluster: u64) -> Result<u64> {
        let l2_bits = self.cluster_bits - 3;
        let (l1_index, l2_index) = (cluster >> l2_bits, cluster & ((1 << l2_bits) - 1));
        if l1_index >= u64::from(self.l1_entries) {
            bail!("its L1 table has {} entries, and the disk needs more", self.l1_entries);
        }
        let l2 = self.number(self.l1, l1_index)? & OFFSET;
        if l2 == 0 { Ok(0) } else { self.number(l2, l2_index) }
    }

    fn number(&self, table: u64, index: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        let at = table.checked_add(index * 8).context("a table of the qcow2 lies beyond any file")?;
        self.file.read_exact_at(&mut bytes, at).context("reading a table of the qcow2")?;
        Ok(u64::from_be_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn random_headers_and_tables_are_errors_or_answers(
            mut bytes in proptest::collection::vec(any::<u8>(), 104..4096),
            start: u64, length in 0_u64..1_000_000, sane: bool,
        ) {
            bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
            if sane {
                bytes[20..36].copy_from_slice(&[0, 0, 0, 9, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0]);
                bytes[72..80].copy_from_slice(&[0; 8]);
                bytes[40..48].copy_from_slice(&104_u64.to_be_bytes());
            }
            let file = tempfile::tempfile().expect("a file");
            file.write_all_at(&bytes, 0).expect("writes");
            if let Ok(disk) = Qcow2::open(&file) {
                let _ = disk.clusters(start, length);
                let _ = disk.read_up_to(start, 100_000);
            }
        }
    }
}
