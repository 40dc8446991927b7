//! From the lock to the store, over mirrors that fail in every way that mirrors do.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod archive;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use archive::{Deb, Fault, NOBODY, Project, Ran, Server, publish_pool, write};

fn project(mirrors: &[&str]) -> Project {
    Project::new(mirrors, NOBODY, &"0".repeat(40))
}

#[test]
fn all_is_brought_verified_and_then_needs_no_network() {
    let server = Server::new();
    let debs = [Deb::blob("one", 300_000), Deb::blob("two", 10)];
    publish_pool(server.folder.path(), &debs);
    let project = project(&[&server.address]);
    project.lock(&debs);
    project.run(&["fetch"]).expect(0, &["bringing 2 files", "the store holds all that `node` needs"]);
    for deb in &debs {
        let object = project.object(&deb.sha256());
        assert_eq!(fs::read(&object).unwrap(), deb.bytes);
        assert_eq!(fs::metadata(&object).unwrap().permissions().mode() & 0o777, 0o444);
    }
    assert_eq!(server.requests().len(), 2);
    // In a network namespace where not even the loopback is up.
    let castiron = project.command(&["fetch"]);
    let mut command = Command::new("unshare");
    command.arg("-Urn").arg(castiron.get_program()).args(castiron.get_args());
    Ran::of(command.output().unwrap()).expect(0, &["checking 2 files of the store"]);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn wrong_bytes_never_get_a_name() {
    let server = Server::new();
    let deb = Deb::blob("one", 1000);
    let mut other = deb.bytes.clone();
    other[500] ^= 1;
    write(&server.folder.path().join(&deb.path), &other);
    let project = project(&[&server.address]);
    project.lock(std::slice::from_ref(&deb));
    let ran = project.run(&["fetch"]);
    ran.expect(4, &["no source gives `one 1`", &server.address, "its sha256 is", "no source gives"]);
    assert!(!project.object(&deb.sha256()).exists());
    // A mirror that has the right ones makes up for it.
    let good = Server::new();
    publish_pool(good.folder.path(), std::slice::from_ref(&deb));
    project.run(&["fetch", "--mirror", &server.address, "--mirror", &good.address]).expect(0, &[]);
    assert_eq!(fs::read(project.object(&deb.sha256())).unwrap(), deb.bytes);
}

#[test]
fn an_unreachable_mirror_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let deb = Deb::blob("one", 1000);
    publish_pool(folder.path(), std::slice::from_ref(&deb));
    let project = project(&[NOBODY, folder.path().to_str().unwrap()]);
    project.lock(std::slice::from_ref(&deb));
    project.run(&["fetch"]).expect(0, &[]);
    assert!(project.object(&deb.sha256()).exists());
}

#[test]
fn without_any_mirror_every_source_is_named() {
    let project = project(&[NOBODY]);
    project.lock(&[Deb::blob("one", 1000)]);
    let source = format!("{NOBODY}/pool/one_1_amd64.deb: ");
    project
        .run(&["fetch"])
        .expect(3, &["no source gives `one 1`", &source, "Connection refused", "hint: check the network"]);
}

#[test]
fn what_left_the_archive_is_named_all_at_once() {
    let server = Server::new();
    let project = project(&[&server.address]);
    project.lock(&[Deb::blob("one", 1000), Deb::blob("two", 1000)]);
    project.run(&["fetch"]).expect(
        3,
        &[
            "2 locked packages have left the archive\n",
            "\n  one 1\n",
            "\n  two 1\n",
            "the snapshot service does not help",
            "hint: castiron lock",
        ],
    );
}

#[test]
fn what_left_the_archive_comes_from_the_snapshot_of_the_lock() {
    let (server, snapshot) = (Server::new(), Server::new());
    let deb = Deb::blob("one", 1000);
    write(&snapshot.folder.path().join("20260102T030405Z").join(&deb.path), &deb.bytes);
    let project = Project::new(&[&server.address], &snapshot.address, &"0".repeat(40));
    project.lock(std::slice::from_ref(&deb));
    project.run(&["fetch"]).expect(0, &[]);
    assert_eq!(fs::read(project.object(&deb.sha256())).unwrap(), deb.bytes);
}

#[test]
fn a_connection_that_breaks_off_is_resumed() {
    let server = Server::new();
    let deb = Deb::blob("one", 1_000_000);
    publish_pool(server.folder.path(), std::slice::from_ref(&deb));
    server.fault(&deb.path, Fault::Cut(400_000));
    server.fault(&deb.path, Fault::Cut(100_000));
    let project = project(&[&server.address]);
    project.lock(std::slice::from_ref(&deb));
    project.run(&["fetch"]).expect(0, &[]);
    assert_eq!(fs::read(project.object(&deb.sha256())).unwrap(), deb.bytes);
    let ranges = server.ranges(&deb.path);
    assert_eq!(ranges, [None, Some("bytes=400000-".into()), Some("bytes=500000-".into())]);
}

#[test]
fn a_server_that_knows_no_ranges_starts_over() {
    let server = Server::without_ranges();
    let deb = Deb::blob("one", 1_000_000);
    publish_pool(server.folder.path(), std::slice::from_ref(&deb));
    server.fault(&deb.path, Fault::Cut(400_000));
    let project = project(&[&server.address]);
    project.lock(std::slice::from_ref(&deb));
    project.run(&["fetch"]).expect(0, &[]);
    assert_eq!(fs::read(project.object(&deb.sha256())).unwrap(), deb.bytes);
    assert_eq!(server.ranges(&deb.path), [None, Some("bytes=400000-".into())]);
}

