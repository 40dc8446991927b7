//! The interfaces of a node as netplan reads them.
//!
//! In: what a node says of its network, and the site's networks. Out: [`Interfaces`] that are whole, and their YAML.
//!
//! Rules, from what went wrong elsewhere: a card that is matched by its MAC address gets a name of its own (`set-name`),
//! and only cards are matched, since a bond or a VLAN takes on the MAC address of what it stands on. A link of a bond is
//! `optional`, or a pulled cable holds up the boot. A gateway is a route to `default`; `gateway4` is deprecated.
//!
//! The YAML is written by `serde-saphyr`: it is maintained (`serde_yaml` is archived, its forks rest on the unmaintained
//! `libyaml` translation), and quotes what readers of YAML 1.1 (netplan, Ansible) would take for numbers: MAC addresses
//! of digits alone are numbers to base 60 there.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use serde::Serialize;
use toml::Spanned;

use super::Node;
use super::file::{NetworkTable, NodeTable, SiteFile};
use super::network::{Ethernet, Interfaces, Match, Nameservers, Route, Vlan};
use super::value::{Address, Destination, Host, Ip, Link, Mac, Nic};
use crate::document::At;

/// The name of the card that a MAC address chose.
const CARD: &str = "nic0";

#[derive(Serialize)]
struct Document<'a> {
    network: Version2<'a>,
}

#[derive(Serialize)]
struct Version2<'a> {
    version: u8,
    #[serde(flatten)]
    interfaces: &'a Interfaces,
}

/// The file that a node's netplan reads.
pub fn render(node: &Node) -> Result<String> {
    let document = Document { network: Version2 { version: 2, interfaces: &node.interfaces } };
    serde_saphyr::to_string(&document).with_context(|| format!("writing the network of `{}` out", node.name))
}

/// The network that an address lies in.
pub(super) fn network_of(networks: &[NetworkTable], address: IpAddr) -> Option<&NetworkTable> {
    networks.iter().find(|n| n.cidr.value.0.contains(&address))
}

/// The network that gives a node its address by DHCP, when the node says nothing.
pub(super) fn dhcp_network(networks: &[NetworkTable]) -> Option<&NetworkTable> {
    let mut dhcp = networks.iter().filter(|n| n.dhcp);
    dhcp.next().filter(|_| dhcp.next().is_none())
}

/// All interfaces of a node, with what its networks give; and the one that has the node's address.
pub(super) fn interfaces(node: &NodeTable, file: &SiteFile) -> Option<(Interfaces, String)> {
    match &node.network {
        Some(written) => {
            let mut interfaces = written.get_ref().clone();
            complete(&mut interfaces, file);
            let main = main(&interfaces, node)?;
            Some((interfaces, main))
        }
        None => card(node, file),
    }
}

/// The address of a node: what it says, or the only static one of its interfaces.
pub(super) fn address(node: &NodeTable) -> Option<&At<Address>> {
    let statics = || {
        let all = node.network.as_ref()?.get_ref().all();
        let mut addresses = all.into_iter().flat_map(|(_, common)| common.addresses);
        addresses.next().filter(|_| addresses.next().is_none())
    };
    node.address.as_ref().or_else(statics)
}

/// Every address that a node says, its own first.
pub(super) fn addresses(node: &NodeTable) -> Vec<&At<Address>> {
    let all = node.network.iter().flat_map(|n| n.get_ref().all());
    node.address.iter().chain(all.flat_map(|(_, common)| common.addresses)).collect()
}

/// The interface that has the node's address, or else the first that asks for one.
fn main(interfaces: &Interfaces, node: &NodeTable) -> Option<String> {
    let all = interfaces.all();
    let has = |addresses: &[At<Address>]| address(node).is_some_and(|a| addresses.iter().any(|b| a.value == b.value));
    let found = all.iter().find(|(_, c)| has(c.addresses)).or_else(|| all.iter().find(|(_, c)| c.dhcp));
    found.map(|(name, _)| name.get_ref().clone())
}

