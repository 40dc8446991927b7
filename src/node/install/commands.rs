//! The autoinstall file's commands.
//!
//! In: commands, and what they may know of the installation. Out: what they print, on every console. Runs: them.
//!
//! They run with the installer's own rights, and no more: docs/autoinstall.md says which. Without a limit of time a
//! command that waits for a network that is not there would leave a machine that says nothing.

use std::time::Duration;

use anyhow::Result;

use super::screen::Screen;
use crate::autoinstall::Command;
use crate::error::{Failure, Kind};
use crate::node::tool;

/// No command runs longer.
const LIMIT: Duration = Duration::from_secs(600);

/// What commands find in their environment.
pub type Environment = Vec<(&'static str, String)>;

/// Runs commands, one after the other, up to one that fails. `which` is the key that they stand under.
pub fn run(screen: &Screen<'_>, commands: &[Command], which: &str, env: &Environment) -> Result<()> {
    commands.iter().try_for_each(|command| one(screen, command, which, env))
}

/// Runs commands, all of them, whatever becomes of each.
pub fn run_all(screen: &Screen<'_>, commands: &[Command], which: &str, env: &Environment) {
    for command in commands {
        if let Err(error) = one(screen, command, which, env) {
            screen.say(&format!("{error:#}"));
        }
    }
}

fn one(screen: &Screen<'_>, command: &Command, which: &str, env: &Environment) -> Result<()> {
    let words: Vec<&str> = match command {
        Command::Shell(line) => vec!["sh", "-c", line],
        Command::Words(words) => words.iter().map(String::as_str).collect(),
    };
    let shown = match command {
        Command::Shell(line) => line.clone(),
        Command::Words(words) => words.join(" "),
    };
    screen.say(&format!("{which}: {shown}"));
    let failed = |why: String| {
        Failure::new(Kind::Tool, format!("the medium's `{which}`: `{shown}`: {why}"))
            .hint("change the file that the medium was built with (`--autoinstall FILE`), and build it again")
    };
    let status = tool::run_told(&words, env, LIMIT, |line| screen.command(line))
        .map_err(|error| failed(format!("{error:#}")))?;
    if status.success() { Ok(()) } else { Err(failed(status.to_string()).into()) }
}
