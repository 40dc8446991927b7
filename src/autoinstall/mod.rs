//! `/autoinstall.yaml` of a medium: Ubuntu's format, as far as castiron carries it out.
//!
//! In: YAML of a user's, or castiron's own. Out: [`Autoinstall`], which travels in the medium's description; the node reads no
//! YAML. `docs/autoinstall.md` has the table of keys.
//!
//! - The site says what differs between machines, and who may log in; it is signed. What this file asks of those things (a
//!   name, a user, keys) is a *demand*: the site must say the same, or the installation stops before a disk is looked at.
//! - A key that is not carried out stops the build. Nothing is silently ignored.
//! - `noble.schema.json` is `autoinstall-schema.json` of canonical/subiquity, branch `ubuntu/noble`, commit 7639acf9.

#[cfg(feature = "builder")]
mod check;
#[cfg(feature = "builder")]
mod keys;
#[cfg(feature = "builder")]
mod yaml;

use serde::{Deserialize, Serialize};

#[cfg(feature = "builder")]
pub use check::parse;

/// The file on the medium.
pub const FILE: &str = "autoinstall.yaml";

/// What is carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Autoinstall {
    /// Run before the disk is written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub early_commands: Vec<Command>,
    /// Run when the disk is whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub late_commands: Vec<Command>,
    /// Run when the installation has stopped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub error_commands: Vec<Command>,
    /// What the site must say of the node, too.
    pub demands: Demands,
    /// Which disks may be written: alternatives, the first that agrees with a disk counts. Empty: the site alone says it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Match>,
    /// What follows; none: what the site says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<Shutdown>,
}

/// What the site must say, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Demands {
    /// The node's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Who logs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The hash of the password at the console.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Keys that ssh lets in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authorized_keys: Vec<String>,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Command {
    /// For `sh -c`.
    Shell(String),
    /// A program and its arguments.
    Words(Vec<String>),
}

/// A disk, by what udev says of it: patterns with `*`, `?` and `[…]`. Every key that is there must agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Match {
    /// `ID_SERIAL` or `ID_SERIAL_SHORT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// `ID_MODEL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `ID_VENDOR`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// The name in `/dev`, whole: `/dev/sd*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `ID_PATH`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_path: Option<String>,
    /// The device in `/sys`, without `/sys`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devpath: Option<String>,
    /// Whether it does not turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssd: Option<bool>,
    /// Of those that agree and can be written, which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Extreme>,
}

/// The one end or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extreme {
    /// The largest disk.
    Largest,
    /// The smallest disk.
    Smallest,
}

/// What follows an installation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shutdown {
    /// Start again.
    Reboot,
    /// Switch off: whoever takes the medium out finds it done.
    #[default]
    Poweroff,
}

/// A file, and what it says.
#[cfg(feature = "builder")]
#[derive(Clone, Debug)]
pub struct Given {
    /// The file's text.
    pub text: String,
    /// What it says.
    pub read: Autoinstall,
}

/// What a medium says that was built without a file of the user's.
#[cfg(feature = "builder")]
const DEFAULT: &str = include_str!("default.yaml");

#[cfg(feature = "builder")]
impl Given {
    /// A user's file; castiron's own where there is none.
    pub fn load(path: Option<&std::path::Path>) -> anyhow::Result<Self> {
        let (path, text) = match path {
            Some(path) => (path.display().to_string(), crate::fs::read_to_string(path)?),
            None => (FILE.to_owned(), DEFAULT.to_owned()),
        };
        let source = std::sync::Arc::new(crate::diagnostic::Source { path, text: text.clone() });
        Ok(Self { text, read: parse(&source)? })
    }
}
