//! A mirror: a folder, or the same served by HTTP, that holds copies of what a lock names.
//!
//! ```text
//! origin.toml         where it is not a copy of what the publishers have: what it is
//! SHA256SUMS          of all below files/
//! files/<host>/<path> programs, by their publishers' addresses
//! images/             one OCI image layout; each image has its whole name in the annotation io.containerd.image.name
//! pool/…              packages, as in Ubuntu's archive
//! ```
//!
//! A lock goes by digest, so a mirror can not change what is built. Only a lock that is *made* from an origin other than the
//! publishers' takes that origin's digests, when it is told to, and it says so (`[origin]`).

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use oci_client::manifest::OciImageIndex;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::digest::Sha256;
use crate::download;
use crate::error::{Failure, Kind};

/// The annotation that holds an image's whole name (containerd, `core/images/annotations.go`).
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// What says that a mirror is no copy of what the publishers have.
pub const ORIGIN: &str = "origin.toml";
/// The digests of its files.
pub const SUMS: &str = "SHA256SUMS";
/// The index of its images.
pub const INDEX: &str = "images/index.json";

/// Longer than any index that a mirror has.
const LIMIT: u64 = 16 << 20;

/// What an origin says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Origin {
    /// Its name, one line.
    pub name: String,
    /// What differs from what the publishers have.
    pub about: String,
}

/// A mirror.
#[derive(Clone, Debug)]
pub struct Mirror {
    base: String,
}

impl Mirror {
    /// The mirror at an address or in a folder.
    pub fn new(base: &str) -> Self {
        Self { base: base.trim_end_matches('/').to_owned() }
    }

    /// Its address or folder.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Where it has, or would have, a publisher's file.
    pub fn file(&self, url: &str) -> String {
        format!("{}/{}", self.base, file_path(url))
    }

    /// Where it has, or would have, a manifest or a blob of an image.
    pub fn blob(&self, digest: &Sha256) -> String {
        format!("{}/{}", self.base, blob_path(digest))
    }

    /// What it says of itself; nothing where it is a copy of what the publishers have.
    pub fn origin(&self, ctx: &Context) -> Result<Option<Origin>> {
        let Some(text) = self.text(ctx, ORIGIN)? else { return Ok(None) };
        let origin = toml::from_str(&text).map_err(|e| self.wrong(ORIGIN, e.to_string().trim_end()))?;
        Ok(Some(origin))
    }

    /// The digests of its files, by the publishers' addresses without their scheme.
    pub fn sums(&self, ctx: &Context) -> Result<BTreeMap<String, Sha256>> {
        let text = self.text(ctx, SUMS)?.ok_or_else(|| self.wrong(SUMS, "there is no such file"))?;
        let mut sums = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let parsed =
                line.split_once("  ").and_then(|(sum, path)| Some((path.strip_prefix("files/")?, sum.parse().ok()?)));
            let Some((path, sum)) = parsed else {
                let message = format!("line {} is not `<sha256>  files/<path>`", number + 1);
                return Err(self.wrong(SUMS, &message).into());
            };
            sums.insert(path.to_owned(), sum);
        }
        Ok(sums)
    }

    /// Its images: whole name, digest of the manifest.
    pub fn images(&self, ctx: &Context) -> Result<BTreeMap<String, Sha256>> {
        let text = self.text(ctx, INDEX)?.ok_or_else(|| self.wrong(INDEX, "there is no such file"))?;
        let index: OciImageIndex = serde_json::from_str(&text).map_err(|e| self.wrong(INDEX, &e.to_string()))?;
        let named = index.manifests.into_iter().filter_map(|entry| {
            let name = entry.annotations?.get(IMAGE_NAME)?.clone();
            Some((name, entry.digest))
        });
        named
            .map(|(name, digest)| {
                let parsed = digest.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
                let parsed =
                    parsed.with_context(|| format!("`{name}` has the digest `{digest}` in `{}/{INDEX}`", self.base))?;
                Ok((name, parsed))
            })
            .collect()
    }

    fn text(&self, ctx: &Context, path: &str) -> Result<Option<String>> {
        let source = format!("{}/{path}", self.base);
        let Some(bytes) = download::maybe(ctx, &source, LIMIT)? else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|_| self.wrong(path, "it is not UTF-8"))?;
        Ok(Some(text))
    }

    fn wrong(&self, path: &str, what: &str) -> Failure {
        Failure::new(Kind::Input, format!("reading `{path}` of the mirror `{}`: {what}", self.base))
            .hint("docs/mirrors.md says what a mirror holds; `castiron mirror sync` makes one")
    }
}

/// The path of a publisher's file in a mirror.
pub fn file_path(url: &str) -> String {
    format!("files/{}", without_scheme(url))
}

/// The path of a manifest or a blob in a mirror.
pub fn blob_path(digest: &Sha256) -> String {
    format!("images/blobs/sha256/{digest}")
}

/// An address without `https://`.
pub fn without_scheme(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest)
}
