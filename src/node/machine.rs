//! The running machine's files: /proc, /sys, /dev, /run, and what castiron put into the image.
//!
//! In: a folder that stands for `/` (tests give their own). Out: [`Machine`].

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::fs;
use crate::node::mounts::{self, Mount};

/// A machine, seen from below its root folder.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

impl Machine {
    /// The machine whose `/` is `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where an absolute path of the machine lies.
    pub fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        self.root.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    /// A small text file, without white space at its ends.
    pub fn read(&self, absolute: impl AsRef<Path>) -> Result<String> {
        Ok(fs::read_to_string(&self.path(absolute))?.trim().to_owned())
    }

    /// The value of a kernel argument: `castiron.slot` of `castiron.slot=a`. The last one counts, as everywhere.
    pub fn kernel_argument(&self, name: &str) -> Result<Option<String>> {
        let line = self.read("/proc/cmdline")?;
        Ok(arguments(&line).into_iter().rev().find_map(|argument| {
            argument.split_once('=').filter(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
        }))
    }

    /// What is mounted at `point`: the uppermost mount. As PID 1 sees it, since a sandboxed unit sees its own mounts.
    pub(crate) fn mount(&self, point: &str) -> Result<Option<Mount>> {
        let mounts = mounts::parse(&self.read("/proc/1/mountinfo")?).context("reading `/proc/1/mountinfo`")?;
        Ok(mounts.into_iter().rev().find(|mount| mount.point == point))
    }

    /// The sysfs folder of the block device `number` (`254:7`), without symbolic links.
    pub(crate) fn block_device(&self, number: &str) -> Result<PathBuf> {
        let link = self.path(format!("/sys/dev/block/{number}"));
        link.canonicalize().with_context(|| format!("finding the block device {number} in `/sys/dev/block`"))
    }

    /// Says `text` on every console that the kernel knows, screen and serial line alike, and in the journal.
    ///
    /// Through the kernel's log at level 2 (critical), which also `quiet` lets through; `/dev/console` is only the last of them.
    pub fn announce(&self, text: &str) -> Result<()> {
        let path = self.path("/dev/kmsg");
        let saying = || format!("writing `{}`", path.display());
        let mut log = OpenOptions::new().append(true).open(&path).with_context(saying)?;
        for line in text.lines() {
            // One write is one message.
            log.write_all(format!("<2>castiron: {line}\n").as_bytes()).with_context(saying)?;
        }
        Ok(())
    }
}

/// The arguments of a kernel command line; double quotes keep spaces and fall away.
fn arguments(line: &str) -> Vec<String> {
    let mut arguments = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => arguments.push(String::new()),
            c => arguments.last_mut().expect("starts with one").push(c),
        }
    }
    arguments.retain(|argument| !argument.is_empty());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_kernel_argument_counts_and_quotes_keep_spaces() {
        assert_eq!(arguments("ro  a=1 \"b=x y\" c=\"p q\"\n"), ["ro", "a=1", "b=x y", "c=p q"]);
        let folder = tempfile::tempdir().expect("a folder");
        let machine = Machine::new(folder.path());
        fs::write_atomic(&machine.path("/proc/cmdline"), "castiron.slot=a xroothash=1 castiron.slot=b\n")
            .expect("writes");
        assert_eq!(machine.kernel_argument("castiron.slot").expect("reads").as_deref(), Some("b"));
        assert_eq!(machine.kernel_argument("roothash").expect("reads"), None);
    }
}
