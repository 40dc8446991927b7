//! The SBOM: CycloneDX 1.5, one component a package, one an image, with the carriers that hold it.
//!
//! In: [`Manifest`]. Out: JSON. Runs: nothing.
//!
//! It says what the manifest says, in the words of a standard that scanners read: a package is found by its purl, an
//! image depends on its packages, the release on its images. No time, and a serial number made from the manifest's digest:
//! the same release has the same SBOM, byte for byte.
//!
//! A package has several licences, for several of its files; CycloneDX then wants a list, not an expression. The names of
//! copyright files (DEP-5) become SPDX identifiers where the two lists mean the same licence, and stay names elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use cyclonedx_bom::models::component::Classification;
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{License, LicenseChoice, LicenseIdentifier, Licenses};
use cyclonedx_bom::models::property::{Properties, Property};
use cyclonedx_bom::models::tool::Tools;
use cyclonedx_bom::prelude::{
    Bom, Component, Components, Metadata, NormalizedString, Purl, SpdxIdentifier, SpecVersion, UrnUuid,
};

use super::manifest::{Manifest, PackageFacts, Role};
use crate::digest::Sha256;

/// The file's name in a release.
pub const FILE: &str = "sbom.cdx.json";

/// The release's own reference in the SBOM.
const RELEASE: &str = "release";

/// The SBOM of a release.
pub fn write(manifest: &Manifest) -> Result<Vec<u8>> {
    let mut json = Vec::new();
    bom(manifest)?.output_as_json_v1_5(&mut json).context("writing the SBOM")?;
    json.push(b'\n');
    Ok(json)
}

fn bom(manifest: &Manifest) -> Result<Bom> {
    let packages = packages(manifest);
    let mut components: Vec<Component> =
        manifest.roles.iter().map(|(name, role)| image(name, role, &manifest.version)).collect();
    for (facts, roles) in packages.values() {
        components.push(package(facts, roles)?);
    }
    Ok(Bom {
        version: 1,
        serial_number: Some(serial_number(manifest)?),
        metadata: Some(Metadata {
            component: Some(release(manifest)),
            tools: Some(Tools::Object { services: None, components: Some(Components(tools(manifest))) }),
            ..Metadata::default()
        }),
        components: Some(Components(components)),
        services: None,
        external_references: None,
        dependencies: Some(dependencies(manifest)),
        compositions: None,
        properties: None,
        vulnerabilities: None,
        signature: None,
        annotations: None,
        formulation: None,
        spec_version: SpecVersion::V1_5,
    })
}

/// Made from all that the manifest says, so that two releases never share one.
fn serial_number(manifest: &Manifest) -> Result<UrnUuid> {
    let digest = Sha256::of(serde_json::to_vec(manifest).context("reading the manifest")?);
    let bytes = digest.bytes()[..16].try_into().context("a digest has 32 bytes")?;
    Ok(UrnUuid::from(uuid::Builder::from_custom_bytes(bytes).into_uuid()))
}

/// Every distinct package, and the roles that have it.
fn packages(manifest: &Manifest) -> BTreeMap<String, (&PackageFacts, BTreeSet<&str>)> {
    let mut packages = BTreeMap::<String, (&PackageFacts, BTreeSet<&str>)>::new();
    for (name, role) in &manifest.roles {
        for facts in &role.packages {
            packages.entry(purl(facts)).or_insert_with(|| (facts, BTreeSet::new())).1.insert(name);
        }
    }
    packages
}

fn release(manifest: &Manifest) -> Component {
    let mut release =
        Component::new(Classification::OperatingSystem, "castiron", &manifest.version, Some(RELEASE.into()));
    release.description = Some(NormalizedString::new("Immutable Ubuntu 24.04 machines for a Kubernetes site"));
    release.properties = Some(Properties(vec![
        Property::new("castiron:debug-shell", &manifest.debug_shell.to_string()),
        Property::new("castiron:lock:made", &manifest.lock.made),
        Property::new("castiron:lock:sha256", &manifest.lock.sha256.to_string()),
        Property::new("castiron:tools-lock:sha256", &manifest.lock.tools_sha256.to_string()),
    ]));
    release
}

fn tools(manifest: &Manifest) -> Vec<Component> {
    manifest
        .tools
        .iter()
        .map(|(name, version)| Component::new(Classification::Application, name, version, None))
        .collect()
}

fn image(name: &str, role: &Role, version: &str) -> Component {
    let mut image = Component::new(Classification::OperatingSystem, name, version, Some(image_ref(name)));
    image.description = (!role.description.is_empty()).then(|| NormalizedString::new(&role.description));
    image.properties = Some(Properties(vec![
        Property::new("castiron:kernel", &role.kernel),
        Property::new("castiron:roothash", &role.roothash),
    ]));
    let carriers = role.carriers.iter().map(|carrier| {
        let mut file =
            Component::new(Classification::File, &carrier.file, version, Some(format!("file:{}", carrier.file)));
        file.hashes = Some(sha256(&carrier.sha256));
        file.properties = Some(Properties(vec![
            Property::new("castiron:format", &carrier.format),
            Property::new("castiron:size", &carrier.size.to_string()),
        ]));
        file
    });
    image.components = Some(Components(carriers.collect()));
    image
}

