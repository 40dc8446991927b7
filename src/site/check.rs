//! The rules that no single value can break: of the cluster and of each node. Those of networks are in [`super::links`],
//! those of what is said twice in [`super::doubles`].
//!
//! In: the file, as far as it could be read. Out: every problem, each once. Where a part was not read whole, rules about
//! what it lacks are silent.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use toml::Spanned;

use super::file::{ClusterTable, NodeTable, SiteFile};
use super::value::{LabelValue, Name};
use super::{NodeKind, Roles, doubles, links, netplan};
use crate::diagnostic::{Diagnostic, Source, literal, suggest};
use crate::document::Value as _;

/// A file that could be read, and what it is judged by.
pub(super) struct Given<'a> {
    pub(super) source: Arc<Source>,
    pub(super) file: SiteFile,
    /// The top-level keys below which something was wrong and is not in `file`.
    pub(super) cut: BTreeSet<String>,
    pub(super) roles: &'a Roles,
}

impl Given<'_> {
    /// A problem of this file.
    pub(super) fn problem(&self, message: impl Into<String>, span: std::ops::Range<usize>) -> Diagnostic {
        Diagnostic::new(message, &self.source, span)
    }

    /// Whether all of a top-level key could be read.
    pub(super) fn is_whole(&self, key: &str) -> bool {
        !self.cut.contains(key)
    }

    /// The nodes of one kind.
    pub(super) fn nodes(&self, kind: NodeKind) -> Vec<&NodeTable> {
        self.file.nodes.iter().filter(|n| NodeKind::of(&n.role.text, self.roles) == kind).collect()
    }
}

/// The network of pods and that of services, where nothing is said: those of kubeadm.
pub(super) const POD_NETWORK: &str = "10.244.0.0/16";
/// See [`POD_NETWORK`].
pub(super) const SERVICE_NETWORK: &str = "10.96.0.0/12";

/// Tries all rules.
pub(super) fn check(given: &Given<'_>) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    control_planes(given, &mut problems);
    if let Some(cluster) = &given.file.cluster {
        vip(given, cluster, &mut problems);
        inner_networks(given, cluster, &mut problems);
    }
    for node in &given.file.nodes {
        role(given, node, &mut problems);
        identity(given, node, &mut problems);
        disk(given, node, &mut problems);
        kubernetes(given, node, &mut problems);
    }
    for name in given.file.services.keys() {
        if let Err(wrong) = Name::parse(name.get_ref()) {
            problems.push(given.problem(wrong.message, name.span()));
        }
    }
    links::check(given, &mut problems);
    doubles::check(given, &mut problems);
    problems
}

fn control_planes(given: &Given<'_>, problems: &mut Vec<Diagnostic>) {
    let nodes = given.nodes(NodeKind::ControlPlane);
    if !given.is_whole("nodes") {
        return;
    }
    let Some((first, rest)) = nodes.split_first() else {
        let help = "write a `[[nodes]]` with `role = \"control-plane\"`: one, or three to survive the loss of one";
        problems.push(Diagnostic::of_file("no node is a control plane", &given.source).help(help.to_owned()));
        return;
    };
    if nodes.len().is_multiple_of(2) {
        let n = nodes.len();
        let message = format!("{n} control planes: they need a majority, and survive no more losses than {}", n - 1);
        let problem = given.problem(message, first.role.span.clone());
        let problem = rest.iter().take(3).fold(problem, |p, node| p.and(&given.source, node.role.span.clone(), ""));
        problems.push(problem.help(format!("write {} or {}", n - 1, n + 1)));
    }
}

fn vip(given: &Given<'_>, cluster: &ClusterTable, problems: &mut Vec<Diagnostic>) {
    let vip = &cluster.vip;
    for node in &given.file.nodes {
        let taken = netplan::addresses(node).into_iter().find(|a| a.value.0.addr() == vip.value.0);
        if let Some(address) = taken {
            let message = format!("the VIP {} is an address of {}", literal(&vip.text), literal(&node.name.text));
            let problem = given.problem(message, vip.span.clone());
            let problem = problem.and(&given.source, address.span.clone(), "the node's address");
            problems
                .push(problem.help("the VIP moves between control planes: give it an address of its own".to_owned()));
        }
    }
    let Some(network) = netplan::network_of(&given.file.networks, vip.value.0) else {
        if given.is_whole("networks") && !given.file.networks.is_empty() {
            let message = format!("the VIP {} is in none of the site's networks", literal(&vip.text));
            let help = "take a free address of the network of the control planes".to_owned();
            problems.push(given.problem(message, vip.span.clone()).help(help));
        }
        return;
    };
    links::usable(given, vip.value.0, &vip.text, &vip.span, network, problems);
    for node in given.nodes(NodeKind::ControlPlane) {
        let Some(address) = netplan::address(node) else { continue };
        if !network.cidr.value.0.contains(&address.value.0.addr()) {
            let message = format!("{} is outside the network of the VIP", literal(&node.name.text));
            let problem = given.problem(message, address.span.clone()).and(&given.source, vip.span.clone(), "the VIP");
            let help = "the VIP moves between control planes: all of them must be in its network".to_owned();
            problems.push(problem.help(help));
        }
    }
}

