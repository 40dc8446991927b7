//! Power cuts from a recording: the disk as it may be found after a cut at any moment of a boot.
//!
//! In: the log that QEMU's `blklogwrites` filter wrote (the format of Linux's dm-log-writes: `drivers/md/dm-log-writes.c`),
//! and the disk as it was before. Out: the disk after a cut.
//!
//! Killing QEMU is a weak power cut: what the guest wrote is in the host's page cache and survives, flushed or not. A real
//! disk has a volatile cache; what was not flushed may be lost, and in any order. So one boot is recorded, write by write
//! and flush by flush, and a cut is drawn from the recording: all that came before the last flush is on the disk, and
//! of what came after it each write is there, is lost, or is torn at a sector. That is harsher than a kill, costs one boot
//! less a cut, and a seed names the very same cut again. A moment at which nothing was written leaves the disk as the
//! moment before did, so moments are drawn over the writes and not over the seconds.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::fs;

/// `WRITE_LOG_MAGIC` of dm-log-writes.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const SECTOR: u64 = 512;
const CHUNK: u64 = 1 << 20;

/// One write of a recording, or a flush of everything before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it went, in bytes.
    pub at: u64,
    /// How many bytes; 0 for a mere flush.
    pub length: u64,
    /// Whether all writes before it were on the disk when it began.
    pub flush: bool,
    /// Whether it was on the disk itself when it ended.
    pub forced: bool,
    /// Where its bytes lie in the log; nothing for a discard.
    data: Option<u64>,
}

/// A recording.
pub struct WriteLog {
    file: File,
    /// What happened, in order.
    pub entries: Vec<Entry>,
}

impl WriteLog {
    /// Reads a recording. One that breaks off in the middle of an entry ends before it, as the machine did.
    pub fn open(path: &Path) -> Result<Self> {
        let reading = || format!("reading the recorded writes in `{}`", path.display());
        let file = fs::open(path)?;
        let entries = read_entries(&file, fs::len(path)?).with_context(reading)?;
        Ok(Self { file, entries })
    }

    /// Brings `disk`, which is as it was before the recording, to what a power cut after `count` entries leaves.
    pub fn cut(&self, disk: &Path, count: usize, random: &mut Random) -> Result<Lost> {
        let disk = fs::open_rw(disk)?;
        let entries = &self.entries[..count.min(self.entries.len())];
        let safe = entries.iter().rposition(|e| e.flush).unwrap_or(0);
        for entry in &entries[..safe] {
            self.write(&disk, entry, entry.length)?;
        }
        let mut lost = Lost::default();
        for entry in entries[safe..].iter().filter(|e| e.length > 0) {
            lost.unflushed += 1;
            let kept = match random.below(3) {
                _ if entry.forced => entry.length,
                0 => 0,
                1 => random.below(entry.length.div_ceil(SECTOR)) * SECTOR,
                _ => entry.length,
            };
            lost.lost += usize::from(kept < entry.length);
            self.write(&disk, entry, kept)?;
        }
        Ok(lost)
    }

    fn write(&self, disk: &File, entry: &Entry, length: u64) -> Result<()> {
        let mut buffer = vec![0; CHUNK.min(length) as usize];
        let mut done = 0;
        while done < length {
            let part = &mut buffer[..CHUNK.min(length - done) as usize];
            if let Some(data) = entry.data {
                self.file.read_exact_at(part, data + done).context("reading a recorded write")?;
            }
            disk.write_all_at(part, entry.at + done).context("repeating a recorded write")?;
            done += part.len() as u64;
        }
        Ok(())
    }
}

/// What a cut took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Writes that no flush had made safe.
    pub unflushed: usize,
    /// Those of them that were lost, in whole or in part.
    pub lost: usize,
}

