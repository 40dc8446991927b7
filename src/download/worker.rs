//! One item from one source into one partial file: what the worker threads of [`super::attempt`] do.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek as _, SeekFrom, Write as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};

use anyhow::{Context as _, Result};
use reqwest::StatusCode;
use reqwest::blocking::Client;
use reqwest::header::{CONTENT_RANGE, RANGE};

use super::{Item, Missing, STAGE, Trouble, Try, folder_path, innermost, is_address};
use crate::context::Context;
use crate::digest::Sha256;
use crate::store::{Claim, Store};
use crate::ui::Step;

/// How often one source may break off, with some progress each time, before the next is tried.
const RESUMES: u32 = 20;

/// What the workers share.
pub(super) struct Work {
    pub(super) ctx: Context,
    pub(super) store: Store,
    pub(super) items: Vec<Item>,
    pub(super) client: Option<Client>,
    pub(super) next: AtomicUsize,
    pub(super) stop: AtomicBool,
    /// Hosts that did not answer, and why.
    pub(super) unreachable: Mutex<BTreeMap<String, String>>,
    pub(super) all: Step,
}

/// Why a source did not give an item.
enum Fault {
    /// The next source may do better.
    Source(Trouble, String),
    /// No source can: the disk is full, the user has had enough.
    Ours(anyhow::Error),
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Self {
        Self::Ours(error)
    }
}

impl Work {
    /// Works on the items until none is left, or nobody listens any more.
    pub(super) fn run(&self, results: &mpsc::Sender<Result<Option<Missing>>>) {
        while let Some(item) = self.items.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if self.check().is_err() || results.send(self.item(item)).is_err() {
                return;
            }
        }
    }

    fn check(&self) -> Result<()> {
        anyhow::ensure!(!self.stop.load(Ordering::SeqCst), "stopped because another file could not be written");
        self.ctx.check_interrupt()
    }

    fn item(&self, item: &Item) -> Result<Option<Missing>> {
        let claim = self.store.claim(&self.ctx, &item.sha256)?;
        if self.store.verified(&item.sha256, item.size)?.is_some() {
            // Another process brought it while this one waited.
            self.all.advance(item.size);
            claim.release_if_empty()?;
            return Ok(None);
        }
        let step = self.ctx.ui.step_bytes(STAGE, &item.name, item.size).minor();
        self.all.advance(length(&claim)?.min(item.size));
        let mut tries = Vec::new();
        for source in &item.sources {
            match self.bring_from(item, source, &claim, &step) {
                Ok(()) => {
                    claim.finish()?;
                    step.done();
                    return Ok(None);
                }
                Err(Fault::Ours(error)) => {
                    return Err(error.context(format!("fetching `{}`", item.name)));
                }
                Err(Fault::Source(trouble, message)) => {
                    self.ctx.ui.verbose(format!("{source}: {message}"));
                    tries.push(Try { source: source.clone(), trouble, message });
                }
            }
        }
        claim.release_if_empty()?;
        Ok(Some(Missing { item: item.clone(), tries }))
    }

    /// Fills the partial file from one source and verifies it.
    fn bring_from(&self, item: &Item, source: &str, claim: &Claim, step: &Step) -> Result<(), Fault> {
        let mut resumed = self.fill(item, source, claim, step)?;
        loop {
            let Some(found) = mismatch(item, claim)? else { return Ok(()) };
            truncate(claim)?;
            if !resumed {
                return Err(Fault::Source(Trouble::Wrong, format!("its sha256 is {found}, not {}", item.sha256)));
            }
            // The part that was there already may be the bad one: once more, all of it from this source.
            resumed = self.fill(item, source, claim, step)?;
        }
    }

    /// Fills the partial file to its full length. Returns whether some of it was there before.
    fn fill(&self, item: &Item, source: &str, claim: &Claim, step: &Step) -> Result<bool, Fault> {
        if !is_address(source) {
            truncate(claim)?;
            let path = folder_path(source);
            let file = File::open(path).map_err(|e| match e.kind() {
                ErrorKind::NotFound => Fault::Source(Trouble::Gone, "there is no such file".into()),
                _ => Fault::Source(Trouble::Broken, e.to_string()),
            })?;
            let length = file.metadata().map_or(0, |meta| meta.len());
            check_length(item, length)?;
            self.copy(file, item, claim, step)?;
            return Ok(false);
        }
        let before = length(claim)?;
        if before > item.size {
            truncate(claim)?;
        } else if before == item.size {
            return Ok(before > 0);
        }
        let origin = origin(source);
        let known = self.unreachable.lock().ok().and_then(|hosts| hosts.get(&origin).cloned());
        if let Some(why) = known {
            return Err(Fault::Source(Trouble::Broken, why));
        }
        let mut breaks = 0;
        loop {
            let start = length(claim)?;
            let fault = match self.request(item, source, claim, step) {
                Ok(()) => return Ok((1..item.size).contains(&before)),
                Err(Fault::Source(Trouble::Broken, message)) => message,
                Err(other) => return Err(other),
            };
            self.check()?;
            // Less than before means that a resumption was refused, and that it may start over.
            let moved = length(claim)? != start;
            breaks += 1;
            if !moved || breaks > RESUMES {
                return Err(Fault::Source(Trouble::Broken, fault));
            }
            self.ctx.ui.verbose(format!("{source}: {fault}; resuming at byte {}", length(claim)?));
        }
    }

    /// One request for what is still wanted, appended to the partial file.
    fn request(&self, item: &Item, source: &str, claim: &Claim, step: &Step) -> Result<(), Fault> {
        let client = self.client.as_ref().context("an address was added after the start")?;
        let start = length(claim)?;
        let mut request = client.get(source);
        if start > 0 {
            request = request.header(RANGE, format!("bytes={start}-"));
        }
        if let Some(token) = &item.token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().map_err(|e| {
            let why = innermost(&e);
            if (e.is_connect() || e.is_timeout())
                && let Ok(mut hosts) = self.unreachable.lock()
            {
                hosts.insert(origin(source), why.clone());
            }
            Fault::Source(Trouble::Broken, why)
        })?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if start > 0 => {
                let range = answer.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
                let expected = format!("bytes {start}-{}/{}", item.size - 1, item.size);
                if range != expected {
                    truncate(claim)?;
                    let message = format!("it answered with the range `{range}` instead of `{expected}`");
                    return Err(Fault::Source(Trouble::Broken, message));
                }
            }
            StatusCode::OK => {
                truncate(claim)?;
                check_length(item, answer.content_length().unwrap_or(item.size))?;
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                truncate(claim)?;
                return Err(Fault::Source(Trouble::Broken, format!("it cannot go on at byte {start}")));
            }
            status => {
                let gone = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
                let trouble = if gone { Trouble::Gone } else { Trouble::Broken };
                return Err(Fault::Source(trouble, format!("HTTP status {status}")));
            }
        }
        self.copy(answer, item, claim, step)
    }

    /// Appends what `reader` gives to the partial file, until its length is the promised one.
    fn copy(&self, mut reader: impl Read, item: &Item, claim: &Claim, step: &Step) -> Result<(), Fault> {
        let mut file = claim.file();
        let writing = || format!("writing `{}`", claim.path().display());
        let mut length = file.seek(SeekFrom::End(0)).with_context(writing)?;
        step.set(length);
        let mut buffer = vec![0; 256 << 10];
        while length <= item.size {
            self.check()?;
            let n = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(Fault::Source(Trouble::Broken, innermost(&e))),
            };
            file.write_all(&buffer[..n]).with_context(writing)?;
            length += n as u64;
            step.advance(n as u64);
            self.all.advance(n as u64);
        }
        if length > item.size {
            truncate(claim)?;
            return Err(Fault::Source(Trouble::Wrong, format!("it is longer than {} bytes", item.size)));
        }
        if length < item.size {
            let message = format!("it broke off after {length} of {} bytes", item.size);
            return Err(Fault::Source(Trouble::Broken, message));
        }
        Ok(())
    }
}

