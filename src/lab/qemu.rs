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
use serde::Deserialize;

use crate::cmd::{Cmd, Running};
use crate::context::Context;
use crate::fs;
use crate::lab::image::{Format, Image};
use crate::lab::link::{Answer, Heard, Link, Miss};
use crate::lab::qmp::Qmp;
use crate::tools::Tools;
use crate::verdict;

/// What starts a machine's boot loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
    /// OVMF with Secure Boot on and Microsoft's keys, as machines are delivered.
    #[value(name = "secureboot")]
    #[serde(rename = "secureboot")]
    SecureBoot,
}

impl Firmware {
    /// Its name on the command line and in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
            Self::SecureBoot => "secureboot",
        }
    }

    /// Code and variables of the tools tree's package `ovmf`.
    fn flash(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Bios => None,
            Self::Uefi => Some(("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd")),
            Self::SecureBoot => Some(("OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd")),
        }
    }
}

/// What the disk is attached to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Bus {
    /// virtio-blk.
    #[default]
    Virtio,
    /// AHCI.
    Sata,
    /// NVMe.
    Nvme,
    /// virtio-scsi.
    Scsi,
}

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's own translator.
    Tcg,
}

impl Accelerator {
    /// How much longer things may take than on KVM.
    pub fn patience(self) -> u32 {
        match self {
            Self::Kvm => 1,
            // Seen on two shared cores: a boot of 40 to 100 s instead of 10.
            Self::Tcg => 8,
        }
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG (slow)",
        }
    }
}

/// What a machine starts from. Names are those of files in the run folder.
#[derive(Clone, Debug)]
pub enum Medium {
    /// An overlay over an image; made at the first start, `size` bytes large.
    Overlay {
        /// The image; never written.
        image: Image,
        /// The disk's size, where it is larger than the image.
        size: Option<u64>,
    },
    /// A raw disk.
    Raw {
        /// The disk.
        disk: String,
        /// A file that is filled with all that is written, in order (see `writelog`).
        log: Option<String>,
    },
    /// A kernel alone, with these arguments.
    Kernel {
        /// The kernel.
        kernel: String,
        /// Its arguments.
        arguments: String,
    },
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Firmware.
    pub firmware: Firmware,
    /// What executes it.
    pub accelerator: Accelerator,
    /// What it starts from.
    pub medium: Medium,
    /// The disk's bus.
    pub bus: Bus,
    /// Memory in MiB.
    pub memory: u64,
}

/// Name of the console's copy in the run folder.
pub const SERIAL_LOG: &str = "serial.log";
const CPUS: u32 = 2;
const FIRMWARE_FILES: &str = "/usr/share/OVMF";
const RUN: &str = "/mnt/run";
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
        if let Medium::Overlay { image, size } = &spec.medium {
            cmd = cmd.bind(&image.path, "image");
            if !folder.join(OVERLAY).exists() {
                cmd = cmd.step(create_overlay(image.format, *size));
            }
        }
        if spec.accelerator == Accelerator::Kvm {
            cmd = cmd.device(Path::new("/dev/kvm"));
        }
        if let Some((_, variables)) = spec.firmware.flash()
            && !folder.join(VARIABLES).exists()
        {
            cmd = cmd.step(["cp", &format!("{FIRMWARE_FILES}/{variables}"), &format!("{RUN}/{VARIABLES}")]);
        }
        let cmd = cmd.step(command_line(spec)).reads_stdin().writes_stdout();
        Self::connect(ctx, cmd, listen)
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

const OVERLAY: &str = "disk.qcow2";
const VARIABLES: &str = "firmware-variables.fd";

/// Names in the run folder that hold disks and firmware variables: large, and of no use once a run is over.
pub const DISKS: [&str; 2] = [OVERLAY, VARIABLES];

fn create_overlay(format: Format, size: Option<u64>) -> Vec<String> {
    let mut argv: Vec<String> =
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "/mnt/image", "-F", format.name()].map(Into::into).into();
    argv.push(format!("{RUN}/{OVERLAY}"));
    argv.extend(size.map(|bytes| bytes.to_string()));
    argv
}

