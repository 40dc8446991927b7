//! Secrets and seeds: who learns what, what a node refuses, and how they travel.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod seeding;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use base64::Engine as _;
use castiron::cidata;
use castiron::seal::{Held, Identity, NodeKind, Secret, Seed};
use castiron::seed::known::{Group, ITEMS, Scope};
use castiron::seed::{Facts, NodeFacts, Secrets, seal};
use proptest::prelude::*;
use seeding::site;
use serde_json::{Value, json};

fn facts() -> Facts {
    let node = |(name, role, kind): &(&str, &str, NodeKind)| NodeFacts {
        name: (*name).to_owned(),
        role: (*role).to_owned(),
        kind: *kind,
        address: None,
        identity: Identity { serial: Some(format!("SN-{name}")), ..Identity::default() },
        settings: Value::Null,
        network: Some(format!("network: {{}} # {name}\n")),
        private: json!({ "password-hash": format!("hash-of-{name}") }),
    };
    let nodes = [
        ("cp1", "control-plane", NodeKind::ControlPlane),
        ("w1", "worker", NodeKind::Worker),
        ("w2", "gpu-worker", NodeKind::Worker),
        ("db1", "db", NodeKind::Db),
        ("db2", "db", NodeKind::Db),
    ];
    Facts {
        cluster: "demo".into(),
        domain: "example.org".into(),
        vip: None,
        settings: Value::Null,
        nodes: nodes.iter().map(node).collect(),
    }
}

fn secrets() -> Secrets {
    Secrets::new(&facts(), BTreeSet::new()).unwrap()
}

fn seed(serial: u64) -> (Secrets, Seed) {
    let secrets = secrets();
    let seed = seal(&facts(), &secrets, serial).unwrap();
    (secrets, seed)
}

/// What each node may know, written down once more and by hand: the table in the program must agree.
fn may_know(node: &str) -> BTreeSet<String> {
    let own = |names: &[&str]| names.iter().map(|name| format!("{name}@{node}")).collect::<Vec<_>>();
    let mut known: Vec<String> =
        own(&["status/node.crt", "status/node.key", "ssh/ssh_host_ed25519_key", "ssh/ssh_host_ed25519_key.pub"]);
    known.push("status/ca.crt".into());
    match node {
        "cp1" => {
            known.extend(
                [
                    "kubernetes/ca.crt",
                    "kubernetes/ca.key",
                    "front-proxy/ca.crt",
                    "front-proxy/ca.key",
                    "etcd/ca.crt",
                    "etcd/ca.key",
                    "service-account/sa.key",
                    "service-account/sa.pub",
                    "encryption/secretbox.keys",
                    "keepalived/api.password",
                    "kubernetes/token@w1",
                    "kubernetes/token@w2",
                ]
                .map(str::to_owned),
            );
        }
        "w1" | "w2" => known.extend(["kubernetes/ca.crt".to_owned(), format!("kubernetes/token@{node}")]),
        _ => {
            known.extend(
                [
                    "keepalived/database.password",
                    "postgresql/superuser.password",
                    "postgresql/replication.password",
                    "postgresql/rewind.password",
                    "db/ca.crt",
                    "db-etcd/ca.crt",
                ]
                .map(str::to_owned),
            );
            known.extend(own(&["db/node.crt", "db/node.key", "db-etcd/node.crt", "db-etcd/node.key"]));
        }
    }
    known.into_iter().collect()
}

#[test]
fn a_canary_of_every_secret_is_found_only_where_it_may_be() {
    let mut secrets = secrets();
    let mut canaries = BTreeMap::new();
    let mut put = |name: String, secret: &mut Secret| {
        let canary = format!("canary-{:04}-{}", canaries.len(), name.replace(['/', '@', '.'], "-"));
        canaries.insert(name, canary.clone());
        *secret = Secret::new(canary);
    };
    for (name, secret) in &mut secrets.site {
        // The signing key signs; its real value is looked for.
        if name != "site/signing.key" {
            put(name.clone(), secret);
        }
    }
    for (node, own) in &mut secrets.nodes {
        own.items.iter_mut().for_each(|(name, secret)| put(format!("{name}@{node}"), secret));
    }
    canaries.insert("site/signing.key".into(), secrets.site["site/signing.key"].reveal().to_owned());
    let rows: BTreeSet<&str> = canaries.keys().map(|name| name.split('@').next().unwrap()).collect();
    assert_eq!(rows, ITEMS.iter().map(|item| item.name).collect(), "each row of the table has a canary");

    let whole = seal(&facts(), &secrets, 1).unwrap();
    for node in &facts().nodes {
        let bytes = whole.narrowed(&[&node.name]).unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes);
        let found: BTreeSet<String> =
            canaries.iter().filter(|(_, c)| text.contains(*c)).map(|(n, _)| n.clone()).collect();
        assert_eq!(found, may_know(&node.name), "{}", node.name);
        // Nor the hash of another's password, nor another's network.
        for other in facts().nodes.iter().filter(|other| other.name != node.name) {
            assert!(!text.contains(&format!("hash-of-{}", other.name)));
            assert!(!text.contains(&format!("# {}", other.name)));
        }
        // What the node makes of it is the same.
        let opened = whole.open(&node.name, None).unwrap();
        let count = may_know(&node.name).len() - usize::from(node.kind == NodeKind::ControlPlane);
        assert_eq!(opened.secrets.len(), count, "{:?}", opened.secrets.keys());
        assert_eq!(opened.settings["password-hash"], format!("hash-of-{}", node.name));
        assert!(!format!("{opened:?}").contains("canary"), "a secret shows in its debug form");
    }
}

