//! `castiron diff`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;

/// Arguments of `castiron diff`.
#[derive(Debug, Args)]
pub struct Diff {}

/// Runs the verb.
pub fn run(_ctx: &Context, _args: Diff) -> Result<ExitCode> {
    anyhow::bail!("not yet")
}
