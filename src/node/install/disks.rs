//! The machine's disks, and what is on them, from sysfs and udev's own records: nothing is opened, nothing can be changed.
//!
//! In: [`Machine`]. Out: [`Disk`]s, sorted by name. Sources: `/sys/block`, `/run/udev/data/b<major>:<minor>` (written by
//! systemd-udevd 255 with what its rules and libblkid found), `/proc/1/mountinfo`, `/proc/swaps`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::fs;
use crate::node::machine::Machine;
use crate::region;

/// A disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Its name in `/dev`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical block.
    pub block: u64,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its serial number with model and vendor before it, as udev's `ID_SERIAL` has it.
    pub long_serial: Option<String>,
    /// Its World Wide Name.
    pub wwn: Option<String>,
    /// Its model.
    pub model: Option<String>,
    /// Its vendor.
    pub vendor: Option<String>,
    /// Where it is plugged in: udev's `ID_PATH`.
    pub id_path: Option<String>,
    /// Its device in `/sys`, without `/sys`.
    pub devpath: Option<String>,
    /// Whether it does not turn.
    pub ssd: bool,
    /// Its names in `/dev/disk/by-path`.
    pub by_path: Vec<String>,
    /// Whether nothing can be written to it.
    pub read_only: bool,
    /// Whether its medium can be taken out.
    pub removable: bool,
    /// Who holds it: `mounted at /x`, `used by dm-0`, `the installer medium`. Whatever is held is left alone.
    pub held: Vec<String>,
    /// What udev found on it as a whole: `a dos partition table`, `an ext4 filesystem`.
    pub content: Option<String>,
    /// Its partitions.
    pub partitions: Vec<Partition>,
}

/// A partition of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// Its name in `/dev`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Its GPT label.
    pub label: Option<String>,
    /// Its GPT type, in small letters.
    pub kind: Option<String>,
    /// Its own UUID in the GPT, in small letters.
    pub uuid: Option<String>,
    /// What udev found in it: `an LVM2_member`, `an ext4 filesystem`.
    pub content: Option<String>,
}

impl Disk {
    /// Everything that somebody may miss when the disk is written over; empty on a new disk.
    pub fn data(&self) -> Vec<String> {
        let parts = self.partitions.iter().map(|part| {
            let label = part.label.as_ref().map(|label| format!(" `{label}`")).unwrap_or_default();
            let content = part.content.as_deref().unwrap_or("nothing that is known");
            format!("{}{label}: {content}", part.name)
        });
        self.content.iter().cloned().chain(parts).collect()
    }
}

/// Waits until udev has looked at every block device that the kernel has found; an error names those it never looked at.
pub fn settle(machine: &Machine) -> Result<()> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    loop {
        let mut unknown = Vec::new();
        for path in fs::list(&machine.path("/sys/class/block"))? {
            let Some(device) = attribute(&path, "dev") else { continue };
            if !machine.path(format!("/run/udev/data/b{device}")).exists() {
                unknown.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "udev says nothing of {} after {} s: nobody knows what is on it",
            unknown.join(", "),
            SETTLE_LIMIT.as_secs()
        );
        std::thread::sleep(SETTLE_AGAIN);
    }
}

/// Waits until the partitions of a disk that was just written are known: udev reads its table anew when the writer lets go of it.
pub fn partitioned(machine: &Machine, name: &str) -> Result<()> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    let path = machine.path("/sys/block").join(name);
    while !fs::list(&path)?.iter().any(|entry| entry.join("partition").exists()) {
        ensure!(
            Instant::now() < deadline,
            "the kernel sees no partition of `{name}`, which was written {} s ago",
            SETTLE_LIMIT.as_secs()
        );
        std::thread::sleep(SETTLE_AGAIN);
    }
    settle(machine)
}

/// Disks that spin up and controllers that count their ports take their time.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
const SETTLE_AGAIN: Duration = Duration::from_millis(200);

