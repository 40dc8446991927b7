//! Seeds on disks: the region of this machine's own disk, and volumes labelled `CIDATA` that somebody attached.
//!
//! In: sysfs, block devices. Out: bytes of `castiron.seed`, of which nothing is believed yet.
//!
//! The first boot can not wait for udev to have looked at every device, so a volume is known by its own first bytes.
//! Reading FAT and ISO 9660 is left to the kernel: it mounts a volume read-only, for as long as it takes to copy one file.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use zeroize::Zeroizing;

use crate::cidata;
use crate::fs;
use crate::node::machine::Machine;
use crate::region::{self, HEADER, Header, State};
use crate::seal;

const MOUNT: &str = "/run/castiron/cidata";
/// Where ISO 9660 has its first descriptor, and in it the volume's name (ECMA-119, 8.4).
const ISO_DESCRIPTOR: u64 = 32_768;

/// The region of the disk that `/var` is on, as a name in `/dev`; none where a disk was made without one.
pub fn own_region(machine: &Machine) -> Result<Option<String>> {
    let Some(var) = machine.mount("/var")? else { return Ok(None) };
    // A container's /var is on no partition.
    let Ok(partition) = machine.block_device(&var.device) else { return Ok(None) };
    let Some(disk) = partition.parent() else { return Ok(None) };
    for part in fs::list(disk)?.iter().filter(|part| part.join("partition").exists()) {
        let event = fs::read_to_string(&part.join("uevent"))?;
        let value = |key: &str| event.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        if value("PARTNAME") == Some(region::NAME) {
            return Ok(value("DEVNAME").map(str::to_owned));
        }
    }
    Ok(None)
}

/// The seed in the region `name`, if one is stamped.
pub fn in_region(machine: &Machine, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let path = machine.path("/dev").join(name);
    let reading = || format!("reading the seed's region `{}`", path.display());
    let mut file = fs::open(&path)?;
    let size = file.seek(SeekFrom::End(0)).with_context(reading)?;
    if header(&mut file, size).with_context(reading)?.stamp.is_none() {
        return Ok(None);
    }
    ensure!(size <= region::MAX, "the seed's region `{}` has {size} bytes: no region is so large", path.display());
    let mut bytes = Zeroizing::new(vec![0; size as usize]);
    file.rewind().and_then(|()| file.read_exact(&mut bytes)).with_context(reading)?;
    in_bytes(&bytes).with_context(reading)
}

/// The seed in the bytes of a region, if one is stamped.
pub fn in_bytes(bytes: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>> {
    match region::read(bytes)? {
        State::Unstamped(_) => Ok(None),
        State::Stamped(_, payload) => cidata::read_file(payload, seal::FILE).map(Some),
    }
}

fn header(file: &mut std::fs::File, size: u64) -> Result<Header> {
    let mut bytes = [0; HEADER];
    file.seek(SeekFrom::Start(size.saturating_sub(HEADER as u64)))?;
    file.read_exact(&mut bytes)?;
    Header::parse(&bytes, size)
}

/// Names in `/dev` of all volumes labelled `CIDATA`, but for the regions of castiron's own disks and media.
pub fn attached(machine: &Machine) -> Result<Vec<String>> {
    const OTHERS: [&str; 6] = ["loop", "ram", "zram", "fd", "dm-", "nbd"];
    let mut names = Vec::new();
    for path in fs::list(&machine.path("/sys/class/block"))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let device = machine.path("/dev").join(&name);
        // A drive without a medium can not be read, and is no error.
        if !OTHERS.iter().any(|other| name.starts_with(other)) && is_labelled(&device).unwrap_or(false) {
            names.push(name);
        }
    }
    Ok(names)
}

fn is_labelled(device: &Path) -> Result<bool> {
    let mut file = fs::open(device)?;
    let is_name = |bytes: &[u8]| bytes.trim_ascii_end().eq_ignore_ascii_case(region::NAME.as_bytes());
    let mut boot = [0; 512];
    file.read_exact(&mut boot)?;
    let mut descriptor = [0; 72];
    // FAT12 and FAT16 have their label at 43, FAT32 at 71 (Microsoft's FAT specification, 3.2 and 3.3).
    let fat = boot[510..] == [0x55, 0xaa] && (is_name(&boot[43..54]) || is_name(&boot[71..82]));
    let iso = !fat
        && file.seek(SeekFrom::Start(ISO_DESCRIPTOR)).and_then(|_| file.read_exact(&mut descriptor)).is_ok()
        && &descriptor[1..6] == b"CD001"
        && is_name(&descriptor[40..72]);
    if !fat && !iso {
        return Ok(false);
    }
    let size = file.seek(SeekFrom::End(0))?;
    Ok(header(&mut file, size).is_err())
}

/// The seed on the volume `name`; none if it has none, as a volume for cloud-init.
pub fn on_volume(machine: &Machine, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let volume = machine.path("/dev").join(name);
    let point = machine.path(MOUNT);
    fs::create_dir_all(&point)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID;
    let kinds = ["vfat", "iso9660"];
    if !kinds.iter().any(|kind| mount(Some(&volume), &point, Some(*kind), flags, None::<&str>).is_ok()) {
        bail!("it is neither FAT nor ISO 9660");
    }
    let bytes = read_seed(&point.join(seal::FILE));
    umount2(&point, MntFlags::MNT_DETACH).context("unmounting it")?;
    bytes
}

/// A file with a seed, if it is there.
pub fn read_seed(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>> {
    if !path.exists() {
        return Ok(None);
    }
    let size = fs::len(path)?;
    ensure!(size <= region::MAX, "`{}` has {size} bytes: no seed is so large", path.display());
    fs::read(path).map(|bytes| Some(Zeroizing::new(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cidata::Files;

    fn machine(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Machine) {
        let folder = tempfile::tempdir().expect("a folder");
        let machine = Machine::new(folder.path());
        for (path, bytes) in files {
            fs::write_atomic(&machine.path(path), bytes).expect("writes");
        }
        (folder, machine)
    }

    #[test]
    fn a_volume_is_known_by_its_label_and_a_region_is_none() {
        let volume = cidata::make(&Files::new(), 64 << 10).expect("makes");
        let mut region = region::unstamped(128 << 10);
        region[..volume.len()].copy_from_slice(&volume);
        let blank = vec![0; 40_000];
        let mut iso = blank.clone();
        iso[32_769..32_774].copy_from_slice(b"CD001");
        iso[32_808..32_840].fill(b' ');
        iso[32_808..32_814].copy_from_slice(b"cidata");
        let (_folder, machine) = machine(&[
            ("/sys/class/block/sda/dev", b"8:0"),
            ("/sys/class/block/sda1/dev", b"8:1"),
            ("/sys/class/block/sdb/dev", b"8:16"),
            ("/sys/class/block/sr0/dev", b"11:0"),
            ("/sys/class/block/sr1/dev", b"11:1"),
            ("/dev/sda", &blank),
            ("/dev/sda1", &region),
            ("/dev/sdb", &volume),
            ("/dev/sr0", &iso),
        ]);
        assert_eq!(attached(&machine).expect("looks"), ["sdb", "sr0"]);
    }
}
