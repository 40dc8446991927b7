//! The signed seed: what a site tells its nodes, sealed with the site's key, and the one place where a seed is believed.
//!
//! In: bytes of a file or of a `CIDATA` volume. Out: [`Seed`], then [`NodeSeed`] for one node. Both programs use it.
//!
//! ```text
//! castiron-seed-1
//! {"version":1,"site":"…","keys":[…],"serial":…,"nodes":{…},"parts":{…}}     the manifest, one line of JSON
//! 0123…                                                                   its Ed25519 signature, 128 hexadecimal digits
//! inventory kind/worker node/worker-1                                     the parts that follow, in this order
//! …                                                                       their bytes, one after the other
//! ```
//!
//! One signature covers the manifest, and the manifest holds the digest of every part. So whoever has a seed for many
//! nodes can hand on [what one of them may know](Seed::narrowed) without a key: parts are left out, never changed.
//!
//! - `inventory` is public: all nodes, their addresses and roles, and how each machine is known.
//! - `kind/K` are the secrets that all nodes of a kind share; `node/N` is what node N alone may know.
//!
//! A site's id is the digest of its first key, so a seed proves by itself whose it is. A later key is signed by the one
//! before it, and `keys` is that whole line: a node that holds any of them follows, and never goes back.
//! A node keeps [`Held`] of what it has accepted, and refuses a seed with a lower serial number.

mod inventory;
mod keys;
pub mod menu;

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result, ensure};
use ed25519_dalek::{Signature, Signer as _, SigningKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::cidata;
use crate::digest::Sha256;
use crate::error::{Failure, Kind};
use crate::region::{Payload, SiteId, hex};
pub use inventory::{Identity, Inventory, InventoryNode, NodeKind};
pub use keys::KeyLink;
use keys::{chain, digits};

/// The name of the seed's file in a `CIDATA` volume.
pub const FILE: &str = "castiron.seed";

/// The name of the file in which cloud-init finds a machine's identity.
pub const META: &str = "meta-data";

/// Who logs in where the site names nobody: whom Ubuntu's own images have.
pub const USER: &str = "ubuntu";

const MAGIC: &str = "castiron-seed-1";
const VERSION: u32 = 1;
/// The part that everybody may read.
const INVENTORY: &str = "inventory";
/// What is signed begins so, that no signature of one kind can stand for another.
const SEED_DOMAIN: &[u8] = b"castiron seed 1\n";

/// Text that nobody may see: it is wiped from memory, and `{:?}` does not show it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text over.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text; whoever calls this takes care of it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(secret)")
    }
}

/// A part with secrets: of a kind or of one node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Part {
    /// Random to whoever does not know the site's key, so that a digest tells nothing of a guess at the rest.
    pub salt: Secret,
    /// The node's netplan file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// What else of the site file the node may know, and others need not: who may log in.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub settings: Value,
    /// Secrets by name, such as `kubernetes/ca.key`.
    pub secrets: BTreeMap<String, Secret>,
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    version: u32,
    /// Whose seed it is.
    pub site: SiteId,
    /// The site's keys, first to last; the last has signed this.
    pub keys: Vec<KeyLink>,
    /// Higher in every later seed of the site.
    pub serial: u64,
    /// Whom it is for: names and roles.
    pub nodes: BTreeMap<String, Member>,
    parts: BTreeMap<String, Entry>,
}

/// Whom a seed is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node's role.
    pub role: String,
    /// The node's kind.
    pub kind: NodeKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    length: usize,
    sha256: Sha256,
}

/// What a node remembers of the seed that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The site that it belongs to.
    pub site: SiteId,
    /// The key that signed the seed.
    pub key: String,
    /// The seed's serial number.
    pub serial: u64,
}

