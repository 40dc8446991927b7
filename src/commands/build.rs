//! `castiron build`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::build::{self, Request};
use crate::carrier::Format;
use crate::context::Context;
use crate::error::{Failure, Kind};

/// Arguments of `castiron build`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  castiron build db                               one role, as qcow2
  castiron build control-plane worker db          several roles, one release
  castiron build control-plane worker --format iso  one installer medium for both
  castiron build db --format raw,qcow2 --explain  say why each stage ran or was reused
  castiron boot $(castiron build db)              build and boot")]
pub struct Build {
    /// Roles to build: files of `profiles/`
    #[arg(required = true, value_name = "ROLE")]
    roles: Vec<String>,
    /// What to make of each role, or of all (`iso`); disk images also come as `.zst`
    #[arg(long, value_delimiter = ',', default_value = "qcow2", value_name = "FORMAT")]
    format: Vec<Output>,
    /// How the installer medium installs, in Ubuntu's autoinstall format [default: as the site says; docs/autoinstall.md]
    #[arg(long, value_name = "FILE")]
    autoinstall: Option<PathBuf>,
    /// Folder in which the release's folder is made
    #[arg(long, short, default_value = "out", value_name = "DIR")]
    output: PathBuf,
    /// Version of the release [default: the day of the lock]
    #[arg(long, value_name = "VERSION", value_parser = version)]
    image_version: Option<String>,
    /// LAB ONLY: whoever is at the console is root, without a password
    #[arg(long)]
    debug_shell: bool,
    /// Say for each stage why it ran or was reused
    #[arg(long)]
    explain: bool,
    /// The static castiron-node to bake in [default: the one that came with this castiron]
    #[arg(long, value_name = "FILE", env = "CASTIRON_NODE")]
    node: Option<PathBuf>,
}

/// What a release may carry its roles in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A disk image as it is, sparse
    Raw,
    /// A disk image in QEMU's copy-on-write format (Proxmox, libvirt)
    Qcow2,
    /// One installer medium for all roles: CD, virtual CD of a BMC, USB stick
    Iso,
}

impl Output {
    fn disk(self) -> Option<Format> {
        match self {
            Self::Raw => Some(Format::Raw),
            Self::Qcow2 => Some(Format::Qcow2),
            Self::Iso => None,
        }
    }
}

/// `IMAGE_VERSION` of os-release(5): lower-case letters, digits, `.`, `_`, `-`.
fn version(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    if text.is_empty() || !text.chars().all(plain) {
        return Err("a version has lower-case letters, digits, `.`, `_` and `-` only".to_owned());
    }
    Ok(text.to_owned())
}

/// Runs the verb.
pub fn run(ctx: &Context, args: Build) -> Result<ExitCode> {
    let mut ctx = ctx.clone();
    ctx.explain = args.explain;
    let here = std::env::current_dir().context("finding the current folder")?;
    let mut roles: Vec<String> = Vec::new();
    for role in args.roles {
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    if args.autoinstall.is_some() && !args.format.contains(&Output::Iso) {
        let text = "`--autoinstall` is for an installer medium, and none is to be built";
        return Err(Failure::new(Kind::Input, text).hint("add `--format iso`").into());
    }
    let request = Request {
        roles,
        formats: args.format.iter().filter_map(|output| output.disk()).collect(),
        iso: args.format.contains(&Output::Iso),
        autoinstall: args.autoinstall,
        output: here.join(args.output),
        version: args.image_version,
        debug_shell: args.debug_shell,
        node: node(args.node.as_deref())?,
    };
    let release = build::build(&ctx, &request)?;
    ctx.ui.data(release.display().to_string());
    Ok(ExitCode::SUCCESS)
}

/// The static castiron-node: as named, or where an installation has it beside castiron.
fn node(named: Option<&Path>) -> Result<PathBuf> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()
            .context("finding castiron's own file")?
            .parent()
            .context("castiron lies in a folder")?
            .join("../lib/castiron/castiron-node"),
    };
    path.canonicalize().map_err(|_| {
        Failure::new(Kind::Input, format!("castiron-node is not at `{}`", path.display()))
            .hint("`make build` makes it there; or name it with `--node FILE`")
            .into()
    })
}
