//! What seeds and secrets need of a site.

use std::net::IpAddr;

use serde_json::Value;

use crate::seal::{Identity, Inventory, InventoryNode, NodeKind};

/// A site, as far as seeds go.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The cluster's name.
    pub cluster: String,
    /// The DNS domain of the nodes.
    pub domain: String,
    /// The address of the API.
    pub vip: Option<IpAddr>,
    /// What else every node may know.
    pub settings: Value,
    /// The machines.
    pub nodes: Vec<NodeFacts>,
}

/// A machine.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// Its host name.
    pub name: String,
    /// Its role.
    pub role: String,
    /// Its kind.
    pub kind: NodeKind,
    /// Its address; none where a DHCP server gives one.
    pub address: Option<IpAddr>,
    /// How its machine is known.
    pub identity: Identity,
    /// What else everybody may know of it.
    pub settings: Value,
    /// Its netplan file.
    pub network: Option<String>,
    /// What it alone may know, and is no secret of `secrets.age`.
    pub private: Value,
}

impl Facts {
    /// The public part of a seed.
    pub fn inventory(&self) -> Inventory {
        let node = |node: &NodeFacts| InventoryNode {
            name: node.name.clone(),
            role: node.role.clone(),
            kind: node.kind,
            address: node.address,
            identity: node.identity.clone(),
            settings: node.settings.clone(),
        };
        Inventory {
            cluster: self.cluster.clone(),
            domain: self.domain.clone(),
            vip: self.vip,
            nodes: self.nodes.iter().map(node).collect(),
            settings: self.settings.clone(),
        }
    }
}
