//! The door to programs: commands of the tools tree, run in a sandbox, logged, interruptible.
//!
//! Arguments are arrays; no shell is between. The environment is the sandbox's own, nothing of the user's leaks in.
//! A failure shows the command line, the last lines of its output and where the whole log lies.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

use crate::context::{Children, Context};
use crate::error::{Failure, Kind};
use crate::fs;
use crate::sandbox::{self, Bind, Spec, Step};

/// A sandbox to be: what is bound in, and the commands to run there, one after the other.
pub struct Cmd {
    purpose: String,
    spec: Spec,
}

impl Cmd {
    /// A sandbox over the tools tree `root`. `purpose` completes "… while …": "compressing the root filesystem".
    pub fn new(root: &Path, purpose: impl Into<String>) -> Self {
        let spec = Spec {
            root: root.to_owned(),
            network: false,
            binds: Vec::new(),
            scratch: Vec::new(),
            devices: Vec::new(),
            probe: None,
            steps: Vec::new(),
        };
        Self { purpose: purpose.into(), spec }
    }

    /// Binds a host path, read-only, to `/mnt/<name>`.
    #[must_use]
    pub fn bind(mut self, host: &Path, name: &str) -> Self {
        self.spec.binds.push(Bind { host: host.to_owned(), name: name.to_owned(), writable: false });
        self
    }

    /// Binds a host path, writable, to `/mnt/<name>`.
    #[must_use]
    pub fn bind_rw(mut self, host: &Path, name: &str) -> Self {
        self.spec.binds.push(Bind { host: host.to_owned(), name: name.to_owned(), writable: true });
        self
    }

    /// A tmpfs at `/mnt/<name>`.
    #[must_use]
    pub fn scratch(mut self, name: &str) -> Self {
        self.spec.scratch.push(name.to_owned());
        self
    }

    /// Binds a host device into `/dev`.
    #[must_use]
    pub fn device(mut self, path: &Path) -> Self {
        self.spec.devices.push(path.to_owned());
        self
    }

    /// Makes a file of another owner below `/mnt/<name>`: what `castiron doctor` tries.
    #[must_use]
    pub fn probe(mut self, name: &str) -> Self {
        self.spec.probe = Some(name.to_owned());
        self
    }

    /// Lets the sandbox see the host's network.
    #[must_use]
    pub fn network(mut self) -> Self {
        self.spec.network = true;
        self
    }

    /// Adds a command.
    #[must_use]
    pub fn step<S: Into<String>>(mut self, argv: impl IntoIterator<Item = S>) -> Self {
        let argv = argv.into_iter().map(Into::into).collect();
        self.spec.steps.push(Step { argv, env: Vec::new(), stdin: false, stdout: false });
        self
    }

