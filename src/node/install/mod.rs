//! `castiron-node install`: this machine's role onto its disk, with nobody typing.
//!
//! In: the medium that the machine was booted from, a seed. Out: an installed disk, or a reason on every console.
//!
//! ```text
//! medium ─▶ seed ─▶ identity ─▶ disk ─▶ what is on it ─▶ write, read back ─▶ power off | reboot
//! ```
//!
//! - The seed is the one that is stamped into the medium; without one for this machine a volume labelled `CIDATA` is waited
//!   for, and whatever is plugged in is tried.
//! - A disk that has this very build for this very site is left as it is, so that a medium which stays first in the boot
//!   order installs once. So is one with another build of the same site: its data is the node's.
//! - Anybody else's data stops the installation, unless the site allows to wipe it.

pub mod disks;
pub mod occupant;
pub mod seeds;
pub mod select;
pub mod table;
pub mod writer;

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::digest::Sha256;
use crate::error::{Failure, Kind};
use crate::fs;
use crate::medium::{self, Medium, RoleDisk, Segment};
use crate::node::identity::Marks;
use crate::node::machine::Machine;
use crate::node::tool;
use crate::region;
use crate::seal::{InventoryNode, Seed};
use disks::{Disk, MEDIUM};
use occupant::Occupant;
use select::Rule;
use writer::{Extra, Phase};

/// What the site says of one node's installation.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Wish {
    disk: Rule,
    foreign_data: ForeignData,
}

/// What to do with somebody else's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ForeignData {
    /// Stop, and say what there is.
    #[default]
    Stop,
    /// Write over it.
    Wipe,
}

/// What to do afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum After {
    /// Switch off: whoever takes the medium out finds it done.
    #[default]
    Poweroff,
    /// Start again.
    Reboot,
    /// Start the new system without the firmware. This medium's kernel is locked against that: it starts again instead.
    Kexec,
}

/// What the site says of every installation.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Site {
    after: After,
}

/// Installs this machine. With `look`, nothing is written: what would be done is said.
pub fn install(machine: &Machine, look: bool) -> Result<String> {
    let outcome = run(machine, look);
    if let Err(error) = &outcome {
        let hint = crate::error::hint(error).map(|hint| format!("\nwhat to do: {hint}")).unwrap_or_default();
        machine.announce(&format!("THIS MACHINE IS NOT INSTALLED: {error:#}{hint}"))?;
    }
    outcome
}

fn run(machine: &Machine, look: bool) -> Result<String> {
    let root = machine.path(MEDIUM);
    let file = root.join(medium::FOLDER).join(medium::FILE);
    let medium = Medium::parse(&fs::read_to_string(&file)?).with_context(|| format!("reading `{}`", file.display()))?;
    let marks = Marks::settled(machine)?;
    machine.announce(&format!(
        "installer {} ({})",
        medium.version,
        medium.roles.keys().cloned().collect::<Vec<_>>().join(", ")
    ))?;

    let (seed, node) = seeds::wait_for(machine, &marks)?;
    let inventory = seed.inventory()?;
    let wish: Wish = settings(&node.settings, &node.name)?;
    let site: Site = settings(&inventory.settings, &inventory.cluster)?;
    machine.announce(&format!("THIS IS {} ({}) OF {}", node.name.to_uppercase(), node.role, inventory.cluster))?;
    let role = medium.roles.get(&node.role).ok_or_else(|| {
        let roles: Vec<&str> = medium.roles.keys().map(String::as_str).collect();
        Failure::new(
            Kind::Input,
            format!("`{}` is a `{}`, and this medium has {}", node.name, node.role, roles.join(", ")),
        )
        .hint(format!("use a medium that was built with the role: `castiron build {} --format iso`", node.role))
    })?;

    disks::settle(machine)?;
    let disks = disks::list(machine)?;
    let disk = select::select(&disks, &wish.disk, role.size)?;
    let occupant = occupant::of(machine, disk, &role.roothash, seed.manifest().site)?;
    let done = match occupant {
        Occupant::ThisBuild | Occupant::OtherBuild if !look => already(machine, &node, disk, &occupant)?,
        Occupant::Others(found) if wish.foreign_data == ForeignData::Stop => return Err(foreign(disk, &found)),
        _ if look => return say(machine, format!("would install `{}` on `{}`: {occupant}", node.name, disk.name)),
        _ => write(machine, &root, role, &node, &seed, disk)?,
    };
    finish(site.after)?;
    Ok(done)
}

