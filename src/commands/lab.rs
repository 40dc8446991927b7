//! `castiron lab`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;

/// Arguments of `castiron lab`.
#[derive(Debug, Args)]
pub struct Lab {}

/// Runs the verb.
pub fn run(_ctx: &Context, _args: Lab) -> Result<ExitCode> {
    anyhow::bail!("not yet")
}
