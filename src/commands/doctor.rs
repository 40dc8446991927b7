//! `castiron doctor`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;

/// Arguments of `castiron doctor`.
#[derive(Debug, Args)]
pub struct Doctor {}

/// Runs the verb.
pub fn run(_ctx: &Context, _args: Doctor) -> Result<ExitCode> {
    anyhow::bail!("not yet")
}