fn command_line(spec: &Spec) -> Vec<String> {
    let secure = spec.firmware == Firmware::SecureBoot;
    let mut argv: Vec<String> = vec!["qemu-system-x86_64".into()];
    let mut add = |option: &str, value: String| argv.extend([format!("-{option}"), value]);
    add("name", "castiron".into());
    add("machine", format!("q35,smm={}", if secure { "on" } else { "off" }));
    add("accel", if spec.accelerator == Accelerator::Kvm { "kvm" } else { "tcg,thread=multi" }.into());
    // Without SVM: a guest that sees it loads KVM's modules, which took up to 40 s of a boot on TCG (seen).
    add("cpu", "max,svm=off".into());
    add("smp", CPUS.to_string());
    add("m", spec.memory.to_string());
    add("display", "none".into());
    add("vga", "std".into());
    add("nic", "none".into());
    add("chardev", format!("stdio,id=console,signal=off,logfile={RUN}/{SERIAL_LOG},logappend=on"));
    add("serial", "chardev:console".into());
    add("chardev", format!("socket,id=monitor,path={RUN}/qmp"));
    add("mon", "chardev=monitor,mode=control".into());
    add("device", "virtio-serial-pci".into());
    add("chardev", format!("socket,id=port,path={RUN}/port"));
    add("device", format!("virtserialport,id=port,chardev=port,name={}", verdict::PORT));
    if secure {
        // Only code in system management mode may write the variables, keys among them.
        add("global", "driver=cfi.pflash01,property=secure,value=on".into());
    }
    if let Some((code, _)) = spec.firmware.flash() {
        add("drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE_FILES}/{code}"));
        add("drive", format!("if=pflash,unit=1,format=raw,file={RUN}/{VARIABLES}"));
    }
    match &spec.medium {
        // No flush reaches the host's disk: a machine of the lab need not outlive a crash of the host.
        Medium::Overlay { .. } => {
            add("drive", format!("id=disk,if=none,format=qcow2,cache=unsafe,discard=unmap,file={RUN}/{OVERLAY}"));
        }
        Medium::Raw { disk, log: None } => {
            add("drive", format!("id=disk,if=none,format=raw,cache=unsafe,discard=unmap,file={RUN}/{disk}"));
        }
        Medium::Raw { disk, log: Some(log) } => {
            for (node, name) in [("below", disk), ("log", log)] {
                add("blockdev", format!("driver=file,node-name={node},filename={RUN}/{name},cache.no-flush=on"));
            }
            add("blockdev", "driver=raw,node-name=plain,file=below".into());
            add("blockdev", "driver=blklogwrites,node-name=disk,file=plain,log=log".into());
        }
        Medium::Kernel { kernel, arguments } => {
            add("kernel", format!("{RUN}/{kernel}"));
            add("append", arguments.clone());
        }
    }
    if !matches!(spec.medium, Medium::Kernel { .. }) {
        if spec.bus == Bus::Scsi {
            add("device", "virtio-scsi-pci,id=scsi".into());
        }
        let device = match spec.bus {
            Bus::Virtio => "virtio-blk-pci,",
            Bus::Sata => "ide-hd,bus=ide.0,",
            Bus::Nvme => "nvme,serial=castiron,",
            Bus::Scsi => "scsi-hd,bus=scsi.0,",
        };
        add("device", format!("{device}drive=disk,bootindex=1"));
    }
    argv.extend(["-nodefaults", "-no-user-config"].map(String::from));
    argv
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
    fn the_command_line_of_a_secure_boot_machine() {
        let spec = Spec {
            firmware: Firmware::SecureBoot,
            accelerator: Accelerator::Tcg,
            medium: Medium::Raw { disk: "disk.raw".into(), log: None },
            bus: Bus::Nvme,
            memory: 1024,
        };
        let line = crate::sandbox::quote(&command_line(&spec));
        for part in [
            "-machine q35,smm=on",
            "secure,value=on",
            "readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.ms.fd",
            "-device nvme,serial=castiron,drive=disk,bootindex=1",
            "virtserialport,id=port,chardev=port,name=io.castiron.report",
            "-nic none",
        ] {
            assert!(line.contains(part), "`{part}` is missing in: {line}");
        }
        assert!(!line.contains("kvm"), "{line}");
    }

    #[test]
    fn a_socket_s_path_may_be_long() {
        let folder = tempfile::tempdir().expect("a folder");
        let deep = folder.path().join("x".repeat(120));
        fs::create_dir_all(&deep).expect("makes");
        listen(&deep, "qmp").expect("listens");
        assert!(deep.join("qmp").exists());
    }
}
