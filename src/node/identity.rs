//! Which node of the site this machine is.
//!
//! In: SMBIOS and the network cards, a site's inventory. Out: the one node whose every key agrees. Two, or none, are an error
//! that says what the machine has, in the form in which site.toml takes it.
//!
//! Sources: `/sys/class/dmi/id` (linux 6.8, drivers/firmware/dmi-id.c), `/sys/class/net/*/address`.

use std::fmt::Write as _;

use anyhow::Result;

use crate::error::{Failure, Kind};
use crate::fs;
use crate::node::machine::Machine;
use crate::node::tool;
use crate::seal::{Identity, Inventory, InventoryNode};

/// What a machine is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The SMBIOS serial number.
    pub serial: Option<String>,
    /// The SMBIOS UUID, in small letters.
    pub uuid: Option<String>,
    /// The MAC addresses of its cards, in small letters, sorted.
    pub macs: Vec<String>,
}

/// What vendors leave in SMBIOS where they set nothing (carriers.md, §5.3).
const PLACEHOLDERS: [&str; 8] = [
    "to be filled by o.e.m.",
    "default string",
    "none",
    "not specified",
    "system serial number",
    "0123456789",
    "0",
    "n/a",
];

/// Waits until udev has found the drivers of all that the machine has, for so many seconds at most; then what there is must do.
/// A card without a driver has no address yet, and two nodes that this machine could be would look like one (seen).
pub fn settle(seconds: u32) -> Result<()> {
    tool::run(&["udevadm", "settle", &format!("--timeout={seconds}")]).map(drop)
}

impl Marks {
    /// Reads them.
    pub fn read(machine: &Machine) -> Self {
        let dmi = |name: &str| machine.read(format!("/sys/class/dmi/id/{name}")).ok().filter(|text| !text.is_empty());
        let real = |text: &String| !PLACEHOLDERS.contains(&text.to_lowercase().as_str());
        let cards = fs::list(&machine.path("/sys/class/net")).unwrap_or_default();
        // A bond, a bridge or a loopback has no device of its own.
        let cards = cards.iter().filter(|card| card.join("device").exists());
        let mut macs: Vec<String> = cards
            .filter_map(|card| fs::read_to_string(&card.join("address")).ok())
            .map(|address| address.trim().to_lowercase())
            .filter(|address| !address.is_empty() && address != "00:00:00:00:00:00")
            .collect();
        macs.sort();
        macs.dedup();
        let uuid = dmi("product_uuid").map(|uuid| uuid.to_lowercase());
        Self {
            serial: dmi("product_serial").filter(real),
            uuid: uuid.filter(|uuid| uuid.chars().any(|c| !"0f-".contains(c))),
            macs,
        }
    }

    fn agrees(&self, wanted: &Identity) -> bool {
        let same = |wanted: &Option<String>, found: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| found.as_ref().is_some_and(|found| found.eq_ignore_ascii_case(wanted)))
        };
        let mac = wanted.mac.as_ref().is_none_or(|mac| self.macs.iter().any(|found| found.eq_ignore_ascii_case(mac)));
        let says_something = wanted.serial.is_some() || wanted.uuid.is_some() || wanted.mac.is_some();
        says_something && same(&wanted.serial, &self.serial) && same(&wanted.uuid, &self.uuid) && mac
    }

    /// For site.toml: one of these lines in the node's table.
    pub fn for_site(&self) -> String {
        let mut text = String::new();
        let one =
            self.serial.iter().map(|serial| ("serial", serial)).chain(self.uuid.iter().map(|uuid| ("uuid", uuid)));
        for (key, value) in one.chain(self.macs.iter().map(|mac| ("mac", mac))) {
            let _ = writeln!(text, "match = {{ {key} = {value:?} }}");
        }
        if text.is_empty() {
            text.push_str("# this machine has neither serial number, UUID nor network card\n");
        }
        text.trim_end().to_owned()
    }
}

/// The node that this machine is.
pub fn find<'a>(marks: &Marks, inventory: &'a Inventory) -> Result<&'a InventoryNode> {
    let nodes: Vec<&InventoryNode> = inventory.nodes.iter().filter(|node| marks.agrees(&node.identity)).collect();
    let why = match nodes.as_slice() {
        [node] => return Ok(node),
        [] => format!("no node of the cluster `{}` is this machine", inventory.cluster),
        several => {
            let names: Vec<String> = several.iter().map(|node| format!("`{}`", node.name)).collect();
            format!(
                "this machine could be {} nodes of the cluster `{}`: {}",
                names.len(),
                inventory.cluster,
                names.join(", ")
            )
        }
    };
    Err(Failure::new(Kind::Input, format!("{why}; it has\n{}", marks.for_site()))
        .hint("give exactly one node of site.toml one of these lines, and stamp the medium again or attach a new seed")
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::NodeKind;

    fn node(name: &str, identity: Identity) -> InventoryNode {
        let role = "worker".to_owned();
        InventoryNode {
            name: name.into(),
            role,
            kind: NodeKind::Worker,
            address: None,
            identity,
            settings: serde_json::Value::Null,
        }
    }

    fn inventory(nodes: Vec<InventoryNode>) -> Inventory {
        Inventory {
            cluster: "lab".into(),
            domain: "example".into(),
            vip: None,
            nodes,
            settings: serde_json::Value::Null,
        }
    }

    fn marks() -> Marks {
        Marks {
            serial: Some("ABC1234".into()),
            uuid: Some("4c4c4544-0042".into()),
            macs: vec!["02:00:00:00:00:01".into()],
        }
    }

    #[test]
    fn by_serial_uuid_or_mac_and_all_keys_must_agree() {
        let serial = |text: &str| Identity { serial: Some(text.into()), ..Identity::default() };
        let uuid = Identity { uuid: Some("4C4C4544-0042".into()), ..Identity::default() };
        let mac = Identity { mac: Some("02:00:00:00:00:01".into()), ..Identity::default() };
        for identity in [serial("abc1234"), uuid.clone(), mac] {
            let inventory = inventory(vec![node("other", serial("X")), node("this", identity)]);
            assert_eq!(find(&marks(), &inventory).expect("is one").name, "this");
        }
        let both = Identity { serial: Some("X".into()), ..uuid };
        assert!(find(&marks(), &inventory(vec![node("half", both), node("nothing", Identity::default())])).is_err());
    }

    #[test]
    fn two_or_none_say_what_the_machine_has() {
        let same = || Identity { serial: Some("ABC1234".into()), ..Identity::default() };
        let two = inventory(vec![node("a", same()), node("b", same())]);
        insta::assert_snapshot!(format!("{:#}", find(&marks(), &two).expect_err("is refused")));
        insta::assert_snapshot!(format!("{:#}", find(&marks(), &inventory(Vec::new())).expect_err("is refused")));
    }
}
