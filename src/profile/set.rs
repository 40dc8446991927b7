//! All profiles of a project, read and checked together.
//!
//! In: `profiles/*.toml`, and the names in `overlays/` and `firstboot/`. Out: a [`Set`] without a problem, or one
//! failure that shows every problem of every file.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;

use super::check;
use super::file::ProfileFile;
use super::value::{FORMATS, Name};
use super::versions::Versions;
use crate::context::Context;
use crate::diagnostic::{self, Diagnostic, Source, literal};
use crate::document::{self, Document, Value as _};
use crate::error::{Failure, Kind};
use crate::fs;

/// The profile that roles extend and that is no role itself.
pub(super) const BASE: &str = "base";

/// The folder of version sets.
pub(super) const VERSIONS: &str = "kubernetes";

/// Names of layers that are not profiles: the lock and the tools tree have their own of these names.
const RESERVED: [&str; 3] = ["boot", "initrd", "tools"];

/// One file that could be read.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) name: String,
    pub(super) source: Arc<Source>,
    pub(super) file: ProfileFile,
    /// The top-level keys below which something was wrong and is not in `file`.
    pub(super) cut: BTreeSet<String>,
}

/// The profiles of a project.
#[derive(Debug, Default)]
pub(super) struct Set {
    /// Those that could be read, by name.
    pub(super) profiles: BTreeMap<String, Written>,
    /// Those that are there, readable or not.
    pub(super) names: BTreeSet<String>,
    /// The version sets that could be read, by the file's name.
    pub(super) versions: BTreeMap<String, Versions>,
    /// The version sets that are there, readable or not.
    pub(super) version_names: BTreeSet<String>,
}

/// What profiles may name besides each other.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// The folders of `overlays/`.
    pub(super) overlays: BTreeSet<String>,
    /// The files of `firstboot/`.
    pub(super) units: BTreeSet<String>,
}

impl Set {
    /// Reads and checks all of them.
    pub(super) fn read(ctx: &Context) -> Result<Self> {
        let mut problems = Vec::new();
        let mut set = Self::default();
        for path in files(ctx)? {
            let text = fs::read(&path)?;
            set.add(&stem(&path), ctx.display(&path).to_string(), text, &mut problems);
        }
        for path in toml_files(&ctx.profiles().join(VERSIONS))? {
            let text = fs::read(&path)?;
            set.add_versions(&stem(&path), ctx.display(&path).to_string(), text, &mut problems);
        }
        let named = Named {
            overlays: names_in(&ctx.project.join("overlays"), Path::is_dir)?,
            units: names_in(&ctx.project.join("firstboot"), Path::is_file)?,
        };
        problems.extend(check::check(&set, &named));
        if problems.is_empty() { Ok(set) } else { Err(diagnostic::failure("the profiles have", problems).into()) }
    }

    /// Reads one.
    pub(super) fn add(&mut self, name: &str, path: String, bytes: Vec<u8>, problems: &mut Vec<Diagnostic>) {
        self.names.insert(name.to_owned());
        let (source, is_text) = source(path, &bytes, problems);
        if let Err(wrong) = Name::parse(name) {
            problems.push(Diagnostic::of_file(format!("the file's name: {}", wrong.message), &source));
        }
        if RESERVED.contains(&name) {
            let help = format!("{} are layers of castiron's own", RESERVED.map(literal).join(", "));
            problems
                .push(Diagnostic::of_file(format!("{} cannot be a role's name", literal(name)), &source).help(help));
        }
        if !is_text {
            return;
        }
        if let Some(Document { value: file, cut }) = document::read(&source, FORMATS, problems) {
            self.profiles.insert(name.to_owned(), Written { name: name.to_owned(), source, file, cut });
        }
    }

    /// Reads a version set.
    fn add_versions(&mut self, name: &str, path: String, bytes: Vec<u8>, problems: &mut Vec<Diagnostic>) {
        self.version_names.insert(name.to_owned());
        let (source, is_text) = source(path, &bytes, problems);
        if !is_text {
            return;
        }
        if let Some(Document { value: file, .. }) = document::read(&source, FORMATS, problems) {
            let versions = Versions { source, file };
            versions.check(name, problems);
            self.versions.insert(name.to_owned(), versions);
        }
    }

    /// A profile and all that it extends, the root first. None when the chain breaks or goes in a circle.
    pub(super) fn chain(&self, name: &str) -> Option<Vec<&Written>> {
        let mut chain = vec![self.profiles.get(name)?];
        while let Some(parent) = &chain.last()?.file.extends {
            if chain.len() > self.profiles.len() {
                return None;
            }
            chain.push(self.profiles.get(&parent.text)?);
        }
        chain.reverse();
        Some(chain)
    }
}

/// The names of all roles, sorted: every profile but the base.
pub(super) fn roles(ctx: &Context) -> Result<Vec<String>> {
    Ok(files(ctx)?.iter().map(|path| stem(path)).filter(|name| name != BASE).collect())
}

fn files(ctx: &Context) -> Result<Vec<PathBuf>> {
    let folder = ctx.profiles();
    // The tools tree's list of packages is no profile.
    let files: Vec<PathBuf> = toml_files(&folder)?.into_iter().filter(|path| stem(path) != "tools").collect();
    if files.is_empty() {
        let message = format!("no profile in `{}`", folder.display());
        return Err(Failure::new(Kind::Input, message).hint("name the project's folder with `-C`").into());
    }
    Ok(files)
}

/// The TOML files of a folder, sorted.
fn toml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let files = names_in(folder, Path::is_file)?.into_iter().map(|name| folder.join(name));
    Ok(files.filter(|path| path.extension() == Some(OsStr::new("toml")) && !stem(path).starts_with('.')).collect())
}

/// A file's text, and whether it is one; where it is not, that is told.
fn source(path: String, bytes: &[u8], problems: &mut Vec<Diagnostic>) -> (Arc<Source>, bool) {
    let source = Arc::new(Source { path, text: String::from_utf8_lossy(bytes).into_owned() });
    let Err(wrong) = std::str::from_utf8(bytes) else { return (source, true) };
    let at = wrong.valid_up_to();
    problems.push(Diagnostic::new("not UTF-8: this byte is no text", &source, at..at + 1));
    (source, false)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The names of a folder's entries of one kind; a folder that is not there has none.
fn names_in(folder: &Path, kind: fn(&Path) -> bool) -> Result<BTreeSet<String>> {
    if !folder.is_dir() {
        return Ok(BTreeSet::new());
    }
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(fs::list(folder)?.iter().filter(|path| kind(path)).map(name).collect())
}
