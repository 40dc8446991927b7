//! A virtual machine: QEMU out of the tools tree, in a sandbox without a network.
//!
//! In: a [`Spec`] and a run folder. Out: a [`Machine`] that runs, with its console, monitor and verdict port connected.
//! Runs: `cp`, `qemu-img`, `qemu-system-x86_64`.
//!
//! - The console is QEMU's stdin and stdout, so its end is the machine's end. A copy goes to `serial.log`.
//! - Monitor and verdict port are sockets in the run folder. castiron listens and QEMU connects, so there is nothing to
//!   wait or poll for. They are reached by way of `/proc/self/fd`: a socket's path has room for 108 bytes only.
//! - A release's image is never written: it lies read-only in the sandbox, below an overlay, or is copied before.
//! - Everything dies with the sandbox: no pid file, nothing to clean up.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use crate::cmd::{Cmd, Running};
use crate::context::Context;
use crate::fs;
use crate::lab::hardware::{self, Accelerator, MEDIUM, OVERLAY, RUN, Source, Spec, VARIABLES};
use crate::lab::link::{Answer, Heard, Link, Miss};
use crate::lab::qmp::Qmp;
use crate::tools::Tools;

const CONNECT_LIMIT: Duration = Duration::from_secs(60);
/// How long a process takes to end once its sockets are closed.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A machine that runs. Dropping it cuts its power.
pub struct Machine {
    running: Running,
    /// What it says.
    pub link: Link,
    /// Its monitor.
    pub monitor: Qmp,
    keyboard: Option<ChildStdin>,
}

impl Machine {
    /// Switches a machine on. What it writes lies in `folder`; a second start with the same folder goes on from there.
    pub fn start(ctx: &Context, tools: &Tools, folder: &Path, spec: &Spec) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let listen = (listen(folder, "qmp")?, listen(folder, "port")?);
        let mut cmd = tools.cmd("running a virtual machine").bind_rw(folder, "run");
        for disk in &spec.disks {
            if let Source::Overlay { image, size } = &disk.source {
                cmd = cmd.bind(&image.path, "image");
                if !folder.join(OVERLAY).exists() {
                    cmd = cmd.step(hardware::create_overlay(image.format, *size));
                }
            }
        }
        if let Some(medium) = &spec.medium {
            cmd = cmd.bind(&medium.path, MEDIUM);
        }
        if spec.accelerator == Accelerator::Kvm {
            cmd = cmd.device(Path::new("/dev/kvm"));
        }
        if let Some(copy) = hardware::copy_variables(spec.firmware).filter(|_| !folder.join(VARIABLES).exists()) {
            cmd = cmd.step(copy);
        }
        let cmd = cmd.step(hardware::command_line(spec)).reads_stdin().writes_stdout();
        let mut machine = Self::connect(ctx, cmd, listen)?;
        for (n, _) in spec.cards.iter().enumerate().filter(|(_, card)| card.unplugged) {
            machine.monitor.execute("set_link", json!({"name": hardware::card(n), "up": false}))?;
        }
        Ok(machine)
    }

    fn connect(ctx: &Context, cmd: Cmd, (monitor, port): (UnixListener, UnixListener)) -> Result<Self> {
        let mut running = cmd.start(ctx, Stdio::piped(), Stdio::piped())?;
        let console = running.stdout();
        let keyboard = running.child_mut().stdin.take();
        let deadline = Instant::now() + CONNECT_LIMIT;
        let (Some(monitor), Some(port)) = (accept(&monitor, &console, deadline)?, accept(&port, &console, deadline)?)
        else {
            // It ended; its own words say why.
            running.wait()?;
            bail!("QEMU ended before the machine was on");
        };
        let mut link = Link::new();
        link.attach_console(console);
        link.attach_port(port)?;
        let sender = link.sender();
        let connected = Qmp::connect(monitor, CONNECT_LIMIT, move |event| {
            let _ = sender.send(Heard::Monitor(event));
        });
        match connected {
            Ok(monitor) => Ok(Self { running, link, monitor, keyboard }),
            Err(error) => {
                // Where QEMU gave up, its own words say why.
                if link.until(END_LIMIT, |_| None::<()>) == Err(Miss::Ended) {
                    running.wait()?;
                }
                Err(error)
            }
        }
    }

    /// The console's input, once.
    pub fn keyboard(&mut self) -> Option<ChildStdin> {
        self.keyboard.take()
    }

    /// Asks for its verdict. Where QEMU, not the machine, gave up, that is the error.
    pub fn ask(mut self, limit: Duration) -> Result<(Answer, Option<Self>)> {
        let answer = self.link.ask(limit)?;
        if self.link.has_ended() {
            self.finish()?;
            return Ok((answer, None));
        }
        Ok((answer, Some(self)))
    }

    /// Cuts its power.
    pub fn cut(self) {
        self.running.stop();
    }

    /// Takes leave of a machine that has ended by itself; an error when QEMU, not the machine, gave up.
    pub fn finish(self) -> Result<()> {
        self.running.wait()
    }

    /// Keeps a picture of the screen as `name` in the run folder.
    pub fn picture(&mut self, name: &str) -> Result<()> {
        self.monitor.screendump(&format!("{RUN}/{name}"), "png")
    }

    /// Keeps the screen's pixels as `name` in the run folder, for [`Screen`](crate::lab::screen::Screen).
    pub fn pixels(&mut self, name: &str) -> Result<()> {
        self.monitor.screendump(&format!("{RUN}/{name}"), "ppm")
    }
}

/// Listens on a socket of the run folder.
fn listen(folder: &Path, name: &str) -> Result<UnixListener> {
    fs::remove(&folder.join(name))?;
    let here = File::open(folder).with_context(|| format!("opening the folder `{}`", folder.display()))?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", here.as_raw_fd())).join(name);
    UnixListener::bind(&short).with_context(|| format!("listening on `{}`", folder.join(name).display()))
}

/// The first connection, or nothing when `console` ends before.
fn accept(listener: &UnixListener, console: &ChildStdout, deadline: Instant) -> Result<Option<UnixStream>> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            // Asking for nothing still tells of the other side's end.
            PollFd::new(console.as_fd(), PollFlags::empty()),
        ];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => bail!("QEMU did not connect within {} s", CONNECT_LIMIT.as_secs()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for QEMU to connect"),
            Ok(_) if fds[0].any() == Some(true) => {
                return Ok(Some(listener.accept().context("accepting QEMU's connection")?.0));
            }
            Ok(_) => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_s_path_may_be_long() {
        let folder = tempfile::tempdir().expect("a folder");
        let deep = folder.path().join("x".repeat(120));
        fs::create_dir_all(&deep).expect("makes");
        listen(&deep, "qmp").expect("listens");
        assert!(deep.join("qmp").exists());
    }
}
