//! The values of a site file that are more than text: what each may look like, and what it means.

mod address;
mod word;

use ssh_key::{Algorithm, PublicKey, public::KeyData};

use crate::diagnostic::{literal, suggest};
use crate::document::{Format, Value, Wrong};
pub(in crate::site) use crate::value::{Line, Name, Size, Url};
pub use address::{Address, Cidr, Destination, Domain, Host, Ip, Label, Link, Mac, Nic};
pub use word::{After, BondMode, ForeignData, HashPolicy, LacpRate};

/// All of them, for the walk over a document.
pub(in crate::site) const FORMATS: &[Format] = &[
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
    Format::of::<User>(),
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

/// Who logs in.
#[derive(Clone, Debug)]
pub struct User;

impl User {
    /// The accounts of every image: those of base-passwd, and those that packages of the base profile make.
    const TAKEN: [&'static str; 25] = [
        "root",
        "daemon",
        "bin",
        "sys",
        "sync",
        "games",
        "man",
        "lp",
        "mail",
        "news",
        "uucp",
        "proxy",
        "www-data",
        "backup",
        "list",
        "irc",
        "_apt",
        "nobody",
        "messagebus",
        "sshd",
        "systemd-network",
        "systemd-resolve",
        "systemd-timesync",
        "sudo",
        "adm",
    ];
}

impl Value for User {
    const FORMAT: &'static str = "user";
    const PATTERN: &'static str = "^[a-z_][a-z0-9_-]{0,30}$";
    const EXAMPLES: &'static [&'static str] = &["ubuntu"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let first = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        let rest = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        if !first || !rest || text.len() > 31 {
            return Err(wrong(
                text,
                "is no user name: write up to 31 small letters, digits, `_` and `-`, a letter first",
            ));
        }
        if Self::TAKEN.contains(&text) {
            return Err(wrong(text, "is an account of the image, which never logs in: write another name"));
        }
        Ok(Self)
    }
}

/// A machine's SMBIOS UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uuid(uuid::Uuid);

