//! `castiron secrets`: what is secret of a site, made once, shared by its operators, made anew when it must be.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum as _};

use super::site_args::SiteArgs;
use crate::context::Context;
use crate::error::{Failure, Kind};
use crate::seal::Secret;
use crate::seed::known::{Group, ITEMS, Scope};
use crate::seed::secrets::{self, Secrets as SiteSecrets};

/// Arguments of `castiron secrets`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  castiron secrets new                               make all secrets of a new site
  castiron secrets update                            what new nodes of the site file need
  castiron secrets show                              what there is, without values
  castiron secrets show --reveal kubernetes/ca.crt
  castiron secrets rotate postgresql                 make a group anew; then seed the nodes again
  castiron secrets rekey --add age1…                 let a colleague open them")]
pub struct Secrets {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make all secrets of a site, and an identity for you if there is none
    New {
        #[command(flatten)]
        site: SiteArgs,
        /// An age recipient who may open them, too; may be repeated
        #[arg(long, value_name = "AGE1…")]
        recipient: Vec<String>,
    },
    /// Make what is missing: secrets of nodes that are new, certificates of nodes whose address changed
    Update {
        #[command(flatten)]
        site: SiteArgs,
    },
    /// List secrets and recipients, or print one value
    Show {
        #[command(flatten)]
        site: SiteArgs,
        /// Print the value of this secret on stdout
        #[arg(long, value_name = "SECRET")]
        reveal: Option<String>,
        /// The node whose secret is meant
        #[arg(long, value_name = "NAME", requires = "reveal")]
        node: Option<String>,
    },
    /// Make groups of secrets anew; running nodes learn of it by their next seed
    Rotate {
        #[command(flatten)]
        site: SiteArgs,
        /// What to make anew
        #[arg(required = true, value_name = "GROUP")]
        groups: Vec<Group>,
    },
    /// Change who may open the secrets
    Rekey {
        #[command(flatten)]
        site: SiteArgs,
        /// An age recipient who may open them from now on
        #[arg(long, value_name = "AGE1…", required_unless_present = "remove")]
        add: Vec<String>,
        /// An age recipient who may not open later files; what they have read, they know
        #[arg(long, value_name = "AGE1…")]
        remove: Vec<String>,
    },
}

