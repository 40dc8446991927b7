//! `secrets.age`: everything secret of a site, made once, encrypted to its operators.
//!
//! In: the site's [`Facts`], an age identity. Out: [`Secrets`]. The file is JSON inside age's format (`age -d` reads it, too).
//!
//! - The recipients are in the encrypted part: whoever changes the secrets encrypts to all of them again, without asking.
//! - Certificates of nodes are made here and not when a seed is: stamping signs once, for any number of nodes. They name
//!   the node's address; [`Secrets::complete`] makes those anew whose node has moved, and what a new node needs.
//! - A former signing key is not kept: its signature of the next one is all that nodes need to follow.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret as _;
use age::x25519;
use anyhow::{Context as _, Result, ensure};
use ed25519_dalek::SigningKey;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::known::{CAS, ENCRYPTION_KEYS, Group, ITEMS, Item, LEAVES, PASSWORDS, SIGNING_KEY, Scope, TOKEN};
use super::{Facts, NodeFacts, make};
use crate::error::{Failure, Kind};
use crate::fs;
use crate::region::{SiteId, hex};
use crate::seal::{KeyLink, NodeKind, Secret};

/// The file's name, beside the site file.
pub const FILE: &str = "secrets.age";

const VERSION: u32 = 1;

/// All secrets of a site.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Secrets {
    version: u32,
    /// When a secret was last made: seconds since 1970 UTC.
    pub made: u64,
    /// Whom the file is encrypted to.
    pub recipients: BTreeSet<String>,
    /// The signing keys' public halves, first to last.
    pub keys: Vec<KeyLink>,
    /// Secrets of the site by name.
    pub site: BTreeMap<String, Secret>,
    /// Secrets of nodes.
    pub nodes: BTreeMap<String, NodeSecrets>,
}

/// Secrets of one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeSecrets {
    /// What its certificates name.
    names: Vec<String>,
    /// Secrets by name.
    pub items: BTreeMap<String, Secret>,
}

impl Secrets {
    /// The secrets of a new site.
    pub fn new(facts: &Facts, recipients: BTreeSet<String>) -> Result<Self> {
        let mut secrets = Self {
            version: VERSION,
            made: 0,
            recipients,
            keys: Vec::new(),
            site: BTreeMap::new(),
            nodes: BTreeMap::new(),
        };
        secrets.complete(facts)?;
        Ok(secrets)
    }

    /// The site's id.
    pub fn id(&self) -> Result<SiteId> {
        let first = self.keys.first().and_then(|link| hex::<32>(&link.key));
        Ok(SiteId::of_key(&first.context("the secrets hold no signing key")?))
    }

    /// The key that seeds are signed with.
    pub fn signing_key(&self) -> Result<SigningKey> {
        let key = self.site.get(SIGNING_KEY).and_then(|key| hex::<32>(key.reveal())).map(Zeroizing::new);
        Ok(SigningKey::from_bytes(&*key.context("the secrets hold no signing key")?))
    }

    /// Makes what is missing, and certificates of nodes that have moved; forgets nodes that are gone. Says what it did.
    pub fn complete(&mut self, facts: &Facts) -> Result<Vec<String>> {
        let mut done = self.complete_site()?;
        let gone: Vec<String> =
            self.nodes.keys().filter(|name| facts.nodes.iter().all(|n| n.name != **name)).cloned().collect();
        for name in gone {
            self.nodes.remove(&name);
            done.push(format!("forgot `{name}`, which the site no longer has"));
        }
        for node in &facts.nodes {
            done.extend(self.complete_node(facts, node)?);
        }
        if !done.is_empty() {
            self.made = now().max(self.made + 1);
        }
        Ok(done)
    }

