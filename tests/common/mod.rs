//! What tests of `castiron build` stand on: a warm store that they share, stores of their own over its bytes, and runs
//! that are watched.
//!
//! Nothing here sleeps: a test waits for an event, for a process, or for the end of a pipe that a process and all that it
//! started hold.
#![allow(dead_code)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use walkdir::WalkDir;

/// The program.
pub const CASTIRON: &str = env!("CARGO_BIN_EXE_castiron");
/// This project.
pub const PROJECT: &str = env!("CARGO_MANIFEST_DIR");
/// After this, what is waited for will not come. Far above what anything here needs.
const LIMIT: Duration = Duration::from_secs(300);

/// A store in which every stage of `db` is done, and the release that came of it.
pub struct Warm {
    pub store: PathBuf,
    pub release: PathBuf,
}

/// The store of this machine's user (`CASTIRON_TEST_STORE`, `CASTIRON_STORE`, or the cache folder): packages and tools.
fn source() -> PathBuf {
    let named = ["CASTIRON_TEST_STORE", "CASTIRON_STORE"].into_iter().find_map(std::env::var_os).map(PathBuf::from);
    let cache = || std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache");
    named.unwrap_or_else(|| cache().unwrap_or_else(home).join("castiron"))
}

/// The warm store; made by one build, once for each run of a test program.
pub fn warm() -> &'static Warm {
    static WARM: OnceLock<Warm> = OnceLock::new();
    WARM.get_or_init(|| {
        let (source, folder) = (source(), Path::new(env!("CARGO_TARGET_TMPDIR")).join("warm"));
        let (store, out) = (folder.join("store"), folder.join("out"));
        fs::create_dir_all(&store).unwrap();
        link_tree(&source.join("sha256-v1"), &store.join("sha256-v1"));
        share_tools(&source, &store);
        let ran = Ran::of(&mut castiron(&store, &["build", "db", "--output", out.to_str().unwrap()]));
        let release = PathBuf::from(ran.data());
        // Of each stage only the last result, so that a link to all is a link to the right ones.
        for results in fs::read_dir(store.join("stages-v1")).unwrap().map(|e| e.unwrap().path()) {
            let when = |path: &Path| fs::metadata(path.join("record.json")).and_then(|m| m.modified()).ok();
            let mut folders: Vec<PathBuf> = fs::read_dir(&results).unwrap().map(|e| e.unwrap().path()).collect();
            folders.retain(|folder| folder.is_dir());
            folders.sort_by_key(|folder| when(folder));
            for old in folders.iter().rev().skip(1) {
                fs::remove_dir_all(old).unwrap();
            }
        }
        Warm { store, release }
    })
}

/// Lets `store` have the tools trees of another store.
pub fn share_tools(from: &Path, store: &Path) {
    fs::create_dir_all(from.join("tools")).unwrap();
    let real = from.join("tools").canonicalize().unwrap();
    let _ = std::os::unix::fs::symlink(real, store.join("tools"));
}

