//! Inside the namespaces: how castiron runs itself to become the root of a sandbox.
//!
//! In: a [`Spec`] (JSON, one argument of a hidden verb). Runs: `newuidmap`, `newgidmap` where the user is not root.
//!
//! Two processes, both this program, so that nothing of the host is needed and no `unsafe` either:
//! `sandbox outer` makes the namespaces (and, as an ordinary user, has its ids mapped by a helper that it started before);
//! `sandbox inner` is process 1 of the new pid namespace, mounts what the spec names, makes the tools tree its root and
//! runs the steps one after the other. When either dies, the kernel ends everything inside, and every mount goes with it.
//! The inner process stays this very program after the change of root: it is in memory, and needs no file of the host.

use std::io::{Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// The hidden verb's name.
pub const VERB: &str = "sandbox";
/// Exit code of a sandbox that could not be set up; the reason is on its stderr.
pub const SETUP_FAILED: u8 = 125;

/// What a line of its stderr begins with that says why.
pub const REASON: &str = "sandbox: ";
/// The highest id that a sandbox has: `nobody`. What packages bring belongs to ids up to this one.
pub const HIGHEST_ID: u32 = 65534;
/// The name of the file that [`Spec::probe`] asks for.
pub const PROBE: &str = "of-another-owner";

/// What a sandbox is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// The tools tree; read-only inside.
    pub root: PathBuf,
    /// Whether the host's network is seen inside. Without it not even a loopback address is up.
    pub network: bool,
    /// Host paths bound in below `/mnt`.
    pub binds: Vec<Bind>,
    /// Names below `/mnt` that are a tmpfs: what is written there never touches a disk.
    pub scratch: Vec<String>,
    /// Host devices that are bound in besides the usual ones, e.g. `/dev/kvm`.
    pub devices: Vec<PathBuf>,
    /// A name below `/mnt` where a file that belongs to [`HIGHEST_ID`] is made, for `castiron doctor`.
    pub probe: Option<String>,
    /// Commands, run in order; the first that fails ends it.
    pub steps: Vec<Step>,
}

/// A host path bound in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bind {
    /// The path on the host.
    pub host: PathBuf,
    /// Its name below `/mnt`.
    pub name: String,
    /// Whether it may be written.
    pub writable: bool,
}

/// One command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables beyond the fixed ones.
    pub env: Vec<(String, String)>,
    /// Whether it reads the sandbox's stdin; else its stdin is empty.
    pub stdin: bool,
    /// Whether it writes the sandbox's stdout; else its output goes to the log.
    pub stdout: bool,
}

/// Runs the hidden verb: `sandbox outer|inner|map …`. Returns the exit code.
pub fn main(args: &[String]) -> u8 {
    let done = match args {
        [role, spec] if role == "outer" => parse(spec).and_then(|s| outer(&s, spec)),
        [role, spec] if role == "inner" => parse(spec).and_then(|s| inner(&s)),
        [role, pid] if role == "map" => map_ids(pid).map(|()| 0),
        _ => Err(anyhow::anyhow!("`{VERB}` is castiron's own verb")),
    };
    done.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "{REASON}{error:#}");
        SETUP_FAILED
    })
}

fn parse(spec: &str) -> Result<Spec> {
    serde_json::from_str(spec).context("reading the sandbox's description")
}

/// Whether ids must be mapped: an ordinary user needs a user namespace, root does not.
pub fn needs_user_namespace() -> bool {
    !nix::unistd::geteuid().is_root()
}

fn outer(spec: &Spec, text: &str) -> Result<u8> {
    die_with_parent()?;
    let mut flags =
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    if !spec.network {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    if needs_user_namespace() {
        // The mapper must live outside the new namespace, so it starts first and waits for a byte.
        let mut mapper = this_program()
            .args([VERB, "map", &std::process::id().to_string()])
            .stdin(Stdio::piped())
            .spawn()
            .context("starting the id mapper")?;
        unshare(CloneFlags::CLONE_NEWUSER).context("making a user namespace")?;
        mapper.stdin.take().context("the mapper's stdin is a pipe")?.write_all(b"x").context("waking the id mapper")?;
        ensure!(mapper.wait().context("waiting for the id mapper")?.success(), "mapping the user's ids");
        nix::unistd::setresuid(0.into(), 0.into(), 0.into()).context("becoming root of the user namespace")?;
        nix::unistd::setresgid(0.into(), 0.into(), 0.into()).context("becoming root's group of the user namespace")?;
    }
    // Threads can not be made after the pid namespace is, so who ends the child waits before there is one. A signal that comes
    // before it is known ends it as soon as it is: to leave at once would leave behind what is being started.
    let inner_pid = Arc::new(AtomicI32::new(NOT_YET));
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])?;
    let to_end = Arc::clone(&inner_pid);
    std::thread::spawn(move || {
        for _ in signals.forever() {
            let before = to_end.compare_exchange(NOT_YET, TO_END, Ordering::SeqCst, Ordering::SeqCst);
            if let Err(pid @ 1..) = before {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    });
    unshare(flags).context("making mount, pid, uts, ipc and network namespaces")?;
    let mut child =
        this_program().args([VERB, "inner", text]).spawn().context("starting the sandbox's first process")?;
    if inner_pid.swap(child.id().cast_signed(), Ordering::SeqCst) == TO_END {
        child.kill().context("ending the sandbox's first process")?;
    }
    // Process 1 is reaped only after all of its namespace is gone: whoever waits for us knows that nothing is left.
    Ok(code(child.wait().context("waiting for the sandbox's first process")?))
}

/// In place of the first process's number: it is not started yet, or shall end once it is.
const NOT_YET: i32 = 0;
const TO_END: i32 = -1;

fn this_program() -> Command {
    #[expect(clippy::disallowed_methods, reason = "the sandbox is what `cmd` is built on")]
    Command::new("/proc/self/exe")
}

fn die_with_parent() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("tying this process to its parent")
}

