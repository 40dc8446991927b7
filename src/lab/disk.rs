//! Raw disks from outside, without mounts: copying, growing, spoiling a byte, moving a slot from one disk to another.
//!
//! In: raw images with castiron's partitions. Out: the same file, changed.
//!
//! A slot is two partitions (`root-x`, `verity-x`) and the files of `/slots/x` on the ESP. Its partitions' UUIDs are the
//! halves of its root hash, which is how the initrd finds them, so whoever moves a slot sets them, too.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use fatfs::{FileSystem, FsOptions};
use fscommon::{BufStream, StreamSlice};
use gpt::GptConfig;
use serde::Deserialize;
use uuid::Uuid;

use crate::fs;
use crate::grubenv::{self, EnvBlock};

/// One of the two places for a root image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Slot {
    /// The one that a new disk boots.
    A,
    /// The other.
    B,
}

impl Slot {
    /// Its letter.
    pub fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// What of a slot can be spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The root partition.
    Root,
    /// The hash tree's partition.
    Verity,
    /// The kernel on the ESP.
    Kernel,
    /// The initrd on the ESP.
    Initrd,
}

// A slot's files on the ESP; there may be others beside them.
const KERNEL: &str = "vmlinuz";
const INITRD: &str = "initrd";
const SLOT_CONFIG: &str = "slot.cfg";
const CHUNK: u64 = 1 << 20;
const SECTOR: u64 = 512;

/// A raw disk.
pub struct RawDisk {
    path: PathBuf,
    file: File,
    writable: bool,
}

/// A part of a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its first byte.
    pub start: u64,
    /// How many bytes it has.
    pub length: u64,
}

