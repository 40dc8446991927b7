//! Bringing bytes into the store: mirrors, resuming, verification before the final name.
//!
//! In: [`Item`]s, each with its digest and the sources to try in order. Out: verified objects of the [`Store`].
//! Runs: nothing; HTTP by reqwest, which respects `http_proxy`, `https_proxy` and `no_proxy`.
//!
//! - What the store holds, verified, costs no network.
//! - A partial file is resumed by `Range`, on another day and from another mirror too: only the digest of the whole decides.
//! - A connection that breaks off is resumed while it makes progress; then comes the next source. A host that does
//!   not answer at all is not asked again in the same run.
//! - One item's failure does not stop the others: all that is wrong is said at once. A full disk stops everything.
//! - Workers are not scoped threads: ctrl-C must not wait for a server that has stalled.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use anyhow::{Context as _, Result};
use reqwest::StatusCode;
use reqwest::blocking::Client;
use reqwest::header::CONTENT_LENGTH;

use crate::context::Context;
use crate::digest::Sha256;
use crate::error::{Failure, Kind};
use crate::store::{Store, on_all_cores};

mod worker;

use worker::Work;

/// How many files are on their way at once: enough to hide round trips, few enough for a mirror's patience.
const WORKERS: usize = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How many failed items an error spells out.
const SPELLED_OUT: usize = 10;
const STAGE: &str = "fetch";
const NETWORK_HINT: &str = "check the network and the proxy variables, or name a mirror with `--mirror`";

/// Bytes that are wanted.
#[derive(Clone, Debug)]
pub struct Item {
    /// What people call it.
    pub name: String,
    /// Its digest.
    pub sha256: Sha256,
    /// Its length in bytes.
    pub size: u64,
    /// Where to try, in order: addresses (`http://…`, `https://…`) or absolute paths.
    pub sources: Vec<String>,
    /// The bearer token that addresses want to see; no secret, for it is given to anybody who asks.
    pub token: Option<String>,
}

/// An item that no source could give.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Which of the items.
    pub item: Item,
    /// What each source did wrong, in the order in which they were tried.
    pub tries: Vec<Try>,
}

impl Missing {
    /// Whether every source answered, and none has it.
    pub fn is_gone(&self) -> bool {
        self.tries.iter().all(|t| t.trouble == Trouble::Gone)
    }
}

/// What one source did wrong.
#[derive(Clone, Debug)]
pub struct Try {
    /// The source.
    pub source: String,
    /// The kind of trouble.
    pub trouble: Trouble,
    /// The trouble in words.
    pub message: String,
}

/// The kinds of trouble with a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It does not have the file.
    Gone,
    /// It gave other bytes than those promised.
    Wrong,
    /// It did not answer, or broke off.
    Broken,
}

/// Makes sure that the store holds every item, verified.
pub fn bring(ctx: &Context, store: &Store, items: &[Item]) -> Result<()> {
    let missing = attempt(ctx, store, items)?;
    if missing.is_empty() { Ok(()) } else { Err(failure(&missing).into()) }
}