/// Maps root to the user, and 1… to the user's subordinate ids, for the process `pid`.
fn map_ids(pid: &str) -> Result<()> {
    std::io::stdin().read_exact(&mut [0; 1]).context("waiting for the user namespace")?;
    let user = nix::unistd::User::from_uid(nix::unistd::getuid())
        .context("looking up the user")?
        .map_or_else(|| nix::unistd::getuid().to_string(), |u| u.name);
    let ids = [
        ("newuidmap", "/etc/subuid", nix::unistd::getuid().as_raw()),
        ("newgidmap", "/etc/subgid", nix::unistd::getgid().as_raw()),
    ];
    for (program, file, own) in ids {
        let (first, count) = subordinate_ids(Path::new(file), &user, nix::unistd::getuid().as_raw())?;
        let numbers = [0, own, 1, 1, first, count].map(|n| n.to_string());
        #[expect(clippy::disallowed_methods, reason = "a program of the host, run before any sandbox exists")]
        let status = Command::new(program).arg(pid).args(&numbers).status();
        let status = status.with_context(|| format!("running `{program}` (package uidmap)"))?;
        ensure!(status.success(), "`{program} {pid} {}` ended with {status}", numbers.join(" "));
    }
    Ok(())
}

/// The first range of subordinate ids that `file` (subuid(5)) gives to the user, by name or number.
pub fn subordinate_ids(file: &Path, user: &str, uid: u32) -> Result<(u32, u32)> {
    let text = crate::fs::read_to_string(file)?;
    let range = text.lines().find_map(|line| -> Option<(u32, u32)> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (name == user || name == uid.to_string()).then_some(())?;
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    let Some((first, count)) = range else {
        bail!("`{}` gives no subordinate ids to `{user}`", file.display());
    };
    ensure!(count >= 65535, "`{}` gives `{user}` {count} ids, 65536 are needed", file.display());
    Ok((first, 65535))
}

fn inner(spec: &Spec) -> Result<u8> {
    die_with_parent()?;
    nix::unistd::sethostname("castiron").context("naming the sandbox")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("making mounts private")?;
    let root = &spec.root;
    bind(root, root, false)?;
    mount(Some("proc"), &root.join("proc"), Some("proc"), MsFlags::empty(), none).context("mounting /proc")?;
    for name in ["tmp", "run", "var/tmp", "var/log", "var/lib/apt", "var/cache", "mnt", "root"] {
        tmpfs(&root.join(name), "mode=0755")?;
    }
    devices(root, &spec.devices)?;
    for entry in &spec.binds {
        let target = root.join("mnt").join(&entry.name);
        if entry.host.is_dir() {
            crate::fs::create_dir_all(&target)?;
        } else {
            crate::fs::create(&target)?;
        }
        bind(&entry.host, &target, entry.writable)?;
    }
    for name in &spec.scratch {
        let target = root.join("mnt").join(name);
        crate::fs::create_dir_all(&target)?;
        tmpfs(&target, "mode=0755,size=90%")?;
    }
    nix::unistd::chdir(root).context("entering the tools tree")?;
    nix::unistd::pivot_root(".", ".").context("making the tools tree the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("leaving the host's root")?;
    nix::unistd::chdir("/").context("entering the new root")?;
    if let Some(name) = &spec.probe {
        let file = Path::new("/mnt").join(name).join(PROBE);
        crate::fs::create(&file)?;
        nix::unistd::chown(&file, Some(HIGHEST_ID.into()), Some(HIGHEST_ID.into()))
            .with_context(|| format!("giving a file to the mapped id {HIGHEST_ID}"))?;
    }
    for step in &spec.steps {
        let status = run(step)?;
        if !status.success() {
            return Ok(code(status));
        }
    }
    Ok(0)
}

fn run(step: &Step) -> Result<ExitStatus> {
    let [program, args @ ..] = step.argv.as_slice() else { bail!("an empty command") };
    // The log says what ran; whoever reads a failure finds the command above its output.
    let _ = writeln!(std::io::stderr(), "+ {}", quote(&step.argv));
    #[expect(clippy::disallowed_methods, reason = "the sandbox is what `cmd` is built on")]
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(FIXED_ENVIRONMENT.iter().copied());
    command.envs(step.env.iter().map(|(name, value)| (name, value)));
    command.stdin(if step.stdin { Stdio::inherit() } else { Stdio::null() });
    if !step.stdout {
        use std::os::fd::AsFd as _;
        let log = std::io::stderr().as_fd().try_clone_to_owned().context("sharing the log")?;
        command.stdout(Stdio::from(log));
    }
    command.process_group(0);
    let mut child = command.spawn().with_context(|| format!("starting `{program}`"))?;
    child.wait().with_context(|| format!("waiting for `{program}`"))
}

const FIXED_ENVIRONMENT: [(&str, &str); 6] = [
    ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    ("LC_ALL", "C.UTF-8"),
    ("TZ", "UTC"),
    ("HOME", "/root"),
    ("TERM", "dumb"),
    ("DEBIAN_FRONTEND", "noninteractive"),
];

/// A command line that a person can paste into a shell.
pub fn quote(argv: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    let words: Vec<String> = argv
        .iter()
        .map(|word| match word {
            w if !w.is_empty() && w.chars().all(plain) => w.clone(),
            w => format!("'{}'", w.replace('\'', r"'\''")),
        })
        .collect();
    words.join(" ")
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s));
    code.and_then(|c| u8::try_from(c).ok()).unwrap_or(u8::MAX)
}

