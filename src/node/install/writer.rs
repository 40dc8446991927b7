//! Writes a role's disk, so that a cut at any moment leaves a disk that is as good as empty, or a whole one.
//!
//! In: the medium, the map of a role's disk, the disk. Out: a disk that holds, byte for byte, what the release says.
//!
//! 1. The disk's first MiB and its end become zero: from here on it is nobody's.
//! 2. Everything but the first MiB is written; each segment's digest is checked before its bytes go anywhere.
//! 3. All of it is flushed, dropped from memory, read back and compared.
//! 4. The backup table at the disk's end, then the first MiB, each flushed: now it is a disk with something on it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::table::{self, HEAD, Slice, TAIL, Table};
use crate::digest::Sha256;
use crate::error::{Failure, Kind};
use crate::fs;
use crate::medium::{SEGMENT_MAX, Segment};

/// What is being done; with the bytes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Bytes of the medium go to the disk.
    Write,
    /// Bytes of the disk are read back.
    Compare,
}

/// Bytes of one region that are not the image's: the seed.
#[derive(Clone, Debug)]
pub struct Extra<'a> {
    /// The label of the partition that they are for.
    pub label: &'a str,
    /// They fill it.
    pub bytes: &'a [u8],
}

/// Writes the disk, and says which partitions it has. `progress` is told the bytes that each phase has done of all that it has
/// to do.
pub fn write(
    medium: &Path,
    map: &[Segment],
    extra: Option<&Extra<'_>>,
    disk: &File,
    size: u64,
    mut progress: impl FnMut(Phase, u64, u64),
) -> Result<Vec<Slice>> {
    let mut source = Source { medium, open: None };
    let mut buffer = vec![0; SEGMENT_MAX as usize];

    let mut head = vec![0; HEAD as usize];
    for segment in map.iter().filter(|segment| segment.at < HEAD) {
        let bytes = source.read(segment, &mut buffer)?;
        let end = segment.at + segment.len;
        let kept = end.min(HEAD) - segment.at;
        head[segment.at as usize..][..kept as usize].copy_from_slice(&bytes[..kept as usize]);
    }
    let table = table::fit(&head, size)?;
    let extra = extra.map(|extra| place(extra, &table)).transpose()?;
    // What the image has in the seed's place is the release's empty region.
    let is_kept = |segment: &&Segment| {
        extra.is_none_or(|(at, bytes)| segment.at + segment.len <= at || segment.at >= at + bytes.len() as u64)
    };
    let map: Vec<Segment> = map.iter().filter(is_kept).cloned().collect();
    let total = map.iter().map(|segment| segment.len).sum();

    put(disk, 0, &vec![0; HEAD as usize])?;
    put(disk, size - TAIL, &vec![0; TAIL as usize])?;
    flush(disk)?;
    clear_old(disk, &map, &table)?;
    progress(Phase::Write, 0, total);
    let mut done = 0;
    for segment in &map {
        let bytes = source.read(segment, &mut buffer)?;
        let skipped = HEAD.saturating_sub(segment.at).min(segment.len);
        put(disk, segment.at + skipped, &bytes[skipped as usize..])?;
        done += segment.len;
        progress(Phase::Write, done, total);
    }
    if let Some((at, bytes)) = extra {
        put(disk, at, bytes)?;
    }
    flush(disk)?;

    progress(Phase::Compare, 0, total);
    done = 0;
    for segment in &map {
        let skipped = HEAD.saturating_sub(segment.at).min(segment.len);
        if skipped == 0 {
            let bytes = get(disk, segment.at, &mut buffer[..segment.len as usize])?;
            if Sha256::of(bytes) != segment.sha256 {
                return Err(read_back_differs(segment.at, segment.len));
            }
        }
        done += segment.len;
        progress(Phase::Compare, done, total);
    }
    if let Some((at, bytes)) = extra {
        let mut found = vec![0; bytes.len()];
        if get(disk, at, &mut found)? != bytes {
            return Err(read_back_differs(at, bytes.len() as u64));
        }
    }

    put(disk, size - TAIL, &table.tail)?;
    flush(disk)?;
    // All but the first block's neighbours first would gain nothing: a torn table is no table, and the backup is whole.
    put(disk, 0, &table.head)?;
    flush(disk)?;
    let mut found = vec![0; HEAD as usize];
    if get(disk, 0, &mut found)? != table.head {
        return Err(read_back_differs(0, HEAD));
    }
    Ok(table.slices)
}

