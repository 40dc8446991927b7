//! The installer ISO: a hybrid medium that boots as CD and as USB stick, on BIOS and UEFI, with Secure Boot or without.
//!
//! In: the roles' systems and raw disks, the lock's layer `boot`. Out: one ISO. Runs: `grub-mkimage`, `xorriso`.
//!
//! | path | what |
//! | --- | --- |
//! | `/live/` | kernel, initrd, root image and hash tree of the first role: what the medium itself runs |
//! | `/castiron/medium.json`, `medium.sha256`, `*.map`, `data` | what it installs: [`crate::medium`] |
//! | `/castiron/<id>` | empty; no other medium has it, so GRUB can not take a second Ubuntu medium for this one |
//! | `/castiron/medium.cfg`, `/boot/grub/grub.cfg` | GRUB's menu |
//! | `/autoinstall.yaml` | how it installs, in Ubuntu's format: [`crate::autoinstall`] |
//! | `/.disk/info` | what this is, for people |
//!
//! UEFI starts Canonical's `gcdx64.efi`, whose prefix is `/boot/grub`. Its grub.cfg lies beside it on the EFI system
//! partition: without one there it would search all disks for `/.disk/info`, which every Ubuntu medium has (carriers.md, §1.1).
//! A BIOS starts a core image of our own. The layout of the El Torito catalogue and the partitions is that of Ubuntu's media.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::esp::{self, Files, Grub};
use super::map::{self, Library};
use super::region;
use crate::autoinstall::{self, Given};
use crate::context::Context;
use crate::digest::Sha256;
use crate::fs;
use crate::lock::Lock;
use crate::medium::{self, Medium, RoleDisk, SCHEMA, Segment};
use crate::profile::Profile;
use crate::rootfs::overlay::{Content, Overlay};
use crate::system::System;
use crate::tools::{EPOCH, Tools};

/// The format's name, and its files' extension.
pub const FORMAT: &str = "iso";

/// The kernel that the medium itself runs.
pub const KERNEL: &str = "live/vmlinuz";

/// The overlay that holds the medium's own files.
pub const OVERLAY: &str = "iso";

/// One role on the medium.
pub struct Rider<'a> {
    /// The role.
    pub profile: &'a Profile,
    /// Its root image and boot files.
    pub system: &'a System,
    /// Its raw disk.
    pub disk: PathBuf,
}

/// GRUB's modules on a BIOS: all that the medium's grub.cfg uses.
const MODULES: [&str; 26] = [
    "biosdisk",
    "part_gpt",
    "part_msdos",
    "iso9660",
    "normal",
    "linux",
    "configfile",
    "test",
    "echo",
    "search",
    "search_fs_file",
    "serial",
    "terminal",
    "minicmd",
    "reboot",
    "halt",
    "sleep",
    "true",
    "chain",
    "regexp",
    "fat",
    "loadenv",
    "loopback",
    "smbios",
    "hashsum",
    "gcry_sha256",
];

/// Bytes of the medium's EFI system partition: shim, GRUB, MokManager and a small grub.cfg.
const ESP: u64 = 8 << 20;
/// The partition type of an EFI system partition.
const ESP_TYPE: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";

