//! `castiron lock`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;
use crate::lock::{self, Difference, FILE, Options, TOOLS_FILE, ToolsList};
use crate::profile;

/// Arguments of `castiron lock`.
#[derive(Debug, Args)]
pub struct Lock {
    /// Compare the lock with the profiles, offline; write nothing
    #[arg(long, conflicts_with_all = ["upgrade", "allow_older", "tools"])]
    check: bool,
    /// Let only this package move, and what it needs, or the tag of this image; may be repeated
    #[arg(long, value_name = "PACKAGE|IMAGE")]
    upgrade: Vec<String>,
    /// Accept indices that are older than the lock
    #[arg(long)]
    allow_older: bool,
    /// Take programs and images from this origin, not from their publishers; the lock then says so
    #[arg(long, value_name = "URL|DIR", env = "CASTIRON_ORIGIN")]
    origin: Option<String>,
    /// Resolve the packages of the tools tree instead, from `profiles/tools.toml`
    #[arg(long)]
    tools: bool,
}

/// Runs the verb.
pub fn run(ctx: &Context, args: Lock) -> Result<ExitCode> {
    if args.check {
        let lock = lock::load(ctx)?;
        lock.check_all(&profile::load_all(ctx)?)?;
        let shown = lock::path(ctx, FILE);
        ctx.ui.note(format!("`{}` answers the profiles ({} packages)", ctx.display(&shown), lock.packages.len()));
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options { upgrade: args.upgrade, allow_older: args.allow_older, origin: args.origin };
    let name = if args.tools { TOOLS_FILE } else { FILE };
    let old = lock::path(ctx, name).exists().then(|| lock::load_from(ctx, name)).transpose()?;
    let new = if args.tools {
        lock::resolve_tools(ctx, &ToolsList::load(ctx)?, old.as_ref(), &options)?
    } else {
        lock::resolve(ctx, &profile::load_all(ctx)?, old.as_ref(), &options)?
    };
    let written = lock::save(ctx, name, &new)?;
    let differences = Difference::all(old.as_ref(), &new);
    for difference in &differences {
        ctx.ui.data(difference.to_string());
    }
    let shown = lock::path(ctx, name);
    let shown = ctx.display(&shown);
    let total = new.packages.len();
    ctx.ui.note(match (written, differences.is_empty()) {
        (false, _) => format!("`{shown}` is up to date ({total} packages)"),
        (true, true) => format!("`{shown}` is written ({total} packages, no version changed)"),
        (true, false) => format!("`{shown}` is written: {}", Difference::summary(&differences)),
    });
    Ok(ExitCode::SUCCESS)
}
