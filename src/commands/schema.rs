//! `castiron schema`: the JSON Schema of profiles and of version sets, so that editors complete and check them while they
//! are written.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::context::Context;
use crate::profile;

/// Arguments of `castiron schema`.
#[derive(Debug, Args)]
pub struct Schema {
    /// That of version sets (`profiles/kubernetes/*.toml`) instead
    #[arg(long)]
    kubernetes: bool,
}

/// Runs the verb.
pub fn run(ctx: &Context, args: Schema) -> Result<ExitCode> {
    let schema = if args.kubernetes { profile::versions_schema() } else { profile::schema() };
    let text = serde_json::to_string_pretty(&schema).context("writing the schema out")?;
    ctx.ui.data(text);
    Ok(ExitCode::SUCCESS)
}
