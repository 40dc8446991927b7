//! The initrd: dracut's, made in a tree of its own that is thrown away.
//!
//! In: the packages of `base` and of the lock's layer `initrd`, the overlays that the profile names for it. Out: [`Boot`],
//! the kernel and the initrd. One for all roles, since nothing of a role is in it: which root it mounts, GRUB's `roothash=`
//! says. Runs: `dracut`, and what packages' scripts would have run: `ldconfig`, `depmod`, `systemd-sysusers`.
//!
//! The packages are unpacked, not installed: dracut only reads files, and the initrd is made while `base` is installed.
//! Seen with noble's packages: the files are those of an initrd from the installed tree, byte for byte, but for the numbers
//! of users that packages make, which hold until the root's own udev goes over `/dev` again.
//!
//! `DRACUT_NO_MKNOD`: an ordinary user's sandbox can make no device nodes, and without it root's initrd would differ
//! from the user's by them. devtmpfs brings them at boot.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::kernel_version;
use super::overlay::{self, Overlay};
use crate::cache::Planned;
use crate::context::Context;
use crate::digest::Sha256;
use crate::lock::{INITRD, Lock, Package};
use crate::profile::Profile;
use crate::store::Store;
use crate::tools::{EPOCH, Tools};
use crate::{deb, fetch};

/// The initrd, planned.
#[derive(Clone, Debug)]
pub struct Initrd<'a> {
    tools: &'a Tools,
    profile: &'a Profile,
    lock: &'a Lock,
    overlay: Overlay,
    planned: Planned,
}

/// What the boot loader loads.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The kernel, signed by Canonical, as packaged.
    pub vmlinuz: PathBuf,
    /// The initrd.
    pub initrd: PathBuf,
}

impl<'a> Initrd<'a> {
    /// The initrd that a role boots with.
    pub fn plan(ctx: &Context, tools: &'a Tools, profile: &'a Profile, lock: &'a Lock) -> Result<Self> {
        let mut overlay = Overlay::default();
        for name in &profile.initrd.overlays {
            overlay.add_folder(&ctx.project.join("overlays").join(name), &format!("overlay {name}"))?;
        }
        let mut planned = Planned::new("initrd", "all");
        planned.input("tools", tools.digest);
        planned.input("overlays", overlay.digest()?);
        for package in packages(profile, lock) {
            planned.input(format!("package {}", package.name), package.sha256);
        }
        Ok(Self { tools, profile, lock, overlay, planned })
    }

    /// The digest of all that goes into it.
    pub fn key(&self) -> Sha256 {
        self.planned.key()
    }

    /// Kernel and initrd; made when they are not there.
    pub fn ensure(&self, ctx: &Context) -> Result<Boot> {
        let base = &self.profile.layers[0].name;
        let version = kernel_version(self.lock.layer(base))
            .with_context(|| format!("the lock's layer `{base}` has no package `linux-modules-<version>`"))?;
        let text = format!("making the initrd of kernel {version}");
        let prepare = || fetch::fetch(ctx, self.profile, self.lock, &[base, INITRD]);
        let folder = self.planned.ensure(ctx, &text, prepare, |(), folder, _| {
            let passwd = |name: &str| {
                [
                    "cp".to_owned(),
                    format!("/mnt/root/usr/share/base-passwd/{name}.master"),
                    format!("/mnt/root/etc/{name}"),
                ]
            };
            self.tools
                .cmd("making the initrd")
                .scratch("root")
                .bind_rw(folder, "out")
                .step(["tar", "--extract", "--directory=/mnt/root", "--keep-directory-symlink"])
                .reads_stdin()
                .step(passwd("passwd"))
                .step(passwd("group"))
                .step(["ln", "-s", "mawk", "/mnt/root/usr/bin/awk"])
                .step(["mount", "--rbind", "/dev", "/mnt/root/dev"])
                .step(["mount", "-t", "proc", "proc", "/mnt/root/proc"])
                .step(["chroot", "/mnt/root", "ldconfig"])
                .step(["chroot", "/mnt/root", "systemd-sysusers"])
                .step(["chroot", "/mnt/root", "depmod", &version])
                // It yields to the packages of `base`, which everything else waits for.
                .step(["chroot", "/mnt/root", "nice", "-n", "19", "dracut", "--force", "/tmp/initrd", &version])
                .env("SOURCE_DATE_EPOCH", EPOCH.to_string())
                .env("DRACUT_NO_MKNOD", "1")
                .step(["cp", "/mnt/root/tmp/initrd", "/mnt/out/initrd"])
                .step(["cp", &format!("/mnt/root/boot/vmlinuz-{version}"), "/mnt/out/vmlinuz"])
                .step(["chmod", "0644", "/mnt/out/initrd", "/mnt/out/vmlinuz"])
                .run_fed(ctx, |stdin| self.write_tree(ctx, stdin))
        })?;
        Ok(Boot { vmlinuz: folder.join("vmlinuz"), initrd: folder.join("initrd") })
    }

    /// The packages' files and the overlays, as one tar.
    fn write_tree(&self, ctx: &Context, out: impl Write) -> Result<()> {
        let store = Store::new(&ctx.store);
        let mut tar = tar::Builder::new(BufWriter::with_capacity(256 << 10, out));
        for package in packages(self.profile, self.lock) {
            ctx.check_interrupt()?;
            deb::append(&store.path(&package.sha256), &mut tar, UNREAD)
                .with_context(|| format!("unpacking `{}`", package.name))?;
        }
        for (path, entry) in self.overlay.entries() {
            overlay::append(&mut tar, path, entry)?;
        }
        tar.into_inner().and_then(|mut out| out.flush()).context("writing the packages' files")
    }
}

/// Thousands of files that dracut reads none of.
const UNREAD: &[&str] = &["usr/share/doc", "usr/share/man", "usr/share/locale"];

/// What the initrd's tree is made of. base-files comes first: its links `/bin`, `/lib` decide where others' files go.
fn packages<'a>(profile: &'a Profile, lock: &'a Lock) -> Vec<&'a Package> {
    let mut packages: Vec<_> = lock.layer(&profile.layers[0].name).chain(lock.layer(INITRD)).collect();
    packages.sort_by_key(|package| package.name != "base-files");
    packages
}
