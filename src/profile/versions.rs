//! A version set of Kubernetes as it is written: one file of `profiles/kubernetes/`, named after its version.
//!
//! In: `profiles/kubernetes/<version>.toml`. Out: programs by digest, images by name. A profile says which set it takes
//! (`kubernetes = "1.30.3"`) and what of it (`programs`, `images`), so that another version is another file, and one word.
//!
//! Digests are the publishers'. Where a lock was made from another origin, the lock says so and holds that origin's.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{Destination, Line, Name, Reference, Url};
use super::{BakedImage, Kubernetes, Place, Program};
use crate::diagnostic::{Diagnostic, Source, literal};
use crate::digest::Sha256;
use crate::document::At;

/// # castiron version set
///
/// One version of Kubernetes: its programs and container images, as their publishers have them.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct VersionsFile {
    /// The version, as kubeadm writes it.
    #[schemars(required, extend("examples" = ["v1.30.3"]))]
    pub(super) version: Option<At<Line>>,
    /// The registry that kubeadm's own images come from.
    #[schemars(required, extend("examples" = ["registry.k8s.io"]))]
    pub(super) image_repository: Option<At<Line>>,
    /// The programs.
    #[serde(default, rename = "program")]
    pub(super) programs: Vec<ProgramTable>,
    /// The container images: a name for profiles, and the reference.
    #[serde(default)]
    pub(super) images: BTreeMap<String, At<Reference>>,
}

/// A program.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ProgramTable {
    /// What profiles call it.
    pub(super) name: At<Name>,
    /// Where its publisher has it.
    pub(super) url: At<Url>,
    /// The SHA-256 digest of its bytes.
    pub(super) sha256: At<Sha256>,
    /// Its place in the image, where the file itself is the program.
    pub(super) destination: Option<At<Destination>>,
    /// Where it is a `.tar.gz`: the files to take out of it, and their places in the image.
    #[serde(default)]
    pub(super) unpack: BTreeMap<String, At<Destination>>,
}

/// A file that could be read.
#[derive(Debug)]
pub(super) struct Versions {
    pub(super) source: Arc<Source>,
    pub(super) file: VersionsFile,
}

impl Versions {
    /// What no single value can break.
    pub(super) fn check(&self, name: &str, problems: &mut Vec<Diagnostic>) {
        if let Some(version) = self.file.version.as_ref().filter(|v| v.text != format!("v{name}")) {
            let message = format!("the file is named {} and holds {}", literal(name), literal(&version.text));
            let help = format!("write {}, or give the file the version's name", literal(&format!("v{name}")));
            problems.push(Diagnostic::new(message, &self.source, version.span.clone()).help(help));
        }
        let mut names = BTreeMap::new();
        let mut places = BTreeMap::new();
        for program in &self.file.programs {
            if program.destination.is_some() != program.unpack.is_empty() {
                let message = format!("{} needs either `destination` or `unpack`", literal(&program.name.text));
                let help = "`destination` where the file is the program, `unpack` where it is an archive of programs";
                problems.push(Diagnostic::new(message, &self.source, program.name.span.clone()).help(help.to_owned()));
            }
            twice("program", &program.name, &mut names, &self.source, problems);
            for place in program.destination.iter().chain(program.unpack.values()) {
                twice("destination", place, &mut places, &self.source, problems);
            }
        }
    }

    /// What the machine needs to know of it.
    pub(super) fn facts(&self) -> Option<Kubernetes> {
        Some(Kubernetes {
            version: self.file.version.as_ref()?.text.clone(),
            image_repository: self.file.image_repository.as_ref()?.text.clone(),
            images: self.file.images.iter().map(|(name, at)| (name.clone(), at.text.clone())).collect(),
        })
    }

    /// A program by its name.
    pub(super) fn program(&self, name: &str) -> Option<Program> {
        let table = self.file.programs.iter().find(|p| p.name.text == name)?;
        let whole = table.destination.iter().map(|at| Place { member: None, destination: at.value.0.clone() });
        let members = table
            .unpack
            .iter()
            .map(|(member, at)| Place { member: Some(member.clone()), destination: at.value.0.clone() });
        Some(Program {
            name: name.to_owned(),
            url: table.url.text.clone(),
            sha256: table.sha256.value,
            places: whole.chain(members).collect(),
        })
    }

    /// An image by its name.
    pub(super) fn image(&self, name: &str) -> Option<BakedImage> {
        let reference = self.file.images.get(name)?;
        Some(BakedImage { name: name.to_owned(), reference: reference.text.clone() })
    }

    /// The names of its programs.
    pub(super) fn programs(&self) -> impl Iterator<Item = &str> {
        self.file.programs.iter().map(|p| p.name.text.as_str())
    }

    /// The names of its images.
    pub(super) fn images(&self) -> impl Iterator<Item = &str> {
        self.file.images.keys().map(String::as_str)
    }
}

fn twice<'a, T>(
    kind: &str,
    at: &'a At<T>,
    seen: &mut BTreeMap<&'a str, std::ops::Range<usize>>,
    source: &Arc<Source>,
    problems: &mut Vec<Diagnostic>,
) {
    if let Some(first) = seen.insert(&at.text, at.span.clone()) {
        problems.push(
            Diagnostic::new(format!("the {kind} {} is named twice", literal(&at.text)), source, at.span.clone())
                .label("again here")
                .and(source, first, "first here")
                .help("take one of the two out".to_owned()),
        );
    }
}