/// Makes a disk that was written nobody's again.
pub fn forget(disk: &File) -> Result<()> {
    put(disk, 0, &vec![0; HEAD as usize])?;
    flush(disk)
}

fn read_back_differs(at: u64, len: u64) -> anyhow::Error {
    Failure::new(Kind::Integrity, format!("the disk gives back other bytes than were written: {len} bytes at {at}"))
        .hint("replace the disk, or look at its controller and cabling; what was on it is gone, and it starts nothing")
        .into()
}

/// Zeros where a partition of the image begins and the image has nothing: what was there before must not be found in it.
fn clear_old(disk: &File, map: &[Segment], table: &Table) -> Result<()> {
    let zeros = vec![0; HEAD as usize];
    for slice in table.slices.iter().filter(|slice| slice.start >= HEAD) {
        let end = slice.start + slice.len.min(zeros.len() as u64);
        let mut at = slice.start;
        let covering = map.iter().filter(|segment| segment.at < end && segment.at + segment.len > slice.start);
        for segment in covering {
            if segment.at > at {
                put(disk, at, &zeros[..(segment.at - at) as usize])?;
            }
            at = at.max(segment.at + segment.len);
        }
        if end > at {
            put(disk, at, &zeros[..(end - at) as usize])?;
        }
    }
    Ok(())
}

fn place<'a>(extra: &Extra<'a>, table: &Table) -> Result<(u64, &'a [u8])> {
    let slice = table.slices.iter().find(|slice| slice.label == extra.label);
    let slice = slice.with_context(|| format!("the image has no partition `{}`", extra.label))?;
    if slice.len != extra.bytes.len() as u64 {
        bail!("the partition `{}` has {} bytes, what is to fill it has {}", extra.label, slice.len, extra.bytes.len());
    }
    Ok((slice.start, extra.bytes))
}

/// What the medium gives is not what was put there.
pub(super) fn damaged(what: &str) -> anyhow::Error {
    Failure::new(Kind::Integrity, format!("the medium is damaged: {what}"))
        .hint("write or copy the medium again, or attach it to another port")
        .into()
}

/// The medium's files, one open at a time.
struct Source<'a> {
    medium: &'a Path,
    open: Option<(String, File)>,
}

impl Source<'_> {
    /// A segment's bytes, checked.
    fn read<'b>(&mut self, segment: &Segment, buffer: &'b mut [u8]) -> Result<&'b [u8]> {
        let path = self.medium.join(&segment.file);
        let here =
            |why: &str| damaged(&format!("`{}`, {} bytes at {}: {why}", segment.file, segment.len, segment.from));
        if self.open.as_ref().is_none_or(|(name, _)| *name != segment.file) {
            self.open = Some((segment.file.clone(), fs::open(&path)?));
        }
        let file = self.open.as_ref().map(|(_, file)| file).context("the medium's file was opened")?;
        let bytes = &mut buffer[..segment.len as usize];
        file.read_exact_at(bytes, segment.from).map_err(|error| here(&error.to_string()))?;
        if Sha256::of(&bytes) != segment.sha256 {
            return Err(here("they are not what the release says"));
        }
        Ok(bytes)
    }
}

fn put(disk: &File, at: u64, bytes: &[u8]) -> Result<()> {
    disk.write_all_at(bytes, at).with_context(|| format!("writing {} bytes at {at} of the disk", bytes.len()))
}

fn get<'b>(disk: &File, at: u64, bytes: &'b mut [u8]) -> Result<&'b [u8]> {
    disk.read_exact_at(bytes, at).with_context(|| format!("reading back {} bytes at {at} of the disk", bytes.len()))?;
    Ok(bytes)
}

/// To the disk itself, and out of memory, so that what is read next comes from the disk.
fn flush(disk: &File) -> Result<()> {
    disk.sync_all().context("flushing the disk")?;
    posix_fadvise(disk, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).context("dropping the disk's bytes from memory")
}
