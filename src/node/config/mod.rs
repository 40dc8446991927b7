//! `castiron-node config`: what a boot makes of the seed, before anything asks for a name, a network or a key.
//!
//! In: a seed from any of its places. Out: `/run`, rendered anew, and [`Outcome`] for everybody else.
//!
//! ```text
//! places ─▶ choose ─▶ keep ─▶ render ─▶ hostname, hosts, users, keys, time servers, network
//! ```
//!
//! - It runs before udev, which then finds the cards' names: to show it every card twice took longer than all the rest. Only
//!   a machine that is found in no seed yet, since the driver of its card is a module, gets a second pass behind udev.
//! - Without any seed the machine is nobody: it boots, nobody can log in, and its console says how to give it one. One that
//!   comes later, since somebody plugs it in or its drive is slow, is kept, and the machine starts again: no boot waits for
//!   what most machines do not have, and no service is told half-way who it is.
//! - A seed that is refused while a good one is there does not stop the node; it is told, and the machine is not healthy.
//! - When no seed is good, or one of its settings can not be carried out, all the rest is done, the unit fails, and the
//!   console names the seed and the reason.

mod choose;
mod network;
pub mod outcome;
mod render;
mod sources;

use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::{Context as _, Result};

use crate::error::{Failure, Kind};
use crate::fs;
use crate::node::identity::{self, Marks};
use crate::node::image::Image;
use crate::node::machine::Machine;
use crate::node::tool;
use choose::Chosen;
use outcome::Outcome;
use render::{File, Settings};

/// It is there where a boot found no seed, as a condition for units.
const NOBODY: &str = "/run/castiron/nobody";

/// It is there where a boot found a seed, but not yet the machine in it, as a condition for a unit.
const WAITING: &str = "/run/castiron/waiting";

/// When in a boot it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Before udev: what udev is told of the cards is there when it looks at them first.
    First,
    /// With udev, for a machine that is known by a card whose driver had to be loaded.
    Cards,
}

/// Becomes the node that the seed names. Says who it is.
pub fn config(machine: &Machine, pass: Pass) -> Result<String> {
    let role = Image::read(machine)?.role;
    if pass == Pass::Cards {
        identity::settle(30)?;
    }
    let found = sources::look(machine);
    let (chosen, problems) = choose::choose(&found, &Marks::read(machine), &role);
    if chosen.is_none() && !found.is_empty() && pass == Pass::First {
        fs::write_atomic(&machine.path(WAITING), "")?;
        return Ok(format!(
            "no seed is for this machine as it is seen yet: waiting for its cards\n{}",
            problems.join("\n")
        ));
    }
    let mut outcome = Outcome { node: None, problems };
    let failed = match &chosen {
        Some(chosen) => become_node(machine, chosen, pass, &mut outcome),
        None => write(machine, &render::nobody()).err().into_iter().collect(),
    };
    if found.is_empty() {
        fs::write_atomic(&machine.path(NOBODY), "")?;
    }
    let is_node = outcome.node.is_some();
    outcome.problems.extend(failed.iter().map(|error| format!("{error:#}")));
    outcome.write(machine)?;
    let who = outcome.who();
    if outcome.problems.is_empty() {
        return Ok(who);
    }
    let all = outcome.problems.join("\n");
    // Who can not be told on the consoles finds it in the journal.
    let _ = machine.announce(&format!("{}\n{all}", who.to_uppercase()));
    if is_node && failed.is_empty() {
        return Ok(format!("{who}\n{all}"));
    }
    let kind = if failed.is_empty() { Kind::Integrity } else { Kind::Other };
    Err(Failure::new(kind, all).into())
}

/// Takes the seed that has come to a machine that is nobody, and starts the machine again. Says whose it is.
pub fn late(machine: &Machine) -> Result<String> {
    let found = sources::look(machine);
    let (chosen, problems) = choose::choose(&found, &Marks::read(machine), &Image::read(machine)?.role);
    let Some(chosen) = chosen else {
        let text = if problems.is_empty() { "the volume holds no seed".to_owned() } else { problems.join("\n") };
        machine.announce(&text)?;
        return Err(Failure::new(Kind::Integrity, text).into());
    };
    sources::keep(machine, &chosen.own).context("keeping the seed")?;
    let text = format!("{} has the seed of `{}`: starting again", chosen.source, chosen.entry.name);
    machine.announce(&text)?;
    tool::run(&["systemctl", "--no-block", "reboot"])?.success()?;
    Ok(text)
}

/// Carries out everything, whatever of it fails.
fn become_node(machine: &Machine, chosen: &Chosen, pass: Pass, outcome: &mut Outcome) -> Vec<anyhow::Error> {
    let seed = &chosen.seed;
    let mut failed = Vec::new();
    let mut step = |done: Result<()>| failed.extend(done.err());
    step(sources::keep(machine, &chosen.own).context("keeping the seed"));
    match Settings::read(seed, &chosen.entry) {
        Err(error) => step(Err(error)),
        Ok(settings) => {
            let node = settings.node(seed, &chosen.entry, &chosen.source.to_string());
            step(user_is_free(machine, &node.user));
            step(render::files(seed, &settings, &node).and_then(|files| write(machine, &files)));
            step(set_hostname(machine, &node.name));
            outcome.node = Some(node);
        }
    }
    if let Some(netplan) = &seed.network {
        step(network::apply(machine, netplan).and_then(|()| match pass {
            Pass::First => Ok(()),
            Pass::Cards => network::show_udev(),
        }));
    }
    failed
}

fn write(machine: &Machine, files: &[File]) -> Result<()> {
    for File { path, text, private } in files {
        let path = machine.path(path);
        if *private { fs::write_private(&path, text) } else { fs::write_atomic(&path, text) }?;
    }
    Ok(())
}

/// The kernel's host name; programs that ask for the static one are led to `/run/castiron/hostname`.
fn set_hostname(machine: &Machine, name: &str) -> Result<()> {
    let path = machine.path("/proc/sys/kernel/hostname");
    let setting = || format!("setting the host name to `{name}`");
    let mut file = OpenOptions::new().write(true).open(&path).with_context(setting)?;
    file.write_all(name.as_bytes()).with_context(setting)
}

/// Accounts of the image come first, so the site's user would be one of them.
fn user_is_free(machine: &Machine, user: &str) -> Result<()> {
    let accounts = machine.read("/etc/passwd")?;
    if accounts.lines().any(|line| line.split(':').next() == Some(user)) {
        let text = format!("the site's user `{user}` is an account of the image, which can not log in");
        return Err(Failure::new(Kind::Input, text).hint("give `ssh.user` of site.toml another name").into());
    }
    Ok(())
}