    /// Sets a variable of the last command added.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.last().env.push((name.to_owned(), value.into()));
        self
    }

    /// Gives the sandbox's stdin to the last command added.
    #[must_use]
    pub fn reads_stdin(mut self) -> Self {
        self.last().stdin = true;
        self
    }

    /// Gives the sandbox's stdout to the last command added.
    #[must_use]
    pub fn writes_stdout(mut self) -> Self {
        self.last().stdout = true;
        self
    }

    fn last(&mut self) -> &mut Step {
        self.spec.steps.last_mut().expect("`step` comes first")
    }

    /// Runs it to its end.
    pub fn run(self, ctx: &Context) -> Result<()> {
        self.start(ctx, Stdio::null(), Stdio::null())?.wait()
    }

    /// Runs it to its end, and returns what the command with [`Self::writes_stdout`] wrote. For small outputs.
    pub fn read(self, ctx: &Context) -> Result<String> {
        let mut running = self.start(ctx, Stdio::null(), Stdio::piped())?;
        let mut text = String::new();
        let read = running.stdout().read_to_string(&mut text);
        running.wait()?;
        read.context("reading a command's output")?;
        Ok(text)
    }

    /// Runs it to its end, its stdout into the file `path`.
    pub fn run_into(self, ctx: &Context, path: &Path) -> Result<()> {
        let mut running = self.start(ctx, Stdio::null(), fs::create(path)?.into())?;
        running.writes.push(path.to_owned());
        running.wait()
    }

    /// Runs it with its stdin from a file and its stdout into another.
    pub fn filter(self, ctx: &Context, from: Stdio, into: File) -> Result<()> {
        self.start(ctx, from, into.into())?.wait()
    }

    /// Runs it while `feed` writes its stdin. Of two errors the command's own is the one that explains.
    ///
    /// # Panics
    ///
    /// Never: stdin is the pipe that this function asked for.
    pub fn run_fed(self, ctx: &Context, feed: impl FnOnce(ChildStdin) -> Result<()>) -> Result<()> {
        let mut running = self.start(ctx, Stdio::piped(), Stdio::null())?;
        let outcome = feed(running.child_mut().stdin.take().expect("stdin is a pipe"));
        match (running.wait(), outcome) {
            (Ok(()), outcome) => outcome,
            (Err(error), Err(feeding)) if !is_broken_pipe(&feeding) => {
                // The command failed because what it was fed broke off: the feeder knows why.
                ctx.check_interrupt()?;
                ctx.ui.verbose(format!("{error:#}"));
                Err(feeding)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Starts it, with the given stdin and stdout.
    pub fn start(self, ctx: &Context, stdin: Stdio, stdout: Stdio) -> Result<Running> {
        ctx.check_interrupt()?;
        let log = new_log(ctx)?;
        for step in &self.spec.steps {
            ctx.ui.verbose(format!("+ {}", sandbox::quote(&step.argv)));
        }
        let spec = serde_json::to_string(&self.spec).context("describing a sandbox")?;
        #[expect(clippy::disallowed_methods, reason = "this is the door")]
        let child = Command::new("/proc/self/exe")
            .args([sandbox::VERB, "outer", &spec])
            .stdin(stdin)
            .stdout(stdout)
            .stderr(fs::create(&log)?)
            // Ctrl-C on the terminal reaches castiron alone, which then ends its children in order.
            .process_group(0)
            .spawn()
            .context("starting a sandbox")?;
        ctx.children.add(child.id());
        Ok(Running {
            child,
            purpose: self.purpose,
            log,
            writes: self.spec.binds.into_iter().filter(|b| b.writable).map(|b| b.host).collect(),
            in_memory: !self.spec.scratch.is_empty(),
            children: ctx.children.clone(),
            waited: false,
        })
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|e| e.downcast_ref::<std::io::Error>()).any(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

fn new_log(ctx: &Context) -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let folder = ctx.derived("logs");
    fs::create_dir_all(&folder)?;
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    Ok(folder.join(format!("{}-{n:03}.log", std::process::id())))
}

/// A sandbox that runs. Dropping it ends it.
pub struct Running {
    child: Child,
    purpose: String,
    log: PathBuf,
    /// Where it writes on the host.
    writes: Vec<PathBuf>,
    /// Whether it also writes to a tmpfs.
    in_memory: bool,
    children: Children,
    waited: bool,
}

impl Running {
    /// The process, for its pipes.
    pub fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its stdout, where it was asked to be a pipe.
    ///
    /// # Panics
    ///
    /// When it was not, or was taken before.
    pub fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("stdout is a pipe")
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for its end; anything but success is an error that shows the command and its last words.
    pub fn wait(mut self) -> Result<()> {
        let status = self.child.wait().context("waiting for a sandbox")?;
        self.waited = true;
        self.children.remove(self.child.id());
        let interrupted = self.children.check();
        if status.success() || interrupted.is_err() {
            let _ = fs::remove(&self.log);
            return interrupted;
        }
        Err(self.failure(status.code()).into())
    }

    /// Ends it, and waits until nothing of it is left.
    pub fn stop(mut self) {
        self.end();
        let _ = fs::remove(&self.log);
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.waited, true) {
            let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = self.child.wait();
            self.children.remove(self.child.id());
        }
    }

    fn failure(&self, code: Option<i32>) -> Failure {
        let tail = tail(&self.log).unwrap_or_default();
        let reasons: Vec<&str> = tail.iter().filter_map(|l| l.strip_prefix(sandbox::REASON)).collect();
        if code == Some(i32::from(sandbox::SETUP_FAILED)) && !reasons.is_empty() {
            let message = format!("no sandbox could be set up while {}:\n  | {}", self.purpose, reasons.join("\n  | "));
            return Failure::new(Kind::Tool, message).hint("`castiron doctor` says what this host lacks");
        }
        let command = tail.iter().rev().find_map(|l| l.strip_prefix("+ ")).unwrap_or("the sandbox").to_owned();
        let lines: Vec<&String> = tail.iter().rev().take(20).collect();
        let code = code.map_or_else(|| "a signal".to_owned(), |c| format!("exit code {c}"));
        let mut message = format!("`{command}` ended with {code} while {}", self.purpose);
        for line in lines.iter().rev().filter(|l| !l.starts_with("+ ")) {
            message.push_str("\n  | ");
            message.push_str(line);
        }
        let _ = write!(message, "\n  whole log: {}", self.log.display());
        let mut full: Vec<String> = self.writes.iter().filter(|p| is_full(p)).map(|p| quoted(p)).collect();
        // Not every tool keeps its half output until somebody can measure.
        if full.is_empty() && tail.iter().any(|l| l.contains("No space left on device")) {
            full.extend(self.writes.iter().map(|p| quoted(p)));
            full.extend(self.in_memory.then(|| "this machine's memory, where trees are unpacked,".to_owned()));
        }
        if !full.is_empty() {
            return Failure::new(Kind::Other, message).hint(format!(
                "the disk of {} is full: free some space, or name another with `--store` or `--output`",
                full.join(" or ")
            ));
        }
        Failure::new(Kind::Tool, message)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn quoted(path: &Path) -> String {
    format!("`{}`", path.display())
}

/// Less than this, and a disk is full: tools write in blocks, and do not use the last bytes.
const NEARLY_NOTHING: u64 = 1 << 20;

/// Whether the disk of `path` has no room, or no room for another name. Asked of the disk, since not every tool says why
/// it failed, and since a log on a full disk breaks off.
fn is_full(path: &Path) -> bool {
    nix::sys::statvfs::statvfs(path).is_ok_and(|disk| {
        disk.blocks_available() * disk.fragment_size() < NEARLY_NOTHING
            || (disk.files() > 0 && disk.files_available() == 0)
    })
}

/// The last 16 KiB of a log, as lines.
fn tail(log: &Path) -> Result<Vec<String>> {
    let mut file = fs::open(log)?;
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(16 << 10)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}
