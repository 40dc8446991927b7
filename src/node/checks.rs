//! What makes a machine healthy, one function a check: what was found, or what is wrong.
//!
//! Runs: `systemctl`, `journalctl`, `veritysetup`, `ip`, `systemd-networkd-wait-online`. Everything else is read from /proc, /sys, /etc, /var and /efi.

use std::fmt::Write as _;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::fs;
use crate::grubenv::EnvBlock;
use crate::node::config::outcome::Outcome;
use crate::node::machine::Machine;
use crate::node::mounts::Mount;
use crate::node::slot::{self, Slot};
use crate::node::tool;

/// udev's link to the partition of /var.
const VAR_BY_NAME: &str = "/dev/disk/by-partlabel/var";

/// Where the upper side of /etc lies.
const ETC_UPPER: &str = "/var/lib/overlay/etc/upper";

/// What a partition may leave free at the disk's end: the second partition table and alignment.
const SLACK: u64 = 4 << 20;

/// A unit and its last words, as many as a verdict can carry.
const UNITS: usize = 10;
const LAST_LINES: &str = "5";

/// How long a network may take: a bond of two cards negotiates for some seconds. In seconds.
const NETWORK_TIMEOUT: &str = "--timeout=30";

/// The state of the whole system is `running`; `wait` lets its boot end first.
pub(crate) fn system_running(wait: bool) -> Result<String> {
    let waiting: &[&str] = if wait { &["--wait"] } else { &[] };
    // Its exit code repeats the word.
    let said = tool::run(&[&["systemctl", "is-system-running"], waiting].concat())?;
    let state = said.out.trim().to_owned();
    ensure!(!state.is_empty(), "{:#}", said.success().err().context("`systemctl is-system-running` said nothing")?);
    ensure!(state == "running", "the system is `{state}`");
    Ok(state)
}

/// The seed, if there is one, was taken as it is.
pub(crate) fn seed(outcome: Outcome) -> Result<String> {
    ensure!(outcome.problems.is_empty(), "{}: {}", outcome.who(), outcome.problems.join("; "));
    let from = outcome.node.as_ref().map(|node| format!(", seed {} from {}", node.serial, node.source));
    Ok(format!("{}{}", outcome.who(), from.unwrap_or_default()))
}

/// Waits until the site's network stands, which no unit of the boot waits for: what this machine says of its addresses is then
/// not a matter of who was faster. A cable that is not plugged in ends the waiting, and is no fault of the machine.
pub(crate) fn let_network_settle() {
    let _ = tool::run(&["/usr/lib/systemd/systemd-networkd-wait-online", "--quiet", NETWORK_TIMEOUT]);
}

#[derive(Deserialize)]
struct Link {
    ifname: String,
    addr_info: Vec<LinkAddress>,
}

#[derive(Deserialize)]
struct LinkAddress {
    local: std::net::IpAddr,
    scope: String,
}

/// The addresses that others reach this machine by: `nic0 192.0.2.11, nic0 2001:db8::11`.
pub(crate) fn addresses() -> Result<String> {
    let said = tool::run(&["ip", "-json", "address"])?.success()?;
    let links: Vec<Link> = serde_json::from_str(&said).context("reading what `ip address` said")?;
    let all = links.iter().flat_map(|link| link.addr_info.iter().map(move |address| (link, address)));
    let told = all.filter(|(_, address)| address.scope == "global");
    Ok(told.map(|(link, address)| format!("{} {}", link.ifname, address.local)).collect::<Vec<_>>().join(", "))
}

#[derive(Deserialize)]
struct Unit {
    unit: String,
}

/// No unit has failed.
pub(crate) fn no_failed_unit() -> Result<String> {
    let said = tool::run(&["systemctl", "list-units", "--state=failed", "--all", "--output=json"])?.success()?;
    let units: Vec<Unit> = serde_json::from_str(&said).context("reading what `systemctl list-units` said")?;
    if units.is_empty() {
        return Ok("none".to_owned());
    }
    let told: Vec<String> = units.iter().take(UNITS).map(|unit| last_words(&unit.unit)).collect();
    let more = units.len().saturating_sub(UNITS);
    let more = if more > 0 { format!("\nand {more} more") } else { String::new() };
    bail!("{}{more}", told.join("\n"));
}

