//! Who a disk belongs to.
//!
//! In: a disk as udev sees it, the build and the site that are to be installed. Out: [`Occupant`].
//!
//! The first MiB of an installation is written last, so a disk that shows castiron's partitions is whole.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};

use super::disks::{Disk, Partition};
use crate::node::machine::Machine;
use crate::region::{self, SiteId, State};

/// Whose disk it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// Nobody's.
    Nobody,
    /// This site's, with this very build in one of its slots.
    ThisBuild,
    /// This site's, with another build.
    OtherBuild,
    /// Somebody else's: what there is.
    Others(Vec<String>),
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => write!(f, "the disk is empty"),
            Self::ThisBuild => write!(f, "it has this build"),
            Self::OtherBuild => write!(f, "it has another build"),
            Self::Others(found) => write!(f, "what is on it goes: {}", found.join(", ")),
        }
    }
}

/// Whose `disk` is. `roothash` is the build's, `site` the seed's.
pub fn of(machine: &Machine, disk: &Disk, roothash: &str, site: SiteId) -> Result<Occupant> {
    let mut data = disk.data();
    if data.is_empty() {
        return Ok(Occupant::Nobody);
    }
    let Some(part) = disk.partitions.iter().find(|part| part.kind.as_deref() == Some(region::TYPE)) else {
        return Ok(Occupant::Others(data));
    };
    match owner(machine, part)? {
        Some(found) if found == site => Ok(if disk.partitions.iter().any(|part| is_root(part, roothash)) {
            Occupant::ThisBuild
        } else {
            Occupant::OtherBuild
        }),
        found => {
            let whose = found.map_or_else(|| "no site".to_owned(), |site| format!("the site {site}"));
            data.push(format!("{} is a castiron of {whose}", disk.name));
            Ok(Occupant::Others(data))
        }
    }
}

/// The site of an installed disk: its region says it.
fn owner(machine: &Machine, part: &Partition) -> Result<Option<SiteId>> {
    let path = machine.path("/dev").join(&part.name);
    let reading = || format!("reading `{}`", path.display());
    let mut bytes = vec![0; usize::try_from(part.size.min(region::MAX)).with_context(reading)?];
    File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, 0)).with_context(reading)?;
    Ok(match region::read(&bytes) {
        Ok(State::Stamped(stamp, _)) => Some(stamp.site),
        Ok(State::Unstamped(_)) | Err(_) => None,
    })
}

/// A slot's partitions are named by the halves of its root hash (systemd-veritysetup-generator(8)).
fn is_root(part: &Partition, roothash: &str) -> bool {
    part.uuid.as_ref().is_some_and(|uuid| roothash.starts_with(&uuid.replace('-', "")))
}
