//! What of a seed GRUB reads: whose it is, and which machine is which node.
//!
//! In: a [`Seed`]. Out: `castiron.env`, a file for GRUB's `load_env` in the seed's volume, on the medium and on the installed
//! disk alike. The medium's grub.cfg compares both, and starts a disk of the same site instead of the installer.
//!
//! It is not signed: GRUB could not check it. Whoever can write it can write grub.cfg as well; what is installed, and as which
//! node, only [`Seed`] says.

use anyhow::Result;
use zeroize::Zeroizing;

use super::{InventoryNode, Seed};
use crate::grubenv;

/// The file in the volume.
pub const FILE: &str = "castiron.env";

/// The file for a seed. A seed for one node is a disk's, or for one machine alone.
pub fn file(seed: &Seed) -> Result<Zeroizing<Vec<u8>>> {
    let inventory = seed.inventory()?;
    let carried = seed.carried();
    let here = inventory.nodes.iter().filter(|node| carried.contains(&node.name.as_str()));
    let nodes: Vec<String> = here.filter_map(known).collect();
    let (site, nodes) = (seed.manifest().site.to_string(), nodes.join(" "));
    let mut variables =
        vec![("castiron_site", site.as_str()), ("castiron_cluster", &inventory.cluster), ("castiron_nodes", &nodes)];
    if let [node] = carried[..] {
        variables.push(("castiron_node", node));
    }
    grubenv::file(&variables).map(Zeroizing::new)
}

/// `key/name/role` of a machine that SMBIOS tells; one that is known by a network card GRUB can not tell.
fn known(node: &InventoryNode) -> Option<String> {
    let key = node.identity.uuid.as_ref().or(node.identity.serial.as_ref())?;
    // What GRUB's script would part or expand is left out: the menu then says less, and nothing else changes.
    let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c));
    plain.then(|| format!("{key}/{}/{}", node.name, node.role))
}
