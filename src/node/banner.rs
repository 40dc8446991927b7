//! The lines above every login prompt: who this machine is, how to reach it, whether it is well, and who may log in.
//!
//! Out: `/run/castiron/issue`. agetty takes the first kind of place where it finds anything, and `/etc/issue` is there, so the
//! image has a link to it in `/etc/issue.d`.
//!
//! Addresses are agetty's own `\4{…}` and `\6{…}`: it listens to the kernel and draws the lines anew when one changes
//! (agetty(8)), so that nothing of castiron's has to run for it. The state is written when the boot has come to its end.

use std::fmt::Write as _;

use anyhow::Result;

use crate::fs;
use crate::node::checks;
use crate::node::config::outcome::{Node, Outcome};
use crate::node::identity::Marks;
use crate::node::image::Image;
use crate::node::machine::Machine;
use crate::node::slot::Slot;
use crate::node::tool;

const ISSUE: &str = "/run/castiron/issue";

const CHECK: &str = "systemd-boot-check-no-failures.service";

/// What the debug shell's consoles say, everywhere it can be said.
pub const DEBUG_SHELL: &str = "DEBUG SHELL: anybody at this console is root; never use in production";

/// Writes the banner as a boot begins; with a debug shell it also goes to every console, loudly.
pub fn write(machine: &Machine) -> Result<String> {
    let image = Image::read(machine)?;
    if image.debug_shell {
        machine.announce(DEBUG_SHELL)?;
    }
    draw(machine, &image, "starting")
}

/// Writes the banner of a boot that has ended, and has it drawn anew at every prompt.
pub fn write_state(machine: &Machine) -> Result<String> {
    let failed = checks::no_failed_unit().err().map(|error| error.to_string()).unwrap_or_default();
    // A line a unit, with its last words below; the check for failed units only says that there are others.
    let units = failed.lines().filter(|line| !line.starts_with(' ') && !line.contains(CHECK));
    let units: Vec<&str> = units.collect();
    let state = if units.is_empty() { "running".to_owned() } else { units.join(", ") };
    let text = draw(machine, &Image::read(machine)?, &state)?;
    tool::run(&["agetty", "--reload"])?.success()?;
    Ok(text)
}

fn draw(machine: &Machine, image: &Image, state: &str) -> Result<String> {
    // A machine that was not booted from a slot (an installation medium) has none to name.
    let slot = Slot::booted(machine).map(|slot| format!(", slot {slot}")).unwrap_or_default();
    let outcome = Outcome::read(machine);
    let mut text = format!("castiron {} {}{slot}\n", image.role, image.version);
    let who = match &outcome {
        Ok(outcome) => outcome.who(),
        Err(error) => format!("{error:#}"),
    };
    let _ = writeln!(text, "{who}\nstate: {state}");
    let outcome = outcome.unwrap_or_default();
    for problem in &outcome.problems {
        let _ = writeln!(text, "WRONG: {problem}");
    }
    if outcome.node.is_none() {
        let marks = Marks::read(machine).for_site();
        let _ = writeln!(
            text,
            "To give it one: stamp its disk (`castiron stamp`), or attach what `castiron seed` writes.\n\
             For site.toml it is one of:\n{marks}"
        );
    }
    text.push_str(if image.debug_shell { DEBUG_SHELL } else { login(outcome.node.as_ref()) });
    // agetty reads a backslash as the start of one of its own codes.
    let mut text = text.replace('\\', "\\\\");
    if let Some(node) = outcome.node.filter(|node| !node.interface.is_empty()) {
        let _ = write!(text, "\n{0}: \\4{{{0}}} \\6{{{0}}}", node.interface);
    }
    text.push_str("\n\n");
    fs::write_atomic(&machine.path(ISSUE), &text)?;
    Ok(text.trim_end().to_owned())
}

fn login(node: Option<&Node>) -> &'static str {
    match node.map(|node| (node.keys > 0, node.console)) {
        Some((true, true)) => "Log in with a key of the site over ssh, or with its password here.",
        Some((true, false)) => "Log in with a key of the site over ssh; nobody logs in here.",
        Some((false, true)) => "Log in with the site's password here; there is no key for ssh.",
        Some((false, false)) | None => "No login is open on this machine.",
    }
}
