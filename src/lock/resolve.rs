//! Which versions: noble's own apt decides, over a local copy of the verified indices.
//!
//! In: [`Indices`], [`Wish`]es. Out: [`Package`]s. Runs: `apt-get`, `apt-cache` in the tools tree, without network.
//!
//! - apt gets the signed `InRelease` and the key, and verifies once more by its own means.
//! - A layer is resolved on top of its parent, whose packages are named with their versions: what a child adds never changes
//!   what a parent is, or apt says which packages contradict.
//! - To keep a version, apt is given a preference for it. Where that cannot be (what moves needs something newer), the
//!   package that apt names is let go and everything is resolved again.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use deb822_fast::Deb822;

use super::archive::Indices;
use super::index::Index;
use super::key::Key;
use super::wish::{Wish, With, name_of};
use super::{Lock, Package};
use crate::context::Context;
use crate::error::{Failure, Kind};
use crate::fs;
use crate::tools::Tools;

/// Names and versions.
type Picked = BTreeMap<String, String>;

const CONFIGURATION: &str = r#"Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "/mnt/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/mnt/apt/preferences";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "/mnt/apt/state";
Dir::State::status "/mnt/apt/status";
Dir::Cache "/mnt/apt/cache";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "root";
APT::Get::Show-Versions "false";
Acquire::Languages "none";
Acquire::By-Hash "no";
Acquire::Check-Valid-Until "false";
Debug::NoLocking "true";
"#;

/// An apt of its own, over the verified indices.
pub struct Apt<'a> {
    ctx: &'a Context,
    tools: &'a Tools,
    folder: tempfile::TempDir,
}

/// The versions to keep: all that `old` locks but what may move. Without `upgrade` nothing is kept.
pub fn pins(ctx: &Context, old: Option<&Lock>, upgrade: &[String], index: &Index) -> Result<Picked> {
    let mut pins = Picked::new();
    let Some(old) = old.filter(|_| !upgrade.is_empty()) else { return Ok(pins) };
    let unknown: Vec<String> = upgrade
        .iter()
        .filter(|name| !old.packages.iter().any(|p| p.name == **name) && old.image(name).is_none())
        .map(|name| format!("`{name}`"))
        .collect();
    if !unknown.is_empty() {
        let message = format!("the lock has no package and no image {}, so it cannot be upgraded", unknown.join(", "));
        return Err(Failure::new(Kind::Input, message).into());
    }
    for package in old.packages.iter().filter(|p| !upgrade.contains(&p.name)) {
        if index.find(&package.name, &package.version).is_some() {
            pins.insert(package.name.clone(), package.version.clone());
        } else {
            ctx.ui.warn(format!(
                "`{}` {} has left the archive and cannot be kept: it moves, too",
                package.name, package.version
            ));
        }
    }
    Ok(pins)
}

