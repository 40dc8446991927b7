//! The root image: one squashfs, its dm-verity hash tree, and what the boot loader needs to start it.
//!
//! In: [`Tree`], [`Initrd`], [`Programs`], overlays, units, pinned files, castiron-node. Out: [`System`]. Runs: `mksquashfs`, `veritysetup`.
//!
//! The tree's tar streams through [`assemble`] into `mksquashfs`; no root tree ever lies on the operator's disk.
//! Salt and uuid of the hash tree are derived from role and version: the same input gives the same bytes, while two
//! versions can not have one root hash, which would give two slots the same PARTUUIDs (boot.md, §3).
//!
//! zstd level 6: 0.5 % larger than level 9, in two thirds of its time.

mod assemble;
mod clean;
mod contents;
mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

pub use clean::left_out;
pub use contents::{Licences, PathEntry, licences_of};

use crate::cache::Planned;
use crate::context::Context;
use crate::digest::Sha256;
use crate::lock::Lock;
use crate::profile::{Kubernetes, Profile};
use crate::rootfs::Tree;
use crate::rootfs::initrd::{Boot, Initrd};
use crate::rootfs::overlay::Overlay;
use crate::rootfs::programs::Programs;
use crate::store::Store;
use crate::tools::{EPOCH, Tools};
use crate::{fetch, fs};

const SQUASHFS_LEVEL: u32 = 6;
/// Room that `mksquashfs` leaves to dm-verity: blocks of 4 KiB.
const BLOCK: u64 = 4096;

/// What the operator chose for one build.
#[derive(Clone, Debug)]
pub struct Options {
    /// `IMAGE_VERSION` of the image.
    pub version: String,
    /// Whether anybody at the console is root. For the lab.
    pub debug_shell: bool,
    /// The static `castiron-node`.
    pub node: PathBuf,
}

/// What an image says of itself, in `/usr/lib/castiron/image.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageFacts {
    /// The role.
    pub role: String,
    /// The version.
    pub version: String,
    /// Whether the console gives a root shell.
    pub debug_shell: bool,
}

/// A role's root image and boot files.
#[derive(Clone, Debug)]
pub struct System {
    /// The squashfs, padded to whole blocks.
    pub root: PathBuf,
    /// Its hash tree.
    pub verity: PathBuf,
    /// The root hash, 64 hexadecimal digits.
    pub roothash: String,
    /// Kernel and initrd.
    pub boot: Boot,
    /// Every path of the image with its digest and origin: one JSON object a line, see [`PathEntry`].
    pub contents: PathBuf,
    /// The licences that each package's copyright file names, as JSON: see [`Licences`].
    pub licences: PathBuf,
}

/// A root image, planned.
#[derive(Clone, Debug)]
pub struct Planning<'a> {
    tools: &'a Tools,
    profile: &'a Profile,
    options: &'a Options,
    tree: Tree<'a>,
    initrd: Initrd<'a>,
    programs: Programs<'a>,
    overlay: Overlay,
    planned: Planned,
}

impl<'a> Planning<'a> {
    /// The root image of a role.
    pub fn plan(
        ctx: &Context,
        tools: &'a Tools,
        profile: &'a Profile,
        lock: &'a Lock,
        options: &'a Options,
    ) -> Result<Self> {
        let tree = Tree::plan(tools, profile, lock);
        let initrd = Initrd::plan(ctx, tools, profile, lock)?;
        let programs = Programs::plan(profile, lock)?;
        let overlay = overlay(ctx, profile, options)?;
        let mut planned = Planned::new("system", profile.name.clone());
        planned.input("tools", tools.digest);
        planned.input("tree", tree.key());
        planned.input("initrd", initrd.key());
        planned.input("programs", programs.key());
        planned.input("version", &options.version);
        planned.input("debug shell", options.debug_shell);
        for (origin, digest) in digests(&overlay)? {
            planned.input(origin, digest);
        }
        for file in &profile.files {
            planned.input(format!("file {}", file.destination.display()), format!("{} {:o}", file.sha256, file.mode));
        }
        Ok(Self { tools, profile, options, tree, initrd, programs, overlay, planned })
    }

    /// The digest of all that goes into it.
    pub fn key(&self) -> Sha256 {
        self.planned.key()
    }

    /// The role.
    pub fn role(&self) -> &str {
        &self.profile.name
    }

