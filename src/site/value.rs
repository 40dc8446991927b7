//! The values of a site file that are more than text: what each may look like, and what it means.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use ssh_key::{Algorithm, PublicKey, public::KeyData};

use crate::diagnostic::{literal, suggest};
use crate::document::{Format, Value, Wrong};
pub(super) use crate::value::{Line, Name, Size, Url};

/// All of them, for the walk over a document.
pub(super) const FORMATS: &[Format] = &[
    Format::of::<Line>(),
    Format::of::<Name>(),
    Format::of::<Size>(),
    Format::of::<Url>(),
    Format::of::<Label>(),
    Format::of::<Domain>(),
    Format::of::<Ip>(),
    Format::of::<Cidr>(),
    Format::of::<Address>(),
    Format::of::<Destination>(),
    Format::of::<Host>(),
    Format::of::<Mac>(),
    Format::of::<Uuid>(),
    Format::of::<Serial>(),
    Format::of::<Wwn>(),
    Format::of::<ByPath>(),
    Format::of::<Link>(),
    Format::of::<Nic>(),
    Format::of::<SshKey>(),
    Format::of::<PasswordHash>(),
    Format::of::<LabelValue>(),
    Format::of::<Taint>(),
    Format::of::<ForeignData>(),
    Format::of::<After>(),
    Format::of::<BondMode>(),
    Format::of::<LacpRate>(),
    Format::of::<HashPolicy>(),
];

fn wrong(text: &str, message: &str) -> Wrong {
    Wrong::new(format!("{} {message}", literal(text)))
}

