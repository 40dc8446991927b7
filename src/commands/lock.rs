//! `castiron lock`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;

/// Arguments of `castiron lock`.
#[derive(Debug, Args)]
pub struct Lock {}

/// Runs the verb.
pub fn run(_ctx: &Context, _args: Lock) -> Result<ExitCode> {
    anyhow::bail!("not yet")
}
