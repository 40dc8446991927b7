//! The door to the machine's programs: `systemctl`, `journalctl`, `veritysetup`.
//!
//! They are found by PATH, so that a test can put its own before them. Nothing is inherited but PATH; the C locale keeps
//! their words the same everywhere.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

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

/// Runs a program to its end or for `limit` at most, each line that it prints given to `tell` as it comes. It is alone in its
/// process group, and ends with all that it started when its time is over.
#[expect(
    clippy::disallowed_methods,
    reason = "`cmd::Cmd` is the builder's door, with its sandbox; this is the machine's"
)]
pub(crate) fn run_told(
    line: &[&str],
    env: &[(&str, String)],
    limit: Duration,
    mut tell: impl FnMut(&str),
) -> Result<ExitStatus> {
    let [program, args @ ..] = line else { bail!("no program was named") };
    let running = || format!("running `{}`", line.join(" "));
    let (reader, writer) = std::io::pipe().with_context(running)?;
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name == "PATH"))
        .env("LC_ALL", "C.UTF-8")
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(writer.try_clone().with_context(running)?)
        .stderr(writer)
        .process_group(0)
        .spawn()
        .with_context(running)?;
    let group = Pid::from_raw(child.id().cast_signed());
    let (sender, lines) = mpsc::channel();
    // It ends when the last process that could print has ended; whoever was left behind in the background is not waited for.
    std::thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(std::io::Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + limit;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => tell(&line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                // Whoever has ended by itself meanwhile needs no signal.
                let _ = killpg(group, Signal::SIGKILL);
                child.wait().with_context(running)?;
                bail!("`{}` was still running after {} s", line.join(" "), limit.as_secs());
            }
        }
    }
    child.wait().with_context(running)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_and_the_end_is_the_programs_own() {
        let mut told = Vec::new();
        let script = "echo one; echo two >&2; echo $CASTIRON_NODE; exit 3";
        let env = [("CASTIRON_NODE", "db1".to_owned())];
        let status = run_told(&["sh", "-c", script], &env, Duration::from_secs(60), |line| told.push(line.to_owned()));
        assert_eq!(status.expect("runs").code(), Some(3));
        assert_eq!(told, ["one", "two", "db1"]);
    }

    #[test]
    fn whoever_takes_too_long_is_ended_with_all_its_children() {
        let error = run_told(&["sh", "-c", "sleep 1000 & sleep 1000"], &[], Duration::from_millis(10), |_| ());
        assert!(error.expect_err("is ended").to_string().ends_with("was still running after 0 s"));
    }
}
