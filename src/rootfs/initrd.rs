//! The initrd: dracut's, made in a tree of its own that is thrown away.
//!
//! In: the base tree, the lock's layer `initrd`, the overlays that the profile names for it. Out: [`Boot`], the kernel and
//! the initrd. One for all roles, since nothing of a role is in it: which root it mounts, GRUB's `roothash=` says.
//!
//! `DRACUT_NO_MKNOD`: an ordinary user's sandbox can make no device nodes, and without it root's initrd would differ
//! from the user's by them. devtmpfs brings them at boot.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::overlay::Overlay;
use super::{TREE, Tree, dpkg, in_sandbox, unpack_tree};
use crate::cache::Planned;
use crate::context::Context;
use crate::digest::Sha256;
use crate::lock::{INITRD, Lock};
use crate::profile::Profile;
use crate::store::Store;
use crate::tools::{EPOCH, Tools};
use crate::{fetch, fs};

/// The initrd, planned.
#[derive(Clone, Debug)]
pub struct Initrd<'a> {
    tools: &'a Tools,
    profile: &'a Profile,
    lock: &'a Lock,
    base: Tree<'a>,
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
        let base = Tree::plan_base(tools, profile, lock);
        let mut overlay = Overlay::default();
        for name in &profile.initrd.overlays {
            overlay.add_folder(&ctx.project.join("overlays").join(name), &format!("overlay {name}"))?;
        }
        let mut planned = Planned::new("initrd", "all");
        planned.input("tools", tools.digest);
        planned.input("base tree", base.key());
        planned.input("overlays", overlay.digest()?);
        for package in lock.layer(INITRD) {
            planned.input(format!("package {}", package.name), package.sha256);
        }
        Ok(Self { tools, profile, lock, base, overlay, planned })
    }

    /// The digest of all that goes into it.
    pub fn key(&self) -> Sha256 {
        self.planned.key()
    }

    /// Kernel and initrd; made when they are not there.
    pub fn ensure(&self, ctx: &Context) -> Result<Boot> {
        let tree = self.base.ensure(ctx)?;
        let version = self.base.kernel_version()?;
        let text = format!("making the initrd of kernel {version}");
        let folder = self.planned.ensure(ctx, &text, |folder, _| {
            fetch::fetch(ctx, self.profile, self.lock, &[INITRD])?;
            let overlays = tempfile::NamedTempFile::new_in(folder).context("creating a temporary file")?;
            self.overlay.write_tar(overlays.as_file())?;
            let store = Store::new(&ctx.store);
            let mut unpack = dpkg("--unpack");
            unpack.extend(self.lock.layer(INITRD).map(|p| in_sandbox(&store, ctx, p)));
            let cmd = self
                .tools
                .cmd("making the initrd")
                .bind(&ctx.store, "store")
                .bind(&tree, TREE)
                .bind(overlays.path(), "overlays.tar")
                .bind_rw(folder, "out")
                .scratch("root");
            unpack_tree(cmd)
                .step(unpack)
                .step([
                    "tar",
                    "--extract",
                    "--directory=/mnt/root",
                    "--file=/mnt/overlays.tar",
                    "--keep-directory-symlink",
                    "--no-overwrite-dir",
                ])
                .step(["mount", "-t", "tmpfs", "tmpfs", "/mnt/root/run"])
                .step(["chroot", "/mnt/root", "dracut", "--force", "/tmp/initrd", &version])
                .env("SOURCE_DATE_EPOCH", EPOCH.to_string())
                .env("DRACUT_NO_MKNOD", "1")
                .step(["cp", "/mnt/root/tmp/initrd", "/mnt/out/initrd"])
                .step(["cp", &format!("/mnt/root/boot/vmlinuz-{version}"), "/mnt/out/vmlinuz"])
                .step(["chmod", "0644", "/mnt/out/initrd", "/mnt/out/vmlinuz"])
                .run(ctx)?;
            fs::sync(folder)
        })?;
        Ok(Boot { vmlinuz: folder.join("vmlinuz"), initrd: folder.join("initrd") })
    }
}