fn tmpfs(target: &Path, options: &str) -> Result<()> {
    mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options))
        .with_context(|| format!("mounting a tmpfs on `{}`", target.display()))
}

fn bind(host: &Path, target: &Path, writable: bool) -> Result<()> {
    let none = None::<&str>;
    let what = || format!("binding `{}` to `{}`", host.display(), target.display());
    mount(Some(host), target, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).with_context(what)?;
    if writable {
        return Ok(());
    }
    // In a user namespace the flags that the host's mount has must be repeated, or the kernel refuses.
    let stat = nix::sys::statvfs::statvfs(target).with_context(what)?;
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let kept = [
        (nix::sys::statvfs::FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (nix::sys::statvfs::FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (nix::sys::statvfs::FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (nix::sys::statvfs::FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (nix::sys::statvfs::FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
        (nix::sys::statvfs::FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
    ];
    for (has, flag) in kept {
        if stat.flags().contains(has) {
            flags |= flag;
        }
    }
    mount(none, target, none, flags, none).with_context(|| format!("making `{}` read-only", target.display()))
}

fn devices(root: &Path, more: &[PathBuf]) -> Result<()> {
    let dev = root.join("dev");
    let none = None::<&str>;
    tmpfs(&dev, "mode=0755")?;
    let usual = ["null", "zero", "full", "random", "urandom", "tty"].map(|name| Path::new("/dev").join(name));
    for device in usual.iter().chain(more) {
        let target = dev.join(device.file_name().unwrap_or_default());
        crate::fs::create(&target)?;
        mount(Some(device), &target, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("binding `{}`", device.display()))?;
    }
    for (name, to) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx")]
    {
        std::os::unix::fs::symlink(to, dev.join(name)).with_context(|| format!("linking /dev/{name}"))?;
    }
    for name in ["shm", "pts"] {
        crate::fs::create_dir_all(&dev.join(name))?;
    }
    tmpfs(&dev.join("shm"), "mode=1777")?;
    mount(
        Some("devpts"),
        &dev.join("pts"),
        Some("devpts"),
        MsFlags::empty(),
        Some("newinstance,ptmxmode=0666,mode=0620"),
    )
    .context("mounting /dev/pts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_pasted() {
        let argv = ["mksquashfs", "a dir", "it's", ""].map(String::from);
        assert_eq!(quote(&argv), r"mksquashfs 'a dir' 'it'\''s' ''");
    }

    #[test]
    fn subordinate_ids_are_found_by_name_or_number() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("subuid");
        std::fs::write(&file, "other:1:65536\nme:100000:65536\n1234:200000:65536\nfew:1:10\n").expect("writes");
        assert_eq!(subordinate_ids(&file, "me", 7).expect("by name"), (100_000, 65535));
        assert_eq!(subordinate_ids(&file, "x", 1234).expect("by number"), (200_000, 65535));
        assert!(subordinate_ids(&file, "few", 8).is_err());
        assert!(subordinate_ids(&file, "nobody", 9).is_err());
    }
}
