//! `castiron-node config` on machines made of folders: what a boot makes of a seed, and which seeds it refuses.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod seeding;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::{Command, Output};

use castiron::region;
use castiron::seal::Seed;
use seeding::{Site, site};
use serde_json::Value;

const DB1: &str = "00:00:5e:00:53:41";

/// A machine of the role `db` with one card, below a temporary folder.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        machine.file("/usr/lib/castiron/image.json", r#"{"role": "db", "version": "1", "debug-shell": false}"#);
        machine.file("/sys/class/net/eth0/address", DB1);
        machine.file("/sys/class/net/eth0/device/vendor", "0x1af4");
        machine.file("/sys/class/block/.keep", "");
        machine.file("/proc/1/mountinfo", "30 22 254:8 / /var rw - ext4 /dev/vda8 rw\n");
        machine.file("/proc/sys/kernel/hostname", "");
        machine.file("/proc/cmdline", "castiron.slot=a\n");
        machine.file("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n");
        machine.file("/dev/kmsg", "");
        for tool in ["systemctl", "udevadm"] {
            machine.program(&format!("/bin/{tool}"), &format!("echo {tool} \"$@\" >> \"${{0%/*}}/ran\""));
        }
        // As the real one: complains, or leaves files below the folder that it was given.
        machine.program(
            "/usr/libexec/netplan/generate",
            "cd \"$2\" && ! grep -q 'no netplan' etc/netplan/castiron.yaml || { echo 'castiron.yaml:3:5: Error' >&2; exit 1; }\n\
             mkdir -p run/systemd/network run/systemd/system run/udev/rules.d && touch run/systemd/system/x.service\n\
             cp etc/netplan/castiron.yaml run/systemd/network/10-netplan-nic0.network\n\
             touch run/systemd/network/10-netplan-nic0.link run/udev/rules.d/99-netplan-nic0.rules run/udev/rules.d/90-netplan.rules",
        );
        machine
    }

    fn path(&self, absolute: &str) -> PathBuf {
        self.folder.path().join(absolute.trim_start_matches('/'))
    }

    fn file(&self, absolute: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(absolute).parent().unwrap()).unwrap();
        fs::write(self.path(absolute), content).unwrap();
    }

    fn program(&self, absolute: &str, script: &str) {
        self.file(absolute, format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(self.path(absolute), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn text(&self, absolute: &str) -> String {
        fs::read_to_string(self.path(absolute)).unwrap_or_else(|error| panic!("{absolute}: {error}"))
    }

    fn mode(&self, absolute: &str) -> u32 {
        self.path(absolute).metadata().unwrap().permissions().mode() & 0o777
    }

    /// The disk's own region, with what is stamped into the carrier `stamped`.
    fn region(&self, bytes: &[u8]) {
        let disk = "/sys/devices/pci0000:00/virtio1/block/vda";
        for (part, name) in [("vda7", "CIDATA"), ("vda8", "var")] {
            self.file(&format!("{disk}/{part}/partition"), "7");
            self.file(&format!("{disk}/{part}/uevent"), format!("DEVNAME={part}\nPARTN=7\nPARTNAME={name}\n"));
        }
        fs::create_dir_all(self.path("/sys/dev/block")).unwrap();
        symlink("../../devices/pci0000:00/virtio1/block/vda/vda8", self.path("/sys/dev/block/254:8")).unwrap();
        self.file("/dev/vda7", bytes);
    }

    /// A boot; `credential` is what systemd hands over.
    fn boot(&self, credential: Option<&[u8]>) -> Output {
        let _ = fs::remove_dir_all(self.path("/run"));
        if let Some(seed) = credential {
            self.file("/run/credentials/@system/castiron.seed", seed);
        }
        let output = self.command(&["config"]).output().unwrap();
        if self.path("/run/castiron/waiting").exists() {
            assert!(output.status.success() && !self.path("/run/castiron/node.json").exists());
            return self.command(&["config", "--cards"]).output().unwrap();
        }
        output
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_castiron-node"));
        command.arg("--root").arg(self.folder.path()).args(args);
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path("/bin").display()));
        command
    }

    fn becomes(&self, credential: Option<&[u8]>) -> Value {
        let output = self.boot(credential);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&self.text("/run/castiron/node.json")).unwrap()
    }

    /// A boot whose unit fails; what it says, which is also on the consoles and for `status`.
    fn refuses(&self, credential: Option<&[u8]>) -> String {
        let output = self.boot(credential);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let outcome: Value = serde_json::from_str(&self.text("/run/castiron/node.json")).unwrap();
        let problem = outcome["problems"][0].as_str().unwrap().to_owned();
        assert!(text.contains(&problem), "{text}");
        let first = problem.lines().next().unwrap();
        assert!(self.text("/dev/kmsg").contains(first), "the console says nothing of {first}");
        problem
    }
}

