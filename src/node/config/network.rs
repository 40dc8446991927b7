//! The node's network: the seed's netplan file, given to networkd and udev by noble's own generator.
//!
//! Runs: `/usr/libexec/netplan/generate`, `udevadm`.
//!
//! The generator works below a folder of its own, and what networkd and udev read is moved from there. As one of systemd's
//! generators (masked in the image) it would run before there is a seed, and again at each reload. Its other files are for
//! NetworkManager, Open vSwitch and systemd-networkd-wait-online, none of which an image has running.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::fs;
use crate::node::machine::Machine;
use crate::node::tool;

const GENERATE: &str = "/usr/libexec/netplan/generate";
const ROOT: &str = "/run/castiron/netplan";
const NETWORK: &str = "/run/systemd/network";
const RULES: &str = "/run/udev/rules.d";

/// Renders the network. Whoever reads it must not run yet.
pub fn apply(machine: &Machine, netplan: &str) -> Result<()> {
    let root = machine.path(ROOT);
    fs::remove(&root)?;
    fs::write_private(&root.join("etc/netplan/castiron.yaml"), netplan)?;
    let (program, folder) = (machine.path(GENERATE), root.display().to_string());
    tool::run(&[&program.display().to_string(), "--root-dir", &folder])?
        .success()
        .context("giving the seed's network to netplan")?;
    clear(&machine.path(NETWORK), "10-netplan-")?;
    clear(&machine.path(RULES), "99-netplan-")?;
    take(&root.join("run/systemd/network"), &machine.path(NETWORK), "10-netplan-")?;
    take(&root.join("run/udev/rules.d"), &machine.path(RULES), "99-netplan-")?;
    fs::remove(&root)
}

/// Has udev name the cards that it has seen already.
pub fn show_udev() -> Result<()> {
    tool::run(&["udevadm", "control", "--reload"])?.success()?;
    let again = ["udevadm", "trigger", "--action=add", "--subsystem-match=net", "--settle"];
    tool::run(&again)?.success().context("naming the network cards").map(|_| ())
}

fn clear(folder: &Path, prefix: &str) -> Result<()> {
    for path in list(folder, prefix)? {
        fs::remove(&path)?;
    }
    Ok(())
}

/// Moves the files.
fn take(from: &Path, to: &Path, prefix: &str) -> Result<()> {
    fs::create_dir_all(to)?;
    for path in list(from, prefix)? {
        fs::rename(&path, &to.join(path.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

fn list(folder: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let is_ours = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix));
    Ok(fs::list(folder)?.into_iter().filter(is_ours).collect())
}
