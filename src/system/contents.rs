//! What is in an image: every path, its digest, and who put it there; and the licences of its packages.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::fs;

/// One path of the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathEntry {
    /// The path, without the leading `/`.
    pub path: String,
    /// `file`, `folder`, `link` (symbolic), `hardlink`.
    pub kind: String,
    /// Permission bits, octal.
    pub mode: String,
    /// Length of a file in bytes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: u64,
    /// Digest of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
    /// Where a link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// `package <name>`, `overlay <name>`, `firstboot`, `file <url>`, `castiron-node`, `castiron`, or `installation` for
    /// what the packages' own scripts made.
    pub origin: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
fn is_zero(size: &u64) -> bool {
    *size == 0
}

/// Package → the licences that its copyright file names (DEP-5 short names). Empty where the file has no such form.
pub type Licences = BTreeMap<String, BTreeSet<String>>;

/// Writes entries, one JSON object a line, sorted by path.
pub fn write(path: &Path, entries: &[PathEntry]) -> Result<()> {
    let mut lines = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut lines, entry).context("writing the list of paths")?;
        lines.write_all(b"\n").context("writing the list of paths")?;
    }
    fs::write_atomic(path, lines)
}

/// The licences that a machine-readable copyright file names (DEP-5, copyright-format/1.0).
pub fn licences_of(copyright: &str) -> BTreeSet<String> {
    let machine_readable =
        copyright.lines().take(5).any(|l| l.starts_with("Format:") && l.contains("copyright-format"));
    if !machine_readable {
        return BTreeSet::new();
    }
    copyright
        .lines()
        .filter_map(|line| line.strip_prefix("License:"))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

/// Which package a path belongs to, from dpkg's lists.
#[derive(Debug, Default)]
pub struct Owners(BTreeMap<String, String>);

impl Owners {
    /// Reads `/var/lib/dpkg/info/<package>[:<arch>].list`.
    pub fn add_list(&mut self, file_name: &str, list: &str) {
        let Some(package) = file_name.strip_suffix(".list") else { return };
        let package = package.split(':').next().unwrap_or(package);
        for path in list.lines() {
            let path = path.trim_start_matches('/');
            // The archive's packages may still name a path by the links that merged /usr left: /lib is /usr/lib.
            let path = match path.split('/').next() {
                Some("bin" | "sbin" | "lib" | "lib64") if path.contains('/') => format!("usr/{path}"),
                _ => path.to_owned(),
            };
            // A folder has many owners; the first by name is as good as any, and stable.
            self.0.entry(path).or_insert_with(|| package.to_owned());
        }
    }

    /// The origin of a path.
    pub fn origin(&self, path: &str) -> String {
        self.0.get(path).map_or_else(|| "installation".to_owned(), |package| format!("package {package}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_those_of_the_machine_readable_form_alone() {
        let text = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-2+\n\nLicense: MIT\n text\n";
        assert_eq!(licences_of(text), BTreeSet::from(["GPL-2+".into(), "MIT".into()]));
        assert!(licences_of("License: is what you make of it\n").is_empty());
    }

    #[test]
    fn a_path_of_merged_usr_has_its_owner() {
        let mut owners = Owners::default();
        owners.add_list("libc6:amd64.list", "/.\n/lib64/ld-linux-x86-64.so.2\n/usr/share/doc/libc6\n");
        assert_eq!(owners.origin("usr/lib64/ld-linux-x86-64.so.2"), "package libc6");
        assert_eq!(owners.origin("etc/made-by-a-script"), "installation");
    }
}