    /// What [`Secrets::complete`] would have to make, as a reason not to seed yet.
    pub fn lacks(&self, facts: &Facts) -> Vec<String> {
        let missing = |items: &BTreeMap<String, Secret>, item: &&Item| !items.contains_key(item.name);
        let site = ITEMS.iter().filter(|item| item.scope == Scope::Site && missing(&self.site, item));
        let mut lacks: Vec<String> = site.map(|item| format!("`{}`", item.name)).collect();
        for node in &facts.nodes {
            let whole = self.nodes.get(&node.name).is_some_and(|own| {
                own.names == names(facts, node) && !items_of(node.kind).any(|item| missing(&own.items, &item))
            });
            if !whole {
                lacks.push(format!("secrets of `{}`", node.name));
            }
        }
        lacks
    }

    /// Forgets a group of secrets; [`Secrets::complete`] makes it anew.
    pub fn rotate(&mut self, group: Group) -> Result<()> {
        match group {
            // Nodes follow a line of keys, and what is encrypted must stay readable.
            Group::Signing => {
                let key = make::signing_key()?;
                self.keys.push(KeyLink::next(&self.signing_key()?, self.id()?, &key));
                self.site.insert(SIGNING_KEY.to_owned(), signing_secret(&key));
                self.made = now().max(self.made + 1);
            }
            Group::Encryption => {
                let former = self.site.get(ENCRYPTION_KEYS).and_then(|keys| keys.reveal().lines().next());
                let kept = Secret::new(former.map(|line| format!("{line}\n")).unwrap_or_default());
                let number = former.and_then(|line| line.strip_prefix("key")?.split(' ').next()?.parse::<u32>().ok());
                let keys = encryption_keys(number.unwrap_or(0) + 1, &kept)?;
                self.site.insert(ENCRYPTION_KEYS.to_owned(), keys);
                self.made = now().max(self.made + 1);
            }
            _ => {
                for item in ITEMS.iter().filter(|item| item.group == group) {
                    self.site.remove(item.name);
                    for node in self.nodes.values_mut() {
                        node.items.remove(item.name);
                    }
                }
            }
        }
        Ok(())
    }

    fn complete_site(&mut self) -> Result<Vec<String>> {
        let before: BTreeSet<String> = self.site.keys().cloned().collect();
        let lacks = |site: &BTreeMap<String, Secret>, name: &str| !site.contains_key(name);
        if lacks(&self.site, SIGNING_KEY) {
            ensure!(self.keys.is_empty(), "the secrets have lost the site's signing key");
            let key = make::signing_key()?;
            self.keys.push(KeyLink::first(&key));
            self.site.insert(SIGNING_KEY.to_owned(), signing_secret(&key));
        }
        for (folder, _, name) in CAS {
            let (crt, key) = pair_names(folder, "ca");
            if lacks(&self.site, &crt) || lacks(&self.site, &key) {
                let pair = make::ca(name)?;
                self.site.extend([(crt, pair.certificate), (key, pair.key)]);
            }
        }
        if lacks(&self.site, "status/operator.crt") {
            let pair = self.leaf("status", "castiron-operator", &[], &[])?;
            let (crt, key) = pair_names("status", "operator");
            self.site.extend([(crt, pair.certificate), (key, pair.key)]);
        }
        if lacks(&self.site, "service-account/sa.key") {
            let (private, public) = make::key_pair()?;
            self.site.insert("service-account/sa.key".to_owned(), private);
            self.site.insert("service-account/sa.pub".to_owned(), public);
        }
        if lacks(&self.site, ENCRYPTION_KEYS) {
            self.site.insert(ENCRYPTION_KEYS.to_owned(), encryption_keys(1, &Secret::default())?);
        }
        for (name, length) in PASSWORDS {
            if lacks(&self.site, name) {
                self.site.insert((*name).to_owned(), make::text(make::LETTERS, *length)?);
            }
        }
        Ok(self.site.keys().filter(|name| !before.contains(*name)).map(|name| format!("made `{name}`")).collect())
    }

