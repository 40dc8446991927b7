//! `castiron schema`: the JSON Schema of profiles, so that editors complete and check them while they are written.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::context::Context;
use crate::profile;

/// Arguments of `castiron schema`.
#[derive(Debug, Args)]
pub struct Schema {}

/// Runs the verb.
pub fn run(ctx: &Context, _args: Schema) -> Result<ExitCode> {
    let text = serde_json::to_string_pretty(&profile::schema()).context("writing the schema out")?;
    ctx.ui.data(text);
    Ok(ExitCode::SUCCESS)
}
