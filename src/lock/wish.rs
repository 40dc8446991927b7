//! What is asked for: the profiles (or the tools' list) as a few layers of package names.
//!
//! In: [`Profile`]s. Out: [`Wish`]es, parents before children. The initrd and the boot files are layers like any other; the
//! packages that several roles want for them are asked for together, so that there is one answer for all roles.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::Deserialize;

use super::index::Index;
use super::{Asked, BOOT, INITRD, Lock};
use crate::context::Context;
use crate::error::{Failure, Kind};
use crate::fs;
use crate::profile::{Archive, Profile};

/// The one layer of the tools tree.
pub const TOOLS: &str = "tools";

/// One layer, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The layer.
    pub layer: String,
    /// The layer that it stands on.
    pub parent: Option<String>,
    /// Package names, optionally `name=version`; sorted.
    pub packages: Vec<String>,
    /// What comes along.
    pub with: With,
}

/// What comes along with the packages of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// What they depend on, and all essential packages.
    Essential,
    /// What they depend on.
    Dependencies,
    /// Nothing.
    Nothing,
}

/// `profiles/tools.toml`: what the tools tree is made of, and where that comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ToolsList {
    /// Base addresses or folders, tried in order.
    pub mirrors: Vec<String>,
    /// The suite: noble's release pocket, which never changes.
    pub suite: String,
    /// Components.
    pub components: Vec<String>,
    /// Fingerprint of the key that signs the suite.
    pub key: String,
    /// Package names.
    pub packages: Vec<String>,
}

impl ToolsList {
    /// The project's list.
    pub fn load(ctx: &Context) -> Result<Self> {
        let path = ctx.profiles().join("tools.toml");
        let text = fs::read_to_string(&path)?;
        toml::from_str(&text).map_err(|e| {
            let message = format!("reading `{}`: {}", ctx.display(&path), e.to_string().trim_end());
            Failure::new(Kind::Input, message).into()
        })
    }

    /// The list as wishes.
    pub fn wishes(&self) -> Vec<Wish> {
        vec![Wish { layer: TOOLS.into(), parent: None, packages: sorted(&self.packages), with: With::Dependencies }]
    }

    /// The archive that it is resolved in. Its packages never leave it, so no snapshot service is needed.
    pub fn archive(&self) -> Archive {
        Archive {
            mirrors: self.mirrors.clone(),
            snapshot: String::new(),
            suites: vec![self.suite.clone()],
            components: self.components.clone(),
            key: self.key.clone(),
        }
    }
}

/// The layers of all profiles, parents before children.
pub fn of_profiles(profiles: &[Profile]) -> Result<Vec<Wish>> {
    let mut wishes: Vec<Wish> = Vec::new();
    let (mut initrd, mut boot) = (BTreeSet::new(), BTreeSet::new());
    let mut root = None;
    let mut problems = Vec::new();
    for profile in profiles {
        let mut parent: Option<String> = None;
        for layer in &profile.layers {
            let mut packages = layer.packages.clone();
            if parent.is_none() {
                packages.push(format!("linux-image-{}", profile.kernel.flavour));
                root = Some(layer.name.clone());
            }
            let with = if parent.is_none() { With::Essential } else { With::Dependencies };
            let asked = Wish { layer: layer.name.clone(), parent, packages: sorted(&packages), with };
            match wishes.iter().find(|w| w.layer == asked.layer) {
                None => wishes.push(asked),
                Some(known) if *known == asked => {}
                Some(_) => problems.push(format!(
                    "the profile `{}` asks for another kernel flavour than the others, `{}`: all roles share the layer \
                     `{}`",
                    profile.name, profile.kernel.flavour, layer.name
                )),
            }
            parent = Some(layer.name.clone());
        }
        initrd.extend(profile.initrd.packages.iter().cloned());
        boot.extend(profile.boot_packages.iter().cloned());
    }
    if !problems.is_empty() {
        let message = format!("the profiles contradict each other\n  {}", problems.join("\n  "));
        return Err(Failure::new(Kind::Input, message).into());
    }
    wishes.push(Wish {
        layer: INITRD.into(),
        parent: root,
        packages: initrd.into_iter().collect(),
        with: With::Dependencies,
    });
    wishes.push(Wish { layer: BOOT.into(), parent: None, packages: boot.into_iter().collect(), with: With::Nothing });
    Ok(wishes)
}

