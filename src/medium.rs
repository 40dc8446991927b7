//! What an installer medium says of itself, and how a role's disk comes out of its files.
//!
//! The builder writes it, `castiron-node install` reads it. A disk is described by a *map*: which bytes of which file of
//! the medium go where on the disk. Everything that no segment covers is zero on a new disk. Kernel, initrd and root image,
//! from which the medium itself runs, and what several roles have in common, are on the medium once.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::autoinstall::Autoinstall;
use crate::digest::Sha256;

/// The version of this format.
pub const SCHEMA: u32 = 1;
/// The folder of castiron's own files on the medium. In it lies an empty file named by [`Medium::id`].
pub const FOLDER: &str = "castiron";
/// The description, in [`FOLDER`].
pub const FILE: &str = "medium.json";
/// The description's digest, in [`FOLDER`], as `sha256sum --check` reads it: a bit of a command that turned over is no command
/// to run.
pub const SUM: &str = "medium.sha256";

/// The seed region, as a file: a partition of the medium has the same bytes, but a CD has no partitions.
pub const REGION: &str = "castiron/seed.img";

/// What a medium installs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Medium {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The build: 16 hexadecimal digits that stand for the roles, their versions and their root images.
    pub id: String,
    /// The release's version.
    pub version: String,
    /// The role whose root image the medium itself runs.
    pub live: String,
    /// What its [`FILE`](crate::autoinstall::FILE) says, as it was read when the medium was built.
    pub autoinstall: Autoinstall,
    /// That file's digest.
    pub autoinstall_sha256: Sha256,
    /// The roles that it can install.
    pub roles: BTreeMap<String, RoleDisk>,
}

/// A role's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RoleDisk {
    /// The root hash, 64 hexadecimal digits.
    pub roothash: String,
    /// Bytes that the disk must have at least.
    pub size: u64,
    /// Bytes that are written.
    pub bytes: u64,
    /// The map's path on the medium.
    pub map: String,
    /// The map's digest.
    pub sha256: Sha256,
}

/// Bytes of a file of the medium, and where they go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Segment {
    /// First byte on the disk.
    pub at: u64,
    /// Length in bytes; at most [`SEGMENT_MAX`].
    pub len: u64,
    /// The file, relative to the medium's root.
    pub file: String,
    /// First byte in the file.
    pub from: u64,
    /// Digest of these bytes.
    pub sha256: Sha256,
}

/// Bytes of a segment at most: what an installer holds in memory.
pub const SEGMENT_MAX: u64 = 4 << 20;

impl Medium {
    /// Reads a description. An error where it is of another format.
    pub fn parse(text: &str) -> Result<Self> {
        let version = serde_json::from_str::<serde_json::Value>(text).context("the medium's description is no JSON")?;
        let schema = version.get("schema").and_then(serde_json::Value::as_u64);
        ensure!(
            schema == Some(u64::from(SCHEMA)),
            "the medium's description has the format {}; this castiron reads format {SCHEMA}",
            schema.map_or_else(|| "of nothing known".to_owned(), |n| n.to_string()),
        );
        serde_json::from_value(version).context("reading the medium's description")
    }
}

/// What [`SUM`] says of a description.
pub fn sum(description: &str) -> String {
    format!("{}  {FILE}\n", Sha256::of(description))
}

/// Writes a map: one JSON object a line, by place on the disk.
pub fn write_map(segments: &[Segment], mut out: impl Write) -> Result<()> {
    for segment in segments {
        serde_json::to_writer(&mut out, segment).context("writing a disk's map")?;
        out.write_all(b"\n").context("writing a disk's map")?;
    }
    Ok(())
}

/// Reads a map, and checks that its segments lie on a disk of `size` bytes one after the other.
pub fn read_map(map: impl BufRead, size: u64) -> Result<Vec<Segment>> {
    let mut segments = Vec::new();
    let mut end = 0;
    for (number, line) in (1..).zip(map.lines()) {
        let line = line.context("reading a disk's map")?;
        let segment: Segment = serde_json::from_str(&line).with_context(|| format!("line {number} of a disk's map"))?;
        let next = segment.at.checked_add(segment.len).filter(|next| *next <= size);
        ensure!(
            segment.at >= end && (1..=SEGMENT_MAX).contains(&segment.len) && next.is_some(),
            "line {number} of a disk's map puts {} bytes at {}, which is not behind byte {end} of {size}",
            segment.len,
            segment.at,
        );
        let inside = !segment.file.split('/').any(|part| part.is_empty() || part == "." || part == "..");
        ensure!(inside, "line {number} of a disk's map names the file `{}`, outside of the medium", segment.file);
        end = next.unwrap_or(end);
        segments.push(segment);
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(at: u64, len: u64, file: &str) -> Segment {
        Segment { at, len, file: file.to_owned(), from: 0, sha256: Sha256::of("") }
    }

    fn read(segments: &[Segment]) -> Result<Vec<Segment>> {
        let mut map = Vec::new();
        write_map(segments, &mut map).expect("writes");
        read_map(map.as_slice(), 100)
    }

    #[test]
    fn a_map_comes_back_as_it_was() {
        let map = [segment(0, 10, "live/root.img"), segment(50, 50, "castiron/data")];
        assert_eq!(read(&map).expect("is right"), map);
    }

    #[test]
    fn a_map_that_leaves_its_disk_or_medium_is_refused() {
        for (map, why) in [
            (vec![segment(0, 10, "a"), segment(9, 1, "a")], "not behind byte 10"),
            (vec![segment(60, 41, "a")], "of 100"),
            (vec![segment(u64::MAX, 2, "a")], "of 100"),
            (vec![segment(0, 0, "a")], "puts 0 bytes"),
            (vec![segment(0, 1, "../etc/shadow")], "outside of the medium"),
            (vec![segment(0, 1, "/etc/shadow")], "outside of the medium"),
        ] {
            let error = format!("{:#}", read(&map).expect_err(why));
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn another_format_is_named() {
        let error = Medium::parse(r#"{"schema": 7, "new": true}"#).expect_err("is newer");
        assert_eq!(error.to_string(), "the medium's description has the format 7; this castiron reads format 1");
    }
}