fn seed(site: &Site, node: &str) -> Vec<u8> {
    let path = site.path("out.seed");
    site.run(&["seed", "--node", node, "--format", "credential", "--output", path.to_str().unwrap()]);
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(path).unwrap();
    bytes
}

/// The same seed under another serial number.
fn with_serial(site: &Site, nodes: &[&str], serial: u64) -> Vec<u8> {
    let identities = castiron::seed::secrets::identities(&site.path("identity")).unwrap();
    let secrets = castiron::seed::Secrets::load(&site.path("secrets.age"), &identities).unwrap();
    let roles = ["control-plane", "worker", "gpu-worker", "db"].map(|role| (role.to_owned(), vec![role.to_owned()]));
    let bytes = fs::read(site.path("site.toml")).unwrap();
    let (site, _) = castiron::site::read("site.toml", &bytes, &roles.into_iter().collect()).unwrap();
    let facts = castiron::seed::Facts::of(&site).unwrap();
    castiron::seed::seal(&facts, &secrets, serial).unwrap().narrowed(nodes).unwrap().to_bytes().to_vec()
}

fn stamped(payload_seed: &[u8]) -> Vec<u8> {
    let files = castiron::cidata::Files::from([("castiron.seed".to_owned(), payload_seed.to_vec().into())]);
    let mut bytes = region::unstamped(1 << 20);
    let room = bytes.len() - region::HEADER;
    let volume = castiron::cidata::make(&files, room).unwrap();
    let held = Seed::parse(payload_seed).unwrap().held();
    let stamp = region::Stamp {
        length: volume.len() as u64,
        sha256: castiron::digest::Sha256::of(&volume[..]),
        site: held.site,
        serial: held.serial,
        time: 0,
    };
    bytes[..volume.len()].copy_from_slice(&volume);
    bytes[room..].copy_from_slice(&region::Header { room: room as u64, stamp: Some(stamp) }.to_bytes());
    bytes
}

