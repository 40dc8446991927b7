//! The rules of networks, addresses and interfaces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use toml::Spanned;

use super::check::{Given, overlap};
use super::file::{NetworkTable, NodeTable};
use super::network::Interfaces;
use super::value::{Address, Link};
use super::{NodeKind, netplan};
use crate::diagnostic::{Diagnostic, literal, suggest};
use crate::document::{At, Value as _};

/// Ethernet's, where nothing else is said.
const USUAL_MTU: u32 = 1500;

/// Tries all of them.
pub(super) fn check(given: &Given<'_>, problems: &mut Vec<Diagnostic>) {
    networks(given, problems);
    for node in &given.file.nodes {
        for address in netplan::addresses(node) {
            place(given, address, problems);
        }
        match &node.network {
            None => short(given, node, problems),
            Some(interfaces) => full(given, node, interfaces, problems),
        }
        let known = matches!(NodeKind::of(&node.role.text, given.roles), NodeKind::Worker);
        if !known && netplan::address(node).is_none() && has_lease(given, node) {
            let message = format!("the address of {} must be known beforehand", literal(&node.name.text));
            let help = "write `address = \"…\"`, the one that the DHCP server keeps for it: others look for it there";
            problems.push(given.problem(message, node.name.span.clone()).help(help.to_owned()));
        }
    }
}

fn networks(given: &Given<'_>, problems: &mut Vec<Diagnostic>) {
    let networks = &given.file.networks;
    for (i, network) in networks.iter().enumerate() {
        for other in networks[..i].iter().filter(|o| overlap(o.cidr.value.0, network.cidr.value.0)) {
            let message =
                format!("the networks {} and {} overlap", literal(&other.name.text), literal(&network.name.text));
            let problem = given.problem(message, network.cidr.span.clone());
            problems.push(problem.and(&given.source, other.cidr.span.clone(), "the other"));
        }
        let Some(gateway) = &network.gateway else { continue };
        if network.cidr.value.0.contains(&gateway.value.0) {
            if let Some(what) = reserved(network.cidr.value.0, gateway.value.0) {
                let message = format!("the gateway {} is {what} of its network", literal(&gateway.text));
                problems.push(given.problem(message, gateway.span.clone()));
            }
        } else {
            let message = format!("the gateway {} is outside its network", literal(&gateway.text));
            let problem = given.problem(message, gateway.span.clone());
            problems.push(problem.and(&given.source, network.cidr.span.clone(), "the network"));
        }
    }
}

/// What an address of a network stands for, if it is none for a machine.
fn reserved(network: IpNet, address: IpAddr) -> Option<&'static str> {
    match network {
        IpNet::V4(net) if net.prefix_len() < 31 && address == net.network() => Some("the address"),
        IpNet::V4(net) if net.prefix_len() < 31 && address == net.broadcast() => Some("the broadcast address"),
        IpNet::V6(net) if net.prefix_len() < 127 && address == net.network() => Some("the routers' address"),
        _ => None,
    }
}

/// Whether a machine, or the VIP, may have an address of a network.
pub(super) fn usable(
    given: &Given<'_>,
    address: IpAddr,
    text: &str,
    span: &Range<usize>,
    network: &NetworkTable,
    problems: &mut Vec<Diagnostic>,
) {
    if let Some(what) = reserved(network.cidr.value.0, address) {
        let message = format!("{} is {what} of the network {}", literal(text), literal(&network.name.text));
        problems.push(given.problem(message, span.clone()).help("take another one of the network".to_owned()));
    }
    if let Some(gateway) = network.gateway.as_ref().filter(|g| g.value.0 == address) {
        let message = format!("{} is the gateway of the network {}", literal(text), literal(&network.name.text));
        let problem = given.problem(message, span.clone()).and(&given.source, gateway.span.clone(), "the gateway");
        problems.push(problem.help("take another one of the network".to_owned()));
    }
}

