//! `castiron boot`.

use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::context::Context;
use crate::error::{Failure, Kind};
use crate::fs;
use crate::lab::console::{self, End};
use crate::lab::hardware::{Attach, Bus, Card, Disk, Firmware, Maker, Medium, SERIAL_LOG, Source, Spec};
use crate::lab::image::{self, Image};
use crate::lab::link::Answer;
use crate::lab::probe::{self, Probe};
use crate::lab::qemu::Machine;
use crate::lab::scenario::Size;
use crate::tools::Tools;

/// Arguments of `castiron boot`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  castiron boot out/db-20260401                       the image, its console on your terminal
  castiron boot db-1.qcow2 --serial ABC1234           a stamped image on the machine that the site knows so
  castiron boot installer.iso --serial ABC1234 --keep machine
                                                      installs a machine with an empty disk, which `machine` keeps;
                                                      the same again boots it

The image is never written. The machine's network is its own: nobody is in it but a DHCP server.
With --verdict: exit code 0 when the machine says that it is healthy, else 6.")]
pub struct Boot {
    /// A release's folder, an image (raw, qcow2), or an installer ISO
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
    /// Give the machine a larger disk than the image's; with an ISO, an empty one of this size [default there: 8G]
    #[arg(long, value_name = "SIZE")]
    disk_size: Option<Size>,
    /// The disk's serial number
    #[arg(long, value_name = "TEXT")]
    disk_serial: Option<String>,
    /// The machine's serial number, by which a site may know it
    #[arg(long, value_name = "TEXT")]
    serial: Option<String>,
    /// The machine's UUID
    #[arg(long)]
    uuid: Option<String>,
    /// A network card with this address; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    mac: Vec<String>,
    /// The network that the cards are in
    #[arg(long, value_name = "CIDR", default_value = "192.0.2.0/24", requires = "mac")]
    network: String,
    /// What an ISO is attached as
    #[arg(long, value_enum, default_value = "cd")]
    attach: Attach,
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

const INSTALLED_DISK: &str = "disk.raw";
const EMPTY_DISK: u64 = 8 << 30;
const VERDICT_LIMIT: Duration = Duration::from_secs(120);

/// Runs the verb.
pub fn run(ctx: &Context, args: Boot) -> Result<ExitCode> {
    let file = image::find(&args.path, args.role.as_deref())?;
    let file = absolute(&file).with_context(|| format!("resolving `{}`", file.display()))?;
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
    fs::create_dir_all(&folder)?;
    let size = args.disk_size.map(|size| size.0);
    let medium = image::is_iso(&file)?.then(|| Medium { path: file.clone(), attach: args.attach });
    let source = match medium {
        Some(_) => Source::Raw(empty_disk(&folder, size.unwrap_or(EMPTY_DISK))?),
        None => Source::Overlay { image, size },
    };
    let card = |mac: &String| Card { mac: mac.clone(), unplugged: false, network: args.network.clone() };
    let spec = Spec {
        firmware: args.firmware,
        accelerator: probe.accelerator,
        memory: args.memory.0 >> 20,
        disks: vec![Disk { serial: args.disk_serial.clone(), ..Disk::new(source, args.bus) }],
        medium,
        kernel: None,
        cards: args.mac.iter().map(card).collect(),
        maker: Maker { serial: args.serial.clone(), uuid: args.uuid.clone() },
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

/// The disk of a machine that is to be installed: made when there is none yet.
fn empty_disk(folder: &Path, size: u64) -> Result<String> {
    let path = folder.join(INSTALLED_DISK);
    if !path.exists() {
        fs::create(&path)?.set_len(size).with_context(|| format!("sizing `{}`", path.display()))?;
    }
    Ok(INSTALLED_DISK.to_owned())
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
