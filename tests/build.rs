//! `castiron build`: what is wrong is said before anything is made, and what a profile asks for is in the image.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod archive;
mod common;

use std::fs;
use std::path::{Path, PathBuf};

use archive::Server;
use castiron::digest::Sha256;
use common::{Ran, Watched, World, castiron, copy_project, paths, warm};
use serde_json::Value;

/// A copy of this project whose role `db` has `more` at its end, and a store that is empty.
fn project(more: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_project(folder.path());
    append(&folder.path().join("profiles/db.toml"), more);
    folder
}

fn append(path: &Path, text: &str) {
    fs::write(path, fs::read_to_string(path).unwrap() + text).unwrap();
}

fn build(project: &Path, args: &[&str]) -> Ran {
    let out = project.join("out");
    let mut command = castiron(&project.join("store"), &["build", "--output", out.to_str().unwrap(), "--project"]);
    let ran = Ran::of(command.arg(project).args(args));
    assert!(!out.exists());
    ran
}

#[test]
fn an_unknown_role_has_a_nearest_name() {
    build(project("").path(), &["dbb"]).expect(2, &["no role `dbb`", "the nearest name is `db`"]);
}

#[test]
fn a_lock_that_answers_another_profile_is_stale() {
    let project = project("");
    let profile = project.path().join("profiles/db.toml");
    let text = fs::read_to_string(&profile).unwrap().replace("packages = [", "packages = [\n  \"htop\",");
    fs::write(profile, text).unwrap();
    build(project.path(), &["db"]).expect(2, &["`db`: + htop", "hint: castiron lock"]);
}

#[test]
fn castiron_node_must_be_there() {
    let ran = build(project("").path(), &["db", "--node", "/no/such/file"]);
    ran.expect(2, &["castiron-node is not at `/no/such/file`", "`make build` makes it there"]);
}

#[test]
fn a_version_is_one_that_os_release_can_carry() {
    let project = project("");
    let output = castiron(&project.path().join("store"), &["build", "db", "--image-version", "1 b"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("a version has lower-case letters, digits, `.`, `_` and `-` only"), "{text}");
}

/// `castiron build` of a copy of this project, changed by `change`.
fn build_changed(world: &World, change: impl FnOnce(&Path)) -> Ran {
    let project = world.path("project");
    copy_project(&project);
    change(&project);
    Ran::of(world.build(&["--project"]).arg(&project))
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn a_root_image_that_its_slot_does_not_hold() {
    let world = World::new(&["rootfs", "initrd"]);
    let ran = build_changed(&world, |project| {
        let base = project.join("profiles/base.toml");
        let text = fs::read_to_string(&base).unwrap();
        assert!(text.contains("slot = \"1G\""));
        fs::write(&base, text.replace("slot = \"1G\"", "slot = \"32M\"")).unwrap();
    });
    ran.expect(2, &["the root image has ", "and `image.slot` of the profile gives it 32 MiB", "raise `slot`"]);
    assert_eq!(world.unfinished(), Vec::<PathBuf>::new());
}

/// A pinned file on a server of the test's, as a profile asks for it.
fn pinned(server: &Server, digest: &Sha256) -> String {
    format!(
        "\n[[file]]\nurl = \"{}/pinned\"\nsha256 = \"{digest}\"\ndestination = \"/usr/bin/pinned\"\nmode = \"0755\"\n",
        server.address
    )
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn a_pinned_file_with_another_digest_is_refused_and_a_right_one_lands() {
    let server = Server::new();
    fs::write(server.folder.path().join("pinned"), "#!/bin/sh\n").unwrap();
    let world = World::new(&["rootfs", "initrd"]);
    let right = Sha256::of("#!/bin/sh\n");
    let ran = build_changed(&world, |project| {
        append(&project.join("profiles/db.toml"), &pinned(&server, &Sha256::of("#!/bin/bash\n")));
    });
    ran.expect(4, &[&server.address, &right.to_string(), &Sha256::of("#!/bin/bash\n").to_string()]);
    assert_eq!(world.unfinished(), Vec::<PathBuf>::new());

    let ran = build_changed(&world, |project| append(&project.join("profiles/db.toml"), &pinned(&server, &right)));
    assert_eq!(ran.code, Some(0), "{}", ran.error());
    let paths = paths(Path::new(ran.data()));
    let found = paths.iter().find(|p| p["path"] == "usr/bin/pinned").unwrap();
    assert_eq!(found["mode"], "0755");
    assert_eq!(found["sha256"], right.to_string());
    assert_eq!(found["origin"], format!("file {}/pinned", server.address));
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn a_debug_shell_is_loud() {
    let world = World::new(&["rootfs", "initrd"]);
    let ran = Ran::of(&mut world.build(&["--debug-shell"]));
    assert_eq!(ran.code, Some(0), "{}", ran.error());
    let warnings: Vec<&str> = ran.told("warning").filter_map(|w| w["text"].as_str()).collect();
    assert!(warnings.iter().any(|w| w.contains("anybody at the console of this image is root")), "{warnings:?}");
    let release = Path::new(ran.data());
    assert!(release.to_str().unwrap().ends_with("-debug-shell"));
    let banner = |path: &Value| path["path"] == "etc/issue.d/debug-shell.issue";
    for (release, on) in [(release, true), (warm().release.as_path(), false)] {
        let manifest: Value =
            serde_json::from_str(&fs::read_to_string(release.join("manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest["debug-shell"], on);
        let paths = paths(release);
        assert_eq!(paths.iter().any(banner), on);
        assert_eq!(paths.iter().any(|p| p["origin"] == "overlay debug-shell"), on);
    }
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn memory_does_not_grow_with_the_image() {
    let world = World::new(&[]);
    let mut run = Watched::start(&world.build(&["--format", "raw,qcow2"]));
    let status = PathBuf::from(format!("/proc/{}/status", run.id()));
    let mut peak = 0;
    // The initrd is made beside the first two: its step may come before or after theirs.
    for step in ["installing", "sealing", "writing the disk", ".zst", "describing", "naming"] {
        run.until(step);
        let text = fs::read_to_string(&status).unwrap();
        let line = text.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        peak = line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    }
    let (ran, _) = run.end();
    assert_eq!(ran.code, Some(0), "{}", ran.error());
    assert!(peak < 200 << 10, "{peak} KiB");
}
