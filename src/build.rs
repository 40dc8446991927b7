//! The line: from profiles to a release, every stage once, in order.
//!
//! This file is the drawing in `lib.rs` as code, and the only caller of the stages. Plans come first, and cost nothing:
//! when the release that they describe is there already, no stage runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context as _, Result};

use crate::autoinstall::Given;
use crate::cache::Planned;
use crate::carrier::{self, Carrier, Format, bios, disk, esp, iso};
use crate::context::Context;
use crate::digest::Sha256;
use crate::fs;
use crate::lock::{self, BOOT, Lock};
use crate::profile::{self, Profile};
use crate::release::manifest::{LockFacts, Manifest, Role, SCHEMA};
use crate::release::{self, Place};
use crate::store::Store;
use crate::system::{Options, Planning, System};
use crate::tools::Tools;

/// What is to be built.
#[derive(Clone, Debug)]
pub struct Request {
    /// Roles.
    pub roles: Vec<String>,
    /// Formats of the disk images.
    pub formats: Vec<Format>,
    /// Whether there is to be an installer medium for all roles.
    pub iso: bool,
    /// The installer medium's autoinstall file; castiron's own where there is none.
    pub autoinstall: Option<PathBuf>,
    /// Folder in which the release's folder will be.
    pub output: PathBuf,
    /// The release's version; by default the day of the lock.
    pub version: Option<String>,
    /// Root for anybody at the console, for the lab.
    pub debug_shell: bool,
    /// The static castiron-node.
    pub node: PathBuf,
}

/// Builds a release, and returns its folder.
pub fn build(ctx: &Context, request: &Request) -> Result<PathBuf> {
    let profiles = request.roles.iter().map(|role| profile::load(ctx, role)).collect::<Result<Vec<_>>>()?;
    let lock = lock::load(ctx)?;
    lock.check(&profiles)?;
    let given = Given::load(request.autoinstall.as_deref())?;
    // `castiron store gc` waits until this build has ended.
    let _hold = Store::new(&ctx.store).hold(ctx)?;
    let tools = Tools::ensure(ctx)?;
    let options = Options {
        version: request.version.clone().unwrap_or_else(|| day(&lock)),
        debug_shell: request.debug_shell,
        node: request.node.clone(),
    };
    if request.debug_shell {
        ctx.ui.warn("`--debug-shell`: anybody at the console of this image is root; it is for the lab alone");
    }
    let plans = profiles.iter().map(|p| Planning::plan(ctx, &tools, p, &lock, &options)).collect::<Result<Vec<_>>>()?;

    let place = place(ctx, request, &options, &lock, &plans, &given)?;
    let path = place.path();
    if place.is_there(ctx)? {
        return Ok(path);
    }
    let Some(draft) = place.begin(ctx)? else { return Ok(path) };
    let raw = |profile: &Profile| draft.folder().join(&profile.name).with_extension("raw");
    let one = |(profile, plan): &(&Profile, &Planning<'_>)| -> Result<(System, Role)> {
        let system = plan.ensure(ctx)?;
        let raw = raw(profile);
        let identity = Sha256::of(format!("{} {} {}", profile.name, options.version, system.roothash));
        disk::write(ctx, &tools, profile, &lock, &system, &identity, &raw)
            .with_context(|| format!("writing `{}`", raw.display()))?;
        let carriers = carrier::export(ctx, &tools, &raw, &request.formats)?;
        let role = release::describe(ctx, profile, &lock, &system, plan.inputs(), &carriers, draft.folder())?;
        Ok((system, role))
    };
    let made = std::thread::scope(|scope| {
        // The disks need it at the end; whoever comes first makes it, and tells what is wrong with it.
        scope.spawn(|| bios::core(ctx, &tools));
        side_by_side(&profiles.iter().zip(&plans).collect::<Vec<_>>(), one)
    })?;
    let mut media = Vec::new();
    if request.iso {
        let riders = profiles.iter().zip(&made);
        let riders: Vec<_> =
            riders.map(|(profile, (system, _))| iso::Rider { profile, system, disk: raw(profile) }).collect();
        let path = draft.folder().join(format!("{}.iso", request.roles.join("+")));
        iso::write(ctx, &tools, &lock, &options.version, &riders, &given, &path)?;
        let (sha256, size) = Sha256::of_file(&path)?;
        media.push(release::file(&Carrier { path, format: iso::FORMAT.to_owned(), sha256, size }));
    }
    if !request.formats.contains(&Format::Raw) {
        profiles.iter().try_for_each(|profile| fs::remove(&raw(profile)))?;
    }
    let manifest = Manifest {
        schema: SCHEMA,
        version: options.version.clone(),
        debug_shell: options.debug_shell,
        lock: LockFacts {
            made: lock.made.clone(),
            sha256: Sha256::of_file(&lock::path(ctx, lock::FILE))?.0,
            tools_sha256: Sha256::of_file(&lock::path(ctx, lock::TOOLS_FILE))?.0,
        },
        tools: tool_versions(&tools),
        roles: profiles.iter().map(|p| p.name.clone()).zip(made.into_iter().map(|(_, role)| role)).collect(),
        media,
    };
    draft.finish(ctx, &manifest)
}

