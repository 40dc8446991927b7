//! KVM or not: asked by running a guest, since everything else lies.
//!
//! In: the kernel of the image to boot. Out: an [`Accelerator`], and why. Runs: QEMU with that kernel alone.
//!
//! `/dev/kvm` that opens proves nothing, and neither does a small guest: on a host whose KVM is itself emulated, a boot
//! sector that went through real, protected and long mode printed its line and switched itself off, while the kernel of
//! the release stopped at its first `shlx` with "KVM internal error" (tried). So the probe boots that very kernel, without
//! a disk, up to the panic of a kernel that finds no root. The answer is remembered until the host boots again.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::carrier::iso;
use crate::context::Context;
use crate::digest::Sha256;
use crate::fs;
use crate::lab::disk::{RawDisk, Slot};
use crate::lab::hardware::{Accelerator, Firmware, Kernel, Maker, Spec};
use crate::lab::image::{self, Format, Image};
use crate::lab::link::Miss;
use crate::lab::qemu::Machine;
use crate::tools::Tools;

/// What the probe found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What machines should run on.
    pub accelerator: Accelerator,
    /// Why, for people.
    pub why: String,
}

/// A probe's result, for as long as the host does not boot again and the same user asks about the same kernel.
#[derive(Serialize, Deserialize)]
struct Remembered {
    boot: String,
    user: u32,
    kernel: Sha256,
    probe: Probe,
}

const KVM: &str = "/dev/kvm";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const MEMORY: &str = "kvm-probe.json";
/// A kernel on KVM is there within a second or two.
const LIMIT: Duration = Duration::from_secs(20);
/// How much of a qcow2 image surely holds the ESP.
const ESP_WITHIN: &str = "512";

/// Finds out what machines that boot `image` should run on.
pub fn probe(ctx: &Context, tools: &Tools, image: &Image) -> Result<Probe> {
    if let Err(error) = std::fs::File::options().read(true).write(true).open(KVM) {
        return Ok(Probe { accelerator: Accelerator::Tcg, why: format!("`{KVM}` cannot be opened: {error}") });
    }
    let folder = tempfile::tempdir_in(scratch(ctx)?).context("making a folder for the KVM probe")?;
    let kernel = kernel_of(ctx, tools, image, folder.path())?;
    let boot = fs::read_to_string(Path::new(BOOT_ID))?.trim().to_owned();
    let user = nix::unistd::geteuid().as_raw();
    let digest = Sha256::of(&kernel);
    let memory = ctx.store.join(MEMORY);
    let known = fs::read(&memory).ok().and_then(|bytes| serde_json::from_slice::<Remembered>(&bytes).ok());
    if let Some(known) = known.filter(|k| k.boot == boot && k.user == user && k.kernel == digest) {
        return Ok(known.probe);
    }
    let step = ctx.ui.step("boot", "trying whether KVM runs a guest");
    fs::write_atomic(&folder.path().join("kernel"), &kernel)?;
    let probe = try_kvm(ctx, tools, folder.path())?;
    step.done();
    let remembered = Remembered { boot, user, kernel: digest, probe };
    fs::write_atomic(&memory, serde_json::to_string(&remembered).context("writing down the KVM probe")?)?;
    Ok(remembered.probe)
}

/// The folder for run folders that nobody keeps.
pub fn scratch(ctx: &Context) -> Result<std::path::PathBuf> {
    let folder = ctx.derived("machines");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn try_kvm(ctx: &Context, tools: &Tools, folder: &Path) -> Result<Probe> {
    let spec = Spec {
        firmware: Firmware::Bios,
        accelerator: Accelerator::Kvm,
        memory: 512,
        disks: Vec::new(),
        medium: None,
        kernel: Some(Kernel { file: "kernel".into(), arguments: "console=ttyS0".into() }),
        cards: Vec::new(),
        maker: Maker::default(),
    };
    let tcg = |why: String| Ok(Probe { accelerator: Accelerator::Tcg, why: format!("KVM was tried: {why}") });
    let mut machine = match Machine::start(ctx, tools, folder, &spec) {
        Ok(machine) => machine,
        Err(error) => {
            ctx.check_interrupt()?;
            ctx.ui.verbose(format!("{error:#}"));
            return tcg("QEMU gave up at once".into());
        }
    };
    // The panic comes last, after everything that a kernel does by itself.
    let heard = machine.link.until(LIMIT, |link| {
        let stopped = link.events().iter().any(|e| e.name == "STOP");
        let through = link.console_since(0).windows(PANIC.len()).any(|w| w == PANIC);
        (through || stopped).then_some(through)
    });
    machine.cut();
    ctx.check_interrupt()?;
    match heard {
        Ok(true) => Ok(Probe { accelerator: Accelerator::Kvm, why: "a guest ran on it".into() }),
        Ok(false) => tcg("the guest's kernel was stopped by an error of KVM".into()),
        Err(Miss::Late) => tcg(format!("the guest's kernel was not up after {} s", LIMIT.as_secs())),
        Err(Miss::Ended) => tcg("QEMU gave up".into()),
    }
}

const PANIC: &[u8] = b"Kernel panic - not syncing: VFS";

fn kernel_of(ctx: &Context, tools: &Tools, image: &Image, folder: &Path) -> Result<Vec<u8>> {
    if image::is_iso(&image.path)? {
        let (start, length) = iso::place(ctx, tools, &image.path, Path::new(iso::KERNEL))?;
        let mut kernel = vec![0; usize::try_from(length).context("a kernel is larger than memory")?];
        fs::open(&image.path)?.read_exact_at(&mut kernel, start).context("reading the medium's kernel")?;
        return Ok(kernel);
    }
    let head = folder.join("head.raw");
    let disk = match image.format {
        Format::Raw => &image.path,
        Format::Qcow2 => {
            let count = format!("count={ESP_WITHIN}");
            tools
                .cmd("reading the image's first partitions")
                .bind(&image.path, "image")
                .bind_rw(folder, "run")
                .step([
                    "qemu-img",
                    "dd",
                    "-f",
                    "qcow2",
                    "-O",
                    "raw",
                    "bs=1M",
                    &count,
                    "if=/mnt/image",
                    "of=/mnt/run/head.raw",
                ])
                .run(ctx)?;
            &head
        }
    };
    let kernel = RawDisk::open(disk).and_then(|disk| disk.kernel(Slot::A));
    kernel.context("reading the image's kernel, to try KVM with")
}
