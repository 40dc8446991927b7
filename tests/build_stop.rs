//! `castiron build` that is stopped: at every stage, by ctrl-C or by a kill, nothing of it stays, and a rerun goes on.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod common;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Ran, Watched, World, wait_until_gone};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Presses ctrl-C when the run says `at`; then looks for what is left, and runs it again.
#[track_caller]
fn interrupt(stages: &[&str], at: &str, kept: &[&str]) {
    interrupt_in(&World::new(stages), at, kept);
}

#[track_caller]
fn interrupt_in(world: &World, at: &str, kept: &[&str]) {
    let build = world.build(&["--verbose"]);
    let mut run = Watched::start(&build);
    run.until(at);
    run.signal(Signal::SIGINT);
    let (ran, alive) = run.end();
    ran.expect(130, &["interrupted; a rerun goes on from here"]);
    assert_eq!(world.processes(), Vec::<String>::new());
    wait_until_gone(alive);
    assert_eq!(world.unfinished(), Vec::<std::path::PathBuf>::new());
    assert_eq!(std::fs::read_dir(world.path("store/logs")).map_or(0, Iterator::count), 0, "a log is left");

    let again = Ran::of(&mut world.build(&[]));
    world.expect_release(&again);
    for stage in kept {
        assert!(!again.has(stage, "done"), "{stage} was done twice: {:?}", again.steps());
    }
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn ctrl_c_while_packages_are_checked() {
    interrupt(&["rootfs-base", "initrd", "system"], "checking 2 files of the store", &["initrd", "system"]);
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn ctrl_c_while_the_tools_tree_is_unpacked() {
    interrupt_in(&World::without_tools(&ALL), "of the tools tree", &ALL);
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn ctrl_c_while_the_root_tree_is_made() {
    interrupt(&[], "+ mmdebstrap", &[]);
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn ctrl_c_while_the_initrd_is_made() {
    interrupt(&["rootfs"], "dracut --force", &["rootfs"]);
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn ctrl_c_while_the_root_image_is_compressed() {
    interrupt(&["rootfs", "initrd"], "+ mksquashfs", &["rootfs", "initrd"]);
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn ctrl_c_while_the_hash_tree_is_made() {
    interrupt(&["rootfs", "initrd"], "+ veritysetup", &["rootfs", "initrd"]);
}

const ALL: [&str; 3] = ["rootfs", "initrd", "system"];

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn ctrl_c_while_the_disk_is_written() {
    interrupt(&ALL, "writing the disk of `db`", &ALL);
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn ctrl_c_while_a_format_is_written() {
    interrupt(&ALL, "+ qemu-img", &ALL);
    interrupt(&ALL, "writing `db.qcow2.zst`", &ALL);
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn ctrl_c_while_the_release_is_described_and_named() {
    interrupt(&ALL, "describing `db`", &ALL);
    interrupt(&ALL, "naming `db-", &ALL);
}

/// Whoever waits for a sandbox believes that nothing of it is left; so also when it is ended while it starts.
#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn a_sandbox_that_is_ended_at_any_moment_leaves_nothing() {
    let world = World::new(&[]);
    let tree = std::fs::read_dir(world.path("store/tools")).unwrap().map(|e| e.unwrap().path()).find(|p| p.is_dir());
    let spec = serde_json::json!({
        "root": tree.unwrap(), "network": false, "binds": [], "scratch": [], "devices": [], "probe": null,
        "steps": [{"argv": ["sleep", "600"], "env": [], "stdin": false, "stdout": false}],
    });
    // It starts in about 20 ms.
    for after in (0..20_000).step_by(100).map(Duration::from_micros) {
        let mut sandbox = Command::new(env!("CARGO_BIN_EXE_castiron"));
        sandbox.args(["sandbox", "outer", &spec.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut sandbox = sandbox.spawn().unwrap();
        std::thread::sleep(after);
        kill(Pid::from_raw(sandbox.id().cast_signed()), Signal::SIGTERM).unwrap();
        sandbox.wait().unwrap();
        assert_eq!(world.processes(), Vec::<String>::new(), "after {after:?}");
    }
}

/// A kill gives castiron no chance to clean up: the kernel ends what it started, and the next run clears away.
#[track_caller]
fn kill_9(world: &World, at: &str) {
    let mut run = Watched::start(&world.build(&["--verbose"]));
    run.until(at);
    run.signal(Signal::SIGKILL);
    let (ran, alive) = run.end();
    assert_eq!(ran.code, None);
    wait_until_gone(alive);
    assert_eq!(world.processes(), Vec::<String>::new());
    // A tool that runs has a folder to write to; a step that only began may not have it yet.
    assert!(!at.starts_with("+ ") || !world.unfinished().is_empty());
    world.expect_release(&Ran::of(&mut world.build(&[])));
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn a_killed_build_leaves_no_process_and_the_next_clears_away() {
    kill_9(&World::new(&["rootfs"]), "+ chroot /mnt/root nice -n 19 dracut");
    kill_9(&World::new(&["rootfs", "initrd"]), "+ mksquashfs");
    kill_9(&World::without_tools(&ALL), "of the tools tree");
    kill_9(&World::new(&ALL), "+ qemu-img");
}
