//! The values of a profile that are more than text: what each may look like, and what it means.
//!
//! Each is tried where it stands, so the caret is under the very value. Those that mean just what they say are types
//! without a content: [`At`](crate::document::At) holds the text.

use std::path::PathBuf;

use crate::diagnostic::literal;
use crate::digest::Sha256;
use crate::document::{Format, Value, Wrong};
pub(super) use crate::value::{Line, Name, Size, Url};

/// All of them, for the walk over a document.
pub(super) const FORMATS: &[Format] = &[
    Format::of::<Line>(),
    Format::of::<Name>(),
    Format::of::<Package>(),
    Format::of::<Unit>(),
    Format::of::<Url>(),
    Format::of::<Mirror>(),
    Format::of::<Sha256>(),
    Format::of::<Destination>(),
    Format::of::<Mode>(),
    Format::of::<Argument>(),
    Format::of::<Size>(),
    Format::of::<Fingerprint>(),
    Format::of::<Version>(),
    Format::of::<Reference>(),
];

/// A Debian package (Debian Policy 5.6.1 and 5.6.12), optionally at one version.
#[derive(Clone, Debug)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: Option<String>,
}

impl Value for Package {
    const FORMAT: &'static str = "package";
    const PATTERN: &'static str = "^[a-z0-9][a-z0-9+.-]+(=[0-9][A-Za-z0-9.+:~-]*)?$";
    const EXAMPLES: &'static [&'static str] = &["nftables", "socat=1.8.0.0-4build3"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let (name, version) = text.split_once('=').map_or((text, None), |(name, version)| (name, Some(version)));
        let small = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if name.len() < 2 || !name.bytes().all(|b| small(b) || b"+.-".contains(&b)) || !small(name.as_bytes()[0]) {
            let message = "is not a package name: write two or more small letters, digits, `+`, `-` and `.`";
            let architecture =
                text.contains(':').then(|| "the architecture is always amd64: leave `:…` out".to_owned());
            return Err(Wrong { message: format!("{} {message}", literal(name)), help: architecture });
        }
        let right = |v: &str| {
            v.starts_with(|c: char| c.is_ascii_digit())
                && v.bytes().all(|b| b.is_ascii_alphanumeric() || b".+:~-".contains(&b))
        };
        if let Some(version) = version.filter(|v| !right(v)) {
            let message = "is not a Debian version: write it as `apt-cache policy` shows it";
            return Err(Wrong::new(format!("{} {message}", literal(version))));
        }
        Ok(Self { name: name.to_owned(), version: version.map(str::to_owned) })
    }
}

/// The name of a systemd unit.
#[derive(Clone, Debug)]
pub(super) struct Unit;

impl Unit {
    const TYPES: [&'static str; 8] = ["service", "socket", "timer", "target", "path", "mount", "automount", "swap"];

    /// The file that holds it: `name@.service` for an instance `name@what.service`.
    pub(super) fn file(name: &str) -> String {
        match (name.split_once('@'), name.rsplit_once('.')) {
            (Some((template, _)), Some((_, kind))) => format!("{template}@.{kind}"),
            _ => name.to_owned(),
        }
    }
}

impl Value for Unit {
    const FORMAT: &'static str = "unit";
    const PATTERN: &'static str =
        r"^[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?\.(service|socket|timer|target|path|mount|automount|swap)$";
    const EXAMPLES: &'static [&'static str] = &["nftables.service"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let letters = |b: u8| b.is_ascii_alphanumeric() || b":_.\\-@".contains(&b);
        match text.rsplit_once('.') {
            Some((name, kind))
                if Self::TYPES.contains(&kind)
                    && name.bytes().all(letters)
                    && !name.is_empty()
                    && !name.starts_with('@')
                    && name.matches('@').count() < 2 =>
            {
                Ok(Self)
            }
            _ => Err(Wrong::new(format!(
                "{} is not a unit: write its whole name, e.g. `nftables.service`",
                literal(text)
            ))),
        }
    }
}

/// A copy of Ubuntu's archive: an address or a folder.
#[derive(Clone, Debug)]
pub(super) struct Mirror;

impl Value for Mirror {
    const FORMAT: &'static str = "mirror";
    const PATTERN: &'static str = r"^(https?://[^\s/]+|/)\S*$";
    const EXAMPLES: &'static [&'static str] = &["http://archive.ubuntu.com/ubuntu", "/srv/mirror/ubuntu"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if !text.starts_with('/') && Url::parse(text).is_err() {
            let message = "is not a mirror: write `https://…`, `http://…` or the absolute path of a folder";
            return Err(Wrong::new(format!("{} {message}", literal(text))));
        }
        Ok(Self)
    }
}

