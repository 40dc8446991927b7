//! The lines above every login prompt: which image this is, from which slot, and who may log in.
//!
//! Out: `/run/issue.d/castiron.issue`, which agetty shows.

use anyhow::Result;

use crate::fs;
use crate::node::image::Image;
use crate::node::machine::Machine;
use crate::node::slot::Slot;

const ISSUE: &str = "/run/issue.d/castiron.issue";

/// What the debug shell's consoles say, everywhere it can be said.
pub const DEBUG_SHELL: &str = "DEBUG SHELL: anybody at this console is root; never use in production";

/// Writes the banner; with a debug shell it also goes to every console, loudly.
pub fn write(machine: &Machine) -> Result<String> {
    let image = Image::read(machine)?;
    // A machine that was not booted from a slot (an installation medium) has none to name.
    let slot = Slot::booted(machine).map(|slot| format!(", slot {slot}")).unwrap_or_default();
    let who = if image.debug_shell {
        machine.announce(DEBUG_SHELL)?;
        DEBUG_SHELL
    } else {
        "No login is open on this machine."
    };
    let text = format!("castiron {} {}{slot}\n{who}\n\n", image.role, image.version);
    // agetty reads a backslash as the start of one of its own codes.
    fs::write_atomic(&machine.path(ISSUE), text.replace('\\', "\\\\"))?;
    Ok(text.trim_end().to_owned())
}
