//! Scenarios: what to attach, what to do and when, what must be seen. Data, so that nobody has to read Rust to judge them.
//!
//! In: `vm-tests/<name>/scenario.toml`. Out: [`Scenario`], checked as far as that goes without a machine.
//!
//! Every wait has its limit in the file, in seconds as they pass on KVM; on QEMU's own translator all limits are longer by
//! the same factor. A step is one word, or one word with a table, so that an error points at the very step.

pub mod check;
pub mod machine;
pub mod steps;

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;
use toml::Spanned;

use crate::error::{Failure, Kind};
use crate::fs;
use crate::lab::foreign::Holds;
use crate::lab::hardware::{Bus, Card, Firmware, Maker};
pub use machine::{Damage, Disk, DiskPlan, MediumPlan, Size};
pub use steps::{Console, Healthy, Installs, PowerCuts, Step};

/// A scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name: that of its folder.
    pub name: String,
    /// The file that it was read from, for messages.
    pub file: PathBuf,
    /// What it shows, in one line.
    pub description: String,
    /// The role whose image it boots; any role where it does not matter.
    pub role: Option<String>,
    /// The firmwares to run it on, one run each.
    pub firmware: Vec<Firmware>,
    /// What the disk is attached to.
    pub bus: Bus,
    /// Memory in MiB.
    pub memory: u64,
    /// What is done to the disk before.
    pub disk: DiskPlan,
    /// The installer medium that it starts from. Its disks are then [`disks`](Self::disks), not the role's image.
    pub medium: Option<MediumPlan>,
    /// The disks of a machine that is installed.
    pub disks: Vec<Disk>,
    /// Its network cards.
    pub cards: Vec<Card>,
    /// What its maker says.
    pub maker: Maker,
    /// The site file whose seeds are stamped.
    pub site: PathBuf,
    /// What is done and what must be seen, in order.
    pub steps: Vec<PlacedStep>,
}

impl Scenario {
    /// What it needs another release for, in words; nothing where it needs none.
    pub fn needs_other(&self) -> Option<&'static str> {
        let disk = self.disks.iter().any(|disk| disk.holds == Some(Holds::OtherBuild));
        self.disk.fill_slot_b.then_some("fills slot B").or(disk.then_some("has a disk with another build"))
    }

    /// The name of its run on one firmware.
    pub fn run_name(&self, firmware: Firmware) -> String {
        match self.firmware.len() {
            1 => self.name.clone(),
            _ => format!("{}-{}", self.name, firmware.name()),
        }
    }
}

/// A step and the line on which it stands.
#[derive(Clone, Debug)]
pub struct PlacedStep {
    /// The step.
    pub step: Step,
    /// Its line in the file.
    pub line: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ScenarioFile {
    description: String,
    role: Option<String>,
    firmware: Spanned<Vec<Firmware>>,
    #[serde(default)]
    bus: Bus,
    memory: Option<Size>,
    #[serde(default)]
    disk: DiskPlan,
    medium: Option<MediumPlan>,
    #[serde(default)]
    disks: Vec<Disk>,
    #[serde(default)]
    cards: Vec<Card>,
    #[serde(default)]
    maker: Maker,
    site: Option<PathBuf>,
    steps: Vec<Spanned<Step>>,
}

const FOLDER: &str = "vm-tests";
const FILE: &str = "scenario.toml";
/// The site file of scenarios that name none, in [`FOLDER`].
const SITE: &str = "site.toml";
const DEFAULT_MEMORY: u64 = 2 << 30;

/// The names of all scenarios of a project.
pub fn names(project: &Path) -> Result<Vec<String>> {
    let folder = project.join(FOLDER);
    if !folder.is_dir() {
        return Err(Failure::new(Kind::Input, format!("`{}` holds no folder `{FOLDER}`", project.display()))
            .hint("name castiron's folder with `--project`")
            .into());
    }
    let scenarios = fs::list(&folder)?.into_iter().filter(|folder| folder.join(FILE).is_file());
    Ok(scenarios.filter_map(|folder| Some(folder.file_name()?.to_str()?.to_owned())).collect())
}

/// Reads scenarios; an error tells every problem of every one.
pub fn load(project: &Path, names: &[String]) -> Result<Vec<Scenario>> {
    let known = self::names(project)?;
    let mut scenarios = Vec::new();
    let mut problems = Vec::new();
    for name in names {
        if !known.contains(name) {
            let hint = nearest(name, known.iter().map(String::as_str)).map(|n| format!(": did you mean `{n}`?"));
            problems.push(format!("there is no scenario `{name}`{}", hint.unwrap_or_default()));
            continue;
        }
        let file = Path::new(FOLDER).join(name).join(FILE);
        match parse(name, &file, &fs::read_to_string(&project.join(&file))?) {
            Ok(scenario) => scenarios.push(scenario),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() {
        return Ok(scenarios);
    }
    Err(Failure::new(Kind::Input, problems.join("\n")).hint("castiron lab --list").into())
}

/// Reads one scenario; the error is a list of problems with their places.
pub fn parse(name: &str, file: &Path, text: &str) -> Result<Scenario, Vec<String>> {
    let read: ScenarioFile = toml::from_str(text).map_err(|error| {
        let mut words = error.message().split('`').skip(1).step_by(2);
        let near = words.next().and_then(|wrong| nearest(wrong, words));
        let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        vec![problem(file, text, error.span().unwrap_or(0..0), &format!("{}{near}", error.message()))]
    })?;
    let found = check::check(&read);
    if !found.is_empty() {
        return Err(found.into_iter().map(|(span, message)| problem(file, text, span, &message)).collect());
    }
    let place = |step: Spanned<Step>| PlacedStep { line: line_of(text, step.span().start), step: step.into_inner() };
    Ok(Scenario {
        name: name.to_owned(),
        file: file.to_owned(),
        description: read.description,
        role: read.role,
        firmware: read.firmware.into_inner(),
        bus: read.bus,
        memory: read.memory.map_or(DEFAULT_MEMORY, |size| size.0) >> 20,
        disk: read.disk,
        medium: read.medium,
        disks: read.disks,
        cards: read.cards,
        maker: read.maker,
        site: read.site.map_or_else(|| Path::new(FOLDER).join(SITE), |own| file.with_file_name(own)),
        steps: read.steps.into_iter().map(place).collect(),
    })
}

/// The closest of `names`, if any is close.
fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = names.map(|name| (strsim::jaro_winkler(wrong, name), name)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (near.0 > 0.75).then_some(near.1)
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|&b| b == b'\n').count() + 1
}

/// A problem, its place, and the line with a caret under it.
fn problem(file: &Path, text: &str, span: Range<usize>, message: &str) -> String {
    let line = line_of(text, span.start);
    let start = text.bytes().take(span.start).rposition(|b| b == b'\n').map_or(0, |i| i + 1);
    let code = text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let column = text.get(start..span.start).map_or(0, |before| before.chars().count());
    let marked = text.get(span.start..span.end).map_or(1, |s| s.lines().next().unwrap_or_default().chars().count());
    let (gap, carets) = (" ".repeat(column), "^".repeat(marked.max(1)));
    format!("{}:{line}:{}: {message}\n  | {code}\n  | {gap}{carets}", file.display(), column + 1)
}
