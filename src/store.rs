//! The content-addressed store: bytes under the name of their SHA-256.
//!
//! In: files that somebody brought. Out: paths whose content is known. Runs: nothing.
//!
//! ```text
//! <root>/CACHEDIR.TAG            backup programs pass it by
//! <root>/lock                    shared by whoever works here, exclusive for `castiron store gc`
//! <root>/sha256-v1/ab/abcd…      objects: read-only, whole, fsynced before they get this name
//! <root>/partial/abcd…           what is on its way; locked by the process that brings it
//! ```
//!
//! A name is a promise about bytes that a disk may break, so whoever builds from an object asks [`Store::verified`]:
//! it hashes, and moves a damaged object out of the way so that it is brought again. Two processes at once need no
//! more than the lock on the partial file: a final name is given and taken away under that lock only. The folder is not
//! fsynced after a rename: an object that a power cut takes back is simply missing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::digest::Sha256;
use crate::error::{Failure, Kind};
use crate::fs;

const OBJECTS: &str = "sha256-v1";
const PARTIAL: &str = "partial";
/// <https://bford.info/cachedir/>
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# castiron's store: everything here can be \
                            fetched or made again.\n";

/// A store on a folder.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// An object of the store, as its name and length say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its digest, by its name.
    pub sha256: Sha256,
    /// Its length in bytes.
    pub size: u64,
}

/// The right to use a store, or to use it alone, until it is dropped.
#[derive(Debug)]
pub struct Hold {
    _lock: File,
}

impl Store {
    /// The store below `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where an object lies or would lie.
    pub fn path(&self, digest: &Sha256) -> PathBuf {
        let name = digest.to_string();
        self.root.join(OBJECTS).join(&name[..2]).join(name)
    }

    /// Whether an object of this name and length is there; cheap, and no promise about its bytes.
    pub fn contains(&self, digest: &Sha256, size: u64) -> bool {
        std::fs::metadata(self.path(digest)).is_ok_and(|meta| meta.is_file() && meta.len() == size)
    }

    /// The path of an object whose bytes were just hashed; `None` where it is missing, or was damaged and is now removed.
    pub fn verified(&self, digest: &Sha256, size: u64) -> Result<Option<PathBuf>> {
        let path = self.path(digest);
        let file = match File::open(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.with_context(|| format!("opening `{}`", path.display()))?,
        };
        let length = file.metadata().with_context(|| format!("reading the size of `{}`", path.display()))?.len();
        if length == size {
            let (found, _) = Sha256::of_reader(&file).with_context(|| format!("reading `{}`", path.display()))?;
            if found == *digest {
                return Ok(Some(path));
            }
        }
        self.remove_damaged(digest, &file)?;
        Ok(None)
    }

    /// Removes an object, but only the very file that was found damaged: another process may have replaced it since.
    fn remove_damaged(&self, digest: &Sha256, damaged: &File) -> Result<()> {
        let Some(claim) = self.try_claim(digest)? else {
            // Somebody holds the claim, and so is about to replace it.
            return Ok(());
        };
        let path = self.path(digest);
        if same_file(damaged, &path) {
            fs::remove(&path)?;
        }
        claim.release_if_empty()
    }

    /// The right to bring an object, waiting while another process has it. Its file holds what is there of it so far.
    pub fn claim(&self, ctx: &Context, digest: &Sha256) -> Result<Claim> {
        loop {
            if let Some(claim) = self.try_claim(digest)? {
                return Ok(claim);
            }
            pause(ctx)?;
        }
    }

    /// Brings a few bytes that are at hand, and returns their digest.
    pub fn put(&self, ctx: &Context, bytes: &[u8]) -> Result<Sha256> {
        let digest = Sha256::of(bytes);
        let claim = self.claim(ctx, &digest)?;
        if self.verified(&digest, bytes.len() as u64)?.is_some() {
            claim.release_if_empty()?;
            return Ok(digest);
        }
        let writing = || format!("writing `{}`", claim.path().display());
        claim.file().set_len(0).with_context(writing)?;
        let mut file = claim.file();
        file.write_all(bytes).with_context(writing)?;
        claim.finish()?;
        Ok(digest)
    }

