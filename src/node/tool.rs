//! The door to the machine's programs: `systemctl`, `journalctl`, `veritysetup`.
//!
//! They are found by PATH, so that a test can put its own before them. Nothing is inherited but PATH; the C locale keeps
//! their words the same everywhere.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// What a program said.
pub(crate) struct Said {
    /// Its stdout.
    pub(crate) out: String,
    /// Whether it ended with exit code 0.
    pub(crate) ok: bool,
    err: String,
    line: String,
}

impl Said {
    /// Its stdout, or an error that tells its stderr.
    pub(crate) fn success(self) -> Result<String> {
        if !self.ok {
            let said = [self.err.trim(), self.out.trim()].into_iter().find(|text| !text.is_empty());
            bail!("`{}` failed: {}", self.line, said.unwrap_or("it said nothing"));
        }
        Ok(self.out)
    }
}

/// Runs a program to its end.
#[expect(
    clippy::disallowed_methods,
    reason = "`cmd::Cmd` is the builder's door, with its sandbox; this is the machine's"
)]
pub(crate) fn run(line: &[&str]) -> Result<Said> {
    let [program, args @ ..] = line else { bail!("no program was named") };
    let output = Command::new(program)
        .args(args)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name == "PATH"))
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running `{}`", line.join(" ")))?;
    Ok(Said {
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        ok: output.status.success(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        line: line.join(" "),
    })
}
