//! What a new lock changes, for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Lock, Package};

/// One package that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The package.
    pub name: String,
    /// Its versions before; empty when it is new.
    pub old: Vec<String>,
    /// Its versions now; empty when it is gone.
    pub new: Vec<String>,
    /// Whether what is new comes from a security pocket.
    pub security: bool,
}

impl Difference {
    /// All differences between two locks, sorted by name.
    pub fn all(old: Option<&Lock>, new: &Lock) -> Vec<Self> {
        let (before, now) = (by_name(old), by_name(Some(new)));
        let names: BTreeSet<&str> = before.keys().chain(now.keys()).copied().collect();
        let none = Vec::new();
        let versions = |packages: &[&Package]| packages.iter().map(|p| p.version.clone()).collect::<Vec<_>>();
        names
            .into_iter()
            .map(|name| {
                let (old, new) = (before.get(name).unwrap_or(&none), now.get(name).unwrap_or(&none));
                let security = new.iter().any(|p| p.pocket.ends_with("-security"));
                Self { name: name.to_owned(), old: versions(old), new: versions(new), security }
            })
            .filter(|d| d.old != d.new)
            .collect()
    }

    /// "2 added, 1 removed, 3 changed (1 security)".
    pub fn summary(differences: &[Self]) -> String {
        let count = |test: fn(&Self) -> bool| differences.iter().filter(|d| test(d)).count();
        let mut parts = Vec::new();
        for (n, what) in [
            (count(|d| d.old.is_empty()), "added"),
            (count(|d| d.new.is_empty()), "removed"),
            (count(|d| !d.old.is_empty() && !d.new.is_empty()), "changed"),
        ] {
            if n > 0 {
                parts.push(format!("{n} {what}"));
            }
        }
        let security = count(|d| d.security && !d.old.is_empty());
        let security = if security > 0 { format!(" ({security} security)") } else { String::new() };
        parts.join(", ") + &security
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (old, new) = (self.old.join(", "), self.new.join(", "));
        match (self.old.is_empty(), self.new.is_empty()) {
            (true, _) => write!(f, "+ {} {new}", self.name)?,
            (_, true) => write!(f, "- {} {old}", self.name)?,
            _ => write!(f, "~ {} {old} → {new}", self.name)?,
        }
        if self.security { write!(f, " (security)") } else { Ok(()) }
    }
}

fn by_name(lock: Option<&Lock>) -> BTreeMap<&str, Vec<&Package>> {
    let mut names: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
    for package in lock.into_iter().flat_map(|l| &l.packages) {
        names.entry(&package.name).or_default().push(package);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256;
    use crate::lock::Asked;

    fn lock(packages: &[(&str, &str, &str)]) -> Lock {
        let package = |(name, version, pocket): &(&str, &str, &str)| Package {
            name: (*name).into(),
            version: (*version).into(),
            architecture: "amd64".into(),
            path: "pool/x".into(),
            size: 1,
            sha256: Sha256::of(version),
            pocket: (*pocket).into(),
            layers: vec!["base".into()],
        };
        Lock {
            schema: 1,
            made: "2026-01-01T00:00:00Z".into(),
            request: BTreeMap::new(),
            archive: Asked { suites: Vec::new(), components: Vec::new(), key: String::new() },
            origin: None,
            packages: packages.iter().map(package).collect(),
            programs: Vec::new(),
            images: Vec::new(),
        }
    }

    #[test]
    fn a_diff_says_what_came_what_went_and_what_moved() {
        let old = lock(&[("a", "1", "noble"), ("b", "1", "noble"), ("c", "1", "noble")]);
        let new = lock(&[("b", "2", "noble-security"), ("c", "1", "noble"), ("d", "1", "noble-updates")]);
        let all = Difference::all(Some(&old), &new);
        let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["- a 1", "~ b 1 → 2 (security)", "+ d 1"]);
        assert_eq!(Difference::summary(&all), "1 added, 1 removed, 1 changed (1 security)");
        assert!(Difference::all(Some(&new), &new).is_empty());
    }
}
