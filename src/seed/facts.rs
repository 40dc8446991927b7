//! What seeds and secrets need of a site, parted into what everybody may know and what one node alone may.

use std::net::IpAddr;

use anyhow::Result;
use serde_json::{Value, json};

use crate::seal::{Identity, Inventory, InventoryNode, NodeKind};
use crate::site::{self, Site, netplan};

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
    /// Those of a site.
    pub fn of(site: &Site) -> Result<Self> {
        Ok(Self {
            cluster: site.cluster.name.clone(),
            domain: site.cluster.domain.clone(),
            vip: Some(site.cluster.vip),
            settings: json!({
                "cluster": site.cluster,
                "networks": site.networks,
                "ssh-user": site.ssh_user,
                "authorized-keys": site.authorized_keys,
                "after": site.after,
            }),
            nodes: site.nodes.iter().map(|node| node_facts(site, node)).collect::<Result<_>>()?,
        })
    }
}

fn node_facts(site: &Site, node: &site::Node) -> Result<NodeFacts> {
    // A password's hash, a proxy's address and what services are given may be secret: they are not what anybody may read.
    let mut private = json!({ "password-hash": site.password_hash, "proxy": site.proxy });
    if node.kind == site::NodeKind::ControlPlane {
        private["services"] = json!(site.services);
    }
    let site::Identity { serial, uuid, mac } = node.identity.clone();
    Ok(NodeFacts {
        name: node.name.clone(),
        role: node.role.clone(),
        kind: match node.kind {
            site::NodeKind::ControlPlane => NodeKind::ControlPlane,
            site::NodeKind::Worker => NodeKind::Worker,
            site::NodeKind::Db => NodeKind::Db,
        },
        address: node.address.map(|address| address.addr()),
        identity: Identity { serial, uuid, mac },
        settings: json!({
            "fqdn": node.fqdn,
            "disk": node.disk,
            "address": node.address,
            "interface": node.interface,
            "ntp": node.ntp,
            "labels": node.labels,
            "taints": node.taints,
            "foreign-data": node.foreign_data,
        }),
        network: Some(netplan::render(node)?),
        private,
    })
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
