//! `castiron doctor`: what castiron needs of its host, each tried.
//!
//! Nothing is taken from a version or a file's mere presence where trying it costs no more: the sandbox is really set up,
//! by the code that every build runs, and a file in it really gets another owner. KVM is the exception, and is only
//! said: whether it works shows when a guest is booted.

mod namespaces;
mod room;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::context::Context;
use crate::{download, fs, profile};

/// Arguments of `castiron doctor`.
#[derive(Debug, Args)]
#[command(
    after_help = "It ends with exit code 0 when nothing is missing, else with 1. A warning is not something missing.
With `--json` the data event's line is an object: `checks`, a list of {check, state, found, mend?}."
)]
pub struct Doctor {
    /// The folder in which releases will be made
    #[arg(long, short, default_value = "out", value_name = "DIR")]
    output: PathBuf,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Ok,
    Warning,
    Missing,
}

/// One check: what was found, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Ok, found: found.into(), mend: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, state: State::Warning, found: found.into(), mend: Some(mend.into()) }
    }

    fn missing(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, state: State::Missing, found: found.into(), mend: Some(mend.into()) }
    }

    fn text(&self) -> String {
        let state = match self.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Missing => "missing",
        };
        let below = |text: &str| text.replace('\n', &format!("\n{:22}", ""));
        let mut line = format!("{state:<8} {:<12} {}", self.check, below(&self.found));
        if let Some(mend) = &self.mend {
            line.push_str(&below(&format!("\n{mend}")));
        }
        line
    }
}

/// Runs the verb.
pub fn run(ctx: &Context, args: Doctor) -> Result<ExitCode> {
    let output = std::env::current_dir().context("finding the current folder")?.join(args.output);
    let mut report = Report { ctx, findings: Vec::new() };
    let store = room::store(ctx);
    let can_try = store.state != State::Missing;
    report.add(store);
    report.add(room::output(&output));
    report.add(room::memory());
    if can_try {
        for finding in namespaces::check(ctx)? {
            report.add(finding);
        }
    } else {
        report.add(Finding::missing("sandbox", "not tried: it needs the store", "mend the store first"));
    }
    for finding in mirrors(ctx)? {
        report.add(finding);
    }
    report.add(kvm());
    Ok(report.end())
}

/// Says each finding as soon as it is known: a mirror that does not answer takes its time.
struct Report<'a> {
    ctx: &'a Context,
    findings: Vec<Finding>,
}

impl Report<'_> {
    fn add(&mut self, finding: Finding) {
        if !self.ctx.ui.is_json() {
            self.ctx.ui.data(finding.text());
        }
        self.findings.push(finding);
    }

    fn end(self) -> ExitCode {
        if self.ctx.ui.is_json() {
            self.ctx.ui.data(json!({"checks": self.findings}).to_string());
        }
        let missing = self.findings.iter().filter(|f| f.state == State::Missing).count();
        self.ctx.ui.note(match missing {
            0 => "nothing is missing".to_owned(),
            1 => "1 thing is missing; run `castiron doctor` again when it is mended".to_owned(),
            n => format!("{n} things are missing; run `castiron doctor` again when they are mended"),
        });
        ExitCode::from(u8::from(missing > 0))
    }
}

/// Each mirror's signed index. A host that builds from a warm store needs none, so none is ever missing.
fn mirrors(ctx: &Context) -> Result<Vec<Finding>> {
    let mut mirrors = ctx.mirrors.clone();
    let mut suite = None;
    if ctx.profiles().join("base.toml").is_file() {
        for role in roles(ctx)? {
            let archive = match profile::load(ctx, &role) {
                Ok(profile) => profile.archive,
                Err(error) => {
                    let found = format!("unknown: the profiles have problems: {}", first_line(&error));
                    return Ok(vec![Finding::warning("mirrors", found, "see them all: `castiron check`")]);
                }
            };
            suite = suite.or(archive.suites.into_iter().next());
            for mirror in archive.mirrors {
                if !mirrors.contains(&mirror) {
                    mirrors.push(mirror);
                }
            }
        }
    }
    if mirrors.is_empty() {
        let found = format!("none is known: `{}` has no profiles", ctx.project.display());
        return Ok(vec![Finding::warning(
            "mirrors",
            found,
            "name the project with `-C DIR`, or a mirror with `--mirror`",
        )]);
    }
    let suite = suite.unwrap_or_else(|| "noble".to_owned());
    let mut findings = Vec::new();
    for mirror in mirrors {
        ctx.check_interrupt()?;
        let index = format!("{}/dists/{suite}/InRelease", mirror.trim_end_matches('/'));
        findings.push(match download::reach(&index) {
            Ok(()) => Finding::ok("mirror", format!("{mirror} has `{suite}`")),
            Err(error) => Finding::warning(
                "mirror",
                format!("{index}: {error:#}"),
                "only a build whose bytes are all in the store needs no mirror\n\
                 check the network and `http_proxy`, or name another mirror with `--mirror`",
            ),
        });
    }
    Ok(findings)
}

/// The files of `profiles/` that are roles.
fn roles(ctx: &Context) -> Result<Vec<String>> {
    let paths = fs::list(&ctx.profiles())?;
    let names = paths.iter().filter(|p| p.extension().is_some_and(|e| e == "toml")).filter_map(|p| p.file_stem());
    Ok(names.map(|n| n.to_string_lossy().into_owned()).filter(|n| n != "base" && n != "tools").collect())
}

fn first_line(error: &anyhow::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn kvm() -> Finding {
    let device = std::path::Path::new("/dev/kvm");
    let opened = fs::open_rw(device).is_ok();
    Finding::ok(
        "kvm",
        match (device.exists(), opened) {
            (true, true) => "`/dev/kvm` is there; whether guests run with it shows when one is booted",
            (true, false) => "`/dev/kvm` is there, but not for this user: guests are emulated, which is slower",
            _ => "`/dev/kvm` is not there: guests are emulated, which is slower",
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_stands_below_what_was_found() {
        let finding = Finding::missing("ids", "`newuidmap` is not here", "one\ntwo");
        assert_eq!(
            finding.text(),
            "missing  ids          `newuidmap` is not here\n                      one\n                      two"
        );
    }
}
