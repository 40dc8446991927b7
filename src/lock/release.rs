//! An archive's `InRelease`, once its signature is known to be good.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use deb822_fast::Deb822;
use jiff::Timestamp;

use crate::digest::Sha256;

/// What a suite's `InRelease` says, as far as it is used.
#[derive(Clone, Debug)]
pub struct Release {
    /// When it was made.
    pub date: Timestamp,
    /// Until when it is valid, where it says so.
    pub valid_until: Option<Timestamp>,
    /// Names that the suite goes by.
    pub names: Vec<String>,
    /// Digest and length of every index, by its path below the suite.
    pub files: BTreeMap<String, (Sha256, u64)>,
}

impl Release {
    /// Reads the signed text.
    pub fn parse(text: &str) -> Result<Self> {
        let document: Deb822 = text.parse().ok().context("it is not in the format of a Release file")?;
        let fields = document.iter().next().context("it is empty")?;
        let date = fields.get("Date").context("it has no field `Date`")?;
        let mut files = BTreeMap::new();
        for line in fields.get("SHA256").context("it has no field `SHA256`")?.lines().filter(|l| !l.trim().is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [digest, size, path] = words[..] else { anyhow::bail!("its field `SHA256` has the line `{line}`") };
            let digest: Sha256 = digest.parse().map_err(anyhow::Error::msg)?;
            files.insert(path.to_owned(), (digest, size.parse().with_context(|| format!("`{size}` is not a size"))?));
        }
        Ok(Self {
            date: time(date)?,
            valid_until: fields.get("Valid-Until").map(time).transpose()?,
            names: ["Suite", "Codename"].iter().filter_map(|f| fields.get(f)).map(str::to_owned).collect(),
            files,
        })
    }
}

/// `Tue, 24 Nov 2026  9:50:53 UTC`; Ubuntu pads the hour with a space.
fn time(text: &str) -> Result<Timestamp> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let zoned = words.join(" ").replace("UTC", "+0000").replace("GMT", "+0000");
    Timestamp::strptime("%a, %d %b %Y %H:%M:%S %z", &zoned).with_context(|| format!("`{text}` is not a date"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_read_as_ubuntu_writes_it() {
        let digest = Sha256::of("");
        let text = format!(
            "Origin: Ubuntu\nSuite: noble-security\nCodename: noble\nDate: Tue, 24 Nov 2026  9:50:53 UTC\n\
             MD5Sum:\n 850e33a63227cab80f46477590440bae       1543201926 Contents-amd64\n\
             SHA256:\n {digest}          1222688 main/binary-amd64/Packages.xz\nAcquire-By-Hash: yes\n"
        );
        let release = Release::parse(&text).expect("reads");
        assert_eq!(release.date.to_string(), "2026-11-24T09:50:53Z");
        assert_eq!(release.names, ["noble-security", "noble"]);
        assert_eq!(release.files["main/binary-amd64/Packages.xz"], (digest, 1_222_688));
        assert!(release.valid_until.is_none());
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Release::parse("Origin: Ubuntu\n").expect_err("is no release");
        assert_eq!(error.to_string(), "it has no field `Date`");
        let error = Release::parse("Date: yesterday\nSHA256:\n").expect_err("is no date");
        assert_eq!(error.to_string(), "`yesterday` is not a date");
    }
}