impl Value for Sha256 {
    const FORMAT: &'static str = "sha256";
    const PATTERN: &'static str = "^[0-9a-fA-F]{64}$";
    const EXAMPLES: &'static [&'static str] = &["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|_| {
            let count = text.chars().count();
            let help = (count != 64).then(|| format!("this has {count} characters"));
            Wrong { message: "not a SHA-256 digest: write 64 hexadecimal digits".to_owned(), help }
        })
    }
}

/// Where a file lies in the image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Destination(pub(super) PathBuf);

impl Destination {
    /// Folders that are made or mounted over at boot, so that a baked file would never be seen.
    const HIDDEN: [&'static str; 6] = ["/dev", "/proc", "/run", "/sys", "/tmp", "/var"];
}

impl Value for Destination {
    const FORMAT: &'static str = "destination";
    const PATTERN: &'static str = "^(/[^/]+)+$";
    const EXAMPLES: &'static [&'static str] = &["/usr/bin/kubeadm"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let shown = literal(text);
        let part = |p: &str| !matches!(p, "" | "." | "..") && !p.contains(char::is_control);
        if !text.starts_with('/') || !text[1..].split('/').all(part) {
            let message = "is not a file's place in the image: write an absolute path without `.` and `..`";
            return Err(Wrong::new(format!("{shown} {message}")));
        }
        let below =
            |folder: &&str| text.strip_prefix(*folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if let Some(folder) = Self::HIDDEN.iter().find(|f| below(f)) {
            let message = format!("{shown} would never be seen: `{folder}` is made anew on the machine");
            return Err(Wrong { message, help: Some("write a place below `/usr`".to_owned()) });
        }
        Ok(Self(PathBuf::from(text)))
    }
}

/// Permission bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode(pub(super) u32);

impl Value for Mode {
    const FORMAT: &'static str = "mode";
    const PATTERN: &'static str = "^[0-7]{3,4}$";
    const EXAMPLES: &'static [&'static str] = &["0755", "0644"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let digits = matches!(text.len(), 3 | 4) && text.bytes().all(|b| (b'0'..b'8').contains(&b));
        let mode = digits.then(|| u32::from_str_radix(text, 8).ok()).flatten();
        mode.map(Self)
            .ok_or_else(|| Wrong::new(format!("{} is not a mode: write octal digits such as `0755`", literal(text))))
    }
}

/// A kernel argument. GRUB and the kernel both split and unquote their command line, so what they would change is refused.
#[derive(Clone, Debug)]
pub(super) struct Argument;

impl Value for Argument {
    const FORMAT: &'static str = "kernel-argument";
    const PATTERN: &'static str = r#"^[^\s"'\\$;|&<>{}#]+$"#;
    const EXAMPLES: &'static [&'static str] = &["console=ttyS0,115200"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic() && !b"\"'\\$;|&<>{}#".contains(&b)) {
            let message =
                "is not a kernel argument: write one word without spaces, quotes and GRUB's special characters";
            return Err(Wrong::new(format!("{} {message}", literal(text))));
        }
        Ok(Self)
    }
}

/// The fingerprint of an OpenPGP key.
#[derive(Clone, Debug)]
pub(super) struct Fingerprint(pub(super) String);

impl Value for Fingerprint {
    const FORMAT: &'static str = "fingerprint";
    const PATTERN: &'static str = "^[0-9a-fA-F]{40}$";
    const EXAMPLES: &'static [&'static str] = &["F6ECB3762474EDA9D21B7022871920D1991BC93C"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.len() != 40 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            let message = "is not a key's fingerprint: write its 40 hexadecimal digits without spaces";
            return Err(Wrong::new(format!("{} {message}", literal(text))));
        }
        Ok(Self(text.to_ascii_uppercase()))
    }
}

/// The version of Kubernetes.
#[derive(Clone, Debug)]
pub(super) struct Version;

impl Value for Version {
    const FORMAT: &'static str = "kubernetes-version";
    const PATTERN: &'static str = r"^[0-9]+\.[0-9]+\.[0-9]+$";
    const EXAMPLES: &'static [&'static str] = &["1.30.3"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let numbers = text.split('.').filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())).count();
        if numbers != 3 || text.matches('.').count() != 2 {
            let message = "is not a version of Kubernetes: write three numbers, e.g. `1.30.3`";
            return Err(Wrong::new(format!("{} {message}", literal(text))));
        }
        Ok(Self)
    }
}

