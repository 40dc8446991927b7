//! Scenarios of installations: the medium, the disks, and what steps do with them.
//!
//! Runs: `mke2fs`, `xorriso`.

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{MEDIUM, Run, wrong};
use crate::carrier::iso;
use crate::fs;
use crate::lab::disk::{RawDisk, copy_sparse, same_data};
use crate::lab::foreign::{self, Holds};
use crate::lab::hardware::{Disk, RUN, Source, USB};
use crate::lab::scenario;
use crate::lab::scenario::Step;
use crate::lab::site::Site;

/// Room for the files of a stick with seeds.
const STICK: usize = 4 << 20;
const STICK_FILE: &str = "stick.img";
/// As many bytes as the role's image has, which is copied there for that.
const IMAGE: &str = "image.raw";

fn disk_file(n: usize) -> String {
    format!("disk-{n}.raw")
}

/// The disk as it was before the first start.
fn pristine_file(n: usize) -> String {
    format!("pristine-{n}.raw")
}

/// Removes what is large.
pub(super) fn forget(folder: &Path) -> Result<()> {
    for path in fs::list(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let large = name.starts_with("disk-") || name.starts_with("pristine-");
        if large || [MEDIUM, STICK_FILE, IMAGE].contains(&&*name) {
            fs::remove(&path)?;
        }
    }
    Ok(())
}

impl Run<'_> {
    pub(super) fn prepare_installation(&mut self) -> Result<()> {
        let scenario = self.scenario;
        let plan = scenario.medium.as_ref().context("there is a medium")?;
        let iso = self.lab.iso.as_ref().context("the release has no installer medium")?;
        let site = Site::load(self.lab.ctx, &scenario.site)?;
        let medium = self.folder.join(MEDIUM);
        copy_sparse(iso, &medium)?;
        if plan.stamp {
            site.stamp(&medium, &[])?;
        }
        let file = fs::open_rw(&medium)?;
        for damage in &plan.corrupt {
            let (start, length) = iso::place(self.lab.ctx, self.lab.tools, &medium, &damage.file)?;
            let (name, at) = (damage.file.display(), damage.at);
            ensure!(at < length, "`{name}` has {length} bytes: there is no byte {at}");
            let mut byte = [0];
            file.read_exact_at(&mut byte, start + at)
                .and_then(|()| file.write_all_at(&[byte[0] ^ 1], start + at))
                .with_context(|| format!("turning over a bit of `{name}`"))?;
        }
        if let Some(cut) = plan.cut {
            ensure!(cut.0 < fs::len(&medium)?, "the medium is not so long that it could be cut at {} bytes", cut.0);
            file.set_len(cut.0).context("cutting the medium short")?;
        }
        for (n, plan) in scenario.disks.iter().enumerate() {
            let disk = self.make_disk(n, plan, &site).with_context(|| format!("making disk {n}"))?;
            self.disks.push(disk);
            if scenario.steps.iter().any(|placed| matches!(placed.step, Step::Untouched(of) if of == n)) {
                copy_sparse(&self.folder.join(disk_file(n)), &self.folder.join(pristine_file(n)))?;
            }
        }
        fs::remove(&self.folder.join(IMAGE))?;
        self.site = Some(site);
        Ok(())
    }

    fn make_disk(&self, n: usize, plan: &scenario::Disk, owner: &Site) -> Result<Disk> {
        let image = self.folder.join(IMAGE);
        let needs_image = plan.size.is_none() || plan.holds == Some(Holds::OtherSite);
        if needs_image && !image.exists() {
            self.lab.copy(&self.lab.image, &self.folder, IMAGE)?;
        }
        let size = match plan.size {
            Some(size) => size.0,
            None => fs::len(&image)? - plan.short.map_or(0, |short| short.0),
        };
        let (name, path) = (disk_file(n), self.folder.join(disk_file(n)));
        fs::create(&path)?;
        let file = fs::open_rw(&path)?;
        file.set_len(size).context("sizing it")?;
        match plan.holds {
            None => {}
            Some(Holds::OtherSite) => {
                copy_sparse(&image, &path)?;
                // Other secrets make another site.
                Site::load(self.lab.ctx, &self.scenario.site)?.stamp(&path, &[])?;
                RawDisk::open_rw(&path)?.grow(size)?;
            }
            Some(Holds::OtherBuild) => {
                self.lab.copy(self.lab.other.as_ref().context("no other release was named")?, &self.folder, &name)?;
                owner.stamp(&path, &[])?;
                RawDisk::open_rw(&path)?.grow(size)?;
            }
            Some(Holds::Ext4) => self
                .lab
                .tools
                .cmd("making an ext4 filesystem")
                .bind_rw(&self.folder, "run")
                .step(["mke2fs", "-q", "-t", "ext4", "-F", &format!("{RUN}/{name}")])
                .run(self.lab.ctx)?,
            Some(holds) => foreign::put(holds, &file, size)?,
        }
        let fails_at = plan.fails_at.map(|at| at.0);
        Ok(Disk { serial: plan.serial.clone(), fails_at, ..Disk::new(Source::Raw(name), plan.bus) })
    }

    pub(super) fn plug_seed(&mut self) -> Result<()> {
        let volume = self.site.as_ref().context("there is a site")?.volume(&[], STICK)?;
        let mut stick = volume.to_vec();
        stick.resize(STICK, 0);
        fs::write_private(&self.folder.join(STICK_FILE), &stick)?;
        let machine = self.machine()?;
        let file = json!({"driver": "file", "filename": format!("{RUN}/{STICK_FILE}"), "read-only": true});
        let node = json!({"driver": "raw", "node-name": "stick", "file": file, "read-only": true});
        machine.monitor.execute("blockdev-add", node)?;
        let device = json!({"driver": "usb-storage", "id": "plugged", "bus": format!("{USB}.0"), "drive": "stick"});
        machine.monitor.execute("device_add", device)?;
        Ok(())
    }

    pub(super) fn untouched(&self, n: usize) -> Result<()> {
        let same = same_data(&self.folder.join(pristine_file(n)), &self.folder.join(disk_file(n)))?;
        ensure!(same, wrong(format!("disk {n} is not as it was: something was written to it")));
        Ok(())
    }
}
