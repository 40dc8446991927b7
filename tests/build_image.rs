//! What is in an image, and what must not be: state, identities, secrets, times of a build; and the same bytes from
//! another user, folder and store.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod common;

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use castiron::tools::EPOCH;
use common::{CASTIRON, Ran, World, copy_project, events, link_tree, paths, sums, warm};
use serde_json::Value;

/// A file of the one result of a stage in the warm store.
fn result(stage: &str, file: &str) -> PathBuf {
    let mut results = fs::read_dir(warm().store.join("stages-v1").join(stage)).unwrap().map(|e| e.unwrap().path());
    results.find(|path| path.is_dir()).unwrap().join(file)
}

/// What `unsquashfs` of the tools tree says of the root image.
fn unsquashfs(args: &[&str], paths: &[&str]) -> String {
    let trees = fs::read_dir(warm().store.join("tools")).unwrap().map(|e| e.unwrap().path());
    let tree = trees.into_iter().find(|tree| tree.join("usr/bin/unsquashfs").exists()).unwrap();
    // By its own loader: the host need not have its libraries.
    let output = Command::new(tree.join("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"))
        .arg("--library-path")
        .arg(tree.join("usr/lib/x86_64-linux-gnu"))
        .arg(tree.join("usr/bin/unsquashfs"))
        .args(args)
        .arg(result("system-db", "root.img"))
        .args(paths)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn no_state_of_a_machine_is_in_an_image() {
    let empty = castiron::digest::Sha256::of("").to_string();
    let mut left = Vec::new();
    for entry in paths(&warm().release) {
        let path = entry["path"].as_str().unwrap();
        let name = path.rsplit('/').next().unwrap();
        // What packages bring of root's home; nothing is below it.
        if ["root/.bashrc", "root/.profile", "root/.ssh"].contains(&path) {
            continue;
        }
        let below = ["var/", "tmp/", "run/", "boot/", "root/", "home/", "dev/", "proc/", "sys/"];
        let state = below.iter().any(|tree| path.starts_with(tree))
            || (name.starts_with("ssh_host_") && path.starts_with("etc/"))
            || ["random-seed", "urandom-seed", "credential.secret", ".pwd.lock", "passwd-", "shadow-", "adjtime"]
                .contains(&name)
            || name.ends_with(".log")
            || name.ends_with(".pyc")
            || (path == "etc/machine-id" && entry["sha256"] != empty)
            // The name comes with the seed, at boot.
            || (path == "etc/hostname" && entry["target"] != "/run/castiron/hostname")
            || path.starts_with("etc/ssl/private/");
        if state {
            left.push(path.to_owned());
        }
    }
    assert_eq!(left, Vec::<String>::new());
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn nobody_can_log_in() {
    let shadow = unsquashfs(&["-cat"], &["etc/shadow"]);
    assert!(shadow.lines().any(|line| line.starts_with("root:")));
    for line in shadow.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        // `*` and `!` match no password; nothing at all would match every one.
        assert!(fields[1].starts_with(['*', '!']) && !fields[1].contains('$'), "{line}");
        assert_eq!(fields[2].parse().unwrap_or(EPOCH / 86_400), EPOCH / 86_400, "the day of the build: {line}");
    }
    let accounts = unsquashfs(&["-cat"], &["etc/passwd"]);
    assert!(accounts.lines().all(|line| line.split(':').nth(1) == Some("x")), "{accounts}");
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn no_time_and_no_key_of_the_build_is_in_an_image() {
    for line in unsquashfs(&["-UTC", "-lls"], &[]).lines().filter(|line| line.contains("squashfs-root")) {
        assert!(line.contains(" 2024-04-25 00:00 "), "{line}");
    }
    for layer in ["rootfs-base", "rootfs-db"] {
        let mut tree = tar::Archive::new(File::open(result(layer, "tree.tar")).unwrap());
        for entry in tree.entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap();
            assert!(entry.header().mtime().unwrap() <= EPOCH, "{layer}: {}", path.display());
            // Nor a key of the build, in the cache.
            assert!(!path.starts_with("./etc/ssh") || !path.to_string_lossy().contains("_key") || entry.size() == 0);
        }
    }
    // dracut keeps the times of the packages' files, none of which is newer than the archive that the lock saw.
    let manifest: Value =
        serde_json::from_str(&fs::read_to_string(warm().release.join("manifest.json")).unwrap()).unwrap();
    let made: jiff::Timestamp = manifest["lock"]["made"].as_str().unwrap().parse().unwrap();
    let mut archive = Vec::new();
    zstd::Decoder::new(File::open(result("initrd-all", "initrd")).unwrap()).unwrap().read_to_end(&mut archive).unwrap();
    let mut count = 0;
    for (name, time) in cpio_times(&archive) {
        assert!(time.cast_signed() <= made.as_second(), "initrd: {name}");
        count += 1;
    }
    assert!(count > 100, "{count}");
}

/// Names and times of a cpio archive of the kernel's "newc" kind (Documentation/driver-api/early-userspace/buffer-format.rst).
fn cpio_times(archive: &[u8]) -> Vec<(String, u64)> {
    let number = |at: usize| u64::from_str_radix(std::str::from_utf8(&archive[at..at + 8]).unwrap(), 16).unwrap();
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        assert_eq!(&archive[at..at + 6], b"070701", "at {at}");
        let (time, size, name) = (number(at + 46), number(at + 54) as usize, number(at + 94) as usize);
        let text = String::from_utf8_lossy(&archive[at + 110..at + 110 + name - 1]).into_owned();
        if text == "TRAILER!!!" {
            return found;
        }
        found.push((text, time));
        at = (at + 110 + name).next_multiple_of(4);
        at = (at + size).next_multiple_of(4);
    }
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn another_folder_store_and_surroundings_give_the_same_bytes() {
    let world = World::new(&[]);
    let project = tempfile::tempdir_in("/var/tmp").unwrap();
    copy_project(project.path());
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 077; exec \"$@\"", "sh", CASTIRON, "--json", "build", "db"]);
    shell.current_dir(project.path()).env("CASTIRON_STORE", world.path("store"));
    shell
        .env("TZ", "Asia/Tokyo")
        .env("LC_ALL", "tr_TR.UTF-8")
        .env("SOURCE_DATE_EPOCH", "1")
        .env("TMPDIR", world.path("out"));
    let ran = Ran::of(&mut shell);
    assert_eq!(ran.code, Some(0), "{}", ran.error());
    assert!(ran.has("rootfs", "done") && ran.has("initrd", "done") && ran.has("system", "done"), "{:?}", ran.steps());
    assert_eq!(Path::new(ran.data()).parent(), Some(project.path().join("out").as_path()));
    assert_eq!(sums(Path::new(ran.data())), sums(&warm().release));
}

