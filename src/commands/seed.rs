//! `castiron seed`: a seed as a volume or a file, for machines that do not get it from their disk or installer.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use zeroize::Zeroizing;

use super::site_args::{SiteArgs, Whom};
use crate::cidata;
use crate::context::Context;
use crate::error::{Failure, Kind};
use crate::fs;
use crate::seed::{self, iso9660};

/// systemd's limit of a unit's credentials (src/shared/creds-util.h), and VMware's of a guestinfo variable.
const VARIABLE_MAX: usize = 1 << 20;

/// Arguments of `castiron seed`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  castiron seed --format cidata-iso --output seeds.iso            for all nodes: a CD beside the installer's
  castiron seed --node db-1 --format cidata-fat --output db-1.img
  castiron seed --node db-1 --format guestinfo --output db-1.txt  for `guestinfo.castiron.seed` in vSphere
  castiron seed --node db-1 --format credential --output castiron.seed

A seed holds secrets: the file is readable by you alone.")]
pub struct Seed {
    #[command(flatten)]
    site: SiteArgs,
    #[command(flatten)]
    whom: Whom,
    /// What to make
    #[arg(long, value_enum)]
    format: Format,
    /// Where to write it
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A CD labelled CIDATA
    CidataIso,
    /// A FAT volume labelled CIDATA, without a partition table
    CidataFat,
    /// Text for VMware's `guestinfo.castiron.seed`: base64; one node
    Guestinfo,
    /// A systemd credential `castiron.seed`; one node
    Credential,
}

/// Runs the verb.
pub fn run(ctx: &Context, args: Seed) -> Result<ExitCode> {
    let facts = args.site.facts(ctx)?;
    let single = matches!(args.format, Format::Guestinfo | Format::Credential);
    if single && args.whom.nodes(&facts)?.len() != 1 {
        let text = "this format is for one machine, and the seed would be for several";
        return Err(Failure::new(Kind::Input, text).hint("name the machine: `--node NAME`").into());
    }
    let seed = args.whom.seal(ctx, &facts, &args.site.open()?)?;
    let files = seed::files(&facts, &seed)?;
    let bytes = match args.format {
        Format::CidataIso => iso9660::make(&files)?,
        Format::CidataFat => cidata::make(&files, cidata::ALONE)?,
        Format::Guestinfo => Zeroizing::new(STANDARD.encode(seed.to_bytes()).into_bytes()),
        Format::Credential => seed.to_bytes(),
    };
    if single && bytes.len() > VARIABLE_MAX {
        let text = format!("the seed has {} bytes in this format, and it may have {VARIABLE_MAX}", bytes.len());
        return Err(Failure::new(Kind::Input, text).hint("use `--format cidata-iso`").into());
    }
    fs::write_private(&args.output, &bytes)?;
    ctx.ui.data(args.output.display().to_string());
    Ok(ExitCode::SUCCESS)
}