    fn complete_node(&mut self, facts: &Facts, node: &NodeFacts) -> Result<Vec<String>> {
        let names = names(facts, node);
        let mut own =
            self.nodes.remove(&node.name).unwrap_or(NodeSecrets { names: Vec::new(), items: BTreeMap::new() });
        // A node of another kind than before keeps nothing that it may no longer know.
        own.items.retain(|name, _| items_of(node.kind).any(|item| item.name == name));
        if own.names != names {
            for folder in LEAVES {
                own.items.remove(&pair_names(folder, "node").0);
            }
        }
        let mut made = Vec::new();
        for item in items_of(node.kind) {
            if own.items.contains_key(item.name) {
                continue;
            }
            made.push(item.name);
            match (item.name, item.group) {
                (TOKEN, _) => drop(own.items.insert(TOKEN.to_owned(), make::token()?)),
                (_, Group::Ssh) => {
                    let (private, public) = make::host_key(&node.name)?;
                    own.items.insert("ssh/ssh_host_ed25519_key".to_owned(), private);
                    own.items.insert("ssh/ssh_host_ed25519_key.pub".to_owned(), public);
                }
                _ => {
                    let folder = item.name.split('/').next().unwrap_or_default();
                    let (dns, ips): (Vec<String>, Vec<String>) =
                        names.iter().cloned().partition(|name| name.parse::<IpAddr>().is_err());
                    let ips: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
                    let pair = self.leaf(folder, &node.name, &dns, &ips)?;
                    let (crt, key) = pair_names(folder, "node");
                    own.items.extend([(crt, pair.certificate), (key, pair.key)]);
                }
            }
        }
        own.names = names;
        self.nodes.insert(node.name.clone(), own);
        Ok(made.iter().map(|name| format!("made `{name}` of `{}`", node.name)).collect())
    }

    fn leaf(&self, folder: &str, name: &str, dns: &[String], ips: &[IpAddr]) -> Result<make::Pair> {
        let ca = CAS.iter().find(|(ca, ..)| *ca == folder).map(|(.., name)| *name);
        let ca = ca.with_context(|| format!("there is no CA `{folder}`"))?;
        let key =
            self.site.get(&pair_names(folder, "ca").1).with_context(|| format!("the CA `{folder}` has no key"))?;
        make::leaf(ca, key, name, dns, ips)
    }

    /// Reads and decrypts the file.
    pub fn load(path: &Path, identities: &[x25519::Identity]) -> Result<Self> {
        let reading = || format!("reading `{}`", path.display());
        if !path.exists() {
            let text = format!("there is no `{}`", path.display());
            return Err(Failure::new(Kind::Input, text)
                .hint("make the site's secrets with `castiron secrets new`")
                .into());
        }
        let encrypted = fs::read(path)?;
        let no_age = || Failure::new(Kind::Input, "it is not in age's format, or was cut short");
        let decryptor = age::Decryptor::new_buffered(&encrypted[..]).map_err(|_| no_age()).with_context(reading)?;
        let mut reader = decryptor.decrypt(identities.iter().map(|i| i as &dyn age::Identity)).map_err(|error| {
            let failure =
                Failure::new(Kind::Input, format!("your identity does not open `{}`: {error}", path.display()));
            failure.hint(
                "name another with `--identity FILE`, or have somebody who can read it run `castiron secrets rekey`",
            )
        })?;
        let mut plain = Zeroizing::new(Vec::new());
        reader.read_to_end(&mut plain).map_err(|_| no_age()).with_context(reading)?;
        // The error of serde may quote what it read.
        let secrets: Self = serde_json::from_slice(&plain)
            .ok()
            .with_context(|| Failure::new(Kind::Input, "what is encrypted in it is not what this castiron writes"))
            .with_context(reading)?;
        ensure!(
            secrets.version == VERSION,
            Failure::new(Kind::Input, format!("`{}` is of version {}", path.display(), secrets.version))
        );
        Ok(secrets)
    }