impl RawDisk {
    /// Opens a disk for reading.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), file: fs::open(path)?, writable: false })
    }

    /// Opens a disk for changing it.
    pub fn open_rw(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), file: fs::open_rw(path)?, writable: true })
    }

    /// Where the partition with the label `label` lies.
    pub fn partition(&self, label: &str) -> Result<Extent> {
        let table = self.table(false)?;
        let found = table.partitions().values().find(|p| p.is_used() && p.name == label);
        let found = found.with_context(|| format!("`{}` has no partition `{label}`", self.path.display()))?;
        let sectors = (found.last_lba + 1).checked_sub(found.first_lba).context("a partition ends before it begins")?;
        Ok(Extent { start: found.first_lba * SECTOR, length: sectors * SECTOR })
    }

    /// A whole file of the ESP.
    pub fn read_esp(&self, name: &str) -> Result<Vec<u8>> {
        let esp = self.esp()?;
        let root = esp.root_dir();
        let mut bytes = Vec::new();
        root.open_file(name)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .with_context(|| format!("reading `{name}` on the ESP of `{}`", self.path.display()))?;
        Ok(bytes)
    }

    /// The kernel of a slot.
    pub fn kernel(&self, slot: Slot) -> Result<Vec<u8>> {
        self.read_esp(&on_esp(slot, KERNEL))
    }

    /// The root hash of a slot: the one word that its configuration sets.
    pub fn root_hash(&self, slot: Slot) -> Result<String> {
        let name = on_esp(slot, SLOT_CONFIG);
        let text = String::from_utf8(self.read_esp(&name)?).with_context(|| format!("`{name}` is no text"))?;
        let hash = text.lines().find_map(|line| line.trim().strip_prefix("set roothash="));
        let hash = hash.map(|h| h.trim_matches('"').to_owned()).unwrap_or_default();
        let right = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        ensure!(right, "`{name}` on `{}` sets no root hash of 64 hexadecimal digits", self.path.display());
        Ok(hash)
    }

    fn slot_files(&self, slot: Slot) -> Result<Vec<String>> {
        let esp = self.esp()?;
        let folder = format!("slots/{}", slot.letter());
        let reading = || format!("reading the folder `{folder}` on the ESP of `{}`", self.path.display());
        let entries = esp.root_dir().open_dir(&folder).with_context(reading)?;
        let mut names = Vec::new();
        for entry in entries.iter() {
            let entry = entry.with_context(reading)?;
            if entry.is_file() {
                names.push(entry.file_name());
            }
        }
        Ok(names)
    }

    /// Turns one bit of a slot over. `at` counts bytes from the part's beginning.
    pub fn flip(&self, slot: Slot, part: Part, at: u64) -> Result<()> {
        let letter = slot.letter();
        let name = match part {
            Part::Root => return self.flip_partition(&format!("root-{letter}"), at),
            Part::Verity => return self.flip_partition(&format!("verity-{letter}"), at),
            Part::Kernel => on_esp(slot, KERNEL),
            Part::Initrd => on_esp(slot, INITRD),
        };
        let esp = self.esp()?;
        let flipped = (|| {
            let mut byte = [0];
            let mut file = esp.root_dir().open_file(&name)?;
            file.seek(SeekFrom::Start(at))?;
            file.read_exact(&mut byte)?;
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&[byte[0] ^ 1])?;
            file.flush()
        })();
        flipped.with_context(|| format!("turning a bit over in byte {at} of `{name}`"))
    }

    /// Makes the checksum of the first partition table a wrong one.
    pub fn tear_table(&self) -> Result<()> {
        // UEFI 2.10, §5.3.2: the header is block 1, its CRC32 begins at its 16th byte.
        let (mut byte, place) = ([0], SECTOR + 16);
        self.file
            .read_exact_at(&mut byte, place)
            .and_then(|()| self.file.write_all_at(&[byte[0] ^ 1], place))
            .context("spoiling the first partition table")
    }

    fn flip_partition(&self, label: &str, at: u64) -> Result<()> {
        let extent = self.partition(label)?;
        ensure!(at < extent.length, "`{label}` has {} bytes: there is no byte {at}", extent.length);
        let mut byte = [0];
        let place = extent.start + at;
        self.file
            .read_exact_at(&mut byte, place)
            .and_then(|()| self.file.write_all_at(&[byte[0] ^ 1], place))
            .with_context(|| format!("turning a bit over in byte {at} of `{label}`"))
    }

    /// Makes the disk larger; what is new is empty, and belongs to no partition.
    pub fn grow(&self, size: u64) -> Result<()> {
        let now = fs::len(&self.path)?;
        ensure!(size >= now, "`{}` has {now} bytes already: it cannot be grown to {size}", self.path.display());
        self.file.set_len(size).with_context(|| format!("growing `{}`", self.path.display()))
    }

    /// Puts slot `from` of the disk `source` into this disk's slot `to`, with all its tries.
    pub fn put_slot(&self, source: &Self, from: Slot, to: Slot) -> Result<()> {
        let hash = source.root_hash(from)?;
        for kind in ["root", "verity"] {
            let (old, new) = (format!("{kind}-{}", from.letter()), format!("{kind}-{}", to.letter()));
            let (old, new) = (source.partition(&old)?, self.partition(&new)?);
            ensure!(old.length <= new.length, "the partition `{kind}` of the other release does not fit");
            copy_data(&source.file, old, &self.file, new.start)
                .with_context(|| format!("copying `{kind}` from `{}`", source.path.display()))?;
        }
        self.name_partitions(to, &hash)?;
        for name in source.slot_files(from)? {
            self.write_esp(&on_esp(to, &name), &source.read_esp(&on_esp(from, &name))?)?;
        }
        let mut env = EnvBlock::parse(&self.read_esp(grubenv::PATH)?)?;
        env.set(to.letter(), grubenv::TRIES)?;
        self.write_esp(grubenv::PATH, env.bytes())
    }

    /// Gives a slot's partitions the UUIDs that its root hash asks for.
    fn name_partitions(&self, slot: Slot, root_hash: &str) -> Result<()> {
        let mut table = self.table(true)?;
        let mut partitions = table.partitions().clone();
        for (kind, half) in [("root", &root_hash[..32]), ("verity", &root_hash[32..])] {
            let label = format!("{kind}-{}", slot.letter());
            let uuid = Uuid::parse_str(half).context("reading half a root hash as a UUID")?;
            if partitions.values().any(|p| p.part_guid == uuid && p.name != label) {
                bail!("both slots would hold the same root image: the other release must be another build");
            }
            let found = partitions.values_mut().find(|p| p.name == label);
            found.with_context(|| format!("there is no partition `{label}`"))?.part_guid = uuid;
        }
        table.update_partitions(partitions).context("changing the partition table")?;
        table.write_inplace().with_context(|| format!("writing the partition table of `{}`", self.path.display()))
    }

    fn write_esp(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let esp = self.esp()?;
        let written = (|| {
            let root = esp.root_dir();
            if let Some((folder, _)) = name.rsplit_once('/') {
                root.create_dir(folder)?;
            }
            let mut file = root.create_file(name)?;
            file.truncate()?;
            file.write_all(bytes)?;
            file.flush()
        })();
        written.with_context(|| format!("writing `{name}` to the ESP of `{}`", self.path.display()))
    }

    fn table(&self, writable: bool) -> Result<gpt::GptDisk<File>> {
        let file = self.file.try_clone().context("sharing a disk")?;
        GptConfig::new()
            .writable(writable)
            .open_from_device(file)
            .with_context(|| format!("reading the partition table of `{}`", self.path.display()))
    }

    fn esp(&self) -> Result<FileSystem<BufStream<StreamSlice<File>>>> {
        let extent = self.partition("esp")?;
        // A file description of its own, so that its position is nobody else's.
        let file = if self.writable { fs::open_rw(&self.path)? } else { fs::open(&self.path)? };
        StreamSlice::new(file, extent.start, extent.start + extent.length)
            .and_then(|slice| FileSystem::new(BufStream::new(slice), FsOptions::new()))
            .with_context(|| format!("reading the ESP of `{}`", self.path.display()))
    }
}

