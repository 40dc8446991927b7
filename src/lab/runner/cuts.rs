//! Power cuts at random moments of a first boot or of an installation.
//!
//! One run is recorded write by write ([`WriteLog`]). Each cut leaves a copy of the disk with the writes up to its moment; of
//! those that no flush had made safe, some are lost.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::{Run, SCREEN};
use crate::fs;
use crate::lab::disk::copy_sparse;
use crate::lab::hardware::{DISKS, Disk, Source};
use crate::lab::scenario::{Installs, PowerCuts};
use crate::lab::writelog::{Random, WriteLog};

const RECORDED_DISK: &str = "recorded.raw";
const WRITES: &str = "writes.log";
/// What the run folder holds of a recording: large, and of no use once a run is over.
pub const FILES: [&str; 2] = [RECORDED_DISK, WRITES];
/// The disk of a machine whose power was cut.
const CUT_DISK: &str = "disk.raw";

impl Run<'_> {
    pub(super) fn power_cuts(&mut self, cuts: PowerCuts) -> Result<()> {
        let log = self.record("a first boot", |run| {
            run.ask(cuts.within).context("the first boot, without a cut")?;
            run.machine.take().context("the machine is on")?.cut();
            Ok(())
        })?;
        self.each_cut(&log, cuts.count, |run, folder, disk| {
            run.machine = Some(run.start(folder, vec![disk], run.medium_is_in)?);
            run.ask(cuts.within)
        })
    }

    pub(super) fn install_cuts(&mut self, cuts: Installs) -> Result<()> {
        let log =
            self.record("an installation", |run| run.off(cuts.within).context("the installation, without a cut"))?;
        self.each_cut(&log, cuts.count, |run, folder, disk| {
            run.machine = Some(run.start(folder, vec![disk.clone()], true)?);
            // A cut after the last write leaves an installed disk, which is booted at once.
            let limit = run.lab.patience(cuts.within + cuts.boot);
            let (answer, machine) = run.machine.take().context("the machine is on")?.ask(limit)?;
            if machine.is_some() {
                run.machine = machine;
                return run.judge(answer);
            }
            run.machine = Some(run.start(folder, vec![disk], false)?);
            run.ask(cuts.boot)
        })
    }

    /// Records what `run` has the machine write to its first disk.
    fn record(&mut self, what: &str, run: impl FnOnce(&mut Self) -> Result<()>) -> Result<WriteLog> {
        let step = self.lab.ctx.ui.step("lab", format!("recording {what}"));
        let folder = self.folder.clone();
        copy_sparse(&folder.join(self.first_disk()?), &folder.join(RECORDED_DISK))?;
        fs::create(&folder.join(WRITES))?;
        let disk =
            Disk { source: Source::Raw(RECORDED_DISK.into()), log: Some(WRITES.into()), ..self.disks[0].clone() };
        self.machine = Some(self.start(&folder, vec![disk], self.medium_is_in)?);
        run(self)?;
        let log = WriteLog::open(&folder.join(WRITES))?;
        ensure!(!log.entries.is_empty(), "nothing was written: there is no moment to cut it at");
        step.done();
        Ok(log)
    }

    fn first_disk(&self) -> Result<String> {
        match self.disks.first().map(|disk| &disk.source) {
            Some(Source::Raw(name)) => Ok(name.clone()),
            _ => anyhow::bail!("the machine has no disk"),
        }
    }

    fn each_cut(
        &mut self,
        log: &WriteLog,
        count: u64,
        mut go_on: impl FnMut(&mut Self, &Path, Disk) -> Result<()>,
    ) -> Result<()> {
        let mut random = Random::new(self.lab.seed);
        let wanted = self.lab.cuts.unwrap_or(count);
        for n in 1..=wanted {
            let (count, all) = (random.below(log.entries.len() as u64 + 1) as usize, log.entries.len());
            let own = self.folder.join(format!("cut-{n:02}"));
            fs::create_dir_all(&own)?;
            copy_sparse(&self.folder.join(self.first_disk()?), &own.join(CUT_DISK))?;
            let lost = log.cut(&own.join(CUT_DISK), count, &mut random)?;
            let text = format!(
                "cut {n} of {} (seed {}): after write {count} of {all}, {} of {} unflushed ones lost",
                wanted, self.lab.seed, lost.lost, lost.unflushed
            );
            let step = self.lab.ctx.ui.step("lab", &text);
            let disk = Disk { source: Source::Raw(CUT_DISK.into()), ..self.disks[0].clone() };
            let judged = go_on(self, &own, disk).context(text);
            if let Some(mut machine) = self.machine.take() {
                if judged.is_err() {
                    let _ = machine.picture(SCREEN);
                }
                machine.cut();
            }
            for name in DISKS.iter().chain(&[CUT_DISK]) {
                fs::remove(&own.join(name))?;
            }
            judged?;
            step.done();
            fs::remove(&own)?;
        }
        Ok(())
    }
}