fn image_ref(role: &str) -> String {
    format!("image:{role}")
}

fn package(facts: &PackageFacts, roles: &BTreeSet<&str>) -> Result<Component> {
    let purl = purl(facts);
    let mut package = Component::new(Classification::Library, &facts.name, &facts.version, Some(purl.clone()));
    package.hashes = Some(sha256(&facts.sha256));
    package.licenses = licences(&facts.licences);
    package.purl = Some(purl.parse::<Purl>().ok().context("writing a package's purl")?);
    let roles: Vec<&str> = roles.iter().copied().collect();
    package.properties = Some(Properties(vec![
        Property::new("castiron:pocket", &facts.pocket),
        Property::new("castiron:roles", &roles.join(" ")),
    ]));
    Ok(package)
}

fn sha256(digest: &Sha256) -> Hashes {
    Hashes(vec![Hash { alg: HashAlgorithm::SHA_256, content: HashValue(digest.to_string()) }])
}

fn dependencies(manifest: &Manifest) -> Dependencies {
    let release = Dependency {
        dependency_ref: RELEASE.into(),
        dependencies: manifest.roles.keys().map(|name| image_ref(name)).collect(),
    };
    let images = manifest.roles.iter().map(|(name, role)| {
        let packages: BTreeSet<String> = role.packages.iter().map(purl).collect();
        Dependency { dependency_ref: image_ref(name), dependencies: packages.into_iter().collect() }
    });
    Dependencies(std::iter::once(release).chain(images).collect())
}

/// The package's address (purl specification, type `deb`): qualifiers sorted, `+` encoded, `:` not.
fn purl(facts: &PackageFacts) -> String {
    let suite = facts.pocket.split('-').next().unwrap_or(&facts.pocket);
    format!(
        "pkg:deb/ubuntu/{}@{}?arch={}&distro={}",
        encode(&facts.name),
        encode(&facts.version),
        encode(&facts.architecture),
        encode(suite)
    )
}

fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte);
    text.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect::<Vec<_>>()
        .concat()
}

fn licences(names: &[String]) -> Option<Licenses> {
    let known = |name: &String| -> LicenseIdentifier {
        match spdx(name).and_then(|id| SpdxIdentifier::try_from(id).ok()) {
            Some(id) => LicenseIdentifier::SpdxId(id),
            None => LicenseIdentifier::Name(NormalizedString::new(name)),
        }
    };
    let mut licences = Vec::new();
    for licence in names.iter().map(known) {
        // `GPL-2+` and `GPL-2.0+` are one.
        if !licences.contains(&licence) {
            licences.push(licence);
        }
    }
    let choice =
        |id| LicenseChoice::License(License { license_identifier: id, ..License::named_license("replaced by the id") });
    (!licences.is_empty()).then(|| Licenses(licences.into_iter().map(choice).collect()))
}

/// What both lists call by one name; a `-` at the end stands for every version. Others that SPDX happens to have (`X11`,
/// `Beerware`) are free text in copyright files, and the newest of them are unknown to validators of CycloneDX 1.5.
const SAME: [&str; 13] = [
    "AFL-",
    "Apache-",
    "Artistic-2.0",
    "CC-BY-",
    "CC0-1.0",
    "CDDL-",
    "CPL-",
    "EFL-",
    "ISC",
    "LPPL-",
    "MIT",
    "MPL-",
    "QPL-",
];

/// The SPDX identifier that a DEP-5 short name may mean; the crate's list decides whether it is one.
fn spdx(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        "expat" => return Some("MIT".into()),
        "zlib" => return Some("Zlib".into()),
        "apache-2" => return Some("Apache-2.0".into()),
        "bsd-2-clause" | "bsd-3-clause" | "bsd-4-clause" | "bsd-4-clause-uc" => {
            return Some(name.replace("-clause", "-Clause"));
        }
        _ => {}
    }
    for family in ["AGPL-", "LGPL-", "GPL-", "GFDL-"] {
        if let Some(version) = name.strip_prefix(family) {
            return gnu(family, version);
        }
    }
    // The SPDX crate takes a `+` after any identifier; CycloneDX does not.
    let same = SAME.iter().any(|known| name == *known || known.ends_with('-') && name.starts_with(known));
    (same && !name.ends_with('+')).then(|| name.to_owned())
}

/// `2+` → `GPL-2.0-or-later`, `NIV-1.3` → `GFDL-1.3-no-invariants-only`.
fn gnu(family: &str, version: &str) -> Option<String> {
    let (version, later) = match version.strip_suffix('+') {
        Some(version) => (version, "or-later"),
        None => (version, "only"),
    };
    let (version, niv) = match version.strip_prefix("NIV-") {
        Some(version) => (version, "no-invariants-"),
        None => (version, ""),
    };
    if version.is_empty() || !version.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let minor = if version.contains('.') { "" } else { ".0" };
    Some(format!("{family}{version}{minor}-{niv}{later}"))
}

