//! The site as an Ansible inventory, for teams that have playbooks.
//!
//! In: [`Site`]. Out: YAML: a group a role, and what a playbook may ask of a node. The user to log in as is left to
//! Ansible's own settings.

use std::collections::BTreeMap;

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
    castiron_cluster: &'a str,
    castiron_domain: &'a str,
    castiron_api: String,
    castiron_vip: String,
}

#[derive(Default, Serialize)]
struct Group<'a> {
    hosts: BTreeMap<&'a str, Host<'a>>,
}

#[derive(Serialize)]
struct Host<'a> {
    ansible_host: String,
    castiron_role: &'a str,
    castiron_kind: NodeKind,
    castiron_fqdn: &'a str,
    castiron_interface: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    castiron_labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    castiron_taints: &'a [String],
}

/// Writes it.
pub fn render(site: &Site) -> String {
    let mut children: BTreeMap<String, Group<'_>> = BTreeMap::new();
    for node in &site.nodes {
        // Ansible's groups have no `-` in their names.
        children.entry(node.role.replace('-', "_")).or_default().hosts.insert(&node.name, host(node));
    }
    let cluster = &site.cluster;
    let vars = Vars {
        castiron_cluster: &cluster.name,
        castiron_domain: &cluster.domain,
        castiron_api: format!("https://{}", std::net::SocketAddr::new(cluster.vip, cluster.port)),
        castiron_vip: cluster.vip.to_string(),
    };
    serde_saphyr::to_string(&Inventory { all: All { vars, children } })
        .expect("tables of texts and numbers are always YAML")
}

fn host(node: &Node) -> Host<'_> {
    Host {
        ansible_host: node.address.map_or_else(|| node.fqdn.clone(), |a| a.addr().to_string()),
        castiron_role: &node.role,
        castiron_kind: node.kind,
        castiron_fqdn: &node.fqdn,
        castiron_interface: &node.interface,
        castiron_labels: &node.labels,
        castiron_taints: &node.taints,
    }
}
