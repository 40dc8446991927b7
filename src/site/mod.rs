//! The site: the user's one file, `site.toml`.
//!
//! In: the file, and the names of the project's roles. Out: [`Site`], complete and checked, and warnings of choices that
//! are right but weak; nothing changes it afterwards.
//!
//! What is written ([`file`]) and what is meant ([`Site`]) are two things: a node that only says `address` has, when it is
//! meant, all its interfaces in netplan's shape, and every setting that the site or its network gives.

mod check;
mod doubles;
mod file;
pub mod inventory;
mod links;
mod meaning;
pub mod netplan;
pub mod network;
pub mod value;
mod weak;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use ipnet::IpNet;
use serde::Serialize;

use crate::context::Context;
use crate::diagnostic::{self, Diagnostic, Source};
use crate::document::{self, Document, Value as _};
use crate::error::{Failure, Kind};
use crate::{fs, profile};

use file::SiteFile;
use network::Interfaces;
use value::{After, FORMATS, ForeignData};

/// The file's usual name.
pub const FILE: &str = "site.toml";

/// A site to start from: comments and example values. It is right, and warns of what must be filled in.
pub const STARTER: &str = include_str!("starter.toml");

/// The role whose nodes, and those of roles that extend it, run the cluster's API.
pub const CONTROL_PLANE: &str = "control-plane";
/// The role of databases, outside Kubernetes.
pub const DB: &str = "db";

/// Which roles there are: each with the chain of profiles that it extends, itself last.
pub type Roles = BTreeMap<String, Vec<String>>;

/// Reads and checks a site file. One error shows all problems; the warnings are pictures like those of problems.
pub fn load(ctx: &Context, path: &Path) -> Result<(Site, Vec<String>)> {
    if !path.exists() {
        let message = format!("no site file `{}`", ctx.display(path));
        return Err(Failure::new(Kind::Input, message).hint("begin one with `castiron site new`").into());
    }
    let bytes = fs::read(path)?;
    read(&ctx.display(path).to_string(), &bytes, &roles(ctx)?)
}

/// The project's roles.
pub fn roles(ctx: &Context) -> Result<Roles> {
    let chain = |p: profile::Profile| (p.name, p.layers.into_iter().map(|layer| layer.name).collect());
    Ok(profile::load_all(ctx)?.into_iter().map(chain).collect())
}

/// Reads and checks the bytes of a site file that people know as `path`.
pub fn read(path: &str, bytes: &[u8], roles: &Roles) -> Result<(Site, Vec<String>)> {
    let source = Arc::new(Source { path: path.to_owned(), text: String::from_utf8_lossy(bytes).into_owned() });
    let mut problems = Vec::new();
    if let Err(wrong) = std::str::from_utf8(bytes) {
        let at = wrong.valid_up_to();
        problems.push(Diagnostic::new("not UTF-8: this byte is no text", &source, at..at + 1));
    } else if let Some(Document { value: file, cut }) = document::read::<SiteFile>(&source, FORMATS, &mut problems) {
        let given = check::Given { source, file, cut, roles };
        problems.extend(check::check(&given));
        if problems.is_empty()
            && let Some(site) = meaning::site(&given)
        {
            return Ok((site, diagnostic::pictures(weak::warnings(&given))));
        }
    }
    Err(diagnostic::failure("the site has", problems).into())
}

/// The JSON Schema of site files.
pub fn schema() -> schemars::Schema {
    document::schema::<SiteFile>()
}

/// A site, complete and checked.
#[derive(Clone, Debug, Serialize)]
pub struct Site {
    /// The cluster.
    pub cluster: Cluster,
    /// Its networks, as they are written.
    pub networks: Vec<Network>,
    /// Its machines, as they are written.
    pub nodes: Vec<Node>,
    /// Who logs in.
    pub ssh_user: String,
    /// The lines of `authorized_keys`.
    pub authorized_keys: Vec<String>,
    /// The hash of the console's password; without it nobody logs in there.
    pub password_hash: Option<String>,
    /// What follows an installation.
    pub after: After,
    /// The way out.
    pub proxy: Proxy,
    /// Services by name.
    pub services: BTreeMap<String, Service>,
}

