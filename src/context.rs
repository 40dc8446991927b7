//! What every stage is handed: where things are, whom to tell, and whether to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Failure, Kind};
use crate::ui::Ui;

/// The surroundings of one run. Cheap to clone; shared by threads.
#[derive(Clone)]
pub struct Context {
    /// The narrator.
    pub ui: Ui,
    /// The folder that holds `profiles/`, `overlays/`, `firstboot/` and `vm-tests/`.
    pub project: PathBuf,
    /// The content-addressed store and, beside it, what is derived from it (tools tree, stage results).
    pub store: PathBuf,
    /// The lock, where it is another than `profiles/castiron.lock`.
    pub lock_file: Option<PathBuf>,
    /// Mirrors named on the command line, tried before those of the profiles.
    pub mirrors: Vec<String>,
    /// Whether each stage says why it ran or was reused.
    pub explain: bool,
    /// Children to end when this run is interrupted.
    pub children: Children,
    /// The results that this run has asked for: see [`Context::turn`].
    turns: Arc<Mutex<BTreeMap<PathBuf, Turn>>>,
}

/// Held by the thread that makes or checks a result; true once that is done.
pub type Turn = Arc<Mutex<bool>>;

impl Context {
    /// The surroundings of a project, with everything else as it is by default.
    pub fn new(ui: Ui, project: PathBuf, store: PathBuf) -> Self {
        Self {
            ui,
            project,
            store,
            lock_file: None,
            mirrors: Vec::new(),
            explain: false,
            children: Children::default(),
            turns: Arc::default(),
        }
    }

    /// Where the profiles and the locks lie.
    pub fn profiles(&self) -> PathBuf {
        self.project.join("profiles")
    }

    /// A folder under the store for results of `kind`, e.g. `stages`. The number is the format's version.
    pub fn derived(&self, kind: &str) -> PathBuf {
        self.store.join(kind)
    }

    /// The turn of a stage's result in this run: roles share results, and each is made or checked once.
    pub fn turn(&self, result: &Path) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(result.to_owned()).or_default().clone()
    }

    /// An error when somebody has asked to stop. Loops of unbounded length call it.
    pub fn check_interrupt(&self) -> Result<()> {
        self.children.check()
    }

    /// A path as people should see it: relative to the project where it lies inside.
    pub fn display<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.project).unwrap_or(path).display()
    }
}

/// The running children, and whether ctrl-C was pressed.
#[derive(Clone, Default)]
pub struct Children {
    running: Arc<Mutex<BTreeSet<i32>>>,
    interrupted: Arc<AtomicBool>,
}

impl Children {
    /// Ends what runs on SIGINT, SIGTERM and SIGHUP; a second signal ends this process at once.
    pub fn watch_signals(&self) -> Result<()> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let this = self.clone();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                if this.interrupted.swap(true, Ordering::SeqCst) {
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                }
                this.stop_all();
            }
        });
        Ok(())
    }

    /// The error of an interrupted run, if it is one.
    pub fn check(&self) -> Result<()> {
        if self.interrupted.load(Ordering::SeqCst) {
            return Err(Failure::new(Kind::Interrupted, "interrupted; a rerun goes on from here").into());
        }
        Ok(())
    }

    /// Counts a child in, so that an interrupt reaches it. SIGTERM must end it and all that it started.
    pub fn add(&self, pid: u32) {
        if let Ok(mut running) = self.running.lock() {
            running.insert(pid.cast_signed());
        }
        // The signal may have come between the spawn and this line.
        if self.interrupted.load(Ordering::SeqCst) {
            self.stop_all();
        }
    }

    /// Counts a child out. Call it before it is reaped: a reaped pid may be somebody else's.
    pub fn remove(&self, pid: u32) {
        if let Ok(mut running) = self.running.lock() {
            running.remove(&pid.cast_signed());
        }
    }

    fn stop_all(&self) {
        if let Ok(running) = self.running.lock() {
            for pid in running.iter() {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGTERM);
            }
        }
    }
}
