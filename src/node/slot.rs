//! The booted slot: marking it good, and giving it up when it does not become good in time.
//!
//! In: `castiron.slot=` on the kernel command line, GRUB's environment block on the EFI system partition.
//!
//! GRUB takes one try from a slot whenever it starts it, and takes the other slot when none is left. A machine whose boot
//! has come to a good end gives the tries back ([`mark_good`]). One whose boot hangs, or ends with a failed unit, is
//! rebooted by a timer ([`fallback`]), but only while GRUB has a try left for any slot: with none left a reboot could only
//! end in GRUB, and a machine that stays up, half well, can be looked at. Nor is it rebooted for a seed that is refused.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

use crate::error::{Failure, Kind};
use crate::grubenv::{self, EnvBlock, TRIES};
use crate::node::config::outcome::Outcome;
use crate::node::machine::Machine;

/// Where the EFI system partition is mounted, when somebody looks.
const ESP: &str = "/efi";

/// One of the two places of a root image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The slot that this machine was booted from.
    pub fn booted(machine: &Machine) -> Result<Self> {
        let argument = machine.kernel_argument("castiron.slot")?;
        argument
            .context("the kernel command line has no `castiron.slot=`: this machine was not booted from a slot")?
            .parse()
    }

    /// Its name in GRUB's environment block and on the EFI system partition.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// Where a file of it lies on the machine.
    pub fn boot_file(self, machine: &Machine, file: &str) -> PathBuf {
        machine.path(ESP).join("slots").join(self.name()).join(file)
    }
}

impl FromStr for Slot {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "a" => Ok(Self::A),
            "b" => Ok(Self::B),
            other => bail!("`castiron.slot={other}` on the kernel command line names no slot: it must be `a` or `b`"),
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// Where GRUB's environment block lies on the machine.
pub(crate) fn block_path(machine: &Machine) -> PathBuf {
    machine.path(ESP).join(grubenv::PATH)
}

/// Gives the booted slot all its tries back. Writes nothing when it has them. Says what was done.
pub fn mark_good(machine: &Machine) -> Result<String> {
    let slot = Slot::booted(machine)?;
    let path = block_path(machine);
    let mut block = EnvBlock::read(&path)?;
    if is_good(&block, slot) {
        return Ok(format!("slot {slot} was good already"));
    }
    block.set(slot.name(), TRIES)?;
    block.write_in_place(&path)?;
    Ok(format!("slot {slot} is good"))
}

/// Whether the block says that `slot` is good.
pub(crate) fn is_good(block: &EnvBlock, slot: Slot) -> bool {
    block.get(slot.name()).as_deref() == Some(TRIES)
}

/// Whether to go on with a boot whose time is up: what to say when it may, an error when the machine has to reboot.
pub fn fallback(machine: &Machine) -> Result<String> {
    let slot = Slot::booted(machine)?;
    let path = block_path(machine);
    let bytes = crate::fs::read(&path)?;
    let stays = |why: &str| {
        let text = format!("slot {slot} did not become good in time; the machine stays as it is, since {why}");
        // Who cannot be told on the consoles finds it in the journal.
        let _ = machine.announce(&text);
        Ok(text)
    };
    let block = match EnvBlock::parse(&bytes) {
        Ok(block) if is_good(&block, slot) => return Ok(format!("slot {slot} is good")),
        Ok(block) => block,
        Err(wrong) => return stays(&format!("GRUB cannot count tries: `{}` is broken: {wrong}", path.display())),
    };
    let left = |name: &str| block.get(name).filter(|tries| tries != "0").map(|tries| format!("{name}={tries}"));
    // The other slot would read the same seed.
    if let Ok(outcome) = Outcome::read(machine)
        && outcome.is_refused()
    {
        return stays("it is its seed that is refused");
    }
    let left: Vec<String> = ["a", "b"].into_iter().filter_map(left).collect();
    if left.is_empty() {
        return stays("GRUB has no try left for either slot");
    }
    let text = format!("slot {slot} did not become good in time: rebooting; tries left: {}", left.join(", "));
    let _ = machine.announce(&text);
    Err(Failure::new(Kind::Verdict, text).into())
}