/// The cluster.
#[derive(Clone, Debug, Serialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// The DNS domain of the nodes.
    pub domain: String,
    /// The address of the API.
    pub vip: IpAddr,
    /// The port of the API.
    pub port: u16,
    /// The network of pods.
    pub pod_network: IpNet,
    /// The network of Kubernetes services.
    pub service_network: IpNet,
}

/// A network.
#[derive(Clone, Debug, Serialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its address and prefix.
    pub cidr: IpNet,
    /// The way out.
    pub gateway: Option<IpAddr>,
    /// The VLAN's number, if its packets are tagged.
    pub vlan: Option<u32>,
    /// Bytes of the largest packet, if it is said.
    pub mtu: Option<u32>,
    /// Whether a DHCP server gives its addresses.
    pub dhcp: bool,
}

/// A machine.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// Its host name.
    pub name: String,
    /// Its host name with the domain.
    pub fqdn: String,
    /// Its role.
    pub role: String,
    /// What the machine is in the cluster.
    pub kind: NodeKind,
    /// How the machine is known.
    #[serde(rename = "match")]
    pub identity: Identity,
    /// How the disk that it is installed on is known.
    pub disk: Disk,
    /// Its address in the site; none where a DHCP server gives one that nobody knows before.
    pub address: Option<IpNet>,
    /// The name of the network of that address.
    pub network: Option<String>,
    /// The interface that has the address, as it is called on the node.
    pub interface: String,
    /// All its interfaces.
    pub interfaces: Interfaces,
    /// Its time servers; none means those of the image.
    pub ntp: Vec<String>,
    /// Labels of the Kubernetes node.
    pub labels: BTreeMap<String, String>,
    /// Taints of the Kubernetes node.
    pub taints: Vec<String>,
    /// What to do with a disk that holds somebody else's data.
    pub foreign_data: ForeignData,
}

/// What a machine is in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeKind {
    /// It runs the API: its role is `control-plane`, or extends it.
    ControlPlane,
    /// It runs workloads.
    Worker,
    /// It is a database server outside Kubernetes: its role is `db`, or extends it.
    Db,
}

impl NodeKind {
    /// The kind of a role.
    fn of(role: &str, roles: &Roles) -> Self {
        let has = |name: &str| role == name || roles.get(role).is_some_and(|chain| chain.iter().any(|p| p == name));
        match (has(CONTROL_PLANE), has(DB)) {
            (true, _) => Self::ControlPlane,
            (_, true) => Self::Db,
            _ => Self::Worker,
        }
    }
}

/// How a machine is known: every key that is there must agree. At least one is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The SMBIOS serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The SMBIOS UUID, in small letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The MAC address of one of its cards, in small letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// How a disk is known: every key that is there must agree, and exactly one disk may. At least one key is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Its serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its World Wide Name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// Its name in `/dev/disk/by-path/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_path: Option<String>,
    /// Its model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The least number of bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_size: Option<u64>,
    /// The largest number of bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
}

/// The way out to other networks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Proxy {
    /// For `http://` addresses.
    pub http: Option<String>,
    /// For `https://` addresses.
    pub https: Option<String>,
    /// What needs no proxy: what is written, and the site's own networks, domain and VIP. Empty without a proxy.
    pub no_proxy: Vec<String>,
}

/// A service.
#[derive(Clone, Debug, Serialize)]
pub struct Service {
    /// Whether it is wanted; none leaves it to the service's own default.
    pub enabled: Option<bool>,
    /// What its chart is given.
    pub values: serde_json::Value,
}

/// [`STARTER`] with these lines of `authorized_keys`.
pub fn starter(keys: &[String]) -> String {
    const EMPTY: &str = "authorized-keys = [] # [\"ssh-ed25519 AAAA… you@example.com\"]\n";
    if keys.is_empty() {
        return STARTER.to_owned();
    }
    let lines = keys.iter().fold(String::new(), |all, key| all + &format!("  {},\n", toml::Value::from(key.as_str())));
    STARTER.replacen(EMPTY, &format!("authorized-keys = [\n{lines}]\n"), 1)
}

/// Tries a line of `authorized_keys`; an error says what is wrong with it.
pub fn ssh_key(line: &str) -> Result<String, String> {
    value::SshKey::parse(line).map(|_| line.to_owned()).map_err(|wrong| wrong.message)
}
