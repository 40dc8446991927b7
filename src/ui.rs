//! The door to the terminal: one narrator, three ways to hear it.
//!
//! - On a terminal: one live line a running step (indicatif), and one lasting line when it ended.
//! - In a pipe: one plain line a step, when it ended; no escape codes.
//! - `--json`: one JSON object a line on stdout, for programs; [`EVENTS_VERSION`] is their schema's version.
//!
//! Stderr is for people. Stdout carries data only: paths made, tables asked for, or the JSON events.
//! Steps are guards: one that is dropped without a word has failed, and says so.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

/// The version of the JSON events; it changes when a field is removed or changes its meaning.
///
/// Every event has `v`, `event` and `time` (seconds since the program's start). `event` is one of
/// `step-start` {id, stage, text, total?}, `step-progress` {id, done, total?} (bytes, at most five a second),
/// `step-end` {id, stage, text, outcome: done|cached|skipped|failed, seconds, bytes?, why?}, `note` {text}, `warning` {text},
/// `data` {line}, `error` {message, causes[], hint?, exit_code}.
pub const EVENTS_VERSION: u32 = 1;

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// `-q`: warnings, errors and data only.
    Quiet,
    /// Steps and notes.
    Normal,
    /// `-v`: every command that is run, too.
    Verbose,
}

/// The narrator. Clones share one terminal.
#[derive(Clone)]
pub struct Ui(Arc<Inner>);

struct Inner {
    json: bool,
    verbosity: Verbosity,
    bars: MultiProgress,
    live: bool,
    started: Instant,
    next_id: AtomicU64,
    stdout: Mutex<io::Stdout>,
}

impl Ui {
    /// The narrator of this process.
    pub fn new(json: bool, verbosity: Verbosity) -> Self {
        let live = !json && verbosity > Verbosity::Quiet && io::stderr().is_terminal();
        let target = if live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self(Arc::new(Inner {
            json,
            verbosity,
            bars: MultiProgress::with_draw_target(target),
            live,
            started: Instant::now(),
            next_id: AtomicU64::new(1),
            stdout: Mutex::new(io::stdout()),
        }))
    }

    /// Whether stdout carries JSON events.
    pub fn is_json(&self) -> bool {
        self.0.json
    }

    /// Begins a step of `stage`. `text` says what is being done: "installing 212 packages".
    pub fn step(&self, stage: &'static str, text: impl Into<String>) -> Step {
        self.begin(stage, text.into(), None)
    }

    /// Begins a step whose size in bytes is known.
    pub fn step_bytes(&self, stage: &'static str, text: impl Into<String>, total: u64) -> Step {
        self.begin(stage, text.into(), Some(total))
    }

