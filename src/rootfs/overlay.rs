//! Overlays: trees of files that are laid over `/` in the order in which a profile names them.
//!
//! In: folders. Out: [`Overlay`], a map from path to content, and its digest or its tar.
//!
//! Owner is root, times are [`EPOCH`], and permissions are 0755 (folders, executables) or 0644: a checkout's umask and
//! owner never reach an image. What needs other bits is made by tmpfiles.d or by a unit.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tar::{EntryType, Header};
use walkdir::WalkDir;

use crate::digest::Sha256;
use crate::fs;
use crate::tools::EPOCH;

/// What lies over `/`: relative paths, parents before children.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    entries: BTreeMap<PathBuf, Entry>,
}

/// One path of an overlay.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is.
    pub content: Content,
    /// Permission bits.
    pub mode: u32,
    /// Who put it there, for `castiron why`: `overlay base`, `firstboot`, `castiron`.
    pub origin: String,
}

/// What a path is.
#[derive(Clone, Debug)]
pub enum Content {
    /// A folder.
    Folder,
    /// A symbolic link and its target.
    Link(PathBuf),
    /// A file on the operator's disk.
    File(PathBuf),
    /// A file made by castiron.
    Bytes(Vec<u8>),
}

impl Overlay {
    /// Lays a folder's tree over what is there already.
    pub fn add_folder(&mut self, folder: &Path, origin: &str) -> Result<()> {
        for entry in WalkDir::new(folder).min_depth(1).sort_by_file_name() {
            let entry = entry.with_context(|| format!("reading the overlay `{}`", folder.display()))?;
            let path = entry.path().strip_prefix(folder).context("an overlay's entry lies in it")?;
            let kind = entry.file_type();
            let content = if kind.is_dir() {
                Content::Folder
            } else if kind.is_symlink() {
                Content::Link(
                    std::fs::read_link(entry.path())
                        .with_context(|| format!("reading `{}`", entry.path().display()))?,
                )
            } else if kind.is_file() {
                Content::File(entry.path().to_owned())
            } else {
                bail!(
                    "`{}` is neither file, folder nor symbolic link: an overlay can not hold it",
                    entry.path().display()
                );
            };
            let executable = kind.is_file() && entry.metadata()?.permissions().mode() & 0o111 != 0;
            let mode = if executable || kind.is_dir() { 0o755 } else { 0o644 };
            self.insert(path, Entry { content, mode, origin: origin.to_owned() });
        }
        Ok(())
    }

    /// Adds one file of the operator's disk.
    pub fn add_file(&mut self, path: impl AsRef<Path>, from: &Path, mode: u32, origin: &str) {
        self.insert(path.as_ref(), Entry { content: Content::File(from.to_owned()), mode, origin: origin.to_owned() });
    }

    /// Adds a file made by castiron.
    pub fn add_bytes(&mut self, path: impl AsRef<Path>, bytes: impl Into<Vec<u8>>, origin: &str) {
        self.insert(
            path.as_ref(),
            Entry { content: Content::Bytes(bytes.into()), mode: 0o644, origin: origin.to_owned() },
        );
    }

    /// Adds a symbolic link.
    pub fn add_link(&mut self, path: impl AsRef<Path>, target: impl Into<PathBuf>, origin: &str) {
        self.insert(
            path.as_ref(),
            Entry { content: Content::Link(target.into()), mode: 0o777, origin: origin.to_owned() },
        );
    }

    /// Adds a folder, for a mount point.
    pub fn add_dir(&mut self, path: impl AsRef<Path>, mode: u32, origin: &str) {
        self.insert(path.as_ref(), Entry { content: Content::Folder, mode, origin: origin.to_owned() });
    }

    /// Adds an entry, and the folders above it.
    pub fn insert(&mut self, path: &Path, entry: Entry) {
        for parent in path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            let folder = Entry { content: Content::Folder, mode: 0o755, origin: entry.origin.clone() };
            self.entries.entry(parent.to_owned()).or_insert(folder);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// The entries, sorted by path.
    pub fn entries(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_path(), entry))
    }

    /// The entry at a relative path.
    pub fn get(&self, path: &Path) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// The digest of all paths, bits and bytes.
    pub fn digest(&self) -> Result<Sha256> {
        let mut text = String::new();
        for (path, entry) in &self.entries {
            let what = match &entry.content {
                Content::Folder => "folder".to_owned(),
                Content::Link(target) => format!("link {}", target.display()),
                Content::File(from) => format!("file {}", Sha256::of_file(from)?.0),
                Content::Bytes(bytes) => format!("file {}", Sha256::of(bytes)),
            };
            let _ = writeln!(text, "{:o} {} {what}", entry.mode, path.display());
        }
        Ok(Sha256::of(text))
    }
}

/// Appends one entry to a tar.
pub fn append(tar: &mut tar::Builder<impl Write>, path: &Path, entry: &Entry) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(EPOCH);
    header.set_size(0);
    let writing = || format!("writing `{}` into a tar", path.display());
    match &entry.content {
        Content::Folder => {
            header.set_entry_type(EntryType::Directory);
            tar.append_data(&mut header, path, std::io::empty()).with_context(writing)
        }
        Content::Link(target) => {
            header.set_entry_type(EntryType::Symlink);
            tar.append_link(&mut header, path, target).with_context(writing)
        }
        Content::Bytes(bytes) => {
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, path, bytes.as_slice()).with_context(writing)
        }
        Content::File(from) => {
            header.set_size(fs::len(from)?);
            tar.append_data(&mut header, path, fs::open(from)?).with_context(writing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkouts_bits_do_not_change_the_digest() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("etc/motd");
        fs::write_atomic(&file, "hello").expect("writes");
        let digest = |mode| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("sets bits");
            let mut overlay = Overlay::default();
            overlay.add_folder(folder.path(), "overlay x").expect("reads");
            overlay.digest().expect("hashes")
        };
        assert_eq!(digest(0o600), digest(0o664));
        assert_ne!(digest(0o600), digest(0o755), "but being executable counts");
    }

    #[test]
    fn later_overlays_win_and_parents_come_first() {
        let mut overlay = Overlay::default();
        overlay.add_bytes("etc/a/b", "one", "overlay x");
        overlay.add_bytes("etc/a/b", "two", "overlay y");
        let paths: Vec<_> = overlay.entries().map(|(p, e)| (p.display().to_string(), e.origin.as_str())).collect();
        assert_eq!(
            paths,
            [("etc".into(), "overlay x"), ("etc/a".into(), "overlay x"), ("etc/a/b".into(), "overlay y")]
        );
    }
}
