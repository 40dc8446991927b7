//! The place that every carrier reserves for a seed: where it is, and reading and writing there without touching the rest.
//!
//! In: a raw disk, a hybrid ISO, or a qcow2. Out: [`Region`].
//!
//! The format of its bytes is [`crate::region`]'s. The place is a GPT partition of castiron's own type in all three: a
//! disk has it after `verity-b`, an ISO over one of the ISO 9660 volume's own files, since a CD has no partitions. In a
//! qcow2 the partition lies in clusters, found through its L1 and L2 tables. Those must be there: zeros are dropped by
//! `qemu-img convert`, so the builder marks each cluster until they are made. Making clusters while stamping was dropped:
//! it would leave a longer file with other tables when the stamp is removed.

use std::fs::File;
use std::io::{self, Cursor, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, bail, ensure};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::partition::Partition;
use uuid::Uuid;

use super::qcow2::Qcow2;
use crate::error::{Failure, Kind};
use crate::region::{self, TYPE};
pub use crate::region::{NAME, SIZE};

const SECTOR: u64 = 512;
/// A partition table lies in the first 34 sectors of a disk, in 64 of an ISO.
const TABLE: usize = 1 << 20;

/// The partition's type as the crate `gpt` wants it.
pub const PARTITION_TYPE: Uuid = match Uuid::try_parse(TYPE) {
    Ok(uuid) => uuid,
    Err(_) => panic!("the constant is no UUID"),
};

/// The region as a partition of a medium, its first byte at `start`. Its own UUID is the same on all media.
pub fn partition(start: u64) -> gpt::partition::Partition {
    gpt::partition::Partition {
        part_type_guid: gpt::partition_types::Type {
            guid: PARTITION_TYPE,
            os: gpt::partition_types::OperatingSystem::None,
        },
        part_guid: PARTITION_TYPE,
        first_lba: start / SECTOR,
        last_lba: (start + SIZE) / SECTOR - 1,
        flags: 0,
        name: NAME.to_owned(),
    }
}

/// The region as a release has it.
pub fn unstamped() -> Vec<u8> {
    region::unstamped(SIZE as usize)
}

/// What kind of file a region lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A disk as it is.
    Raw,
    /// An ISO 9660 volume with a partition table.
    Iso,
    /// QEMU's format.
    Qcow2,
}

impl Medium {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw disk",
            Self::Iso => "ISO",
            Self::Qcow2 => "qcow2",
        }
    }

    /// What a file is, by its first bytes.
    pub fn of(file: &File) -> Result<Self> {
        let start = read_up_to(file, 40 << 10)?;
        if start.starts_with(super::qcow2::MAGIC) {
            return Ok(Self::Qcow2);
        }
        let packed = [(&[0x28, 0xb5, 0x2f, 0xfd][..], "zstd -d"), (&[0x1f, 0x8b], "gzip -d"), (b"\xfd7zXZ", "xz -d")];
        if let Some((_, tool)) = packed.iter().find(|(magic, _)| start.starts_with(magic)) {
            let why = "it is compressed, and a seed is written in place";
            return Err(Failure::new(Kind::Input, why).hint(format!("unpack it with `{tool}` first")).into());
        }
        // The first volume descriptor of ISO 9660 is in sector 16.
        Ok(if start.get(0x8001..0x8006) == Some(b"CD001") { Self::Iso } else { Self::Raw })
    }
}

/// A run of the region's bytes in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    at: u64,
    length: u64,
}

/// A region in a file.
#[derive(Debug)]
pub struct Region<'a> {
    file: &'a File,
    /// What the file is.
    pub medium: Medium,
    /// Where the region begins on the disk or ISO; in a qcow2 this is no offset of the file.
    pub start: u64,
    /// The region's bytes, header and all.
    pub size: u64,
    runs: Vec<Run>,
}