    fn try_claim(&self, digest: &Sha256) -> Result<Option<Claim>> {
        self.prepare()?;
        let partial = self.partial(digest);
        loop {
            let opening = || format!("opening `{}`", partial.display());
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&partial)
                .with_context(opening)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => {
                    return Err(e).with_context(|| format!("locking `{}`", partial.display()));
                }
                Ok(()) => {}
            }
            // Between opening and locking it may have got its final name, which must never be written to.
            if same_file(&file, &partial) {
                return Ok(Some(Claim { file, partial, object: self.path(digest) }));
            }
        }
    }

    /// Says that this process uses the store; waits while another cleans it.
    pub fn hold(&self, ctx: &Context) -> Result<Hold> {
        let lock = self.lock_file().with_context(|| {
            Failure::new(Kind::Other, format!("the store `{}` can not be used", self.root.display()))
                .hint("name another with `--store DIR`")
        })?;
        loop {
            match lock.try_lock_shared() {
                Ok(()) => return Ok(Hold { _lock: lock }),
                Err(TryLockError::WouldBlock) => pause(ctx)?,
                Err(TryLockError::Error(e)) => return Err(e).context("locking the store"),
            }
        }
    }

    /// Takes the store for this process alone, or says that another uses it.
    pub fn hold_alone(&self) -> Result<Hold> {
        let lock = self.lock_file()?;
        match lock.try_lock() {
            Ok(()) => Ok(Hold { _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                let message = format!("another castiron uses the store `{}`", self.root.display());
                Err(Failure::new(Kind::Other, message).hint("run it again when the other has ended").into())
            }
            Err(TryLockError::Error(e)) => Err(e).context("locking the store"),
        }
    }

    /// The objects, sorted by digest. Files that are no objects are passed over.
    pub fn objects(&self) -> Result<Vec<Object>> {
        let mut objects = Vec::new();
        for folder in self.entries(OBJECTS)? {
            for path in fs::list(&folder)? {
                if let Some(sha256) = digest_of_name(&path) {
                    objects.push(Object { sha256, size: fs::len(&path)? });
                }
            }
        }
        Ok(objects)
    }

    /// The partial files.
    pub fn partials(&self) -> Result<Vec<PathBuf>> {
        self.entries(PARTIAL)
    }

    fn entries(&self, folder: &str) -> Result<Vec<PathBuf>> {
        let folder = self.root.join(folder);
        if folder.is_dir() { fs::list(&folder) } else { Ok(Vec::new()) }
    }

    fn partial(&self, digest: &Sha256) -> PathBuf {
        self.root.join(PARTIAL).join(digest.to_string())
    }

    fn prepare(&self) -> Result<()> {
        fs::create_dir_all(&self.root.join(PARTIAL))?;
        let tag = self.root.join("CACHEDIR.TAG");
        if tag.is_file() { Ok(()) } else { fs::write_atomic(&tag, CACHEDIR_TAG) }
    }

    fn lock_file(&self) -> Result<File> {
        self.prepare()?;
        let path = self.root.join("lock");
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("opening `{}`", path.display()))
    }
}

/// The right of one process to bring one object.
#[derive(Debug)]
pub struct Claim {
    file: File,
    partial: PathBuf,
    object: PathBuf,
}

impl Claim {
    /// The partial file, to be read and written.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where the partial file lies.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Gives the object its final name. The caller has verified its bytes.
    pub fn finish(self) -> Result<()> {
        let what = || format!("finishing `{}`", self.partial.display());
        self.file.sync_all().with_context(what)?;
        if let Some(folder) = self.object.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::rename(&self.partial, &self.object)?;
        // Not before: a partial file that could not be written to could not be resumed.
        self.file.set_permissions(std::fs::Permissions::from_mode(0o444)).with_context(what)
    }