/// Runs the verb.
pub fn run(ctx: &Context, args: Secrets) -> Result<ExitCode> {
    match args.verb {
        Verb::New { site, recipient } => new(ctx, &site, &recipient)?,
        Verb::Update { site } => {
            let mut secrets = site.open()?;
            let done = secrets.complete(&site.facts(ctx)?)?;
            if done.is_empty() {
                ctx.ui.note("nothing is missing");
            } else {
                save(ctx, &site, &secrets, &done)?;
            }
        }
        Verb::Show { site, reveal, node } => show(ctx, &site.open()?, reveal.as_deref(), node.as_deref())?,
        Verb::Rotate { site, groups } => {
            let mut secrets = site.open()?;
            groups.iter().try_for_each(|group| secrets.rotate(*group))?;
            let mut done: Vec<String> = groups.iter().map(|group| format!("rotated `{}`", name(*group))).collect();
            done.extend(secrets.complete(&site.facts(ctx)?)?);
            save(ctx, &site, &secrets, &done)?;
            ctx.ui.note("nodes have the former ones until they get a new seed");
        }
        Verb::Rekey { site, add, remove } => rekey(ctx, &site, &add, &remove)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn new(ctx: &Context, site: &SiteArgs, more: &[String]) -> Result<()> {
    let path = site.secrets();
    if path.exists() {
        let text = format!("`{}` is there already, and a site has one", path.display());
        let hint = "`castiron secrets update` makes what is missing, `castiron secrets rotate` makes secrets anew";
        return Err(Failure::new(Kind::Input, text).hint(hint).into());
    }
    let facts = site.facts(ctx)?;
    for text in more {
        secrets::recipient(text)?;
    }
    let identity = site.identity()?;
    let own = if identity.exists() {
        secrets::identities(&identity)?
    } else {
        let made = secrets::new_identity(&identity)?;
        ctx.ui.note(format!(
            "made your identity `{}`: whoever has it opens the site's secrets; keep a copy",
            identity.display()
        ));
        vec![made]
    };
    let mut recipients: BTreeSet<String> = own.iter().map(|identity| identity.to_public().to_string()).collect();
    recipients.extend(more.iter().cloned());
    let secrets = SiteSecrets::new(&facts, recipients)?;
    secrets.save(&path)?;
    let (nodes, people) = (facts.nodes.len(), secrets.recipients.len());
    ctx.ui.note(format!("made the secrets of the site {} with {nodes} nodes, for {people} recipients", secrets.id()?));
    ctx.ui.data(path.display().to_string());
    Ok(())
}

fn save(ctx: &Context, site: &SiteArgs, secrets: &SiteSecrets, done: &[String]) -> Result<()> {
    secrets.save(&site.secrets())?;
    for line in done {
        ctx.ui.note(line);
    }
    ctx.ui.data(site.secrets().display().to_string());
    Ok(())
}

fn show(ctx: &Context, secrets: &SiteSecrets, reveal: Option<&str>, node: Option<&str>) -> Result<()> {
    let Some(wanted) = reveal else {
        ctx.ui.data(format!("site {}, {} signing keys so far", secrets.id()?, secrets.keys.len()));
        for recipient in &secrets.recipients {
            ctx.ui.data(format!("recipient {recipient}"));
        }
        for item in ITEMS {
            let who: Vec<&str> = item.known_by.iter().map(|kind| kind.name()).collect();
            let who = if who.is_empty() { "no node".to_owned() } else { who.join(", ") };
            let of = if item.scope == Scope::Node { ", each its own" } else { "" };
            ctx.ui.data(format!("{:<30} {:<16} known by {who}{of}", item.name, name(item.group)));
        }
        return Ok(());
    };
    let found: Option<&Secret> = match node {
        None => secrets.site.get(wanted),
        Some(node) => secrets.nodes.get(node).and_then(|own| own.items.get(wanted)),
    };
    let of = node.map(|node| format!(" of `{node}`")).unwrap_or_default();
    let found = found.ok_or_else(|| {
        let hint = "`castiron secrets show` lists them; those that each node has are asked for with `--node NAME`";
        Failure::new(Kind::Input, format!("there is no secret `{wanted}`{of}")).hint(hint)
    })?;
    ctx.ui.data(found.reveal().trim_end());
    Ok(())
}

fn rekey(ctx: &Context, site: &SiteArgs, add: &[String], remove: &[String]) -> Result<()> {
    let identities = site.identities()?;
    let mut secrets = SiteSecrets::load(&site.secrets(), &identities)?;
    for text in add {
        secrets::recipient(text)?;
        secrets.recipients.insert(text.clone());
    }
    for text in remove {
        if !secrets.recipients.remove(text) {
            let text = format!("`{text}` is no recipient of these secrets");
            return Err(Failure::new(Kind::Input, text).hint("`castiron secrets show` lists them").into());
        }
    }
    if secrets.recipients.is_empty() {
        return Err(Failure::new(Kind::Input, "nobody would be left who can open the secrets").into());
    }
    if identities.iter().all(|identity| !secrets.recipients.contains(&identity.to_public().to_string())) {
        ctx.ui.warn("you are no recipient any more: your identity does not open the new file");
    }
    if !remove.is_empty() {
        ctx.ui.note(
            "who was removed still knows what is in the former file; `castiron secrets rotate` makes secrets anew",
        );
    }
    let done = [format!("encrypted to {} recipients", secrets.recipients.len())];
    save(ctx, site, &secrets, &done)
}

fn name(group: Group) -> String {
    group.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}
