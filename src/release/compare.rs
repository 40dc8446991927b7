//! Two releases side by side: packages, sizes, files.
//!
//! In: two release folders. Out: [`Facts`] of each role, and one [`FileChange`] after the other. Runs: nothing.
//!
//! The lists of paths are sorted, so they are merged as they are read: memory does not grow with the images.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::manifest::{Manifest, Role};
use super::paths::Paths;
use crate::system::PathEntry;

/// What happened to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Only the new release has it.
    Added,
    /// Only the old release has it.
    Removed,
    /// Both have it, and it is not the same.
    Changed,
}

/// What differs between two images, their files aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Facts {
    /// Packages that differ, sorted by name.
    pub packages: Vec<PackageChange>,
    /// Root image, hash tree and carriers, whether they differ or not.
    pub sizes: Vec<SizeChange>,
    /// Whether anything differs: a package, the root hash, a carrier's digest.
    pub differ: bool,
}

/// One package that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PackageChange {
    /// What happened to it.
    pub change: Change,
    /// Its name.
    pub name: String,
    /// Its versions before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub old: Vec<String>,
    /// Its versions now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub new: Vec<String>,
    /// Whether what is new comes from a security pocket.
    pub security: bool,
}

/// Bytes before and now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SizeChange {
    /// `root image`, `hash tree`, or a carrier's file name.
    pub name: String,
    /// Bytes before, if it was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<u64>,
    /// Bytes now, if it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<u64>,
    /// Whether its bytes are the same.
    pub same: bool,
}

/// One path that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileChange {
    /// What happened to it.
    pub change: Change,
    /// The path, without the leading `/`.
    pub path: String,
    /// Which of its fields differ: `kind`, `mode`, `size`, `content`, `target`, `origin`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<&'static str>,
    /// The entry before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<PathEntry>,
    /// The entry now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<PathEntry>,
}

/// What differs between two images, their files aside. A role that a release does not have is `None`.
pub fn facts(old: Option<&Role>, new: Option<&Role>) -> Facts {
    let packages = packages(old, new);
    let sizes = sizes(old, new);
    let roothash = |role: Option<&Role>| role.map(|r| r.roothash.clone());
    let differ = !packages.is_empty() || sizes.iter().any(|s| !s.same) || roothash(old) != roothash(new);
    Facts { packages, sizes, differ }
}