/// Links every file below `from` to the same place below `to`; copies where a link is not possible.
pub fn link_tree(from: &Path, to: &Path) {
    for entry in WalkDir::new(from).into_iter().filter_map(Result::ok) {
        let target = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            fs::create_dir_all(&target).unwrap();
        } else if !target.exists() && fs::hard_link(entry.path(), &target).is_err() {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// The program on a store; JSON events on stdout.
pub fn castiron(store: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(CASTIRON);
    command.args(["--json", "--project", PROJECT, "--store"]).arg(store).args(args);
    command
}

/// `unshare` of the host with these namespaces, in which this user is root: the command follows.
pub fn unshare(namespaces: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    command.args(namespaces).arg("--");
    command
}

/// A folder with a store of its own and room for a release.
pub struct World {
    pub folder: tempfile::TempDir,
}

impl World {
    /// `stages` are those whose results the store has: names like `rootfs-base`, or how they begin.
    pub fn new(stages: &[&str]) -> Self {
        let world =
            Self { folder: tempfile::Builder::new().prefix("world-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() };
        let warm = warm();
        fs::create_dir_all(world.path("out")).unwrap();
        link_tree(&warm.store.join("sha256-v1"), &world.path("store/sha256-v1"));
        share_tools(&warm.store, &world.path("store"));
        for results in fs::read_dir(warm.store.join("stages-v1")).unwrap().map(|e| e.unwrap()) {
            let name = results.file_name().into_string().unwrap();
            if stages.iter().any(|stage| name.starts_with(stage)) {
                link_tree(&results.path(), &world.path("store/stages-v1").join(name));
            }
        }
        world
    }

    /// One whose store has the tools tree's packages, but not the tree.
    pub fn without_tools(stages: &[&str]) -> Self {
        let world = Self::new(stages);
        fs::remove_file(world.path("store/tools")).unwrap();
        world
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// What nothing else on this machine has in its name.
    pub fn marker(&self) -> String {
        self.folder.path().file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// `castiron build db`, and further arguments.
    pub fn build(&self, args: &[&str]) -> Command {
        let mut command = castiron(&self.path("store"), &["build", "db", "--output"]);
        command.arg(self.path("out")).args(args);
        command
    }

    /// Every path below the store's stages and the output folder whose name says that it is not finished.
    pub fn unfinished(&self) -> Vec<PathBuf> {
        let is_unfinished =
            |name: &str| name.contains(".making-") || name.contains(".unpacking-") || name.ends_with(".tmp");
        ["store", "out"]
            .iter()
            .flat_map(|folder| WalkDir::new(self.path(folder)).into_iter().filter_map(Result::ok))
            .filter(|entry| is_unfinished(&entry.file_name().to_string_lossy()))
            .map(walkdir::DirEntry::into_path)
            .collect()
    }

    /// Processes that have a path of this world among their arguments or mounts.
    pub fn processes(&self) -> Vec<String> {
        let marker = self.marker();
        let mut found = Vec::new();
        for process in fs::read_dir("/proc").unwrap().map(|e| e.unwrap().path()) {
            let is_ours = |file: &str| {
                fs::read(process.join(file)).is_ok_and(|text| String::from_utf8_lossy(&text).contains(&marker))
            };
            if is_ours("mountinfo") || is_ours("cmdline") {
                let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
                found.push(format!("{} {}", process.display(), name.trim()));
            }
        }
        found
    }

    /// Asserts that a build ended as it should, and made what the warm one made.
    #[track_caller]
    pub fn expect_release(&self, ran: &Ran) {
        assert_eq!(ran.code, Some(0), "{}", ran.error());
        let release = PathBuf::from(ran.data());
        assert_eq!(sums(&release), sums(&warm().release));
        castiron_verifies(&release);
        assert_eq!(self.unfinished(), Vec::<PathBuf>::new());
    }
}

/// Copies what a build reads of this project.
pub fn copy_project(to: &Path) {
    for folder in ["profiles", "overlays", "firstboot"] {
        for entry in WalkDir::new(Path::new(PROJECT).join(folder)).into_iter().map(Result::unwrap) {
            let target = to.join(entry.path().strip_prefix(PROJECT).unwrap());
            if entry.file_type().is_dir() {
                fs::create_dir_all(&target).unwrap();
            } else if entry.file_type().is_symlink() {
                let _ = fs::remove_file(&target);
                std::os::unix::fs::symlink(fs::read_link(entry.path()).unwrap(), &target).unwrap();
            } else {
                fs::copy(entry.path(), &target).unwrap();
            }
        }
    }
}

/// Every path of the image of `db` in a release: lines of its list of contents.
pub fn paths(release: &Path) -> Vec<Value> {
    let list = fs::File::open(release.join("db.contents.jsonl.zst")).unwrap();
    events(&std::io::read_to_string(zstd::Decoder::new(list).unwrap()).unwrap())
}

/// The checksums of a release.
pub fn sums(release: &Path) -> String {
    fs::read_to_string(release.join("SHA256SUMS")).unwrap()
}

/// Checks a release's files against its checksums, by castiron's own library.
#[track_caller]
pub fn castiron_verifies(release: &Path) {
    castiron::release::verify(release).unwrap();
}

/// How a run ended, and the events that it told.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub events: Vec<Value>,
}

impl Ran {
    pub fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
        Self { code: output.status.code(), events: events(&String::from_utf8(output.stdout).unwrap()) }
    }

    /// The one line of data that it wrote.
    #[track_caller]
    pub fn data(&self) -> &str {
        let data: Vec<&str> = self.told("data").filter_map(|e| e["line"].as_str()).collect();
        assert_eq!(data.len(), 1, "{}", self.error());
        data[0]
    }

    /// Message, causes and hint of its error, and its events where there is none.
    pub fn error(&self) -> String {
        let Some(error) = self.told("error").next() else { return format!("no error in {:#?}", self.events) };
        let causes = error["causes"].as_array().unwrap().iter().map(|c| c.as_str().unwrap());
        let lines = std::iter::once(error["message"].as_str().unwrap()).chain(causes);
        format!("{}\nhint: {}", lines.collect::<Vec<_>>().join("\n"), error["hint"].as_str().unwrap_or("none"))
    }

    /// Asserts the exit code and that the error has each of `parts`.
    #[track_caller]
    pub fn expect(&self, code: i32, parts: &[&str]) {
        let error = self.error();
        assert_eq!(self.code, Some(code), "{error}");
        for part in parts {
            assert!(error.contains(part), "no {part:?} in\n{error}");
        }
    }

    /// `stage outcome` of every step that ended, but for those that only looked at the store.
    pub fn steps(&self) -> Vec<String> {
        let ends = self.told("step-end").filter(|e| e["stage"] != "fetch");
        ends.map(|e| format!("{} {}", e["stage"].as_str().unwrap(), e["outcome"].as_str().unwrap())).collect()
    }

    /// Whether some step of that stage ended so.
    pub fn has(&self, stage: &str, outcome: &str) -> bool {
        self.steps().contains(&format!("{stage} {outcome}"))
    }

    /// The events of one kind.
    pub fn told<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |e| e["event"] == name)
    }

    /// The texts of notes and warnings.
    pub fn said(&self) -> String {
        let texts = self.events.iter().filter(|e| ["note", "warning"].iter().any(|n| e["event"] == *n));
        texts.filter_map(|e| e["text"].as_str()).collect::<Vec<_>>().join("\n")
    }
}

/// One JSON object a line.
pub fn events(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// A run that is watched while it goes on.
pub struct Watched {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    /// Its write end is held by the run and by everything that it started.
    alive: ChildStderr,
    events: Vec<Value>,
}

impl Watched {
    pub fn start(command: &Command) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec 9>&2 2>/dev/null; exec \"$@\"", "sh"]).arg(command.get_program());
        shell.args(command.get_args()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, value) in command.get_envs() {
            shell.env(name, value.unwrap());
        }
        let mut child = shell.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let alive = child.stderr.take().unwrap();
        Self { child, lines, alive, events: Vec::new() }
    }

    /// Reads events up to the first whose text contains `text`.
    #[track_caller]
    pub fn until(&mut self, text: &str) {
        loop {
            let Some(line) = self.lines.next() else { panic!("no {text:?} in {:#?}", self.events) };
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let found = event["event"] != "step-end" && event["text"].as_str().is_some_and(|t| t.contains(text));
            self.events.push(event);
            if found {
                return;
            }
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits for its end.
    pub fn end(mut self) -> (Ran, ChildStderr) {
        for line in self.lines {
            self.events.push(serde_json::from_str(&line.unwrap()).unwrap());
        }
        let status = self.child.wait().unwrap();
        (Ran { code: status.code(), events: self.events }, self.alive)
    }
}

/// Waits until no process is left that holds the other end.
pub fn wait_until_gone(mut alive: ChildStderr) {
    let (sender, gone) = mpsc::channel();
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        let _ = alive.read_to_end(&mut rest);
        sender.send(()).unwrap();
    });
    gone.recv_timeout(LIMIT).expect("every process ends");
}
