//! Deciding which bytes, against archives that are signed, tampered with, replayed, or lack what is asked for.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod archive;

use std::fs;
use std::path::Path;

use archive::{Deb, NOBODY, Project, Server, Signer, publish, publish_pool, write};

const DAY: &str = "Mon, 02 Feb 2026  3:04:05 UTC";

fn packages() -> Vec<Deb> {
    ["basis", "linux-image-virtual", "dracut", "shim", "extra", "zsh", "extra-doc"].map(|n| Deb::new(n, "1", "")).into()
}

/// A project on an archive that is as it should be, but for what a test does to it.
fn world(packages: &[Deb]) -> (Project, Server, Signer) {
    let (server, signer) = (Server::new(), Signer::new());
    publish(server.folder.path(), &signer, "noble", DAY, packages);
    publish(server.folder.path(), &signer, "noble-security", DAY, &[]);
    let keyring = signer.package();
    publish_pool(server.folder.path(), std::slice::from_ref(&keyring));
    let project = Project::new(&[&server.address], NOBODY, &signer.fingerprint());
    project.tools_lock(&keyring);
    (project, server, signer)
}

fn in_release(server: &Server) -> std::path::PathBuf {
    server.folder.path().join("dists/noble/InRelease")
}

#[test]
fn an_index_signed_by_another_key_is_refused() {
    let (project, server, _) = world(&packages());
    publish(server.folder.path(), &Signer::new(), "noble", DAY, &packages());
    project.run(&["lock"]).expect(
        4,
        &[
            "no mirror gives an index of `noble` that can be believed",
            &server.address,
            "it carries no good signature by the key",
        ],
    );
    assert!(!project.path("profiles/castiron.lock").exists());
}

#[test]
fn a_changed_index_is_refused() {
    let (project, server, _) = world(&packages());
    let text = fs::read_to_string(in_release(&server)).unwrap().replace("Origin: Test", "Origin: Best");
    fs::write(in_release(&server), text).unwrap();
    project.run(&["lock"]).expect(4, &["it carries no good signature by the key"]);
}

#[test]
fn an_unsigned_index_is_refused() {
    let (project, server, _) = world(&packages());
    fs::write(in_release(&server), "Suite: noble\n").unwrap();
    project.run(&["lock"]).expect(4, &["it is no OpenPGP clear-signed message"]);
}

#[test]
fn a_mirror_with_a_bad_signature_gives_way_to_a_good_one() {
    let mut packages = packages();
    packages.retain(|p| p.name != "extra");
    let (project, server, _) = world(&packages);
    let bad = Server::new();
    publish(bad.folder.path(), &Signer::new(), "noble", DAY, &packages);
    publish_pool(bad.folder.path(), &[]);
    // As far as the names, where the good archive's lack of `extra` ends it.
    let ran = project.run(&["lock", "--mirror", &bad.address]);
    ran.expect(2, &[&format!("warning: {}/dists/noble/InRelease: it carries no good", bad.address), "package `extra`"]);
    assert!(server.requests().iter().any(|(path, _)| path == "dists/noble/InRelease"));
}

#[test]
fn a_key_with_another_fingerprint_is_refused() {
    let (project, _server, signer) = world(&packages());
    let pinned = "F6ECB3762474EDA9D21B7022871920D1991BC93C";
    let base = project.path("profiles/base.toml");
    let text = fs::read_to_string(&base).unwrap().replace(&signer.fingerprint(), pinned);
    fs::write(&base, text).unwrap();
    project.run(&["lock"]).expect(4, &["no key with the pinned fingerprint", pinned, &signer.fingerprint()]);
}

#[test]
fn a_package_index_with_other_bytes_is_refused() {
    let (project, server, _) = world(&packages());
    let index = server.folder.path().join("dists/noble/main/binary-amd64/Packages.gz");
    let mut bytes = fs::read(&index).unwrap();
    bytes[20] ^= 1;
    fs::write(&index, bytes).unwrap();
    project.run(&["lock"]).expect(4, &["dists/noble/main/binary-amd64/Packages.gz: its sha256 is"]);
}