fn read_entries(file: &File, length: u64) -> Result<Vec<Entry>> {
    let [magic, version, _, sector] = numbers(file, 0)?;
    // The fourth field has 32 bits.
    let sector = sector & 0xffff_ffff;
    ensure!(magic == MAGIC && version == VERSION, "it is no log of dm-log-writes, version {VERSION}");
    ensure!(sector.is_power_of_two() && sector >= SECTOR, "its sectors have {sector} bytes");
    let mut entries = Vec::new();
    let mut place = sector;
    // The number of entries in the head is brought up to date now and then only; the entries themselves are all there.
    while place + sector <= length {
        let [at, sectors, flags, data_length] = numbers(file, place)?;
        place += sector;
        let discard = flags & DISCARD != 0;
        let bytes = sectors.checked_mul(sector).context("a write is too long")?;
        if at == 0 && sectors == 0 && flags == 0 && data_length == 0 {
            // Space that was never written to.
            break;
        }
        let end = if discard { place } else { place.checked_add(bytes).context("a write is too long")? };
        if end > length {
            break;
        }
        entries.push(Entry {
            at: at.checked_mul(sector).context("a write is too far away")?,
            length: bytes,
            flush: flags & FLUSH != 0,
            forced: flags & FUA != 0,
            data: (!discard).then_some(place),
        });
        place = end;
    }
    Ok(entries)
}

fn numbers(file: &File, place: u64) -> Result<[u64; 4]> {
    let mut bytes = [0; 32];
    file.read_exact_at(&mut bytes, place).context("reading an entry's head")?;
    let mut numbers = [0; 4];
    for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
        *number = u64::from_le_bytes(bytes.try_into().context("eight bytes are a number")?);
    }
    Ok(numbers)
}

/// SplitMix64 (Steele, Lea, Flood 2014): a seed must name the same cuts for ever, which no crate promises.
pub struct Random(u64);

impl Random {
    /// Numbers that `seed` names.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 when there is none.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn log(entries: &[(u64, u64, &[u8])]) -> Vec<u8> {
        let sectors = |n: usize| n.div_ceil(512);
        let mut bytes = [MAGIC, VERSION, entries.len() as u64, 512].map(u64::to_le_bytes).concat();
        bytes.resize(512, 0);
        for (at, flags, data) in entries {
            let head = [*at, sectors(data.len()) as u64, *flags, 0].map(u64::to_le_bytes).concat();
            let start = bytes.len();
            bytes.extend(head);
            bytes.resize(start + 512, 0);
            bytes.extend(*data);
            bytes.resize(start + 512 + sectors(data.len()) * 512, 0);
        }
        bytes
    }

    fn cut(bytes: &[u8], count: usize, seed: u64) -> (Vec<u8>, Lost) {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, disk) = (folder.path().join("log"), folder.path().join("disk"));
        fs::write_atomic(&file, bytes).expect("writes");
        fs::write_atomic(&disk, [0; 4096]).expect("writes");
        let log = WriteLog::open(&file).expect("reads");
        let lost = log.cut(&disk, count, &mut Random::new(seed)).expect("cuts");
        (fs::read(&disk).expect("reads"), lost)
    }

    #[test]
    fn what_was_flushed_is_never_lost_and_the_rest_may_be() {
        let bytes = log(&[(1, 0, &[1; 512]), (0, FLUSH, b""), (2, 0, &[2; 1024])]);
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..64 {
            let (disk, lost) = cut(&bytes, 3, seed);
            assert_eq!(disk[512..1024], [1; 512]);
            assert_eq!(lost.unflushed, 1);
            seen.insert(disk[1024..2048].iter().position(|&b| b != 2).unwrap_or(1024));
            assert_eq!(cut(&bytes, 3, seed), (disk, lost), "a seed names one cut");
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 512, 1024], "lost, torn, kept");
    }

    #[test]
    fn a_cut_before_the_first_write_changes_nothing() {
        let bytes = log(&[(1, 0, &[1; 512]), (0, FLUSH, b"")]);
        assert_eq!(cut(&bytes, 0, 1).0, [0; 4096]);
    }

    #[test]
    fn a_log_that_breaks_off_ends_before_the_broken_entry() {
        let bytes = log(&[(1, 0, &[1; 512]), (0, FLUSH, b""), (2, 0, &[2; 1024])]);
        let (disk, lost) = cut(&bytes[..bytes.len() - 1], 3, 1);
        assert_eq!((&disk[1024..], lost.unflushed), (&[0; 3072][..], 0));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000), good_head: bool) {
            let mut bytes = bytes;
            if good_head {
                bytes.splice(0..bytes.len().min(512), log(&[]));
            }
            let folder = tempfile::tempdir().expect("a folder");
            let file = folder.path().join("log");
            fs::write_atomic(&file, &bytes).expect("writes");
            let _ = WriteLog::open(&file);
        }
    }
}
