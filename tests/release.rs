//! `castiron diff` and `castiron why`, on small releases made here.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const OTHER: &str = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";

/// A folder with releases below `out/`.
struct Project(tempfile::TempDir);

impl Project {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn out(&self, name: &str) -> PathBuf {
        self.0.path().join("out").join(name)
    }

    fn castiron(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_castiron"))
            .env_remove("CASTIRON_LOCK")
            .current_dir(self.0.path())
            .args(["--project", ".", "--store", "store"])
            .args(args)
            .output()
            .unwrap()
    }

    /// Writes a release of the role `db` whose packages are (name, version, pocket).
    fn release(&self, version: &str, packages: &[(&str, &str, &str)], paths: &[Value]) {
        let packages: Vec<Value> = packages
            .iter()
            .map(|(name, version, pocket)| {
                json!({"name": name, "version": version, "architecture": "amd64", "pocket": pocket, "part": "image", "sha256": DIGEST,
                       "licences": []})
            })
            .collect();
        let manifest = json!({
            "schema": 1, "version": version, "debug-shell": false, "tools": {"castiron": "0.1.0"},
            "lock": {"made": "2024-04-25T00:00:00Z", "sha256": DIGEST, "tools-sha256": DIGEST},
            "roles": {"db": {
                "description": "", "kernel": "6.8.0-1-generic", "roothash": version, "inputs": {},
                "root-bytes": 4096 * version.len(), "verity-bytes": 4096, "contents": "db.contents.jsonl.zst",
                "carriers": [{"file": "db.qcow2", "format": "qcow2", "size": 7, "sha256": DIGEST}],
                "packages": packages,
            }},
        });
        let folder = self.out(&format!("db-{version}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
        write_paths(&folder, paths);
    }
}

fn write_paths(release: &Path, paths: &[Value]) {
    let lines = paths.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    std::fs::write(release.join("db.contents.jsonl.zst"), zstd::encode_all(lines.as_bytes(), 1).unwrap()).unwrap();
}

fn file(path: &str, digest: &str, origin: &str) -> Value {
    json!({"path": path, "kind": "file", "mode": "0644", "size": 7, "sha256": digest, "origin": origin})
}

fn link(path: &str, target: &str, origin: &str) -> Value {
    json!({"path": path, "kind": "link", "mode": "0777", "target": target, "origin": origin})
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Two releases with one difference of each kind.
fn two() -> Project {
    let project = Project::new();
    project.release(
        "1",
        &[("bash", "5.2-1", "noble"), ("gone", "1", "noble"), ("openssl", "3.0-1", "noble")],
        &[
            file("etc/motd", DIGEST, "overlay base"),
            file("usr/bin/gone", DIGEST, "package gone"),
            file("usr/bin/openssl", DIGEST, "package openssl"),
        ],
    );
    project.release(
        "10",
        &[("bash", "5.2-1", "noble"), ("new", "1:2", "noble-updates"), ("openssl", "3.0-2", "noble-security")],
        &[
            file("etc/motd", DIGEST, "overlay base"),
            link("usr/bin/new", "openssl", "package new"),
            file("usr/bin/openssl", OTHER, "package openssl"),
        ],
    );
    project
}

#[test]
fn diff_shows_packages_sizes_and_files() {
    let output = two().castiron(&["diff", "out/db-1", "out/db-10"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    insta::assert_snapshot!(stdout(&output), @r"
    old  out/db-1
    new  out/db-10

    version  1 → 10

    db
      packages
        - gone     1
        + new      1:2
        ~ openssl  3.0-1 → 3.0-2  (security)
        1 added, 1 removed, 1 changed (1 from security)
      sizes
        root image  4.00 KiB → 8.00 KiB  +4.00 KiB
        hash tree   4.00 KiB, other bytes
        db.qcow2    7 B, the same bytes
      files
        - usr/bin/gone  7 B, package gone
        + usr/bin/new  link, package new
        ~ usr/bin/openssl  content
        1 added, 1 removed, 1 changed

    the releases differ
    ");
}

#[test]
fn diff_says_by_its_exit_code_whether_releases_differ_if_asked() {
    let project = two();
    assert_eq!(project.castiron(&["diff", "--exit-code", "out/db-1", "out/db-10"]).status.code(), Some(1));
    assert_eq!(project.castiron(&["diff", "--exit-code", "out/db-1", "out/db-1", "db"]).status.code(), Some(0));
}

#[test]
fn diff_gives_programs_one_object_a_difference() {
    let output = two().castiron(&["--json", "diff", "out/db-1", "out/db-10"]);
    let objects: Vec<Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["event"] == "data")
        .map(|event| serde_json::from_str(event["line"].as_str().unwrap()).unwrap())
        .collect();
    let count = |kind: &str| objects.iter().filter(|o| o["kind"] == kind).count();
    assert_eq!([count("header"), count("package"), count("size"), count("file"), count("end")], [1, 3, 3, 3, 1]);
    let changed = objects.iter().find(|o| o["kind"] == "package" && o["name"] == "openssl").unwrap();
    assert_eq!(
        (&changed["security"], &changed["old"][0], &changed["new"][0]),
        (&json!(true), &json!("3.0-1"), &json!("3.0-2"))
    );
    assert_eq!(objects.last().unwrap()["differ"], true);
}

#[test]
fn diff_refuses_what_is_no_release_and_roles_that_are_not_there() {
    let project = two();
    let output = project.castiron(&["diff", "out/db-1", "out"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("`out` is no release"), "{}", stderr(&output));
    let output = project.castiron(&["diff", "out/db-1", "out/db-10", "dbb", "xx"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("neither release has the role `dbb`, `xx`"), "{}", stderr(&output));
    assert!(stderr(&output).contains("they have `db`"), "{}", stderr(&output));
}

#[test]
fn a_damaged_list_is_named_with_its_line() {
    let project = two();
    let paths = [file("b", DIGEST, "castiron"), file("a", DIGEST, "castiron")];
    write_paths(&project.out("db-10"), &paths);
    let output = project.castiron(&["diff", "out/db-1", "out/db-10"]);
    assert_eq!(output.status.code(), Some(4));
    let text = stderr(&output);
    assert!(
        text.contains("out/db-10/db.contents.jsonl.zst`, line 2") && text.contains("`a` stands behind `b`"),
        "{text}"
    );

    let whole = std::fs::read(project.out("db-1").join("db.contents.jsonl.zst")).unwrap();
    std::fs::write(project.out("db-10").join("db.contents.jsonl.zst"), &whole[..whole.len() / 2]).unwrap();
    let output = project.castiron(&["why", "/etc/motd", "--release", "out/db-10"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
}

/// One release with a path of each origin.
fn one() -> Project {
    let project = Project::new();
    let units = "usr/lib/systemd/system";
    project.release(
        "1",
        &[("bash", "5.2-1", "noble"), ("openssl", "3.0-2", "noble-security")],
        &[
            link("bin", "usr/bin", "package bash"),
            file("etc/ld.so.cache", DIGEST, "installation"),
            file("etc/machine-id", DIGEST, "castiron"),
            file("etc/motd", DIGEST, "overlay base"),
            file("opt/tool", DIGEST, "file https://example.com/tool"),
            link("usr/bin/sh", "bash", "package bash"),
            file(&format!("{units}/grow.service"), DIGEST, "firstboot"),
            link(&format!("{units}/multi-user.target.wants/grow.service"), "../grow.service", "firstboot"),
        ],
    );
    let mut paths = vec![
        link("bin", "usr/bin", "package bash"),
        file("etc/ld.so.cache", DIGEST, "installation"),
        file("etc/machine-id", DIGEST, "castiron"),
        file("etc/motd", DIGEST, "overlay base"),
        file("opt/tool", DIGEST, "file https://example.com/tool"),
        file("usr/bin/bash", DIGEST, "package bash"),
        file("usr/bin/castiron-node", DIGEST, "castiron-node"),
        file("usr/bin/openssl", DIGEST, "package openssl"),
        link("usr/bin/sh", "bash", "package bash"),
        file(&format!("{units}/grow.service"), DIGEST, "firstboot"),
        link(&format!("{units}/multi-user.target.wants/grow.service"), "../grow.service", "firstboot"),
    ];
    paths.sort_by_key(|p| p["path"].as_str().unwrap().to_owned());
    write_paths(&project.out("db-1"), &paths);
    project
}

#[test]
fn why_names_the_cause_of_every_kind() {
    let project = one();
    for (path, cause) in [
        ("/usr/bin/openssl", "package openssl 3.0-2 (noble-security)"),
        ("/etc/motd", "overlay base: `overlays/base/etc/motd`"),
        ("/usr/lib/systemd/system/grow.service", "unit grow.service: `firstboot/grow.service`"),
        ("/usr/lib/systemd/system/multi-user.target.wants/grow.service", "unit grow.service: the profile enables it"),
        ("/opt/tool", "pinned file of the profile: https://example.com/tool"),
        ("/etc/machine-id", "castiron itself"),
        ("/usr/bin/castiron-node", "castiron itself: its program on the machine"),
        ("/etc/ld.so.cache", "the packages' own scripts"),
    ] {
        let output = project.castiron(&["why", path]);
        assert_eq!(output.status.code(), Some(0), "{path}: {}", stderr(&output));
        assert!(stdout(&output).contains(&format!("  from  {cause}")), "{path}: {}", stdout(&output));
    }
}

#[test]
fn why_follows_links_on_the_way_and_says_where_one_leads() {
    let output = one().castiron(&["why", "bin/sh", "--role", "db"]);
    insta::assert_snapshot!(stdout(&output), @r"
    /usr/bin/sh in the image of db
      from  package bash 5.2-1 (noble)
      is    a link to `bash`
      leads to /usr/bin/bash, from package bash 5.2-1 (noble)
    ");
}

#[test]
fn why_says_what_is_left_out_on_purpose() {
    let output = one().castiron(&["why", "/usr/share/man/man1/bash.1.gz"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("leaves it out of every image: of documents only the copyright files stay"));
}

#[test]
fn why_offers_what_is_near_a_path_that_is_not_there() {
    let project = one();
    let output = project.castiron(&["why", "/usr/bin/opensll"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("`/usr/bin/opensll` is in no image (`db`)"), "{}", stderr(&output));
    assert!(stderr(&output).contains("near it: `/usr/bin/openssl`"), "{}", stderr(&output));
    let output = project.castiron(&["why", "/usr/sbin/bash"]);
    assert!(stderr(&output).contains("near it: `/usr/bin/bash`"), "{}", stderr(&output));
}

#[test]
fn why_looks_into_the_newest_release_unless_one_is_named() {
    let project = one();
    project.release("2", &[], &[file("etc/new", DIGEST, "castiron")]);
    let manifest = |name: &str| std::fs::File::open(project.out(name).join("manifest.json")).unwrap();
    let made = manifest("db-1").metadata().unwrap().modified().unwrap();
    manifest("db-2").set_modified(made + std::time::Duration::from_secs(1)).unwrap();
    assert_eq!(project.castiron(&["why", "/etc/new"]).status.code(), Some(0));
    assert_eq!(project.castiron(&["why", "/etc/new", "--release", "out/db-1"]).status.code(), Some(2));

    let output = Project::new().castiron(&["why", "/etc/motd"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("there is no release"), "{}", stderr(&output));
}
