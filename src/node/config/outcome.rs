//! What became of the seed at this boot, for everybody on the machine: `/run/castiron/node.json`. It holds no secret.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::fs;
use crate::node::machine::Machine;
use crate::region::SiteId;
use crate::seal::NodeKind;

/// Where it lies.
pub const PATH: &str = "/run/castiron/node.json";

/// What became of the seed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The node that this machine is; none without a seed, or when every seed was refused.
    pub node: Option<Node>,
    /// What is wrong: seeds that were refused, steps that could not be carried out.
    pub problems: Vec<String>,
}

/// A node, as everybody on it may know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Node {
    /// Its host name.
    pub name: String,
    /// Its host name with the domain.
    pub fqdn: String,
    /// Its role.
    pub role: String,
    /// Its kind.
    pub kind: NodeKind,
    /// The cluster's name.
    pub cluster: String,
    /// The site that it belongs to.
    pub site: SiteId,
    /// The serial number of its seed.
    pub serial: u64,
    /// Where the seed was found.
    pub source: String,
    /// The interface that has its address.
    pub interface: String,
    /// Its address; none where a DHCP server gives one.
    pub address: Option<IpAddr>,
    /// Who may log in.
    pub user: String,
    /// Whether that user has a password for the console.
    pub console: bool,
    /// How many keys open it over ssh.
    pub keys: usize,
}

impl Outcome {
    /// What the last run of `castiron-node config` left.
    pub fn read(machine: &Machine) -> Result<Self> {
        let text = machine.read(PATH).context("`castiron-node config` has not run at this boot")?;
        serde_json::from_str(&text).with_context(|| format!("reading `{PATH}`"))
    }

    pub(super) fn write(&self, machine: &Machine) -> Result<()> {
        fs::write_atomic(&machine.path(PATH), serde_json::to_vec(self).context("writing JSON")?)
    }

    /// Whether there was a seed, and none that can be believed.
    pub fn is_refused(&self) -> bool {
        self.node.is_none() && !self.problems.is_empty()
    }

    /// In one line: `db1 (db) of the cluster demo`.
    pub fn who(&self) -> String {
        match &self.node {
            Some(node) => format!("{} ({}) of the cluster {}", node.name, node.role, node.cluster),
            None if !self.is_refused() => "no seed: this machine is nobody".to_owned(),
            None => "this machine is nobody: its seed is refused".to_owned(),
        }
    }
}