/// A seed whose signature and digests are right.
#[derive(Clone)]
pub struct Seed {
    line: String,
    signature: String,
    manifest: Manifest,
    parts: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seed").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

/// All that one node may know.
#[derive(Clone, Debug)]
pub struct NodeSeed {
    /// The node's name.
    pub name: String,
    /// Its role.
    pub role: String,
    /// Its kind.
    pub kind: NodeKind,
    /// What everybody may know.
    pub inventory: Inventory,
    /// The node's netplan file, if the site says something of its network.
    pub network: Option<String>,
    /// What else of the site file the node may know.
    pub settings: Value,
    /// Secrets by name: those of its kind, and its own.
    pub secrets: BTreeMap<String, Secret>,
    /// What to remember.
    pub held: Held,
}

/// What goes into a new seed.
pub struct Contents {
    /// The public part.
    pub inventory: Inventory,
    /// Secrets by kind.
    pub kinds: BTreeMap<NodeKind, Part>,
    /// Secrets by node.
    pub nodes: BTreeMap<String, Part>,
}

impl Seed {
    /// Signs a seed with the last of the site's keys.
    pub fn sign(key: &SigningKey, keys: &[KeyLink], serial: u64, contents: &Contents) -> Result<Self> {
        let mut parts = BTreeMap::new();
        parts.insert(INVENTORY.to_owned(), Zeroizing::new(serde_json::to_vec(&contents.inventory)?));
        for (kind, part) in &contents.kinds {
            parts.insert(kind_part(*kind), Zeroizing::new(serde_json::to_vec(part)?));
        }
        for (node, part) in &contents.nodes {
            parts.insert(node_part(node), Zeroizing::new(serde_json::to_vec(part)?));
        }
        let member = |node: &InventoryNode| (node.name.clone(), Member { role: node.role.clone(), kind: node.kind });
        let manifest = Manifest {
            version: VERSION,
            site: chain(keys)?.0,
            keys: keys.to_vec(),
            serial,
            nodes: contents.inventory.nodes.iter().map(member).collect(),
            parts: parts
                .iter()
                .map(|(name, bytes)| (name.clone(), Entry { length: bytes.len(), sha256: Sha256::of(bytes) }))
                .collect(),
        };
        let line = serde_json::to_string(&manifest)?;
        let signature = digits(&key.sign(&[SEED_DOMAIN, line.as_bytes()].concat()).to_bytes());
        let seed = Self { line, signature, manifest, parts };
        seed.verify()?;
        Ok(seed)
    }

    /// Reads a seed and checks its keys, its signature and the digest of every part. Whose it is, and whether it is new enough
    /// for somebody, is the question of [`Seed::open`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut rest = bytes;
        let mut line = || -> Result<&str> {
            let end = rest.iter().position(|b| *b == b'\n').ok_or_else(|| refused("it is cut short"))?;
            let line = std::str::from_utf8(&rest[..end]).map_err(|_| refused("it holds bytes that are no text"))?;
            rest = &rest[end + 1..];
            Ok(line)
        };
        ensure!(line().ok() == Some(MAGIC), refused(format!("it does not begin with `{MAGIC}`")));
        let (manifest_line, signature, present) = (line()?.to_owned(), line()?.to_owned(), line()?);
        let manifest: Manifest = serde_json::from_str(&manifest_line)
            .map_err(|error| refused(format!("its manifest is not what this version knows: {error}")))?;
        ensure!(manifest.version == VERSION, refused(format!("it is of version {}", manifest.version)));
        let mut seed = Self { line: manifest_line, signature, manifest, parts: BTreeMap::new() };
        // Nothing of the parts is looked at before the signature is right.
        seed.verify()?;
        for name in present.split_ascii_whitespace() {
            let entry = seed.manifest.parts.get(name);
            let entry = entry.ok_or_else(|| refused(format!("its manifest knows no part `{name}`")))?;
            ensure!(rest.len() >= entry.length, refused(format!("it is cut short in its part `{name}`")));
            let (part, after) = rest.split_at(entry.length);
            ensure!(Sha256::of(part) == entry.sha256, refused(format!("its part `{name}` was altered")));
            seed.parts.insert(name.to_owned(), Zeroizing::new(part.to_vec()));
            rest = after;
        }
        ensure!(rest.is_empty(), refused(format!("{} bytes follow its last part", rest.len())));
        Ok(seed)
    }

    fn verify(&self) -> Result<()> {
        let (site, key) = chain(&self.manifest.keys)?;
        ensure!(site == self.manifest.site, refused("its first key is not the key of the site that it names"));
        let signature =
            hex::<64>(&self.signature).ok_or_else(|| refused("its signature is not 128 hexadecimal digits"))?;
        key.verify_strict(&[SEED_DOMAIN, self.line.as_bytes()].concat(), &Signature::from_bytes(&signature))
            .map_err(|_| refused("its signature does not fit: it was altered, or somebody else signed it"))?;
        Ok(())
    }

