//! The files of a node, rendered to /run: names, users, keys, time servers.
//!
//! In: what the seed says. Out: [`File`]s, which nobody has written yet.
//!
//! - The image has links: `/etc/hostname` and `/etc/hosts` lead here, and sshd's configuration names the files below
//!   `/run/castiron/ssh`. So `/etc` stays as it was built, and the next boot's seed is all that counts.
//! - The site's user is a record of systemd's user database in `/run/userdb` (nss-systemd(8)): no account file changes.
//! - A static host name, so that no DHCP server can give the node another one.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::json;

use super::outcome::Node;
use crate::node::settings::{self, Access, Private};
use crate::seal::{InventoryNode, NodeSeed};

/// The host key's name in the seed.
const HOST_KEY: &str = "ssh/ssh_host_ed25519_key";
/// The first number that Ubuntu gives to a person.
const USER_ID: u32 = 1000;

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where, as the machine sees it.
    pub path: String,
    /// What.
    pub text: String,
    /// Whether its owner alone may read it.
    pub private: bool,
}

/// What the site says of one node to all.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Public {
    fqdn: Option<String>,
    interface: String,
    ntp: Vec<String>,
}

/// A node's settings, read.
pub struct Settings {
    site: Access,
    public: Public,
    private: Private,
}

impl Settings {
    /// Reads them.
    pub fn read(seed: &NodeSeed, entry: &InventoryNode) -> Result<Self> {
        Ok(Self {
            site: settings::read(&seed.inventory.settings).context("reading the seed's settings of the site")?,
            public: settings::read(&entry.settings).context("reading the seed's settings of this node")?,
            private: Private::read(&seed.settings)?,
        })
    }

    /// Who the node is.
    pub fn node(&self, seed: &NodeSeed, entry: &InventoryNode, source: &str) -> Node {
        let domain = &seed.inventory.domain;
        Node {
            name: entry.name.clone(),
            fqdn: self.public.fqdn.clone().unwrap_or_else(|| format!("{}.{domain}", entry.name)),
            role: entry.role.clone(),
            kind: entry.kind,
            cluster: seed.inventory.cluster.clone(),
            site: seed.held.site,
            serial: seed.held.serial,
            source: source.to_owned(),
            interface: self.public.interface.clone(),
            address: entry.address,
            user: self.site.ssh_user.clone(),
            console: self.private.password_hash.is_some(),
            keys: self.site.authorized_keys.len(),
        }
    }
}

/// What a machine without a seed has: it knows itself.
pub fn nobody() -> Vec<File> {
    vec![public("/run/castiron/hosts", hosts(&[]))]
}

/// All files of a node.
pub fn files(seed: &NodeSeed, settings: &Settings, node: &Node) -> Result<Vec<File>> {
    let key = seed.secrets.get(HOST_KEY).with_context(|| format!("the seed holds no `{HOST_KEY}`"))?;
    let mut files = vec![
        public("/run/castiron/hostname", format!("{}\n", node.name)),
        public("/run/castiron/hosts", hosts(&names(seed, node))),
        private("/run/castiron/ssh/ssh_host_ed25519_key", key.reveal().to_owned()),
        public(
            format!("/run/castiron/ssh/authorized_keys/{}", node.user),
            settings.site.authorized_keys.iter().fold(String::new(), |all, key| all + key + "\n"),
        ),
    ];
    files.extend(user(&node.user, settings.private.password_hash.as_deref()));
    if !settings.public.ntp.is_empty() {
        let text = format!("[Time]\nNTP={}\n", settings.public.ntp.join(" "));
        files.push(public("/run/systemd/timesyncd.conf.d/10-castiron.conf", text));
    }
    Ok(files)
}

/// Addresses and their names: this node, and all whose address is known.
fn names(seed: &NodeSeed, node: &Node) -> Vec<(String, String)> {
    let line = |address: IpAddr, fqdn: &str, name: &str| (address.to_string(), format!("{fqdn} {name}"));
    let of = |entry: &InventoryNode| {
        let public: Public = settings::read(&entry.settings).unwrap_or_default();
        let fqdn = public.fqdn.unwrap_or_else(|| format!("{}.{}", entry.name, seed.inventory.domain));
        Some(line(entry.address?, &fqdn, &entry.name))
    };
    let mut lines = Vec::new();
    if node.address.is_none() {
        // Debian's way to give a name to a machine whose address comes from elsewhere.
        lines.push(("127.0.1.1".to_owned(), format!("{} {}", node.fqdn, node.name)));
    }
    lines.extend(seed.inventory.nodes.iter().filter_map(of));
    lines
}

fn hosts(names: &[(String, String)]) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n\
                    ff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n"
        .to_owned();
    for (address, names) in names {
        let _ = writeln!(text, "{address} {names}");
    }
    text
}

/// The site's user: a member of `sudo` with a home on /var, and a password only if the site gives one.
fn user(name: &str, password_hash: Option<&str>) -> Vec<File> {
    let home = format!("/var/home/{name}");
    let record = json!({
        "userName": name, "uid": USER_ID, "gid": USER_ID, "realName": "operator of the site",
        "homeDirectory": home, "shell": "/bin/bash", "disposition": "regular",
    });
    let group = json!({ "groupName": name, "gid": USER_ID, "disposition": "regular" });
    let mut files = Vec::new();
    for key in [name.to_owned(), USER_ID.to_string()] {
        files.push(public(format!("/run/userdb/{key}.user"), format!("{record}\n")));
        files.push(public(format!("/run/userdb/{key}.group"), format!("{group}\n")));
    }
    // An empty file would mask one of the same name in another folder.
    files.push(public(format!("/run/userdb/{name}:sudo.membership"), "{}\n".to_owned()));
    if let Some(hash) = password_hash {
        let secret = json!({ "privileged": { "hashedPassword": [hash] } });
        files.push(private(format!("/run/userdb/{name}.user-privileged"), format!("{secret}\n")));
    }
    let folders = format!("d /var/home 0755 root root -\nd {home} 0700 {USER_ID} {USER_ID} -\n");
    files.push(public("/run/tmpfiles.d/castiron.conf", folders));
    files
}

fn public(path: impl Into<String>, text: String) -> File {
    File { path: path.into(), text, private: false }
}

fn private(path: impl Into<String>, text: String) -> File {
    File { path: path.into(), text, private: true }
}