#[cfg(test)]
mod tests {
    use cyclonedx_bom::prelude::Validate as _;

    use super::super::manifest::{File, LockFacts};
    use super::*;

    fn manifest() -> Manifest {
        let package = |name: &str, version: &str, licences: &[&str]| PackageFacts {
            name: name.into(),
            version: version.into(),
            architecture: "amd64".into(),
            pocket: "noble-security".into(),
            sha256: Sha256::of(name),
            part: "image".into(),
            licences: licences.iter().map(|l| (*l).to_owned()).collect(),
        };
        let role = |name: &str, packages| Role {
            description: "a machine".into(),
            kernel: "6.8.0-1-generic".into(),
            roothash: Sha256::of(name).to_string(),
            root_bytes: 4096,
            verity_bytes: 4096,
            inputs: BTreeMap::new(),
            carriers: vec![File {
                file: format!("{name}.qcow2"),
                format: "qcow2".into(),
                size: 7,
                sha256: Sha256::of(format!("{name}.qcow2")),
            }],
            contents: format!("{name}.contents.jsonl.zst"),
            packages,
        };
        let shared = package("libstdc++6", "1:14.2.0-4~24.04+b1", &["GPL-3+ with GCC exception", "GPL-2+", "GPL-2.0+"]);
        Manifest {
            schema: 1,
            version: "20240425".into(),
            debug_shell: false,
            lock: LockFacts {
                made: "2024-04-25T00:00:00Z".into(),
                sha256: Sha256::of("l"),
                tools_sha256: Sha256::of("t"),
            },
            tools: BTreeMap::from([("castiron".into(), "0.1.0".into())]),
            media: Vec::new(),
            roles: BTreeMap::from([
                ("db".into(), role("db", vec![shared.clone(), package("postgresql", "16", &[])])),
                ("worker".into(), role("worker", vec![shared])),
            ]),
        }
    }

    #[test]
    fn it_is_valid_and_the_same_twice() {
        let first = write(&manifest()).expect("writes");
        assert_eq!(first, write(&manifest()).expect("writes again"));
        let read = Bom::parse_from_json_v1_5(first.as_slice()).expect("is CycloneDX 1.5");
        assert!(read.validate_version(SpecVersion::V1_5).passed(), "{:?}", read.validate_version(SpecVersion::V1_5));
        assert!(read.metadata.expect("has metadata").timestamp.is_none());
    }

    #[test]
    fn two_releases_have_two_serial_numbers() {
        let other = Manifest { version: "20240426".into(), ..manifest() };
        assert_ne!(serial_number(&manifest()).expect("is made"), serial_number(&other).expect("is made"));
    }

    #[test]
    fn a_package_of_two_roles_is_one_component() {
        let text = String::from_utf8(write(&manifest()).expect("writes")).expect("is text");
        let json: serde_json::Value = serde_json::from_str(&text).expect("is JSON");
        let components = json["components"].as_array().expect("is a list");
        let names: Vec<_> = components.iter().map(|c| c["name"].as_str().expect("has a name")).collect();
        assert_eq!(names, ["db", "worker", "libstdc++6", "postgresql"]);
        let shared = &components[2];
        let purl = "pkg:deb/ubuntu/libstdc%2B%2B6@1:14.2.0-4~24.04%2Bb1?arch=amd64&distro=noble";
        assert_eq!(shared["purl"], purl);
        assert_eq!(shared["hashes"][0]["content"], Sha256::of("libstdc++6").to_string());
        assert_eq!(shared["properties"][1]["value"], "db worker");
        assert_eq!(
            shared["licenses"],
            serde_json::json!([
                {"license": {"name": "GPL-3+ with GCC exception"}},
                {"license": {"id": "GPL-2.0-or-later"}},
            ])
        );
        assert_eq!(components[0]["components"][0]["hashes"][0]["content"], Sha256::of("db.qcow2").to_string());
        assert_eq!(json["dependencies"][1]["ref"], "image:db");
        assert_eq!(json["dependencies"][1]["dependsOn"][0], purl);
    }

    #[test]
    fn names_of_copyright_files_become_identifiers_only_where_they_mean_the_same() {
        let is = |name: &str| spdx(name).filter(|id| SpdxIdentifier::try_from(id.clone()).is_ok());
        for (name, id) in [
            ("GPL-2", "GPL-2.0-only"),
            ("LGPL-2.1+", "LGPL-2.1-or-later"),
            ("GFDL-NIV-1.3+", "GFDL-1.3-no-invariants-or-later"),
            ("Expat", "MIT"),
            ("BSD-3-clause", "BSD-3-Clause"),
            ("CC0-1.0", "CC0-1.0"),
        ] {
            assert_eq!(is(name).as_deref(), Some(id), "{name}");
        }
        for name in
            ["public-domain", "GPL", "GPL-2 with Linux-syscall-note exception", "MPL-2.0+", "GPL-2+ or Expat", "Kazlib"]
        {
            assert_eq!(is(name), None, "{name}");
        }
    }
}
