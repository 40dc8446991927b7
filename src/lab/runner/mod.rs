//! Runs scenarios, one machine at a time: two at once on few cores take more than twice as long each (measured).
//!
//! In: a [`Scenario`], a release's image. Out: nothing when it passed; else an error, and a folder with all that was seen:
//! `serial.log`, `screen.png`, `verdict.json`. Runs: what `qemu` and `image` run.

mod cuts;
mod install;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::context::Context;
use crate::error::{Failure, Kind};
use crate::fs;
use crate::lab::disk::{RawDisk, Slot, copy_sparse};
use crate::lab::hardware::{Accelerator, DISKS, Disk, Firmware, Medium, SERIAL_LOG, Source, Spec};
use crate::lab::image::{Format, Image};
use crate::lab::link::{Answer, Miss, plain};
use crate::lab::qemu::Machine;
use crate::lab::scenario::{Console, Healthy, Scenario, Step};
use crate::lab::screen::Screen;
use crate::lab::site::Site;
use crate::tools::Tools;

/// What scenarios run on.
pub struct Lab<'a> {
    /// Surroundings.
    pub ctx: &'a Context,
    /// Tools tree.
    pub tools: &'a Tools,
    /// What executes machines.
    pub accelerator: Accelerator,
    /// The image under test.
    pub image: Image,
    /// Another build, for slot B.
    pub other: Option<Image>,
    /// The release's installer medium.
    pub iso: Option<PathBuf>,
    /// Where run folders are made.
    pub output: PathBuf,
    /// What random moments are drawn from.
    pub seed: u64,
    /// How many power cuts, instead of as many as the scenario says.
    pub cuts: Option<u64>,
}

const DISK: &str = "disk.raw";
const OTHER_DISK: &str = "other.raw";
/// A copy of the image that is stamped.
const STAMPED: &str = "stamped";
/// The installer medium.
const MEDIUM: &str = "medium.iso";
const SCREEN: &str = "screen.png";
const PIXELS: &str = "screen.ppm";
const VERDICT: &str = "verdict.json";

impl Lab<'_> {
    /// Runs a scenario on one firmware. Its folder stays only when it failed.
    pub fn run(&self, scenario: &Scenario, firmware: Firmware) -> Result<()> {
        let name = scenario.run_name(firmware);
        let folder = self.new_folder(&name)?;
        let step = self.ctx.ui.step("lab", &name);
        let mut run = Run {
            lab: self,
            scenario,
            firmware,
            folder: folder.clone(),
            machine: None,
            disks: Vec::new(),
            medium_is_in: true,
            site: None,
            answer: None,
            searched: 0,
            remembered: BTreeMap::new(),
        };
        let outcome = run.all();
        if let Err(interrupted) = self.ctx.check_interrupt() {
            drop(run);
            fs::remove(&folder)?;
            return Err(interrupted);
        }
        if outcome.is_err() {
            run.keep_evidence();
        }
        drop(run);
        match outcome {
            Ok(()) => {
                step.done();
                fs::remove(&folder)
            }
            Err(error) => {
                for name in DISKS.iter().chain(&[DISK, OTHER_DISK, STAMPED]).chain(&cuts::FILES) {
                    fs::remove(&folder.join(name))?;
                }
                install::forget(&folder)?;
                Err(error.context(format!("the scenario `{name}`")))
            }
        }
    }

    fn new_folder(&self, name: &str) -> Result<PathBuf> {
        fs::create_dir_all(&self.output)?;
        for n in 1_u32.. {
            let folder = self.output.join(format!("{name}-{n}"));
            match std::fs::create_dir(&folder) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => {
                    made.with_context(|| format!("creating the folder `{}`", folder.display()))?;
                    return Ok(folder);
                }
            }
        }
        bail!("`{}` is full of folders", self.output.display())
    }

    /// A raw copy of an image.
    fn copy(&self, image: &Image, folder: &Path, name: &str) -> Result<()> {
        match image.format {
            Format::Raw => copy_sparse(&image.path, &folder.join(name)),
            Format::Qcow2 => self
                .tools
                .cmd("copying an image")
                .bind(&image.path, "image")
                .bind_rw(folder, "run")
                .step(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", "/mnt/image", &format!("/mnt/run/{name}")])
                .run(self.ctx),
        }
    }

    fn patience(&self, seconds: u64) -> Duration {
        Duration::from_secs(seconds) * self.accelerator.patience()
    }
}

/// One run of one scenario.
struct Run<'a> {
    lab: &'a Lab<'a>,
    scenario: &'a Scenario,
    firmware: Firmware,
    folder: PathBuf,
    machine: Option<Machine>,
    disks: Vec<Disk>,
    medium_is_in: bool,
    site: Option<Site>,
    answer: Option<Answer>,
    /// How much of the console former steps have seen.
    searched: usize,
    remembered: BTreeMap<String, String>,
}

