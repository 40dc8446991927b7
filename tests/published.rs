//! Programs and container images: from publishers, registries, mirrors and a named origin.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod archive;

use std::fs;
use std::process::Command;

use archive::{Deb, NOBODY, Project, Ran, Server, Signer, publish_pool, write};
use castiron::digest::Sha256;
use serde_json::json;

/// A publisher's site and its registry, and a project that wants a program and an image of them.
struct World {
    publisher: Server,
    project: Project,
    tool: Vec<u8>,
    parts: Vec<Vec<u8>>,
    manifest: Vec<u8>,
    debs: Vec<Deb>,
}

impl World {
    fn new() -> Self {
        let publisher = Server::new();
        let archive = Server::new();
        let keyring = Signer::new().package();
        let debs = vec![Deb::blob("one", 1000), keyring];
        publish_pool(archive.folder.path(), &debs);
        let project = Project::new(&[&archive.address], NOBODY, &"0".repeat(40));
        project.tools_lock(&debs[1]);
        let tools = format!(
            "mirrors = [\"{}\"]\nsuite = \"noble\"\ncomponents = [\"main\"]\nkey = \"0\"\npackages = []\n",
            archive.address
        );
        write(&project.path("profiles/tools.toml"), tools);
        let tool = b"the program".to_vec();
        let parts = vec![b"{\"the\":\"configuration\"}".to_vec(), vec![7; 5000], vec![8; 300]];
        let blob = |bytes: &[u8]| json!({ "mediaType": "application/x", "digest": digest(bytes), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob(&parts[0]), "layers": [blob(&parts[1]), blob(&parts[2])],
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        std::mem::forget(archive);
        Self { publisher, project, tool, parts, manifest, debs }
    }

    fn registry(&self) -> &str {
        self.publisher.address.strip_prefix("http://").unwrap().strip_suffix("/ubuntu").unwrap()
    }

    fn reference(&self) -> String {
        format!("{}/a/pause:1", self.registry())
    }

    fn url(&self) -> String {
        format!("{}/v1/tool", self.publisher.address)
    }

    /// The version set, and a role that wants all of it.
    fn set(&self, sha256: &Sha256) {
        let set = format!(
            "version = \"v1.2.3\"\nimage-repository = \"{0}\"\n[[program]]\nname = \"tool\"\nurl = \"{1}\"\nsha256 = \"{sha256}\"\n\
             destination = \"/usr/bin/tool\"\n[images]\npause = \"{2}\"\n",
            self.registry(),
            self.url(),
            self.reference()
        );
        write(&self.project.path("profiles/kubernetes/1.2.3.toml"), set);
        let role = "description = \"node\"\nextends = \"base\"\npackages = [\"extra\"]\nkubernetes = \"1.2.3\"\nprograms = [\"tool\"]\n\
                    images = [\"pause\"]\n";
        self.project.profile("node", role);
    }

    /// A lock that answers the set, made from the publishers or from an origin.
    fn lock(&self, origin: Option<&str>) {
        self.project.lock(&self.debs[..1]);
        let path = self.project.path("profiles/castiron.lock");
        let mut text = fs::read_to_string(&path).unwrap();
        if let Some(origin) = origin {
            text = text.replacen(
                "\n[[package]]",
                &format!("\n[origin]\nname = \"{origin}\"\nabout = \"x\"\n\n[[package]]"),
                1,
            );
        }
        let blobs: Vec<String> =
            self.parts.iter().map(|p| format!("{{ sha256 = \"{}\", size = {} }}", Sha256::of(p), p.len())).collect();
        let (url, size, sha256) = (self.url(), self.tool.len(), Sha256::of(&self.tool));
        let (reference, digest, length) = (self.reference(), Sha256::of(&self.manifest), self.manifest.len());
        let program = format!("[[program]]\nurl = \"{url}\"\nsize = {size}\nsha256 = \"{sha256}\"\n");
        let image = format!("[[image]]\nreference = \"{reference}\"\ndigest = \"{digest}\"\nsize = {length}\n");
        let text = [text, program, image + &format!("blobs = [{}]\n", blobs.join(", "))].join("\n");
        write(&path, text);
    }

    /// Puts the bytes where publisher and registry have them.
    fn publish(&self) {
        let folder = self.publisher.folder.path();
        write(&folder.join("v1/tool"), &self.tool);
        write(&folder.join(format!("v2/a/pause/manifests/{}", digest(&self.manifest))), &self.manifest);
        for part in &self.parts {
            write(&folder.join(format!("v2/a/pause/blobs/{}", digest(part))), part);
        }
    }

    /// Whether the store holds the program and every part of the image.
    fn is_whole(&self) -> bool {
        let all = self.parts.iter().chain([&self.tool, &self.manifest]);
        all.map(|bytes| self.project.object(&Sha256::of(bytes))).all(|path| path.exists())
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::of(bytes))
}

fn without_network(command: &Command) -> Ran {
    let mut inside = Command::new("unshare");
    inside.arg("-Urn").arg(command.get_program()).args(command.get_args());
    Ran::of(inside.output().unwrap())
}

#[test]
fn programs_and_images_come_from_publisher_and_registry() {
    let world = World::new();
    world.set(&Sha256::of(&world.tool));
    world.lock(None);
    world.publish();
    world.project.run(&["fetch"]).expect(0, &["the store holds all that `node` needs"]);
    assert!(world.is_whole());
}

#[test]
fn other_bytes_than_those_locked_are_refused() {
    let world = World::new();
    world.set(&Sha256::of(&world.tool));
    world.lock(None);
    world.publish();
    let layer = format!("v2/a/pause/blobs/{}", digest(&world.parts[1]));
    write(&world.publisher.folder.path().join(layer), [9; 5000]);
    world.project.run(&["fetch"]).expect(4, &["no source gives", "its sha256 is"]);
    assert!(!world.project.object(&Sha256::of(&world.parts[1])).exists());
}

#[test]
fn a_lock_of_an_origin_takes_nothing_from_the_publishers() {
    let world = World::new();
    // The publisher has other bytes under the same name: that is what an origin is for.
    world.set(&Sha256::of("what the publisher has"));
    world.lock(Some("our own build"));
    world.publish();
    let ran = world.project.run(&["fetch"]);
    ran.expect(3, &["there is no source to try", "another origin than the publishers: our own build", "`--mirror`"]);
    assert!(world.publisher.requests().is_empty());
}

#[test]
fn a_mirror_holds_all_that_the_lock_names_and_nothing_else_is_asked() {
    let world = World::new();
    world.set(&Sha256::of(&world.tool));
    world.lock(None);
    world.publish();
    let mirror = tempfile::tempdir().unwrap();
    let folder = mirror.path().to_str().unwrap();
    world.project.run(&["mirror", "sync", folder]).expect(0, &["files, 7 of them new; 0 removed"]);
    let index = fs::read_to_string(mirror.path().join("images/index.json")).unwrap();
    assert!(index.contains(&world.reference()) && index.contains(&digest(&world.manifest)), "{index}");
    let sums =
        Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(mirror.path()).output();
    assert!(sums.unwrap().status.success());

    // Again: nothing to do. What is damaged or left over is mended.
    world.project.run(&["mirror", "sync", folder]).expect(0, &["0 of them new; 0 removed"]);
    write(&mirror.path().join("files/old.example/tool"), "left over");
    write(&mirror.path().join(format!("images/blobs/sha256/{}", Sha256::of(&world.parts[2]))), [0; 300]);
    world.project.run(&["mirror", "sync", folder]).expect(0, &["1 of them new; 1 removed"]);

    // Elsewhere: an empty store, and no network at all.
    fs::remove_dir_all(world.project.path("store")).unwrap();
    let fetch = world.project.command(&["fetch", "--mirror", folder]);
    without_network(&fetch).expect(0, &["the store holds all that `node` needs"]);
    assert!(world.is_whole());
}

#[test]
fn what_a_lock_does_not_answer_is_named() {
    let world = World::new();
    world.set(&Sha256::of(&world.tool));
    world.project.lock(&world.debs[..1]);
    let ran = world.project.run(&["lock", "--check"]);
    ran.expect(2, &[&format!("+ {}", world.url()), &format!("+ {}", world.reference()), "castiron lock"]);
    world.lock(None);
    world.project.run(&["lock", "--check"]).expect(0, &["answers the profiles"]);
    world.set(&Sha256::of("a newer build"));
    world.project.run(&["lock", "--check"]).expect(2, &["its sha256 was"]);
}

#[test]
fn a_version_set_is_checked_with_its_place() {
    let world = World::new();
    world.set(&Sha256::of(&world.tool));
    let path = world.project.path("profiles/kubernetes/1.2.3.toml");
    let right = fs::read_to_string(&path).unwrap();
    for (from, to, told) in [
        ("version = \"v1.2.3\"", "version = \"v1.2.4\"", "the file is named `1.2.3` and holds `v1.2.4`"),
        ("destination = \"/usr/bin/tool\"", "", "`tool` needs either `destination` or `unpack`"),
        ("/a/pause:1", "/a/pause", "is not an image's whole name"),
        ("pause = ", "pouse = ", "`1.2.3` has no image `pause`"),
        ("name = \"tool\"", "name = \"tuul\"", "`1.2.3` has no program `tool`"),
    ] {
        write(&path, right.replacen(from, to, 1));
        world.project.run(&["check"]).expect(2, &[told]);
    }
    write(&path, right);
    world.project.profile("node", "description = \"node\"\nextends = \"base\"\nkubernetes = \"1.2.4\"\n");
    world.project.run(&["check"]).expect(2, &["no version set `1.2.4`", "1.2.3"]);
}
