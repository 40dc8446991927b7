//! Container registries: manifests by name, and what a download of their blobs needs.
//!
//! In: an image's whole name. Out: the manifest of its linux/amd64 image, addresses and tokens. Runs: nothing; HTTP by
//! oci-client (OCI distribution specification 1.1), anonymously. The blobs themselves come by [`crate::download`], which resumes,
//! verifies and shows progress as for any other file.
//!
//! A registry on this machine's own loopback is spoken to in plain HTTP, as every other client does; all else by HTTPS.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::config::{Architecture as Arch, Os};
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE,
    OciImageIndex, OciManifest, Platform,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use tokio::runtime::{Builder, Runtime};

use crate::context::Context;
use crate::digest::Sha256;
use crate::error::{Failure, Kind};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const ACCEPTED: [&str; 4] =
    [OCI_IMAGE_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE];

/// A client of registries.
pub struct Registry {
    runtime: Runtime,
    client: Client,
}

impl Registry {
    /// A client without credentials.
    pub fn new() -> Result<Self> {
        crate::download::crypto();
        let config = ClientConfig {
            protocol: ClientProtocol::Https,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(STALL_TIMEOUT),
            user_agent: concat!("castiron/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let runtime = Builder::new_current_thread().enable_all().build().context("starting the registries' client")?;
        let client = Client::try_from(config).context("starting the registries' client")?;
        Ok(Self { runtime, client })
    }

    /// The manifest of the image's linux/amd64 variant, its very bytes.
    pub fn manifest(&self, ctx: &Context, image: &str) -> Result<Vec<u8>> {
        let reference = reference(image)?;
        let bytes = self.raw(ctx, &reference)?;
        let parsed: OciManifest =
            serde_json::from_slice(&bytes).with_context(|| format!("reading the manifest of `{image}`"))?;
        let OciManifest::ImageIndex(index) = parsed else { return Ok(bytes) };
        let digest = platform(&index).with_context(|| format!("`{image}` has no image for linux/amd64"))?;
        let chosen = reference.clone_with_digest(digest.to_owned());
        let bytes = self.raw(ctx, &chosen)?;
        let found = format!("sha256:{}", Sha256::of(&bytes));
        ensure!(found == *digest, "the registry gave a manifest of `{image}` whose digest is {found}, not {digest}");
        Ok(bytes)
    }

    /// The manifest of this digest.
    pub fn manifest_of(&self, ctx: &Context, image: &str, digest: &Sha256) -> Result<Vec<u8>> {
        let bytes = self.raw(ctx, &reference(image)?.clone_with_digest(format!("sha256:{digest}")))?;
        let found = Sha256::of(&bytes);
        ensure!(found == *digest, "the registry gave a manifest of `{image}` whose sha256 is {found}, not {digest}");
        Ok(bytes)
    }

    /// What a request for the blobs of this image must show, where the registry wants anything.
    pub fn token(&self, ctx: &Context, image: &str) -> Result<Option<String>> {
        let reference = reference(image)?;
        let client = self.client_for(&reference);
        let asked = client.auth(&reference, &RegistryAuth::Anonymous, RegistryOperation::Pull);
        self.wait(ctx, asked).map_err(|why| network(&reference, &why))
    }

    fn raw(&self, ctx: &Context, reference: &Reference) -> Result<Vec<u8>> {
        let client = self.client_for(reference);
        let asked = client.pull_manifest_raw(reference, &RegistryAuth::Anonymous, &ACCEPTED);
        let (bytes, _) = self.wait(ctx, asked).map_err(|why| network(reference, &why))?;
        Ok(bytes.to_vec())
    }

    fn client_for(&self, reference: &Reference) -> Client {
        if !is_loopback(reference.resolve_registry()) {
            return self.client.clone();
        }
        Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() })
    }

    /// Waits for an answer, and for ctrl-C.
    fn wait<T>(
        &self,
        ctx: &Context,
        asked: impl Future<Output = Result<T, oci_client::errors::OciDistributionError>>,
    ) -> Result<T> {
        self.runtime.block_on(async {
            tokio::pin!(asked);
            loop {
                tokio::select! {
                    answer = &mut asked => return answer.map_err(anyhow::Error::from),
                    () = tokio::time::sleep(Duration::from_millis(100)) => ctx.check_interrupt()?,
                }
            }
        })
    }
}

/// Where a registry has a blob of this image.
pub fn blob_address(image: &str, digest: &Sha256) -> Result<String> {
    let reference = reference(image)?;
    let registry = reference.resolve_registry();
    let scheme = if is_loopback(registry) { "http" } else { "https" };
    Ok(format!("{scheme}://{registry}/v2/{}/blobs/sha256:{digest}", reference.repository()))
}

fn reference(image: &str) -> Result<Reference> {
    Reference::try_from(image).with_context(|| format!("`{image}` is not an image's name"))
}

fn platform(index: &OciImageIndex) -> Option<&str> {
    let is_ours = |p: &Platform| p.os == Os::Linux && p.architecture == Arch::Amd64;
    let entry = index.manifests.iter().find(|m| m.platform.as_ref().is_some_and(is_ours))?;
    Some(&entry.digest)
}

fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

fn network(reference: &Reference, why: &anyhow::Error) -> anyhow::Error {
    if why.downcast_ref::<Failure>().is_some_and(|f| f.kind == Kind::Interrupted) {
        return Failure::new(Kind::Interrupted, why.to_string()).into();
    }
    let innermost = why.chain().last().map_or_else(|| why.to_string(), ToString::to_string);
    let message = format!("asking `{}` for `{}`: {innermost}", reference.resolve_registry(), reference.whole());
    Failure::new(Kind::Network, message)
        .hint("check the network and the proxy variables, or name a copy: `castiron lock --origin DIR`")
        .into()
}

/// What a manifest names: its configuration first, then its layers, lowest first.
pub fn blobs(image: &str, manifest: &[u8]) -> Result<Vec<(Sha256, u64)>> {
    let parsed: OciManifest =
        serde_json::from_slice(manifest).with_context(|| format!("reading the manifest of `{image}`"))?;
    let OciManifest::Image(parsed) = parsed else { bail!("the manifest of `{image}` is an index") };
    std::iter::once(&parsed.config)
        .chain(&parsed.layers)
        .map(|blob| {
            let digest = blob.digest.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
            let digest = digest.with_context(|| format!("a blob of `{image}` has the digest `{}`", blob.digest))?;
            let size = u64::try_from(blob.size).with_context(|| format!("a blob of `{image}` has no size"))?;
            Ok((digest, size))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_spoken_to_by_https_but_on_this_machine() {
        let digest = Sha256::of("");
        let of = |image| blob_address(image, &digest).expect("is a name");
        assert!(
            of("registry.k8s.io/coredns/coredns:v1")
                .starts_with("https://registry.k8s.io/v2/coredns/coredns/blobs/sha256:e3b0")
        );
        assert!(of("docker.io/flannel/flannel:v1").starts_with("https://index.docker.io/v2/flannel/flannel/blobs/"));
        assert!(of("127.0.0.1:5000/a/b:1").starts_with("http://127.0.0.1:5000/v2/a/b/blobs/"));
        assert!(of("localhost:5000/a/b:1").starts_with("http://localhost:5000/"));
    }
}