/// The whole name of a container image: registry, repository, tag (the distribution specification's grammar).
#[derive(Clone, Debug)]
pub(super) struct Reference;

impl Value for Reference {
    const FORMAT: &'static str = "image-reference";
    const PATTERN: &'static str = r"^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+:[A-Za-z0-9_][A-Za-z0-9._-]*$";
    const EXAMPLES: &'static [&'static str] = &["registry.k8s.io/pause:3.9"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        // A short name means another registry to each tool; a digest is the lock's to say.
        let whole = oci_client::Reference::try_from(text)
            .is_ok_and(|r| r.whole() == text && r.tag().is_some() && r.digest().is_none());
        if !whole {
            let message = "is not an image's whole name: write registry, repository and tag, e.g. \
                           `registry.k8s.io/pause:3.9`";
            return Err(Wrong::new(format!("{} {message}", literal(text))));
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
        for text in wrong.iter().chain(&["", "\0", "a b\nc"]) {
            assert!(T::parse(text).is_err(), "{}: {text:?} is wrong", T::FORMAT);
        }
    }

    #[test]
    fn what_each_value_accepts() {
        tried::<Line>(&["Kubernetes worker, with GPUs"], &[" "]);
        tried::<Name>(&["gpu-worker", "noble", "9"], &["-a", "a-", "a--b", "A", "a/b", ".."]);
        tried::<Package>(
            &["g++", "libc6", "a1=1:2.3~rc1-4ubuntu5+esm1"],
            &["a", "Udev", "-udev", "udev=", "udev=a", "udev:amd64", "a=1=2"],
        );
        tried::<Unit>(
            &["a@b.service", "dev-sda1.swap", "a@.socket"],
            &["nftables", ".service", "@.service", "a@b@c.service", "a/b.service"],
        );
        tried::<Url>(&["http://[::1]:8080/x"], &["ftp://a/b", "https://", "/srv", "https://a /b"]);
        tried::<Mirror>(&["/srv/ubuntu"], &["srv/ubuntu", "file:///srv"]);
        tried::<Sha256>(&[&"AB".repeat(32)], &[&"+1".repeat(32), &"a".repeat(63)]);
        tried::<Destination>(
            &["/usr/lib/a b", "/variant"],
            &["usr/bin/a", "/", "/usr/", "/usr/../etc/a", "/usr//a", "/var", "/run/a"],
        );
        tried::<Mode>(&["755", "4755"], &["0o755", "0888", "75", "07555", "+755"]);
        tried::<Argument>(&["quiet", "systemd.log_level=debug", "a=b@c%d"], &["a b", "a;b", "$x", "a\"b"]);
        tried::<Size>(
            &["1T", "1024K"],
            &["10GB", "G", "-1G", "1.5G", "0M", "99999999T", "99999999999999999999G", "4 G", "4g", "+4G"],
        );
        tried::<Version>(&["1.31.0"], &["v1.30.3", "1.30", "1.30.x", "1..3"]);
        tried::<Reference>(
            &["docker.io/flannel/flannel:v0.26.7", "localhost:5000/a/b:1"],
            &["pause:3.9", "registry.k8s.io/pause", "registry.k8s.io/pause@sha256:00", "registry.k8s.io/Pause:1"],
        );
        tried::<Fingerprint>(&[], &["F6EC B376", &"F".repeat(39), &"G".repeat(40)]);
    }

    #[test]
    fn the_walk_knows_every_format_of_the_schema() {
        fn formats(schema: &serde_json::Value, found: &mut Vec<String>) {
            found.extend(schema["format"].as_str().map(str::to_owned));
            for part in schema["properties"].as_object().into_iter().flatten().map(|(_, part)| part) {
                formats(part, found);
            }
            for part in [&schema["items"], &schema["additionalProperties"]] {
                if part.is_object() {
                    formats(part, found);
                }
            }
        }
        let mut found = Vec::new();
        formats(crate::profile::schema().as_value(), &mut found);
        formats(crate::profile::versions_schema().as_value(), &mut found);
        found.sort();
        found.dedup();
        assert_eq!(found.len(), FORMATS.len());
        for format in found {
            assert!(FORMATS.iter().any(|f| f.name() == format), "{format}");
        }
    }

    #[test]
    fn an_instance_lies_in_its_template() {
        assert_eq!(Unit::file("getty@tty1.service"), "getty@.service");
        assert_eq!(Unit::file("castiron-good.service"), "castiron-good.service");
    }
}