/// What differs between two releases beside their roles: name, before, now.
pub fn headers(old: &Manifest, new: &Manifest) -> Vec<(String, String, String)> {
    let header = |m: &Manifest| {
        let mut header = BTreeMap::from([
            ("version".to_owned(), m.version.clone()),
            ("debug shell".to_owned(), m.debug_shell.to_string()),
            ("lock made".to_owned(), m.lock.made.clone()),
        ]);
        header.extend(m.tools.iter().map(|(name, version)| (format!("tool {name}"), version.clone())));
        header.extend(m.roles.iter().map(|(name, role)| (format!("kernel of {name}"), role.kernel.clone())));
        header
    };
    let (old, new) = (header(old), header(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let value = |of: &BTreeMap<String, String>, name: &String| of.get(name).cloned().unwrap_or_else(|| "none".into());
    names
        .into_iter()
        .map(|name| (name.clone(), value(&old, name), value(&new, name)))
        .filter(|(_, old, new)| old != new)
        .collect()
}

fn packages(old: Option<&Role>, new: Option<&Role>) -> Vec<PackageChange> {
    let by_name = |role: Option<&Role>| {
        let mut names = BTreeMap::<String, BTreeMap<String, bool>>::new();
        for package in role.into_iter().flat_map(|r| &r.packages) {
            let versions = names.entry(package.name.clone()).or_default();
            versions.insert(package.version.clone(), package.pocket.ends_with("-security"));
        }
        names
    };
    let (old, new) = (by_name(old), by_name(new));
    let none = BTreeMap::new();
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut changes = Vec::new();
    for name in names {
        let (before, now) = (old.get(name).unwrap_or(&none), new.get(name).unwrap_or(&none));
        let change = match (before.is_empty(), now.is_empty()) {
            (true, _) => Change::Added,
            (_, true) => Change::Removed,
            _ if before.keys().eq(now.keys()) => continue,
            _ => Change::Changed,
        };
        changes.push(PackageChange {
            change,
            name: name.clone(),
            old: before.keys().cloned().collect(),
            new: now.keys().cloned().collect(),
            security: now.iter().any(|(version, security)| *security && !before.contains_key(version)),
        });
    }
    changes
}

fn sizes(old: Option<&Role>, new: Option<&Role>) -> Vec<SizeChange> {
    // Root image and hash tree have no digest in the manifest: the root hash stands for both.
    let parts = |role: Option<&Role>| {
        role.map_or_else(Vec::new, |role| {
            let mut parts = vec![
                ("root image".to_owned(), role.root_bytes, role.roothash.clone()),
                ("hash tree".to_owned(), role.verity_bytes, role.roothash.clone()),
            ];
            parts.extend(role.carriers.iter().map(|c| (c.file.clone(), c.size, c.sha256.to_string())));
            parts
        })
    };
    let (old, new) = (parts(old), parts(new));
    let find = |parts: &[(String, u64, String)], name: &str| parts.iter().find(|p| p.0 == name).cloned();
    let gone = old.iter().filter(|part| find(&new, &part.0).is_none());
    new.iter()
        .chain(gone)
        .map(|(name, ..)| {
            let (old, new) = (find(&old, name), find(&new, name));
            SizeChange { name: name.clone(), same: old == new, old: old.map(|p| p.1), new: new.map(|p| p.1) }
        })
        .collect()
}

/// Tells `each` of every path that differs, sorted. A release without the role has no paths.
pub fn files(
    old: Option<(&Path, &Role)>,
    new: Option<(&Path, &Role)>,
    each: impl FnMut(FileChange) -> Result<()>,
) -> Result<()> {
    let open = |side: Option<(&Path, &Role)>| side.map(|(release, role)| Paths::open(release, role)).transpose();
    merge(open(old)?.into_iter().flatten(), open(new)?.into_iter().flatten(), each)
}

fn merge(
    old: impl Iterator<Item = Result<PathEntry>>,
    new: impl Iterator<Item = Result<PathEntry>>,
    mut each: impl FnMut(FileChange) -> Result<()>,
) -> Result<()> {
    let (mut old, mut new) = (old.peekable(), new.peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return Ok(()),
            (Some(Ok(before)), Some(Ok(now))) => before.path.cmp(&now.path),
            // An error is met at once, on whichever side it is.
            (Some(_), None) | (Some(Err(_)), _) => Ordering::Less,
            (None, Some(_)) | (_, Some(Err(_))) => Ordering::Greater,
        };
        let before = if order == Ordering::Greater { None } else { old.next().transpose()? };
        let now = if order == Ordering::Less { None } else { new.next().transpose()? };
        let change = match (before, now) {
            (Some(before), Some(now)) => {
                let fields = fields(&before, &now);
                if fields.is_empty() {
                    continue;
                }
                let path = now.path.clone();
                FileChange { change: Change::Changed, path, fields, old: Some(before), new: Some(now) }
            }
            (before, now) => {
                let Some(path) = before.as_ref().or(now.as_ref()).map(|e| e.path.clone()) else { continue };
                let change = if now.is_some() { Change::Added } else { Change::Removed };
                FileChange { change, path, fields: Vec::new(), old: before, new: now }
            }
        };
        each(change)?;
    }
}

fn fields(old: &PathEntry, new: &PathEntry) -> Vec<&'static str> {
    [
        ("kind", old.kind != new.kind),
        ("mode", old.mode != new.mode),
        ("size", old.size != new.size),
        ("content", old.sha256 != new.sha256),
        ("target", old.target != new.target),
        ("origin", old.origin != new.origin),
    ]
    .into_iter()
    .filter_map(|(name, differs)| differs.then_some(name))
    .collect()
}