impl<'a> Region<'a> {
    /// Finds the region of a raw disk, an ISO or a qcow2. Reads the tables alone, so it takes as long for every size.
    pub fn find(file: &'a File) -> Result<Self> {
        let medium = Medium::of(file)?;
        let (start, size, runs) = if medium == Medium::Qcow2 {
            let disk = Qcow2::open(file)?;
            let (start, size) = place(disk.read_up_to(0, TABLE)?)?;
            let runs = disk.clusters(start, size)?.into_iter().map(|(at, length)| Run { at, length }).collect();
            (start, size, runs)
        } else {
            let (start, size) = place(read_up_to(file, TABLE)?)?;
            let length = file.metadata().context("reading the file's size")?.len();
            ensure!(
                start + size <= length,
                "the seed region ends at byte {}, and the file has {length}: it was cut short",
                start + size
            );
            (start, size, vec![Run { at: start, length: size }])
        };
        Ok(Self { file, medium, start, size, runs })
    }

    /// Reads all bytes of the region.
    pub fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.size).context("the region is larger than memory")?];
        self.each(0, self.size, |at, range| self.file.read_exact_at(&mut bytes[range], at))
            .context("reading the seed region")?;
        Ok(bytes)
    }

    /// Writes `bytes` from byte `offset` of the region on.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.size);
        ensure!(end.is_some(), "{} bytes at {offset} are more than the region has", bytes.len());
        self.each(offset, bytes.len() as u64, |at, range| self.file.write_all_at(&bytes[range], at))
            .context("writing the seed region")
    }

    /// Waits until what was written is on the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().context("syncing the seed region")
    }

    /// Calls `act` for every run of the file that `length` bytes at `offset` lie in, with its offset in the file and the
    /// range of those bytes.
    fn each(
        &self,
        offset: u64,
        length: u64,
        mut act: impl FnMut(u64, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let (mut before, end) = (0, offset + length);
        for run in &self.runs {
            let (from, to) = (offset.max(before), end.min(before + run.length));
            if from < to {
                act(run.at + from - before, (from - offset) as usize..(to - offset) as usize)?;
            }
            before += run.length;
        }
        Ok(())
    }
}

/// Where the region lies, by the partition table at the disk's beginning.
fn place(table: Vec<u8>) -> Result<(u64, u64)> {
    let none = "it has no seed region, so nothing can be stamped into it";
    let hint = "take a disk image or an ISO that `castiron build` made";
    let lacks = || Failure::new(Kind::Input, none).hint(hint);
    let disk = GptConfig::new()
        .writable(false)
        .logical_block_size(LogicalBlockSize::Lb512)
        .open_from_device(Cursor::new(table))
        .with_context(lacks)?;
    let ours = |p: &&Partition| p.is_used() && p.part_type_guid.guid == PARTITION_TYPE;
    let mut found = disk.partitions().values().filter(ours);
    let partition = found.next().ok_or_else(lacks)?;
    if found.next().is_some() {
        bail!(Failure::new(Kind::Input, "it has two seed regions"));
    }
    let sectors = partition.last_lba.checked_sub(partition.first_lba).and_then(|n| n.checked_add(1));
    let size = sectors.and_then(|n| n.checked_mul(SECTOR)).context("the seed region ends before it begins")?;
    ensure!(
        size <= region::MAX && size > region::HEADER as u64,
        "its seed region has {size} bytes, which is no size for one"
    );
    let start = partition.first_lba.checked_mul(SECTOR).filter(|start| start.checked_add(size).is_some());
    Ok((start.context("the seed region lies beyond any disk")?, size))
}

fn read_up_to(mut file: &File, length: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).context("reading the file")?;
    file.take(length as u64).read_to_end(&mut bytes).context("reading the file")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_go_to_their_runs() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(100).expect("sizes");
        let runs = vec![Run { at: 50, length: 10 }, Run { at: 20, length: 10 }];
        let region = Region { file: &file, medium: Medium::Qcow2, start: 0, size: 20, runs };
        region.write(5, b"abcdefghij").expect("writes");
        let mut whole = [0; 100];
        file.read_exact_at(&mut whole, 0).expect("reads");
        assert_eq!((&whole[55..60], &whole[20..25]), (&b"abcde"[..], &b"fghij"[..]));
        assert_eq!(&region.read().expect("reads")[5..15], b"abcdefghij");
        assert!(region.write(15, b"abcdef").is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_have_no_region(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let file = tempfile::tempfile().expect("a file");
            file.write_all_at(&bytes, 0).expect("writes");
            prop_assert!(Region::find(&file).is_err());
        }
    }
}
