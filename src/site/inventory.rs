//! The site as an Ansible inventory, for teams that have playbooks.
//!
//! In: [`Site`]. Out: YAML: a group a role, and what a playbook may ask of a node. The user to log in as is left to
//! Ansible's own settings.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{Node, NodeKind, Site};

#[derive(Serialize)]
struct Inventory<'a> {
    all: All<'a>,
}

#[derive(Serialize)]
struct All<'a> {
    vars: Vars<'a>,
    children: BTreeMap<String, Group<'a>>,
}

#[derive(Serialize)]
struct Vars<'a> {
    #[serde(rename = "castiron_cluster")]
    cluster: &'a str,
    #[serde(rename = "castiron_domain")]
    domain: &'a str,
    #[serde(rename = "castiron_api")]
    api: String,
    #[serde(rename = "castiron_vip")]
    vip: String,
}

#[derive(Default, Serialize)]
struct Group<'a> {
    hosts: BTreeMap<&'a str, Host<'a>>,
}

#[derive(Serialize)]
struct Host<'a> {
    #[serde(rename = "ansible_host")]
    address: String,
    #[serde(rename = "castiron_role")]
    role: &'a str,
    #[serde(rename = "castiron_kind")]
    kind: NodeKind,
    #[serde(rename = "castiron_fqdn")]
    fqdn: &'a str,
    #[serde(rename = "castiron_interface")]
    interface: &'a str,
    #[serde(rename = "castiron_labels", skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(rename = "castiron_taints", skip_serializing_if = "<[String]>::is_empty")]
    taints: &'a [String],
}

/// Writes it.
pub fn render(site: &Site) -> Result<String> {
    let mut children: BTreeMap<String, Group<'_>> = BTreeMap::new();
    for node in &site.nodes {
        // Ansible's groups have no `-` in their names.
        children.entry(node.role.replace('-', "_")).or_default().hosts.insert(&node.name, host(node));
    }
    let cluster = &site.cluster;
    let vars = Vars {
        cluster: &cluster.name,
        domain: &cluster.domain,
        api: format!("https://{}", std::net::SocketAddr::new(cluster.vip, cluster.port)),
        vip: cluster.vip.to_string(),
    };
    serde_saphyr::to_string(&Inventory { all: All { vars, children } }).context("writing the inventory out")
}

fn host(node: &Node) -> Host<'_> {
    Host {
        address: node.address.map_or_else(|| node.fqdn.clone(), |a| a.addr().to_string()),
        role: &node.role,
        kind: node.kind,
        fqdn: &node.fqdn,
        interface: &node.interface,
        labels: &node.labels,
        taints: &node.taints,
    }
}