impl<'a> Apt<'a> {
    /// Lays out the indices as a local archive and has apt read them.
    pub fn new(ctx: &'a Context, tools: &'a Tools, indices: &Indices, key: &Key) -> Result<Self> {
        let step = ctx.ui.step("lock", "reading the indices with apt");
        let folder = tempfile::Builder::new()
            .prefix(".lock-")
            .tempdir_in(&ctx.store)
            .with_context(|| format!("creating a folder in `{}`", ctx.store.display()))?;
        let root = folder.path();
        let mut sources = String::new();
        for suite in &indices.suites {
            let dist = root.join("archive/dists").join(&suite.name);
            fs::write_atomic(&dist.join("InRelease"), &suite.in_release)?;
            let mut components = Vec::new();
            for (path, file) in &suite.packages {
                let target = dist.join(path);
                fs::create_dir_all(target.parent().unwrap_or(&dist))?;
                // Both lie below the store's root, on one disk.
                std::fs::hard_link(file, &target).with_context(|| format!("linking `{}`", target.display()))?;
                components.push(path.split('/').next().unwrap_or_default());
            }
            let components = components.join(" ");
            let name = &suite.name;
            let source = "deb [arch=amd64 signed-by=/mnt/apt/archive.gpg] file:/mnt/apt/archive";
            sources.extend([source, " ", name, " ", &components, "\n"]);
        }
        fs::write_atomic(&root.join("sources.list"), sources)?;
        fs::write_atomic(&root.join("apt.conf"), CONFIGURATION)?;
        fs::write_atomic(&root.join("archive.gpg"), key.keyring())?;
        fs::write_atomic(&root.join("preferences"), "")?;
        fs::write_atomic(&root.join("status"), "")?;
        for name in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(&root.join(name))?;
        }
        let apt = Self { ctx, tools, folder };
        apt.run("reading the archive's indices", &["apt-get", "update", "-qq", "--error-on=any"])
            .map_err(|f| f.error)?;
        step.done();
        Ok(apt)
    }

    /// The packages of all wishes. `pins` are versions to keep where that can be.
    pub fn all(&self, wishes: &[Wish], mut pins: Picked, index: &Index) -> Result<Vec<Package>> {
        loop {
            fs::write_atomic(&self.folder.path().join("preferences"), preferences(&pins))?;
            match self.attempt(wishes, index) {
                Ok(layers) => return packages(&layers, index),
                Err(failed) => {
                    let named: Vec<String> = failed.names().into_iter().filter(|n| pins.contains_key(n)).collect();
                    if named.is_empty() {
                        return Err(failed.error);
                    }
                    for name in named {
                        self.ctx.ui.note(format!("`{name}` must move, too"));
                        pins.remove(&name);
                    }
                }
            }
        }
    }

    fn attempt(&self, wishes: &[Wish], index: &Index) -> Result<BTreeMap<String, Picked>, Failed> {
        let mut layers: BTreeMap<String, Picked> = BTreeMap::new();
        // What a layer and all below it hold.
        let mut whole: BTreeMap<&str, Picked> = BTreeMap::new();
        for wish in wishes {
            let step = self.ctx.ui.step("lock", format!("resolving the layer `{}`", wish.layer));
            let below = wish.parent.as_deref().and_then(|p| whole.get(p)).cloned().unwrap_or_default();
            let mut picked = match wish.with {
                With::Nothing => self.candidates(wish)?,
                With::Essential => self.closure(wish, index.essential())?,
                With::Dependencies => self.closure(wish, below.iter().map(|(n, v)| format!("{n}={v}")).collect())?,
            };
            if wish.with != With::Nothing {
                whole.insert(&wish.layer, picked.clone());
            }
            picked.retain(|name, _| !below.contains_key(name));
            layers.insert(wish.layer.clone(), picked);
            step.done();
        }
        Ok(layers)
    }

    /// The packages of a wish with all that they depend on, and `more`.
    fn closure(&self, wish: &Wish, more: Vec<String>) -> Result<Picked, Failed> {
        let purpose = format!("resolving the layer `{}`", wish.layer);
        let mut argv: Vec<&str> = vec!["apt-get", "install", "--simulate", "-q"];
        // A version that a profile pins stands for the package's plain name elsewhere.
        let pinned: BTreeSet<&str> = wish.packages.iter().filter(|p| p.contains('=')).map(|p| name_of(p)).collect();
        argv.extend(more.iter().map(String::as_str).filter(|p| p.contains('=') || !pinned.contains(p)));
        argv.extend(wish.packages.iter().map(String::as_str));
        let output = self.run(&purpose, &argv)?;
        Ok(output.lines().filter_map(installed).collect())
    }

    /// The packages of a wish, and nothing else.
    fn candidates(&self, wish: &Wish) -> Result<Picked, Failed> {
        if wish.packages.is_empty() {
            return Ok(Picked::new());
        }
        let purpose = format!("resolving the layer `{}`", wish.layer);
        let mut argv = vec!["apt-cache", "show", "--no-all-versions"];
        argv.extend(wish.packages.iter().map(String::as_str));
        let output = self.run(&purpose, &argv)?;
        let stanzas: Deb822 =
            output.parse().map_err(|_| Failed::from(anyhow::anyhow!("reading what `apt-cache` says")))?;
        Ok(stanzas
            .iter()
            .filter_map(|fields| Some((fields.get("Package")?.to_owned(), fields.get("Version")?.to_owned())))
            .collect())
    }

    fn run(&self, purpose: &str, argv: &[&str]) -> Result<String, Failed> {
        let output = self.folder.path().join("output");
        let cmd = self.tools.cmd(purpose).bind_rw(self.folder.path(), "apt").step(argv.iter().copied());
        let ran = cmd.env("APT_CONFIG", "/mnt/apt/apt.conf").writes_stdout().run_into(self.ctx, &output);
        let output = fs::read_to_string(&output)?;
        ran.map(|()| output.clone()).map_err(|error| Failed::of(error, output, purpose))
    }
}