#[test]
fn the_index_of_another_suite_is_refused() {
    let (project, server, _) = world(&packages());
    let other = server.folder.path().join("dists/noble-security/InRelease");
    fs::copy(in_release(&server), &other).unwrap();
    project.run(&["lock"]).expect(4, &["it is the index of `noble`, `noble`, not of `noble-security`"]);
}

#[test]
fn an_index_older_than_the_lock_is_refused_unless_asked_for() {
    let mut packages = packages();
    packages.retain(|p| p.name != "extra");
    let (project, _server, _) = world(&packages);
    project.lock(&[]);
    let path = project.path("profiles/castiron.lock");
    let lock = fs::read_to_string(&path).unwrap().replace("2026-01-02T", "2026-03-01T");
    fs::write(&path, lock).unwrap();
    project
        .run(&["lock"])
        .expect(4, &["newest index is of 2026-02-02T03:04:05Z, older than the lock", "--allow-older"]);
    project.run(&["lock", "--allow-older"]).expect(2, &["package `extra`"]);
}

#[test]
fn no_mirror_at_all_is_a_matter_of_the_network() {
    let (project, _server, signer) = world(&packages());
    let none = Project::new(&[NOBODY], NOBODY, &signer.fingerprint());
    none.tools_lock(&signer.package());
    none.run(&["lock"]).expect(3, &["fetching the archive's key", NOBODY, "hint: check the network"]);
    drop(project);
}

#[test]
fn unknown_packages_are_named_with_place_and_near_names() {
    let (project, _server, _) = world(&packages());
    project.profile(
        "node",
        "description = \"node\"\nextends = \"base\"\npackages = [\n  \"extras\",\n  \"qqqqqqqq\",\n  \"zsh=2\",\n]\n",
    );
    project.run(&["lock"]).expect(
        2,
        &[
            "profiles/node.toml:4:3: no index of the archive knows the package `extras`; did you mean `extra`",
            "profiles/node.toml:5:3: no index of the archive knows the package `qqqqqqqq`\n",
            "profiles/node.toml:6:3: the archive has no version `2` of `zsh`; it has `1`",
        ],
    );
}

#[test]
fn clashing_pins_of_two_roles_are_named() {
    let (project, _server, _) = world(&packages());
    project.profile("node", "description = \"node\"\nextends = \"base\"\npackages = [\"zsh=1\"]\n");
    project.profile("other", "description = \"other\"\nextends = \"base\"\npackages = [\"zsh=2\"]\n");
    project
        .run(&["lock"])
        .expect(2, &["two versions of the package `zsh`", "profiles/node.toml:3:13", "profiles/other.toml:3:13"]);
}

#[test]
fn check_compares_offline_and_names_every_difference() {
    let (project, server, _) = world(&packages());
    project.run(&["lock", "--check"]).expect(2, &["there is no `profiles/castiron.lock`", "hint: castiron lock"]);
    project.lock(&[]);
    project.run(&["lock", "--check"]).expect(0, &["`profiles/castiron.lock` answers the profiles"]);
    project.profile("node", "description = \"node\"\nextends = \"base\"\npackages = [\"zsh\"]\n");
    project.profile("other", "description = \"other\"\nextends = \"base\"\npackages = [\"extra\"]\n");
    project.run(&["lock", "--check"]).expect(2, &["`node`: - extra", "`node`: + zsh", "`other`: + extra"]);
    let base = project.path("profiles/base.toml");
    let text = fs::read_to_string(&base).unwrap().replace("[\"noble\", \"noble-security\"]", "[\"noble\"]");
    fs::write(&base, text).unwrap();
    let changed = "`[archive]`: suites were `noble noble-security` and are `noble`";
    project.run(&["lock", "--check"]).expect(2, &[changed]);
    assert!(server.requests().is_empty());
}

#[test]
fn a_broken_lock_says_where() {
    let (project, _server, _) = world(&packages());
    write(&project.path("profiles/castiron.lock"), "schema = 1\nmade = 7\n");
    project.run(&["lock", "--check"]).expect(2, &["reading `profiles/castiron.lock`", "made = 7", "castiron lock"]);
}