/// The networks of pods and services lie outside the site's, and outside each other.
fn inner_networks(given: &Given<'_>, cluster: &ClusterTable, problems: &mut Vec<Diagnostic>) {
    let inner = |key, written: &Option<crate::document::At<super::value::Cidr>>, default: &str| {
        let net: IpNet = written.as_ref().map_or_else(|| default.parse().expect("it is a network"), |w| w.value.0);
        (key, net, written.as_ref().map(|w| w.span.clone()))
    };
    let pods = inner("pod-network", &cluster.pod_network, POD_NETWORK);
    let services = inner("service-network", &cluster.service_network, SERVICE_NETWORK);
    if let (Some(span), true) = (pods.2.clone().or(services.2.clone()), overlap(pods.1, services.1)) {
        let message = format!("the pod network {} and the service network {} overlap", pods.1, services.1);
        problems.push(given.problem(message, span).help("write two networks that share no address".to_owned()));
    }
    for (key, net, span) in [pods, services] {
        for network in given.file.networks.iter().filter(|n| overlap(n.cidr.value.0, net)) {
            let site = literal(&network.name.text);
            let message = format!("the network {site} overlaps the cluster's {key}, {net}");
            let problem = given.problem(message, network.cidr.span.clone());
            let problem = match span.clone() {
                Some(span) => problem.and(&given.source, span, "written here"),
                None => problem,
            };
            problems
                .push(problem.help(format!("write `{key} = \"…\"` under `[cluster]`, a network that nobody else has")));
        }
    }
}

/// Whether two networks share an address.
pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn role(given: &Given<'_>, node: &NodeTable, problems: &mut Vec<Diagnostic>) {
    if !given.roles.contains_key(&node.role.text) {
        let message = format!("no role {}: there is no such file in `profiles/`", literal(&node.role.text));
        let help = suggest(&node.role.text, given.roles.keys().map(String::as_str));
        problems.push(given.problem(message, node.role.span.clone()).help(help));
    }
}

fn identity(given: &Given<'_>, node: &NodeTable, problems: &mut Vec<Diagnostic>) {
    if node.r#match.get_ref().len() == 0 && given.is_whole("nodes") {
        let message = format!("{} cannot be known: `match` is empty", literal(&node.name.text));
        let help = "write `match = { serial = \"…\" }`, or `uuid`, or `mac`".to_owned();
        problems.push(given.problem(message, node.r#match.span()).help(help));
    }
}

fn disk(given: &Given<'_>, node: &NodeTable, problems: &mut Vec<Diagnostic>) {
    let disk = node.disk.get_ref();
    if disk.is_empty() && given.is_whole("nodes") {
        let message = format!("no disk of {} can be chosen: `disk` is empty", literal(&node.name.text));
        let help = "write `disk = { serial = \"…\" }`, or `wwn`, `by-path`, `model`, `min-size`, `max-size`".to_owned();
        problems.push(given.problem(message, node.disk.span()).help(help));
    }
    if let (Some(min), Some(max)) = (&disk.min_size, &disk.max_size)
        && min.value > max.value
    {
        let problem = given.problem("no disk is so large and so small", min.span.clone());
        problems.push(problem.and(&given.source, max.span.clone(), "smaller than `min-size`"));
    }
}

/// Labels and taints.
fn kubernetes(given: &Given<'_>, node: &NodeTable, problems: &mut Vec<Diagnostic>) {
    let first = node.labels.keys().map(Spanned::span).chain(node.taints.iter().map(|t| t.span.clone())).next();
    if let Some(span) = first.filter(|_| NodeKind::of(&node.role.text, given.roles) == NodeKind::Db) {
        let message = format!("{} is no Kubernetes node, and has no labels and no taints", literal(&node.name.text));
        problems.push(given.problem(message, span).help("take them out".to_owned()));
    }
    for key in node.labels.keys().filter(|key| !LabelValue::is_key(key.get_ref())) {
        let message = format!("{} is not a label's key", literal(key.get_ref()));
        let help = "write `name` or `domain/name`; a key with a `/` or a `.` stands in double quotes".to_owned();
        problems.push(given.problem(message, key.span()).help(help));
    }
}