/// A word of a closed set.
macro_rules! one_of {
    ($(#[$doc:meta])* $name:ident, $format:literal, $pattern:literal, { $($(#[$word_doc:meta])* $word:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
        pub enum $name {
            $($(#[$word_doc])* #[serde(rename = $text)] $word,)+
        }

        impl Value for $name {
            const FORMAT: &'static str = $format;
            const PATTERN: &'static str = $pattern;
            const EXAMPLES: &'static [&'static str] = &[$($text),+];

            fn parse(text: &str) -> Result<Self, Wrong> {
                match text {
                    $($text => Ok(Self::$word),)+
                    _ => {
                        let words = Self::EXAMPLES.iter().map(|w| literal(w)).collect::<Vec<_>>().join(", ");
                        let message = format!("{} is none of {words}", literal(text));
                        let near = suggest(text, Self::EXAMPLES.iter().copied()).filter(|h| h.starts_with("the nearest"));
                        Err(Wrong { message, help: near })
                    }
                }
            }
        }
    };
}

one_of! {
    /// What the installer does with a disk that holds somebody else's data.
    ForeignData, "foreign-data", "^(stop|wipe)$", {
        /// Nothing is written; the machine says what it found.
        Stop = "stop",
        /// It is overwritten.
        Wipe = "wipe",
    }
}

one_of! {
    /// What a machine does when it has been installed.
    After, "after-install", "^(poweroff|reboot|kexec)$", {
        /// It switches itself off.
        Poweroff = "poweroff",
        /// It starts anew through its firmware.
        Reboot = "reboot",
        /// It starts the installed kernel at once.
        Kexec = "kexec",
    }
}

one_of! {
    /// How a bond uses its links.
    BondMode, "bond-mode", "^(balance-rr|active-backup|balance-xor|broadcast|802\\.3ad|balance-tlb|balance-alb)$", {
        /// In turn.
        BalanceRr = "balance-rr",
        /// One at a time.
        ActiveBackup = "active-backup",
        /// By a hash.
        BalanceXor = "balance-xor",
        /// All at once.
        Broadcast = "broadcast",
        /// LACP: the switch must know.
        Lacp = "802.3ad",
        /// By load, sending.
        BalanceTlb = "balance-tlb",
        /// By load, both ways.
        BalanceAlb = "balance-alb",
    }
}

one_of! {
    /// How often LACP speaks.
    LacpRate, "lacp-rate", "^(slow|fast)$", {
        /// Every 30 s.
        Slow = "slow",
        /// Every second.
        Fast = "fast",
    }
}

one_of! {
    /// What a bond's hash is made of.
    HashPolicy, "transmit-hash-policy", "^(layer2|layer3\\+4|layer2\\+3|encap2\\+3|encap3\\+4)$", {
        /// MAC addresses.
        Layer2 = "layer2",
        /// IP addresses and ports.
        Layer34 = "layer3+4",
        /// MAC and IP addresses.
        Layer23 = "layer2+3",
        /// As `layer2+3`, within a tunnel.
        Encap23 = "encap2+3",
        /// As `layer3+4`, within a tunnel.
        Encap34 = "encap3+4",
    }
}

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
        match Ip::parse(text).is_ok() || Domain::parse(text).is_ok() {
            true => Ok(Self),
            false => Err(wrong(text, "is neither an IP address nor a DNS name")),
        }
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
    pub(super) fn is_example(self) -> bool {
        self.0.starts_with(&[0, 0, 0x5e, 0, 0x53])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
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

/// A machine's SMBIOS UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uuid(uuid::Uuid);

impl Uuid {
    /// As the kernel says it: in small letters.
    pub(super) fn uuid_text(self) -> String {
        self.0.hyphenated().to_string()
    }
}

impl Value for Uuid {
    const FORMAT: &'static str = "smbios-uuid";
    const PATTERN: &'static str = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$";
    const EXAMPLES: &'static [&'static str] = &["4c4c4544-0042-3510-8052-b4c04f4e3132"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let uuid = uuid::Uuid::try_parse(text).ok().filter(|_| text.len() == 36);
        let uuid = uuid.ok_or_else(|| wrong(text, "is not a UUID: write what `dmidecode -s system-uuid` says"))?;
        if uuid.is_nil() || uuid.is_max() {
            return Err(wrong(text, "is what machines without a UUID have"));
        }
        Ok(Self(uuid))
    }
}

/// The serial number of a machine or a disk.
#[derive(Clone, Debug)]
pub struct Serial;

impl Serial {
    /// What vendors write where they write nothing.
    const NOTHING: [&'static str; 12] = [
        "to be filled by o.e.m.",
        "0123456789",
        "123456789",
        "none",
        "default string",
        "not specified",
        "system serial number",
        "n/a",
        "unknown",
        "oem",
        "0",
        "xxxxxxxx",
    ];

    /// Whether it stands for one that the user has not written yet.
    pub(super) fn is_example(text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        text.starts_with("example") || text.starts_with("change")
    }
}

impl Value for Serial {
    const FORMAT: &'static str = "serial";
    const PATTERN: &'static str = r"^\S(.*\S)?$";
    const EXAMPLES: &'static [&'static str] = &["ABC1234"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.trim() != text || text.is_empty() || text.contains(char::is_control) {
            return Err(wrong(text, "is not a serial number: write it without spaces at its ends"));
        }
        if Self::NOTHING.contains(&text.to_ascii_lowercase().as_str()) {
            return Err(wrong(text, "is what vendors write where there is no serial number"));
        }
        Ok(Self)
    }
}

/// A disk's World Wide Name, as udev gives it (`ID_WWN`).
#[derive(Clone, Debug)]
pub struct Wwn;

impl Value for Wwn {
    const FORMAT: &'static str = "wwn";
    const PATTERN: &'static str = r"^(0x[0-9a-f]{16,32}|(eui|naa|nvme|uuid)\.[0-9a-f.-]{8,})$";
    const EXAMPLES: &'static [&'static str] = &["0x5000c500a1b2c3d4", "eui.0025385b71b12345"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let digits =
            |t: &str, also: &str| t.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f') || also.contains(b as char));
        let hex = |t: &str| (16..=32).contains(&t.len()) && digits(t, "");
        let dotted = |(kind, t): (&str, &str)| {
            matches!(kind, "eui" | "naa" | "nvme" | "uuid") && t.len() >= 8 && digits(t, ".-")
        };
        if text.strip_prefix("0x").is_some_and(hex) || text.split_once('.').is_some_and(dotted) {
            return Ok(Self);
        }
        let help = text
            .strip_prefix("wwn-")
            .or(text.strip_prefix("nvme-"))
            .map(|t| format!("leave out what stands before {}", literal(t)));
        Err(Wrong { help, ..wrong(text, "is not a WWN: write what `lsblk -o NAME,WWN` says, in small letters") })
    }
}

/// Where a disk is plugged in: a name of `/dev/disk/by-path/`.
#[derive(Clone, Debug)]
pub struct ByPath;

impl Value for ByPath {
    const FORMAT: &'static str = "by-path";
    const PATTERN: &'static str = r"^[A-Za-z0-9:.,_+-]+$";
    const EXAMPLES: &'static [&'static str] = &["pci-0000:03:00.0-nvme-1"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b":.,_+-".contains(&b)) {
            let name = text.strip_prefix("/dev/disk/by-path/");
            let help = name.map(|name| format!("write the name alone: {}", literal(name)));
            return Err(Wrong { help, ..wrong(text, "is not a name of `/dev/disk/by-path/`") });
        }
        Ok(Self)
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

/// A public key for ssh, as a line of `authorized_keys`.
#[derive(Clone, Debug)]
pub struct SshKey(PublicKey);

