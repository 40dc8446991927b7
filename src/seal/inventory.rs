//! The public part of a seed: all nodes, and how each machine is known.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a machine is in the site: the line along which secrets are parted. Several roles may be of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeKind {
    /// It runs the API, and holds the cluster's keys.
    ControlPlane,
    /// It runs workloads.
    Worker,
    /// It is a database server outside Kubernetes.
    Db,
}

impl NodeKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ControlPlane, Self::Worker, Self::Db];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Worker => "worker",
            Self::Db => "db",
        }
    }
}

/// The public part: the same for all nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// The cluster's name.
    pub cluster: String,
    /// The DNS domain of the nodes.
    pub domain: String,
    /// The address of the API.
    pub vip: Option<IpAddr>,
    /// All nodes.
    pub nodes: Vec<InventoryNode>,
    /// What else of the site file every node may know.
    #[serde(default)]
    pub settings: Value,
}

/// A node, as everybody may know it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InventoryNode {
    /// Its host name.
    pub name: String,
    /// Its role.
    pub role: String,
    /// Its kind.
    pub kind: NodeKind,
    /// Its address; none where a DHCP server gives one.
    pub address: Option<IpAddr>,
    /// How its machine is known.
    #[serde(rename = "match")]
    pub identity: Identity,
    /// What else of the site file everybody may know of it: disk, labels, taints.
    #[serde(default)]
    pub settings: Value,
}

/// How a machine is known: every key that is there must agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The SMBIOS serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The SMBIOS UUID, in small letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The MAC address of one of its cards, in small letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}
