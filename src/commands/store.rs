//! `castiron store`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;

/// Arguments of `castiron store`.
#[derive(Debug, Args)]
pub struct Store {}

/// Runs the verb.
pub fn run(_ctx: &Context, _args: Store) -> Result<ExitCode> {
    anyhow::bail!("not yet")
}