fn check_length(item: &Item, found: u64) -> Result<(), Fault> {
    if found == item.size {
        return Ok(());
    }
    Err(Fault::Source(Trouble::Wrong, format!("it has {found} bytes, not {}", item.size)))
}

fn length(claim: &Claim) -> Result<u64> {
    let meta = claim.file().metadata();
    Ok(meta.with_context(|| format!("reading the size of `{}`", claim.path().display()))?.len())
}

fn truncate(claim: &Claim) -> Result<()> {
    claim.file().set_len(0).with_context(|| format!("emptying `{}`", claim.path().display()))
}

/// The digest of the partial file, where it is not the promised one.
fn mismatch(item: &Item, claim: &Claim) -> Result<Option<Sha256>> {
    let mut file = claim.file();
    let reading = || format!("reading `{}`", claim.path().display());
    file.seek(SeekFrom::Start(0)).with_context(reading)?;
    let (found, _) = Sha256::of_reader(file).with_context(reading)?;
    Ok((found != item.sha256).then_some(found))
}

/// `http://host:port` of an address.
fn origin(address: &str) -> String {
    address.splitn(4, '/').take(3).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_and_host() {
        assert_eq!(origin("http://archive.ubuntu.com/ubuntu/pool/x.deb"), "http://archive.ubuntu.com");
        assert_eq!(origin("http://[::1]:80/a"), "http://[::1]:80");
    }
}
