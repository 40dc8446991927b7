//! The seed of an installation: where it comes from, and how it goes onto the disk.
//!
//! In: the medium's region, volumes labelled `CIDATA`. Out: the seed, and the node of it that this machine is.

use std::time::Duration;

use anyhow::{Context as _, Result};
use zeroize::Zeroizing;

use super::disks::{self, MEDIUM};
use super::screen::Screen;
use crate::cidata;
use crate::digest::Sha256;
use crate::error::{Failure, Kind};
use crate::fs;
use crate::medium::REGION;
use crate::node::identity::{self, Marks};
use crate::node::machine::Machine;
use crate::node::volumes;
use crate::region::{self, HEADER, Header, Stamp, State};
use crate::seal::{self, InventoryNode, Seed, menu};

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
        let hint = crate::error::hint(&why).map(|hint| format!("\nwhat to do: {hint}")).unwrap_or_default();
        let text = format!("waiting for a seed: {why:#}{hint}");
        if text != said {
            screen.say(&text);
            said = text;
        }
        std::thread::sleep(AGAIN);
    }
}

/// Tries the medium's own seed, then a volume's.
fn look(machine: &Machine, marks: &Marks) -> Result<(Seed, InventoryNode)> {
    let stamped = stamped(machine)?;
    disks::settle(machine)?;
    let plugged = plugged(machine)?;
    let mut first = None;
    for bytes in stamped.into_iter().chain(plugged) {
        let found = Seed::parse(&bytes).and_then(|seed| {
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
    let bytes = Zeroizing::new(fs::read(&path)?);
    match region::read(&bytes).context("reading the medium's seed")? {
        State::Unstamped(_) => Ok(None),
        State::Stamped(_, payload) => cidata::read_file(payload, seal::FILE).map(Some),
    }
}

/// The seeds on attached volumes.
fn plugged(machine: &Machine) -> Result<Vec<Zeroizing<Vec<u8>>>> {
    let mut seeds = Vec::new();
    for name in disks::labelled(machine, region::NAME)? {
        seeds.extend(volumes::on_volume(machine, &name).with_context(|| format!("reading the volume `{name}`"))?);
    }
    Ok(seeds)
}

/// The region of the installed disk: what of the seed this one node may know.
pub fn region_for(seed: &Seed, node: &str) -> Result<Zeroizing<Vec<u8>>> {
    const SIZE: usize = region::SIZE as usize;
    let own = seed.narrowed(&[node])?;
    let bytes = own.to_bytes();
    let text = |text: String| Zeroizing::new(text.into_bytes());
    let manifest = own.manifest();
    let files = cidata::Files::from([
        (seal::FILE.to_owned(), bytes),
        (menu::FILE.to_owned(), menu::file(&own)?),
        ("meta-data".to_owned(), text(format!("instance-id: castiron-{}-{}\n", manifest.site, manifest.serial))),
        ("user-data".to_owned(), text("#cloud-config\n{}\n".to_owned())),
    ]);
    let mut region = Zeroizing::new(region::unstamped(SIZE));
    let room = SIZE - HEADER;
    let volume = cidata::make(&files, room)?;
    let length = volume.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    region[..length].copy_from_slice(&volume[..length]);
    let stamp = Stamp {
        length: length as u64,
        sha256: Sha256::of(&volume[..length]),
        site: manifest.site,
        serial: manifest.serial,
        time: 0,
    };
    region[room..].copy_from_slice(&Header { room: room as u64, stamp: Some(stamp) }.to_bytes());
    Ok(region)
}
