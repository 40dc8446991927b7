//! `castiron-node install`: this machine's role onto its disk, with nobody typing.
//!
//! In: the medium that the machine was booted from, a seed. Out: an installed disk, or a reason on every console.
//!
//! ```text
//! medium ─▶ seed ─▶ identity ─▶ disk ─▶ what is on it ─▶ write, read back ─▶ boot entry ─▶ power off | reboot
//! ```
//!
//! - The seed is the one that is stamped into the medium; without one for this machine a volume labelled `CIDATA` is waited
//!   for, and whatever is plugged in is tried.
//! - A disk that has this site on it is left as it is, this build or another: its data is the node's. Mostly the medium's
//!   GRUB has started that disk already (overlays/iso/boot/grub/grub.cfg). Where GRUB did not see it, the firmware is told to start
//!   it next. A BIOS can not be told, so there the machine is switched off: starting again would end here again, for ever.
//! - Anybody else's data stops the installation, unless the site allows to wipe it.
//! - What the medium's autoinstall file says is carried out ([`crate::autoinstall`]); its commands run only where something
//!   is written.

pub mod boot_entry;
pub mod commands;
pub mod disks;
pub mod occupant;
pub mod screen;
pub mod seeds;
pub mod select;
pub mod table;
pub mod wish;
pub mod writer;

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::autoinstall::{self, Shutdown};
use crate::digest::Sha256;
use crate::error::{Failure, Kind};
use crate::fs;
use crate::medium::{self, Medium, RoleDisk, Segment};
use crate::node::identity::{self, Marks};
use crate::node::machine::Machine;
use crate::node::tool;
use crate::region;
use crate::seal::{InventoryNode, Seed};
use boot_entry::{Done, Esp};
use commands::Environment;
use disks::{Disk, MEDIUM};
use occupant::Occupant;
use screen::Screen;
use wish::{ForeignData, Wish};
use writer::{Extra, Phase};

/// Installs this machine. With `look`, nothing is written: what would be done is said.
pub fn install(machine: &Machine, look: bool) -> Result<String> {
    let mut screen = Screen::open(machine);
    let outcome = read_medium(machine).and_then(|medium| {
        let mut env = Environment::new();
        let outcome = run(machine, &medium, look, &mut screen, &mut env);
        if let Err(error) = outcome.as_ref()
            && !look
        {
            env.push(("CASTIRON_ERROR", format!("{error:#}")));
            commands::run_all(&screen, &medium.autoinstall.error_commands, "error-commands", &env);
        }
        outcome
    });
    if let Err(error) = &outcome {
        screen.fail(error);
    }
    outcome
}

fn read_medium(machine: &Machine) -> Result<Medium> {
    let folder = machine.path(MEDIUM).join(medium::FOLDER);
    let (file, bytes) = (folder.join(medium::FILE), fs::read(&folder.join(medium::FILE))?);
    let text = String::from_utf8_lossy(&bytes);
    if fs::read(&folder.join(medium::SUM))? != medium::sum(&text).as_bytes() {
        return Err(not_as_built(&format!("{}/{}", medium::FOLDER, medium::FILE)));
    }
    let medium = Medium::parse(&text).with_context(|| format!("reading `{}`", file.display()))?;
    let file = machine.path(MEDIUM).join(autoinstall::FILE);
    if Sha256::of(fs::read(&file)?) != medium.autoinstall_sha256 {
        let text = format!("the medium's `{}` is not the one that it was built with", autoinstall::FILE);
        return Err(Failure::new(Kind::Integrity, text)
            .hint("give castiron the changed file, which it checks: `castiron build … --format iso --autoinstall FILE`")
            .into());
    }
    Ok(medium)
}

/// A file of the medium that the builder has not written so.
fn not_as_built(file: &str) -> anyhow::Error {
    writer::damaged(&format!("`{file}` is not what was built"))
}

