//! `castiron stamp`: a seed into the region that a carrier reserves, what is there, and out again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::site_args::{SiteArgs, Whom};
use crate::carrier::region::{Medium, Region};
use crate::cidata;
use crate::context::Context;
use crate::error::{Failure, Kind};
use crate::fs;
use crate::region::{self, HEADER, State};
use crate::seal::{self, Seed};
use crate::seed::stamp::{self, Target};
use crate::seed::{self, Facts, secrets};

/// Arguments of `castiron stamp`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  castiron stamp installer.iso --site site.toml              seeds of all nodes, in place
  castiron stamp db.qcow2 --node db-1 --output db-1.qcow2    a disk for one node, the release untouched
  castiron stamp worker.raw --role worker                    a template for all workers
  castiron stamp installer.iso --show
  castiron stamp installer.iso --remove                      the bytes of the release again

An ISO is stamped for all nodes if none is named. A disk keeps its seed, so nodes of one role are the most it takes.")]
pub struct Stamp {
    /// The ISO, raw disk or qcow2
    #[arg(value_name = "FILE")]
    carrier: PathBuf,
    #[command(flatten)]
    site: SiteArgs,
    #[command(flatten)]
    whom: Whom,
    /// Change a copy, which shares its blocks with the carrier where the filesystem can
    #[arg(long, short, value_name = "FILE", conflicts_with = "show")]
    output: Option<PathBuf>,
    /// Say what is stamped, and change nothing
    #[arg(long)]
    show: bool,
    /// Take the seed out
    #[arg(long, conflicts_with_all = ["show", "node", "role"])]
    remove: bool,
}

/// Runs the verb.
pub fn run(ctx: &Context, args: Stamp) -> Result<ExitCode> {
    let doing = || format!("stamping `{}`", args.carrier.display());
    if args.show {
        show(ctx, &args.carrier).with_context(|| format!("reading `{}`", args.carrier.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    // Everything that can be wrong is found before a byte is copied or written.
    let (medium, room) = {
        let file = fs::open(&args.carrier)?;
        let region = Region::find(&file).with_context(doing)?;
        (region.medium, region.size as usize - HEADER)
    };
    let sealed = if args.remove { None } else { Some(seal(ctx, &args, medium, room).with_context(doing)?) };
    let output = args.output.as_deref().filter(|output| !same(output, &args.carrier));
    let target = match output {
        Some(output) => Target::copy(&args.carrier, output)?,
        None => Target::in_place(&args.carrier)?,
    };
    if sealed.is_some() && target.make_private()? {
        ctx.ui.note(format!("`{}` holds secrets now, so its owner alone may read it", args.carrier.display()));
    }
    let payload = sealed.as_ref().map(|(seed, volume)| seed.payload(volume, secrets::now()));
    let region = Region::find(target.file()).with_context(doing)?;
    stamp::put(&region, &region.read()?, payload.as_ref()).with_context(doing)?;
    target.finish()?;
    ctx.ui.data(output.unwrap_or(&args.carrier).display().to_string());
    Ok(ExitCode::SUCCESS)
}

fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn seal(ctx: &Context, args: &Stamp, medium: Medium, room: usize) -> Result<(Seed, zeroize::Zeroizing<Vec<u8>>)> {
    let facts = args.site.facts(ctx)?;
    let nodes = args.whom.nodes(&facts)?;
    if medium != Medium::Iso {
        one_role(&facts, &nodes, medium)?;
    }
    let seed = args.whom.seal(ctx, &facts, &args.site.open()?)?;
    let volume = cidata::make(&seed::files(&facts, &seed)?, room)?;
    Ok((seed, volume))
}

/// A machine must not find the keys of another kind on its own disk.
fn one_role(facts: &Facts, nodes: &[&str], medium: Medium) -> Result<()> {
    let mut roles: Vec<&str> =
        facts.nodes.iter().filter(|n| nodes.contains(&n.name.as_str())).map(|n| n.role.as_str()).collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.len() > 1 {
        let text =
            format!("a {} is for machines of one role, and these are nodes of {}", medium.name(), roles.join(", "));
        return Err(Failure::new(Kind::Input, text).hint("name the machine, `--node NAME`, or `--role ROLE`").into());
    }
    Ok(())
}

fn show(ctx: &Context, path: &Path) -> Result<()> {
    let file = fs::open(path)?;
    let found = Region::find(&file)?;
    let bytes = found.read()?;
    let place = json!({
        "medium": found.medium.name(), "start": found.start, "size": found.size, "room": found.size - HEADER as u64,
    });
    let state = match region::read(&bytes)? {
        State::Unstamped(_) => Value::Null,
        State::Stamped(stamp, payload) => {
            let seed = Seed::parse(&cidata::read_file(payload, seal::FILE)?)?;
            let mut state = seed::describe(&seed);
            state["bytes"] = json!(stamp.length);
            state["time"] = json!(time(stamp.time));
            state
        }
    };
    if ctx.ui.is_json() {
        ctx.ui.data(json!({ "region": place, "stamped": state }).to_string());
        return Ok(());
    }
    let room = found.size - HEADER as u64;
    ctx.ui.data(format!("{}, seed region at byte {} with room for {room} bytes", found.medium.name(), found.start));
    let text = |key: &str| state[key].as_str().map_or_else(|| state[key].to_string(), str::to_owned);
    if state.is_null() {
        ctx.ui.data("nothing is stamped");
    } else {
        ctx.ui.data(format!("stamped {}: {} bytes of the cluster `{}`", text("time"), text("bytes"), text("cluster")));
        ctx.ui.data(format!("site {}, serial {}", text("site"), text("serial")));
        for (node, role) in state["nodes"].as_object().into_iter().flatten() {
            ctx.ui.data(format!("node {node:<24} {}", role.as_str().unwrap_or_default()));
        }
    }
    Ok(())
}

fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| seconds.to_string(), |time| time.to_string())
}
