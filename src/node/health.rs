//! Is this machine well, and what is it? All checks and all facts, however many of them fail.
//!
//! In: [`Machine`]. Out: [`Health`], hence the answer of `report` and the words of `status`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::fs;
use crate::grubenv::EnvBlock;
use crate::node::checks;
use crate::node::config::outcome::{Node, Outcome};
use crate::node::image::Image;
use crate::node::machine::Machine;
use crate::node::slot::{self, Slot};
use crate::verdict::Check;

/// The efivar that says whether the firmware checks signatures: four bytes of attributes, then 1 or 0 (UEFI 2.10, 3.3).
const SECURE_BOOT: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// What was found on a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Whether every check passed.
    pub healthy: bool,
    /// The checks, in the order in which they were made.
    pub checks: Vec<Check>,
    /// What the machine says of itself; a fact that cannot be had is left out.
    pub facts: BTreeMap<String, String>,
}

/// Whether to let the boot end before looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Look once the boot has ended, one way or the other.
    ForBoot,
    /// Look at once.
    No,
}

/// Looks at everything.
pub fn examine(machine: &Machine, wait: Wait) -> Health {
    // Before anything else is looked at, the boot has to end.
    let running = checks::system_running(wait == Wait::ForBoot);
    let var = checks::var(machine);
    let outcome = Outcome::read(machine);
    let mut facts = facts(machine);
    if let Ok(Outcome { node: Some(node), .. }) = &outcome {
        if wait == Wait::ForBoot {
            checks::let_network_settle();
        }
        facts.extend(of_node(machine, node));
    }
    if let Ok(var) = &var {
        facts.insert("var-bytes".to_owned(), var.bytes.to_string());
        facts.insert("var-uuid".to_owned(), var.uuid.clone());
    }
    let checks = vec![
        check("system-running", running),
        check("seed", outcome.and_then(checks::seed)),
        check("no-failed-unit", checks::no_failed_unit()),
        check("verity", checks::verity(machine)),
        check("var", var.map(|var| var.found())),
        check("etc", checks::etc(machine)),
        check("machine-id", checks::machine_id(machine)),
        check("slot-good", checks::slot_good(machine)),
    ];
    Health { healthy: checks.iter().all(|check| check.passed), checks, facts }
}

fn check(name: &str, outcome: Result<String>) -> Check {
    let passed = outcome.is_ok();
    let found = outcome.unwrap_or_else(|error| format!("{error:#}"));
    Check { name: name.to_owned(), passed, found }
}

fn facts(machine: &Machine) -> BTreeMap<String, String> {
    let image = Image::read(machine);
    let of_image = |fact: fn(&Image) -> String| image.as_ref().map(fact).map_err(|e| anyhow::anyhow!("{e}"));
    let firmware = if machine.path("/sys/firmware/efi").is_dir() { "uefi" } else { "bios" };
    let facts = [
        ("role", of_image(|image| image.role.clone())),
        ("image-version", of_image(|image| image.version.clone())),
        ("debug-shell", of_image(|image| image.debug_shell.to_string())),
        ("slot", Slot::booted(machine).map(|slot| slot.name().to_owned())),
        ("grub-variables", EnvBlock::read(&slot::block_path(machine)).map(|block| checks::variables(&block))),
        ("roothash", machine.kernel_argument("roothash").and_then(|hash| hash.context("is not given"))),
        ("machine-id", machine.read("/etc/machine-id")),
        ("boot-id", machine.read("/proc/sys/kernel/random/boot_id")),
        ("kernel", machine.read("/proc/sys/kernel/osrelease")),
        ("firmware", Ok(firmware.to_owned())),
        ("secure-boot", secure_boot(machine, firmware)),
        ("uptime-seconds", uptime(machine)),
    ];
    facts.into_iter().filter_map(|(name, fact)| Some((name.to_owned(), fact.ok()?))).collect()
}

/// What the seed says, and the addresses that came of it.
fn of_node(machine: &Machine, node: &Node) -> Vec<(String, String)> {
    let addresses = checks::addresses().unwrap_or_default();
    [
        ("node", node.name.clone()),
        ("fqdn", node.fqdn.clone()),
        ("hostname", machine.read("/proc/sys/kernel/hostname").unwrap_or_default()),
        ("cluster", node.cluster.clone()),
        ("site", node.site.to_string()),
        ("seed-serial", node.serial.to_string()),
        ("seed-source", node.source.clone()),
        ("addresses", addresses),
    ]
    .into_iter()
    .filter(|(_, fact)| !fact.is_empty())
    .map(|(name, fact)| (name.to_owned(), fact))
    .collect()
}

/// `enabled`, `disabled`, or `absent` where the firmware knows no such thing.
fn secure_boot(machine: &Machine, firmware: &str) -> Result<String> {
    let path = machine.path(SECURE_BOOT);
    let word = if firmware == "bios" || !path.exists() {
        "absent"
    } else if fs::read(&path)?.get(4) == Some(&1) {
        "enabled"
    } else {
        "disabled"
    };
    Ok(word.to_owned())
}

fn uptime(machine: &Machine) -> Result<String> {
    let text = machine.read("/proc/uptime")?;
    Ok(text.split(' ').next().context("`/proc/uptime` is empty")?.to_owned())
}