/// Writes the medium of these roles to `path`. The first is the one that the medium itself runs; `given` says how it installs.
pub fn write(
    ctx: &Context,
    tools: &Tools,
    lock: &Lock,
    version: &str,
    riders: &[Rider<'_>],
    given: &Given,
    path: &Path,
) -> Result<()> {
    let first = riders.first().context("a medium has at least one role")?;
    let name = path.file_name().unwrap_or_default().display().to_string();
    let folder = path.parent().context("an ISO lies in a folder")?;
    let work = tempfile::Builder::new().prefix(".iso-").tempdir_in(folder).context("creating a temporary folder")?;
    let step = ctx.ui.step("carrier", format!("writing `{name}`"));

    let id = id(version, riders, &given.text);
    let roles: Vec<&str> = riders.iter().map(|rider| rider.profile.name.as_str()).collect();
    let tree = work.path().join("tree");
    let mut files = Files::new();
    let mut overlay = Overlay::default();
    overlay.add_folder(&ctx.project.join("overlays").join(OVERLAY), "overlay iso")?;
    for (path, entry) in overlay.entries() {
        files.insert(path.to_string_lossy().into_owned(), entry.content.clone());
    }
    files.insert(".disk/info".to_owned(), text(format!("castiron {version}: {}\n", roles.join(", "))));
    files.insert(format!("{}/{id}", medium::FOLDER), text(String::new()));
    files.insert(autoinstall::FILE.to_owned(), text(given.text.clone()));
    files.insert(format!("{}/medium.cfg", medium::FOLDER), text(config(version, &id, &roles, first)));

    let (kernel, _) = Sha256::of_file(&first.system.boot.vmlinuz)?;
    files.insert("live/SHA256SUMS".to_owned(), text(format!("{kernel}  vmlinuz\n")));

    // The maps, and what of the disks the medium has nowhere else.
    fs::create_dir_all(&tree.join(medium::FOLDER))?;
    let mut library = Library::new(ctx, &tree.join(map::DATA))?;
    for (name, path) in live(first.system) {
        library.add(name, path)?;
    }
    let mut disks = BTreeMap::new();
    for rider in riders {
        let segments = library.map(&rider.disk)?;
        let (disk, map) = describe(rider, &segments)?;
        files.insert(disk.map.clone(), Content::Bytes(map));
        disks.insert(rider.profile.name.clone(), disk);
    }
    library.finish()?;
    let live_role = first.profile.name.clone();
    let medium = Medium {
        schema: SCHEMA,
        id: id.clone(),
        version: version.to_owned(),
        live: live_role,
        autoinstall: given.read.clone(),
        autoinstall_sha256: Sha256::of(&given.text),
        roles: disks,
    };
    let description = serde_json::to_string_pretty(&medium).context("describing the medium")? + "\n";
    files.insert(format!("{}/{}", medium::FOLDER, medium::SUM), text(medium::sum(&description)));
    files.insert(format!("{}/{}", medium::FOLDER, medium::FILE), text(description));
    files.insert(medium::REGION.to_owned(), Content::Bytes(region::unstamped()));
    lay_down(&tree, &files)?;

    let search = format!("search --no-floppy --file --set=root /{}/{id}\n", medium::FOLDER);
    write_esp(ctx, first.profile, lock, &search, &work.path().join("efi.img"))?;
    fs::write_atomic(&work.path().join("cd.cfg"), format!("{search}set prefix=($root)/boot/grub\n"))?;
    ctx.check_interrupt()?;
    assemble(ctx, tools, work.path(), first.system, &id, &name)?;
    let made = work.path().join(&name);
    let (start, bytes) = place(ctx, tools, &made, Path::new(medium::REGION))?;
    ensure!(bytes == region::SIZE, "the seed region has {bytes} bytes in the ISO instead of {}", region::SIZE);
    add_region(&made, start)?;
    fs::rename(&made, path)?;
    step.done();
    Ok(())
}

/// Where a file of an ISO begins, as xorriso has laid it, and how many bytes it has.
pub fn place(ctx: &Context, tools: &Tools, iso: &Path, file: &Path) -> Result<(u64, u64)> {
    let find = format!("/{}", file.display());
    let argv = ["xorriso", "-indev", "/mnt/iso", "-find", &find, "-exec", "report_lba", "--"];
    let text =
        tools.cmd(format!("finding `{find}` of an ISO")).bind(iso, "iso").step(argv).writes_stdout().read(ctx)?;
    // `File data lba:  0 ,     1234 ,     2048 ,   4194304 , '/castiron/seed.img'`: extent, first block, blocks, bytes, path.
    let line = text.lines().find(|line| line.starts_with("File data lba:")).unwrap_or_default();
    let fields: Vec<&str> = line.trim_start_matches("File data lba:").split(',').map(str::trim).collect();
    let numbers = match fields.as_slice() {
        ["0", block, _, bytes, _] => block.parse::<u64>().ok().zip(bytes.parse().ok()),
        _ => None,
    };
    let (block, bytes) =
        numbers.with_context(|| format!("xorriso tells nothing of one extent of `{find}`: `{text}`"))?;
    Ok((block * ISO_BLOCK, bytes))
}

const ISO_BLOCK: u64 = 2048;

/// Names the region's bytes as a partition of the medium as well, so that `castiron stamp` finds them as on every disk.
fn add_region(path: &Path, start: u64) -> Result<()> {
    let file = fs::open_rw(path)?;
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(gpt::disk::LogicalBlockSize::Lb512)
        .open_from_device(file)
        .context("reading the ISO's partition table")?;
    let mut partitions = table.partitions().clone();
    partitions.insert(REGION_NUMBER, region::partition(start));
    table.update_partitions(partitions).context("adding the seed region to the ISO's partitions")?;
    table.write().context("writing the ISO's partition table")?.sync_all().context("syncing the ISO")
}

/// Behind those that xorriso makes: the filesystem, the ESP, and what is between.
const REGION_NUMBER: u32 = 4;

/// Stands for the roles, their version and their root images; a boot file that differs makes another root image.
fn id(version: &str, riders: &[Rider<'_>], autoinstall: &str) -> String {
    let mut text = format!("castiron medium {version} {}", Sha256::of(autoinstall));
    for rider in riders {
        let _ = write!(text, "\n{} {}", rider.profile.name, rider.system.roothash);
    }
    Sha256::of(text).to_string()[..16].to_owned()
}

/// The name of the medium's filesystem: at most 32 characters, and another for each build, since the initrd mounts by it.
fn label(id: &str) -> String {
    format!("CASTIRON_{}", id.to_uppercase())
}

fn text(text: String) -> Content {
    Content::Bytes(text.into_bytes())
}

fn live(system: &System) -> [(&'static str, &Path); 4] {
    [
        ("live/root.img", &system.root),
        ("live/root.verity", &system.verity),
        (KERNEL, &system.boot.vmlinuz),
        ("live/initrd", &system.boot.initrd),
    ]
}

fn config(version: &str, id: &str, roles: &[&str], first: &Rider<'_>) -> String {
    format!(
        "set id={id}\nset version=\"{version}\"\nset roles=\"{}\"\nset label={}\nset roothash={}\nset arguments=\"{}\"\n",
        roles.join(", "),
        label(id),
        first.system.roothash,
        first.profile.kernel.arguments.join(" "),
    )
}

fn describe(rider: &Rider<'_>, segments: &[Segment]) -> Result<(RoleDisk, Vec<u8>)> {
    let mut map = Vec::new();
    medium::write_map(segments, &mut map)?;
    let disk = RoleDisk {
        roothash: rider.system.roothash.clone(),
        size: rider.profile.image.size,
        bytes: segments.iter().map(|segment| segment.len).sum(),
        map: format!("{}/{}.map", medium::FOLDER, rider.profile.name),
        sha256: Sha256::of(&map),
    };
    Ok((disk, map))
}

/// Writes the small files of the medium below `tree`.
fn lay_down(tree: &Path, files: &Files) -> Result<()> {
    for (path, content) in files {
        let to = tree.join(path);
        match content {
            Content::Folder => fs::create_dir_all(&to)?,
            Content::Bytes(bytes) => fs::write_atomic(&to, bytes)?,
            Content::File(from) => fs::write_atomic(&to, fs::read(from)?)?,
            Content::Link(_) => anyhow::bail!("`{path}` is a symbolic link: the medium has none"),
        }
    }
    Ok(())
}

fn write_esp(ctx: &Context, profile: &Profile, lock: &Lock, search: &str, path: &Path) -> Result<()> {
    let mut files = esp::loaders(ctx, profile, lock, Grub::Medium)?;
    files.insert("boot/grub/grub.cfg".to_owned(), text(format!("{search}configfile /boot/grub/grub.cfg\n")));
    let disk = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("creating `{}`", path.display()))?;
    disk.set_len(ESP).with_context(|| format!("sizing `{}`", path.display()))?;
    esp::write(disk, 0, ESP, 0, &files)
}

/// El Torito, GPT and protective MBR as Ubuntu's own media have them (`xorriso -report_el_torito`: carriers.md, §1.1).
fn assemble(ctx: &Context, tools: &Tools, work: &Path, system: &System, id: &str, name: &str) -> Result<()> {
    let mut core = vec!["grub-mkimage", "-d", "/usr/lib/grub/i386-pc", "-O", "i386-pc-eltorito"];
    core.extend(["-c", "/mnt/iso/cd.cfg", "-p", "/boot/grub", "-o", "/mnt/iso/tree/boot/grub/eltorito.img"]);
    core.extend(MODULES);
    let out = format!("/mnt/iso/{name}");
    let label = label(id);
    let mut iso = vec!["xorriso", "-as", "mkisofs", "-quiet", "-V", &label, "-r", "-J", "-o", &out];
    // SOURCE_DATE_EPOCH is for the volume's own times: those of files are the build's without this.
    let epoch = format!("={EPOCH}");
    iso.extend(["--set_all_file_dates", &epoch]);
    iso.extend(["--grub2-mbr", "/usr/lib/grub/i386-pc/boot_hybrid.img", "--protective-msdos-label"]);
    iso.extend(["-partition_cyl_align", "off", "-partition_offset", "16", "--mbr-force-bootable"]);
    iso.extend(["-append_partition", "2", ESP_TYPE, "/mnt/iso/efi.img", "-appended_part_as_gpt"]);
    iso.extend(["-c", "boot/boot.catalog", "-b", "boot/grub/eltorito.img", "-no-emul-boot", "-boot-load-size", "4"]);
    iso.extend(["-boot-info-table", "--grub2-boot-info"]);
    iso.extend(["-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::", "-no-emul-boot"]);
    iso.push("-graft-points");
    let mut cmd = tools.cmd("making the ISO").bind_rw(work, "iso");
    let mut grafts = vec!["/=/mnt/iso/tree".to_owned()];
    for (index, (on_medium, path)) in live(system).into_iter().enumerate() {
        let folder = path.parent().context("a file lies in a folder")?;
        cmd = cmd.bind(folder, &format!("live{index}"));
        grafts.push(format!("/{on_medium}=/mnt/live{index}/{}", path.file_name().unwrap_or_default().display()));
    }
    iso.extend(grafts.iter().map(String::as_str));
    cmd.step(core).step(iso).env("SOURCE_DATE_EPOCH", EPOCH.to_string()).run(ctx)
}
