//! What verbs that work with a site's secrets are told, and how they read it.

use std::path::{Path, PathBuf};

use age::x25519;
use anyhow::Result;
use clap::Args;

use crate::context::Context;
use crate::error::{Failure, Kind};
use crate::seal::Seed;
use crate::seed::secrets::{self, Secrets};
use crate::seed::{self, Facts};
use crate::site;

/// Where the site, its secrets and the operator's key are.
#[derive(Clone, Debug, Args)]
pub struct SiteArgs {
    /// The site file; its `secrets.age` lies beside it
    #[arg(long, value_name = "FILE", default_value = site::FILE)]
    pub site: PathBuf,
    /// Your age identity, which opens `secrets.age` [default: castiron/identity in the XDG config folder]
    #[arg(long, value_name = "FILE", env = "CASTIRON_IDENTITY")]
    pub identity: Option<PathBuf>,
}

impl SiteArgs {
    /// Where the secrets lie.
    pub fn secrets(&self) -> PathBuf {
        self.site.parent().unwrap_or(Path::new("")).join(secrets::FILE)
    }

    /// Where the operator's identity lies.
    pub fn identity(&self) -> Result<PathBuf> {
        self.identity.clone().map_or_else(secrets::default_identity, Ok)
    }

    /// The operator's identities.
    pub fn identities(&self) -> Result<Vec<x25519::Identity>> {
        let path = self.identity()?;
        if !path.exists() {
            let text = format!("there is no age identity `{}`", path.display());
            let hint = "name yours with `--identity FILE`; for a new site `castiron secrets new` makes one";
            return Err(Failure::new(Kind::Input, text).hint(hint).into());
        }
        secrets::identities(&path)
    }

    /// What the site file says.
    pub fn facts(&self, ctx: &Context) -> Result<Facts> {
        Facts::of(&site::load(ctx, &self.site)?.0)
    }

    /// The decrypted secrets.
    pub fn open(&self) -> Result<Secrets> {
        Secrets::load(&self.secrets(), &self.identities()?)
    }
}

/// Which nodes a seed is for.
#[derive(Clone, Debug, Args)]
pub struct Whom {
    /// A node that it is for; may be repeated
    #[arg(long, value_name = "NAME")]
    pub node: Vec<String>,
    /// A role whose nodes it is for; may be repeated
    #[arg(long, value_name = "ROLE")]
    pub role: Vec<String>,
}

impl Whom {
    /// The names of the nodes; all of the site where nothing is said.
    pub fn nodes<'a>(&self, facts: &'a Facts) -> Result<Vec<&'a str>> {
        let list = |names: Vec<&str>| names.into_iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        let mut roles: Vec<&str> = facts.nodes.iter().map(|node| node.role.as_str()).collect();
        roles.sort_unstable();
        roles.dedup();
        if let Some(wrong) = self.node.iter().find(|name| facts.nodes.iter().all(|node| node.name != **name)) {
            let names = list(facts.nodes.iter().map(|node| node.name.as_str()).collect());
            return Err(Failure::new(Kind::Input, format!("the site has no node `{wrong}`: it has {names}")).into());
        }
        if let Some(wrong) = self.role.iter().find(|role| !roles.contains(&role.as_str())) {
            let text = format!("the site has no node of the role `{wrong}`: it has {}", list(roles));
            return Err(Failure::new(Kind::Input, text).into());
        }
        let all = self.node.is_empty() && self.role.is_empty();
        let wanted = facts.nodes.iter().filter(|n| all || self.node.contains(&n.name) || self.role.contains(&n.role));
        Ok(wanted.map(|node| node.name.as_str()).collect())
    }

    /// The seed for these nodes; says so when it holds more than one machine should.
    pub fn seal(&self, ctx: &Context, facts: &Facts, secrets: &Secrets) -> Result<Seed> {
        let nodes = self.nodes(facts)?;
        let seed = seed::seal(facts, secrets, seed::serial(secrets))?.narrowed(&nodes)?;
        let kinds = |name: &str| facts.nodes.iter().find(|node| node.name == name).map(|node| node.kind);
        if nodes.iter().any(|name| kinds(name) != kinds(nodes[0])) {
            ctx.ui.note("it holds the keys of every kind of node: keep it as you keep the secrets themselves");
        }
        Ok(seed)
    }
}
