//! `castiron tools`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;
use crate::tools;

/// Arguments of `castiron tools`.
#[derive(Debug, Args)]
#[command(after_help = "What it prints can be run on a host whose C library is as new as noble's, and static programs on any:
  $(castiron tools)/usr/bin/mksquashfs -version")]
pub struct Tools {}

/// Runs the verb.
pub fn run(ctx: &Context, _: Tools) -> Result<ExitCode> {
    let tools = tools::Tools::ensure(ctx)?;
    ctx.ui.data(tools.root.display().to_string());
    Ok(ExitCode::SUCCESS)
}
