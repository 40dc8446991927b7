//! The site of a scenario: its file, and secrets that are made for the run and never leave memory but in a stamp.
//!
//! In: a site file. Out: seeds, as a volume or stamped into a carrier, as `castiron seed` and `castiron stamp` make them.

use std::path::Path;

use anyhow::{Context as _, Result};
use zeroize::Zeroizing;

use crate::carrier::region::Region;
use crate::cidata;
use crate::context::Context;
use crate::region::HEADER;
use crate::seal::Seed;
use crate::seed::stamp::{self, Target};
use crate::seed::{self, Facts, Secrets, secrets};
use crate::site;

/// A site and its secrets.
pub struct Site {
    facts: Facts,
    secrets: Secrets,
}

impl Site {
    /// Reads the site file, and makes secrets.
    pub fn load(ctx: &Context, file: &Path) -> Result<Self> {
        let facts = Facts::of(&site::load(ctx, &ctx.project.join(file))?.0)?;
        let secrets = Secrets::new(&facts, std::collections::BTreeSet::new())?;
        Ok(Self { facts, secrets })
    }

    fn seed(&self, nodes: &[String]) -> Result<Seed> {
        let seed = seed::seal(&self.facts, &self.secrets, seed::serial(&self.secrets))?;
        if nodes.is_empty() {
            return Ok(seed);
        }
        seed.narrowed(&nodes.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A volume with the seed of these nodes; of all where none is named.
    pub fn volume(&self, nodes: &[String], room: usize) -> Result<Zeroizing<Vec<u8>>> {
        self.volume_of(&self.seed(nodes)?, room)
    }

    fn volume_of(&self, seed: &Seed, room: usize) -> Result<Zeroizing<Vec<u8>>> {
        cidata::make(&seed::files(&self.facts, seed)?, room)
    }

    /// Stamps the seed of these nodes into a carrier; of all where none is named.
    pub fn stamp(&self, carrier: &Path, nodes: &[String]) -> Result<()> {
        let stamping = || format!("stamping `{}`", carrier.display());
        let target = Target::in_place(carrier)?;
        let region = Region::find(target.file()).with_context(stamping)?;
        let seed = self.seed(nodes)?;
        let volume = self.volume_of(&seed, region.size as usize - HEADER)?;
        let payload = seed.payload(&volume, secrets::now());
        stamp::put(&region, &region.read()?, Some(&payload)).with_context(stamping)?;
        target.finish()
    }
}