fn last_words(unit: &str) -> String {
    let journal = ["journalctl", "--boot", "--no-pager", "--output=cat", "--lines", LAST_LINES, "--unit", unit];
    let words = tool::run(&journal).and_then(tool::Said::success).unwrap_or_else(|error| format!("{error:#}"));
    let words = words.lines().map(|line| format!("  | {}", line.chars().take(300).collect::<String>()));
    [format!("`{unit}` failed")].into_iter().chain(words).collect::<Vec<_>>().join("\n")
}

/// `/` lies on an active, undamaged dm-verity device with the root hash that the kernel was given.
pub(crate) fn verity(machine: &Machine) -> Result<String> {
    let root = mounted(machine, "/")?;
    let device = machine.block_device(&root.device)?;
    let uuid = fs::read_to_string(&device.join("dm/uuid")).unwrap_or_default();
    ensure!(uuid.starts_with("CRYPT-VERITY-"), "`/` is on `{}`, which is no dm-verity device", root.source);
    let name = fs::read_to_string(&device.join("dm/name"))?;
    let said = tool::run(&["veritysetup", "status", name.trim()])?.success()?;
    let field = |wanted: &str| {
        let found = said.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == wanted);
        found.map(|(_, value)| value.trim()).with_context(|| format!("`veritysetup status` names no `{wanted}`"))
    };
    ensure!(field("type")? == "VERITY", "`veritysetup status` says that the type is `{}`", field("type")?);
    ensure!(field("status")? == "verified", "dm-verity says that `/` is {}", field("status")?);
    ensure!(field("mode")? == "readonly", "the dm-verity device is {}", field("mode")?);
    let wanted = machine.kernel_argument("roothash")?.context("the kernel command line has no `roothash=`")?;
    let found = field("root hash")?;
    ensure!(found == wanted, "the root hash is `{found}`, but the kernel command line says `{wanted}`");
    let flags = field("flags").unwrap_or("none");
    Ok(format!("{} on `{}`, verified, root hash {found}, flags: {flags}", root.kind, root.source))
}

/// What /var is.
pub(crate) struct Var {
    /// Length of its filesystem in bytes.
    pub(crate) bytes: u64,
    /// UUID of its filesystem: another one means that /var was made anew.
    pub(crate) uuid: String,
    found: String,
}

impl Var {
    /// For people.
    pub(crate) fn found(&self) -> String {
        self.found.clone()
    }
}

/// /var is mounted writable from the disk's own `var` partition, which reaches the disk's end and is filled by its filesystem.
pub(crate) fn var(machine: &Machine) -> Result<Var> {
    let mount = mounted(machine, "/var")?;
    let source = &mount.source;
    ensure!(mount.kind == "ext4", "`/var` is {} from `{source}`, not ext4", mount.kind);
    ensure!(mount.is_writable(), "`/var` is read-only");
    let partition = machine.block_device(&mount.device)?;
    let node = device_node(machine, &partition)?;
    // udev's name for it: the kernel's own is not known of a partition that was made since it read the table.
    let named = machine.path(VAR_BY_NAME).canonicalize().with_context(|| format!("following `{VAR_BY_NAME}`"))?;
    ensure!(
        Some(&named) == node.canonicalize().ok().as_ref(),
        "`/var` is on `{source}`, which is no partition named `var`"
    );
    let disk = partition.parent().context("the partition has no disk")?;
    let root_disks = root_disks(machine)?;
    ensure!(root_disks.iter().all(|root| root == disk), "`/var` is on `{source}`, another disk than `/`");

    let start = sectors(&partition.join("start"))?;
    let size = sectors(&partition.join("size"))?;
    let rest = sectors(&disk.join("size"))?.saturating_sub(start + size);
    ensure!(rest <= SLACK, "the partition of `/var` leaves {rest} bytes free at the disk's end");
    let Ext4 { bytes, uuid } = ext4(&node)?;
    ensure!(
        bytes <= size && size - bytes < 1 << 20,
        "the filesystem of `/var` has {bytes} bytes, its partition {size}"
    );
    Ok(Var { bytes, uuid, found: format!("ext4 from `{source}`, writable, {bytes} bytes, up to the disk's end") })
}

fn device_node(machine: &Machine, device: &Path) -> Result<PathBuf> {
    let event = fs::read_to_string(&device.join("uevent"))?;
    let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let name = name.with_context(|| format!("`{}` names no device node", device.display()))?;
    Ok(machine.path(Path::new("/dev").join(name)))
}

