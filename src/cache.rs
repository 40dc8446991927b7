//! Results of stages, kept under the digest of their inputs, so that nothing is done twice.
//!
//! A stage names its inputs first ([`Planned`]) and works only when no result of the same inputs is there. Keys are made
//! of inputs alone, never of results: the last stage's key is known before the first has run, and when it is there,
//! nothing before it is even looked at. The inputs lie beside the result as readable JSON, so a miss can say which of
//! them changed (after mkosi's cache manifest). A result is checked against its digests by each run that uses it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::digest::Sha256;
use crate::ui::Step;
use crate::{fs, store};

/// The folder of stage results, with the version of its format.
pub const FOLDER: &str = "stages-v1";

/// A stage that knows its inputs and has not run.
#[derive(Clone, Debug)]
pub struct Planned {
    stage: &'static str,
    name: String,
    inputs: BTreeMap<String, String>,
}

/// What lies beside a result.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    inputs: BTreeMap<String, String>,
    /// By name, with digest and length.
    files: BTreeMap<String, (Sha256, u64)>,
}

impl Planned {
    /// The stage `stage` for `name` (a role, a layer). This program is always one of its inputs.
    pub fn new(stage: &'static str, name: impl Into<String>) -> Self {
        let mut this = Self { stage, name: name.into(), inputs: BTreeMap::new() };
        this.input("castiron", own_digest());
        this
    }

    /// Names an input and its digest (or another text that changes whenever the input does).
    pub fn input(&mut self, name: impl Into<String>, value: impl ToString) {
        self.inputs.insert(name.into(), value.to_string());
    }

    /// The inputs, sorted by name.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.inputs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The digest of all inputs.
    pub fn key(&self) -> Sha256 {
        let mut text = format!("{} {}\n", self.stage, self.name);
        for (name, value) in &self.inputs {
            let _ = writeln!(text, "{name} = {value}");
        }
        Sha256::of(text)
    }

    /// The result's folder: reused when it is there and whole, else made by `make` in a temporary folder.
    ///
    /// `prepare` brings what `make` works on, such as the results of earlier stages; nothing of it happens when the result
    /// is there. `text` says what is being done. Whoever else wants the same result, here or in another process, waits.
    /// A stage may wait for the locks of earlier stages while it holds its own: the stages' order lets no circle arise.
    pub fn ensure<T>(
        &self,
        ctx: &Context,
        text: &str,
        prepare: impl FnOnce() -> Result<T>,
        make: impl FnOnce(T, &Path, &Step) -> Result<()>,
    ) -> Result<PathBuf> {
        let results = ctx.derived(FOLDER).join(format!("{}-{}", self.stage, self.name));
        let key = self.key();
        let folder = results.join(key.short());
        let turn = ctx.turn(&folder);
        let Ok(mut ready) = turn.lock() else { bail!("making `{} {}` panicked", self.stage, self.name) };
        if *ready {
            return Ok(folder);
        }
        self.ensure_in_turn(ctx, text, &results, prepare, make)?;
        *ready = true;
        Ok(folder)
    }