    /// The digests of what goes into it, by name, without those that only say which build of castiron ran.
    pub fn inputs(&self) -> BTreeMap<String, String> {
        self.planned
            .inputs()
            .filter(|(name, _)| !["castiron", "tree", "initrd", "programs", "tools"].contains(name))
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect()
    }

    /// What a disk adds to the root image: sizes and kernel arguments.
    pub fn disk_facts(&self) -> String {
        format!("{:?} {:?}", self.profile.image, self.profile.kernel.arguments)
    }

    /// The root image; made when it is not there.
    pub fn ensure(&self, ctx: &Context) -> Result<System> {
        let text = format!("sealing the root image of `{}`", self.profile.name);
        // Two cores: the initrd is made while the role's packages are installed, and the image begins without it.
        let folder = std::thread::scope(|scope| {
            let prepare = || {
                let boot = scope.spawn(|| self.initrd.ensure(ctx));
                fetch::fetch_files(ctx, self.profile)?;
                Ok((self.tree.ensure(ctx)?, boot))
            };
            self.planned.ensure(ctx, &text, prepare, |(tree, boot), folder, step| {
                let boot = || boot.join().unwrap_or_else(|_| bail!("making the initrd panicked"));
                self.squash(ctx, folder, &tree, boot, step)?;
                self.seal(ctx, folder)
            })
        })?;
        let boot = self.initrd.ensure(ctx)?;
        let roothash = fs::read_to_string(&folder.join("roothash"))?;
        Ok(System {
            root: folder.join("root.img"),
            verity: folder.join("root.verity"),
            roothash,
            boot,
            contents: folder.join("contents.jsonl"),
            licences: folder.join("licences.json"),
        })
    }

    /// The overlay, and the pinned files, which are in the store now.
    fn overlay_with_files(&self, ctx: &Context) -> Result<Overlay> {
        let mut overlay = self.overlay.clone();
        let store = Store::new(&ctx.store);
        for file in &self.profile.files {
            let destination = file.destination.strip_prefix("/").unwrap_or(&file.destination);
            overlay.add_file(destination, &store.path(&file.sha256), file.mode, &format!("file {}", file.url));
        }
        self.programs.lay(ctx, &mut overlay)?;
        Ok(overlay)
    }

    /// `boot` is asked for the boot files when everything else is in the image.
    fn squash(
        &self,
        ctx: &Context,
        folder: &Path,
        tree: &Path,
        boot: impl FnOnce() -> Result<Boot>,
        step: &crate::ui::Step,
    ) -> Result<()> {
        let edits = assemble::Edits { role: &self.profile.name, version: &self.options.version };
        let overlay = self.overlay_with_files(ctx)?;
        let cmd = self.tools.cmd("compressing the root image").bind_rw(folder, "out");
        let time = EPOCH.to_string();
        let mut made = None;
        cmd.step([
            "mksquashfs",
            "-",
            "/mnt/out/root.img",
            "-tar",
            "-noappend",
            "-no-progress",
            "-quiet",
            "-comp",
            "zstd",
            "-Xcompression-level",
            &SQUASHFS_LEVEL.to_string(),
            "-mkfs-time",
            &time,
            "-root-time",
            &time,
            // The tree's own entry is none that a tar from a pipe keeps: without this the root were writable by all.
            "-root-mode",
            "0755",
        ])
        .reads_stdin()
        .run_fed(ctx, |stdin| {
            let input = fs::open(tree)?;
            let late = || boot_digests(&boot()?);
            made = Some(assemble::assemble(input, &overlay, late, &edits, stdin, |bytes| {
                step.advance(bytes);
                ctx.check_interrupt()
            })?);
            Ok(())
        })?;
        let assembled = made.context("the root image's content was written")?;
        contents::write(&folder.join("contents.jsonl"), &assembled.entries)?;
        fs::write_atomic(&folder.join("licences.json"), json_line(&assembled.licences)?)
    }

    fn seal(&self, ctx: &Context, folder: &Path) -> Result<()> {
        let root = folder.join("root.img");
        let size = fs::len(&root)?;
        ensure!(size.is_multiple_of(BLOCK), "`{}` is {size} bytes long, no whole number of blocks", root.display());
        check_room("root image", "slot", size, self.profile.image.slot)?;
        let identity = Sha256::of(format!("castiron {} {}", self.profile.name, self.options.version));
        let uuid =
            uuid::Builder::from_custom_bytes(identity.bytes()[..16].try_into().context("a digest has 32 bytes")?);
        self.tools
            .cmd("making the hash tree of the root image")
            .bind_rw(folder, "out")
            .step([
                "veritysetup",
                "format",
                "/mnt/out/root.img",
                "/mnt/out/root.verity",
                "--root-hash-file=/mnt/out/roothash",
                &format!("--salt={identity}"),
                &format!("--uuid={}", uuid.into_uuid()),
            ])
            .step(["chmod", "0644", "/mnt/out/root.img", "/mnt/out/root.verity", "/mnt/out/roothash"])
            .run(ctx)?;
        check_room("hash tree", "verity", fs::len(&folder.join("root.verity"))?, self.profile.image.verity)
    }
}

