//! The EFI system partition: shim, Canonical's signed GRUB, its configuration, and each slot's kernel and initrd.
//!
//! `/EFI/BOOT` is the removable path, which firmware tries without an NVRAM entry; `/EFI/ubuntu` is the prefix that is
//! baked into Canonical's GRUB. shim's fallback (fbx64.efi) stays away: it would look for entries to make.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use fscommon::{BufStream, StreamSlice};

use crate::context::Context;
use crate::digest::Sha256;
use crate::grubenv::{self, EnvBlock};
use crate::lock::{BOOT, Lock};
use crate::profile::Profile;
use crate::rootfs::overlay::{Content, Overlay};
use crate::store::Store;
use crate::system::System;
use crate::{deb, fetch, fs};

/// The overlay that holds the ESP's own files.
pub const OVERLAY: &str = "esp";

/// Canonical's signed GRUB in two builds: with the prefix `/EFI/ubuntu` for disks, and `/boot/grub` for media.
#[derive(Clone, Copy, Debug)]
pub enum Grub {
    /// `grubx64.efi`.
    Disk,
    /// `gcdx64.efi`.
    Medium,
}

impl Grub {
    /// (package, file in it, name on the ESP). Sources: the file lists of noble's packages.
    fn signed(self) -> [(&'static str, &'static str, &'static str); 3] {
        let grub = match self {
            Self::Disk => "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
            Self::Medium => "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed",
        };
        [
            ("shim-signed", "usr/lib/shim/shimx64.efi.signed.latest", "EFI/BOOT/BOOTX64.EFI"),
            ("shim-signed", "usr/lib/shim/mmx64.efi", "EFI/BOOT/mmx64.efi"),
            ("grub-efi-amd64-signed", grub, "EFI/BOOT/grubx64.efi"),
        ]
    }
}

/// A file's content, or where it lies.
pub type Files = BTreeMap<String, Content>;

/// shim, GRUB and MokManager, from the lock's layer `boot`.
pub fn loaders(ctx: &Context, profile: &Profile, lock: &Lock, grub: Grub) -> Result<Files> {
    fetch::fetch(ctx, profile, lock, &[BOOT])?;
    let store = Store::new(&ctx.store);
    let mut files = Files::new();
    for (package, inside, name) in grub.signed() {
        let locked = lock.layer(BOOT).find(|p| p.name == package).with_context(|| {
            format!("the lock's layer `{BOOT}` has no `{package}`: name it in the profile's `[boot]` and run `castiron lock`")
        })?;
        let mut found = deb::read_files(&store.path(&locked.sha256), &[inside])?;
        let bytes = found.remove(inside).with_context(|| format!("`{package}` has no file `{inside}`"))?;
        files.insert(name.to_owned(), Content::Bytes(bytes));
    }
    Ok(files)
}

/// What the ESP of a role holds.
pub fn files(ctx: &Context, profile: &Profile, lock: &Lock, system: &System) -> Result<Files> {
    let mut files = loaders(ctx, profile, lock, Grub::Disk)?;
    let mut overlay = Overlay::default();
    overlay.add_folder(&ctx.project.join("overlays").join(OVERLAY), "overlay esp")?;
    for (path, entry) in overlay.entries() {
        files.insert(path.to_string_lossy().into_owned(), entry.content.clone());
    }

    let slot = |name: &str| format!("slots/a/{name}");
    files.insert(slot("vmlinuz"), Content::File(system.boot.vmlinuz.clone()));
    files.insert(slot("initrd"), Content::File(system.boot.initrd.clone()));
    let (kernel, _) = Sha256::of_file(&system.boot.vmlinuz)?;
    files.insert(slot("SHA256SUMS"), Content::Bytes(format!("{kernel}  vmlinuz\n").into_bytes()));
    let arguments = profile.kernel.arguments.join(" ");
    let config = format!("set roothash={}\nset arguments=\"{arguments}\"\n", system.roothash);
    files.insert(slot("slot.cfg"), Content::Bytes(config.into_bytes()));
    files.insert("slots/b".to_owned(), Content::Folder);

    let env = EnvBlock::of_new_disk();
    files.insert(grubenv::PATH.to_owned(), Content::Bytes(env.bytes().to_vec()));
    Ok(files)
}

/// Below this, 512 bytes a cluster do not make the 65525 clusters of FAT32.
const FAT32_MIN: u64 = 36 << 20;

/// Bytes of a cluster: as large as FAT32 allows at `size`, up to a page. `fatfs` would take 512 below 260 MiB, and then it,
/// like GRUB later, walks through every block of a kernel.
fn cluster(size: u64) -> u32 {
    // Fewer clusters than 65525 make it FAT16 (Microsoft, FAT32 File System Specification, 1.03); the FATs take some room.
    [4096, 2048, 1024].into_iter().find(|bytes| size / u64::from(*bytes) > 70_000).unwrap_or(512)
}

/// Formats `size` bytes of `disk` at `start` and writes the files. `volume` is the volume's serial number. FAT32 where it has
/// room for the clusters that FAT32 must have, else FAT16.
pub fn write(disk: File, start: u64, size: u64, volume: u32, files: &Files) -> Result<()> {
    let slice = StreamSlice::new(disk, start, start + size).context("opening the ESP")?;
    let mut stream = BufStream::new(slice);
    let options = FormatVolumeOptions::new()
        .fat_type(if size >= FAT32_MIN { FatType::Fat32 } else { FatType::Fat16 })
        .bytes_per_cluster(if size >= FAT32_MIN { cluster(size) } else { 512 })
        .volume_id(volume)
        .volume_label(*b"ESP        ");
    fatfs::format_volume(&mut stream, options).context("formatting the ESP")?;
    let volume = FileSystem::new(stream, FsOptions::new().update_accessed_date(false)).context("opening the ESP")?;
    {
        let root = volume.root_dir();
        for (path, content) in files {
            let writing = || format!("writing `{path}` to the ESP (is `image.esp` of the profile large enough?)");
            for (end, _) in path.match_indices('/') {
                root.create_dir(&path[..end]).with_context(writing)?;
            }
            match content {
                Content::Folder => {
                    root.create_dir(path).with_context(writing)?;
                }
                Content::Bytes(bytes) => {
                    let mut file = root.create_file(path).with_context(writing)?;
                    file.write_all(bytes).with_context(writing)?;
                    file.flush().with_context(writing)?;
                }
                Content::File(from) => {
                    let mut file = root.create_file(path).with_context(writing)?;
                    std::io::copy(&mut fs::open(from)?, &mut file).with_context(writing)?;
                    file.flush().with_context(writing)?;
                }
                Content::Link(_) => anyhow::bail!("`{path}` is a symbolic link: FAT has none"),
            }
        }
    }
    volume.unmount().context("closing the ESP")
}