/// An address must lie in a network, with its prefix.
fn place(given: &Given<'_>, address: &At<Address>, problems: &mut Vec<Diagnostic>) {
    let net = address.value.0;
    let Some(network) = netplan::network_of(&given.file.networks, net.addr()) else {
        if given.is_whole("networks") {
            let names: Vec<String> =
                given.file.networks.iter().map(|n| format!("{} is {}", literal(&n.name.text), n.cidr.text)).collect();
            let help = match names.as_slice() {
                [] => "write a `[[networks]]` for it".to_owned(),
                names => format!("{}; write a `[[networks]]` for another one", names.join(", ")),
            };
            let message = format!("{} is in none of the site's networks", literal(&address.text));
            problems.push(given.problem(message, address.span.clone()).help(help));
        }
        return;
    };
    if network.cidr.value.0.prefix_len() != net.prefix_len() {
        let message = format!("{} has another prefix than its network", literal(&address.text));
        let problem = given.problem(message, address.span.clone());
        let problem = problem.and(&given.source, network.cidr.span.clone(), "the network");
        problems.push(problem.help(format!("write `{}/{}`", net.addr(), network.cidr.value.0.prefix_len())));
    }
    usable(given, net.addr(), &address.text, &address.span, network, problems);
}

/// Whether a node gets its address from a DHCP server, as far as the file says.
fn has_lease(given: &Given<'_>, node: &NodeTable) -> bool {
    match &node.network {
        Some(interfaces) => interfaces.get_ref().all().iter().any(|(_, c)| c.dhcp),
        None => netplan::dhcp_network(&given.file.networks).is_some(),
    }
}

/// A node that says `address` and `interface` at most.
fn short(given: &Given<'_>, node: &NodeTable, problems: &mut Vec<Diagnostic>) {
    if !given.is_whole("nodes") {
        return;
    }
    let name = literal(&node.name.text);
    if node.interface.is_none() && node.r#match.get_ref().mac.is_none() {
        let help = "write `interface = \"eno1\"`, or the card's MAC address, or `match` with `mac`".to_owned();
        problems.push(
            given.problem(format!("which network card of {name} has its address?"), node.name.span.clone()).help(help),
        );
    }
    if node.address.is_none() && !has_lease(given, node) && given.is_whole("networks") {
        let help = match given.file.networks.iter().filter(|n| n.dhcp).count() {
            0 => "write `address = \"…\"`, or `dhcp = true` in its network",
            _ => "several networks have `dhcp = true`: write `address = \"…\"`, or its interfaces under `network`",
        };
        problems.push(given.problem(format!("{name} has no address"), node.name.span.clone()).help(help.to_owned()));
    }
}

/// A node that says all its interfaces.
fn full(given: &Given<'_>, node: &NodeTable, written: &Spanned<Interfaces>, problems: &mut Vec<Diagnostic>) {
    let name = literal(&node.name.text);
    if let Some(interface) = &node.interface {
        let problem = given.problem(format!("{name} has `interface` and `network`"), interface.span.clone());
        problems.push(problem.help("write the interface under `network`, and take `interface` out".to_owned()));
    }
    names(given, written.get_ref(), problems);
    members(given, written.get_ref(), problems);
    if let Some((interfaces, _)) = netplan::interfaces(node, &given.file) {
        vlans(given, &interfaces, problems);
        routes(given, &interfaces, problems);
    }
    if !given.is_whole("nodes") {
        return;
    }
    gaps(given, written.get_ref(), problems);
    let all = written.get_ref().all();
    let statics: Vec<&At<Address>> = all.iter().flat_map(|(_, common)| common.addresses).collect();
    let lease = all.iter().any(|(_, common)| common.dhcp);
    match (&node.address, statics.as_slice()) {
        (Some(address), _) if !lease && !statics.iter().any(|a| a.value == address.value) => {
            let message = format!("no interface of {name} has the address {}", literal(&address.text));
            let help = "write it under `addresses` of one interface, too".to_owned();
            problems.push(given.problem(message, address.span.clone()).help(help));
        }
        (None, [first, second, ..]) => {
            let message = format!("which address of {name} do others know it by?");
            let problem =
                given.problem(message, first.span.clone()).and(&given.source, second.span.clone(), "or this?");
            problems.push(problem.help(format!("write `address = \"{}\"` under the node's `name`", first.text)));
        }
        (None, []) if !lease => problems.push(given.problem(format!("{name} has no address"), written.span())),
        _ => {}
    }
}