impl Uuid {
    /// As the kernel says it: in small letters.
    pub(in crate::site) fn uuid_text(self) -> String {
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
    pub(in crate::site) fn is_example(text: &str) -> bool {
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

/// A public key for ssh, as a line of `authorized_keys`.
#[derive(Clone, Debug)]
pub struct SshKey(PublicKey);

impl SshKey {
    /// What is weak about it, if anything.
    pub(in crate::site) fn weakness(&self) -> Option<String> {
        match (self.0.key_data(), self.0.algorithm()) {
            (KeyData::Rsa(key), _) => {
                let bits = key.n.as_positive_bytes().map_or(0, |n| n.len() * 8);
                (bits < 3072).then(|| format!("an RSA key of {bits} bits is weak"))
            }
            (_, Algorithm::Dsa) => Some("OpenSSH accepts no DSA keys any more".to_owned()),
            _ => None,
        }
    }

    /// A line without the options before its key, in which a space may stand in quotes only (sshd(8)).
    fn without_options(line: &str) -> &str {
        let mut quoted = false;
        let end = line.find(|c| {
            quoted ^= c == '"';
            c == ' ' && !quoted
        });
        end.map_or("", |at| line[at..].trim_start())
    }

    /// The key without its comment.
    pub(in crate::site) fn fingerprint(&self) -> String {
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
        let key = PublicKey::from_openssh(text).or_else(|_| PublicKey::from_openssh(Self::without_options(text)));
        key.ok().filter(|_| !text.contains(char::is_control)).map(Self).ok_or_else(|| {
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
    pub(in crate::site) strong: bool,
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
    pub(in crate::site) fn is_key(text: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tried<T: Value>(right: &[&str], wrong: &[&str]) {
        for text in T::EXAMPLES.iter().chain(right) {
            assert!(T::parse(text).is_ok(), "{}: {text} is right", T::FORMAT);
        }
        for text in wrong.iter().chain(&["\0", "a b\nc"]) {
            assert!(T::parse(text).is_err(), "{}: {text:?} is wrong", T::FORMAT);
        }
    }

    #[test]
    fn what_each_value_accepts() {
        tried::<Label>(&["a", "1", "a--b", &"a".repeat(63)], &["", "-a", "a-", "A", "a.b", "a_b", &"a".repeat(64)]);
        tried::<Domain>(&["a", "1.a"], &["", ".", "a.", "a..b", "1.2", &"a.".repeat(127)]);
        tried::<Ip>(&["2001:db8::1"], &["", "1.2.3", "1.2.3.4/24", "01.2.3.4", "::g"]);
        tried::<Cidr>(&["2001:db8::/32", "0.0.0.0/0"], &["10.0.0.1/24", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/"]);
        tried::<Address>(&["2001:db8::1/64"], &["10.0.0.1", "10.0.0.1/33", "10.0.0/8"]);
        tried::<Destination>(&["::/0", "10.0.0.1"], &["", "Default", "10.0.0.0/33"]);
        tried::<Host>(&["192.0.2.1", "2001:db8::1"], &["", "a b", "ntp_1", "1.2.3.256"]);
        tried::<Mac>(
            &["AA:BB:CC:00:00:01"],
            &["", "0:0:0:0:0:1", "aa-bb-cc-00-00-01", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"],
        );
        tried::<Uuid>(
            &["4C4C4544-0042-3510-8052-B4C04F4E3132"],
            &["", "4c4c4544004235108052b4c04f4e3132", "{4c4c4544-0042-3510-8052-b4c04f4e3132}"],
        );
        tried::<Serial>(&["VMware-42 1a"], &["", " a", "None", "0123456789", "To be filled by O.E.M."]);
        tried::<Wwn>(
            &["naa.600508b1001c5e04"],
            &["", "0x", "0xG000c500a1b2c3d4", "0x5000C500A1B2C3D4", "wwn-0x5000c500a1b2c3d4"],
        );
        tried::<ByPath>(&["pci-0000:00:1f.2-ata-1"], &["", "/dev/sda", "a b"]);
        tried::<Link>(&["bond0.100", "enp129s0f0np0"], &["", "lo", "a/b", "sixteen-letters1"]);
        tried::<Nic>(&["00:00:5e:00:53:11", "eno1"], &["", "00:00", "a b"]);
        tried::<PasswordHash>(
            &["$6$salt$hash", "$5$rounds=5000$salt$hash"],
            &["", "secret", "$6$", "$6$salt", "$6$$a", "*"],
        );
        tried::<LabelValue>(&["", "a", "A_b.c-1"], &["-a", "a-", "a/b", &"a".repeat(64)]);
        tried::<Taint>(
            &["a:NoExecute", "a.b/c=:PreferNoSchedule"],
            &["", "a", "a=b", ":NoExecute", "a:Noexecute", "a=b=c:NoExecute"],
        );
        tried::<SshKey>(
            &[
                "from=\"10.0.0.0/8\",command=\"a b\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPU0GN3ZlvP3nTEeVLT4dX6P9yHvmSRjkZ4UQZSXt7G4",
            ],
            &[
                "",
                "ssh-ed25519",
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
                "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIPU0GN3ZlvP3nTEeVLT4dX6P9yHvmSRjkZ4UQZSXt7G4",
            ],
        );
        tried::<ForeignData>(&[], &["", "Stop"]);
        tried::<After>(&[], &["halt"]);
        tried::<BondMode>(&[], &["lacp", "4"]);
        tried::<LacpRate>(&[], &["1"]);
        tried::<HashPolicy>(&[], &["layer3"]);
    }

    #[test]
    fn a_label_s_key_may_have_a_domain() {
        for key in ["zone", "example.net/rack", "a_B.c"] {
            assert!(LabelValue::is_key(key), "{key}");
        }
        for key in ["", "/", "a/", "/a", "Ex/a", "a/b/c", "-a"] {
            assert!(!LabelValue::is_key(key), "{key}");
        }
    }

    #[test]
    fn the_walk_knows_every_format_of_the_schema() {
        fn formats(schema: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
            found.extend(schema["format"].as_str().filter(|_| schema["type"] == "string").map(str::to_owned));
            for part in schema["properties"].as_object().into_iter().flatten().map(|(_, part)| part) {
                formats(part, found);
            }
            for part in ["items", "additionalProperties"].map(|key| &schema[key]).into_iter().filter(|p| p.is_object())
            {
                formats(part, found);
            }
        }
        let mut found = std::collections::BTreeSet::new();
        formats(crate::site::schema().as_value(), &mut found);
        let known: std::collections::BTreeSet<String> = FORMATS.iter().map(|f| f.name().to_owned()).collect();
        assert_eq!(found, known);
    }
}
