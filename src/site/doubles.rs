//! What only one may have: names, addresses, serial numbers, disks.

use std::collections::BTreeMap;
use std::ops::Range;

use super::check::Given;
use super::file::NodeTable;
use super::netplan;
use super::value::Nic;
use crate::diagnostic::{Diagnostic, literal};

/// Something that one node says: what it is, in one spelling, where, and in which part of the node. What one node says
/// of itself in two parts may agree.
type Said<'a> = (&'static str, String, Range<usize>, usize, &'static str);

/// Tries all of them.
pub(super) fn check(given: &Given<'_>, problems: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<(&str, String), (Range<usize>, usize, &str)> = BTreeMap::new();
    let nodes = given.file.nodes.iter().enumerate().flat_map(|(owner, node)| of_node(owner, node));
    let networks = given.file.networks.iter().enumerate().map(|(owner, network)| {
        ("network", network.name.text.clone(), network.name.span.clone(), owner, "name") as Said<'_>
    });
    for (kind, value, span, owner, part) in nodes.chain(networks) {
        let Some((first, first_owner, first_part)) = seen.get(&(kind, value.clone())) else {
            seen.insert((kind, value), (span, owner, part));
            continue;
        };
        if *first_owner == owner && *first_part != part {
            continue;
        }
        let message = format!("the {kind} {} is named twice", literal(&value));
        let problem = given.problem(message, span).label("again here").and(&given.source, first.clone(), "first here");
        problems.push(problem.help(format!("each {kind} belongs to one only")));
    }
}

fn of_node(owner: usize, node: &NodeTable) -> Vec<Said<'_>> {
    let identity = node.r#match.get_ref();
    let disk = node.disk.get_ref();
    let mut said = vec![("node", node.name.text.clone(), node.name.span.clone(), owner, "name")];
    let mut say = |kind, value: String, span: &Range<usize>, part| said.push((kind, value, span.clone(), owner, part));
    if let Some(serial) = &identity.serial {
        say("serial number", serial.text.clone(), &serial.span, "match");
    }
    if let Some(uuid) = &identity.uuid {
        say("UUID", uuid.value.uuid_text(), &uuid.span, "match");
    }
    if let Some(mac) = &identity.mac {
        say("MAC address", mac.value.to_string(), &mac.span, "match");
    }
    if let Some(nic) = &node.interface
        && let Nic::Mac(mac) = &nic.value
    {
        say("MAC address", mac.to_string(), &nic.span, "interface");
    }
    let ethernets = node.network.iter().flat_map(|n| n.get_ref().ethernets.values());
    for mac in ethernets.filter_map(|e| e.r#match.as_ref()?.macaddress.as_ref()) {
        say("MAC address", mac.value.to_string(), &mac.span, "network");
    }
    if let Some(serial) = &disk.serial {
        say("disk", serial.text.clone(), &serial.span, "disk");
    }
    if let Some(wwn) = &disk.wwn {
        say("disk", wwn.text.clone(), &wwn.span, "wwn");
    }
    for address in netplan::addresses(node) {
        let own = node.address.as_ref().is_some_and(|a| a.span == address.span);
        say("address", address.value.0.addr().to_string(), &address.span, if own { "address" } else { "network" });
    }
    said
}
