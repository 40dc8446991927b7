//! From what is written to what is meant: every default filled in.

use serde_json::Value as Json;

use super::check::{Given, POD_NETWORK, SERVICE_NETWORK};
use super::file::{DiskTable, MatchTable, NetworkTable, NodeTable, ProxyTable, SiteFile};
use super::value::{After, Cidr, ForeignData};
use super::{Cluster, Disk, Identity, Network, Node, NodeKind, Proxy, Service, Site, netplan};
use crate::document::At;
use crate::seal::USER;

const PORT: u16 = 6443;

/// The site that a checked file means. None if the file was not checked.
pub(super) fn site(given: &Given<'_>) -> Option<Site> {
    let file = &given.file;
    let cluster = cluster(file)?;
    let nodes = file.nodes.iter().map(|n| node(given, n, &cluster)).collect::<Option<Vec<Node>>>()?;
    let services = file.services.iter().map(|(name, table)| {
        let values = Json::Object(table.values.iter().map(|(k, v)| (k.clone(), json(v))).collect());
        (name.get_ref().clone(), Service { enabled: table.enabled, values })
    });
    Some(Site {
        networks: file.networks.iter().map(network).collect(),
        nodes,
        ssh_user: text(file.ssh.user.as_ref()).unwrap_or_else(|| USER.to_owned()),
        authorized_keys: texts(&file.ssh.authorized_keys),
        password_hash: text(file.console.password_hash.as_ref()),
        after: file.install.after.as_ref().map_or(After::Poweroff, |a| a.value),
        proxy: proxy(&file.proxy, file, &cluster),
        services: services.collect(),
        cluster,
    })
}

fn cluster(file: &SiteFile) -> Option<Cluster> {
    let table = file.cluster.as_ref()?;
    let net = |written: &Option<At<Cidr>>, default: &str| match written {
        Some(written) => Some(written.value.0),
        None => default.parse().ok(),
    };
    Some(Cluster {
        name: table.name.text.clone(),
        domain: table.domain.text.clone(),
        vip: table.vip.value.0,
        port: table.port.as_ref().map_or(PORT, |p| *p.get_ref()),
        pod_network: net(&table.pod_network, POD_NETWORK)?,
        service_network: net(&table.service_network, SERVICE_NETWORK)?,
    })
}

fn network(table: &NetworkTable) -> Network {
    Network {
        name: table.name.text.clone(),
        cidr: table.cidr.value.0,
        gateway: table.gateway.as_ref().map(|g| g.value.0),
        vlan: table.vlan.as_ref().map(|v| *v.get_ref()),
        mtu: table.mtu.as_ref().map(|m| *m.get_ref()),
        dhcp: table.dhcp,
    }
}

fn node(given: &Given<'_>, table: &NodeTable, cluster: &Cluster) -> Option<Node> {
    let file = &given.file;
    let (interfaces, interface) = netplan::interfaces(table, file)?;
    let address = netplan::address(table).map(|a| a.value.0);
    let network = match address {
        Some(address) => netplan::network_of(&file.networks, address.addr()),
        None => netplan::dhcp_network(&file.networks).filter(|_| table.network.is_none()),
    };
    let ntp = network.map(|n| texts(&n.ntp)).filter(|servers| !servers.is_empty());
    let shared = file.install.foreign_data.as_ref().map_or(ForeignData::Stop, |f| f.value);
    Some(Node {
        name: table.name.text.clone(),
        fqdn: format!("{}.{}", table.name.text, cluster.domain),
        role: table.role.text.clone(),
        kind: NodeKind::of(&table.role.text, given.roles),
        identity: identity(table.r#match.get_ref()),
        disk: disk(table.disk.get_ref()),
        address,
        network: network.map(|n| n.name.text.clone()),
        interface,
        interfaces,
        ntp: ntp.unwrap_or_else(|| texts(&file.ntp.servers)),
        labels: table.labels.iter().map(|(key, value)| (key.get_ref().clone(), value.text.clone())).collect(),
        taints: texts(&table.taints),
        foreign_data: table.foreign_data.as_ref().map_or(shared, |f| f.value),
    })
}

fn identity(table: &MatchTable) -> Identity {
    Identity {
        serial: text(table.serial.as_ref()),
        uuid: table.uuid.as_ref().map(|u| u.value.uuid_text()),
        mac: table.mac.as_ref().map(|m| m.value.to_string()),
    }
}

fn disk(table: &DiskTable) -> Disk {
    Disk {
        serial: text(table.serial.as_ref()),
        wwn: text(table.wwn.as_ref()),
        by_path: text(table.by_path.as_ref()),
        model: text(table.model.as_ref()),
        min_size: table.min_size.as_ref().map(|s| s.value.0),
        max_size: table.max_size.as_ref().map(|s| s.value.0),
    }
}

/// What the site's machines reach by themselves never goes through a proxy.
fn proxy(table: &ProxyTable, file: &SiteFile, cluster: &Cluster) -> Proxy {
    if table.http.is_none() && table.https.is_none() {
        return Proxy::default();
    }
    let own = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into_iter();
    let nets = file.networks.iter().map(|n| n.cidr.value.0).chain([cluster.pod_network, cluster.service_network]);
    let names = [format!(".{}", cluster.domain), ".svc".to_owned(), ".cluster.local".to_owned()];
    let no_proxy = own.chain(nets.map(|n| n.to_string())).chain(names).chain(texts(&table.no_proxy));
    Proxy { http: text(table.http.as_ref()), https: text(table.https.as_ref()), no_proxy: no_proxy.collect() }
}

fn text<T>(value: Option<&At<T>>) -> Option<String> {
    value.map(|v| v.text.clone())
}

fn texts<T>(values: &[At<T>]) -> Vec<String> {
    values.iter().map(|v| v.text.clone()).collect()
}

/// A chart's value. JSON has no times, and no infinity: they become text.
fn json(value: &toml::Value) -> Json {
    match value {
        toml::Value::String(text) => Json::String(text.clone()),
        toml::Value::Integer(n) => Json::from(*n),
        toml::Value::Float(n) => {
            serde_json::Number::from_f64(*n).map_or_else(|| Json::String(n.to_string()), Json::Number)
        }
        toml::Value::Boolean(b) => Json::Bool(*b),
        toml::Value::Datetime(time) => Json::String(time.to_string()),
        toml::Value::Array(items) => items.iter().map(json).collect(),
        toml::Value::Table(table) => Json::Object(table.iter().map(|(k, v)| (k.clone(), json(v))).collect()),
    }
}