fn settings<T: serde::de::DeserializeOwned + Default>(value: &serde_json::Value, of: &str) -> Result<T> {
    if value.is_null() {
        return Ok(T::default());
    }
    serde_json::from_value(value.clone()).with_context(|| format!("reading what the seed says of `{of}`"))
}

fn say(machine: &Machine, text: String) -> Result<String> {
    machine.announce(&text)?;
    Ok(text)
}

fn already(machine: &Machine, node: &InventoryNode, disk: &Disk, occupant: &Occupant) -> Result<String> {
    say(machine, format!("`{}` is installed on `{}` already ({occupant}): nothing is written", node.name, disk.name))
}

fn foreign(disk: &Disk, found: &[String]) -> anyhow::Error {
    let lines: Vec<String> = found.iter().map(|line| format!("  {line}")).collect();
    Failure::new(Kind::Input, format!("the disk `{}` holds somebody else's data:\n{}", disk.name, lines.join("\n")))
        .hint("name another disk, empty this one, or let the site wipe it: `foreign-data = \"wipe\"` of the node in site.toml")
        .into()
}

fn write(
    machine: &Machine,
    medium: &Path,
    role: &RoleDisk,
    node: &InventoryNode,
    seed: &Seed,
    disk: &Disk,
) -> Result<String> {
    let map = read_map(medium, role)?;
    let path = machine.path("/dev").join(&disk.name);
    let device = File::options()
        .read(true)
        .write(true)
        // Nobody else may hold it: not a mount, not a device that is made of it (open(2)).
        .custom_flags(nix::libc::O_EXCL)
        .open(&path)
        .with_context(|| format!("opening the disk `{}`", path.display()))?;
    let region = seeds::region_for(seed, &node.name)?;
    let extra = Extra { label: region::NAME, bytes: &region };
    machine.announce(&format!("writing {} MiB to `{}`", role.bytes >> 20, disk.name))?;
    let began = Instant::now();
    let mut told = 0;
    writer::write(medium, &map, Some(&extra), &device, disk.size, |phase, done, total| {
        let verb = if phase == Phase::Write { "written" } else { "compared" };
        let part = match phase {
            Phase::Write => done * 50 / total.max(1),
            Phase::Compare => 50 + done * 50 / total.max(1),
        };
        if part >= told + 10 || (part == 100 && told < 100) {
            told = part - part % 10;
            let rate = progress(part, began);
            // What the console can not show is no reason to stop.
            let _ = machine.announce(&format!("{part:>3} %  {} of {} MiB {verb}{rate}", done >> 20, total >> 20));
        }
    })
    .with_context(|| format!("installing `{}` on `{}`", node.name, disk.name))?;
    say(machine, format!("`{}` is installed on `{}` ({} s)", node.name, disk.name, began.elapsed().as_secs()))
}

/// Seconds that are left, from what the time so far was good for.
fn progress(percent: u64, began: Instant) -> String {
    let elapsed = began.elapsed().as_secs();
    if percent == 0 || elapsed == 0 {
        return String::new();
    }
    format!(", about {} s left", elapsed * (100 - percent) / percent)
}

fn read_map(medium: &Path, role: &RoleDisk) -> Result<Vec<Segment>> {
    let path = medium.join(&role.map);
    let bytes = fs::read(&path)?;
    if Sha256::of(&bytes) != role.sha256 {
        return Err(Failure::new(
            Kind::Integrity,
            format!("the medium is damaged: `{}` is not what was built", role.map),
        )
        .hint("write or copy the medium again, or attach it to another port")
        .into());
    }
    medium::read_map(BufReader::new(bytes.as_slice()), role.size)
}

fn finish(after: After) -> Result<()> {
    let verb = match after {
        After::Poweroff => "poweroff",
        After::Reboot | After::Kexec => "reboot",
    };
    tool::run(&["systemctl", "--no-block", verb])?.success().map(|_| ())
}