/// `env` grows with what becomes known.
fn run(
    machine: &Machine,
    medium: &Medium,
    look: bool,
    screen: &mut Screen<'_>,
    env: &mut Environment,
) -> Result<String> {
    env.push(("CASTIRON_MEDIUM", machine.path(MEDIUM).display().to_string()));
    // Cards with firmware to load take their time.
    identity::settle(120)?;
    let marks = Marks::read(machine);
    let roles = medium.roles.keys().cloned().collect::<Vec<_>>().join(", ");
    screen.say(&format!("installer {} ({roles})", medium.version));

    let (seed, node) = seeds::wait_for(machine, &marks, screen)?;
    let inventory = seed.inventory()?;
    screen.name(&node.name);
    screen.say(&format!("THIS IS {} ({}) OF {}", node.name.to_uppercase(), node.role, inventory.cluster));
    env.extend([
        ("CASTIRON_NODE", node.name.clone()),
        ("CASTIRON_ROLE", node.role.clone()),
        ("CASTIRON_CLUSTER", inventory.cluster.clone()),
    ]);
    let wish = wish::read(&seed, &inventory, &node, &medium.autoinstall)?;
    let role = medium.roles.get(&node.role).ok_or_else(|| {
        Failure::new(Kind::Input, format!("`{}` is a `{}`, and this medium has {roles}", node.name, node.role))
            .hint(format!("use a medium that was built with the role: `castiron build {} --format iso`", node.role))
    })?;

    let target = Target { machine, medium, role, node: &node, seed: &seed, wish: &wish };
    let (disk, occupant) = target.look()?;
    if look {
        return Ok(say(screen, format!("would install `{}` on `{}`: {occupant}", node.name, disk.name)));
    }
    if matches!(occupant, Occupant::ThisBuild | Occupant::OtherBuild) {
        return target.already(screen, &disk, &occupant);
    }
    env.push(("CASTIRON_DISK", format!("/dev/{}", disk.name)));
    target.install(screen, disk, env)
}

fn say(screen: &Screen<'_>, text: String) -> String {
    screen.say(&text);
    text
}

/// What is to be installed, and where.
struct Target<'a> {
    machine: &'a Machine,
    medium: &'a Medium,
    role: &'a RoleDisk,
    node: &'a InventoryNode,
    seed: &'a Seed,
    wish: &'a Wish,
}