/// Where the release goes, and the key of all that it is made of.
fn place(
    ctx: &Context,
    request: &Request,
    options: &Options,
    lock: &Lock,
    plans: &[Planning<'_>],
    given: &Given,
) -> Result<Place> {
    let mut planned = Planned::new("release", request.roles.join("+"));
    for plan in plans {
        planned.input(format!("system {}", plan.role()), plan.key());
    }
    for package in lock.layer(BOOT) {
        planned.input(format!("package {}", package.name), package.sha256);
    }
    for name in [esp::OVERLAY, iso::OVERLAY] {
        let mut overlay = crate::rootfs::overlay::Overlay::default();
        overlay.add_folder(&ctx.project.join("overlays").join(name), &format!("overlay {name}"))?;
        planned.input(format!("overlay {name}"), overlay.digest()?);
    }
    planned.input("lock", Sha256::of_file(&lock::path(ctx, lock::FILE))?.0);
    let profiles: Vec<String> = plans.iter().map(Planning::disk_facts).collect();
    planned.input("disk", profiles.join(" "));
    let mut formats = request.formats.clone();
    formats.sort_unstable();
    let formats = formats.iter().map(|f| f.name()).chain(request.iso.then_some(iso::FORMAT));
    if request.iso {
        planned.input("autoinstall", Sha256::of(&given.text));
    }
    planned.input("formats", formats.collect::<Vec<_>>().join(" "));
    let mut name = format!("{}-{}", request.roles.join("+"), options.version);
    if options.debug_shell {
        name.push_str("-debug-shell");
    }
    Ok(Place::new(&request.output, name, &planned))
}

/// `20240425` of `2024-04-25T…`.
fn day(lock: &Lock) -> String {
    lock.made.chars().take_while(|c| *c != 'T').filter(char::is_ascii_digit).collect()
}

fn tool_versions(tools: &Tools) -> BTreeMap<String, String> {
    let named = ["mmdebstrap", "dpkg", "apt", "tar", "squashfs-tools", "cryptsetup-bin", "grub-common", "qemu-utils"];
    let mut versions: BTreeMap<String, String> =
        named.iter().filter_map(|name| Some(((*name).to_owned(), tools.version(name)?.to_owned()))).collect();
    versions.insert("castiron".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    versions
}

/// Works on all items, as many at once as there are cores, and returns the results in the items' order.
fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let queue = Mutex::new(items.iter().enumerate());
    let results = Mutex::new(BTreeMap::new());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some((index, item)) = next else { return };
                    let result = work(item);
                    if let Ok(mut results) = results.lock() {
                        results.insert(index, result);
                    }
                }
            });
        }
    });
    let results = results.into_inner().ok().context("a role's build panicked")?;
    anyhow::ensure!(results.len() == items.len(), "a role's build panicked");
    results.into_values().collect()
}