    /// Encrypts to all recipients and writes the file: whole or not at all, for its owner alone.
    pub fn save(&self, path: &Path) -> Result<()> {
        let recipients = self.recipients.iter().map(|text| recipient(text)).collect::<Result<Vec<_>>>()?;
        let encryptor = age::Encryptor::with_recipients(recipients.iter().map(|r| r as &dyn age::Recipient))
            .context("encrypting the secrets")?;
        let plain = Zeroizing::new(serde_json::to_vec(self).context("writing the secrets out")?);
        let mut encrypted = Vec::new();
        let mut writer = encryptor.wrap_output(&mut encrypted).context("encrypting the secrets")?;
        writer.write_all(&plain).context("encrypting the secrets")?;
        writer.finish().context("encrypting the secrets")?;
        fs::write_private(path, encrypted)
    }
}

/// A recipient of age's, `age1…`.
pub fn recipient(text: &str) -> Result<x25519::Recipient> {
    text.parse().map_err(|why: &str| {
        let text = format!("`{text}` is no age recipient: {why}");
        Failure::new(Kind::Input, text)
            .hint("it begins with `age1`; `castiron secrets new` and `age-keygen` print it")
            .into()
    })
}

/// The operator's identities, and their recipients.
pub fn identities(path: &Path) -> Result<Vec<x25519::Identity>> {
    let text = Zeroizing::new(fs::read_to_string(path)?);
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let identity = |(number, line): (usize, &str)| {
        line.trim().parse::<x25519::Identity>().map_err(|why| {
            let text = format!("line {} of `{}` is no age identity: {why}", number + 1, path.display());
            Failure::new(Kind::Input, text)
                .hint("it begins with `AGE-SECRET-KEY-1`; keys with a passphrase are not read")
        })
    };
    let found = lines.map(identity).collect::<Result<Vec<_>, _>>()?;
    ensure!(!found.is_empty(), Failure::new(Kind::Input, format!("`{}` holds no age identity", path.display())));
    Ok(found)
}

/// Makes an identity in a new file; returns it.
pub fn new_identity(path: &Path) -> Result<x25519::Identity> {
    let identity = x25519::Identity::generate();
    let secret = identity.to_string();
    let text = Zeroizing::new(format!("# public key: {}\n{}\n", identity.to_public(), secret.expose_secret()));
    fs::write_private(path, text.as_bytes())?;
    Ok(identity)
}

/// Where the operator's identity is when nobody says: `$XDG_CONFIG_HOME/castiron/identity`, or below `~/.config`.
pub fn default_identity() -> Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    let home = home.ok_or_else(|| {
        Failure::new(Kind::Input, "neither XDG_CONFIG_HOME nor HOME is set").hint("name a file with --identity")
    })?;
    Ok(home.join("castiron/identity"))
}

/// Seconds since 1970 UTC.
pub fn now() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or(0)
}

fn items_of(kind: NodeKind) -> impl Iterator<Item = &'static Item> {
    ITEMS.iter().filter(move |item| item.scope == Scope::Node && item.known_by.contains(&kind))
}

/// What the certificates of a node name; Patroni talks to its own etcd over the loopback.
fn names(facts: &Facts, node: &NodeFacts) -> Vec<String> {
    let mut names = vec![node.name.clone(), format!("{}.{}", node.name, facts.domain), "localhost".to_owned()];
    names.extend(node.address.map(|address| address.to_string()));
    names.push("127.0.0.1".to_owned());
    names
}

fn pair_names(folder: &str, name: &str) -> (String, String) {
    (format!("{folder}/{name}.crt"), format!("{folder}/{name}.key"))
}

fn signing_secret(key: &SigningKey) -> Secret {
    use std::fmt::Write as _;
    let mut text = Zeroizing::new(String::with_capacity(64));
    for byte in key.as_bytes() {
        let _ = write!(text, "{byte:02x}");
    }
    Secret::new(text.as_str())
}

fn encryption_keys(number: u32, former: &Secret) -> Result<Secret> {
    Ok(Secret::new(format!("key{number} {}\n{}", make::base64_key()?.reveal(), former.reveal())))
}
