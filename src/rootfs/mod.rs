//! The root tree: locked packages, installed; and the initrd, made of the same.
//!
//! In: [`Profile`], [`Lock`], the store. Out: [`Tree`] (a tar a layer) and [`initrd::Initrd`].
//! Runs: `mmdebstrap`, `dracut`.
//!
//! A role's tree is its parent profile's tree and the packages that the role adds, layer by layer, so four roles
//! share the work of `base`. Trees live in a tmpfs of the sandbox and leave it as tars: they carry owners and
//! attributes that an ordinary user's disk can not, and nothing is left to be deleted by an id that the user has not.
//! dracut and what it needs are in the initrd's own tree only ([`initrd`]); no role's image carries them.
//!
//! The tree is packed by tar itself: mmdebstrap's `--format=tar` hands it on in pieces of 1 KiB, which takes twice as long.
//!
//! Tried and dropped: mmdebstrap's own path-exclude (a filter in Python, 6 s; what is not wanted is left out when the
//! tree becomes an image), and a tree on disk (a third slower than on a tmpfs).

pub mod initrd;
pub mod overlay;
pub mod programs;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cache::Planned;
use crate::cmd::Cmd;
use crate::context::Context;
use crate::digest::Sha256;
use crate::lock::{Lock, Package};
use crate::profile::Profile;
use crate::store::Store;
use crate::tools::{EPOCH, Tools};
use crate::{deb, fetch, fs};

/// A profile's tree, planned.
#[derive(Clone, Debug)]
pub struct Tree<'a> {
    tools: &'a Tools,
    profile: &'a Profile,
    lock: &'a Lock,
    planned: Planned,
    /// The layers from the root to this tree's own.
    layers: &'a [crate::profile::Layer],
}

impl<'a> Tree<'a> {
    /// The tree of a role.
    pub fn plan(tools: &'a Tools, profile: &'a Profile, lock: &'a Lock) -> Self {
        Self::plan_layers(tools, profile, lock, &profile.layers)
    }

    fn plan_layers(
        tools: &'a Tools,
        profile: &'a Profile,
        lock: &'a Lock,
        layers: &'a [crate::profile::Layer],
    ) -> Self {
        let name = layers.last().map_or("", |layer| layer.name.as_str());
        let mut planned = Planned::new("rootfs", name);
        planned.input("tools", tools.digest);
        if layers.len() > 1 {
            planned.input("parent", Self::plan_layers(tools, profile, lock, &layers[..layers.len() - 1]).key());
        }
        for package in lock.layer(name) {
            planned.input(format!("package {}", package.name), package.sha256);
        }
        Self { tools, profile, lock, planned, layers }
    }

    /// The digest of all that goes into it.
    pub fn key(&self) -> Sha256 {
        self.planned.key()
    }

    fn parent(&self) -> Option<Self> {
        let above = &self.layers[..self.layers.len() - 1];
        (!above.is_empty()).then(|| Self::plan_layers(self.tools, self.profile, self.lock, above))
    }

    fn name(&self) -> &str {
        &self.layers[self.layers.len() - 1].name
    }

    /// The tar of the tree; made when it is not there.
    pub fn ensure(&self, ctx: &Context) -> Result<PathBuf> {
        let packages: Vec<&Package> = self.lock.layer(self.name()).collect();
        let parent = self.parent();
        if let Some(parent) = parent.as_ref().filter(|_| packages.is_empty()) {
            return parent.ensure(ctx);
        }
        let text = format!("installing {} packages of `{}`", packages.len(), self.name());
        let prepare = || {
            fetch::fetch(ctx, self.profile, self.lock, &[self.name()])?;
            parent.map(|parent| parent.ensure(ctx)).transpose()
        };
        let folder = self.planned.ensure(ctx, &text, prepare, |parent, folder, _| {
            self.install(ctx, folder, parent.as_deref(), &packages)?.run_into(ctx, &folder.join(TREE))
        })?;
        Ok(folder.join(TREE))
    }