/// A project whose tools tree is the real one, but for the key: `lock` may go all the way.
fn with_tools(packages: &[Deb]) -> (Project, Server, Signer) {
    let (project, server, signer) = world(packages);
    let real = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles/tools.lock")).unwrap();
    let (head, _) = real.split_once("\n[[package]]").unwrap();
    let blocks = real.split("\n[[package]]\n").skip(1).filter(|block| !block.contains("\"ubuntu-keyring\""));
    let blocks: String = blocks.map(|block| format!("\n[[package]]\n{block}")).collect();
    let lock = format!("{head}{blocks}{}", signer.package().locked("tools"));
    write(&project.path("profiles/tools.lock"), lock);
    let list = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles/tools.toml")).unwrap();
    let list = list.replace("mirrors = [", &format!("mirrors = [\"{}\", ", server.address));
    write(&project.path("profiles/tools.toml"), list);
    (project, server, signer)
}

#[test]
#[ignore = "needs the tools tree"]
fn layers_are_resolved_kept_and_upgraded() {
    let first = vec![
        Deb::new("core", "1", "Essential: yes\n"),
        Deb::new("basis", "1", "Depends: libbasis (>= 1), mta | zsh\n"),
        Deb::new("libbasis", "1", ""),
        Deb::new("mta", "1", "Conflicts: zsh\n"),
        Deb::new("linux-image-virtual", "1", ""),
        Deb::new("dracut", "1", "Depends: cpio, basis\n"),
        Deb::new("cpio", "1", ""),
        Deb::new("shim", "1", "Depends: nothing-that-exists\n"),
        Deb::new("extra", "1", "Depends: libextra, libbasis\n"),
        Deb::new("libextra", "1", ""),
        Deb::new("zsh", "1", ""),
    ];
    let (project, server, signer) = with_tools(&first);
    project.run(&["lock"]).expect(0, &["`profiles/castiron.lock` is written: 10 added"]);
    let path = project.path("profiles/castiron.lock");
    let lock = fs::read_to_string(&path).unwrap();
    let layer = |name: &str| {
        let block = lock.split("[[package]]").find(|b| b.contains(&format!("name = \"{name}\"\n")));
        block.map(|b| b.split("layers = ").nth(1).unwrap().lines().next().unwrap().to_owned())
    };
    let expected = [
        ("core", "base"),
        ("basis", "base"),
        ("mta", "base"),
        ("cpio", "initrd"),
        ("libextra", "node"),
        ("shim", "boot"),
    ];
    for (name, of) in expected {
        assert_eq!(layer(name), Some(format!("[\"{of}\"]")), "{name}\n{lock}");
    }
    assert_eq!(layer("zsh"), None);

    // Nothing of ours changed: not a byte.
    publish(server.folder.path(), &signer, "noble", "Tue, 03 Feb 2026  3:04:05 UTC", &first);
    project.run(&["lock"]).expect(0, &["is up to date (10 packages)"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), lock);

    // One moves, and takes along what it needs; another stays.
    let fixes = [
        Deb::new("basis", "2", "Depends: libbasis (>= 2), mta | zsh\n"),
        Deb::new("libbasis", "2", ""),
        Deb::new("extra", "2", "Depends: libextra, libbasis\n"),
    ];
    publish(server.folder.path(), &signer, "noble-security", "Wed, 04 Feb 2026  3:04:05 UTC", &fixes);
    let ran = project.run(&["lock", "--upgrade", "basis"]);
    ran.expect(0, &["`libbasis` must move, too", "2 changed (2 security)"]);
    assert_eq!(ran.stdout, "~ basis 1 → 2 (security)\n~ libbasis 1 → 2 (security)\n");
    let ran = project.run(&["lock"]);
    assert_eq!(ran.stdout, "~ extra 1 → 2 (security)\n");

    // What contradicts the parent is said in apt's words.
    project.profile("node", "description = \"node\"\nextends = \"base\"\npackages = [\"zsh\"]\n");
    project.run(&["lock"]).expect(2, &["the packages contradict each other", "mta : Conflicts: zsh"]);
}