/// A user of this machine for as long as a test runs.
struct User;

const USER: &str = "castiron-test";

impl User {
    fn new() -> Self {
        drop(Self); // what an interrupted test left
        run("useradd", &["--create-home", "--home-dir", "/var/tmp/castiron-test-home", USER]);
        let ids = fs::read_to_string("/etc/subuid").unwrap_or_default();
        if !ids.lines().any(|line| line.starts_with("castiron-test:")) {
            run("usermod", &["--add-subuids", "700000-765535", "--add-subgids", "700000-765535", USER]);
        }
        Self
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = Command::new("userdel").args(["--remove", USER]).output();
    }
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Root's build and an ordinary user's, who shares nothing with root but the packages' bytes: not even the tools tree.
#[test]
#[ignore = "as root: makes and removes the user castiron-test"]
fn an_ordinary_user_gives_the_same_bytes_as_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test makes a user, so it runs as root only");
    let warm = warm();
    let _user = User::new();
    let home = Path::new("/var/tmp/castiron-test-home");
    copy_project(&home.join("project"));
    fs::create_dir_all(home.join("bin")).unwrap();
    fs::copy(CASTIRON, home.join("bin/castiron")).unwrap();
    let node = Path::new(CASTIRON).with_file_name("../lib/castiron/castiron-node");
    let node = std::env::var_os("CASTIRON_NODE").map_or(node, PathBuf::from);
    fs::copy(node, home.join("bin/castiron-node")).unwrap();
    let lock =
        std::env::var_os("CASTIRON_LOCK").map_or_else(|| home.join("project/profiles/castiron.lock"), PathBuf::from);
    fs::copy(lock, home.join("lock")).unwrap();
    link_tree(&warm.store.join("sha256-v1"), &home.join("store/sha256-v1"));
    // Not the objects: they are links to root's own.
    run("chown", &["--recursive", USER, "/var/tmp/castiron-test-home/project"]);
    run("find", &["/var/tmp/castiron-test-home", "-type", "d", "-exec", "chown", USER, "{}", "+"]);
    let output = Command::new("setpriv")
        .args(["--reuid", USER, "--regid", USER, "--init-groups", "env", "-i", "PATH=/usr/bin:/bin"])
        .args(["HOME=/var/tmp/castiron-test-home", "TZ=America/Caracas", "sh", "-c"])
        .arg("umask 027; exec \"$HOME/bin/castiron\" --json --project project --store store --lock-file lock build db --node bin/castiron-node")
        .current_dir(home)
        .output()
        .unwrap();
    let ran = Ran { code: output.status.code(), events: events(&String::from_utf8(output.stdout).unwrap()) };
    assert_eq!(ran.code, Some(0), "{}", ran.error());
    assert!(ran.has("tools", "done") && ran.has("rootfs", "done"), "{:?}", ran.steps());
    assert_eq!(sums(Path::new(ran.data())), sums(&warm.release));
}
