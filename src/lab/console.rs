//! A person's terminal on a machine's serial console.
//!
//! In: the terminal, a [`Machine`]. Out: how it ended. In raw mode every key, Ctrl-C too, goes to the machine; only
//! [`LEAVE`] does not. The terminal's mode is put back when the guard is dropped, which every way out of here does.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::lab::link::{Heard, Link};
use crate::lab::qemu::Machine;
use crate::lab::qmp::Event;

/// Ctrl-], as in telnet.
pub const LEAVE: u8 = 0x1d;

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The person left; the machine is still on.
    Left,
    /// The machine switched itself off.
    Off,
}

/// The name of the event that stands for leaving.
const LEFT: &str = "castiron: left";
/// A session has no limit; waits need one.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Shows the console of a machine on stdout until it ends.
pub fn show(link: &mut Link) {
    link.echo(|bytes| {
        // Whoever reads stdout may go away; the machine runs on.
        let mut out = io::stdout().lock();
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    });
}

/// Gives a person the machine's console, until the machine is off or the person leaves.
pub fn attend(machine: &mut Machine) -> Result<End> {
    let raw = RawMode::enter()?;
    show(&mut machine.link);
    if raw.is_some() {
        let sender = machine.link.sender();
        let mut keyboard = machine.keyboard().context("the console's input is in use")?;
        std::thread::spawn(move || {
            let mut buffer = [0; 256];
            let mut input = io::stdin().lock();
            while let Ok(length @ 1..) = input.read(&mut buffer) {
                let (keys, leave) = keys(&buffer[..length]);
                if leave {
                    let _ = sender.send(Heard::Monitor(Event { name: LEFT.into(), data: serde_json::Value::Null }));
                    return;
                }
                if keyboard.write_all(keys).is_err() {
                    return;
                }
            }
        });
    }
    let left = machine.link.until(FOR_EVER, |link| link.events().iter().any(|e| e.name == LEFT).then_some(()));
    Ok(if left.is_ok() { End::Left } else { End::Off })
}

/// What of the keys typed is for the machine, and whether the person leaves.
pub fn keys(typed: &[u8]) -> (&[u8], bool) {
    match typed.iter().position(|&key| key == LEAVE) {
        Some(at) => (&typed[..at], true),
        None => (typed, false),
    }
}

/// A terminal in raw mode; its former mode comes back on drop.
struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Nothing where stdin is no terminal.
    fn enter() -> Result<Option<Self>> {
        let input = io::stdin();
        if !input.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&input).context("reading the terminal's mode")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        let guard = Self { before };
        tcsetattr(&input, SetArg::TCSANOW, &raw).context("setting the terminal's raw mode")?;
        Ok(Some(guard))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}
