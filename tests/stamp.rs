//! `castiron stamp`: a seed goes into a carrier, is seen there, and comes out again without a trace.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod seeding;

use std::fs;
use std::io::{Cursor, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use castiron::carrier::region::SIZE;
use castiron::region::{HEADER, State, read};
use castiron::seal::Seed;
use seeding::{flip, iso, qcow2, raw, region_of, sha256, site};
use serde_json::Value;

#[test]
fn every_carrier_takes_a_seed_and_gives_it_back() {
    let site = site();
    let disk = raw(SIZE);
    for (name, bytes, args) in [
        ("a.raw", disk.clone(), &["--node", "db1"][..]),
        ("a.iso", iso(), &[]),
        ("a.qcow2", qcow2(&disk, false), &["--role", "worker"]),
    ] {
        let path = site.carrier(name, &bytes);
        let release = sha256(&path);
        assert!(site.run(&["stamp", &path, "--show"]).contains("nothing is stamped"));

        assert_eq!(site.run(&[&["stamp", &path][..], args].concat()).trim(), path);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{name}");
        let region = region_of(&path);
        let State::Stamped(_, payload) = read(&region).unwrap() else { panic!("{name} is not stamped") };
        // What udev and cloud-init look at.
        let volume =
            fatfs::FileSystem::new(Cursor::new(region[..SIZE as usize - HEADER].to_vec()), fatfs::FsOptions::new());
        let volume = volume.unwrap();
        assert_eq!(volume.volume_label(), "CIDATA");
        let mut meta = String::new();
        volume.root_dir().open_file("meta-data").unwrap().read_to_string(&mut meta).unwrap();
        assert!(meta.starts_with("instance-id: castiron-"), "{meta}");
        let mut seed = Vec::new();
        volume.root_dir().open_file("castiron.seed").unwrap().read_to_end(&mut seed).unwrap();
        let seed = Seed::parse(&seed).unwrap();
        assert_eq!(
            seed.carried().len(),
            [1, 10, 3][["a.raw", "a.iso", "a.qcow2"].iter().position(|n| *n == name).unwrap()]
        );
        assert!(payload.len() < 1 << 20);

        let shown = site.run(&["--json", "stamp", &path, "--show"]);
        let shown: Value = serde_json::from_str(shown.trim()).unwrap();
        let shown: Value = serde_json::from_str(shown["line"].as_str().unwrap()).unwrap();
        assert_eq!(shown["stamped"]["site"], seed.manifest().site.to_string());
        assert_eq!(shown["stamped"]["nodes"].as_object().unwrap().len(), seed.carried().len());

        // Twice is as well as once, and all that is outside stays what it was.
        site.run(&[&["stamp", &path][..], args].concat());
        let after = fs::read(&path).unwrap();
        assert_eq!(after.len(), bytes.len());
        let changed = after.iter().zip(&bytes).filter(|(a, b)| a != b).count();
        assert!(changed > 0 && changed <= SIZE as usize);
        if !name.ends_with("qcow2") {
            let (start, end) = (2 << 20, (2 << 20) + SIZE as usize);
            assert!(after[..start] == bytes[..start] && after[end..] == bytes[end..]);
        }

        site.run(&["stamp", &path, "--remove"]);
        assert_eq!(sha256(&path), release, "{name}");
    }
}

#[test]
fn a_copy_is_stamped_and_the_release_is_not() {
    let site = site();
    let path = site.carrier("a.iso", &iso());
    let before = fs::metadata(&path).unwrap();
    let copy = site.path("copy.iso");
    assert_eq!(
        site.run(&["stamp", &path, "--node", "cp1", "--output", copy.to_str().unwrap()]).trim(),
        copy.to_str().unwrap()
    );
    assert_eq!(fs::read(&path).unwrap(), iso());
    assert_eq!(fs::metadata(&path).unwrap().mode(), before.mode());
    assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o777, 0o600);
    assert!(matches!(read(&region_of(&copy)), Ok(State::Stamped(..))));
    site.run(&["stamp", copy.to_str().unwrap(), "--remove"]);
    assert_eq!(sha256(&copy), sha256(&path));
    // A sparse file stays one.
    let hole = site.path("hole.raw");
    fs::write(&hole, raw(SIZE)).unwrap();
    let file = fs::File::options().write(true).open(&hole).unwrap();
    file.set_len(1 << 30).unwrap();
    site.run(&["stamp", hole.to_str().unwrap(), "--node", "db1", "--output", site.path("b.raw").to_str().unwrap()]);
    let copied = fs::metadata(site.path("b.raw")).unwrap();
    assert!(copied.len() == 1 << 30 && copied.blocks() * 512 < 64 << 20, "{} blocks", copied.blocks());
    let left = fs::read_dir(site.folder.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().ends_with(".tmp"));
    assert_eq!(left.count(), 0);
}

#[test]
fn what_cannot_be_stamped_is_left_as_it_is_and_told() {
    let site = site();
    let without = vec![7; 1 << 20];
    let packed = [&[0x28, 0xb5, 0x2f, 0xfd][..], &[0; 100]].concat();
    let mut cut = raw(SIZE);
    cut.truncate(3 << 20);
    for (name, bytes, args, code, told) in [
        ("none.raw", without, &["--node", "db1"][..], 2, "no seed region"),
        ("packed.raw.zst", packed, &["--node", "db1"], 2, "zstd -d"),
        ("cut.raw", cut, &["--node", "db1"], 1, "cut short"),
        ("dropped.qcow2", qcow2(&raw(SIZE), true), &["--node", "db1"], 2, "not allocated"),
        ("small.raw", raw(16 << 10), &["--node", "cp1"], 2, "has room for 12288"),
        ("many.raw", raw(SIZE), &[], 2, "control-plane, db, gpu-worker, worker"),
        ("nobody.raw", raw(SIZE), &["--node", "db9"], 2, "the site has no node `db9`"),
        ("norole.raw", raw(SIZE), &["--role", "queen"], 2, "the site has no node of the role `queen`"),
    ] {
        let path = site.carrier(name, &bytes);
        let text = site.fails(&[&["stamp", &path][..], args].concat(), code);
        assert!(text.contains(told), "{name}: {text}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "{name}");
    }
    assert!(site.fails(&["stamp", "/no/such.iso"], 1).contains("/no/such.iso"));
}

#[test]
fn a_damaged_region_is_told_and_mended() {
    let site = site();
    let path = site.carrier("a.raw", &raw(SIZE));
    let release = sha256(&path);
    for at in [2 << 20, (2 << 20) + SIZE - 4000] {
        site.run(&["stamp", &path, "--node", "db1"]);
        flip(&path, at);
        let text = site.fails(&["stamp", &path, "--show"], 1);
        assert!(text.contains("not what the header promises") || text.contains("header is damaged"), "{text}");
        site.run(&["stamp", &path, "--remove"]);
        assert_eq!(sha256(&path), release);
    }
}

#[test]
fn who_stamps_at_the_same_time_waits_outside() {
    let site = site();
    let path = site.carrier("a.raw", &raw(SIZE));
    let mut other = fs::File::options().read(true).write(true).open(&path).unwrap();
    other.lock().unwrap();
    assert!(site.fails(&["stamp", &path, "--node", "db1"], 2).contains("somebody else"));
    other.flush().unwrap();
    other.unlock().unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    site.run(&["stamp", &path, "--node", "db1"]);
}
