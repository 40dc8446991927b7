//! Which secrets a site has, and which kind of node may know each: the one table that seeds are filled by.
//!
//! What is not in a row's list reaches no seed. Keys that only the operator's program signs with (the site's own, those of
//! the databases' and the status CA) are known by nobody: nodes get certificates that are ready.

use clap::ValueEnum;

use crate::seal::NodeKind::{self, ControlPlane, Db, Worker};

/// Secrets that are made, and made anew, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Group {
    /// The cluster's CA: API server, kubelets, administrators.
    Kubernetes,
    /// The CA of aggregated APIs.
    FrontProxy,
    /// The CA of the control planes' etcd.
    Etcd,
    /// The key pair that signs service accounts' tokens.
    ServiceAccount,
    /// The key that Secrets are encrypted with in etcd; the former one stays readable.
    Encryption,
    /// The workers' tokens for joining.
    Tokens,
    /// The passwords of the virtual addresses.
    Keepalived,
    /// The databases' passwords.
    Postgresql,
    /// The CA of the databases, and their certificates.
    Db,
    /// The CA of the databases' own etcd, and its certificates.
    DbEtcd,
    /// The CA of the nodes' status, their certificates and the operator's.
    Status,
    /// The nodes' ssh host keys.
    Ssh,
    /// The key that seeds are signed with; nodes follow to the new one.
    Signing,
}

/// Whose a secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// There is one for the site.
    Site,
    /// Each node of the kinds that may know it has its own, and learns no other's.
    Node,
}

/// A secret of a site.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// Its name: a path, as nodes lay it down.
    pub name: &'static str,
    /// What it is made anew with.
    pub group: Group,
    /// Whose it is.
    pub scope: Scope,
    /// The kinds of node that may know it.
    pub known_by: &'static [NodeKind],
}

const fn site(name: &'static str, group: Group, known_by: &'static [NodeKind]) -> Item {
    Item { name, group, scope: Scope::Site, known_by }
}

const fn node(name: &'static str, group: Group, known_by: &'static [NodeKind]) -> Item {
    Item { name, group, scope: Scope::Node, known_by }
}

const CONTROL: &[NodeKind] = &[ControlPlane];
const CLUSTER: &[NodeKind] = &[ControlPlane, Worker];
const WORKERS: &[NodeKind] = &[Worker];
const DATABASES: &[NodeKind] = &[Db];
const ALL: &[NodeKind] = &NodeKind::ALL;
const NOBODY: &[NodeKind] = &[];

/// The site's signing key.
pub const SIGNING_KEY: &str = "site/signing.key";
/// A worker's token.
pub const TOKEN: &str = "kubernetes/token";
/// What control planes know of all workers' tokens: JSON, tokens by node. It is put together when a seed is made.
pub const TOKENS: &str = "kubernetes/tokens.json";
/// Keys of encryption at rest, the one to write with first: lines of a name and 32 bytes in base64.
pub const ENCRYPTION_KEYS: &str = "encryption/secretbox.keys";

/// Every secret.
pub const ITEMS: &[Item] = &[
    site("kubernetes/ca.crt", Group::Kubernetes, CLUSTER),
    site("kubernetes/ca.key", Group::Kubernetes, CONTROL),
    site("front-proxy/ca.crt", Group::FrontProxy, CONTROL),
    site("front-proxy/ca.key", Group::FrontProxy, CONTROL),
    site("etcd/ca.crt", Group::Etcd, CONTROL),
    site("etcd/ca.key", Group::Etcd, CONTROL),
    site("service-account/sa.key", Group::ServiceAccount, CONTROL),
    site("service-account/sa.pub", Group::ServiceAccount, CONTROL),
    site(ENCRYPTION_KEYS, Group::Encryption, CONTROL),
    site("keepalived/api.password", Group::Keepalived, CONTROL),
    site("keepalived/database.password", Group::Keepalived, DATABASES),
    site("postgresql/superuser.password", Group::Postgresql, DATABASES),
    site("postgresql/replication.password", Group::Postgresql, DATABASES),
    site("postgresql/rewind.password", Group::Postgresql, DATABASES),
    site("db/ca.crt", Group::Db, DATABASES),
    site("db/ca.key", Group::Db, NOBODY),
    site("db-etcd/ca.crt", Group::DbEtcd, DATABASES),
    site("db-etcd/ca.key", Group::DbEtcd, NOBODY),
    site("status/ca.crt", Group::Status, ALL),
    site("status/ca.key", Group::Status, NOBODY),
    site("status/operator.crt", Group::Status, NOBODY),
    site("status/operator.key", Group::Status, NOBODY),
    site(SIGNING_KEY, Group::Signing, NOBODY),
    node(TOKEN, Group::Tokens, WORKERS),
    node("db/node.crt", Group::Db, DATABASES),
    node("db/node.key", Group::Db, DATABASES),
    node("db-etcd/node.crt", Group::DbEtcd, DATABASES),
    node("db-etcd/node.key", Group::DbEtcd, DATABASES),
    node("status/node.crt", Group::Status, ALL),
    node("status/node.key", Group::Status, ALL),
    node("ssh/ssh_host_ed25519_key", Group::Ssh, ALL),
    node("ssh/ssh_host_ed25519_key.pub", Group::Ssh, ALL),
];

/// CAs: folder, common name. kubeadm knows the first three by these names.
pub const CAS: &[(&str, Group, &str)] = &[
    ("kubernetes", Group::Kubernetes, "kubernetes"),
    ("front-proxy", Group::FrontProxy, "front-proxy-ca"),
    ("etcd", Group::Etcd, "etcd-ca"),
    ("db", Group::Db, "castiron-db-ca"),
    ("db-etcd", Group::DbEtcd, "castiron-db-etcd-ca"),
    ("status", Group::Status, "castiron-status-ca"),
];

/// The CAs that nodes have a certificate of: those whose folder has a `node.crt`.
pub const LEAVES: [&str; 3] = ["db", "db-etcd", "status"];

/// Passwords: name, number of letters and digits. VRRP takes eight.
pub const PASSWORDS: &[(&str, usize)] = &[
    ("keepalived/api.password", 8),
    ("keepalived/database.password", 8),
    ("postgresql/superuser.password", 32),
    ("postgresql/replication.password", 32),
    ("postgresql/rewind.password", 32),
];

/// The row of a secret.
pub fn item(name: &str) -> Option<&'static Item> {
    ITEMS.iter().find(|item| item.name == name)
}
