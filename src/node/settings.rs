//! What a seed's settings say, as far as an image asks. Keys that it does not know are for others.
//!
//! In: JSON that the operator's castiron has written (`seed::Facts`). Out: [`Access`], [`Private`].

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::seal;

/// Who may log in, as the site says it of every node.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Access {
    /// The name under which.
    pub ssh_user: String,
    /// Keys that ssh lets in.
    pub authorized_keys: Vec<String>,
}

impl Default for Access {
    fn default() -> Self {
        Self { ssh_user: seal::USER.to_owned(), authorized_keys: Vec::new() }
    }
}

/// What the site says to a node alone.
#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Private {
    /// The hash of the password at the console.
    pub password_hash: Option<String>,
}

impl Private {
    /// Reads them. The error does not quote what it read, as serde's would.
    pub fn read(value: &Value) -> Result<Self> {
        read(value).ok().context("the seed's own settings of this node are none that this image knows")
    }
}

/// Reads settings; nothing said is what the type says by default.
pub fn read<T: DeserializeOwned + Default>(value: &Value) -> Result<T> {
    if value.is_null() {
        return Ok(T::default());
    }
    T::deserialize(value).map_err(anyhow::Error::from)
}