/// What an interface cannot be without.
fn gaps(given: &Given<'_>, interfaces: &Interfaces, problems: &mut Vec<Diagnostic>) {
    for (name, _) in interfaces.bonds.iter().filter(|(_, b)| b.interfaces.as_ref().is_none_or(Vec::is_empty)) {
        let problem = given.problem(format!("the bond {} has no link", literal(name.get_ref())), name.span());
        problems.push(problem.help("write `interfaces = [\"…\", \"…\"]`".to_owned()));
    }
    for (name, vlan) in &interfaces.vlans {
        for (key, example, lacks) in [("id", "100", vlan.id.is_none()), ("link", "\"…\"", vlan.link.is_none())] {
            if lacks {
                let problem = given.problem(format!("the VLAN {} lacks `{key}`", literal(name.get_ref())), name.span());
                problems.push(problem.help(format!("write `{key} = {example}`")));
            }
        }
    }
    for (name, common) in interfaces.all() {
        if common.routes.unwrap_or_default().iter().any(|r| r.to.is_none()) {
            let problem = given.problem(format!("a route of {} lacks `to`", literal(name.get_ref())), name.span());
            problems.push(problem.help("write `to = \"default\"`, or a network".to_owned()));
        }
    }
}

fn names(given: &Given<'_>, interfaces: &Interfaces, problems: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<&str, Range<usize>> = BTreeMap::new();
    for (name, _) in interfaces.all() {
        if let Err(wrong) = Link::parse(name.get_ref()) {
            problems.push(given.problem(wrong.message, name.span()));
        }
        if let Some(first) = seen.insert(name.get_ref(), name.span()) {
            let message = format!("two interfaces of one node are called {}", literal(name.get_ref()));
            problems.push(given.problem(message, name.span()).and(&given.source, first, "first here"));
        }
    }
    for ethernet in interfaces.ethernets.values() {
        if let (Some(set_name), None) = (&ethernet.set_name, &ethernet.r#match) {
            let problem = given.problem("`set-name` without `match`", set_name.span.clone());
            problems.push(problem.help("say which card gets the name: `match = { macaddress = \"…\" }`".to_owned()));
        }
    }
}

/// What bonds and bridges are made of, and what carries VLANs.
fn members(given: &Given<'_>, interfaces: &Interfaces, problems: &mut Vec<Diagnostic>) {
    let all = interfaces.all();
    let defined = |link: &At<Link>, problems: &mut Vec<Diagnostic>| {
        let known = || all.iter().map(|(name, _)| name.get_ref().as_str());
        if !known().any(|name| name == link.text) {
            let message = format!("no interface {}", literal(&link.text));
            let help = suggest(&link.text, known());
            problems.push(given.problem(message, link.span.clone()).help(help));
        }
    };
    let mut groups: BTreeMap<&str, (&Spanned<String>, &At<Link>)> = BTreeMap::new();
    for (group, link) in interfaces.members() {
        defined(link, problems);
        if let Some((other, first)) = groups.insert(&link.text, (group, link)) {
            let message = format!("{} is a link of {} already", literal(&link.text), literal(other.get_ref()));
            problems.push(given.problem(message, link.span.clone()).and(
                &given.source,
                first.span.clone(),
                "first here",
            ));
        }
        let own = all.iter().find(|(name, _)| *name.get_ref() == link.text);
        if let Some((name, _)) = own.filter(|(_, common)| common.dhcp || !common.addresses.is_empty()) {
            let message =
                format!("{} is a link of {}, and has an address", literal(&link.text), literal(group.get_ref()));
            let problem = given.problem(message, name.span()).and(&given.source, link.span.clone(), "a link here");
            problems.push(problem.help(format!("give the address to {}", literal(group.get_ref()))));
        }
    }
    for (name, bond) in &interfaces.bonds {
        let primary = bond.parameters.as_ref().and_then(|p| p.primary.as_ref());
        let links = || bond.interfaces.iter().flatten().map(|l| l.text.as_str());
        if let Some(primary) = primary.filter(|p| !links().any(|l| l == p.text)) {
            let message = format!("{} is no link of the bond {}", literal(&primary.text), literal(name.get_ref()));
            problems.push(given.problem(message, primary.span.clone()).help(suggest(&primary.text, links())));
        }
    }
    for link in interfaces.vlans.values().filter_map(|vlan| vlan.link.as_ref()) {
        defined(link, problems);
    }
    circles(given, interfaces, problems);
}

