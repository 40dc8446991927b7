//! The same bytes on another day: a build in a virtual machine whose clock is years ahead.
//!
//! Nothing short of a machine of its own shifts every clock that a build could read: that of the tools, of the packages'
//! scripts, and of the kernel, which sets the files' times. The guest is noble, made of the tree and the kernel of the
//! warm store; it has no network and nothing of the host but castiron, the project and the packages' bytes.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{CASTIRON, copy_project, link_tree, sums, warm};

/// Far from any day on which this test runs, and another weekday, month and time of day.
const CLOCK: &str = "2031-05-06T23:58:30";

/// The first process of the guest. What it says after `SUMS` is what the host compares.
const INIT: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin HOME=/root TZ=America/Caracas
mount -t proc proc /proc
mount -t sysfs sysfs /sys
for folder in /run /tmp /dev/shm; do mkdir -p $folder; mount -t tmpfs tmpfs $folder; done
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
echo "CLOCK $(date --utc +%FT%TZ)"
cd /castiron && ./castiron --project project --store store --lock-file lock build db --node ./castiron-node --output out
echo "CLOCK $(date --utc +%FT%TZ)"
echo "SUMS" && cat out/db-*/SHA256SUMS && echo "END"
echo o >/proc/sysrq-trigger
sleep 60
"#;

/// A command in castiron's sandbox over the tools tree. A bind is (writable, name below /mnt, path).
fn sandbox(binds: &[(bool, &str, &Path)], steps: &[&[&str]]) -> Command {
    let trees = fs::read_dir(warm().store.join("tools")).unwrap().map(|e| e.unwrap().path());
    let root = trees.into_iter().find(|tree| tree.join("usr/bin/qemu-system-x86_64").exists()).unwrap();
    let binds: Vec<_> = binds
        .iter()
        .map(|(writable, name, host)| serde_json::json!({"host": host, "name": name, "writable": writable}))
        .collect();
    let steps: Vec<_> =
        steps.iter().map(|argv| serde_json::json!({"argv": argv, "env": [], "stdin": false, "stdout": true})).collect();
    let spec = serde_json::json!({
        "root": root, "network": false, "binds": binds, "scratch": ["scratch"], "devices": [], "probe": null, "steps": steps,
    });
    let mut command = Command::new(CASTIRON);
    command.args(["sandbox", "outer", &spec.to_string()]).stdin(Stdio::null());
    command
}

/// The newest result of a stage in the warm store.
fn result(stage: &str) -> PathBuf {
    let mut results = fs::read_dir(warm().store.join("stages-v1").join(stage)).unwrap().map(|e| e.unwrap().path());
    results.find(|path| path.is_dir()).unwrap()
}

#[test]
#[ignore = "builds in a virtual machine, which takes minutes without KVM"]
fn another_day_another_kernel_give_the_same_bytes() {
    let folder = tempfile::Builder::new().prefix("clock-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let given = folder.path().join("castiron");
    copy_project(&given.join("project"));
    link_tree(&warm().store.join("sha256-v1"), &given.join("store/sha256-v1"));
    fs::copy(CASTIRON, given.join("castiron")).unwrap();
    let node = Path::new(CASTIRON).with_file_name("../lib/castiron/castiron-node");
    fs::copy(std::env::var_os("CASTIRON_NODE").map_or(node, PathBuf::from), given.join("castiron-node")).unwrap();
    let lock =
        std::env::var_os("CASTIRON_LOCK").map_or_else(|| given.join("project/profiles/castiron.lock"), PathBuf::from);
    fs::copy(lock, given.join("lock")).unwrap();
    fs::write(folder.path().join("init"), INIT).unwrap();

    let (tree, boot) = (result("rootfs-db"), result("initrd-all"));
    let script = "mkdir /mnt/scratch/root
        tar -x -f /mnt/tree/tree.tar -C /mnt/scratch/root --exclude './dev/?*'
        cp -a /mnt/given/castiron /mnt/scratch/root/castiron
        install -m 0755 /mnt/given/init /mnt/scratch/root/init
        mke2fs -q -t ext4 -d /mnt/scratch/root /mnt/given/disk.img 6G";
    let made =
        sandbox(&[(false, "tree", &tree), (true, "given", folder.path())], &[&["sh", "-ec", script]]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let base = format!("base={CLOCK}");
    let qemu = [
        "qemu-system-x86_64",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max,svm=off",
        "-machine",
        "q35",
        "-smp",
        "2",
        "-m",
        "4096",
        "-serial",
        "stdio",
        "-rtc",
        &base,
        "-kernel",
        "/mnt/boot/vmlinuz",
        "-append",
        "root=/dev/vda rw console=ttyS0 quiet init=/init panic=-1",
        "-drive",
        "file=/mnt/given/disk.img,format=raw,if=virtio,cache=unsafe",
    ];
    let ran = sandbox(&[(false, "boot", &boot), (true, "given", folder.path())], &[&qemu]).output().unwrap();
    let console = String::from_utf8_lossy(&ran.stdout).replace('\r', "");
    let clocks: Vec<&str> = console.lines().filter(|line| line.starts_with("CLOCK 2031-05-0")).collect();
    assert_eq!(clocks.len(), 2, "the guest's clock is not the one that was set:\n{console}");
    let sums_there = console.split_once("SUMS\n").and_then(|(_, rest)| rest.split_once("END")).map(|(sums, _)| sums);
    assert_eq!(sums_there, Some(sums(&warm().release).as_str()), "{console}");
}