    /// mmdebstrap over a flat repository of exactly the locked packages. A further layer begins with its parent's tree.
    fn install(&self, ctx: &Context, folder: &Path, parent: Option<&Path>, packages: &[&Package]) -> Result<Cmd> {
        let index = folder.join("Packages");
        fs::write_atomic(&index, repository_index(ctx, packages)?)?;
        let names: Vec<&str> = packages.iter().map(|p| p.name.as_str()).collect();
        let mut cmd = self
            .tools
            .cmd(format!("installing the packages of `{}`", self.name()))
            .scratch("tree")
            .bind(&ctx.store, "store")
            .bind(&index, "Packages");
        let mut command = vec!["mmdebstrap".to_owned(), "--mode=root".to_owned(), "--format=directory".to_owned()];
        match parent {
            None => command.push("--variant=essential".to_owned()),
            Some(parent) => {
                cmd = cmd.bind(parent, TREE);
                command.push("--variant=custom".to_owned());
                command.push(format!(
                    "--setup-hook=tar --directory=\"$1\" --extract --file=/mnt/{TREE} --numeric-owner \
                     --preserve-permissions --xattrs --xattrs-include='*'"
                ));
            }
        }
        command.extend([
            // dpkg, which runs below the tree's root, reads the packages where apt finds them: nothing is copied.
            "--setup-hook=mkdir -p \"$1/mnt/store\" && mount --bind /mnt/store \"$1/mnt/store\"".to_owned(),
            format!("--setup-hook=mkdir -p \"$1/etc/ssh\" && cd \"$1/etc/ssh\" && touch {HOST_KEYS}"),
            format!("--include={}", names.join(",")),
            "--aptopt=APT::Install-Recommends \"false\"".to_owned(),
            "--customize-hook=umount \"$1/mnt/store\" && rmdir \"$1/mnt/store\"".to_owned(),
            String::new(), // no suite: a flat repository has none
            "/mnt/tree/root".to_owned(),
            "deb [trusted=yes] file:/mnt ./".to_owned(), // every byte was checked against the lock before
        ]);
        let pack = "tar --directory=/mnt/tree/root --create --sort=name --clamp-mtime --format=pax \
                    --pax-option=delete=atime,delete=ctime --numeric-owner --xattrs --xattrs-include=*";
        let mut pack: Vec<String> = pack.split_whitespace().map(str::to_owned).collect();
        pack.push(format!("--mtime=@{EPOCH}"));
        pack.extend(UNUSED.map(|path| format!("--exclude=./{path}/?*")));
        pack.push(".".to_owned());
        Ok(cmd.step(command).env("SOURCE_DATE_EPOCH", EPOCH.to_string()).step(pack).writes_stdout())
    }
}

/// What is in no image ([`crate::system::left_out`]), and of no use to the layers that follow: it need not travel. Nor could
/// an ordinary user's sandbox make device nodes again.
const UNUSED: [&str; 4] = ["boot", "dev", "usr/share/man", "usr/share/locale"];

/// openssh-server makes those that are not there: private keys in a cache, for no image to have, and half a second of work.
const HOST_KEYS: &str = "ssh_host_rsa_key ssh_host_ecdsa_key ssh_host_ed25519_key";

/// The file name of a tree's tar.
pub const TREE: &str = "tree.tar";

/// The kernel's version, from the name of its modules' package.
pub fn kernel_version<'a>(packages: impl Iterator<Item = &'a Package>) -> Option<String> {
    packages
        .filter_map(|p| p.name.strip_prefix("linux-modules-"))
        .find(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

/// A package's path where the store is bound to `/mnt`, as it is in the tree.
fn in_sandbox(store: &Store, ctx: &Context, package: &Package) -> String {
    let path = store.path(&package.sha256);
    let inside = path.strip_prefix(&ctx.store).unwrap_or(&path);
    format!("/mnt/{}", inside.display())
}

/// The `Packages` index of a flat repository whose files are the store's objects.
fn repository_index(ctx: &Context, packages: &[&Package]) -> Result<String> {
    let store = Store::new(&ctx.store);
    let mut index = String::new();
    for package in packages {
        let control = deb::control(&store.path(&package.sha256))
            .with_context(|| format!("reading the package `{}`", package.name))?;
        index.push_str(control.trim_end());
        let path = in_sandbox(&store, ctx, package).replacen("/mnt/", "store/", 1);
        let _ = write!(index, "\nFilename: {path}\nSize: {}\nSHA256: {}\n\n", package.size, package.sha256);
    }
    Ok(index)
}
