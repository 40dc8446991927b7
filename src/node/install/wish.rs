//! What the site and the medium want of one machine's installation.
//!
//! In: the seed, the medium's [`Autoinstall`]. Out: [`Wish`], or which demand of the medium the site does not meet.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::select::Rule;
use crate::autoinstall::{Autoinstall, Demands, Match, Shutdown};
use crate::error::{Failure, Kind};
use crate::node::settings::{self, Access, Private};
use crate::seal::{Inventory, InventoryNode, Seed};

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Which disk, by the site.
    pub disk: Rule,
    /// Which disk, by the medium.
    pub alternatives: Vec<Match>,
    /// What to do with somebody else's data.
    pub foreign_data: ForeignData,
    /// What to do afterwards.
    pub after: Shutdown,
}

/// What to do with somebody else's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForeignData {
    /// Stop, and say what there is.
    #[default]
    Stop,
    /// Write over it.
    Wipe,
}

/// What the site says of one node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct OfNode {
    disk: Rule,
    foreign_data: ForeignData,
}

/// What the site says of every node, besides [`Access`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct OfSite {
    after: Shutdown,
}

/// Reads what both say. An error tells every demand that is not met.
pub fn read(seed: &Seed, inventory: &Inventory, node: &InventoryNode, medium: &Autoinstall) -> Result<Wish> {
    let reading = |of: &str| format!("reading what the seed says of `{of}`");
    let own: OfNode = settings::read(&node.settings).with_context(|| reading(&node.name))?;
    let of_cluster = || reading(&inventory.cluster);
    let site: OfSite = settings::read(&inventory.settings).with_context(of_cluster)?;
    let access: Access = settings::read(&inventory.settings).with_context(of_cluster)?;
    let private = Private::read(&seed.open(&node.name, None)?.settings).with_context(|| reading(&node.name))?;
    let unmet = unmet(&medium.demands, node, &access, &private);
    if !unmet.is_empty() {
        let text = format!("the medium's autoinstall asks for what the site does not say: {}", unmet.join("; "));
        return Err(Failure::new(Kind::Input, text)
            .hint("say it in site.toml and stamp again, or build the medium with another `--autoinstall FILE`")
            .into());
    }
    Ok(Wish {
        disk: own.disk,
        alternatives: medium.disks.clone(),
        foreign_data: own.foreign_data,
        after: medium.shutdown.unwrap_or(site.after),
    })
}

fn unmet(demands: &Demands, node: &InventoryNode, site: &Access, private: &Private) -> Vec<String> {
    let mut unmet = Vec::new();
    if let Some(name) = demands.hostname.as_ref().filter(|name| **name != node.name) {
        unmet.push(format!("`identity.hostname` is `{name}`, and this machine is `{}`", node.name));
    }
    let user = &site.ssh_user;
    if let Some(name) = demands.username.as_ref().filter(|name| *name != user) {
        unmet.push(format!("`identity.username` is `{name}`, and the site's user is `{user}`"));
    }
    if demands.password.is_some() && demands.password != private.password_hash {
        unmet.push("`identity.password` is not the `password-hash` of the site's `[console]`".to_owned());
    }
    for key in demands.authorized_keys.iter().filter(|key| !site.authorized_keys.iter().any(|own| own.trim() == **key))
    {
        unmet.push(format!("`ssh.authorized-keys` has `{key}`, which the site's `[ssh]` has not"));
    }
    unmet
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::seal::{Identity, NodeKind};

    fn node() -> InventoryNode {
        InventoryNode {
            name: "db1".to_owned(),
            role: "db".to_owned(),
            kind: NodeKind::Db,
            address: None,
            identity: Identity::default(),
            settings: Value::Null,
        }
    }

    #[test]
    fn every_demand_that_is_not_met_is_told() {
        let node = node();
        let site = Access { authorized_keys: vec!["ssh-ed25519 A me".to_owned()], ..Access::default() };
        let private = Private { password_hash: Some("$y$1".to_owned()) };
        let mut demands = Demands {
            hostname: Some("db1".to_owned()),
            username: Some("ubuntu".to_owned()),
            password: Some("$y$1".to_owned()),
            authorized_keys: vec!["ssh-ed25519 A me".to_owned()],
        };
        assert_eq!(unmet(&demands, &node, &site, &private), Vec::<String>::new());
        demands.hostname = Some("db2".to_owned());
        demands.username = Some("root".to_owned());
        demands.password = Some("$y$2".to_owned());
        demands.authorized_keys.push("ssh-ed25519 B you".to_owned());
        insta::assert_snapshot!(unmet(&demands, &node, &site, &private).join("\n"));
    }

    #[test]
    fn the_user_is_the_one_of_the_site() {
        let site: Access = settings::read(&json!({"ssh-user": "ops", "after": "reboot"})).expect("reads");
        let node = node();
        let asks = |user: &str| Demands { username: Some(user.to_owned()), ..Demands::default() };
        assert_eq!(unmet(&asks("ops"), &node, &site, &Private::default()), Vec::<String>::new());
        assert_eq!(unmet(&asks("ubuntu"), &node, &site, &Private::default()).len(), 1);
    }
}