#[test]
fn a_seed_is_refused_that_is_altered_older_foreign_or_for_somebody_else() {
    let (mut secrets, first) = seed(5);
    let bytes = first.to_bytes();
    let read = Seed::parse(&bytes).unwrap();
    let held = read.open("db1", None).unwrap().held;
    assert_eq!(read.open("db1", Some(&held)).unwrap().network.as_deref(), Some("network: {} # db1\n"));

    let refused = |seed: &Seed, node: &str, held: Option<&Held>| {
        let error = seed.open(node, held).map(|_| ()).expect_err("is refused");
        assert_eq!(castiron::error::exit_code(&error), 4);
        error.to_string()
    };
    assert!(refused(&read, "db9", None).contains("it is for `cp1`, `db1`, `db2`, `w1`, `w2`"));
    let older = seal(&facts(), &secrets, 4).unwrap();
    assert!(refused(&older, "db1", Some(&held)).contains("serial number is 4, and this node already has 5"));
    let (_, foreign) = seed(6);
    assert!(refused(&foreign, "db1", Some(&held)).contains("of the site"));
    assert!(refused(&read.narrowed(&["db2"]).unwrap(), "db1", None).contains("no part `node/db1`"));

    // The site's next key is followed, and the former one is not believed again.
    secrets.rotate(Group::Signing).unwrap();
    let second = seal(&facts(), &secrets, 7).unwrap();
    let held_second = second.open("db1", Some(&held)).unwrap().held;
    assert_ne!(held.key, held_second.key);
    let by_former = first.open("db1", None).unwrap();
    let stolen = Held { serial: 0, ..held_second };
    assert!(by_former.held.serial > stolen.serial);
    assert!(refused(&first, "db1", Some(&stolen)).contains("does not follow"));

    // Somebody who signs for this site with a key of their own.
    let (_, mine) = seed(9);
    let text = String::from_utf8_lossy(&mine.to_bytes())
        .replace(&mine.manifest().site.to_string(), &read.manifest().site.to_string());
    assert!(Seed::parse(text.as_bytes()).is_err());
}

