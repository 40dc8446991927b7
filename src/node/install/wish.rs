//! What the site and the medium want of one machine's installation.
//!
//! In: the seed, the medium's [`Autoinstall`]. Out: [`Wish`], or which demand of the medium the site does not meet.

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use super::select::Rule;
use crate::autoinstall::{Autoinstall, Demands, Match, Shutdown};
use crate::error::{Failure, Kind};
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
    pub after: After,
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

/// What to do afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum After {
    /// Switch off: whoever takes the medium out finds it done.
    #[default]
    Poweroff,
    /// Start again.
    Reboot,
}

/// What the site says of one node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct OfNode {
    disk: Rule,
    foreign_data: ForeignData,
}

/// What the site says of every node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct OfSite {
    after: After,
    user: Option<String>,
    authorized_keys: Vec<String>,
}

/// What the site says to this node alone.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Private {
    password_hash: Option<String>,
}

/// Who logs in where the site does not say.
const USER: &str = "ubuntu";

/// Reads what both say. An error tells every demand that is not met.
pub fn read(seed: &Seed, inventory: &Inventory, node: &InventoryNode, medium: &Autoinstall) -> Result<Wish> {
    let own: OfNode = settings(&node.settings, &node.name)?;
    let site: OfSite = settings(&inventory.settings, &inventory.cluster)?;
    let private: Private = settings(&seed.open(&node.name, None)?.settings, &node.name)?;
    let unmet = unmet(&medium.demands, node, &site, &private);
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
        after: match medium.shutdown {
            None => site.after,
            Some(Shutdown::Reboot) => After::Reboot,
            Some(Shutdown::Poweroff) => After::Poweroff,
        },
    })
}

fn unmet(demands: &Demands, node: &InventoryNode, site: &OfSite, private: &Private) -> Vec<String> {
    let mut unmet = Vec::new();
    if let Some(name) = demands.hostname.as_ref().filter(|name| **name != node.name) {
        unmet.push(format!("`identity.hostname` is `{name}`, and this machine is `{}`", node.name));
    }
    let user = site.user.as_deref().unwrap_or(USER);
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

fn settings<T: serde::de::DeserializeOwned + Default>(value: &Value, of: &str) -> Result<T> {
    if value.is_null() {
        return Ok(T::default());
    }
    serde_json::from_value(value.clone()).with_context(|| format!("reading what the seed says of `{of}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{Identity, NodeKind};

    #[test]
    fn every_demand_that_is_not_met_is_told() {
        let node = InventoryNode {
            name: "db1".to_owned(),
            role: "db".to_owned(),
            kind: NodeKind::Db,
            address: None,
            identity: Identity::default(),
            settings: Value::Null,
        };
        let site = OfSite { authorized_keys: vec!["ssh-ed25519 A me".to_owned()], ..OfSite::default() };
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
}
