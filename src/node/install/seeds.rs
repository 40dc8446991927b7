//! The seed of an installation: where it comes from, and how it goes onto the disk.
//!
//! In: the medium's region, volumes labelled `CIDATA`. Out: the seed, and the node of it that this machine is.

use std::time::Duration;

use anyhow::{Context as _, Result};
use zeroize::Zeroizing;

use super::disks::{self, MEDIUM};
use super::screen::{self, Screen};
use crate::cidata;
use crate::error::{Failure, Kind};
use crate::fs;
use crate::medium::REGION;
use crate::node::identity::{self, Marks};
use crate::node::machine::Machine;
use crate::node::volumes;
use crate::region::{self, HEADER};
use crate::seal::{InventoryNode, Seed};

/// How often a seed is looked for that is not there yet.
const AGAIN: Duration = Duration::from_secs(2);

/// The seed for this machine; waits until there is one, and says on every console what is missing.
pub fn wait_for(machine: &Machine, marks: &Marks, screen: &Screen<'_>) -> Result<(Seed, InventoryNode)> {
    let mut said = String::new();
    loop {
        let why = match look(machine, marks) {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let text = format!("waiting for a seed: {}", screen::in_words(&why));
        if text != said {
            screen.say(&text);
            said = text;
        }
        std::thread::sleep(AGAIN);
    }
}

/// Tries the medium's own seed, then those on volumes. One that can not be read does not keep the others from being tried.
fn look(machine: &Machine, marks: &Marks) -> Result<(Seed, InventoryNode)> {
    let stamped = stamped(machine).context("reading the medium's seed").transpose();
    disks::settle(machine)?;
    let mut first = None;
    for bytes in stamped.into_iter().chain(plugged(machine)?) {
        let found = bytes.and_then(|bytes| {
            let seed = Seed::parse(&bytes)?;
            let node = identity::find(marks, &seed.inventory()?)?.clone();
            Ok((seed, node))
        });
        match found {
            Ok(found) => return Ok(found),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| {
        let text = format!(
            "the medium has no seed, and no volume `CIDATA` is attached; this machine has\n{}",
            marks.for_site()
        );
        Failure::new(Kind::Input, text)
            .hint("stamp the medium (`castiron stamp`), or attach what `castiron seed` writes")
            .into()
    }))
}

/// The seed in the medium's region.
fn stamped(machine: &Machine) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let path = machine.path(MEDIUM).join(REGION);
    if !path.exists() {
        return Ok(None);
    }
    volumes::in_bytes(&Zeroizing::new(fs::read(&path)?))
}

/// The seeds on attached volumes, and the errors of those that can not be read.
fn plugged(machine: &Machine) -> Result<Vec<Result<Zeroizing<Vec<u8>>>>> {
    let read = |name: &String| {
        volumes::on_volume(machine, name).with_context(|| format!("reading the volume `{name}`")).transpose()
    };
    Ok(disks::labelled(machine, region::NAME)?.iter().filter_map(read).collect())
}

/// The region of the installed disk: what of the seed this one node may know.
pub fn region_for(seed: &Seed, node: &str) -> Result<Zeroizing<Vec<u8>>> {
    const SIZE: usize = region::SIZE as usize;
    let own = seed.narrowed(&[node])?;
    let volume = cidata::make(&own.files()?, SIZE - HEADER)?;
    region::stamped(SIZE, &own.payload(&volume, 0))
}
