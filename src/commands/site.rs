//! `castiron site`: a site file's beginning, its problems, and what it means to people and to other programs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};

use crate::context::Context;
use crate::diagnostic::{literal, suggest};
use crate::error::{Failure, Kind};
use crate::fs;
use crate::site::{self, Identity, Node, inventory, netplan};
use crate::value::Size;

/// Arguments of `castiron site`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  castiron site new --ssh-key ~/.ssh/id_ed25519.pub
  castiron site check
  castiron site show                    a table of the nodes
  castiron site show --netplan cp1      the network of one node, as netplan reads it
  castiron site inventory > hosts.yaml && ansible -i hosts.yaml all -m ping")]
pub struct Site {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Begin a site file: 3 control planes, 3 workers, 1 GPU worker, 3 database servers
    New(New),
    /// Find every problem of a site file, offline, and warn of weak choices
    Check(File),
    /// Print the JSON Schema of site files, for editors
    Schema,
    /// Show the nodes of a site as a table; with `--json`, all that the file means
    Show(Show),
    /// Print an Ansible inventory: a group a role
    Inventory(File),
}

#[derive(Debug, Args)]
struct New {
    /// Where to write it
    #[arg(long, short, value_name = "FILE", default_value = site::FILE)]
    output: PathBuf,
    /// A public key that may log in (a `.pub` file); may be repeated
    #[arg(long, value_name = "FILE")]
    ssh_key: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct File {
    /// The site file
    #[arg(value_name = "FILE", default_value = site::FILE)]
    file: PathBuf,
}

#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    file: File,
    /// Print the network of one node instead, as netplan reads it
    #[arg(long, value_name = "NODE")]
    netplan: Option<String>,
}

/// Runs the verb.
pub fn run(ctx: &Context, args: Site) -> Result<ExitCode> {
    match args.verb {
        Verb::New(args) => new(ctx, &args)?,
        Verb::Check(args) => check(ctx, &args.file)?,
        Verb::Schema => ctx.ui.data(serde_json::to_string_pretty(&site::schema()).context("writing the schema out")?),
        Verb::Show(args) => show(ctx, &args)?,
        Verb::Inventory(args) => ctx.ui.data(inventory::render(&load(ctx, &args.file)?)?.trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

fn new(ctx: &Context, args: &New) -> Result<()> {
    let output = &args.output;
    if output.exists() {
        let message = format!("`{}` is there already", output.display());
        return Err(Failure::new(Kind::Input, message).hint("name another file with `--output`").into());
    }
    let keys = args.ssh_key.iter().map(|file| key(file)).collect::<Result<Vec<String>>>()?;
    fs::write_atomic(output, site::starter(&keys))?;
    ctx.ui.data(output.display().to_string());
    ctx.ui.note("write your own addresses and machines; `castiron site check` says what is left");
    Ok(())
}

fn key(file: &Path) -> Result<String> {
    let text = fs::read_to_string(file)?;
    let key = site::ssh_key(text.trim()).map_err(|message| {
        Failure::new(Kind::Input, format!("`{}` holds no public key", file.display())).hint(message)
    })?;
    Ok(key)
}

fn check(ctx: &Context, file: &Path) -> Result<()> {
    let site = load(ctx, file)?;
    let nodes = site.nodes.len();
    let s = if nodes == 1 { "" } else { "s" };
    ctx.ui.note(format!("`{}` is right: {nodes} node{s}", file.display()));
    Ok(())
}

/// The site, its warnings told.
fn load(ctx: &Context, file: &Path) -> Result<site::Site> {
    let (site, warnings) = site::load(ctx, file)?;
    for warning in warnings {
        ctx.ui.warn(warning);
    }
    Ok(site)
}

fn show(ctx: &Context, args: &Show) -> Result<()> {
    let (site, _) = site::load(ctx, &args.file.file)?;
    if let Some(name) = &args.netplan {
        let Some(node) = site.nodes.iter().find(|n| n.name == *name) else {
            let failure = Failure::new(Kind::Input, format!("no node {}", literal(name)));
            let names = site.nodes.iter().map(|n| n.name.as_str());
            return Err(suggest(name, names).into_iter().fold(failure, Failure::hint).into());
        };
        ctx.ui.data(netplan::render(node)?.trim_end());
    } else if ctx.ui.is_json() {
        ctx.ui.data(serde_json::to_string(&site).context("writing the site out")?);
    } else {
        ctx.ui.data(table(&site.nodes));
    }
    Ok(())
}

/// A line a node, the columns aligned.
fn table(nodes: &[Node]) -> String {
    let head = ["NAME", "ROLE", "ADDRESS", "INTERFACE", "MATCH", "DISK"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(nodes.iter().map(row)).collect();
    let widths: Vec<usize> =
        (0..6).map(|column| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or_default()).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn row(node: &Node) -> [String; 6] {
    let Identity { serial, uuid, mac } = &node.identity;
    let pair = |key: &str, value: &Option<String>| value.as_ref().map(|v| format!("{key} {v}"));
    let identity = [pair("serial", serial), pair("uuid", uuid), pair("mac", mac)];
    let disk = &node.disk;
    let size = |sign: &str, bytes: Option<u64>| bytes.map(|b| format!("{sign} {}", Size(b)));
    let disk = [
        pair("serial", &disk.serial),
        pair("wwn", &disk.wwn),
        pair("by-path", &disk.by_path),
        pair("model", &disk.model),
        size("≥", disk.min_size),
        size("≤", disk.max_size),
    ];
    let all = |parts: &[Option<String>]| parts.iter().flatten().cloned().collect::<Vec<_>>().join(", ");
    [
        node.name.clone(),
        node.role.clone(),
        node.address.map_or_else(|| "by DHCP".to_owned(), |a| a.to_string()),
        node.interface.clone(),
        all(&identity),
        all(&disk),
    ]
}
