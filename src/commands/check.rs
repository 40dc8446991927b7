//! `castiron check`: every problem of every profile, with nothing but the project's folder.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;
use crate::profile;

/// Arguments of `castiron check`.
#[derive(Debug, Args)]
pub struct Check {}

/// Runs the verb.
pub fn run(ctx: &Context, _args: Check) -> Result<ExitCode> {
    match profile::check(ctx)? {
        1 => ctx.ui.note("1 profile is right"),
        n => ctx.ui.note(format!("{n} profiles are right")),
    }
    Ok(ExitCode::SUCCESS)
}
