//! The line of a site's signing keys: each signed by the one before it.

use anyhow::Result;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::refused;
use crate::region::{SiteId, hex};

/// What is signed begins so, that no signature of one kind can stand for another.
const KEY_DOMAIN: &[u8] = b"castiron key 1\n";

/// A signing key of the site, with the signature of the one before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyLink {
    /// The public key, 64 hexadecimal digits.
    pub key: String,
    /// The signature of the former key; none for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

impl KeyLink {
    /// The first key of a site.
    pub fn first(key: &SigningKey) -> Self {
        Self { key: digits(key.verifying_key().as_bytes()), signature: None }
    }

    /// The key that follows on `former`.
    pub fn next(former: &SigningKey, site: SiteId, key: &SigningKey) -> Self {
        let key = digits(key.verifying_key().as_bytes());
        let signature = former.sign(&link_bytes(site, &key));
        Self { key, signature: Some(digits(&signature.to_bytes())) }
    }
}

/// The site of a line of keys, and the last of them, when each is signed by the one before it.
pub(super) fn chain(keys: &[KeyLink]) -> Result<(SiteId, VerifyingKey)> {
    let public = |link: &KeyLink| {
        let bytes = hex::<32>(&link.key).and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
        bytes.ok_or_else(|| refused("one of its keys is no Ed25519 key"))
    };
    let (first, later) = keys.split_first().ok_or_else(|| refused("it names no key"))?;
    let mut key = public(first)?;
    let site = SiteId::of_key(key.as_bytes());
    for link in later {
        let signature = link.signature.as_deref().and_then(hex::<64>);
        let signature = signature.ok_or_else(|| refused("one of its keys is not signed by the one before it"))?;
        key.verify_strict(&link_bytes(site, &link.key), &Signature::from_bytes(&signature))
            .map_err(|_| refused("one of its keys is not signed by the one before it"))?;
        key = public(link)?;
    }
    Ok((site, key))
}

fn link_bytes(site: SiteId, key: &str) -> Vec<u8> {
    [KEY_DOMAIN, format!("{site} {key}").as_bytes()].concat()
}

pub(super) fn digits(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