fn check_room(what: &str, field: &str, size: u64, room: u64) -> Result<()> {
    if size <= room {
        return Ok(());
    }
    let size = size.div_ceil(1 << 20);
    let room = room >> 20;
    Err(crate::error::Failure::new(
        crate::error::Kind::Input,
        format!("the {what} has {size} MiB, and `image.{field}` of the profile gives it {room} MiB"),
    )
    .hint(format!("raise `{field}` in the profile's `[image]`, or name fewer packages"))
    .into())
}

/// What lies over the tree, as far as the profile alone decides it.
fn overlay(ctx: &Context, profile: &Profile, options: &Options) -> Result<Overlay> {
    let mut overlay = Overlay::default();
    for name in &profile.overlays {
        overlay.add_folder(&ctx.project.join("overlays").join(name), &format!("overlay {name}"))?;
    }
    if options.debug_shell {
        overlay.add_folder(&ctx.project.join("overlays").join(DEBUG_SHELL), &format!("overlay {DEBUG_SHELL}"))?;
    }
    units::add(&ctx.project.join("firstboot"), &profile.units, &mut overlay)?;
    overlay.add_file("usr/bin/castiron-node", &options.node, 0o755, "castiron-node");
    // systemd writes the machine's own at first boot; "uninitialized" would make it a first boot with presets.
    overlay.add_bytes("etc/machine-id", "", "castiron");
    overlay.add_link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf", "castiron");
    overlay.add_dir("efi", 0o755, "castiron");
    let facts =
        ImageFacts { role: profile.name.clone(), version: options.version.clone(), debug_shell: options.debug_shell };
    overlay.add_bytes("usr/lib/castiron/image.json", json_line(&facts)?, "castiron");
    if let Some(kubernetes) = &profile.kubernetes {
        overlay.add_bytes("usr/lib/castiron/kubernetes.json", json_line(&kubernetes_facts(kubernetes))?, "castiron");
    }
    Ok(overlay)
}

/// What castiron-node needs to know of the version set: see `node/control_plane`.
fn kubernetes_facts(kubernetes: &Kubernetes) -> serde_json::Value {
    let image = |name: &str| kubernetes.images.get(name).map(String::as_str);
    let tag = |name: &str| image(name).and_then(|image| image.rsplit_once(':')).map(|(_, tag)| tag);
    serde_json::json!({
        "version": kubernetes.version,
        "image-repository": kubernetes.image_repository,
        "pause": image("pause"),
        "etcd": tag("etcd"),
        "coredns": tag("coredns"),
    })
}

/// What the image knows of its kernel and initrd, which lie on the ESP: see `castiron-node verify-boot`.
fn boot_digests(boot: &Boot) -> Result<Overlay> {
    let digest = |path: &Path| -> Result<serde_json::Value> {
        let (sha256, size) = Sha256::of_file(path)?;
        Ok(serde_json::json!({"sha256": sha256, "size": size}))
    };
    let digests = serde_json::json!({"vmlinuz": digest(&boot.vmlinuz)?, "initrd": digest(&boot.initrd)?});
    let mut overlay = Overlay::default();
    overlay.add_bytes("usr/lib/castiron/boot.json", json_line(&digests)?, "castiron");
    Ok(overlay)
}

/// The overlay that `castiron build --debug-shell` adds.
pub const DEBUG_SHELL: &str = "debug-shell";

/// A digest for each origin in an overlay, so that a rebuild can name the overlay that changed.
fn digests(overlay: &Overlay) -> Result<BTreeMap<String, Sha256>> {
    let mut lines = BTreeMap::<String, Overlay>::new();
    for (path, entry) in overlay.entries() {
        let part = lines.entry(entry.origin.clone()).or_default();
        part.insert(path, entry.clone());
    }
    lines.into_iter().map(|(origin, part)| Ok((origin, part.digest()?))).collect()
}

fn json_line(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec(value).context("writing JSON")?;
    text.push(b'\n');
    Ok(text)
}