    fn begin(&self, stage: &'static str, text: String, total: Option<u64>) -> Step {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        self.event("step-start", json!({"id": id, "stage": stage, "text": text, "total": total}));
        let bar = self.0.live.then(|| {
            let (bar, style) = match total {
                Some(total) => (ProgressBar::new(total), BYTES_STYLE),
                None => (ProgressBar::new_spinner(), SPINNER_STYLE),
            };
            let bar = self.0.bars.add(bar);
            bar.set_style(ProgressStyle::with_template(style).expect("the template is fixed").progress_chars("=> "));
            bar.set_prefix(format!("{stage:<8}"));
            bar.set_message(text.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Step {
            ui: self.clone(),
            id,
            stage,
            text,
            total,
            bytes: AtomicU64::new(0),
            reported: Mutex::new(Instant::now()),
            started: Instant::now(),
            bar,
            ended: false,
            quiet: false,
        }
    }

    /// Something worth knowing that is no step.
    pub fn note(&self, text: impl AsRef<str>) {
        self.event("note", json!({"text": text.as_ref()}));
        if self.0.verbosity >= Verbosity::Normal {
            self.line(text.as_ref());
        }
    }

    /// Something that only `-v` asks for.
    pub fn verbose(&self, text: impl AsRef<str>) {
        if self.0.verbosity >= Verbosity::Verbose {
            self.event("note", json!({"text": text.as_ref()}));
            self.line(text.as_ref());
        }
    }

    /// Something that goes on but should not stay as it is.
    pub fn warn(&self, text: impl AsRef<str>) {
        self.event("warning", json!({"text": text.as_ref()}));
        self.line(&format!("warning: {}", text.as_ref()));
    }

    /// One line of data on stdout.
    pub fn data(&self, line: impl AsRef<str>) {
        if self.0.json {
            self.event("data", json!({"line": line.as_ref()}));
        } else {
            self.0.bars.suspend(|| self.stdout(line.as_ref()));
        }
    }

    /// The end of a run that failed: message, causes, hint. Returns the exit code.
    pub fn fail(&self, error: &anyhow::Error) -> u8 {
        let code = crate::error::exit_code(error);
        let hint = crate::error::hint(error);
        let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
        self.event("error", json!({"message": error.to_string(), "causes": causes, "hint": hint, "exit_code": code}));
        let mut text = format!("error: {error}");
        for cause in &causes {
            text.push_str("\n  caused by: ");
            text.push_str(&cause.replace('\n', "\n    "));
        }
        if let Some(hint) = hint {
            text.push_str("\nhint: ");
            text.push_str(&hint);
        }
        self.line(&text);
        code
    }

    fn line(&self, text: &str) {
        if !self.0.json {
            // A closed stderr is no reason to stop a build.
            self.0.bars.suspend(|| {
                let _ = writeln!(io::stderr(), "{text}");
            });
        }
    }

    fn stdout(&self, line: &str) {
        // A reader that went away (`castiron … | head`) is no error.
        if let Ok(mut out) = self.0.stdout.lock() {
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        }
    }

    fn event(&self, name: &str, fields: Value) {
        if !self.0.json {
            return;
        }
        let mut event = json!({
            "v": EVENTS_VERSION,
            "event": name,
            "time": (self.0.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        });
        if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
            event.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
        }
        self.stdout(&event.to_string());
    }
}

const SPINNER_STYLE: &str = "{spinner} {prefix} {wide_msg} {elapsed}";
const BYTES_STYLE: &str = "{spinner} {prefix} {msg:40!} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";

/// A step that runs: a guard that says how it ended.
pub struct Step {
    ui: Ui,
    id: u64,
    stage: &'static str,
    text: String,
    total: Option<u64>,
    bytes: AtomicU64,
    reported: Mutex<Instant>,
    started: Instant,
    bar: Option<ProgressBar>,
    ended: bool,
    quiet: bool,
}

impl Step {
    /// Marks a step that is one of many: its end leaves no line on the terminal.
    #[must_use]
    pub fn minor(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// `bytes` more are done.
    pub fn advance(&self, bytes: u64) {
        let done = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
        if self.ui.0.json {
            let Ok(mut last) = self.reported.lock() else { return };
            if last.elapsed() >= Duration::from_millis(200) {
                *last = Instant::now();
                self.ui.event("step-progress", json!({"id": self.id, "done": done, "total": self.total}));
            }
        }
    }

    /// `bytes` in all are done: where work goes on after an interruption, or starts over.
    pub fn set(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.advance(0);
    }

    /// It was done.
    pub fn done(self) {
        self.end("done", None);
    }

    /// Its result was there already; `why` says how that is known.
    pub fn cached(self, why: impl Into<String>) {
        self.end("cached", Some(why.into()));
    }

    fn end(mut self, outcome: &str, why: Option<String>) {
        self.close(outcome, why.as_deref());
    }

    fn close(&mut self, outcome: &str, why: Option<&str>) {
        self.ended = true;
        let bytes = self.bytes.load(Ordering::Relaxed);
        let seconds = self.started.elapsed().as_secs_f64();
        self.ui.event(
            "step-end",
            json!({
                "id": self.id, "stage": self.stage, "text": self.text, "outcome": outcome,
                "seconds": (seconds * 100.0).round() / 100.0, "bytes": (bytes > 0).then_some(bytes), "why": why,
            }),
        );
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            self.ui.0.bars.remove(bar);
        }
        let shown = if self.quiet { Verbosity::Verbose } else { Verbosity::Normal };
        // Of one of many that failed, the error tells.
        if self.ui.0.verbosity >= shown || (outcome == "failed" && !self.quiet) {
            let dots = ".".repeat(62_usize.saturating_sub(self.text.chars().count()).max(3));
            let end = match outcome {
                "done" if bytes > 0 => format!("{seconds:.1}s, {}", HumanBytes(bytes)),
                "done" => format!("{seconds:.1}s"),
                other => other.to_owned(),
            };
            self.ui.line(&format!("{:<8} {} {dots} {end}", self.stage, self.text));
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            self.close("failed", None);
        }
    }
}