fn on_esp(slot: Slot, name: &str) -> String {
    format!("slots/{}/{name}", slot.letter())
}

/// Copies a disk; what was never written stays unwritten.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    fs::copy_sparse(&fs::open(from)?, &fs::create(to)?)
        .with_context(|| format!("copying `{}` to `{}`", from.display(), to.display()))
}

/// Whether two disks hold the same; where nothing was written there are zeros.
pub fn same_data(one: &Path, other: &Path) -> Result<bool> {
    let comparing = || format!("comparing `{}` with `{}`", one.display(), other.display());
    let length = fs::len(one)?;
    if fs::len(other)? != length {
        return Ok(false);
    }
    let (one, other) = (fs::open(one)?, fs::open(other)?);
    let mut buffers = [vec![0; CHUNK as usize], vec![0; CHUNK as usize]];
    // What one of them has written is compared with the other, both ways.
    for (from, to) in [(&one, &other), (&other, &one)] {
        let same = each_data(from, Extent { start: 0, length }, |at, part| {
            let [mine, theirs] = &mut buffers;
            from.read_exact_at(&mut mine[..part], at)?;
            to.read_exact_at(&mut theirs[..part], at)?;
            Ok(mine[..part] == theirs[..part])
        });
        if !same.with_context(comparing)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies the written parts of an extent.
fn copy_data(from: &File, extent: Extent, to: &File, start: u64) -> Result<()> {
    let mut buffer = vec![0; CHUNK as usize];
    each_data(from, extent, |at, length| {
        let part = &mut buffer[..length];
        from.read_exact_at(part, at)?;
        to.write_all_at(part, start + (at - extent.start))?;
        Ok(true)
    })
    .map(drop)
}

/// Calls `take` with the place and length of each written part of an extent, until it returns false.
fn each_data(file: &File, extent: Extent, mut take: impl FnMut(u64, usize) -> Result<bool>) -> Result<bool> {
    let end = extent.start + extent.length;
    let mut at = extent.start;
    while let Some(data) = fs::next_data(file, at)?.filter(|data| data.start < end) {
        at = data.start;
        while at < data.end.min(end) {
            let part = CHUNK.min(data.end.min(end) - at);
            if !take(at, part as usize)? {
                return Ok(false);
            }
            at += part;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpt::partition_types::{EFI, LINUX_FS};

    fn root_hash(seed: u8) -> String {
        format!("{seed:02x}").repeat(16) + &format!("{:02x}", seed + 1).repeat(16)
    }

    /// A disk of 48 MiB with castiron's partitions and a FAT file system, its slot A filled from `seed`.
    fn disk(folder: &Path, name: &str, seed: u8) -> RawDisk {
        let path = folder.join(name);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("creates");
        file.set_len(48 << 20).expect("grows");
        let mut table = GptConfig::new().writable(true).create_from_device(file, None).expect("makes a table");
        for (label, size, kind) in [
            ("esp", 36 << 20, EFI),
            ("root-a", 2 << 20, LINUX_FS),
            ("verity-a", 1 << 20, LINUX_FS),
            ("root-b", 2 << 20, LINUX_FS),
            ("verity-b", 1 << 20, LINUX_FS),
        ] {
            table.add_partition(label, size, kind, 0, None).expect("adds");
        }
        table.write().expect("writes");
        let disk = RawDisk::open_rw(&path).expect("opens");
        let esp = disk.partition("esp").expect("is there");
        let slice =
            StreamSlice::new(fs::open_rw(&path).expect("opens"), esp.start, esp.start + esp.length).expect("a slice");
        fatfs::format_volume(BufStream::new(slice), fatfs::FormatVolumeOptions::new()).expect("formats");
        {
            let fat = disk.esp().expect("opens");
            for folder in ["EFI", "EFI/ubuntu", "slots", "slots/a", "slots/b"] {
                fat.root_dir().create_dir(folder).expect("makes");
            }
        }
        let hash = root_hash(seed);
        disk.write_esp("slots/a/slot.cfg", format!("set roothash={hash}\n").as_bytes()).expect("writes");
        disk.write_esp("slots/a/vmlinuz", &vec![seed; 5000]).expect("writes");
        disk.write_esp("slots/a/initrd", b"initrd").expect("writes");
        disk.write_esp(grubenv::PATH, EnvBlock::of_new_disk().bytes()).expect("writes");
        let root = disk.partition("root-a").expect("is there");
        disk.file.write_all_at(&vec![seed; 10_000], root.start).expect("writes");
        disk
    }

    #[test]
    fn a_slot_moves_with_its_names_its_files_and_its_tries() {
        let folder = tempfile::tempdir().expect("a folder");
        let (ours, other) = (disk(folder.path(), "ours", 0x11), disk(folder.path(), "other", 0x22));
        ours.put_slot(&other, Slot::A, Slot::B).expect("moves");
        assert_eq!(ours.root_hash(Slot::B).expect("has one"), root_hash(0x22));
        assert_eq!(ours.kernel(Slot::B).expect("has one"), vec![0x22; 5000]);
        assert_eq!(ours.kernel(Slot::A).expect("still has one"), vec![0x11; 5000]);
        let env = EnvBlock::parse(&ours.read_esp(grubenv::PATH).expect("reads")).expect("parses");
        assert_eq!([env.get("a"), env.get("b")], [Some("3".into()), Some("3".into())]);
        let mut bytes = [0; 10_000];
        ours.file.read_exact_at(&mut bytes, ours.partition("root-b").expect("is there").start).expect("reads");
        assert_eq!(bytes, [0x22; 10_000]);
        let table = ours.table(false).expect("reads");
        let uuid = |label: &str| table.partitions().values().find(|p| p.name == label).expect("is there").part_guid;
        assert_eq!(uuid("root-b"), Uuid::from_bytes([0x22; 16]));
        assert_eq!(uuid("verity-b"), Uuid::from_bytes([0x23; 16]));
    }

    #[test]
    fn the_same_build_is_never_in_both_slots() {
        let folder = tempfile::tempdir().expect("a folder");
        let (ours, other) = (disk(folder.path(), "ours", 0x11), disk(folder.path(), "other", 0x22));
        ours.put_slot(&other, Slot::A, Slot::A).expect("moves");
        let error = ours.put_slot(&other, Slot::A, Slot::B).expect_err("is refused");
        assert!(error.to_string().contains("another build"), "{error}");
    }

    #[test]
    fn a_flip_changes_one_bit_and_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let ours = disk(folder.path(), "ours", 0x11);
        let before = fs::read(&ours.path).expect("reads");
        for (part, at) in [(Part::Root, 9), (Part::Verity, 0), (Part::Kernel, 4999), (Part::Initrd, 1)] {
            ours.flip(Slot::A, part, at).expect("flips");
            let after = fs::read(&ours.path).expect("reads");
            let bits: u32 = before.iter().zip(&after).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!(bits, 1, "{part:?}");
            ours.flip(Slot::A, part, at).expect("flips back");
        }
        assert!(ours.flip(Slot::A, Part::Kernel, 5000).is_err());
        assert!(ours.flip(Slot::A, Part::Root, 2 << 20).is_err());
    }

    #[test]
    fn a_copy_is_equal_and_as_sparse() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let ours = disk(folder.path(), "ours", 0x11);
        let copy = folder.path().join("copy");
        copy_sparse(&ours.path, &copy).expect("copies");
        assert_eq!(fs::read(&ours.path).expect("reads"), fs::read(&copy).expect("reads"));
        assert!(std::fs::metadata(&copy).expect("is there").blocks() * 512 < 20 << 20);
    }
}
