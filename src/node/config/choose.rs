//! Which of the seeds that were found is believed.
//!
//! In: what was found, the machine's marks, its image's role. Out: the newest seed that is whole, of this machine's site and
//! for this machine; of equal ones that of the first place. And why each of the others is refused.
//!
//! A machine is bound to a site by the seed that it keeps: what comes later has to be of that site, signed by a key that
//! follows, and not older. A seed that is only older than the one that is kept is no problem: a disk's region stays as it was
//! stamped when a newer seed has come by another way.

use anyhow::{Context as _, Result};
use zeroize::Zeroizing;

use super::sources::{Found, Source};
use crate::error::{Failure, Kind, hint};
use crate::node::identity::{self, Marks};
use crate::seal::{Held, InventoryNode, NodeSeed, Seed};

/// The seed that is believed.
pub struct Chosen {
    /// Where it was.
    pub source: Source,
    /// The node, as the inventory has it.
    pub entry: InventoryNode,
    /// All that it tells this machine.
    pub seed: NodeSeed,
    /// Its bytes, without what others alone may know.
    pub own: Zeroizing<Vec<u8>>,
}

/// Chooses; and says what is wrong with the others.
pub fn choose(found: &[Found], marks: &Marks, role: &str) -> (Option<Chosen>, Vec<String>) {
    let parsed: Vec<(&Source, Result<Seed>)> = found
        .iter()
        .map(|found| {
            let seed = found.bytes.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"));
            (&found.source, seed.and_then(|bytes| Seed::parse(bytes)))
        })
        .collect();
    let kept = parsed.iter().find(|(source, _)| **source == Source::Kept);
    let held: Option<Held> = kept.and_then(|(_, seed)| seed.as_ref().ok()).map(Seed::held);

    let mut chosen: Option<Chosen> = None;
    let mut problems = Vec::new();
    let mut old = Vec::new();
    for (source, seed) in parsed {
        let is_older =
            |seed: &Seed, held: &Held| seed.manifest().site == held.site && seed.manifest().serial < held.serial;
        let only_old = matches!((&seed, &held), (Ok(seed), Some(held)) if is_older(seed, held));
        match seed.and_then(|seed| open(source, &seed, marks, role, held.as_ref())) {
            Ok(new) if chosen.as_ref().is_none_or(|best| new.seed.held.serial > best.seed.held.serial) => {
                chosen = Some(new);
            }
            Ok(_) => {}
            Err(error) => {
                let hint = hint(&error).map(|hint| format!("; what to do: {hint}")).unwrap_or_default();
                if only_old { &mut old } else { &mut problems }.push(format!("{source}: {error:#}{hint}"));
            }
        }
    }
    if chosen.is_none() {
        problems.append(&mut old);
    }
    (chosen, problems)
}

fn open(source: &Source, seed: &Seed, marks: &Marks, role: &str, held: Option<&Held>) -> Result<Chosen> {
    // Whose it is comes first: another site's inventory says nothing of this machine.
    if let Some(held) = held.filter(|held| held.site != seed.manifest().site) {
        let text = format!(
            "this seed is refused: it is of the site {}, and this machine belongs to {}",
            seed.manifest().site,
            held.site
        );
        let hint = format!(
            "to give the machine to another site, install it anew, or remove `{}` and start it again",
            super::sources::KEPT
        );
        return Err(Failure::new(Kind::Integrity, text).hint(hint).into());
    }
    let inventory = seed.inventory()?;
    let entry = identity::find(marks, &inventory)?.clone();
    if entry.role != role {
        let text = format!(
            "this machine is `{}`, whose role is `{}`, but its image is of the role `{role}`",
            entry.name, entry.role
        );
        let hint = format!("install it from an image of the role `{}`, or change site.toml", entry.role);
        return Err(Failure::new(Kind::Input, text).hint(hint).into());
    }
    let node = seed.open(&entry.name, held)?;
    let own = seed.narrowed(&[&entry.name]).context("taking this node's part of the seed")?.to_bytes();
    Ok(Chosen { source: source.clone(), entry, seed: node, own })
}
