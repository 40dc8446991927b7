//! The network of one node, in the shape of netplan's version 2: its keys, its names, its meaning.
//!
//! Typed rather than free, so that a misspelt key has its caret and an editor completes it. What is here is what
//! machines of a cluster use; tunnels, modems and wireless networks are left out, and so is `renderer`: it is networkd.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::value::{Address, BondMode, Destination, HashPolicy, Host, Ip, LacpRate, Line, Link, Mac};
use crate::document::At;

/// The interfaces of one kind, by name.
pub type Links<T> = BTreeMap<Spanned<String>, T>;

/// The interfaces of a node.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Interfaces {
    /// Network cards, by interface name, or by a name of yours where `match` says which card it is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Ethernet>")]
    pub ethernets: Links<Ethernet>,
    /// Several links that act as one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Bond>")]
    pub bonds: Links<Bond>,
    /// Bridges.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Bridge>")]
    pub bridges: Links<Bridge>,
    /// VLANs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Vlan>")]
    pub vlans: Links<Vlan>,
}

/// What every kind of interface has.
pub struct Common<'a> {
    /// Whether it asks for an IPv4 or IPv6 address.
    pub dhcp: bool,
    /// Its addresses.
    pub addresses: &'a [At<Address>],
    /// Its routes, if any are said.
    pub routes: Option<&'a [Route]>,
    /// Its MTU, if one is said.
    pub mtu: Option<&'a Spanned<u32>>,
}

/// The same, to write.
pub struct CommonMut<'a> {
    /// Its routes.
    pub routes: &'a mut Option<Vec<Route>>,
    /// Its name servers.
    pub nameservers: &'a mut Option<Nameservers>,
    /// Its MTU.
    pub mtu: &'a mut Option<Spanned<u32>>,
}

/// A kind of interface: its own keys, and those that all kinds have.
macro_rules! interface {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
        pub struct $name {
            $($(#[$field_doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
            /// Ask for an IPv4 address.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub dhcp4: Option<bool>,
            /// Ask for an IPv6 address.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub dhcp6: Option<bool>,
            /// What to take from the IPv4 lease.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub dhcp4_overrides: Option<DhcpOverrides>,
            /// What to take from the IPv6 lease.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub dhcp6_overrides: Option<DhcpOverrides>,
            /// What the DHCP server knows this machine by: `mac` or `duid`.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub dhcp_identifier: Option<At<Line>>,
            /// Whether router advertisements are heard.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub accept_ra: Option<bool>,
            /// Link-local addresses to have: `ipv4`, `ipv6`.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub link_local: Option<Vec<At<Line>>>,
            /// Static addresses, with prefix.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub addresses: Option<Vec<At<Address>>>,
            /// Routes. Without this key, the network of an address gives its gateway.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub routes: Option<Vec<Route>>,
            /// Rules that choose a routing table.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub routing_policy: Option<Vec<RoutingPolicy>>,
            /// Name servers. Without this key, those of the network of an address.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub nameservers: Option<Nameservers>,
            /// Bytes of the largest packet. Without this key, that of the network of an address.
            #[serde(skip_serializing_if = "Option::is_none")]
            #[schemars(with = "Option<u32>", range(min = 68, max = 65536))]
            pub mtu: Option<Spanned<u32>>,
            /// The MAC address to take on.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub macaddress: Option<At<Mac>>,
            /// Whether the boot goes on without this interface.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub optional: Option<bool>,
            /// Whether it keeps its addresses when its cable is pulled.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub ignore_carrier: Option<bool>,
        }

        impl $name {
            /// What every kind has.
            pub fn common(&self) -> Common<'_> {
                Common {
                    dhcp: self.dhcp4 == Some(true) || self.dhcp6 == Some(true),
                    addresses: self.addresses.as_deref().unwrap_or_default(),
                    routes: self.routes.as_deref(),
                    mtu: self.mtu.as_ref(),
                }
            }

            fn common_mut(&mut self) -> CommonMut<'_> {
                CommonMut { routes: &mut self.routes, nameservers: &mut self.nameservers, mtu: &mut self.mtu }
            }
        }
    };
}

interface! {
    /// A network card.
    Ethernet {
        /// Which card it is. Then it is also named so, if nothing else is said.
        r#match: Match,
        /// The name that the card gets.
        set_name: At<Link>,
        /// Whether a packet may wake the machine.
        wakeonlan: bool,
    }
}

interface! {
    /// Several links that act as one.
    Bond {
        /// The links.
        interfaces: Vec<At<Link>>,
        /// How it uses them.
        parameters: BondParameters,
    }
}

interface! {
    /// A bridge.
    Bridge {
        /// The links that it joins.
        interfaces: Vec<At<Link>>,
        /// How it works.
        parameters: BridgeParameters,
    }
}