    fn ensure_in_turn<T>(
        &self,
        ctx: &Context,
        text: &str,
        results: &Path,
        prepare: impl FnOnce() -> Result<T>,
        make: impl FnOnce(T, &Path, &Step) -> Result<()>,
    ) -> Result<()> {
        let key = self.key();
        let folder = results.join(key.short());
        fs::create_dir_all(results)?;
        let lock = fs::create(&lock_of(results, &key.short()))?;
        store::lock(ctx, &lock, &format!("waiting for another build of `{} {}`", self.stage, self.name))?;
        match Self::check(&folder) {
            Ok(true) => {
                self.explain(ctx, &format!("reused: no input changed (key {})", key.short()));
                ctx.ui.step(self.stage, text).cached("no input changed");
                return Ok(());
            }
            Ok(false) => self.explain(ctx, &format!("ran: {}", self.changes(results))),
            Err(why) => {
                ctx.ui.warn(format!(
                    "a cached result of `{} {}` is damaged and made again: {why:#}",
                    self.stage, self.name
                ));
            }
        }
        fs::remove(&folder)?;
        clear(results, &key.short())?;
        let temporary = tempfile::Builder::new()
            .prefix(&format!("{MAKING}{}-", key.short()))
            .tempdir_in(results)
            .with_context(|| format!("creating a folder in `{}`", results.display()))?;
        let prepared = prepare()?;
        let step = ctx.ui.step(self.stage, text);
        make(prepared, temporary.path(), &step)?;
        let mut files = BTreeMap::new();
        for path in fs::list(temporary.path())? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.insert(name, Sha256::of_file(&path)?);
        }
        let record = Record { inputs: self.inputs.clone(), files };
        let text = serde_json::to_string_pretty(&record).context("writing a stage's record")?;
        fs::write_atomic(&temporary.path().join(RECORD), text)?;
        fs::rename(temporary.path(), &folder)?;
        std::mem::forget(temporary);
        step.done();
        Ok(())
    }

    /// Whether a result is there; an error when it is there and damaged.
    fn check(folder: &Path) -> Result<bool> {
        if !folder.join(RECORD).exists() {
            return Ok(false);
        }
        let record: Record = serde_json::from_str(&fs::read_to_string(&folder.join(RECORD))?)?;
        for (name, expected) in &record.files {
            let found = Sha256::of_file(&folder.join(name))?;
            anyhow::ensure!(found == *expected, "`{name}` is not what was written");
        }
        // The time of the last use, for `castiron store gc`.
        let _ = File::open(folder.join(RECORD)).and_then(|f| f.set_modified(now()));
        Ok(true)
    }

    /// Which inputs differ from those of the newest result of the same stage.
    fn changes(&self, results: &Path) -> String {
        let newest = fs::list(results)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|folder| {
                let path = folder.join(RECORD);
                let when = std::fs::metadata(&path).ok()?.modified().ok()?;
                Some((when, path))
            })
            .max();
        let Some((_, path)) = newest else { return "never ran before".to_owned() };
        let Some(old) = fs::read_to_string(&path).ok().and_then(|t| serde_json::from_str::<Record>(&t).ok()) else {
            return "the last result's record cannot be read".to_owned();
        };
        let mut changed: Vec<String> = Vec::new();
        for (name, value) in &self.inputs {
            match old.inputs.get(name) {
                None => changed.push(format!("{name} is new")),
                Some(before) if before != value => {
                    changed.push(format!("{name} changed ({} → {})", short(before), short(value)));
                }
                Some(_) => {}
            }
        }
        changed.extend(old.inputs.keys().filter(|n| !self.inputs.contains_key(*n)).map(|n| format!("{n} is gone")));
        changed.join(", ")
    }

    fn explain(&self, ctx: &Context, text: &str) {
        if ctx.explain {
            ctx.ui.note(format!("  {} {}: {text}", self.stage, self.name));
        }
    }
}

/// The record of a result, in its folder; its time is that of the last use.
pub const RECORD: &str = "record.json";

/// How the name of a result that is being made begins; its key follows.
const MAKING: &str = ".making-";

/// The file whose lock is held by whoever makes the result `key`.
fn lock_of(results: &Path, key: &str) -> PathBuf {
    results.join(format!(".{key}.lock"))
}

/// Removes what a kill or a power cut left half made: whoever makes a result holds its lock, as the caller does that of `mine`.
fn clear(results: &Path, mine: &str) -> Result<()> {
    for folder in fs::list(results)? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let Some((key, _)) = name.strip_prefix(MAKING).and_then(|rest| rest.split_once('-')) else { continue };
        if key == mine || fs::create(&lock_of(results, key))?.try_lock().is_ok() {
            fs::remove(&folder)?;
        }
    }
    Ok(())
}

fn short(value: &str) -> &str {
    value.get(..12).unwrap_or(value)
}

#[expect(clippy::disallowed_methods, reason = "the age of a cache entry is no input of a build")]
fn now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// The digest of this very program: another program may make something else of the same inputs.
fn own_digest() -> Sha256 {
    static DIGEST: std::sync::OnceLock<Sha256> = std::sync::OnceLock::new();
    *DIGEST.get_or_init(|| Sha256::of_file(Path::new("/proc/self/exe")).map_or_else(|_| Sha256::of(""), |(d, _)| d))
}
