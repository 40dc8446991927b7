//! `castiron show`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;

/// Arguments of `castiron show`.
#[derive(Debug, Args)]
pub struct Show {}

/// Runs the verb.
pub fn run(_ctx: &Context, _args: Show) -> Result<ExitCode> {
    anyhow::bail!("not yet")
}