/// One card, and a VLAN on it where the network has one.
fn card(node: &NodeTable, file: &SiteFile) -> Option<(Interfaces, String)> {
    let network = match &node.address {
        Some(address) => network_of(&file.networks, address.value.0.addr())?,
        None => dhcp_network(&file.networks)?,
    };
    let (name, mut ethernet) = match (&node.interface, &node.r#match.get_ref().mac) {
        (Some(At { value: Nic::Name, text, .. }), _) => (text.clone(), Ethernet::default()),
        (Some(At { value: Nic::Mac(mac), .. }), _) | (None, Some(At { value: mac, .. })) => {
            (CARD.to_owned(), by_mac(*mac))
        }
        (None, None) => return None,
    };
    let mut interfaces = Interfaces::default();
    let addresses = node.address.as_ref().filter(|_| !network.dhcp).map(|a| vec![a.clone()]);
    let v6 = matches!(network.cidr.value.0, IpNet::V6(_));
    let (dhcp4, dhcp6) = ((network.dhcp && !v6).then_some(true), (network.dhcp && v6).then_some(true));
    let main = if let Some(id) = &network.vlan {
        let vlan_name = format!("vlan{}", id.get_ref());
        ethernet.mtu.clone_from(&network.mtu);
        let vlan =
            Vlan { id: Some(id.clone()), link: Some(made(Link, &name)), addresses, dhcp4, dhcp6, ..Vlan::default() };
        interfaces.vlans.insert(Spanned::new(0..0, vlan_name.clone()), vlan);
        vlan_name
    } else {
        (ethernet.addresses, ethernet.dhcp4, ethernet.dhcp6) = (addresses, dhcp4, dhcp6);
        name.clone()
    };
    interfaces.ethernets.insert(Spanned::new(0..0, name), ethernet);
    complete(&mut interfaces, file);
    if let Some((_, common)) = interfaces.all_mut().pop().filter(|_| network.dhcp) {
        // The lease may say otherwise; what the site says holds.
        common.mtu.clone_from(&network.mtu);
        if !network.dns.is_empty() || !network.search.is_empty() {
            *common.nameservers = nameservers(&[network], file);
        }
    }
    Some((interfaces, main))
}

fn by_mac(mac: Mac) -> Ethernet {
    let matched = Match { macaddress: Some(made(mac, &mac.to_string())), ..Match::default() };
    Ethernet { r#match: Some(matched), ..Ethernet::default() }
}

/// Adds what is not said: names of matched cards, links of bonds that may be missing, and what networks give.
fn complete(interfaces: &mut Interfaces, file: &SiteFile) {
    let members: Vec<String> = interfaces.members().map(|(_, link)| link.text.clone()).collect();
    for (name, ethernet) in &mut interfaces.ethernets {
        if ethernet.r#match.is_some() && ethernet.set_name.is_none() {
            ethernet.set_name = Some(made(Link, name.get_ref()));
        }
        if members.contains(name.get_ref()) {
            ethernet.optional.get_or_insert(true);
        }
    }
    for (addresses, common) in interfaces.all_mut() {
        let networks: Vec<&NetworkTable> =
            addresses.iter().filter_map(|a| network_of(&file.networks, a.value.0.addr())).collect();
        if networks.is_empty() {
            continue;
        }
        if common.routes.is_none() {
            let gateways = networks.iter().filter_map(|n| n.gateway.as_ref());
            let routes: Vec<Route> = gateways.map(default_route).collect();
            *common.routes = Some(routes).filter(|r| !r.is_empty());
        }
        if common.nameservers.is_none() {
            *common.nameservers = nameservers(&networks, file);
        }
        if common.mtu.is_none() {
            *common.mtu = networks.iter().find_map(|n| n.mtu.clone());
        }
    }
}

/// The default route over a gateway.
fn default_route(gateway: &At<Ip>) -> Route {
    Route { to: Some(made(Destination(None), "default")), via: Some(gateway.clone()), ..Route::default() }
}

fn nameservers(networks: &[&NetworkTable], file: &SiteFile) -> Option<Nameservers> {
    let own: Vec<At<Ip>> = networks.iter().flat_map(|n| n.dns.clone()).collect();
    let addresses = if own.is_empty() { file.dns.servers.clone() } else { own };
    let own = networks.iter().flat_map(|n| &n.search);
    let shared = file.dns.search.iter().filter(|_| networks.iter().all(|n| n.search.is_empty()));
    let search: Vec<At<Host>> = own.chain(shared).map(|domain| made(Host, &domain.text)).collect();
    let some = !addresses.is_empty() || !search.is_empty();
    some.then(|| Nameservers {
        addresses: Some(addresses).filter(|a| !a.is_empty()),
        search: Some(search).filter(|s| !s.is_empty()),
    })
}

/// A value that no file holds.
fn made<T>(value: T, text: &str) -> At<T> {
    At { value, text: text.to_owned(), span: 0..0 }
}
