//! Seeds: what a site adds to the generic release for its nodes.
//!
//! In: [`Facts`] of a site, its [`Secrets`]. Out: a signed [`Seed`], as a volume, as a single file, or stamped into a carrier.
//!
//! ```text
//! secrets.age ─▶ Secrets ─┬─▶ Seed ─▶ volume ─▶ stamp
//! site.toml ───▶ Facts ───┘
//! ```
//!
//! [`known`] alone decides who learns what; [`crate::seal`] signs and is where a node verifies. The serial number of a seed is
//! the time in seconds: it grows from operator to operator without a file that they would have to share.

pub mod facts;
pub mod iso9660;
pub mod known;
pub mod make;
pub mod secrets;
pub mod stamp;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use zeroize::Zeroizing;

pub use facts::{Facts, NodeFacts};
pub use secrets::Secrets;

use crate::cidata;
use crate::digest::Sha256;
use crate::error::{Failure, Kind};
use crate::seal::{self, Contents, NodeKind, Part, Secret, Seed};
use known::{ITEMS, SIGNING_KEY, Scope, TOKEN, TOKENS};

/// Makes the seed of all nodes of a site.
pub fn seal(facts: &Facts, secrets: &Secrets, serial: u64) -> Result<Seed> {
    let lacks = secrets.lacks(facts);
    if !lacks.is_empty() {
        let text = format!("the site's secrets lack {}", lacks.join(", "));
        return Err(Failure::new(Kind::Input, text).hint("make them with `castiron secrets update`").into());
    }
    let salt = |part: &str| -> Result<Secret> {
        let key = secrets.site.get(SIGNING_KEY).context("the secrets hold no signing key")?;
        Ok(Secret::new(Sha256::of(Zeroizing::new(format!("{} {serial} {part}", key.reveal())).as_bytes()).to_string()))
    };
    let mut contents = Contents { inventory: facts.inventory(), kinds: BTreeMap::new(), nodes: BTreeMap::new() };
    for kind in NodeKind::ALL {
        if facts.nodes.iter().any(|node| node.kind == kind) {
            let part = Part { salt: salt(kind.name())?, secrets: shared(secrets, kind)?, ..Part::default() };
            contents.kinds.insert(kind, part);
        }
    }
    for node in &facts.nodes {
        let own = secrets.nodes.get(&node.name).with_context(|| format!("the secrets know no node `{}`", node.name))?;
        let known = |name: &str| known::item(name).is_some_and(|item| item.known_by.contains(&node.kind));
        let own = own.items.iter().filter(|(name, _)| known(name)).map(|(name, secret)| (name.clone(), secret.clone()));
        let part = Part {
            salt: salt(&format!("node {}", node.name))?,
            network: node.network.clone(),
            settings: node.private.clone(),
            secrets: own.collect(),
        };
        contents.nodes.insert(node.name.clone(), part);
    }
    Seed::sign(&secrets.signing_key()?, &secrets.keys, serial, &contents)
}

/// The secrets that all nodes of a kind share.
fn shared(secrets: &Secrets, kind: NodeKind) -> Result<BTreeMap<String, Secret>> {
    let mut shared = BTreeMap::new();
    for item in ITEMS.iter().filter(|item| item.scope == Scope::Site && item.known_by.contains(&kind)) {
        let secret = secrets.site.get(item.name).with_context(|| format!("the secrets lack `{}`", item.name))?;
        shared.insert(item.name.to_owned(), secret.clone());
    }
    if kind == NodeKind::ControlPlane {
        // They let workers in, so they know each worker's token.
        let token =
            |(name, node): (&String, &secrets::NodeSecrets)| Some((name.clone(), node.items.get(TOKEN)?.clone()));
        let tokens: BTreeMap<String, Secret> = secrets.nodes.iter().filter_map(token).collect();
        shared.insert(TOKENS.to_owned(), Secret::new(serde_json::to_string(&tokens)?));
    }
    Ok(shared)
}

/// The serial number of a seed that is made now.
pub fn serial(secrets: &Secrets) -> u64 {
    secrets::now().max(secrets.made)
}

/// The files of a `CIDATA` volume with this seed.
pub fn files(facts: &Facts, seed: &Seed) -> Result<cidata::Files> {
    let mut files = seed.files()?;
    if let [name] = seed.carried()[..] {
        let meta = files.entry(seal::META.to_owned()).or_default();
        meta.extend(format!("local-hostname: {name}\n").into_bytes());
        let network = facts.nodes.iter().find(|node| node.name == name).and_then(|node| node.network.clone());
        let network = network.map(|network| ("network-config".to_owned(), Zeroizing::new(network.into_bytes())));
        files.extend(network);
    }
    Ok(files)
}

/// What is stamped, for people and programs.
pub fn describe(seed: &Seed) -> Value {
    let manifest = seed.manifest();
    let roles: BTreeMap<&str, &str> =
        seed.carried().into_iter().filter_map(|name| Some((name, manifest.nodes.get(name)?.role.as_str()))).collect();
    json!({
        "site": manifest.site, "serial": manifest.serial, "nodes": roles,
        "cluster": seed.inventory().map(|inventory| inventory.cluster).unwrap_or_default(),
    })
}