    /// Gives the claim back without a trace, if nothing was brought yet.
    pub fn release_if_empty(self) -> Result<()> {
        if self.file.metadata().is_ok_and(|meta| meta.len() == 0) { fs::remove(&self.partial) } else { Ok(()) }
    }
}

/// Does `work` for all items on all cores, and returns the results in the items' order.
pub fn on_all_cores<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = AtomicUsize::new(0);
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let run = || {
            let mut done = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                match items.get(i) {
                    Some(item) => done.push((i, work(item))),
                    None => return done,
                }
            }
        };
        let workers: Vec<_> = (0..cores.min(items.len())).map(|_| scope.spawn(run)).collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Locks `file`, waiting while another process has it; returns whether it had to wait, which it says with `waiting`.
pub fn lock(ctx: &Context, file: &File, waiting: &str) -> Result<bool> {
    let mut waited = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(waited),
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut waited, true) {
                    ctx.ui.note(waiting);
                }
                pause(ctx)?;
            }
            Err(TryLockError::Error(e)) => return Err(e).context("locking a file"),
        }
    }
}

fn pause(ctx: &Context) -> Result<()> {
    ctx.check_interrupt()?;
    std::thread::sleep(Duration::from_millis(50));
    Ok(())
}

fn same_file(open: &File, path: &Path) -> bool {
    match (open.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn digest_of_name(path: &Path) -> Option<Sha256> {
    path.file_name()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &Store, bytes: &[u8]) -> Sha256 {
        let digest = Sha256::of(bytes);
        let claim = store.try_claim(&digest).expect("claims").expect("is free");
        claim.file().write_all(bytes).expect("writes");
        claim.finish().expect("finishes");
        digest
    }

    #[test]
    fn an_object_is_read_only_and_found_by_its_digest() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::new(folder.path());
        let digest = put(&store, b"hello");
        assert!(store.contains(&digest, 5) && !store.contains(&digest, 4));
        let path = store.verified(&digest, 5).expect("reads").expect("is there");
        assert_eq!(std::fs::metadata(path).expect("is there").mode() & 0o777, 0o444);
        assert_eq!(store.objects().expect("lists"), [Object { sha256: digest, size: 5 }]);
        assert!(store.partials().expect("lists").is_empty());
        assert!(folder.path().join("CACHEDIR.TAG").is_file());
    }

    #[test]
    fn a_damaged_object_is_removed_when_it_is_met() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::new(folder.path());
        let digest = put(&store, b"hello");
        let path = store.path(&digest);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("unlocks");
        std::fs::write(&path, b"hellO").expect("damages");
        assert!(store.contains(&digest, 5));
        assert_eq!(store.verified(&digest, 5).expect("reads"), None);
        assert!(!path.exists());
        assert!(store.partials().expect("lists").is_empty());
    }

    #[test]
    fn a_claim_is_exclusive_and_never_gives_out_a_finished_object() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::new(folder.path());
        let digest = Sha256::of("hello");
        let claim = store.try_claim(&digest).expect("claims").expect("is free");
        assert!(store.try_claim(&digest).expect("looks").is_none());
        claim.file().write_all(b"hello").expect("writes");
        claim.finish().expect("finishes");
        let again = store.try_claim(&digest).expect("claims").expect("is free");
        assert_eq!(again.file().metadata().expect("is there").len(), 0);
    }

    #[test]
    fn who_cleans_is_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::new(folder.path());
        let alone = store.hold_alone().expect("nobody is there");
        assert!(store.hold_alone().is_err());
        drop(alone);
        assert!(store.hold_alone().is_ok());
    }

    #[test]
    fn results_keep_the_order_of_the_items() {
        let items: Vec<u32> = (0..100).collect();
        assert_eq!(on_all_cores(&items, |i| i * 2), items.iter().map(|i| i * 2).collect::<Vec<_>>());
        assert!(on_all_cores(&[] as &[u32], |i| *i).is_empty());
    }
}
