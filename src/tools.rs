//! The tools tree: every external program, from noble's release pocket, unpacked and never configured.
//!
//! In: `profiles/tools.lock` (and the store). Out: [`Tools`], a folder that sandboxes have as their root.
//!
//! It is named by the digest of its lock, so two versions of castiron share a store without sharing a tree. What a
//! postinst would have done and a program here needs, is done by hand in [`finish`]; each entry was found by a tool
//! that failed without it. `ld.so.cache` and the alternatives are not among them.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::cmd::Cmd;
use crate::context::Context;
use crate::digest::Sha256;
use crate::download::{self, Item};
use crate::lock::{Lock, Package};
use crate::store::{self, Store};
use crate::{deb, fs};

/// Every time that is written into a file or an archive, seconds since 1970: noble's release, 2024-04-25.
pub const EPOCH: u64 = 1_714_003_200;

/// Mount points of every sandbox, where the tree itself is read-only.
pub const MOUNT_POINTS: [&str; 11] =
    ["proc", "dev", "sys", "tmp", "run", "root", "mnt", "var/tmp", "var/log", "var/cache", "var/lib/apt"];

/// A tools tree that is ready.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The tree.
    pub root: PathBuf,
    /// The digest of its lock: the versions of all tools in one value.
    pub digest: Sha256,
    /// The locked packages.
    pub lock: Lock,
}

/// `profiles/tools.toml`, as far as making the tree needs it.
#[derive(Deserialize)]
struct Wanted {
    mirrors: Vec<String>,
}

impl Tools {
    /// The tree of the project's `profiles/tools.lock`: made when it is not there.
    pub fn ensure(ctx: &Context) -> Result<Self> {
        let path = ctx.profiles().join("tools.lock");
        let text = fs::read_to_string(&path)?;
        let lock: Lock = toml::from_str(&text).with_context(|| format!("reading `{}`", ctx.display(&path)))?;
        let digest = name(&text);
        let root = ctx.derived("tools").join(digest.short());
        let tools = Self { root, digest, lock };
        if !tools.root.is_dir() {
            tools.make(ctx)?;
        }
        Ok(tools)
    }

    /// Where the tree of the project's lock lies, once it is made.
    pub fn folder(ctx: &Context) -> Result<PathBuf> {
        let text = fs::read_to_string(&ctx.profiles().join("tools.lock"))?;
        Ok(ctx.derived("tools").join(name(&text).short()))
    }

    /// A sandbox over this tree.
    pub fn cmd(&self, purpose: impl Into<String>) -> Cmd {
        Cmd::new(&self.root, purpose)
    }

    /// The version of one of the tree's packages.
    pub fn version(&self, package: &str) -> Option<&str> {
        self.lock.packages.iter().find(|p| p.name == package).map(|p| p.version.as_str())
    }

    fn make(&self, ctx: &Context) -> Result<()> {
        let items = bring(ctx, &self.lock)?;
        let store = Store::new(&ctx.store);
        let parent = self.root.parent().context("the tools tree lies in a folder")?;
        fs::create_dir_all(parent)?;
        let key = self.digest.short();
        let lock = fs::create(&parent.join(format!(".{key}.lock")))?;
        store::lock(ctx, &lock, "waiting for another castiron that unpacks the tools tree")?;
        if self.root.is_dir() {
            return Ok(());
        }
        let step = ctx.ui.step("tools", format!("unpacking {} packages of the tools tree", items.len()));
        let unpacking = format!(".unpacking-{key}-");
        for left in fs::list(parent)? {
            // By a kill or a power cut: who unpacks this tree holds its lock.
            if left.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&unpacking)) {
                fs::remove(&left)?;
            }
        }
        let folder = tempfile::Builder::new()
            .prefix(&unpacking)
            .tempdir_in(parent)
            .with_context(|| format!("creating a folder in `{}`", parent.display()))?;
        let tree = folder.path();
        for name in ["bin", "sbin", "lib", "lib64"] {
            fs::create_dir_all(&tree.join("usr").join(name))?;
            symlink(format!("usr/{name}"), tree.join(name)).with_context(|| format!("linking /{name}"))?;
        }
        for item in &items {
            ctx.check_interrupt()?;
            deb::unpack(&store.path(&item.sha256), tree, &[]).with_context(|| format!("unpacking `{}`", item.name))?;
        }
        finish(tree)?;
        fs::rename(tree, &self.root)?;
        // Its name is another now: there is nothing to clean up.
        let _ = folder.keep();
        step.done();
        Ok(())
    }
}

/// Brings the packages of the project's tools tree into the store, for those who copy them.
pub fn bring_packages(ctx: &Context) -> Result<()> {
    let text = fs::read_to_string(&ctx.profiles().join("tools.lock"))?;
    bring(ctx, &toml::from_str(&text).context("reading `profiles/tools.lock`")?).map(drop)
}

fn bring(ctx: &Context, lock: &Lock) -> Result<Vec<Item>> {
    let wanted = ctx.profiles().join("tools.toml");
    let wanted: Wanted =
        toml::from_str(&fs::read_to_string(&wanted)?).with_context(|| format!("reading `{}`", ctx.display(&wanted)))?;
    let mirrors: Vec<&String> = ctx.mirrors.iter().chain(&wanted.mirrors).collect();
    let item = |p: &Package| Item {
        name: p.name.clone(),
        sha256: p.sha256,
        size: p.size,
        sources: mirrors.iter().map(|m| format!("{}/{}", m.trim_end_matches('/'), p.path)).collect(),
        token: None,
    };
    let items: Vec<Item> = lock.packages.iter().map(item).collect();
    download::bring(ctx, &Store::new(&ctx.store), &items)?;
    Ok(items)
}

/// The maker's own format is part of the name: a newer castiron may finish the tree differently.
fn name(lock: &str) -> Sha256 {
    Sha256::of(format!("tools-v1\n{lock}"))
}

fn finish(tree: &Path) -> Result<()> {
    for (to, link) in [("dash", "usr/bin/sh"), ("gawk", "usr/bin/awk")] {
        let link = tree.join(link);
        fs::remove(&link)?;
        symlink(to, &link).with_context(|| format!("linking `{}`", link.display()))?;
    }
    let master = |name: &str| fs::read_to_string(&tree.join("usr/share/base-passwd").join(format!("{name}.master")));
    std::fs::create_dir_all(tree.join("etc"))?;
    fs::write_atomic(
        &tree.join("etc/passwd"),
        master("passwd")? + "_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n",
    )?;
    fs::write_atomic(&tree.join("etc/group"), master("group")?)?;
    for name in MOUNT_POINTS {
        fs::create_dir_all(&tree.join(name))?;
    }
    Ok(())
}
