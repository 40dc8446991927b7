//! Where a seed can come from, in the order in which equal ones are taken (carriers.md, decision 9).
//!
//! The region of the machine's own disk; a volume labelled `CIDATA`; a systemd credential; what the machine has kept of a
//! former boot. All are looked at, since a new seed may come by any of them.

use std::fmt;

use anyhow::Result;
use zeroize::Zeroizing;

use crate::fs;
use crate::node::machine::Machine;
use crate::node::volumes;
use crate::seal;

/// Where a machine keeps the seed that it has accepted: what it alone may know.
pub const KEPT: &str = "/var/lib/castiron/castiron.seed";

/// Where PID 1 puts what SMBIOS, fw_cfg or a container manager hand to the machine, for root alone (systemd.exec(5)).
const CREDENTIALS: &str = "/run/credentials/@system";

/// A place of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The region of the disk that the machine runs from.
    Region(String),
    /// An attached volume.
    Volume(String),
    /// A systemd credential.
    Credential,
    /// The machine's own copy.
    Kept,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region(name) => write!(f, "the disk's own region `/dev/{name}`"),
            Self::Volume(name) => write!(f, "the volume `/dev/{name}`"),
            Self::Credential => write!(f, "the credential `{}`", seal::FILE),
            Self::Kept => write!(f, "the machine's own copy `{KEPT}`"),
        }
    }
}

/// What was found in a place, or why it can not be read.
pub struct Found {
    /// The place.
    pub source: Source,
    /// The bytes of a seed.
    pub bytes: Result<Zeroizing<Vec<u8>>>,
}

/// Looks everywhere. Places without a seed are left out.
pub fn look(machine: &Machine) -> Vec<Found> {
    let mut found = Vec::new();
    let mut add = |source: Source, bytes: Result<Option<Zeroizing<Vec<u8>>>>| {
        found.extend(bytes.transpose().map(|bytes| Found { source, bytes }));
    };
    match volumes::own_region(machine) {
        Ok(None) => {}
        Ok(Some(name)) => add(Source::Region(name.clone()), volumes::in_region(machine, &name)),
        Err(error) => add(Source::Region(String::new()), Err(error)),
    }
    for name in volumes::attached(machine).unwrap_or_default() {
        add(Source::Volume(name.clone()), volumes::on_volume(machine, &name));
    }
    add(Source::Credential, volumes::read_seed(&machine.path(CREDENTIALS).join(seal::FILE)));
    add(Source::Kept, volumes::read_seed(&machine.path(KEPT)));
    found
}

/// Keeps a seed for boots at which nothing brings it; writes nothing where it is kept already.
pub fn keep(machine: &Machine, bytes: &[u8]) -> Result<()> {
    let path = machine.path(KEPT);
    if fs::read(&path).is_ok_and(|kept| kept == bytes) {
        return Ok(());
    }
    fs::write_private(&path, bytes)
}
