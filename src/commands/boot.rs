//! `castiron boot`.

use std::path::{PathBuf, absolute};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::context::Context;
use crate::error::{Failure, Kind};
use crate::lab::console::{self, End};
use crate::lab::image::{self, Image};
use crate::lab::link::Answer;
use crate::lab::probe::{self, Probe};
use crate::lab::qemu::{Bus, Firmware, Machine, Medium, SERIAL_LOG, Spec};
use crate::lab::scenario::Size;
use crate::tools::Tools;

/// Arguments of `castiron boot`.
#[derive(Debug, Args)]
#[command(after_help = "The image is never written. The machine has no network.
With --verdict: exit code 0 when the machine says that it is healthy, else 6.")]
pub struct Boot {
    /// A release's folder, or an image (raw, qcow2)
    #[arg(value_name = "RELEASE|IMAGE")]
    path: PathBuf,
    /// Which role's image of the release
    role: Option<String>,
    /// What starts the boot loader
    #[arg(long, value_enum, default_value = "uefi")]
    firmware: Firmware,
    /// What the disk is attached to
    #[arg(long, value_enum, default_value = "virtio")]
    bus: Bus,
    /// Memory
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    memory: Size,
    /// Give the machine a larger disk than the image's
    #[arg(long, value_name = "SIZE")]
    disk_size: Option<Size>,
    /// Keep the machine's disk in DIR, and go on with it next time [default: it is forgotten]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Ask the machine whether it is healthy, print its answer, and end
    #[arg(long)]
    verdict: bool,
    /// How long to wait for the verdict, in seconds [default: 120 on KVM, 960 on TCG]
    #[arg(long, value_name = "SECONDS", requires = "verdict")]
    within: Option<u64>,
}

const VERDICT_LIMIT: Duration = Duration::from_secs(120);

/// Runs the verb.
pub fn run(ctx: &Context, args: Boot) -> Result<ExitCode> {
    let file = image::find(&args.path, args.role.as_deref())?;
    // Found without the tools tree, which may have to be made first.
    image::check_length(&file)?;
    let tools = Tools::ensure(ctx)?;
    let image = Image::open(ctx, &tools, &file)?;
    let probe = probe::probe(ctx, &tools, &image)?;
    let temporary = tempfile::tempdir_in(probe::scratch(ctx)?).context("making a folder for the machine")?;
    let folder = match &args.keep {
        Some(folder) => absolute(folder)?,
        None => temporary.path().to_owned(),
    };
    let spec = Spec {
        firmware: args.firmware,
        accelerator: probe.accelerator,
        medium: Medium::Overlay { image, size: args.disk_size.map(|size| size.0) },
        bus: args.bus,
        memory: args.memory.0 >> 20,
    };
    let Probe { accelerator, why } = probe;
    ctx.ui.note(format!(
        "booting {} with {} firmware on {}: {why}",
        ctx.display(&file),
        args.firmware.name(),
        accelerator.name()
    ));
    let mut machine = Machine::start(ctx, &tools, &folder, &spec)?;
    if args.verdict {
        let limit = args.within.map_or(VERDICT_LIMIT * accelerator.patience(), Duration::from_secs);
        return judge(ctx, machine, limit);
    }
    ctx.ui.note("leave with Ctrl-] (the machine is then switched off)");
    let end = console::attend(&mut machine)?;
    ctx.check_interrupt()?;
    match end {
        End::Left => {
            machine.cut();
            ctx.ui.note("\nleft: the machine is off");
        }
        End::Off => {
            machine.finish()?;
            ctx.ui.note("the machine switched itself off");
        }
    }
    if args.keep.is_some() {
        ctx.ui.note(format!("its disk and its console ({SERIAL_LOG}) are in {}", folder.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn judge(ctx: &Context, mut machine: Machine, limit: Duration) -> Result<ExitCode> {
    if !ctx.ui.is_json() {
        console::show(&mut machine.link);
    }
    let (answer, machine) = machine.ask(limit)?;
    ctx.check_interrupt()?;
    // The console may have ended in the middle of a line.
    drop(machine);
    ctx.ui.note("");
    for line in answer.lines() {
        ctx.ui.data(line);
    }
    for (name, value) in answer.facts() {
        ctx.ui.data(format!("  {name} = {value}"));
    }
    if answer.is_healthy() {
        return Ok(ExitCode::SUCCESS);
    }
    let text = match answer {
        Answer::Verdict(_) => "the machine is not healthy",
        Answer::NoVerdict { .. } => "the machine gave no verdict",
    };
    Err(Failure::new(Kind::Verdict, text).into())
}
