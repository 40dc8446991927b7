//! `castiron build` on disks that are full or may not be written: it says which, leaves nothing half made, and goes on once
//! there is room.
//!
//! Each build runs in a mount namespace of its own, where a small tmpfs lies over one folder.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Ran, World, events, sums, unshare, warm};

/// Builds twice in one mount namespace: with a disk of `small` options over `over`, and after it was made `large`.
struct Full {
    first: Ran,
    /// What the first run left on the small disk.
    left: Vec<String>,
    second: Ran,
    sums: String,
}

const SCRIPT: &str = r#"
set -eu
over=$1 small=$2 out=$3 logs=$4 result=$5
shift 5
mount -t tmpfs -o "$small" tmpfs "$over"
if [ "$logs" != - ]; then mkdir "$over/logs" "$logs"; mount --bind "$over/logs" "$logs"; fi
code=0; "$@" >"$result/first" || code=$?; echo "$code" >"$result/first.code"
find "$over" -mindepth 1 ! -path "$over/logs*" -printf '%P\n' >"$result/left"
mount -o remount,size=3G,nr_inodes=0 "$over"
code=0; "$@" >"$result/second" || code=$?; echo "$code" >"$result/second.code"
cat "$out"/db-*/SHA256SUMS >"$result/sums" || true
"#;

fn fill(world: &World, over: &str, small: &str, args: &[&str]) -> Full {
    let result = world.path("result");
    fs::create_dir_all(&result).unwrap();
    let over = world.path(over);
    fs::create_dir_all(&over).unwrap();
    let build = world.build(args);
    // A store's logs are on the disk that its stages are on.
    let logs = if over.starts_with(world.path("store")) { world.path("store/logs") } else { PathBuf::from("-") };
    let mut shell = unshare(&["--mount"]);
    shell.args(["sh", "-c", SCRIPT, "sh"]).arg(&over).arg(small).arg(world.path("out")).arg(logs).arg(&result);
    let status = shell.arg(build.get_program()).args(build.get_args()).status().unwrap();
    assert!(status.success());
    let read = |name: &str| fs::read_to_string(result.join(name)).unwrap();
    let ran = |name: &str| Ran { code: read(&format!("{name}.code")).trim().parse().ok(), events: events(&read(name)) };
    let left = read("left").lines().map(str::to_owned).collect();
    Full { first: ran("first"), left, second: ran("second"), sums: read("sums") }
}

/// Asserts that the first run failed in `stage` for want of room in `place`, and the second went on.
#[track_caller]
fn expect_full(full: &Full, stage: &str, place: &Path) {
    assert!(full.first.has(stage, "failed"), "{:?}\n{}", full.first.steps(), full.first.error());
    full.first.expect(1, &[place.to_str().unwrap(), "free some space", "--store"]);
    // Locks may stay, results and what would have become one may not.
    let left: Vec<&String> = full.left.iter().filter(|name| !name.ends_with(".lock")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(full.second.code, Some(0), "{}", full.second.error());
    assert_eq!(full.sums, sums(&warm().release));
}

/// The length of a file in the one result of a stage.
fn length(stage: &str, file: &str) -> u64 {
    let mut results = fs::read_dir(warm().store.join("stages-v1").join(stage)).unwrap().map(|e| e.unwrap().path());
    fs::metadata(results.find(|path| path.is_dir()).unwrap().join(file)).unwrap().len()
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn no_room_for_the_tools_tree() {
    let world = World::without_tools(&["rootfs", "initrd", "system"]);
    let full = fill(&world, "store/tools", "size=50M", &[]);
    expect_full(&full, "tools", &world.path("store/tools"));
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn no_room_for_the_root_tree() {
    let world = World::new(&["initrd"]);
    let full = fill(&world, "store/stages-v1/rootfs-base", "size=20M", &[]);
    expect_full(&full, "rootfs", &world.path("store/stages-v1/rootfs-base"));
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn no_room_for_the_initrd() {
    let world = World::new(&["rootfs"]);
    let full = fill(&world, "store/stages-v1/initrd-all", "size=10M", &[]);
    expect_full(&full, "initrd", &world.path("store/stages-v1/initrd-all"));
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn no_room_for_the_root_image_or_its_hash_tree() {
    for size in [20 << 20, length("system-db", "root.img") + (64 << 10)] {
        let world = World::new(&["rootfs", "initrd"]);
        let full = fill(&world, "store/stages-v1/system-db", &format!("size={size}"), &[]);
        expect_full(&full, "system", &world.path("store/stages-v1/system-db"));
    }
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn no_room_for_the_disk_or_one_of_its_formats() {
    let whole = fs::metadata(warm().release.join("db.qcow2")).unwrap().len();
    // Of a disk, of a second file as large, and of the third.
    for size in [whole / 2, whole * 3 / 2] {
        let world = World::new(&["rootfs", "initrd", "system"]);
        let full = fill(&world, "out", &format!("size={size}"), &[]);
        expect_full(&full, "carrier", &world.path("out"));
    }
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn no_room_for_the_release_s_own_files() {
    let world = World::new(&["rootfs", "initrd", "system"]);
    // Names, not bytes: the carriers need the root, its lock, the hidden folder, and a raw disk, a qcow2 and its `.zst`.
    let full = fill(&world, "out", "size=2G,nr_inodes=6", &[]);
    expect_full(&full, "release", &world.path("out"));
}

/// Makes a folder read-only, for root too, and builds.
fn build_with_read_only(world: &World, folder: &str) -> Ran {
    let build = world.build(&[]);
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && shift && exec \"$@\"";
    let mut shell = unshare(&["--mount"]);
    shell.args(["sh", "-c", script, "sh"]).arg(world.path(folder));
    Ran::of(shell.arg(build.get_program()).args(build.get_args()))
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn an_output_folder_that_may_not_be_written() {
    let world = World::new(&[]);
    let ran = build_with_read_only(&world, "out");
    let out = world.path("out");
    ran.expect(1, &[&format!("the output folder `{}` can not be written", out.display()), "--output DIR"]);
    assert_eq!(ran.steps(), Vec::<String>::new(), "it is found before any work");
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn a_store_that_may_not_be_written() {
    let world = World::new(&[]);
    let ran = build_with_read_only(&world, "store");
    ran.expect(1, &[&format!("the store `{}` can not be used", world.path("store").display()), "--store DIR"]);
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn an_output_folder_below_a_file() {
    let world = World::new(&[]);
    fs::write(world.path("file"), "").unwrap();
    let store = world.path("store");
    let output = world.path("file/out");
    let mut build: Command = common::castiron(&store, &["build", "db", "--output", output.to_str().unwrap()]);
    Ran::of(&mut build).expect(1, &[&format!("the output folder `{}`", output.display()), "--output DIR"]);
}
