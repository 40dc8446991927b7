//! What is right, and should not stay as it is: choices that are weak, and examples that nobody has replaced.

use std::collections::BTreeMap;
use std::ops::Range;

use ipnet::IpNet;

use super::NodeKind;
use super::check::Given;
use super::value::{ForeignData, Nic, Serial};
use crate::diagnostic::{Diagnostic, literal};

/// The networks that stand in documents only (RFC 5737, RFC 3849).
const DOCUMENTATION: [&str; 4] = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"];

/// All warnings.
pub(super) fn warnings(given: &Given<'_>) -> Vec<Diagnostic> {
    let mut warnings = Vec::new();
    login(given, &mut warnings);
    numbers(given, &mut warnings);
    examples(given, &mut warnings);
    let wipe = given.file.install.foreign_data.as_ref().filter(|f| f.value == ForeignData::Wipe);
    if let Some(wipe) = wipe {
        let warning = given.problem("every machine may overwrite somebody else's data", wipe.span.clone());
        let help = "write `foreign-data = \"wipe\"` for the machines that need it, while they need it".to_owned();
        warnings.push(warning.help(help));
    }
    for proxy in [&given.file.proxy.http, &given.file.proxy.https].into_iter().flatten() {
        let url = reqwest::Url::parse(&proxy.text).ok();
        if url.is_some_and(|u| !u.username().is_empty() || u.password().is_some()) {
            let warning = given.problem("a proxy's name and password in a file that is no secret", proxy.span.clone());
            warnings.push(warning.help("let the proxy know the nodes by their addresses".to_owned()));
        }
    }
    warnings
}

fn login(given: &Given<'_>, warnings: &mut Vec<Diagnostic>) {
    let (keys, hash) = (&given.file.ssh.authorized_keys, &given.file.console.password_hash);
    if keys.is_empty() && hash.is_none() {
        let warning = Diagnostic::of_file("nobody could ever log in to these machines", &given.source);
        let help = "write your public key under `[ssh]`: `authorized-keys = [\"ssh-ed25519 …\"]`".to_owned();
        warnings.push(warning.help(help));
    }
    let mut seen = BTreeMap::new();
    for key in keys {
        if let Some(weakness) = key.value.weakness() {
            let warning = given.problem(weakness, key.span.clone());
            warnings.push(warning.help("make a better one with `ssh-keygen -t ed25519`".to_owned()));
        }
        if let Some(first) = seen.insert(key.value.fingerprint(), key.span.clone()) {
            let warning = given.problem("this key is named twice", key.span.clone());
            warnings.push(warning.and(&given.source, first, "first here"));
        }
    }
    if let Some(hash) = hash.as_ref().filter(|h| !h.value.strong) {
        let warning = given.problem("a hash that is neither yescrypt nor SHA-512 is soon guessed", hash.span.clone());
        warnings.push(warning.help("make one with `mkpasswd --method=yescrypt`".to_owned()));
    }
}

fn numbers(given: &Given<'_>, warnings: &mut Vec<Diagnostic>) {
    if let [only] = given.nodes(NodeKind::ControlPlane).as_slice() {
        let message = "a single control plane: without it the cluster stands still";
        let warning = given.problem(message, only.role.span.clone());
        warnings.push(warning.help("three survive the loss of one".to_owned()));
    }
    let databases = given.nodes(NodeKind::Db);
    if let ([first, ..], true) = (databases.as_slice(), databases.len() == 1 || databases.len().is_multiple_of(2)) {
        let message = match databases.len() {
            1 => "a single database server: its loss is the loss of what it holds".to_owned(),
            n => format!("{n} database servers: they need a majority, and survive no more losses than {}", n - 1),
        };
        let warning = given.problem(message, first.role.span.clone());
        warnings.push(warning.help("three survive the loss of one".to_owned()));
    }
}

/// Values that stand for those that only the user knows.
fn examples(given: &Given<'_>, warnings: &mut Vec<Diagnostic>) {
    let mut machines: Vec<Range<usize>> = Vec::new();
    for node in &given.file.nodes {
        let identity = node.r#match.get_ref();
        let mac = identity.mac.as_ref().filter(|m| m.value.is_example()).map(|m| m.span.clone());
        let serials = [&identity.serial, &node.disk.get_ref().serial];
        let serial = serials.into_iter().flatten().find(|s| Serial::is_example(&s.text)).map(|s| s.span.clone());
        let nic = node.interface.as_ref().filter(|n| matches!(n.value, Nic::Mac(mac) if mac.is_example()));
        let ethernets = node.network.iter().flat_map(|n| n.get_ref().ethernets.values());
        let macs = ethernets.filter_map(|e| e.r#match.as_ref()?.macaddress.as_ref());
        let card = macs.filter(|m| m.value.is_example()).map(|m| m.span.clone()).next();
        machines.extend(mac.or(serial).or(nic.map(|n| n.span.clone())).or(card));
    }
    if let [first, rest @ ..] = machines.as_slice() {
        let message = match machines.len() {
            1 => "a machine that is an example: no real one is like it".to_owned(),
            n => format!("{n} machines that are examples: no real one is like them"),
        };
        let warning = given.problem(message, first.clone());
        let warning = rest.iter().take(2).fold(warning, |w, span| w.and(&given.source, span.clone(), ""));
        let help = "write what `dmidecode -s system-serial-number` or `ip link` say on the machine";
        warnings.push(warning.help(help.to_owned()));
    }
    for network in &given.file.networks {
        let mut documentation = DOCUMENTATION.iter().filter_map(|net| net.parse::<IpNet>().ok());
        let within = |net: IpNet| net.contains(&network.cidr.value.0.addr());
        if documentation.any(within) {
            let message = format!(
                "the network {} is an example: its addresses are for documents only",
                literal(&network.name.text)
            );
            warnings.push(given.problem(message, network.cidr.span.clone()).help("write your own".to_owned()));
        }
    }
}
