//! What is done again and what is not: results of stages and releases, their damage, and builds side by side.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use common::{Ran, Watched, World, castiron_verifies, copy_project, sums, unshare, wait_until_gone, warm};
use nix::sys::signal::Signal;

const ALL: [&str; 3] = ["rootfs", "initrd", "system"];

/// The one result of a stage in a world's store.
fn result(world: &World, stage: &str) -> PathBuf {
    let results = fs::read_dir(world.path("store/stages-v1").join(stage)).unwrap();
    results.map(|e| e.unwrap().path()).find(|path| path.is_dir()).unwrap()
}

/// Flips one bit in the middle of a file, of which a link elsewhere keeps the old bytes.
fn flip(path: &Path) {
    let copy = path.with_extension("copy");
    fs::copy(path, &copy).unwrap();
    fs::rename(&copy, path).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let (middle, mut byte) = (file.metadata().unwrap().len() / 2, [0]);
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn nothing_changed_and_nothing_is_done() {
    let world = World::new(&ALL);
    world.expect_release(&Ran::of(&mut world.build(&[])));
    let again = Ran::of(&mut world.build(&["--explain"]));
    assert_eq!(again.steps(), ["release cached"]);
    world.expect_release(&again);
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn one_overlay_changed_and_explain_names_it() {
    let world = World::new(&ALL);
    let project = world.path("project");
    copy_project(&project);
    let added = "overlays/base/usr/lib/castiron-test";
    fs::write(project.join(added), "new").unwrap();
    let build = |args: &[&str]| Ran::of(world.build(&["--explain", "--project"]).arg(&project).args(args));
    let ran = build(&[]);
    assert_eq!(ran.code, Some(0), "{}", ran.error());
    for stage in ["rootfs", "initrd"] {
        assert!(ran.has(stage, "cached") && !ran.has(stage, "done"), "{:?}", ran.steps());
    }
    for stage in ["system", "carrier", "release"] {
        assert!(ran.has(stage, "done"), "{:?}", ran.steps());
    }
    let said = ran.said();
    assert!(said.contains("system db: ran: overlay base changed ("), "{said}");
    assert!(said.contains("initrd all: reused: no input changed (key "), "{said}");

    // And back: the result of before is still there.
    fs::remove_file(project.join(added)).unwrap();
    let back = build(&[]);
    assert!(back.has("system", "cached"), "{:?}", back.steps());
    world.expect_release(&back);
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn a_damaged_result_is_found_and_made_again() {
    let world = World::new(&ALL);
    for (stage, file) in [("system-db", "root.img"), ("rootfs-db", "tree.tar"), ("initrd-all", "initrd")] {
        flip(&result(&world, stage).join(file));
        // The root image is only made again where its own result is damaged; so it goes after the first round.
        if stage != "system-db" {
            fs::remove_dir_all(result(&world, "system-db")).unwrap();
        }
        fs::remove_dir_all(world.path("out")).unwrap();
        let ran = Ran::of(&mut world.build(&[]));
        let (name, role) = stage.split_once('-').unwrap();
        let warning =
            format!("a cached result of `{name} {role}` is damaged and made again: `{file}` is not what was written");
        assert!(ran.said().contains(&warning), "{}", ran.said());
        world.expect_release(&ran);
    }
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn a_result_that_lost_a_file_or_its_record_is_made_again() {
    let world = World::new(&ALL);
    for file in ["root.verity", "record.json"] {
        fs::remove_file(result(&world, "system-db").join(file)).unwrap();
        let _ = fs::remove_dir_all(world.path("out"));
        let ran = Ran::of(&mut world.build(&[]));
        assert!(ran.has("system", "done"), "{:?}", ran.steps());
        world.expect_release(&ran);
    }
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn a_damaged_release_is_found_and_made_again() {
    let world = World::new(&ALL);
    let release = PathBuf::from(Ran::of(&mut world.build(&[])).data());
    for file in ["db.qcow2.zst", "manifest.json"] {
        flip(&release.join(file));
        let ran = Ran::of(&mut world.build(&[]));
        assert!(ran.said().contains("is damaged and made again") && ran.said().contains(file), "{}", ran.said());
        world.expect_release(&ran);
    }
    fs::remove_file(release.join("db.qcow2")).unwrap();
    world.expect_release(&Ran::of(&mut world.build(&[])));
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn two_builds_of_one_role_share_the_work() {
    let world = World::new(&["rootfs-base", "initrd"]);
    let builds = [Watched::start(&world.build(&[])), Watched::start(&world.build(&[]))];
    let runs = builds.map(|build| build.end().0);
    for ran in &runs {
        world.expect_release(ran);
    }
    for (stage, text) in
        [("rootfs", "of `db`"), ("system", "sealing"), ("carrier", "writing the disk"), ("release", "naming")]
    {
        let ends = runs.iter().flat_map(|ran| ran.told("step-end"));
        let done = ends.filter(|e| e["stage"] == stage && e["text"].as_str().unwrap().contains(text));
        assert_eq!(done.filter(|e| e["outcome"] == "done").count(), 1, "{stage}");
    }
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn builds_of_different_roles_do_not_disturb_each_other() {
    let world = World::new(&["initrd"]);
    let store = world.path("store");
    let out = world.path("out");
    let worker = common::castiron(&store, &["build", "worker", "--output", out.to_str().unwrap()]);
    let builds = [Watched::start(&world.build(&[])), Watched::start(&worker)];
    let [db, worker] = builds.map(|build| build.end().0);
    world.expect_release(&db);
    assert_eq!(worker.code, Some(0), "{}", worker.error());
    castiron_verifies(Path::new(worker.data()));
    assert!(Path::new(worker.data()).file_name().unwrap().to_str().unwrap().starts_with("worker-"));
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn who_waits_for_another_build_says_so_and_can_be_interrupted() {
    let world = World::new(&ALL);
    world.expect_release(&Ran::of(&mut world.build(&[])));
    let locks = |folder: &Path| {
        let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        names.filter(|p| p.to_str().unwrap().ends_with("lock")).collect::<Vec<_>>()
    };
    for (folder, damaged) in [
        (world.path("store/stages-v1/system-db"), world.path("out").join(warm().release.file_name().unwrap())),
        (world.path("out"), world.path("out").join(warm().release.file_name().unwrap())),
    ] {
        let _ = fs::remove_dir_all(damaged);
        // Another program's results have locks of their own: whose is whose, their names do not say.
        let locks: Vec<File> = locks(&folder).iter().map(|path| File::open(path).unwrap()).collect();
        for lock in &locks {
            lock.lock().unwrap();
        }
        let mut run = Watched::start(&world.build(&[]));
        run.until("waiting for another build of ");
        run.signal(Signal::SIGINT);
        let (ran, alive) = run.end();
        ran.expect(130, &["interrupted"]);
        wait_until_gone(alive);
    }
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn a_warm_store_needs_no_network() {
    let world = World::new(&[]);
    let build = world.build(&[]);
    let mut alone = unshare(&["--net"]);
    let ran = Ran::of(alone.arg(build.get_program()).args(build.get_args()));
    assert!(ran.has("rootfs", "done") && ran.has("initrd", "done"), "{:?}", ran.steps());
    world.expect_release(&ran);
    assert_eq!(sums(Path::new(ran.data())), sums(&warm().release));
}