/// Brings what it can, and returns what no source could give. For callers who can say more about it than [`failure`].
pub fn attempt(ctx: &Context, store: &Store, items: &[Item]) -> Result<Vec<Missing>> {
    let _hold = store.hold(ctx)?;
    let wanted = absent(ctx, store, items)?;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let bytes = wanted.iter().map(|item| item.size).sum();
    let all = ctx.ui.step_bytes(STAGE, format!("bringing {}", count(wanted.len(), "file")), bytes);
    let client = wanted.iter().flat_map(|i| &i.sources).any(|s| is_address(s)).then(client).transpose()?;
    let work = Arc::new(Work {
        ctx: ctx.clone(),
        store: store.clone(),
        items: wanted,
        client,
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        unreachable: Mutex::new(BTreeMap::new()),
        all,
    });
    let (sender, receiver) = mpsc::channel();
    for _ in 0..WORKERS.min(work.items.len()) {
        let (work, sender) = (Arc::clone(&work), sender.clone());
        std::thread::spawn(move || work.run(&sender));
    }
    drop(sender);
    let mut missing = Vec::new();
    loop {
        ctx.check_interrupt()?;
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(Ok(None)) | Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(Ok(Some(item))) => missing.push(item),
            Ok(Err(error)) => {
                work.stop.store(true, Ordering::SeqCst);
                ctx.check_interrupt()?;
                return Err(error);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    if missing.is_empty()
        && let Some(work) = Arc::into_inner(work)
    {
        work.all.done();
    }
    missing.sort_by(|a, b| a.item.name.cmp(&b.item.name));
    Ok(missing)
}

/// What an error says of items that no source could give.
pub fn failure(missing: &[Missing]) -> Failure {
    let mut lines = vec![match missing {
        [one] => format!("no source gives `{}`", one.item.name),
        many => format!("no source gives {} of the files", many.len()),
    }];
    for one in missing.iter().take(SPELLED_OUT) {
        let item = &one.item;
        lines.push(format!("`{}` ({} bytes, sha256 {}…)", item.name, item.size, item.sha256.short()));
        if one.tries.is_empty() {
            lines.push("  there is no source to try".into());
        }
        lines.extend(one.tries.iter().map(|t| format!("  {}: {}", t.source, t.message)));
    }
    if let Some(more) = missing.len().checked_sub(SPELLED_OUT).filter(|n| *n > 0) {
        lines.push(format!("and {more} more"));
    }
    // No source gave the right bytes, or the item would not be missing: those that gave any gave wrong ones.
    if missing.iter().flat_map(|m| &m.tries).any(|t| t.trouble == Trouble::Wrong) {
        return Failure::new(Kind::Integrity, lines.join("\n"))
            .hint("what these sources give is not what was asked for: use another mirror, or `castiron lock` again");
    }
    Failure::new(Kind::Network, lines.join("\n")).hint(NETWORK_HINT)
}

/// A small file that has no digest yet: the first source that gives it, and its bytes. It must be verified by other means.
pub fn small(ctx: &Context, name: &str, sources: &[String], limit: u64) -> Result<(String, Vec<u8>)> {
    let client = sources.iter().any(|s| is_address(s)).then(client).transpose()?;
    let mut lines = vec![format!("no source gives `{name}`")];
    for source in sources {
        ctx.check_interrupt()?;
        match read_small(client.as_ref(), source, limit) {
            Ok(bytes) => return Ok((source.clone(), bytes)),
            Err(why) => lines.push(format!("  {source}: {why}")),
        }
    }
    Err(Failure::new(Kind::Network, lines.join("\n")).hint(NETWORK_HINT).into())
}

/// A small file that may not be there.
pub fn maybe(ctx: &Context, source: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    ctx.check_interrupt()?;
    let gone = if is_address(source) {
        let answer = client()?.head(source).send();
        answer.is_ok_and(|answer| matches!(answer.status(), StatusCode::NOT_FOUND | StatusCode::GONE))
    } else {
        !folder_path(source).exists()
    };
    if gone { Ok(None) } else { small(ctx, source, &[source.to_owned()], limit).map(|(_, bytes)| Some(bytes)) }
}

/// How long a file is whose digest alone is known, by the first source that says so.
pub fn length(ctx: &Context, name: &str, sources: &[String]) -> Result<u64> {
    let client = sources.iter().any(|s| is_address(s)).then(client).transpose()?;
    let mut lines = vec![format!("no source gives `{name}`")];
    for source in sources {
        ctx.check_interrupt()?;
        match length_at(client.as_ref(), source) {
            Ok(length) => return Ok(length),
            Err(why) => lines.push(format!("  {source}: {why}")),
        }
    }
    Err(Failure::new(Kind::Network, lines.join("\n")).hint(NETWORK_HINT).into())
}

fn length_at(client: Option<&Client>, source: &str) -> Result<u64, String> {
    let (Some(client), true) = (client, is_address(source)) else {
        return std::fs::metadata(folder_path(source)).map(|meta| meta.len()).map_err(|e| e.to_string());
    };
    let answer = client.head(source).send().map_err(|e| innermost(&e))?;
    let answer = answer.error_for_status().map_err(|e| innermost(&e))?;
    // Not `content_length()`: that is the length of the answer's body, which a HEAD does not have.
    let length = answer.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    length.ok_or_else(|| "it does not say how long the file is".into())
}

fn read_small(client: Option<&Client>, source: &str, limit: u64) -> Result<Vec<u8>, String> {
    let reader: Box<dyn Read> = match (client, is_address(source)) {
        (Some(client), true) => {
            let answer = client.get(source).send().map_err(|e| innermost(&e))?;
            Box::new(answer.error_for_status().map_err(|e| innermost(&e))?)
        }
        _ => Box::new(File::open(folder_path(source)).map_err(|e| e.to_string())?),
    };
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes).map_err(|e| innermost(&e))?;
    if bytes.len() as u64 > limit { Err(format!("it is longer than {limit} bytes")) } else { Ok(bytes) }
}

/// Whether a source answers and has the file; nothing of it is brought.
pub fn reach(source: &str) -> Result<()> {
    if !is_address(source) {
        return File::open(folder_path(source)).map(drop).with_context(|| format!("opening `{source}`"));
    }
    let answer = client()?.head(source).send().and_then(reqwest::blocking::Response::error_for_status);
    answer.map(drop).map_err(|e| Failure::new(Kind::Network, innermost(&e)).hint(NETWORK_HINT).into())
}

/// The items that the store does not hold, each once. Those that it holds are hashed.
fn absent(ctx: &Context, store: &Store, items: &[Item]) -> Result<Vec<Item>> {
    let items: BTreeMap<Sha256, &Item> = items.iter().map(|item| (item.sha256, item)).collect();
    let (present, absent): (Vec<&Item>, Vec<&Item>) =
        items.into_values().partition(|item| store.contains(&item.sha256, item.size));
    let mut wanted: Vec<Item> = absent.into_iter().cloned().collect();
    if !present.is_empty() {
        let bytes = present.iter().map(|item| item.size).sum();
        let step = ctx.ui.step_bytes(STAGE, format!("checking {} of the store", count(present.len(), "file")), bytes);
        let checked = on_all_cores(&present, |item| {
            ctx.check_interrupt()?;
            let path = store.verified(&item.sha256, item.size)?;
            step.advance(item.size);
            anyhow::Ok(path.is_some())
        });
        for (item, intact) in present.iter().zip(checked) {
            if !intact? {
                ctx.ui.warn(format!("`{}` was damaged in the store and is fetched again", item.name));
                wanted.push((*item).clone());
            }
        }
        step.done();
    }
    // Large ones first, so that the last worker does not end long after the others.
    wanted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.name.cmp(&b.name)));
    Ok(wanted)
}

