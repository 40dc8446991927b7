//! Kernel and initrd of the booted slot must be those that the running root image was built with.
//!
//! In: `/usr/lib/castiron/boot.json` of the verity-protected root, `/efi/slots/<slot>/`. Out: an error for the unit to reboot on.
//!
//! Secure Boot judges the kernel and nobody judges the initrd, so a flipped byte in either may well boot. The root image
//! knows their digests (they are made before it), hence here is the first place that can tell. What cannot be read
//! counts as wrong: GRUB then takes one try after the other from this slot and goes to the next. It is a guard
//! against damage, not against somebody who can write the EFI system partition.

use anyhow::{Result, ensure};

use crate::digest::Sha256;
use crate::error::{Failure, Kind};
use crate::fs;
use crate::node::image::{BootFile, BootFiles};
use crate::node::machine::Machine;
use crate::node::slot::Slot;

/// Checks both files, says on every console what is wrong with any.
pub fn verify_boot(machine: &Machine) -> Result<String> {
    verify(machine).map_err(|wrong| {
        let text = format!("this boot cannot be trusted: {wrong:#}");
        // Who cannot be told on the consoles finds it in the journal.
        let _ = machine.announce(&text);
        Failure::new(Kind::Integrity, text).hint("the machine tries its other slot; install this one anew").into()
    })
}

fn verify(machine: &Machine) -> Result<String> {
    let slot = Slot::booted(machine)?;
    let wanted = BootFiles::read(machine)?;
    let wrong: Vec<String> = [("vmlinuz", &wanted.vmlinuz), ("initrd", &wanted.initrd)]
        .into_iter()
        .filter_map(|(name, wanted)| verify_file(machine, slot, name, wanted).err())
        .map(|error| format!("{error:#}"))
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(format!("kernel and initrd of slot {slot} are those of this image"))
}

fn verify_file(machine: &Machine, slot: Slot, name: &str, wanted: &BootFile) -> Result<()> {
    let path = slot.boot_file(machine, name);
    let shown = format!("`{name}` of slot {slot}");
    let size = fs::len(&path)?;
    ensure!(size == wanted.size, "{shown} has {size} bytes instead of {}", wanted.size);
    let (found, _) = Sha256::of_file(&path)?;
    ensure!(found == wanted.sha256, "{shown} has the digest {found} instead of {}", wanted.sha256);
    Ok(())
}