/// All disks but those that are none: loop devices, RAM, CD drives, and what is made of other disks.
pub fn list(machine: &Machine) -> Result<Vec<Disk>> {
    let mounts = machine.read("/proc/1/mountinfo").unwrap_or_default();
    let swaps = machine.read("/proc/swaps").unwrap_or_default();
    let mut disks = Vec::new();
    for path in fs::list(&machine.path("/sys/block"))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let made = ["loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd"];
        if made.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let disk =
            read(machine, &path, &name, &mounts, &swaps).with_context(|| format!("looking at the disk `{name}`"))?;
        disks.extend(disk);
    }
    Ok(disks)
}

fn read(machine: &Machine, path: &Path, name: &str, mounts: &str, swaps: &str) -> Result<Option<Disk>> {
    let Some(size) = number(path, "size").filter(|blocks| *blocks > 0) else { return Ok(None) };
    let Some(device) = attribute(path, "dev") else { return Ok(None) };
    let records = Records::read(machine, &device);
    let mut disk = Disk {
        name: name.to_owned(),
        size: size * 512,
        block: number(path, "queue/logical_block_size").unwrap_or(512),
        // As `lsblk` has it, and the label on the disk: of a SCSI disk the other two are its WWN.
        serial: records
            .first(&["ID_SCSI_SERIAL", "ID_SERIAL_SHORT", "ID_SERIAL"])
            .or_else(|| attribute(path, "serial")),
        long_serial: records.first(&["ID_SERIAL"]),
        vendor: records.first(&["ID_VENDOR"]).or_else(|| attribute(path, "device/vendor")),
        id_path: records.first(&["ID_PATH"]),
        devpath: path.canonicalize().ok().and_then(|real| {
            let sys = machine.path("/sys").canonicalize().ok()?;
            Some(format!("/{}", real.strip_prefix(sys).ok()?.display()))
        }),
        ssd: number(path, "queue/rotational") == Some(0),
        wwn: records.first(&["ID_WWN_WITH_EXTENSION", "ID_WWN"]).or_else(|| attribute(path, "wwid")),
        model: records.first(&["ID_MODEL"]).or_else(|| attribute(path, "device/model")),
        by_path: records.links("disk/by-path/"),
        read_only: number(path, "ro") == Some(1),
        removable: number(path, "removable") == Some(1),
        held: held(path, name, &device, mounts, swaps),
        content: records.content(),
        partitions: Vec::new(),
    };
    for path in fs::list(path)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (true, Some(device)) = (path.join("partition").exists(), attribute(&path, "dev")) else { continue };
        let records = Records::read(machine, &device);
        disk.held.extend(held(&path, &name, &device, mounts, swaps));
        disk.partitions.push(Partition {
            size: number(&path, "size").unwrap_or(0) * 512,
            label: records.first(&["ID_PART_ENTRY_NAME"]).map(|name| decoded(&name)),
            kind: records.first(&["ID_PART_ENTRY_TYPE"]).map(|kind| kind.to_lowercase()),
            uuid: records.first(&["ID_PART_ENTRY_UUID"]).map(|uuid| uuid.to_lowercase()),
            // Not its table: udev repeats the disk's, and takes a boot sector for one.
            content: records.filesystem(),
            name,
        });
    }
    disk.partitions.sort_by_key(|part| (part.name.len(), part.name.clone()));
    Ok(Some(disk))
}