/// Names the crypto provider of this process, once.
pub fn crypto() {
    static PROVIDER: OnceLock<()> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        // An error means that the process has one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

fn client() -> Result<Client> {
    crypto();
    let builder = || {
        Client::builder()
            .user_agent(concat!("castiron/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            // Of a blocking client this bounds each wait, not the whole transfer.
            .timeout(STALL_TIMEOUT)
    };
    // A host without CA certificates can still use plain HTTP: what is brought is verified by digest anyway.
    let built = builder().build().or_else(|_| builder().tls_certs_only([]).build());
    built.context("starting the HTTP client")
}

/// Whether a source is an address; else it is a path.
pub fn is_address(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

fn folder_path(source: &str) -> &Path {
    Path::new(source.strip_prefix("file://").unwrap_or(source))
}

/// The innermost cause of an error: reqwest's outer ones repeat the address and say little.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_every_source_and_tells_wrong_bytes_from_no_bytes() {
        let item = Item { name: "zlib1g".into(), sha256: Sha256::of(""), size: 7, sources: Vec::new(), token: None };
        let tried = |trouble| Try { source: "http://a/x".into(), trouble, message: "it is bad".into() };
        let missing =
            |tries: &[Trouble]| Missing { item: item.clone(), tries: tries.iter().map(|t| tried(*t)).collect() };
        let broken = failure(&[missing(&[Trouble::Gone, Trouble::Broken])]);
        assert_eq!(broken.kind, Kind::Network);
        assert_eq!(
            broken.to_string(),
            "no source gives `zlib1g`\n`zlib1g` (7 bytes, sha256 e3b0c44298fc…)\n  http://a/x: it is bad\n  http://a/x: it is bad"
        );
        assert_eq!(failure(&[missing(&[Trouble::Wrong, Trouble::Broken])]).kind, Kind::Integrity);
        assert!(missing(&[Trouble::Gone]).is_gone());
        let many = failure(&vec![missing(&[]); 12]).to_string();
        assert!(many.starts_with("no source gives 12 of the files\n") && many.ends_with("\nand 2 more"), "{many}");
    }
}