/// A run of apt that failed, and what it wrote.
struct Failed {
    error: anyhow::Error,
    output: String,
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self { error, output: String::new() }
    }
}

impl Failed {
    /// apt explains contradictions on its stdout, which no log holds; then the command and its code say nothing more.
    fn of(error: anyhow::Error, output: String, purpose: &str) -> Self {
        let Some(at) = output.find("The following packages have unmet dependencies") else {
            return Self { error, output };
        };
        let lines: Vec<&str> = output[at..].lines().skip(1).map(str::trim).filter(|l| !l.is_empty()).collect();
        let message = format!("{purpose}: the packages contradict each other\n  {}", lines.join("\n  "));
        let failure = Failure::new(Kind::Input, message).hint("correct the profiles, or their pins");
        Self { error: failure.into(), output }
    }

    /// The packages that apt blames: `foo : Depends: bar (>= 2) but 1 is to be installed` blames `bar`.
    fn names(&self) -> Vec<String> {
        let relations = ["PreDepends:", "Depends:", "Breaks:", "Conflicts:"];
        let words: Vec<&str> = self.output.split_whitespace().collect();
        let named = words.windows(2).filter(|pair| relations.contains(&pair[0]));
        named.map(|pair| pair[1].trim_end_matches(":amd64").to_owned()).collect()
    }
}

/// `Inst libc6 (2.39-0ubuntu8 Ubuntu:24.04/noble [amd64])` as name and version.
fn installed(line: &str) -> Option<(String, String)> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
    Some((name.to_owned(), rest.split(' ').next()?.to_owned()))
}

fn preferences(pins: &Picked) -> String {
    let stanza =
        |(name, version): (&String, &String)| format!("Package: {name}\nPin: version {version}\nPin-Priority: 1001\n");
    pins.iter().map(stanza).collect::<Vec<_>>().join("\n")
}

fn packages(layers: &BTreeMap<String, Picked>, index: &Index) -> Result<Vec<Package>> {
    let mut packages: BTreeMap<(&str, &str), Package> = BTreeMap::new();
    for (layer, picked) in layers {
        for (name, version) in picked {
            let Some(entry) = index.find(name, version) else {
                bail!("apt picked `{name}` {version}, which the indices do not have")
            };
            let package = packages.entry((name, version)).or_insert_with(|| Package {
                name: name.clone(),
                version: version.clone(),
                architecture: entry.architecture.clone(),
                path: entry.path.clone(),
                size: entry.size,
                sha256: entry.sha256,
                pocket: entry.pocket.clone(),
                layers: Vec::new(),
            });
            package.layers.push(layer.clone());
        }
    }
    Ok(packages.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_says_is_understood() {
        let line = "Inst libc6 (2.39-0ubuntu8 Ubuntu:24.04/noble [amd64])";
        assert_eq!(installed(line), Some(("libc6".into(), "2.39-0ubuntu8".into())));
        let with_note = "Inst base-files (13ubuntu10 Ubuntu:24.04/noble [amd64]) []";
        assert_eq!(installed(with_note), Some(("base-files".into(), "13ubuntu10".into())));
        assert_eq!(installed("Conf libc6 (2.39-0ubuntu8 Ubuntu:24.04/noble [amd64])"), None);
    }

    #[test]
    fn who_is_blamed_is_let_go() {
        let output = "Some words\nThe following packages have unmet dependencies:\n \
                      udev : Depends: libudev1 (= 255.4-1) but 255.4-2 is to be installed\n \
                      libc6 : Breaks: locales (< 2.39) but 2.38 is to be installed\n";
        let failed = Failed::of(anyhow::anyhow!("apt-get ended with 100"), output.into(), "resolving");
        assert_eq!(failed.names(), ["libudev1", "locales"]);
        let message = failed.error.to_string();
        assert!(message.contains("\n  udev : Depends: libudev1 (= 255.4-1) but"), "{message}");
    }
}
