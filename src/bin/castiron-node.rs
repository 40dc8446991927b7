//! The program that is baked into every image. Everything is in the library; this only reads the arguments.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use castiron::error::{Kind, exit_code, hint};
use castiron::node::config::Pass;
use castiron::node::health::{self, Health, Wait};
use castiron::node::machine::Machine;
use castiron::node::{banner, config, install, report, slot, verify_boot};

/// What a castiron machine does for itself.
#[derive(Debug, Parser)]
#[command(name = "castiron-node", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done or healthy, 1 other, 2 wrong arguments, 4 bytes that are not what they should be,
6 not healthy."
)]
struct Cli {
    /// The folder that stands for `/`
    #[arg(long, global = true, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say what this machine is, and whether it is well
    Status {
        /// As one JSON object: `healthy`, `checks`, `facts`
        #[arg(long)]
        json: bool,
    },
    /// Give the booted slot all its tries back
    Good,
    /// Fail, so that the machine reboots, when the booted slot is not good and GRUB has a try left
    Fallback,
    /// Check that kernel and initrd are those that this image was built with
    VerifyBoot,
    /// Become the node that the seed names: host name, network, users, keys
    Config {
        /// After udev has found the cards: a second look for the machine in its seed
        #[arg(long)]
        cards: bool,
        /// The boot found no seed, and one has come: keep it, and start again
        #[arg(long, conflicts_with = "cards")]
        late: bool,
    },
    /// Write the lines above the login prompt
    Banner {
        /// The boot has ended: say how
        #[arg(long)]
        state: bool,
    },
    /// Install this machine from the medium that it was booted from
    Install {
        /// Write nothing: say what would be done
        #[arg(long)]
        look: bool,
    },
    /// Answer the lab's questions on the virtual serial port
    Report,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    run(&Machine::new(cli.root), &cli.verb).unwrap_or_else(|error| {
        let mut text = format!("error: {error:#}");
        if let Some(hint) = hint(&error) {
            text.push_str("\nhint: ");
            text.push_str(&hint);
        }
        // Without stderr the exit code has to do.
        let _ = writeln!(io::stderr(), "{text}");
        exit_code(&error).into()
    })
}

fn run(machine: &Machine, verb: &Verb) -> Result<ExitCode> {
    let done = match verb {
        Verb::Status { json } => return status(machine, *json),
        Verb::Good => slot::mark_good(machine)?,
        Verb::Fallback => slot::fallback(machine)?,
        Verb::VerifyBoot => verify_boot::verify_boot(machine)?,
        Verb::Config { late: true, .. } => config::late(machine)?,
        Verb::Config { cards: true, .. } => config::config(machine, Pass::Cards)?,
        Verb::Config { .. } => config::config(machine, Pass::First)?,
        Verb::Banner { state: false } => banner::write(machine)?,
        Verb::Banner { state: true } => banner::write_state(machine)?,
        Verb::Install { look } => {
            let look = *look || machine.kernel_argument("castiron.look")?.is_some();
            install::install(machine, look)?
        }
        Verb::Report => {
            report::report(machine, &mut io::stdout())?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    print(&done)?;
    Ok(ExitCode::SUCCESS)
}

fn status(machine: &Machine, json: bool) -> Result<ExitCode> {
    let health = health::examine(machine, Wait::No);
    print(&if json { serde_json::to_string(&health)? } else { sentences(&health) })?;
    Ok(if health.healthy { ExitCode::SUCCESS } else { (Kind::Verdict as u8).into() })
}

fn sentences(health: &Health) -> String {
    let facts = health.facts.iter().map(|(name, value)| format!("{name:<16} {value}"));
    let checks = health.checks.iter().map(|check| {
        let word = if check.passed { "ok" } else { "WRONG" };
        format!("{word:<6} {:<16} {}", check.name, check.found.replace('\n', "\n       "))
    });
    let who = health.checks.iter().find(|check| check.name == "seed").map(|check| check.found.clone());
    let end = if health.healthy { "This machine is healthy." } else { "This machine is not healthy." };
    who.into_iter()
        .chain([String::new()])
        .chain(facts)
        .chain([String::new()])
        .chain(checks)
        .chain([String::new(), end.to_owned()])
        .collect::<Vec<_>>()
        .join("\n")
}

fn print(text: &str) -> Result<()> {
    writeln!(io::stdout(), "{text}").context("writing to stdout")
}
