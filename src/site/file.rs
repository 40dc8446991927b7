//! A site as it is written: `site.toml`. Its types are the one truth about the format; the JSON Schema that editors and
//! the checks read is made from them, descriptions included.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::network::Interfaces;
use super::value::{
    Address, After, ByPath, Cidr, Domain, ForeignData, Host, Ip, Label, LabelValue, Line, Mac, Name, Nic, PasswordHash,
    Serial, Size, SshKey, Taint, Url, User, Uuid, Wwn,
};
use crate::document::At;

/// # castiron site
///
/// One Kubernetes site: its networks, its machines and what they are for. It holds no secret.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
// Required by the schema; optional here so that the rest can be read where one of them is missing.
#[schemars(extend("required" = ["cluster", "networks", "nodes"]))]
pub(super) struct SiteFile {
    /// The cluster.
    pub(super) cluster: Option<ClusterTable>,
    /// The site's networks. A node's address says which one it is in.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(super) networks: Vec<NetworkTable>,
    /// The machines.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(super) nodes: Vec<NodeTable>,
    /// Who may log in over the network.
    #[serde(default)]
    pub(super) ssh: SshTable,
    /// Who may log in at the console: nobody, if nothing is said.
    #[serde(default)]
    pub(super) console: ConsoleTable,
    /// How machines are installed.
    #[serde(default)]
    pub(super) install: InstallTable,
    /// The way out to other networks, for nodes and container pulls.
    #[serde(default)]
    pub(super) proxy: ProxyTable,
    /// Name servers, where a network names none.
    #[serde(default)]
    pub(super) dns: DnsTable,
    /// Time servers, where a network names none.
    #[serde(default)]
    pub(super) ntp: NtpTable,
    /// Services of the cluster, by name.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, ServiceTable>")]
    pub(super) services: BTreeMap<Spanned<String>, ServiceTable>,
}

/// The cluster.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ClusterTable {
    /// Its name.
    #[schemars(extend("examples" = ["demo"]))]
    pub(super) name: At<Label>,
    /// The DNS domain of the nodes: `cp1` is `cp1.<domain>`.
    pub(super) domain: At<Domain>,
    /// The address of the API, free in the control planes' network: it moves to a control plane that is well.
    pub(super) vip: At<Ip>,
    /// The port of the API; 6443 when nothing is said.
    #[schemars(with = "Option<u16>", range(min = 1, max = 65535))]
    pub(super) port: Option<Spanned<u16>>,
    /// The network of pods; `10.244.0.0/16` when nothing is said.
    #[schemars(extend("examples" = ["10.244.0.0/16"]))]
    pub(super) pod_network: Option<At<Cidr>>,
    /// The network of Kubernetes services; `10.96.0.0/12` when nothing is said.
    #[schemars(extend("examples" = ["10.96.0.0/12"]))]
    pub(super) service_network: Option<At<Cidr>>,
}

/// A network.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct NetworkTable {
    /// Its name, for people.
    #[schemars(extend("examples" = ["nodes"]))]
    pub(super) name: At<Name>,
    /// Its address and prefix.
    pub(super) cidr: At<Cidr>,
    /// The way out: nodes with an address here have their default route over it.
    #[schemars(extend("examples" = ["192.0.2.1"]))]
    pub(super) gateway: Option<At<Ip>>,
    /// Name servers.
    #[serde(default)]
    #[schemars(extend("examples" = [["192.0.2.53"]]))]
    pub(super) dns: Vec<At<Ip>>,
    /// Domains in which short names are looked for.
    #[serde(default)]
    #[schemars(extend("examples" = [["k8s.example.com"]]))]
    pub(super) search: Vec<At<Domain>>,
    /// Time servers.
    #[serde(default)]
    #[schemars(extend("examples" = [["192.0.2.123"]]))]
    pub(super) ntp: Vec<At<Host>>,
    /// Bytes of the largest packet.
    #[schemars(with = "Option<u32>", range(min = 576, max = 9216), extend("examples" = [1500, 9000]))]
    pub(super) mtu: Option<Spanned<u32>>,
    /// The VLAN that its packets are tagged with on the nodes' cables.
    #[schemars(with = "Option<u32>", range(min = 1, max = 4094), extend("examples" = [100]))]
    pub(super) vlan: Option<Spanned<u32>>,
    /// Whether nodes get their addresses from a DHCP server. What a node's `address` says, the server must give.
    #[serde(default)]
    pub(super) dhcp: bool,
}