/// Interfaces that stand on each other, each circle once.
fn circles(given: &Given<'_>, interfaces: &Interfaces, problems: &mut Vec<Diagnostic>) {
    let vlans = interfaces.vlans.iter().filter_map(|(name, vlan)| Some((name, vlan.link.as_ref()?)));
    let all: Vec<(&str, &At<Link>)> =
        interfaces.members().chain(vlans).map(|(name, link)| (name.get_ref().as_str(), link)).collect();
    let mut told = BTreeSet::new();
    for (name, link) in &all {
        if !told.contains(name) && (link.text == *name || below(&all, &link.text).contains(name)) {
            told.extend(below(&all, name));
            problems.push(given.problem(format!("{} stands on itself", literal(name)), link.span.clone()));
        }
    }
}

/// All that an interface stands on, and what that stands on.
fn below<'a>(all: &[(&'a str, &'a At<Link>)], name: &'a str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut next = vec![name];
    while let Some(name) = next.pop() {
        let links = all.iter().filter(|(upper, _)| *upper == name).map(|(_, link)| link.text.as_str());
        next.extend(links.filter(|link| found.insert(*link)));
    }
    found
}

/// A VLAN's packets must fit into those of what carries it.
fn vlans(given: &Given<'_>, interfaces: &Interfaces, problems: &mut Vec<Diagnostic>) {
    let all = interfaces.all();
    for (name, vlan) in &interfaces.vlans {
        let (Some(mtu), Some(link)) = (&vlan.mtu, &vlan.link) else { continue };
        let Some((_, carrier)) = all.iter().find(|(name, _)| *name.get_ref() == link.text) else { continue };
        let most = carrier.mtu.map_or(USUAL_MTU, |m| *m.get_ref());
        if *mtu.get_ref() > most {
            let message = format!(
                "the MTU of the VLAN {} is {}, and {} carries {most}",
                literal(name.get_ref()),
                mtu.get_ref(),
                literal(&link.text)
            );
            let problem = given.problem(message, name.span());
            let problem = problem.and(&given.source, mtu.span(), "the VLAN's");
            let problem = carrier.mtu.iter().fold(problem, |p, m| p.and(&given.source, m.span(), "what carries it"));
            problems.push(problem.help(format!("write `mtu = {}` for {}", mtu.get_ref(), literal(&link.text))));
        }
    }
}

/// Gateways that can be reached, and one way out.
fn routes(given: &Given<'_>, interfaces: &Interfaces, problems: &mut Vec<Diagnostic>) {
    // Of each family and metric: the interface, and where its gateway is written.
    let mut defaults = BTreeMap::<_, (&Spanned<String>, Range<usize>)>::new();
    for (name, common) in interfaces.all() {
        for route in common.routes.unwrap_or_default() {
            let (Some(to), Some(via)) = (&route.to, &route.via) else { continue };
            let near = common.addresses.iter().any(|a| a.value.0.contains(&via.value.0));
            if !near && !common.dhcp && route.on_link != Some(true) {
                let message = format!("no address of {} can reach {}", literal(name.get_ref()), literal(&via.text));
                problems.push(given.problem(message, via.span.clone()).label("not in a network of its addresses"));
            }
            if to.value.0.is_some_and(|net| net.prefix_len() > 0) || route.table.is_some() {
                continue;
            }
            let key = (via.value.0.is_ipv4(), route.metric.unwrap_or(0));
            if let Some((other, first)) = defaults.insert(key, (name, via.span.clone())) {
                let message = format!(
                    "two default routes of one node, over {} and {}",
                    literal(other.get_ref()),
                    literal(name.get_ref())
                );
                let problem = given.problem(message, via.span.clone()).and(&given.source, first, "the other");
                let help = "give one of the two a `metric`, or write `routes = []` for its interface".to_owned();
                problems.push(problem.help(help));
            }
        }
    }
}
