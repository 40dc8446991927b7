//! Names and addresses: of machines, networks and network cards.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::wrong;
use crate::document::{Value, Wrong};

/// A DNS label (RFC 1123): the name of a node or a cluster.
#[derive(Clone, Debug)]
pub struct Label;

impl Value for Label {
    const FORMAT: &'static str = "dns-label";
    const PATTERN: &'static str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
    const EXAMPLES: &'static [&'static str] = &["cp1"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.len() > 63 {
            return Err(wrong(text, &format!("has {} characters: a DNS label has at most 63", text.chars().count())));
        }
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() || !text.bytes().all(inner) || text.starts_with('-') || text.ends_with('-') {
            return Err(wrong(text, "is not a DNS label: write small letters, digits and, within, `-`"));
        }
        Ok(Self)
    }
}

/// A DNS name.
#[derive(Clone, Debug)]
pub struct Domain;

impl Value for Domain {
    const FORMAT: &'static str = "dns-name";
    const PATTERN: &'static str = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$";
    const EXAMPLES: &'static [&'static str] = &["k8s.example.com"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.len() > 253 || !text.split('.').all(|part| Label::parse(part).is_ok()) {
            return Err(wrong(
                text,
                "is not a DNS name: write labels of small letters, digits and `-`, joined by dots",
            ));
        }
        if text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
            return Err(wrong(text, "is not a DNS name: its last label is a number"));
        }
        Ok(Self)
    }
}

/// An IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip(
    /// What it is.
    pub IpAddr,
);

impl Value for Ip {
    const FORMAT: &'static str = "ip-address";
    const PATTERN: &'static str = r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)$";
    const EXAMPLES: &'static [&'static str] = &["192.0.2.10"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        text.parse().map(Self).map_err(|_| {
            let help = text.parse::<IpNet>().ok().map(|net| format!("leave the prefix out: `{}`", net.addr()));
            Wrong { help, ..wrong(text, "is not an IP address") }
        })
    }
}

/// A network: an address whose host bits are zero, and a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr(
    /// What it is.
    pub IpNet,
);

impl Value for Cidr {
    const FORMAT: &'static str = "cidr";
    const PATTERN: &'static str = "^[0-9a-fA-F:.]+/[0-9]{1,3}$";
    const EXAMPLES: &'static [&'static str] = &["192.0.2.0/24"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let net: IpNet = text
            .parse()
            .map_err(|_| wrong(text, "is not a network: write its address and prefix, e.g. `192.0.2.0/24`"))?;
        if net.addr() != net.network() {
            let help = Some(format!("the network is `{}`", net.trunc()));
            return Err(Wrong { help, ..wrong(text, "is an address within a network") });
        }
        Ok(Self(net))
    }
}

/// A machine's address and the prefix of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(
    /// What it is.
    pub IpNet,
);

impl Value for Address {
    const FORMAT: &'static str = "address";
    const PATTERN: &'static str = "^[0-9a-fA-F:.]+/[0-9]{1,3}$";
    const EXAMPLES: &'static [&'static str] = &["192.0.2.11/24"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        text.parse().map(Self).map_err(|_| {
            let help = text.parse::<IpAddr>().ok().map(|ip| format!("add the network's prefix, e.g. `{ip}/24`"));
            Wrong { help, ..wrong(text, "is not an address with a prefix: write e.g. `192.0.2.11/24`") }
        })
    }
}

/// Where a route leads: `default`, or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination(
    /// The network; none is the default route.
    pub Option<IpNet>,
);

impl Value for Destination {
    const FORMAT: &'static str = "route-destination";
    const PATTERN: &'static str = "^(default|[0-9a-fA-F:.]+(/[0-9]{1,3})?)$";
    const EXAMPLES: &'static [&'static str] = &["default", "198.51.100.0/24"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text {
            "default" => Ok(Self(None)),
            _ => match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
                (Ok(net), _) => Ok(Self(Some(net))),
                (_, Ok(ip)) => Ok(Self(Some(ip.into()))),
                _ => Err(wrong(text, "is no destination: write `default` or a network, e.g. `198.51.100.0/24`")),
            },
        }
    }
}

/// Another machine: an IP address or a DNS name.
#[derive(Clone, Debug)]
pub struct Host;

impl Value for Host {
    const FORMAT: &'static str = "host";
    const PATTERN: &'static str = "^[0-9A-Za-z:.-]+$";
    const EXAMPLES: &'static [&'static str] = &["ntp.ubuntu.com"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if Ip::parse(text).is_err() && Domain::parse(text).is_err() {
            return Err(wrong(text, "is neither an IP address nor a DNS name"));
        }
        Ok(Self)
    }
}

/// The address of a network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(
    /// Its six bytes.
    pub [u8; 6],
);

impl Mac {
    /// The range for documentation (RFC 7042, 2.1.1).
    pub(in crate::site) fn is_example(self) -> bool {
        self.0.starts_with(&[0, 0, 0x5e, 0, 0x53])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&bytes.join(":"))
    }
}

impl Value for Mac {
    const FORMAT: &'static str = "mac";
    const PATTERN: &'static str = "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$";
    const EXAMPLES: &'static [&'static str] = &["00:00:5e:00:53:11"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let byte = |part: &str| {
            let right = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            right.then(|| u8::from_str_radix(part, 16).ok()).flatten()
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        let Some(bytes) = bytes.and_then(|b| <[u8; 6]>::try_from(b).ok()) else {
            return Err(wrong(text, "is not a MAC address: write six bytes in hexadecimal, joined by `:`"));
        };
        if bytes == [0; 6] || bytes[0] & 1 == 1 {
            return Err(wrong(text, "is no network card's address: it is zero, or one of many receivers"));
        }
        Ok(Self(bytes))
    }
}

/// The name of a network interface.
#[derive(Clone, Debug)]
pub struct Link;

impl Value for Link {
    const FORMAT: &'static str = "interface";
    const PATTERN: &'static str = r"^[A-Za-z0-9_.-]{1,15}$";
    const EXAMPLES: &'static [&'static str] = &["eno1"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.len() > 15 {
            return Err(wrong(text, &format!("has {} characters: Linux allows an interface 15", text.chars().count())));
        }
        let right = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if !right || matches!(text, "" | "." | ".." | "lo" | "all" | "default") {
            return Err(wrong(text, "is not an interface's name: write letters, digits, `.`, `-` and `_`"));
        }
        Ok(Self)
    }
}

/// A network card: by its MAC address, or by its interface's name.
#[derive(Clone, Debug)]
pub enum Nic {
    /// By address.
    Mac(Mac),
    /// By name.
    Name,
}

impl Value for Nic {
    const FORMAT: &'static str = "network-card";
    const PATTERN: &'static str = r"^([0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}|[A-Za-z0-9_.-]{1,15})$";
    const EXAMPLES: &'static [&'static str] = &["eno1", "00:00:5e:00:53:11"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.contains(':') { Mac::parse(text).map(Self::Mac) } else { Link::parse(text).map(|_| Self::Name) }
    }
}
