//! `castiron tools`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;
use crate::tools;

/// Arguments of `castiron tools`.
#[derive(Debug, Args)]
#[command(after_help = "Its static programs run on any host, the others where the C library is as new as noble's.")]
pub struct Tools {}

/// Runs the verb.
pub fn run(ctx: &Context, _args: Tools) -> Result<ExitCode> {
    let tools = tools::Tools::ensure(ctx)?;
    ctx.ui.data(tools.root.display().to_string());
    Ok(ExitCode::SUCCESS)
}
