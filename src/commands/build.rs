//! `castiron build`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;

/// Arguments of `castiron build`.
#[derive(Debug, Args)]
pub struct Build {}

/// Runs the verb.
pub fn run(_ctx: &Context, _args: Build) -> Result<ExitCode> {
    anyhow::bail!("not yet")
}