    /// The bytes of the file.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let names: Vec<&str> = self.parts.keys().map(String::as_str).collect();
        let mut bytes = format!("{MAGIC}\n{}\n{}\n{}\n", self.line, self.signature, names.join(" ")).into_bytes();
        bytes.reserve_exact(self.parts.values().map(|part| part.len()).sum());
        for part in self.parts.values() {
            bytes.extend_from_slice(part);
        }
        Zeroizing::new(bytes)
    }

    /// What is signed.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The nodes whose own parts are in this copy.
    pub fn carried(&self) -> Vec<&str> {
        self.parts.keys().filter_map(|name| name.strip_prefix("node/")).collect()
    }

    /// The same seed with what these nodes may know, and nothing else.
    pub fn narrowed(&self, nodes: &[&str]) -> Result<Self> {
        let mut parts = BTreeMap::new();
        let mut keep = |name: String| -> Result<()> {
            let part = self.parts.get(&name).ok_or_else(|| refused(format!("it carries no part `{name}`")))?;
            parts.insert(name, part.clone());
            Ok(())
        };
        keep(INVENTORY.to_owned())?;
        for node in nodes {
            let member = self.member(node)?;
            keep(kind_part(member.kind))?;
            keep(node_part(node))?;
        }
        Ok(Self { parts, ..self.clone() })
    }

    /// The public part.
    pub fn inventory(&self) -> Result<Inventory> {
        self.part(INVENTORY)
    }

    /// What this seed tells `node`, which holds `held` of a former one. An error where it is not for it, of another site, or
    /// older.
    pub fn open(&self, node: &str, held: Option<&Held>) -> Result<NodeSeed> {
        let member = self.member(node)?;
        if let Some(held) = held {
            let Manifest { site, keys, serial, .. } = &self.manifest;
            ensure!(*site == held.site, refused(format!("it is of the site {site}, and this node of {}", held.site)));
            let follows = keys.iter().any(|link| link.key == held.key);
            ensure!(follows, refused("it is signed by a key that does not follow on the one that this node trusts"));
            let older = format!("its serial number is {serial}, and this node already has {}", held.serial);
            ensure!(*serial >= held.serial, refused(older));
        }
        let shared: Part = self.part(&kind_part(member.kind))?;
        let own: Part = self.part(&node_part(node))?;
        let mut secrets = shared.secrets;
        secrets.extend(own.secrets);
        Ok(NodeSeed {
            name: node.to_owned(),
            role: member.role.clone(),
            kind: member.kind,
            inventory: self.inventory()?,
            network: own.network,
            settings: own.settings,
            secrets,
            held: self.held(),
        })
    }

    /// The seed's volume, as it is stamped at `time`, in seconds since 1970 UTC.
    pub fn payload<'a>(&self, volume: &'a [u8], time: u64) -> Payload<'a> {
        Payload { volume, site: self.manifest.site, serial: self.manifest.serial, time }
    }

    /// The files of a `CIDATA` volume with this seed: itself, what GRUB reads of it, and what cloud-init asks for.
    pub fn files(&self) -> Result<cidata::Files> {
        let text = |text: String| Zeroizing::new(text.into_bytes());
        Ok(cidata::Files::from([
            (FILE.to_owned(), self.to_bytes()),
            (menu::FILE.to_owned(), menu::file(self)?),
            (META.to_owned(), text(format!("instance-id: castiron-{}-{}\n", self.manifest.site, self.manifest.serial))),
            ("user-data".to_owned(), text("#cloud-config\n{}\n".to_owned())),
        ]))
    }

    /// What a node that accepts this seed remembers.
    pub fn held(&self) -> Held {
        let key = self.manifest.keys.last().map(|link| link.key.clone()).unwrap_or_default();
        Held { site: self.manifest.site, key, serial: self.manifest.serial }
    }

    fn member(&self, node: &str) -> Result<&Member> {
        let names = || self.manifest.nodes.keys().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        let member = self.manifest.nodes.get(node);
        Ok(member.ok_or_else(|| refused(format!("it is not for `{node}`: it is for {}", names())))?)
    }

    fn part<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        let bytes = self.parts.get(name).ok_or_else(|| refused(format!("it carries no part `{name}`")))?;
        // The error of serde may quote what it read.
        serde_json::from_slice(bytes)
            .ok()
            .with_context(|| format!("the seed's part `{name}` is not what this version knows"))
    }
}

fn kind_part(kind: NodeKind) -> String {
    format!("kind/{}", kind.name())
}

fn node_part(node: &str) -> String {
    format!("node/{node}")
}

fn refused(why: impl Into<String>) -> Failure {
    Failure::new(Kind::Integrity, format!("this seed is refused: {}", why.into()))
}
