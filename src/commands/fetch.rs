//! `castiron fetch`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;
use crate::fetch;
use crate::lock::{self, BOOT, INITRD};
use crate::profile::{self, Profile};
use crate::tools;

/// Arguments of `castiron fetch`.
#[derive(Debug, Args)]
pub struct Fetch {
    /// Roles whose inputs are wanted [default: all]
    #[arg(value_name = "ROLE")]
    roles: Vec<String>,
}

/// Runs the verb.
pub fn run(ctx: &Context, args: Fetch) -> Result<ExitCode> {
    let all = profile::load_all(ctx)?;
    let lock = lock::load(ctx)?;
    lock.check(&all)?;
    let wanted = if args.roles.is_empty() {
        all
    } else {
        args.roles.iter().map(|role| profile::load(ctx, role)).collect::<Result<Vec<_>>>()?
    };
    let chains = wanted.iter().flat_map(|p| &p.layers).map(|l| l.name.as_str());
    let layers: BTreeSet<&str> = chains.chain([INITRD, BOOT]).collect();
    let layers: Vec<&str> = layers.into_iter().collect();
    if let Some(first) = wanted.first() {
        fetch::fetch(ctx, first, &lock, &layers)?;
    }
    for profile in &wanted {
        fetch::fetch_files(ctx, profile)?;
        fetch::fetch_published(ctx, profile, &lock)?;
    }
    ctx.ui.note(format!("the store holds all that {} needs", names(&wanted)));
    Ok(ExitCode::SUCCESS)
}

/// Brings all that the lock and the tools tree name.
pub fn everything(ctx: &Context) -> Result<()> {
    run(ctx, Fetch { roles: Vec::new() })?;
    tools::bring_packages(ctx)
}

fn names(profiles: &[Profile]) -> String {
    profiles.iter().map(|p| format!("`{}`", p.name)).collect::<Vec<_>>().join(", ")
}