fn site_with(edits: &[(&str, &str)]) -> Site {
    let site = site();
    let mut text = fs::read_to_string(site.path("site.toml")).unwrap();
    for (from, to) in edits {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    fs::write(site.path("site.toml"), text).unwrap();
    site
}

#[test]
fn a_machine_becomes_the_node_that_its_disk_names() {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPU0GN3ZlvP3nTEeVLT4dX6P9yHvmSRjkZ4UQZSXt7G4 you@example.com";
    let hash =
        "$6$saltsaltsaltsalt$xiXPbTOQT9dJH3FsOl91Y6mmvLGVzpAEDhMeaMEHmUuDL7n9AbhwJv3xIfgDDzY2MXcBl8wXBCmgO/QiVSTjh1";
    let site = site_with(&[
        ("authorized-keys = []", &format!("authorized-keys = [\"{key}\"]")),
        ("# password-hash = \"…\"", &format!("password-hash = \"{hash}\"")),
    ]);
    let machine = Machine::new();
    machine.region(&stamped(&seed(&site, "db1")));
    let outcome = machine.becomes(None);
    assert_eq!(outcome["problems"], Value::Array(Vec::new()));
    assert_eq!((&outcome["node"]["name"], &outcome["node"]["role"]), (&"db1".into(), &"db".into()));
    assert_eq!(outcome["node"]["source"], "the disk's own region `/dev/vda7`");

    assert_eq!(machine.text("/proc/sys/kernel/hostname"), "db1");
    assert_eq!(machine.text("/run/castiron/hostname"), "db1\n");
    assert_eq!(machine.text("/run/castiron/ssh/authorized_keys/ubuntu"), format!("{key}\n"));
    insta::assert_snapshot!("hosts", machine.text("/run/castiron/hosts"));
    insta::assert_snapshot!("timesyncd", machine.text("/run/systemd/timesyncd.conf.d/10-castiron.conf"));
    insta::assert_snapshot!("user", machine.text("/run/userdb/1000.user"));
    insta::assert_snapshot!("tmpfiles", machine.text("/run/tmpfiles.d/castiron.conf"));
    assert_eq!(machine.text("/run/userdb/ubuntu.group"), machine.text("/run/userdb/1000.group"));
    assert!(machine.path("/run/userdb/ubuntu:sudo.membership").exists());
    assert!(machine.text("/run/userdb/ubuntu.user-privileged").contains(hash));

    // networkd and udev get what is theirs, and udev has not run yet.
    insta::assert_snapshot!("network", machine.text("/run/systemd/network/10-netplan-nic0.network"));
    assert!(machine.path("/run/udev/rules.d/99-netplan-nic0.rules").exists());
    assert!(
        !machine.path("/run/udev/rules.d/90-netplan.rules").exists() && !machine.path("/run/systemd/system").exists()
    );
    assert!(!machine.path("/bin/ran").exists());

    // Secrets are for root alone, and only this node's own are kept.
    for private in [
        "/run/castiron/ssh/ssh_host_ed25519_key",
        "/run/userdb/ubuntu.user-privileged",
        "/var/lib/castiron/castiron.seed",
    ] {
        assert_eq!(machine.mode(private), 0o600, "{private}");
    }
    let kept = Seed::parse(&fs::read(machine.path("/var/lib/castiron/castiron.seed")).unwrap()).unwrap();
    assert_eq!(kept.carried(), ["db1"]);
    assert!(!machine.text("/run/castiron/node.json").contains(hash));
}

#[test]
fn a_template_for_a_role_leaves_the_machine_only_its_own_part() {
    let site = site();
    let machine = Machine::new();
    machine.region(&stamped(&with_serial(&site, &["db1", "db2", "db3"], 1)));
    machine.becomes(None);
    let kept = Seed::parse(&fs::read(machine.path("/var/lib/castiron/castiron.seed")).unwrap()).unwrap();
    assert_eq!(kept.carried(), ["db1"]);
}

#[test]
fn without_a_seed_a_machine_is_nobody_and_well() {
    let machine = Machine::new();
    machine.region(&region::unstamped(1 << 20));
    let outcome = machine.becomes(None);
    assert_eq!((&outcome["node"], &outcome["problems"]), (&Value::Null, &Value::Array(Vec::new())));
    assert!(machine.text("/run/castiron/hosts").starts_with("127.0.0.1 localhost\n"));
    assert!(!machine.path("/run/castiron/ssh").exists() && !machine.path("/run/systemd/network").exists());
}

#[test]
fn a_seed_that_comes_late_is_kept_and_the_machine_starts_again() {
    let site = site();
    let machine = Machine::new();
    machine.becomes(None);
    assert!(machine.path("/run/castiron/nobody").exists());
    // As the volume would bring it; a test can mount none.
    machine.file("/run/credentials/@system/castiron.seed", seed(&site, "db1"));
    assert!(machine.command(&["config", "--late"]).status().unwrap().success());
    assert!(machine.text("/dev/kmsg").contains("has the seed of `db1`: starting again"));
    assert!(machine.text("/bin/ran").contains("systemctl --no-block reboot"));
    assert_eq!(machine.becomes(None)["node"]["name"], "db1");
    assert!(!machine.path("/run/castiron/nobody").exists());
}

#[test]
fn a_card_that_comes_late_is_waited_for_and_shown_to_udev_again() {
    let site = site();
    let machine = Machine::new();
    machine.file("/sys/class/net/eth0/address", "");
    // udev loads its driver.
    machine.program(
        "/bin/udevadm",
        &format!("here=${{0%/*}}; echo $* >> $here/ran; echo {DB1} > $here/../sys/class/net/eth0/address"),
    );
    assert_eq!(machine.becomes(Some(&seed(&site, "db1")))["node"]["name"], "db1");
    let ran = machine.text("/bin/ran");
    assert_eq!(ran, "settle --timeout=30\ncontrol --reload\ntrigger --action=add --subsystem-match=net --settle\n");
}

#[test]
fn the_newest_seed_counts_wherever_it_is_and_is_kept() {
    let site = site();
    let machine = Machine::new();
    machine.region(&stamped(&with_serial(&site, &["db1"], 10)));
    assert_eq!(machine.becomes(None)["node"]["serial"], 10);
    let outcome = machine.becomes(Some(&with_serial(&site, &["db1"], 12)));
    assert_eq!(
        (&outcome["node"]["serial"], &outcome["node"]["source"]),
        (&12.into(), &"the credential `castiron.seed`".into())
    );
    // What brought it is gone; the disk's region is only older, which is no problem.
    let outcome = machine.becomes(None);
    assert_eq!((&outcome["node"]["serial"], &outcome["problems"]), (&12.into(), &Value::Array(Vec::new())));
}

#[test]
fn a_seed_is_refused_with_its_place_and_the_reason() {
    let (site, other) = (site(), site());
    let db1 = seed(&site, "db1");
    let mut altered = db1.clone();
    *altered.last_mut().unwrap() ^= 1;
    let text = Machine::new().refuses(Some(&altered));
    assert!(text.starts_with("the credential `castiron.seed`: this seed is refused: its part"), "{text}");

    let text = Machine::new().refuses(Some(&seed(&site, "db2")));
    assert!(text.contains("it carries no part `node/db1`"), "{text}");

    let machine = Machine::new();
    machine.file("/sys/class/net/eth0/address", "00:00:5e:00:53:99");
    let text = machine.refuses(Some(&db1));
    assert!(
        text.contains("no node of the cluster `demo` is this machine") && text.contains("00:00:5e:00:53:99"),
        "{text}"
    );

    let machine = Machine::new();
    machine.file("/usr/lib/castiron/image.json", r#"{"role": "worker", "version": "1", "debug-shell": false}"#);
    let text = machine.refuses(Some(&db1));
    assert!(text.contains("`db1`, whose role is `db`, but its image is of the role `worker`"), "{text}");

    let machine = Machine::new();
    machine.region(&[7; 8192]);
    let text = machine.refuses(None);
    assert!(text.starts_with("the disk's own region `/dev/vda7`: reading the seed's region"), "{text}");

    // Bound to a site, a machine keeps to it; the node stays what it is and is not well.
    let machine = Machine::new();
    machine.becomes(Some(&db1));
    let outcome = machine.becomes(Some(&seed(&other, "db1")));
    assert_eq!(outcome["node"]["name"], "db1");
    let problem = outcome["problems"][0].as_str().unwrap();
    assert!(problem.contains("and this machine belongs to") && problem.contains("install it anew"), "{problem}");
}

#[test]
fn what_can_not_be_carried_out_leaves_the_rest_done() {
    let site = site_with(&[("# user = \"ubuntu\"", "user = \"postgres\" # no netplan\n#")]);
    let machine = Machine::new();
    machine.file("/etc/passwd", "postgres:x:101:101::/var/lib/postgresql:/bin/false\n");
    machine
        .program("/usr/libexec/netplan/generate", "echo 'castiron.yaml:3:5: Error in network definition' >&2; exit 1");
    let text = machine.refuses(Some(&seed(&site, "db1")));
    assert!(text.contains("`postgres` is an account of the image"), "{text}");
    assert!(machine.text("/run/castiron/node.json").contains("castiron.yaml:3:5: Error in network definition"));
    assert_eq!(machine.text("/run/castiron/hostname"), "db1\n");
}

#[test]
fn the_login_prompt_says_who_the_machine_is() {
    let site = site();
    let machine = Machine::new();
    let banner = |machine: &Machine| {
        assert!(machine.command(&["banner"]).status().unwrap().success());
        machine.text("/run/castiron/issue")
    };
    machine.becomes(None);
    insta::assert_snapshot!("issue of nobody", banner(&machine));
    machine.becomes(Some(&seed(&site, "db1")));
    insta::assert_snapshot!("issue of a node", banner(&machine));
}
