//! GRUB for machines without UEFI, by patching files: `grub-install` wants a block device, and there is none.
//!
//! `boot.img` (440 bytes in sector 0) loads the first sector of `core.img`, which loads the rest of itself. Both must be
//! told where `core.img` lies; offsets from GRUB 2.12, grub-core/boot/i386/pc/{boot,diskboot}.S and
//! include/grub/offsets.h. GRUB's modules and `boot.img` are of the tools tree, as is `grub-mkimage`: they must agree.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::cache::Planned;
use crate::context::Context;
use crate::fs;
use crate::tools::Tools;

/// What goes to a disk so that a BIOS finds GRUB.
pub struct Loader {
    /// The code in sector 0.
    pub boot: [u8; 440],
    /// The BIOS boot partition's content.
    pub core: Vec<u8>,
}

/// `GRUB_BOOT_MACHINE_KERNEL_SECTOR`: where `boot.img` holds the first sector of `core.img`, 8 bytes little-endian.
const KERNEL_SECTOR: usize = 0x5c;
/// `GRUB_BOOT_MACHINE_DRIVE_CHECK`: a jump that only floppies need; two `nop` where the disk is a hard disk.
const DRIVE_CHECK: usize = 0x66;
/// In the first sector of `core.img`: the first entry of its list of blocks (512 - `GRUB_BOOT_MACHINE_LIST_SIZE`).
const BLOCK_LIST: usize = 500;

/// Everything that the ESP's grub.cfg uses is built in: no module is read from a disk.
const MODULES: [&str; 23] = [
    "biosdisk",
    "part_gpt",
    "fat",
    "normal",
    "linux",
    "configfile",
    "loadenv",
    "test",
    "echo",
    "search",
    "serial",
    "terminal",
    "minicmd",
    "reboot",
    "halt",
    "sleep",
    "true",
    "regexp",
    "probe",
    "ls",
    "cat",
    "hashsum",
    "gcry_sha256",
];
const FOLDER: &str = "usr/lib/grub/i386-pc";

impl Loader {
    /// GRUB for a disk whose BIOS boot partition begins at `sector`.
    pub fn make(ctx: &Context, tools: &Tools, sector: u64) -> Result<Self> {
        let mut core = fs::read(&core(ctx, tools)?)?;
        ensure!(core.len() > 512 && core.len() <= 1 << 20, "GRUB's core image has {} bytes", core.len());
        core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(sector + 1).to_le_bytes());

        let image = fs::read(&tools.root.join(FOLDER).join("boot.img"))?;
        let mut boot = [0; 440];
        boot.copy_from_slice(image.get(..440).context("GRUB's boot.img is shorter than a boot sector's code")?);
        boot[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&sector.to_le_bytes());
        boot[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
        Ok(Self { boot, core })
    }
}

/// `core.img`, the same on every disk; made when it is not there.
pub fn core(ctx: &Context, tools: &Tools) -> Result<PathBuf> {
    let mut command = vec!["grub-mkimage", "-d", "/usr/lib/grub/i386-pc", "-O", "i386-pc", "-o", "/mnt/out/core.img"];
    // The same disk's second partition, whatever else is in the machine: no search can find another.
    command.extend(["-p", "(,gpt2)/EFI/ubuntu"]);
    command.extend(MODULES);
    let mut planned = Planned::new("loader", "bios");
    planned.input("tools", tools.digest);
    let prepare = || Ok(());
    let folder = planned.ensure(ctx, "making GRUB's core image", prepare, |(), folder, _| {
        tools.cmd("making GRUB's core image").bind_rw(folder, "out").step(command).run(ctx)?;
        fs::sync(folder)?;
        Ok(())
    })?;
    Ok(folder.join("core.img"))
}