interface! {
    /// A VLAN.
    Vlan {
        /// Its number.
        #[schemars(with = "Option<u32>", range(min = 1, max = 4094), extend("examples" = [100]))]
        id: Spanned<u32>,
        /// The interface that carries it.
        link: At<Link>,
    }
}

/// Which card.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// By its MAC address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macaddress: Option<At<Mac>>,
    /// By its interface's name; `*` stands for anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<At<Line>>,
    /// By its driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<At<Line>>,
}

/// A route.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Route {
    /// Where it leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<At<Destination>>,
    /// The next machine on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<At<Ip>>,
    /// The address to send from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<At<Ip>>,
    /// Of several routes the smallest wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// The routing table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Whether `via` is there though no address says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_link: Option<bool>,
    /// Bytes of the largest packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// `unicast`, `local`, `blackhole` …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<At<Line>>,
    /// `global`, `link` or `host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<At<Line>>,
}

/// A rule that chooses a routing table.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RoutingPolicy {
    /// Packets from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<At<Destination>>,
    /// Packets to there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<At<Destination>>,
    /// The table that they use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Of several rules the smallest wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Packets with this mark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
}

/// Name servers.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Nameservers {
    /// Their addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<At<Ip>>>,
    /// Domains in which short names are looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Vec<At<Host>>>,
}

/// What to take from a DHCP lease.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct DhcpOverrides {
    /// Its name servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_dns: Option<bool>,
    /// Its time servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_ntp: Option<bool>,
    /// Its host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_hostname: Option<bool>,
    /// Its MTU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_mtu: Option<bool>,
    /// Its routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_routes: Option<bool>,
    /// Tell the server this machine's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_hostname: Option<bool>,
    /// The metric of its routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route_metric: Option<u32>,
}

/// How a bond uses its links.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BondParameters {
    /// The mode; `802.3ad` is LACP.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["802.3ad", "active-backup"]))]
    pub mode: Option<At<BondMode>>,
    /// How often LACP speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lacp_rate: Option<At<LacpRate>>,
    /// Milliseconds between looks at the links.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mii_monitor_interval: Option<u32>,
    /// Links that must be up for the bond to be up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_links: Option<u32>,
    /// What chooses a packet's link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transmit_hash_policy: Option<At<HashPolicy>>,
    /// The link that is preferred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<At<Link>>,
    /// Milliseconds before a link that came up is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up_delay: Option<u32>,
    /// Milliseconds before a link that went down is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_delay: Option<u32>,
    /// Announcements after a change of the link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gratuitous_arp: Option<u32>,
    /// Whose MAC address the bond has: `none`, `active` or `follow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_over_mac_policy: Option<At<Line>>,
}

/// How a bridge works.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BridgeParameters {
    /// Whether it speaks the spanning tree protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stp: Option<bool>,
    /// Seconds before a new port forwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_delay: Option<u32>,
}

impl Interfaces {
    /// Every interface: its name, and what all kinds have.
    pub fn all(&self) -> Vec<(&Spanned<String>, Common<'_>)> {
        let ethernets = self.ethernets.iter().map(|(name, link)| (name, link.common()));
        let bonds = self.bonds.iter().map(|(name, link)| (name, link.common()));
        let bridges = self.bridges.iter().map(|(name, link)| (name, link.common()));
        let vlans = self.vlans.iter().map(|(name, link)| (name, link.common()));
        ethernets.chain(bonds).chain(bridges).chain(vlans).collect()
    }

    /// Every interface, to write: those that stand on others last.
    pub(super) fn all_mut(&mut self) -> Vec<(Vec<At<Address>>, CommonMut<'_>)> {
        fn of(addresses: Option<&Vec<At<Address>>>) -> Vec<At<Address>> {
            addresses.cloned().unwrap_or_default()
        }
        let ethernets = self.ethernets.values_mut().map(|l| (of(l.addresses.as_ref()), l.common_mut()));
        let bonds = self.bonds.values_mut().map(|l| (of(l.addresses.as_ref()), l.common_mut()));
        let bridges = self.bridges.values_mut().map(|l| (of(l.addresses.as_ref()), l.common_mut()));
        let vlans = self.vlans.values_mut().map(|l| (of(l.addresses.as_ref()), l.common_mut()));
        ethernets.chain(bonds).chain(bridges).chain(vlans).collect()
    }

    /// The links that bonds and bridges are made of: the group's name, and each link.
    pub(super) fn members(&self) -> impl Iterator<Item = (&Spanned<String>, &At<Link>)> {
        let bonds = self.bonds.iter().map(|(name, bond)| (name, &bond.interfaces));
        let bridges = self.bridges.iter().map(|(name, bridge)| (name, &bridge.interfaces));
        bonds.chain(bridges).flat_map(|(name, links)| links.iter().flatten().map(move |link| (name, link)))
    }
}
