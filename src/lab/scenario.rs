//! Scenarios: what to attach, what to do and when, what must be seen. Data, so that nobody has to read Rust to judge them.
//!
//! In: `vm-tests/<name>/scenario.toml`. Out: [`Scenario`], checked as far as that goes without a machine.
//!
//! Every wait has its limit in the file, in seconds as they pass on KVM; on QEMU's own translator all limits are longer by
//! the same factor. A step is one word, or one word with a table, so that an error points at the very step.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;
use toml::Spanned;

use crate::error::{Failure, Kind};
use crate::fs;
use crate::lab::disk::{Part, Slot};
use crate::lab::qemu::{Bus, Firmware};

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
    /// What is done and what must be seen, in order.
    pub steps: Vec<PlacedStep>,
}

impl Scenario {
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
    steps: Vec<Spanned<Step>>,
}

/// What is done to a copy of the image before the first start.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DiskPlan {
    /// The disk's size, where it is larger than the image.
    pub size: Option<Size>,
    /// Puts the other release into slot B.
    #[serde(default)]
    pub fill_slot_b: bool,
    /// Spoils the first partition table, as a power cut does while it is written; the one at the disk's end is whole.
    #[serde(default)]
    pub tear_table: bool,
    /// Bits to turn over.
    #[serde(default)]
    pub corrupt: Vec<Damage>,
}

/// One bit to turn over.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Damage {
    /// In which slot.
    pub slot: Slot,
    /// In what of it.
    pub part: Part,
    /// In which byte of that.
    pub at: u64,
}

/// One step.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Switches the machine on.
    Start,
    /// The machine must answer that it is healthy, and what it says of itself must fit.
    Healthy(Healthy),
    /// The console must say a text.
    Console(Console),
    /// For some seconds the machine must neither reset nor switch itself off.
    Stays(Stays),
    /// Keeps facts of the last verdict, to compare with later ones.
    Remember(Vec<String>),
    /// These facts of the last verdict must be as they were remembered.
    Same(Vec<String>),
    /// These facts of the last verdict must not be as they were remembered.
    Different(Vec<String>),
    /// The screen must show a text, now.
    Screen(String),
    /// Presses the reset button.
    Reset,
    /// Presses the power button and waits until the machine is off.
    PowerOff(Within),
    /// Takes the power away.
    Cut,
    /// Records a first boot, then boots copies of the disk whose power was cut at random moments of it.
    PowerCuts(PowerCuts),
}

/// See [`Step::Healthy`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Healthy {
    /// Seconds.
    pub within: u64,
    /// Facts that must have these values.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
    /// Facts, numbers of bytes, that must be at least so large.
    #[serde(default)]
    pub at_least: BTreeMap<String, Size>,
}

/// See [`Step::Console`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Console {
    /// What it must say, after what former steps have seen.
    pub text: String,
    /// Seconds.
    pub within: u64,
    /// What it must not say before.
    #[serde(default)]
    pub before: Vec<String>,
}

/// See [`Step::Stays`].
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Stays {
    /// Seconds.
    pub seconds: u64,
}

/// A limit.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Within {
    /// Seconds.
    pub within: u64,
}

/// See [`Step::PowerCuts`].
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PowerCuts {
    /// How many.
    pub count: u64,
    /// Seconds for each boot.
    pub within: u64,
}

/// A number of bytes: a whole number and M or G.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub u64);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size: write a whole number and `M` or `G`, such as `8G`");
        let (number, shift) = match text.strip_suffix('G') {
            Some(number) => (number, 30),
            None => (text.strip_suffix('M').ok_or_else(wrong)?, 20),
        };
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let number: u64 = number.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
        number.checked_mul(1 << shift).filter(|&bytes| bytes > 0).map(Self).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

const FOLDER: &str = "vm-tests";
const FILE: &str = "scenario.toml";
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
    let found = check(&read);
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
        steps: read.steps.into_iter().map(place).collect(),
    })
}

/// What serde cannot see.
fn check(file: &ScenarioFile) -> Vec<(Range<usize>, String)> {
    let mut problems = Vec::new();
    if file.firmware.get_ref().is_empty() {
        problems.push((file.firmware.span(), "a scenario runs on at least one firmware".to_owned()));
    }
    let end = file.steps.last().map_or(file.firmware.span(), Spanned::span);
    if file.disk.corrupt.iter().any(|d| d.slot == Slot::B) && !file.disk.fill_slot_b {
        let text = "`corrupt` names slot `b`, which is empty: add `fill-slot-b = true`";
        problems.push((file.firmware.span(), text.to_owned()));
    }
    let (mut on, mut judged, mut used) = (false, false, false);
    let mut remembered = BTreeSet::new();
    for placed in &file.steps {
        let mut say = |text: String| problems.push((placed.span(), text));
        let step = placed.get_ref();
        let needs_verdict = matches!(step, Step::Remember(_) | Step::Same(_) | Step::Different(_));
        let needs_power = !needs_verdict && !matches!(step, Step::Start | Step::PowerCuts(_));
        if matches!(step, Step::Start) && on {
            say("the machine is on already".into());
        }
        if matches!(step, Step::PowerCuts(_)) && used {
            say("`power-cuts` needs a disk that was never started: make it the first step".into());
        }
        if needs_verdict && !judged {
            say("there is no verdict yet: a `healthy` step must come before".into());
        }
        if needs_power && !on {
            say("the machine is off: a `\"start\"` step must come before".into());
        }
        match step {
            Step::Start => on = true,
            Step::Cut | Step::PowerOff(_) => on = false,
            Step::Healthy(_) => judged = true,
            Step::Remember(facts) => remembered.extend(facts.iter().cloned()),
            Step::Same(facts) | Step::Different(facts) => {
                for fact in facts.iter().filter(|f| !remembered.contains(*f)) {
                    say(format!("`{fact}` was not remembered by a step before"));
                }
            }
            Step::PowerCuts(cuts) if cuts.count == 0 => say("`count` must be at least 1".into()),
            _ => {}
        }
        if limit(step) == Some(0) {
            say("a limit must be at least 1 second".into());
        }
        used = true;
    }
    if !file
        .steps
        .iter()
        .any(|s| matches!(s.get_ref(), Step::Healthy(_) | Step::Console(_) | Step::Screen(_) | Step::PowerCuts(_)))
    {
        problems.push((end, "nothing must be seen: such a scenario cannot fail".to_owned()));
    }
    problems
}

fn limit(step: &Step) -> Option<u64> {
    match step {
        Step::Healthy(Healthy { within, .. })
        | Step::Console(Console { within, .. })
        | Step::PowerOff(Within { within })
        | Step::PowerCuts(PowerCuts { within, .. }) => Some(*within),
        Step::Stays(stays) => Some(stays.seconds),
        _ => None,
    }
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