#[test]
fn a_partial_file_with_wrong_bytes_does_not_spoil_a_good_mirror() {
    let server = Server::new();
    let deb = Deb::blob("one", 1000);
    publish_pool(server.folder.path(), std::slice::from_ref(&deb));
    let project = project(&[&server.address]);
    project.lock(std::slice::from_ref(&deb));
    write(&project.partial(&deb.sha256()), vec![0; 600]);
    project.run(&["fetch"]).expect(0, &[]);
    assert_eq!(fs::read(project.object(&deb.sha256())).unwrap(), deb.bytes);
    assert_eq!(server.ranges(&deb.path), [Some("bytes=600-".into()), None]);
}

#[test]
fn a_damaged_object_is_found_and_fetched_again() {
    let server = Server::new();
    let debs = [Deb::blob("one", 1000), Deb::blob("two", 1000)];
    publish_pool(server.folder.path(), &debs);
    let project = project(&[&server.address]);
    project.lock(&debs);
    project.run(&["fetch"]).expect(0, &[]);
    let object = project.object(&debs[0].sha256());
    fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&object, vec![0; 1000]).unwrap();
    project.run(&["fetch"]).expect(0, &["warning: `one 1` was damaged in the store and is fetched again"]);
    assert_eq!(fs::read(&object).unwrap(), debs[0].bytes);
    assert_eq!(server.ranges(&debs[1].path).len(), 1);
}

#[test]
fn two_at_once_are_both_right() {
    let server = Server::new();
    let debs: Vec<Deb> = (0..20).map(|i| Deb::blob(&"x".repeat(i + 1), 50_000 + i)).collect();
    publish_pool(server.folder.path(), &debs);
    let project = project(&[&server.address]);
    project.lock(&debs);
    let start = || project.command(&["fetch"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let both = [start(), start()];
    for child in both {
        Ran::of(child.wait_with_output().unwrap()).expect(0, &[]);
    }
    for deb in &debs {
        assert_eq!(fs::read(project.object(&deb.sha256())).unwrap(), deb.bytes);
    }
    assert_eq!(fs::read_dir(project.path("store/partial")).unwrap().count(), 0);
}

#[test]
fn a_full_disk_says_so() {
    let server = Server::new();
    let deb = Deb::blob("one", 4 << 20);
    publish_pool(server.folder.path(), std::slice::from_ref(&deb));
    let project = project(&[&server.address]);
    project.lock(std::slice::from_ref(&deb));
    fs::create_dir_all(project.path("store")).unwrap();
    let mounted = r#"mount -t tmpfs -o size=1m full "$0" && exec "$@""#;
    let castiron = project.command(&["fetch"]);
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", mounted]).arg(project.path("store"));
    command.arg(castiron.get_program()).args(castiron.get_args());
    let ran = Ran::of(command.output().unwrap());
    ran.expect(1, &["fetching `one 1`", "store/partial/", "No space left on device", "hint: free some space"]);
}

#[test]
fn an_interrupted_run_leaves_no_half_object_and_a_rerun_goes_on() {
    let server = Server::new();
    let deb = Deb::blob("one", 1_000_000);
    publish_pool(server.folder.path(), std::slice::from_ref(&deb));
    let (reached, stalled) = mpsc::channel();
    server.fault(&deb.path, Fault::Stall(300_000, reached));
    let project = project(&[&server.address]);
    project.lock(std::slice::from_ref(&deb));
    let child = project.command(&["fetch"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    stalled.recv().unwrap();
    // The bytes are on their way; only the partial file tells when they have arrived.
    while fs::metadata(project.partial(&deb.sha256())).map_or(0, |meta| meta.len()) < 300_000 {
        std::thread::yield_now();
    }
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    Ran::of(child.wait_with_output().unwrap()).expect(130, &["error: interrupted"]);
    assert!(!project.object(&deb.sha256()).exists());
    project.run(&["fetch"]).expect(0, &[]);
    assert_eq!(fs::read(project.object(&deb.sha256())).unwrap(), deb.bytes);
    assert_eq!(server.ranges(&deb.path), [None, Some("bytes=300000-".into())]);
}

#[test]
fn a_pinned_file_comes_by_its_digest() {
    let server = Server::new();
    let file = Deb::blob("kubelet", 5000);
    publish_pool(server.folder.path(), std::slice::from_ref(&file));
    let project = project(&[&server.address]);
    project.lock(&[]);
    let url = format!("{}/{}", server.address, file.path);
    let digest = file.sha256();
    project.profile(
        "node",
        &format!(
            "description = \"node\"\nextends = \"base\"\npackages = [\"extra\"]\n\n[[file]]\nurl = \"{url}\"\nsha256 = \"{digest}\"\n\
             destination = \"/usr/bin/kubelet\"\nmode = \"0755\"\n"
        ),
    );
    project.run(&["fetch"]).expect(0, &[]);
    assert_eq!(fs::read(project.object(&digest)).unwrap(), file.bytes);
    let asked = server.requests().len();
    project.run(&["fetch"]).expect(0, &[]);
    assert_eq!(server.requests().len(), asked, "a file that is there costs no network");
}

#[test]
fn a_lock_that_answers_something_else_is_refused_before_the_network_is_asked() {
    let project = project(&[NOBODY]);
    project.lock(&[]);
    project.profile("node", "description = \"node\"\nextends = \"base\"\npackages = [\"other\"]\n");
    project.run(&["fetch"]).expect(2, &["`node`: - extra", "`node`: + other", "hint: castiron lock"]);
}