impl Run<'_> {
    fn all(&mut self) -> Result<()> {
        self.prepare().context("preparing the disk")?;
        for placed in &self.scenario.steps {
            let place = format!("{}:{}", self.scenario.file.display(), placed.line);
            self.lab.ctx.ui.verbose(format!("{place}: {:?}", placed.step));
            self.step(&placed.step).with_context(|| format!("the step at {place}"))?;
        }
        Ok(())
    }

    fn prepare(&mut self) -> Result<()> {
        if self.scenario.medium.is_some() {
            return self.prepare_installation();
        }
        let plan = &self.scenario.disk;
        let site = (!plan.stamp.is_empty()).then(|| Site::load(self.lab.ctx, &self.scenario.site)).transpose()?;
        match site {
            None => self.lab.copy(&self.lab.image, &self.folder, DISK)?,
            Some(site) => {
                // Stamped as it is delivered, then copied.
                let stamped = Image { path: self.folder.join(STAMPED), ..self.lab.image.clone() };
                copy_sparse(&self.lab.image.path, &stamped.path)?;
                site.stamp(&stamped.path, &plan.stamp)?;
                self.lab.copy(&stamped, &self.folder, DISK)?;
                fs::remove(&stamped.path)?;
            }
        }
        let disk = RawDisk::open_rw(&self.folder.join(DISK))?;
        if plan.fill_slot_b {
            let other = self.lab.other.as_ref().context("no other release was named")?;
            self.lab.copy(other, &self.folder, OTHER_DISK)?;
            let source = self.folder.join(OTHER_DISK);
            disk.put_slot(&RawDisk::open(&source)?, Slot::A, Slot::B)?;
            fs::remove(&source)?;
        }
        for damage in &plan.corrupt {
            disk.flip(damage.slot, damage.part, damage.at)?;
        }
        if plan.tear_table {
            disk.tear_table()?;
        }
        self.disks = vec![Disk::new(Source::Raw(DISK.into()), self.scenario.bus)];
        plan.size.map_or(Ok(()), |size| disk.grow(size.0))
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Start => {
                self.searched = 0;
                self.machine = Some(self.start(&self.folder, self.disks.clone(), self.medium_is_in)?);
            }
            Step::Healthy(healthy) => self.healthy(healthy)?,
            Step::Console(console) => self.console(console)?,
            Step::Stays(stays) => {
                let machine = self.machine()?;
                let resets = machine.link.resets();
                let limit = Duration::from_secs(stays.seconds);
                match machine.link.until(limit, |link| (link.resets() > resets).then_some(())) {
                    Err(Miss::Late) => {}
                    Ok(()) => return Err(wrong("the machine reset itself")),
                    Err(Miss::Ended) => return Err(wrong("the machine switched itself off")),
                }
            }
            Step::Remember(facts) => {
                for fact in facts {
                    let value = self.fact(fact)?;
                    self.remembered.insert(fact.clone(), value);
                }
            }
            Step::Same(facts) => self.compare(facts, true)?,
            Step::Different(facts) => self.compare(facts, false)?,
            Step::Screen(text) => {
                self.machine()?.pixels(PIXELS)?;
                let seen = Screen::parse(&fs::read(&self.folder.join(PIXELS))?)?.shows(text);
                fs::remove(&self.folder.join(PIXELS))?;
                ensure!(seen, wrong(format!("the screen does not show `{text}`")));
            }
            Step::Reset => {
                let machine = self.machine()?;
                let resets = machine.link.resets();
                machine.monitor.system_reset()?;
                let heard = machine.link.until(RESET_LIMIT, |link| (link.resets() > resets).then_some(()));
                ensure!(heard.is_ok(), wrong("the machine did not reset"));
            }
            Step::PowerOff(limit) => {
                self.machine()?.monitor.system_powerdown()?;
                self.off(limit.within)?;
            }
            Step::Cut => self.machine.take().context("the machine is off")?.cut(),
            Step::Off(limit) => self.off(limit.within)?,
            Step::TakeOut => self.medium_is_in = false,
            Step::PlugSeed => self.plug_seed()?,
            Step::Untouched(n) => self.untouched(*n)?,
            Step::PowerCuts(cuts) => self.power_cuts(*cuts)?,
            Step::InstallCuts(cuts) => self.install_cuts(*cuts)?,
        }
        Ok(())
    }

    fn start(&self, folder: &Path, disks: Vec<Disk>, with_medium: bool) -> Result<Machine> {
        let medium = self.scenario.medium.as_ref().filter(|_| with_medium);
        let spec = Spec {
            firmware: self.firmware,
            accelerator: self.lab.accelerator,
            memory: self.scenario.memory,
            disks,
            medium: medium.map(|plan| Medium { path: self.folder.join(MEDIUM), attach: plan.attach }),
            kernel: None,
            cards: self.scenario.cards.clone(),
            maker: self.scenario.maker.clone(),
        };
        Machine::start(self.lab.ctx, self.lab.tools, folder, &spec)
    }

    fn machine(&mut self) -> Result<&mut Machine> {
        self.machine.as_mut().context("the machine is off")
    }

    fn fact(&self, name: &str) -> Result<String> {
        let facts = self.answer.as_ref().map(Answer::facts).unwrap_or_default();
        facts.get(name).cloned().ok_or_else(|| wrong(format!("the machine's verdict says nothing of `{name}`")))
    }

    fn ask(&mut self, seconds: u64) -> Result<()> {
        let limit = self.lab.patience(seconds);
        let (answer, machine) = self.machine.take().context("the machine is off")?.ask(limit)?;
        self.machine = machine;
        self.judge(answer)
    }

    fn judge(&mut self, answer: Answer) -> Result<()> {
        self.lab.ctx.check_interrupt()?;
        let verdict = match &answer {
            Answer::Verdict(verdict) => serde_json::to_string_pretty(verdict).context("keeping the verdict")?,
            Answer::NoVerdict { .. } => String::new(),
        };
        let passed = answer.is_healthy();
        let lines = answer.lines().join("\n");
        self.answer = Some(answer);
        if !passed {
            fs::write_atomic(&self.folder.join(VERDICT), verdict)?;
            return Err(wrong(lines));
        }
        Ok(())
    }

    /// Waits until the machine has switched itself off.
    fn off(&mut self, seconds: u64) -> Result<()> {
        let patience = self.lab.patience(seconds);
        let mut machine = self.machine.take().context("the machine is off")?;
        if machine.link.until(patience, |_| None::<()>) == Err(Miss::Late) {
            let tail = machine.link.console_tail(20).join("\n  | ");
            self.machine = Some(machine);
            self.lab.ctx.check_interrupt()?;
            return Err(wrong(format!("the machine was not off after {} s\n  | {tail}", patience.as_secs())));
        }
        self.lab.ctx.check_interrupt()?;
        machine.finish()
    }

    fn healthy(&mut self, expected: &Healthy) -> Result<()> {
        self.ask(expected.within)?;
        let mut differences = Vec::new();
        for (name, value) in &expected.facts {
            let found = self.fact(name)?;
            if found != *value {
                differences.push(format!("`{name}` is `{found}` instead of `{value}`"));
            }
        }
        for (name, least) in &expected.at_least {
            let found = self.fact(name)?;
            if found.parse::<u64>().ok().is_none_or(|bytes| bytes < least.0) {
                differences.push(format!("`{name}` is `{found}`, less than {}", least.0));
            }
        }
        ensure!(differences.is_empty(), wrong(format!("the machine is healthy, but {}", differences.join(", "))));
        Ok(())
    }

    fn console(&mut self, expected: &Console) -> Result<()> {
        let limit = self.lab.patience(expected.within);
        let from = self.searched;
        let found = self.machine()?.link.until(limit, |link| {
            let all = plain(link.console_since(0));
            let new = all.get(from..).unwrap_or_default();
            let at = new.find(&expected.text);
            let early = expected.before.iter().find(|text| new[..at.unwrap_or(new.len())].contains(text.as_str()));
            match (early, at) {
                (Some(text), _) => Some(Err(text.clone())),
                (None, Some(at)) => Some(Ok(from + at + expected.text.len())),
                (None, None) => None,
            }
        });
        self.lab.ctx.check_interrupt()?;
        match found {
            Ok(Ok(seen)) => self.searched = seen,
            Ok(Err(early)) => return Err(wrong(format!("the console said `{early}` before `{}`", expected.text))),
            Err(miss) => {
                let why = match miss {
                    Miss::Late => format!("within {} s", limit.as_secs()),
                    Miss::Ended => "before the machine ended".to_owned(),
                };
                let tail = self.machine()?.link.console_tail(20).join("\n  | ");
                return Err(wrong(format!("the console did not say `{}` {why}\n  | {tail}", expected.text)));
            }
        }
        Ok(())
    }

    fn compare(&self, facts: &[String], same: bool) -> Result<()> {
        for fact in facts {
            let (before, now) = (self.remembered.get(fact).context("was remembered")?, self.fact(fact)?);
            if (*before == now) != same {
                let how = if same { "changed from" } else { "did not change:" };
                let to = if same { format!(" to `{now}`") } else { String::new() };
                return Err(wrong(format!("`{fact}` {how} `{before}`{to}")));
            }
        }
        Ok(())
    }

    /// Keeps what a failed run can still tell, and says where.
    fn keep_evidence(&mut self) {
        if let Some(mut machine) = self.machine.take() {
            // A machine that is gone has no screen.
            let _ = machine.picture(SCREEN);
            machine.cut();
        }
        let files: Vec<String> = [SERIAL_LOG, SCREEN, VERDICT]
            .iter()
            .map(|name| self.folder.join(name))
            .filter(|file| fs::len(file).is_ok_and(|length| length > 0))
            .map(|file| format!("  {}", file.display()))
            .collect();
        self.lab.ctx.ui.note(format!(
            "what `{}` left, in {}:\n{}",
            self.scenario.name,
            self.folder.display(),
            files.join("\n")
        ));
    }
}

const RESET_LIMIT: Duration = Duration::from_secs(30);

/// Something was not as the scenario says.
fn wrong(what: impl Into<String>) -> anyhow::Error {
    Failure::new(Kind::Verdict, what).into()
}