impl SshKey {
    /// What is weak about it, if anything.
    pub(super) fn weakness(&self) -> Option<String> {
        match (self.0.key_data(), self.0.algorithm()) {
            (KeyData::Rsa(key), _) => {
                let bits = key.n.as_positive_bytes().map_or(0, |n| n.len() * 8);
                (bits < 3072).then(|| format!("an RSA key of {bits} bits is weak"))
            }
            (_, Algorithm::Dsa) => Some("OpenSSH accepts no DSA keys any more".to_owned()),
            _ => None,
        }
    }

    /// The key without its comment.
    pub(super) fn fingerprint(&self) -> String {
        self.0.fingerprint(ssh_key::HashAlg::Sha256).to_string()
    }
}

impl Value for SshKey {
    const FORMAT: &'static str = "ssh-key";
    const PATTERN: &'static str = r"^\S.*\s\S+";
    const EXAMPLES: &'static [&'static str] =
        &["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPU0GN3ZlvP3nTEeVLT4dX6P9yHvmSRjkZ4UQZSXt7G4 you@example.com"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.contains("PRIVATE KEY") {
            return Err(Wrong::new("this is a private key: write the public one, the file that ends in `.pub`"));
        }
        let entry = text.parse::<ssh_key::authorized_keys::Entry>();
        let entry = entry.ok().filter(|_| !text.contains(char::is_control));
        entry.map(|e| Self(e.public_key().clone())).ok_or_else(|| {
            let message =
                "is not a public key: write the line of a `.pub` file, e.g. `ssh-ed25519 AAAA… you@example.com`";
            wrong(text, message)
        })
    }
}

/// A password's hash, as crypt(3) makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordHash {
    /// Whether its method is one that resists guessing: yescrypt or SHA-512.
    pub(super) strong: bool,
}

impl Value for PasswordHash {
    const FORMAT: &'static str = "password-hash";
    const PATTERN: &'static str = r"^\$[0-9a-z]+\$[^\s:]+$";
    const EXAMPLES: &'static [&'static str] = &["$y$j9T$…"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let help = || Some("make one with `mkpasswd --method=yescrypt`".to_owned());
        let parts: Vec<&str> = text.split('$').collect();
        let whole = matches!(parts.as_slice(), ["", id, rest @ ..] if !id.is_empty() && rest.len() >= 2 && rest.iter().all(|p| !p.is_empty()));
        if !whole || text.contains(|c: char| c.is_whitespace() || c.is_control() || c == ':') {
            return Err(Wrong { message: "this is not a password's hash".to_owned(), help: help() });
        }
        Ok(Self { strong: matches!(parts[1], "y" | "6") })
    }
}

/// The value of a Kubernetes label.
#[derive(Clone, Debug)]
pub struct LabelValue;

impl LabelValue {
    /// Whether a text may be the key of a label or a taint: `name` or `prefix/name`.
    pub(super) fn is_key(text: &str) -> bool {
        let (prefix, name) = text.rsplit_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
        !name.is_empty() && Self::parse(name).is_ok() && prefix.is_none_or(|p| Domain::parse(p).is_ok())
    }
}

impl Value for LabelValue {
    const FORMAT: &'static str = "label-value";
    const PATTERN: &'static str = "^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$";
    const EXAMPLES: &'static [&'static str] = &["rack-1"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        let end = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
        let mut letters = text.chars();
        if text.len() > 63 || !text.bytes().all(inner) || !end(letters.next()) || !end(letters.next_back()) {
            let message = "is not a label's value: write at most 63 letters, digits and, within, `-`, `_` and `.`";
            return Err(wrong(text, message));
        }
        Ok(Self)
    }
}

/// A Kubernetes taint.
#[derive(Clone, Debug)]
pub struct Taint;

impl Value for Taint {
    const FORMAT: &'static str = "taint";
    const PATTERN: &'static str = "^[^=:]+(=[^=:]*)?:(NoSchedule|PreferNoSchedule|NoExecute)$";
    const EXAMPLES: &'static [&'static str] = &["nvidia.com/gpu=present:NoSchedule"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        let (pair, effect) = text.rsplit_once(':').unwrap_or((text, ""));
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !EFFECTS.contains(&effect) {
            let help = suggest(effect, EFFECTS);
            return Err(Wrong { help, ..wrong(text, "is not a taint: write `key=value:Effect` or `key:Effect`") });
        }
        if !LabelValue::is_key(key) || LabelValue::parse(value).is_err() {
            return Err(wrong(text, "is not a taint: its key or value has letters that Kubernetes does not allow"));
        }
        Ok(Self)
    }
}
