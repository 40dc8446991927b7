//! Reading the list of an image's paths, one entry at a time.
//!
//! In: `<role>.contents.jsonl.zst` of a release. Out: [`PathEntry`], sorted by path. Runs: nothing.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::manifest::Role;
use crate::error::{Failure, Kind};
use crate::fs;
use crate::system::PathEntry;

/// The paths of an image, in order. What uses two lists at once counts on that order, so it is checked.
pub struct Paths {
    file: PathBuf,
    lines: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    number: usize,
    line: String,
    last: String,
}

impl Paths {
    /// The paths of one role of a release.
    pub fn open(release: &Path, role: &Role) -> Result<Self> {
        let file = release.join(&role.contents);
        let decoder =
            zstd::Decoder::new(fs::open(&file)?).with_context(|| format!("unpacking `{}`", file.display()))?;
        Ok(Self { file, lines: BufReader::new(decoder), number: 0, line: String::new(), last: String::new() })
    }

    fn read(&mut self) -> Result<Option<PathEntry>> {
        self.line.clear();
        self.number += 1;
        let reading = || format!("`{}`, line {}", self.file.display(), self.number);
        let damaged = |why: &str| {
            Failure::new(Kind::Integrity, format!("the list of paths is damaged: {why}"))
                .hint("build or copy the release again")
        };
        let read = self.lines.read_line(&mut self.line);
        if read.context(damaged("it can not be unpacked")).with_context(reading)? == 0 {
            return Ok(None);
        }
        let entry: PathEntry =
            serde_json::from_str(&self.line).context(damaged("this is no entry")).with_context(reading)?;
        if self.number > 1 && entry.path <= self.last {
            return Err(damaged(&format!("`{}` stands behind `{}`", entry.path, self.last))).with_context(reading);
        }
        self.last.clone_from(&entry.path);
        Ok(Some(entry))
    }
}

impl Iterator for Paths {
    type Item = Result<PathEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
