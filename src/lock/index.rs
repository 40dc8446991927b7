//! The archive's package indices as one table: which versions of which package exist, and where.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, Result};
use deb822_fast::Deb822;

use super::archive::Indices;
use crate::digest::Sha256;
use crate::fs;

/// How many near names a message offers.
const NEAR_NAMES: usize = 3;

/// One version of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Debian version.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Path below a mirror's base.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Digest of the .deb.
    pub sha256: Sha256,
    /// Whether no system can be without it.
    pub essential: bool,
    /// The suite.
    pub pocket: String,
}

/// All packages of all suites.
#[derive(Clone, Debug, Default)]
pub struct Index {
    packages: HashMap<String, Vec<Entry>>,
}

impl Index {
    /// Reads all indices.
    pub fn read(indices: &Indices) -> Result<Self> {
        let mut index = Self::default();
        for suite in &indices.suites {
            for (name, file) in &suite.packages {
                let reading = || format!("reading the index `{}` of `{}`", name, suite.name);
                let reader = decompressed(file, name).with_context(reading)?;
                index.add(BufReader::new(reader), &suite.name).with_context(reading)?;
            }
        }
        Ok(index)
    }

    /// Adds one suite's packages. Suites come in rising precedence: of a version that two hold, the later one is its pocket.
    fn add(&mut self, mut reader: impl BufRead, pocket: &str) -> Result<()> {
        let mut stanza = String::new();
        loop {
            let start = stanza.len();
            let n = reader.read_line(&mut stanza)?;
            if n == 0 || stanza[start..].trim().is_empty() {
                if !stanza.trim().is_empty() {
                    let (name, entry) = entry(&stanza, pocket)?;
                    let versions = self.packages.entry(name).or_default();
                    versions.retain(|e| e.version != entry.version);
                    versions.push(entry);
                }
                stanza.clear();
            }
            if n == 0 {
                return Ok(());
            }
        }
    }

    /// One version of a package.
    pub fn find(&self, name: &str, version: &str) -> Option<&Entry> {
        self.versions(name).iter().find(|e| e.version == version)
    }

    /// All versions of a package; none where it does not exist.
    pub fn versions(&self, name: &str) -> &[Entry] {
        self.packages.get(name).map_or(&[], Vec::as_slice)
    }

    /// The names of all essential packages, sorted.
    pub fn essential(&self) -> Vec<String> {
        let essential = self.packages.iter().filter(|(_, versions)| versions.iter().any(|e| e.essential));
        let mut names: Vec<String> = essential.map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// The names nearest to one that does not exist.
    pub fn near(&self, name: &str) -> Vec<&str> {
        let mut near: Vec<(f64, &str)> = self
            .packages
            .keys()
            .map(|other| (strsim::normalized_damerau_levenshtein(name, other), other.as_str()))
            .filter(|(likeness, _)| *likeness > 0.6)
            .collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        near.into_iter().take(NEAR_NAMES).map(|(_, name)| name).collect()
    }
}

fn entry(stanza: &str, pocket: &str) -> Result<(String, Entry)> {
    let document: Deb822 = stanza.parse().ok().context("a stanza is broken")?;
    let fields = document.iter().next().context("a stanza is empty")?;
    let name = fields.get("Package").context("a stanza has no field `Package`")?;
    let field = |field: &str| fields.get(field).with_context(|| format!("`{name}` has no field `{field}`"));
    let entry = Entry {
        version: field("Version")?.to_owned(),
        architecture: field("Architecture")?.to_owned(),
        path: field("Filename")?.trim_start_matches("./").to_owned(),
        size: field("Size")?.parse().with_context(|| format!("the size of `{name}` is not a number"))?,
        sha256: field("SHA256")?.parse().map_err(anyhow::Error::msg)?,
        essential: fields.get("Essential") == Some("yes"),
        pocket: pocket.to_owned(),
    };
    Ok((name.to_owned(), entry))
}

fn decompressed(file: &Path, name: &str) -> Result<Box<dyn Read>> {
    let file = BufReader::with_capacity(256 << 10, fs::open(file)?);
    Ok(match Path::new(name).extension().and_then(|e| e.to_str()) {
        Some("xz") => Box::new(liblzma::read::XzDecoder::new_multi_decoder(file)),
        _ => Box::new(flate2::read::MultiGzDecoder::new(file)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stanza(name: &str, version: &str, more: &str) -> String {
        format!(
            "Package: {name}\nArchitecture: amd64\nVersion: {version}\nFilename: pool/{name}_{version}.deb\nSize: 1\n\
             SHA256: {}\nDescription: one\n two\n{more}\n",
            Sha256::of(name)
        )
    }

    #[test]
    fn a_version_that_two_suites_hold_comes_from_the_later_one() {
        let mut index = Index::default();
        index.add(stanza("bash", "1", "Essential: yes\n").as_bytes(), "noble").expect("reads");
        let both = stanza("bash", "2", "Essential: yes\n") + &stanza("zlib1g", "3", "");
        index.add(both.as_bytes(), "noble-updates").expect("reads");
        index.add(stanza("bash", "2", "Essential: yes\n").as_bytes(), "noble-security").expect("reads");
        assert_eq!(index.versions("bash").len(), 2);
        assert_eq!(index.find("bash", "2").expect("is there").pocket, "noble-security");
        assert_eq!(index.find("zlib1g", "3").expect("is there").path, "pool/zlib1g_3.deb");
        assert_eq!(index.essential(), ["bash"]);
    }

    #[test]
    fn near_names_are_offered_and_far_ones_are_not() {
        let mut index = Index::default();
        let all: String = ["systemd", "systemd-sysv", "sysstat", "zstd"].map(|n| stanza(n, "1", "")).concat();
        index.add(all.as_bytes(), "noble").expect("reads");
        assert_eq!(index.near("sytemd"), ["systemd"]);
        assert!(index.near("kubernetes").is_empty());
    }

    #[test]
    fn a_broken_stanza_names_its_package_and_field() {
        let error = Index::default().add(&b"Package: bash\nVersion: 1\n"[..], "noble").expect_err("is broken");
        assert_eq!(error.to_string(), "`bash` has no field `Architecture`");
    }
}
