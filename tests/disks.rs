//! What castiron-node makes of a machine's disks: trees of sysfs and udev's records in `fixtures/disks/`, and what is told of them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use castiron::node::install::disks::{self, Disk};
use castiron::node::install::select::{Rule, select};
use castiron::node::machine::Machine;

const IMAGE: u64 = 4 << 30;

/// A machine of a `.tree`: below `== PATH` stand the lines of a file.
fn machine(name: &str) -> (tempfile::TempDir, Machine) {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::new(folder.path());
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/disks").join(name);
    for file in fs::read_to_string(tree).unwrap().split("\n== ").skip(1) {
        let (path, content) = file.split_once('\n').unwrap();
        fs::create_dir_all(machine.path(path).parent().unwrap()).unwrap();
        fs::write(machine.path(path), content).unwrap();
    }
    // sysfs has it for each disk, and lists those that the tree does not say used by nobody.
    for disk in fs::read_dir(machine.path("/sys/block")).unwrap().map(|e| e.unwrap().path()) {
        fs::create_dir_all(disk.join("holders")).unwrap();
    }
    (folder, machine)
}

/// The disks of a machine, and whether each is taken where the site names it by its serial number.
fn told(machine: &Machine) -> String {
    let disks = disks::list(machine).unwrap();
    let mut text = String::new();
    for disk in &disks {
        let rule = Rule { serial: disk.serial.clone(), ..Rule::default() };
        let taken = match select(&disks, &rule, &[], IMAGE) {
            Ok(taken) => {
                assert_eq!(taken, disk);
                "taken".to_owned()
            }
            Err(error) => error.to_string().lines().next().unwrap().to_owned(),
        };
        let data = disk.data();
        let _ = writeln!(
            text,
            "{disk:#?}\n=> {taken}\n=> on it: {}\n",
            if data.is_empty() { "nothing".into() } else { data.join("; ") }
        );
    }
    text
}

fn by(rule: Rule, disks: &[Disk]) -> Result<&str, String> {
    select(disks, &rule, &[], IMAGE).map(|disk| disk.name.as_str()).map_err(|error| error.to_string())
}

#[test]
fn a_disk_of_each_kind() {
    let (_folder, machine) = machine("server.tree");
    insta::assert_snapshot!(told(&machine));
    // A volume with a seed is found; the region of the medium itself is none.
    assert_eq!(disks::labelled(&with_class(&machine), "CIDATA").unwrap(), ["sdd"]);
}

#[test]
fn parts_of_something_are_left_alone() {
    let (_folder, machine) = machine("used.tree");
    insta::assert_snapshot!(told(&machine));
}

#[test]
fn every_way_to_name_a_disk() {
    let (_folder, machine) = machine("server.tree");
    let disks = disks::list(&machine).unwrap();
    let text = |text: &str| Some(text.to_owned());
    // What is printed on a SAS disk, and what `lsblk` says; its WWN is another thing.
    assert_eq!(by(Rule { serial: text("W0M0ABCD"), ..Rule::default() }, &disks), Ok("sdb"));
    assert_eq!(by(Rule { wwn: text("5000C500A1B2C3D7"), ..Rule::default() }, &disks), Ok("sdb"));
    assert_eq!(by(Rule { by_path: text("pci-0000:00:17.0-ata-1"), ..Rule::default() }, &disks), Ok("sda"));
    assert_eq!(by(Rule { model: text("Samsung SSD 870 EVO 500GB"), ..Rule::default() }, &disks), Ok("sda"));
    assert_eq!(
        by(Rule { wwn: text("eui.36344730546008010025384500000001"), ..Rule::default() }, &disks),
        Ok("nvme0n1")
    );
    assert_eq!(by(Rule { serial: text("DISK-A"), ..Rule::default() }, &disks), Ok("vda"));
    let several = by(Rule { min_size: Some(400 << 30), max_size: Some(600 << 30), ..Rule::default() }, &disks);
    assert!(several.unwrap_err().starts_with("2 disks agree with the site's rule: sda, sdb"));
}

/// The same with `/sys/class/block`, where disks and partitions are side by side.
fn with_class(machine: &Machine) -> Machine {
    let class = machine.path("/sys/class/block");
    fs::create_dir_all(&class).unwrap();
    for disk in fs::read_dir(machine.path("/sys/block")).unwrap().map(|e| e.unwrap().path()) {
        let parts =
            fs::read_dir(&disk).unwrap().map(|e| e.unwrap().path()).filter(|path| path.join("partition").exists());
        for path in parts.chain([disk.clone()]) {
            std::os::unix::fs::symlink(&path, class.join(path.file_name().unwrap())).unwrap();
        }
    }
    machine.clone()
}
