//! The content-addressed store: bytes under the name of their SHA-256.

use std::path::{Path, PathBuf};

use crate::digest::Sha256;

/// A store on a folder.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The store below `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where an object lies or would lie.
    pub fn path(&self, digest: &Sha256) -> PathBuf {
        let name = digest.to_string();
        self.root.join("sha256-v1").join(&name[..2]).join(name)
    }
}
