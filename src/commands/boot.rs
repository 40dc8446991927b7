//! `castiron boot`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;

/// Arguments of `castiron boot`.
#[derive(Debug, Args)]
pub struct Boot {}

/// Runs the verb.
pub fn run(_ctx: &Context, _args: Boot) -> Result<ExitCode> {
    anyhow::bail!("not yet")
}
