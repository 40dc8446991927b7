//! `castiron fetch`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;

/// Arguments of `castiron fetch`.
#[derive(Debug, Args)]
pub struct Fetch {}

/// Runs the verb.
pub fn run(_ctx: &Context, _args: Fetch) -> Result<ExitCode> {
    anyhow::bail!("not yet")
}
