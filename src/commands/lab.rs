//! `castiron lab`.

use std::path::{PathBuf, absolute};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;
use crate::error::{Failure, Kind};
use crate::lab::hardware::Firmware;
use crate::lab::image::{self, Image};
use crate::lab::probe;
use crate::lab::runner::Lab as Runner;
use crate::lab::scenario::{self, Scenario};
use crate::tools::Tools;

/// Arguments of `castiron lab`.
#[derive(Debug, Args)]
#[command(after_help = "A scenario is a file that says what it does: vm-tests/<name>/scenario.toml.
Exit code 6 when one of them failed.")]
pub struct Lab {
    /// Scenarios to run, in this order: folders of `vm-tests/`
    #[arg(required_unless_present_any = ["list", "all"], conflicts_with = "all")]
    scenarios: Vec<String>,
    /// Run every scenario
    #[arg(long)]
    all: bool,
    /// Say which scenarios there are
    #[arg(long)]
    list: bool,
    /// The release under test: its folder, or an image
    #[arg(long, value_name = "DIR|FILE", required_unless_present = "list")]
    release: Option<PathBuf>,
    /// Another build, for scenarios that need something in slot B
    #[arg(long, value_name = "DIR|FILE")]
    other_release: Option<PathBuf>,
    /// The role whose image is run by scenarios that name none [default: the only one of the release]
    #[arg(long)]
    role: Option<String>,
    /// Run on this firmware alone; may be repeated [default: all that a scenario names]
    #[arg(long, value_enum)]
    firmware: Vec<Firmware>,
    /// What random moments are drawn from; the same seed draws the same [default: a new one]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many power cuts to make [default: as many as the scenario says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    cuts: Option<u64>,
    /// Folder for what failed scenarios leave behind [default: out/lab]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Runs the verb.
pub fn run(ctx: &Context, args: Lab) -> Result<ExitCode> {
    let names = if args.scenarios.is_empty() { scenario::names(&ctx.project)? } else { args.scenarios };
    let scenarios = scenario::load(&ctx.project, &names)?;
    if args.list {
        for scenario in &scenarios {
            ctx.ui.data(format!("{:<18} {}", scenario.name, scenario.description));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let release = args.release.unwrap_or_default();
    let needs = scenarios.iter().find_map(|s| Some((s, s.needs_other()?)));
    if let (None, Some((scenario, why))) = (&args.other_release, needs) {
        let text = format!("the scenario `{}` {why}, and no other build was named", scenario.name);
        return Err(Failure::new(Kind::Input, text).hint("--other-release DIR").into());
    }
    let ran = |scenario: &Scenario| scenario.firmware.iter().any(|firmware| args.firmware.contains(firmware));
    if let Some(scenario) = scenarios.iter().find(|scenario| !args.firmware.is_empty() && !ran(scenario)) {
        let names: Vec<&str> = scenario.firmware.iter().map(|firmware| firmware.name()).collect();
        let text = format!("the scenario `{}` runs on {} alone", scenario.name, names.join(", "));
        return Err(Failure::new(Kind::Input, text).into());
    }
    // Everything that can be wrong with the arguments is found before the tools tree is made.
    let find = |path, scenario: &Scenario| image::find(path, scenario.role.as_deref().or(args.role.as_deref()));
    let mut runs = Vec::new();
    for scenario in &scenarios {
        let other = match &args.other_release {
            Some(path) if scenario.needs_other().is_some() => Some(find(path, scenario)?),
            _ => None,
        };
        let iso = scenario.medium.as_ref().map(|_| image::medium(&release)).transpose()?;
        runs.push((scenario, find(&release, scenario)?, other, iso));
    }
    let tools = Tools::ensure(ctx)?;
    let seed = args.seed.unwrap_or_else(|| u64::from(std::process::id()));
    let output = absolute(args.output.unwrap_or_else(|| ctx.project.join("out/lab")))?;
    let (mut passed, mut failed) = (0, Vec::new());
    for (scenario, file, other, iso) in runs {
        let image = Image::open(ctx, &tools, &file)?;
        let other = other.map(|file| Image::open(ctx, &tools, &file)).transpose()?;
        let probe = probe::probe(ctx, &tools, &image)?;
        ctx.ui.verbose(format!("machines run on {}: {}", probe.accelerator.name(), probe.why));
        let (tools, output) = (&tools, output.clone());
        let lab =
            Runner { ctx, tools, accelerator: probe.accelerator, image, other, iso, output, seed, cuts: args.cuts };
        for &firmware in scenario.firmware.iter().filter(|one| args.firmware.is_empty() || args.firmware.contains(one))
        {
            match lab.run(scenario, firmware) {
                Ok(()) => passed += 1,
                Err(error) if crate::error::kind(&error) == Kind::Interrupted => return Err(error),
                Err(error) => {
                    ctx.ui.note(format!("{error:#}"));
                    failed.push(scenario.run_name(firmware));
                }
            }
        }
    }
    ctx.ui.data(format!("{passed} passed, {} failed, seed {seed}", failed.len()));
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::new(Kind::Verdict, format!("failed: {}", failed.join(", "))).into())
}