/// The disks that hold root image and hash tree.
fn root_disks(machine: &Machine) -> Result<Vec<PathBuf>> {
    let device = machine.block_device(&mounted(machine, "/")?.device)?;
    let below = fs::list(&device.join("slaves"))?;
    below
        .iter()
        .map(|link| {
            let partition = link.canonicalize().with_context(|| format!("following `{}`", link.display()))?;
            Ok(partition.parent().context("the partition has no disk")?.to_owned())
        })
        .collect()
}

/// A number of 512-byte sectors, as sysfs counts whatever the disk's own are, in bytes.
fn sectors(path: &Path) -> Result<u64> {
    let text = fs::read_to_string(path)?;
    let count: u64 = text.trim().parse().with_context(|| format!("reading `{}`", path.display()))?;
    Ok(count * 512)
}

struct Ext4 {
    bytes: u64,
    uuid: String,
}

/// Length and UUID of an ext4 filesystem, from its superblock (kernel documentation, `filesystems/ext4/super`).
///
/// statvfs() would do but for the overhead that it takes off, which hides a filesystem that was grown only in part.
fn ext4(device: &Path) -> Result<Ext4> {
    let reading = || format!("reading the superblock of `{}`", device.display());
    let mut file = fs::open(device)?;
    file.seek(SeekFrom::Start(1024)).with_context(reading)?;
    let mut superblock = [0; 1024];
    file.read_exact(&mut superblock).with_context(reading)?;
    let number = |at: usize| u64::from(u32::from_le_bytes(superblock[at..at + 4].try_into().expect("has four bytes")));
    ensure!(superblock[0x38..0x3a] == [0x53, 0xef], "`{}` holds no ext4 filesystem", device.display());
    let is_64_bit = number(0x60) & 0x80 != 0;
    let blocks = number(0x04) | if is_64_bit { number(0x150) << 32 } else { 0 };
    let shift = 10 + number(0x18);
    let bytes = blocks.checked_mul(1_u64.checked_shl(shift as u32).unwrap_or(0));
    let mut uuid = String::new();
    for byte in &superblock[0x68..0x78] {
        let _ = write!(uuid, "{byte:02x}");
    }
    for hyphen in [20, 16, 12, 8] {
        uuid.insert(hyphen, '-');
    }
    Ok(Ext4 { bytes: bytes.context("has no sane length").with_context(reading)?, uuid })
}

/// /etc is the overlay whose upper side lies on /var.
pub(crate) fn etc(machine: &Machine) -> Result<String> {
    let mount = mounted(machine, "/etc")?;
    ensure!(mount.kind == "overlay", "`/etc` is {} from `{}`, not an overlay", mount.kind, mount.source);
    ensure!(mount.is_writable(), "`/etc` is read-only");
    // The initrd mounted it and names its folders as it saw them, below `/sysroot`.
    let upper = mount.option("upperdir").unwrap_or_default();
    ensure!(upper.ends_with(ETC_UPPER), "the upper side of `/etc` is `{upper}`, not `{ETC_UPPER}`");
    Ok(format!("overlay, writable, upper side `{ETC_UPPER}`"))
}

/// The machine has an identity of its own, kept on /var.
pub(crate) fn machine_id(machine: &Machine) -> Result<String> {
    let id = machine.read("/etc/machine-id")?;
    let plain = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
    ensure!(plain, "`/etc/machine-id` is `{id}`, not 32 hexadecimal digits");
    ensure!(
        machine.mount("/etc/machine-id")?.is_none(),
        "`/etc/machine-id` is for this boot only: something is mounted on it"
    );
    let kept = machine.read(format!("{ETC_UPPER}/machine-id")).context("`/etc/machine-id` is not kept on `/var`")?;
    ensure!(kept == id, "`/etc/machine-id` is `{id}`, but `/var` keeps `{kept}`");
    Ok(format!("{id}, kept on `/var`"))
}

/// The booted slot has all its tries.
pub(crate) fn slot_good(machine: &Machine) -> Result<String> {
    let slot = Slot::booted(machine)?;
    let block = EnvBlock::read(&slot::block_path(machine))?;
    let told = variables(&block);
    ensure!(slot::is_good(&block, slot), "slot {slot} is not marked good: {told}");
    Ok(format!("slot {slot} is good: {told}"))
}

/// GRUB's variables in one line.
pub(crate) fn variables(block: &EnvBlock) -> String {
    let told: Vec<String> = block.variables().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    told.join(", ")
}

fn mounted(machine: &Machine, point: &str) -> Result<Mount> {
    machine.mount(point)?.with_context(|| format!("nothing is mounted on `{point}`"))
}