/// The archive that all profiles name.
pub fn archive_of(profiles: &[Profile]) -> Result<&Archive> {
    let Some(first) = profiles.first() else {
        return Err(
            Failure::new(Kind::Input, "there is no role: `profiles/` holds no profile besides `base.toml`").into()
        );
    };
    match profiles.iter().find(|p| p.archive != first.archive) {
        None => Ok(&first.archive),
        Some(other) => {
            let message = format!("`[archive]` of the profile `{}` differs from that of `{}`", other.name, first.name);
            Err(Failure::new(Kind::Input, message).hint("say it once, in `profiles/base.toml`").into())
        }
    }
}

/// The request that a lock stores.
pub fn request(wishes: &[Wish]) -> BTreeMap<String, Vec<String>> {
    wishes.iter().map(|w| (w.layer.clone(), w.packages.clone())).collect()
}

/// The name of `name` or `name=version`.
pub fn name_of(package: &str) -> &str {
    package.split_once('=').map_or(package, |(name, _)| name)
}

/// How much of what a lock answers is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// By some of the profiles.
    Some,
    /// By all of them.
    All,
}

/// An error that names every difference between what a lock answers and what is asked for.
pub fn compare(lock: &Lock, profiles: &[Profile], extent: Extent) -> Result<()> {
    let (locked, asked) = (&lock.request, request(&of_profiles(profiles)?));
    let none = Vec::new();
    let mut lines = Vec::new();
    let now = Asked::of(archive_of(profiles)?);
    for (what, old, new) in [
        ("suites", lock.archive.suites.join(" "), now.suites.join(" ")),
        ("components", lock.archive.components.join(" "), now.components.join(" ")),
        ("key", lock.archive.key.clone(), now.key),
    ] {
        if old != new {
            lines.push(format!("`[archive]`: {what} were `{old}` and are `{new}`"));
        }
    }
    for layer in locked.keys().chain(asked.keys()).collect::<BTreeSet<_>>() {
        let (before, now) = (locked.get(layer).unwrap_or(&none), asked.get(layer).unwrap_or(&none));
        // Layers of other roles, and what other roles want for the layers that all share.
        let foreign =
            extent == Extent::Some && (!asked.contains_key(layer) || [INITRD, BOOT].contains(&layer.as_str()));
        let gone = before.iter().filter(|p| !foreign && !now.contains(p)).map(|p| format!("- {p}"));
        let new = now.iter().filter(|p| !before.contains(p)).map(|p| format!("+ {p}"));
        lines.extend(gone.chain(new).map(|line| format!("`{layer}`: {line}")));
    }
    lines.extend(lock.published_differences(profiles, extent == Extent::All));
    if lines.is_empty() {
        return Ok(());
    }
    let message = format!("`profiles/castiron.lock` does not answer the profiles\n  {}", lines.join("\n  "));
    Err(Failure::new(Kind::Input, message).hint("castiron lock").into())
}

/// An error that names every package asked for that the archive does not have.
pub fn check_names(ctx: &Context, wishes: &[Wish], index: &Index) -> Result<()> {
    let mut problems = Vec::new();
    for wish in wishes {
        for package in &wish.packages {
            let name = name_of(package);
            let versions = index.versions(name);
            let pinned = package.split_once('=').map(|(_, version)| version);
            let problem = if versions.is_empty() {
                let near: Vec<String> = index.near(name).into_iter().map(|n| format!("`{n}`")).collect();
                let near =
                    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) };
                format!("no index of the archive knows the package `{name}`{near}")
            } else if let Some(pinned) = pinned.filter(|p| index.find(name, p).is_none()) {
                let known: Vec<String> = versions.iter().map(|e| format!("`{}`", e.version)).collect();
                format!("the archive has no version `{pinned}` of `{name}`; it has {}", known.join(", "))
            } else {
                continue;
            };
            problems.push(format!("{}: {problem}", place(ctx, wish, package)));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Kind::Input, problems.join("\n"))
        .hint("correct the profiles and say `castiron lock` again")
        .into())
}

/// Where a package is asked for: file, line and column where they are found, else the layer.
fn place(ctx: &Context, wish: &Wish, package: &str) -> String {
    // The initrd's and the boot files' packages may stand in any profile.
    let folder = ctx.profiles();
    let own = folder.join(format!("{}.toml", wish.layer));
    let mut files = fs::list(&folder).unwrap_or_default();
    files.retain(|f| f.extension().is_some_and(|e| e == "toml"));
    files.sort_by_key(|f| *f != own);
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for (number, line) in text.lines().enumerate() {
            let column = ['"', '\''].iter().find_map(|quote| line.find(&format!("{quote}{package}{quote}")));
            if let Some(column) = column {
                return format!("{}:{}:{}", ctx.display(&file), number + 1, column + 1);
            }
        }
    }
    format!("layer `{}`", wish.layer)
}

fn sorted(packages: &[String]) -> Vec<String> {
    packages.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect()
}
