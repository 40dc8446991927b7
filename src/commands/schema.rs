//! `castiron schema`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;

/// Arguments of `castiron schema`.
#[derive(Debug, Args)]
pub struct Schema {}

/// Runs the verb.
pub fn run(_ctx: &Context, _args: Schema) -> Result<ExitCode> {
    anyhow::bail!("not yet")
}
