//! `castiron store`: what is there, whether it is intact, and what nobody names any more.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod archive;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use archive::{Deb, NOBODY, Project, Server, publish_pool, write};

/// A project whose store holds three packages.
fn full() -> (Project, Server, Vec<Deb>) {
    let server = Server::new();
    let debs = vec![Deb::blob("one", 1000), Deb::blob("two", 2000), Deb::blob("three", 3000)];
    publish_pool(server.folder.path(), &debs);
    let project = Project::new(&[&server.address], NOBODY, &"0".repeat(40));
    project.lock(&debs);
    project.run(&["fetch"]).expect(0, &[]);
    (project, server, debs)
}

#[test]
fn ls_names_every_object_and_stdout_is_data_only() {
    let (project, _server, debs) = full();
    let ran = project.run(&["store", "ls"]);
    ran.expect(0, &["3 objects, 5.86 KiB"]);
    assert_eq!(ran.stdout.lines().count(), 3);
    for deb in &debs {
        let line = format!("{} {:>12} {} 1", deb.sha256(), deb.bytes.len(), deb.name);
        assert!(ran.stdout.lines().any(|l| l == line), "{line}\n{}", ran.stdout);
    }
}

#[test]
fn an_empty_store_is_no_error() {
    let project = Project::new(&[NOBODY], NOBODY, &"0".repeat(40));
    project.run(&["store", "ls"]).expect(0, &["0 objects"]);
    project.run(&["store", "verify"]).expect(0, &["every object is what its name says"]);
    project.run(&["store", "gc"]).expect(0, &["0 entries"]);
}

#[test]
fn verify_finds_and_removes_damage_and_fetch_mends_it() {
    let (project, _server, debs) = full();
    project.run(&["store", "verify"]).expect(0, &["every object is what its name says"]);
    let object = project.object(&debs[1].sha256());
    fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = debs[1].bytes.clone();
    bytes[0] ^= 1;
    fs::write(&object, bytes).unwrap();
    let ran = project.run(&["store", "verify"]);
    ran.expect(4, &["1 of 3 objects were damaged and are removed", "hint: castiron fetch"]);
    assert_eq!(ran.stdout, format!("{} two 1\n", debs[1].sha256()));
    assert!(!object.exists());
    project.run(&["fetch"]).expect(0, &["bringing 1 file"]);
    project.run(&["store", "verify"]).expect(0, &[]);
}

#[test]
fn gc_removes_what_nobody_names() {
    let (project, _server, debs) = full();
    project.lock(&debs[..2]);
    write(&project.path("store/partial").join(debs[2].sha256().to_string()), "half");
    write(&project.path("store/.lock-x/apt.conf"), "left behind");
    write(&project.path("store/tools/0123456789ab/bin/sh"), "an older tree");
    for (key, when) in [("old", 1), ("new", 2)] {
        let record = project.path(&format!("store/stages-v1/rootfs-base/{key}/record.json"));
        write(&record, "{}");
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(when);
        fs::File::options().write(true).open(&record).unwrap().set_modified(time).unwrap();
    }
    let dry = project.run(&["store", "gc", "--dry-run"]);
    dry.expect(0, &["5 entries", "would be removed"]);
    assert!(project.object(&debs[2].sha256()).exists());
    let ran = project.run(&["store", "gc"]);
    ran.expect(0, &["5 entries", "are removed"]);
    assert_eq!(ran.stdout, dry.stdout);
    assert!(!project.object(&debs[2].sha256()).exists());
    assert!(project.object(&debs[0].sha256()).exists());
    assert!(!project.path("store/.lock-x").exists() && !project.path("store/tools/0123456789ab").exists());
    assert!(project.path("store/stages-v1/rootfs-base/new").exists());
    assert!(!project.path("store/stages-v1/rootfs-base/old").exists());
    assert_eq!(fs::read_dir(project.path("store/partial")).unwrap().count(), 0);
    project.run(&["store", "gc"]).expect(0, &["0 entries"]);
}

#[test]
fn gc_leaves_a_store_alone_that_another_uses() {
    let (project, _server, _) = full();
    let lock = fs::File::options().write(true).open(project.path("store/lock")).unwrap();
    lock.lock_shared().unwrap();
    project.run(&["store", "gc"]).expect(1, &["another castiron uses the store", "when the other has ended"]);
    drop(lock);
    project.run(&["store", "gc"]).expect(0, &[]);
}
