//! `castiron check`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;

/// Arguments of `castiron check`.
#[derive(Debug, Args)]
pub struct Check {}

/// Runs the verb.
pub fn run(_ctx: &Context, _args: Check) -> Result<ExitCode> {
    anyhow::bail!("not yet")
}
