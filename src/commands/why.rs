//! `castiron why`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;

/// Arguments of `castiron why`.
#[derive(Debug, Args)]
pub struct Why {}

/// Runs the verb.
pub fn run(_ctx: &Context, _args: Why) -> Result<ExitCode> {
    anyhow::bail!("not yet")
}