/// Who uses a device: mounts, swap, and devices that are made of it (LVM, RAID, verity).
fn held(path: &Path, name: &str, device: &str, mounts: &str, swaps: &str) -> Vec<String> {
    // mountinfo: id, parent, major:minor, root, mount point (proc_pid_mountinfo(5)).
    let mounted = mounts.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(2) == Some(&device)).then(|| fields.get(4).copied().unwrap_or_default())
    });
    let mounted = mounted.map(|point| match point {
        MEDIUM => format!("{name} is the installer medium"),
        point => format!("{name} is mounted at {point}"),
    });
    let holders = fs::list(&path.join("holders")).unwrap_or_default();
    let holders =
        holders.iter().map(|holder| format!("{name} is used by {}", holder.file_name().unwrap_or_default().display()));
    let swap = swaps.lines().any(|line| line.split_whitespace().next() == Some(&format!("/dev/{name}")));
    mounted.chain(holders).chain(swap.then(|| format!("{name} is swap space"))).collect()
}

/// Devices with a filesystem that is labelled so, but for the regions of castiron's own disks and media.
pub fn labelled(machine: &Machine, label: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for path in fs::list(&machine.path("/sys/class/block"))? {
        let Some(device) = attribute(&path, "dev") else { continue };
        let records = Records::read(machine, &device);
        let is_region = records.first(&["ID_PART_ENTRY_TYPE"]).as_deref() == Some(region::TYPE);
        if records.first(&["ID_FS_LABEL"]).as_deref() == Some(label) && !is_region {
            names.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// Where the initrd mounts the medium.
pub const MEDIUM: &str = "/run/castiron/medium";

/// What udev wrote about a device.
struct Records {
    values: BTreeMap<String, String>,
    links: Vec<String>,
}

impl Records {
    fn read(machine: &Machine, device: &str) -> Self {
        let text = machine.read(format!("/run/udev/data/b{device}")).unwrap_or_default();
        let mut records = Self { values: BTreeMap::new(), links: Vec::new() };
        for line in text.lines() {
            if let Some((key, value)) = line.strip_prefix("E:").and_then(|rest| rest.split_once('=')) {
                records.values.insert(key.to_owned(), value.trim().to_owned());
            } else if let Some(link) = line.strip_prefix("S:") {
                records.links.push(link.to_owned());
            }
        }
        records.links.sort();
        records
    }

    fn first(&self, keys: &[&str]) -> Option<String> {
        keys.iter().filter_map(|key| self.values.get(*key)).find(|value| !value.is_empty()).cloned()
    }

    fn links(&self, folder: &str) -> Vec<String> {
        self.links.iter().filter_map(|link| link.strip_prefix(folder)).map(str::to_owned).collect()
    }

    fn content(&self) -> Option<String> {
        let table = || self.first(&["ID_PART_TABLE_TYPE"]).map(|kind| format!("a partition table ({kind})"));
        self.filesystem().or_else(table)
    }

    fn filesystem(&self) -> Option<String> {
        let label = self.first(&["ID_FS_LABEL"]).map(|label| format!(" `{label}`")).unwrap_or_default();
        let kind = self.first(&["ID_FS_TYPE"])?;
        // `raid`, `crypto`, `filesystem`, `other` (libblkid); members of LVM, RAID and ZFS are of the usage `raid`.
        Some(match self.first(&["ID_FS_USAGE"]).as_deref() {
            Some("raid") => format!("a part of {kind}{label}"),
            Some("crypto") => format!("an encrypted volume ({kind}){label}"),
            _ => format!("a filesystem ({kind}){label}"),
        })
    }
}

/// A name as udev writes it, in which `\x20` stands for a space (systemd 255, src/basic/string-util.c, `encode_devnode_name`).
fn decoded(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = rest.strip_prefix(b"\\x").and_then(|hex| std::str::from_utf8(hex.get(..2)?).ok());
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &rest[4..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn attribute(path: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(&path.join(name)).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn number(path: &Path, name: &str) -> Option<u64> {
    attribute(path, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn names_of_partitions_are_as_people_wrote_them() {
        assert_eq!(decoded("Basic\\x20data\\x20partition"), "Basic data partition");
        assert_eq!(decoded("\\xc3\\xa4 \\x5c \\xzz \\x2"), "\u{e4} \\ \\xzz \\x2");
    }
}