/// A machine.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct NodeTable {
    /// Its host name.
    pub(super) name: At<Label>,
    /// What it is for: the name of a file of `profiles/` without `.toml`.
    #[schemars(extend("examples" = ["control-plane", "worker", "gpu-worker", "db"]))]
    pub(super) role: At<Name>,
    /// How the machine is known. Where several keys are given, all must agree.
    #[schemars(with = "MatchTable", extend("examples" = [{ "serial": "ABC1234" }]))]
    pub(super) r#match: Spanned<MatchTable>,
    /// The disk that it is installed on. Exactly one disk must agree with every key.
    #[schemars(with = "DiskTable", extend("examples" = [{ "serial": "S5G2NG0R123456" }]))]
    pub(super) disk: Spanned<DiskTable>,
    /// Its address in the site, with prefix.
    pub(super) address: Option<At<Address>>,
    /// The network card that has the address: its name or its MAC address. `match.mac` when nothing is said.
    pub(super) interface: Option<At<Nic>>,
    /// All its interfaces, in the shape of netplan's version 2, instead of `interface`.
    #[schemars(with = "Option<Interfaces>")]
    pub(super) network: Option<Spanned<Interfaces>>,
    /// Labels of the Kubernetes node.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, At<LabelValue>>")]
    pub(super) labels: BTreeMap<Spanned<String>, At<LabelValue>>,
    /// Taints of the Kubernetes node.
    #[serde(default)]
    pub(super) taints: Vec<At<Taint>>,
    /// As `install.foreign-data`, for this machine.
    #[schemars(extend("enum" = ["stop", "wipe"]))]
    pub(super) foreign_data: Option<At<ForeignData>>,
}

/// How a machine is known.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MatchTable {
    /// The serial number of the machine (on a Dell: the service tag).
    pub(super) serial: Option<At<Serial>>,
    /// Its SMBIOS UUID.
    pub(super) uuid: Option<At<Uuid>>,
    /// The MAC address of one of its network cards.
    pub(super) mac: Option<At<Mac>>,
}

/// How a disk is known.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct DiskTable {
    /// Its serial number.
    #[schemars(extend("examples" = ["S5G2NG0R123456"]))]
    pub(super) serial: Option<At<Serial>>,
    /// Its World Wide Name.
    pub(super) wwn: Option<At<Wwn>>,
    /// Where it is plugged in: a name of `/dev/disk/by-path/`.
    pub(super) by_path: Option<At<ByPath>>,
    /// Its model, as `lsblk -o NAME,MODEL` says it.
    #[schemars(extend("examples" = ["SAMSUNG MZ7L3480HCHQ-00A07"]))]
    pub(super) model: Option<At<Line>>,
    /// It is at least this large.
    #[schemars(extend("examples" = ["100G"]))]
    pub(super) min_size: Option<At<Size>>,
    /// It is at most this large.
    #[schemars(extend("examples" = ["500G"]))]
    pub(super) max_size: Option<At<Size>>,
}

/// Who may log in over the network.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct SshTable {
    /// Who logs in, over the network and at the console; `ubuntu` when nothing is said. May become root by `sudo`.
    pub(super) user: Option<At<User>>,
    /// Public keys, one a line of a `.pub` file.
    #[serde(default)]
    pub(super) authorized_keys: Vec<At<SshKey>>,
}

/// Who may log in at the console.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ConsoleTable {
    /// The hash of a password, as `mkpasswd --method=yescrypt` makes it. Without it nobody logs in at the console.
    pub(super) password_hash: Option<At<PasswordHash>>,
}

/// How machines are installed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct InstallTable {
    /// What to do with a disk that holds somebody else's data: `stop` (when nothing is said) or `wipe`.
    #[schemars(extend("enum" = ["stop", "wipe"]))]
    pub(super) foreign_data: Option<At<ForeignData>>,
    /// What follows an installation: `poweroff` (when nothing is said) or `reboot`.
    #[schemars(extend("enum" = ["poweroff", "reboot"]))]
    pub(super) after: Option<At<After>>,
}

/// The way out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ProxyTable {
    /// For `http://` addresses.
    #[schemars(extend("examples" = ["http://proxy.example.com:3128"]))]
    pub(super) http: Option<At<Url>>,
    /// For `https://` addresses.
    #[schemars(extend("examples" = ["http://proxy.example.com:3128"]))]
    pub(super) https: Option<At<Url>>,
    /// Domains and networks that need no proxy, besides the site's own.
    #[serde(default)]
    #[schemars(extend("examples" = [[".example.com"]]))]
    pub(super) no_proxy: Vec<At<Line>>,
}

/// Name servers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DnsTable {
    /// Their addresses.
    #[serde(default)]
    #[schemars(extend("examples" = [["192.0.2.53"]]))]
    pub(super) servers: Vec<At<Ip>>,
    /// Domains in which short names are looked for.
    #[serde(default)]
    #[schemars(extend("examples" = [["k8s.example.com"]]))]
    pub(super) search: Vec<At<Domain>>,
}

/// Time servers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NtpTable {
    /// Their addresses or names.
    #[serde(default)]
    #[schemars(extend("examples" = [["ntp.ubuntu.com"]]))]
    pub(super) servers: Vec<At<Host>>,
}

/// A service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceTable {
    /// Whether the cluster has it.
    pub(super) enabled: Option<bool>,
    /// What its chart is given; it means what the chart says.
    #[serde(default)]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub(super) values: toml::Table,
}

impl MatchTable {
    /// How many keys are given.
    pub(super) fn len(&self) -> usize {
        [self.serial.is_some(), self.uuid.is_some(), self.mac.is_some()].into_iter().filter(|given| *given).count()
    }
}

impl DiskTable {
    /// Whether nothing is given.
    pub(super) fn is_empty(&self) -> bool {
        let Self { serial, wwn, by_path, model, min_size, max_size } = self;
        let texts = serial.is_none() && wwn.is_none() && by_path.is_none() && model.is_none();
        texts && min_size.is_none() && max_size.is_none()
    }
}