impl Target<'_> {
    /// The disk, and whose it is; an error where nothing may be written to it.
    fn look(&self) -> Result<(Disk, Occupant)> {
        disks::settle(self.machine)?;
        let disks = disks::list(self.machine)?;
        let disk = select::select(&disks, &self.wish.disk, &self.wish.alternatives, self.role.size)?;
        let occupant = occupant::of(self.machine, disk, &self.role.roothash, self.seed.manifest().site)?;
        match &occupant {
            Occupant::Others(found) if self.wish.foreign_data == ForeignData::Stop => Err(foreign(disk, found)),
            _ => Ok((disk.clone(), occupant)),
        }
    }

    /// Writes the disk, and all that goes before and after.
    fn install(&self, screen: &mut Screen<'_>, disk: Disk, env: &Environment) -> Result<String> {
        let said = &self.medium.autoinstall;
        commands::run(screen, &said.early_commands, "early-commands", env)?;
        // They may have changed what is there, even which disk it is: what was found out before is then worth nothing.
        let disk = if said.early_commands.is_empty() { disk } else { self.look()?.0 };
        let began = Instant::now();
        let esp = self.write(screen, &disk)?;
        if !said.late_commands.is_empty() {
            let ran = disks::partitioned(self.machine, &disk.name)
                .and_then(|()| commands::run(screen, &said.late_commands, "late-commands", env));
            if let Err(error) = ran {
                // It would start as if nothing lacked: the next installation begins anew.
                writer::forget(&fs::open_rw(&self.machine.path("/dev").join(&disk.name))?)
                    .context("clearing the disk that `late-commands` did not finish")?;
                return Err(error);
            }
        }
        self.enter(screen, &esp);
        let seconds = began.elapsed().as_secs();
        screen.installed(&json!({
            "node": self.node.name, "role": self.node.role, "disk": disk.name, "version": self.medium.version,
            "roothash": self.role.roothash, "site": self.seed.manifest().site, "bytes": self.role.bytes, "seconds": seconds,
        }));
        let text = say(screen, format!("`{}` is installed on `{}` ({seconds} s)", self.node.name, disk.name));
        finish(self.wish.after)?;
        Ok(text)
    }

    fn write(&self, screen: &mut Screen<'_>, disk: &Disk) -> Result<Esp> {
        let root = self.machine.path(MEDIUM);
        let map = read_map(&root, self.role)?;
        let path = self.machine.path("/dev").join(&disk.name);
        let device = File::options()
            .read(true)
            .write(true)
            // Nobody else may hold it: not a mount, not a device that is made of it (open(2)).
            .custom_flags(nix::libc::O_EXCL)
            .open(&path)
            .with_context(|| format!("opening the disk `{}`", path.display()))?;
        let region = seeds::region_for(self.seed, &self.node.name)?;
        let extra = Extra { label: region::NAME, bytes: &region };
        let installing = || format!("installing `{}` on `{}`", self.node.name, disk.name);
        let mut phase_now = None;
        let slices = writer::write(&root, &map, Some(&extra), &device, disk.size, |phase, done, total| {
            if phase_now != Some(phase) {
                screen.end();
                let verb = if phase == Phase::Write { "writing" } else { "reading back" };
                screen.begin(&format!("{verb} `{}`", disk.name), total);
                phase_now = Some(phase);
            }
            screen.progress(phase, done);
        })
        .with_context(installing)?;
        screen.end();
        table::esp(&slices).with_context(installing)
    }

    /// Makes the firmware's entry. Without one the firmware finds the disk by the removable path.
    fn enter(&self, screen: &Screen<'_>, esp: &Esp) -> Option<u16> {
        match boot_entry::ensure_entry(self.machine, esp) {
            Ok(Done::NoUefi) => None,
            Ok(Done::Kept(number)) => Some(number),
            Ok(Done::Written(number)) => {
                screen.say(&format!("the firmware's entry Boot{number:04X} is `castiron`, the first in its order"));
                Some(number)
            }
            Err(error) => {
                screen.say(&format!("the firmware takes no boot entry, which the disk does not need: {error:#}"));
                None
            }
        }
    }

    /// Starts the disk that is installed already.
    fn already(&self, screen: &Screen<'_>, disk: &Disk, occupant: &Occupant) -> Result<String> {
        let text =
            format!("`{}` is installed on `{}` already ({occupant}): nothing is written", self.node.name, disk.name);
        screen.say(&text);
        let next = self.enter(screen, &esp_of(self.machine, disk)?);
        let after = if let Some(number) = next {
            boot_entry::start_next(self.machine, number)?;
            screen.say("starting again, from that disk");
            Shutdown::Reboot
        } else {
            screen.say("switching off: let the firmware start the disk before this medium, or take the medium out");
            Shutdown::Poweroff
        };
        finish(after)?;
        Ok(text)
    }
}

/// The EFI system partition of a disk that castiron has written.
fn esp_of(machine: &Machine, disk: &Disk) -> Result<Esp> {
    let path = machine.path("/dev").join(&disk.name);
    let reading = || format!("reading the partition table of `{}`", path.display());
    let mut head = vec![0; table::HEAD as usize];
    fs::open(&path)?.read_exact(&mut head).with_context(reading)?;
    table::fit(&head, disk.size).and_then(|table| table::esp(&table.slices)).with_context(reading)
}

fn foreign(disk: &Disk, found: &[String]) -> anyhow::Error {
    let lines: Vec<String> = found.iter().map(|line| format!("  {line}")).collect();
    Failure::new(Kind::Input, format!("the disk `{}` holds somebody else's data:\n{}", disk.name, lines.join("\n")))
        .hint("name another disk, empty this one, or let the site wipe it: `foreign-data = \"wipe\"` of the node in site.toml")
        .into()
}

fn read_map(medium: &Path, role: &RoleDisk) -> Result<Vec<Segment>> {
    let path = medium.join(&role.map);
    let bytes = fs::read(&path)?;
    if Sha256::of(&bytes) != role.sha256 {
        return Err(not_as_built(&role.map));
    }
    medium::read_map(BufReader::new(bytes.as_slice()), role.size)
}

fn finish(after: Shutdown) -> Result<()> {
    let verb = match after {
        Shutdown::Poweroff => "poweroff",
        Shutdown::Reboot => "reboot",
    };
    tool::run(&["systemctl", "--no-block", verb])?.success().map(|_| ())
}
