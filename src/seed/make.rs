//! Making secrets: keys, certificates, passwords, tokens. Randomness comes from the kernel.
//!
//! Keys of CAs and certificates are ECDSA P-256 in PKCS #8, which kubeadm, etcd and PostgreSQL read.

use std::net::IpAddr;

use anyhow::{Context as _, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{LineEnding, PrivateKey};
use zeroize::Zeroizing;

use crate::seal::Secret;

/// Nothing of castiron's renews them on a node, and a machine may lie in a box for years.
const YEARS: i16 = 10;
/// Clocks of machines that boot for the first time may be behind.
const BEHIND_DAYS: i64 = 2;

/// A certificate and its key, in PEM.
pub struct Pair {
    /// The certificate.
    pub certificate: Secret,
    /// The key.
    pub key: Secret,
}

/// Random bytes.
pub fn bytes<const N: usize>() -> Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(&mut bytes[..]).map_err(|error| anyhow!("taking random bytes from the kernel: {error}"))?;
    Ok(bytes)
}

/// A text of `length` characters of `alphabet`, each as likely as the others.
pub fn text(alphabet: &[u8], length: usize) -> Result<Secret> {
    let mut text = Zeroizing::new(String::with_capacity(length));
    let fair = 256 - 256 % alphabet.len();
    while text.len() < length {
        for byte in bytes::<32>()?.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < fair) {
            if text.len() < length {
                text.push(char::from(alphabet[byte % alphabet.len()]));
            }
        }
    }
    Ok(Secret::new(text.as_str()))
}

/// Letters and digits that need no quoting anywhere.
pub const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A token for joining, in kubeadm's form.
pub fn token() -> Result<Secret> {
    const SMALL: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    Ok(Secret::new(format!("{}.{}", text(SMALL, 6)?.reveal(), text(SMALL, 16)?.reveal())))
}

/// 32 random bytes in base64.
pub fn base64_key() -> Result<Secret> {
    Ok(Secret::new(STANDARD.encode(*bytes::<32>()?)))
}

/// A key for signing seeds.
pub fn signing_key() -> Result<SigningKey> {
    Ok(SigningKey::from_bytes(&*bytes()?))
}

/// A key pair, in PEM: private, public.
pub fn key_pair() -> Result<(Secret, Secret)> {
    let key = KeyPair::generate().context("making a key")?;
    Ok((pem(&key), Secret::new(key.public_key_pem())))
}

/// A CA.
pub fn ca(name: &str) -> Result<Pair> {
    let key = KeyPair::generate().context("making the key of a CA")?;
    let certificate = ca_params(name)?.self_signed(&key).context("making the certificate of a CA")?;
    Ok(Pair { certificate: Secret::new(certificate.pem()), key: pem(&key) })
}

/// A certificate of a CA that [`ca`] made under `ca_name`, for both ends of a connection.
pub fn leaf(ca_name: &str, ca_key: &Secret, name: &str, names: &[String], addresses: &[IpAddr]) -> Result<Pair> {
    let signing = || format!("signing a certificate of `{name}` by `{ca_name}`");
    let ca_key = KeyPair::from_pem(ca_key.reveal()).with_context(signing)?;
    let key = KeyPair::generate().context("making a key")?;
    let mut params = dated(CertificateParams::new(names.to_vec()).with_context(signing)?)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    // etcd's gateway shows its server certificate as a client, so both are needed.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &Issuer::new(ca_params(ca_name)?, ca_key)).with_context(signing)?;
    Ok(Pair { certificate: Secret::new(certificate.pem()), key: pem(&key) })
}

/// An ssh host key in OpenSSH's forms: private, public.
pub fn host_key(comment: &str) -> Result<(Secret, Secret)> {
    let pair = Ed25519Keypair::from_seed(&*bytes()?);
    let key = PrivateKey::new(pair.into(), comment).context("making an ssh host key")?;
    let private = key.to_openssh(LineEnding::LF).context("writing an ssh host key")?;
    let public = key.public_key().to_openssh().context("writing an ssh host key")?;
    Ok((Secret::new(private.as_str()), Secret::new(format!("{public}\n"))))
}

fn pem(key: &KeyPair) -> Secret {
    Secret::new(Zeroizing::new(key.serialize_pem()).as_str())
}

fn ca_params(name: &str) -> Result<CertificateParams> {
    let mut params = dated(CertificateParams::default())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

fn dated(mut params: CertificateParams) -> Result<CertificateParams> {
    let today = TimeZone::UTC.to_datetime(Timestamp::now()).date();
    let day = |date: jiff::civil::Date| {
        let part = |n: i8| u8::try_from(n).unwrap_or(1);
        rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
    };
    params.not_before = day(today.checked_sub(BEHIND_DAYS.days())?);
    params.not_after = day(today.checked_add(YEARS.years())?);
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_look_as_their_readers_want_them() {
        let token = token().expect("makes");
        let (id, rest) = token.reveal().split_once('.').expect("has a dot");
        assert_eq!((id.len(), rest.len()), (6, 16));
        let key = base64_key().expect("makes");
        assert!(key.reveal().len() == 44 && key.reveal().ends_with('=') && !key.reveal().ends_with("=="));
        let (private, public) = host_key("db-1").expect("makes");
        let read = PrivateKey::from_openssh(private.reveal()).expect("reads");
        assert_eq!(read.public_key().to_openssh().expect("writes"), public.reveal().trim());
    }

    #[test]
    fn a_leaf_is_signed_by_its_ca() {
        let ca = ca("test-ca").expect("makes");
        let leaf = leaf("test-ca", &ca.key, "db-1", &["db-1".into()], &["10.0.0.1".parse().expect("is one")]);
        let leaf = leaf.expect("signs");
        assert!(leaf.certificate.reveal().starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(leaf.key.reveal().starts_with("-----BEGIN PRIVATE KEY-----"));
    }
}
