//! The archive's key: whose signature makes an index believable.
//!
//! In: a keyring file, the fingerprint that a profile pins. Out: the signed text of an `InRelease`. Runs: nothing; OpenPGP by
//! the `pgp` crate.
//!
//! The pinned fingerprint is what is trusted. The keyring only carries the key, so it may come from anywhere.

use anyhow::{Context as _, Result};
use pgp::composed::{CleartextSignedMessage, Deserializable as _, SignedPublicKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::types::KeyDetails as _;

use crate::error::{Failure, Kind};

/// A public key whose fingerprint is the pinned one.
#[derive(Clone, Debug)]
pub struct Key {
    key: SignedPublicKey,
    keyring: Vec<u8>,
}

impl Key {
    /// The key with this fingerprint out of a keyring (binary, as in package ubuntu-keyring).
    pub fn find(keyring: &[u8], fingerprint: &str) -> Result<Self> {
        let mut found = Vec::new();
        for key in SignedPublicKey::from_bytes_many(keyring).context("reading the keyring")? {
            let key = key.context("reading a key of the keyring")?;
            let its = format!("{:X}", key.fingerprint());
            if its.eq_ignore_ascii_case(fingerprint) {
                return Ok(Self { key, keyring: keyring.to_owned() });
            }
            found.push(format!("`{its}`"));
        }
        let message = format!(
            "the archive's keyring has no key with the pinned fingerprint `{fingerprint}`: its keys are {}",
            if found.is_empty() { "none".into() } else { found.join(", ") }
        );
        Err(Failure::new(Kind::Integrity, message)
            .hint("compare `key` in `[archive]` with what Ubuntu publishes")
            .into())
    }

    /// The text that this key signed, of a clear-signed message; the error says what is wrong with it.
    pub fn signed_text(&self, message: &str) -> Result<String, String> {
        let (message, _) = CleartextSignedMessage::from_string(message)
            .map_err(|e| format!("it is no OpenPGP clear-signed message: {e}"))?;
        let signature = message
            .verify(&self.key)
            .map_err(|_| format!("it carries no good signature by the key {:X}", self.key.fingerprint()))?;
        match signature.hash_alg() {
            Some(HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512) => {
                // Signatures are made over CRLF lines; nobody else wants them.
                Ok(message.signed_text().replace("\r\n", "\n"))
            }
            other => Err(format!("its signature uses a hash that is not accepted: {other:?}")),
        }
    }

    /// The keyring that it was found in, for apt's own verification.
    pub fn keyring(&self) -> &[u8] {
        &self.keyring
    }
}