#[test]
fn any_changed_byte_of_a_seed_is_seen() {
    let (_, seed) = seed(5);
    let bytes = seed.narrowed(&["w1"]).unwrap().to_bytes();
    for at in (0..bytes.len()).step_by(7).chain(bytes.len() - 3..bytes.len()) {
        let mut changed = bytes.to_vec();
        changed[at] ^= 1;
        // The list of parts is not signed: it says only which are there.
        assert!(Seed::parse(&changed).and_then(|seed| seed.open("w1", None)).is_err(), "byte {at}");
    }
    for length in 0..bytes.len() {
        if length % 50 == 0 || bytes.len() - length < 10 {
            assert!(Seed::parse(&bytes[..length]).is_err(), "{length} bytes");
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_are_no_seed(bytes in proptest::collection::vec(any::<u8>(), 0..2000), lines in "[ -~\n]{0,300}") {
        prop_assert!(Seed::parse(&bytes).is_err());
        let text = format!("castiron-seed-1\n{lines}");
        prop_assert!(Seed::parse(text.as_bytes()).is_err());
    }

    #[test]
    fn random_volumes_do_not_stop_a_reader(changes in proptest::collection::vec((0_usize..2048, any::<u8>()), 1..20)) {
        let files = cidata::Files::from([("castiron.seed".to_owned(), zeroize::Zeroizing::new(vec![7; 5000]))]);
        let mut volume = cidata::make(&files, 256 << 10).unwrap();
        for (at, byte) in &changes {
            volume[*at] = *byte;
        }
        let _ = cidata::read_file(&volume, "castiron.seed");
    }
}

#[test]
fn every_format_holds_the_seed_and_is_its_owners_alone() {
    let site = site();
    let write = |format: &str, node: &str| {
        let path = site.path(format);
        site.run(&["seed", "--node", node, "--format", format, "--output", path.to_str().unwrap()]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{format}");
        fs::read(path).unwrap()
    };
    let nodes =
        |bytes: &[u8]| Seed::parse(bytes).unwrap().carried().iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(nodes(&write("credential", "db1")), ["db1"]);
    let text = base64::engine::general_purpose::STANDARD.decode(write("guestinfo", "cp2")).unwrap();
    assert_eq!(nodes(&text), ["cp2"]);
    let fat = write("cidata-fat", "worker1");
    assert_eq!(nodes(&cidata::read_file(&fat, "castiron.seed").unwrap()), ["worker1"]);
    let network = cidata::read_file(&fat, "network-config").unwrap();
    assert!(String::from_utf8_lossy(&network).contains("version: 2"));
    let iso = write("cidata-iso", "db2");
    assert_eq!(&iso[0x8028..0x8030], b"CIDATA  ");
    let start = iso.windows(15).position(|w| w == b"castiron-seed-1").unwrap();
    assert_eq!(start % 2048, 0);

    let text = site.fails(&["seed", "--format", "credential", "--output", "/dev/null"], 2);
    assert!(text.contains("--node NAME"), "{text}");
}

#[test]
fn secrets_are_made_once_shared_and_made_anew() {
    let site = site();
    let file = site.path("secrets.age");
    for path in [&file, &site.path("identity")] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
    }
    let reveal = |name: &str| site.run(&["secrets", "show", "--reveal", name]);
    let password = reveal("postgresql/superuser.password");
    assert_eq!(password.trim().len(), 32);
    assert!(reveal("kubernetes/ca.crt").starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(reveal("kubernetes/ca.key").starts_with("-----BEGIN PRIVATE KEY-----"));
    let listed = site.run(&["secrets", "show"]);
    assert!(listed.contains("kubernetes/ca.key") && !listed.contains(password.trim()) && !listed.contains("BEGIN"));
    assert!(site.fails(&["secrets", "new"], 2).contains("is there already"));

    // Nothing to do, then a new node.
    let before = fs::read(&file).unwrap();
    site.run(&["secrets", "update"]);
    assert_eq!(fs::read(&file).unwrap(), before);
    let toml = fs::read_to_string(site.path("site.toml")).unwrap();
    fs::write(site.path("site.toml"), toml.replace("\"db3\"", "\"db4\"")).unwrap();
    let output = site.path("s");
    let told =
        site.fails(&["seed", "--node", "db4", "--format", "credential", "--output", output.to_str().unwrap()], 2);
    assert!(told.contains("secrets of `db4`") && told.contains("castiron secrets update"), "{told}");
    site.run(&["secrets", "update"]);
    site.run(&["seed", "--node", "db4", "--format", "credential", "--output", output.to_str().unwrap()]);
    assert_eq!(reveal("postgresql/superuser.password"), password);

    site.run(&["secrets", "rotate", "postgresql", "encryption", "kubernetes"]);
    assert_ne!(reveal("postgresql/superuser.password"), password);
    let keys = reveal("encryption/secretbox.keys");
    assert!(keys.starts_with("key2 ") && keys.contains("\nkey1 "), "{keys}");

    // A colleague, who then is the only one.
    let colleague = castiron::seed::secrets::new_identity(&site.path("colleague")).unwrap().to_public().to_string();
    site.run(&["secrets", "rekey", "--add", &colleague]);
    let mine = site.run(&["secrets", "show"]);
    let mine = mine.lines().filter_map(|l| l.strip_prefix("recipient ")).find(|r| *r != colleague).unwrap().to_owned();
    let password = reveal("postgresql/superuser.password");
    site.run(&["secrets", "rekey", "--remove", &mine]);
    let told = site.fails(&["secrets", "show"], 2);
    assert!(told.contains("does not open") && !told.contains(password.trim()), "{told}");
    fs::rename(site.path("colleague"), site.path("identity")).unwrap();
    assert_eq!(reveal("postgresql/superuser.password"), password);
    assert!(site.fails(&["secrets", "rekey", "--remove", &colleague], 2).contains("nobody would be left"));

    let mut damaged = fs::read(&file).unwrap();
    let at = damaged.len() - 40;
    damaged[at] ^= 1;
    fs::write(&file, damaged).unwrap();
    assert!(site.fails(&["secrets", "show"], 2).contains("was cut short"));
}

#[test]
fn each_row_of_the_table_is_made_for_those_who_know_it() {
    let secrets = secrets();
    for item in ITEMS {
        match item.scope {
            Scope::Site => assert!(secrets.site.contains_key(item.name), "{}", item.name),
            Scope::Node => {
                for node in &facts().nodes {
                    let has = secrets.nodes[&node.name].items.contains_key(item.name);
                    assert_eq!(has, item.known_by.contains(&node.kind), "{} of {}", item.name, node.name);
                }
            }
        }
    }
}
