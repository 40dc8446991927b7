//! The installer ISO, looked at with other programs: the same bytes wherever it is built, its size, its catalogue and partitions,
//! what its maps promise, and that a stamp touches nothing else.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod common;
mod seeding;

use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use castiron::carrier::region::Region;
use castiron::digest::Sha256;
use castiron::medium::{self, Medium};
use castiron::release::manifest::Manifest;
use common::{CASTIRON, Ran, World, castiron, copy_project, sums, warm};
use seeding::{sha256, site};

const MIB: u64 = 1 << 20;
/// The four roles of the project.
const ROLES: [&str; 4] = ["control-plane", "worker", "gpu-worker", "db"];

/// A release of these roles from the warm store, made anew by each run of this program.
fn release(folder: &str, roles: &[&str], formats: &[&str]) -> PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("iso").join(folder);
    let _ = fs::remove_dir_all(&out);
    let mut args = vec!["build"];
    args.extend(roles);
    for format in formats {
        args.extend(["--format", format]);
    }
    args.extend(["--output", out.to_str().unwrap()]);
    let ran = Ran::of(&mut castiron(&warm().store, &args));
    assert_eq!(ran.code, Some(0), "{}", ran.error());
    PathBuf::from(ran.data())
}

/// `db` alone, and its raw disk beside the ISO.
fn alone() -> &'static Path {
    static ALONE: OnceLock<PathBuf> = OnceLock::new();
    ALONE.get_or_init(|| release("alone", &["db"], &["iso", "raw"]))
}

fn iso(release: &Path) -> PathBuf {
    let mut files = fs::read_dir(release).unwrap().map(|e| e.unwrap().path());
    files.find(|path| path.extension().is_some_and(|end| end == "iso")).unwrap()
}

/// A program of the tools tree, by its own loader: the host need not have its libraries.
fn tool(name: &str) -> Command {
    let trees = fs::read_dir(warm().store.join("tools")).unwrap().map(|e| e.unwrap().path());
    let program =
        |tree: &Path| ["usr/bin", "usr/sbin"].map(|bin| tree.join(bin).join(name)).into_iter().find(|p| p.exists());
    let tree = trees.into_iter().find(|tree| program(tree).is_some()).unwrap();
    let libraries = tree.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(libraries).arg(program(&tree).unwrap());
    command
}

/// Runs a program; all that it said.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// Asserts that both partition tables are right, but for one thing that is meant: the region lies over a file of the ISO 9660
/// volume (`src/carrier/region.rs` says why). sfdisk counts the partitions from one more than their numbers.
#[track_caller]
fn verified(iso: &Path) {
    let text = said(tool("sfdisk").arg("--verify").arg(iso));
    let lines: Vec<&str> = text.lines().skip(1).filter(|line| !line.is_empty()).collect();
    assert_eq!(lines, ["Partition 4 overlaps with partition 5.", "1 error detected."]);
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn the_same_iso_in_another_folder_and_store() {
    let world = World::new(&["rootfs", "initrd", "system"]);
    let project = world.path("elsewhere/project");
    copy_project(&project);
    let mut build = Command::new(CASTIRON);
    build.args(["--json", "--project"]).arg(&project).arg("--store").arg(world.path("store"));
    build.args(["build", "db", "--format", "iso", "--format", "raw", "--output"]).arg(world.path("out"));
    let ran = Ran::of(build.current_dir("/"));
    assert_eq!(ran.code, Some(0), "{}", ran.error());
    assert_eq!(sums(Path::new(ran.data())), sums(alone()));
    assert_eq!(sha256(iso(Path::new(ran.data()))), sha256(iso(alone())));
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn an_iso_is_small_and_four_roles_share_their_bytes() {
    let length = |release: &Path| fs::metadata(iso(release)).unwrap().len();
    let db = length(alone());
    assert!(db < 300 * MIB, "the ISO of db has {db} bytes");
    let all = release("four", &ROLES, &["iso"]);
    // The largest root image makes the largest ISO.
    let manifest = Manifest::read(&all).unwrap();
    let largest = ROLES.into_iter().max_by_key(|role| manifest.roles[*role].root_bytes).unwrap();
    let largest = length(&release("largest", &[largest], &["iso"]));
    let all = length(&all);
    assert!(all * 10 < largest * 13, "four roles have {all} bytes, the largest alone {largest}");
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn the_maps_lead_to_the_very_disk() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let on_medium = folder.path().join("medium");
    said(tool("xorriso").args(["-osirrox", "on", "-indev"]).arg(iso(alone())).args(["-extract", "/"]).arg(&on_medium));
    let medium = on_medium.join(medium::FOLDER);
    let text = fs::read_to_string(medium.join(medium::FILE)).unwrap();
    assert_eq!(fs::read_to_string(medium.join(medium::SUM)).unwrap(), medium::sum(&text));
    let description = Medium::parse(&text).unwrap();
    assert!(medium.join(&description.id).exists(), "the marker by which GRUB finds its own medium");
    assert_eq!(description.live, "db");
    let disk = File::open(alone().join("db.raw")).unwrap();
    for (role, wanted) in &description.roles {
        let map = on_medium.join(&wanted.map);
        assert_eq!(sha256(&map), wanted.sha256, "{role}");
        assert_eq!(wanted.size, disk.metadata().unwrap().len());
        let segments = medium::read_map(BufReader::new(File::open(map).unwrap()), wanted.size).unwrap();
        assert_eq!(segments.iter().map(|segment| segment.len).sum::<u64>(), wanted.bytes);
        let mut end = 0;
        for segment in &segments {
            let mut bytes = vec![0; segment.len as usize];
            File::open(on_medium.join(&segment.file)).unwrap().read_exact_at(&mut bytes, segment.from).unwrap();
            assert_eq!(Sha256::of(&bytes), segment.sha256, "{} at {}", segment.file, segment.at);
            let mut there = vec![0; bytes.len()];
            disk.read_exact_at(&mut there, segment.at).unwrap();
            assert!(there == bytes, "the disk has other bytes at {}", segment.at);
            zeros(&disk, end, segment.at);
            end = segment.at + segment.len;
        }
        zeros(&disk, end, wanted.size);
    }
}

/// Asserts that what no segment covers is zero on the disk.
fn zeros(disk: &File, start: u64, end: u64) {
    let mut at = start;
    while let Some(data) = castiron::fs::next_data(disk, at).unwrap().filter(|data| data.start < end) {
        let mut bytes = vec![0; (data.end.min(end) - data.start) as usize];
        disk.read_exact_at(&mut bytes, data.start).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0), "nothing covers what is between {start} and {end}");
        at = data.end.min(end);
    }
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn firmware_finds_it_as_cd_and_as_stick() {
    let iso = iso(alone());
    let catalogue = said(tool("xorriso").arg("-indev").arg(&iso).args(["-report_el_torito", "plain"]));
    let images: Vec<Vec<&str>> = catalogue
        .lines()
        .filter(|line| line.starts_with("El Torito boot img :"))
        .map(|line| line.split_whitespace().skip(5).collect())
        .collect();
    // Number, firmware, bootable, emulation.
    assert_eq!(images[0][..4], ["1", "BIOS", "y", "none"], "{catalogue}");
    assert_eq!(images[1][..4], ["2", "UEFI", "y", "none"], "{catalogue}");
    assert_eq!(images.len(), 2, "{catalogue}");

    let area = said(tool("xorriso").arg("-indev").arg(&iso).args(["-report_system_area", "plain"]));
    for part in ["grub2-mbr", "protective-msdos-label", "cyl-align-off", "GPT"] {
        assert!(area.contains(part), "no {part} in {area}");
    }
    verified(&iso);
    let table = said(tool("sfdisk").arg("--json").arg(&iso));
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    assert_eq!(table["partitiontable"]["label"], "gpt");
    let parts = table["partitiontable"]["partitions"].as_array().unwrap();
    let of = |kind: &str| parts.iter().filter(|part| part["type"] == kind).collect::<Vec<_>>();
    let esp = of("C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
    assert_eq!(esp.len(), 1, "{parts:#?}");
    let region = of("CA571204-5EED-4C1D-A7A0-6361737469F0");
    assert_eq!(region.len(), 1, "{parts:#?}");
    let range = |part: &serde_json::Value| {
        let start = part["start"].as_u64().unwrap();
        start..start + part["size"].as_u64().unwrap()
    };
    let (volume, inside) = (range(&parts[0]), range(region[0]));
    assert!(volume.start < inside.start && inside.end <= volume.end, "the region lies in the volume");
    // The image that UEFI boots from a CD is the partition that it boots from a stick: El Torito counts blocks of 2048 bytes.
    let place: u64 = images[1].last().unwrap().parse().unwrap();
    assert_eq!(esp[0]["start"].as_u64().unwrap(), place * 4);

    // The protective MBR (UEFI 2.10, 5.2.3) covers the disk; a second entry is only there to be active, for BIOSes that want one.
    let file = File::open(&iso).unwrap();
    let mut mbr = [0; 512];
    file.read_exact_at(&mut mbr, 0).unwrap();
    let number = |at: usize| u64::from(u32::from_le_bytes(mbr[at..at + 4].try_into().unwrap()));
    assert_eq!(mbr[510..], [0x55, 0xaa]);
    assert_eq!((mbr[450], number(454), number(458)), (0xee, 1, file.metadata().unwrap().len() / 512 - 1));
    let active: Vec<usize> = (0..4).filter(|entry| mbr[446 + 16 * entry] == 0x80).collect();
    assert_eq!(active.len(), 1);
    assert_eq!(mbr[446 + 16 * active[0] + 4], 0, "the active entry is of no type");
}

#[test]
#[ignore = "needs the tools tree and the packages of the lock"]
fn a_stamp_touches_its_region_alone_and_leaves_no_trace() {
    let site = site();
    let released = iso(alone());
    let stamped = site.path("installer.iso");
    site.run(&["stamp", released.to_str().unwrap(), "--output", stamped.to_str().unwrap()]);
    let (before, after) = (File::open(&released).unwrap(), File::open(&stamped).unwrap());
    let region = Region::find(&after).unwrap();
    let (start, end, length) = (region.start, region.start + region.size, before.metadata().unwrap().len());
    assert_eq!(after.metadata().unwrap().len(), length);
    let same = |mut at: u64, end: u64| {
        let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        while at < end {
            let part = (end - at).min(1 << 20) as usize;
            before.read_exact_at(&mut one[..part], at).unwrap();
            after.read_exact_at(&mut other[..part], at).unwrap();
            if one[..part] != other[..part] {
                return false;
            }
            at += part as u64;
        }
        true
    };
    assert!(same(0, start) && same(end, length) && !same(start, end));
    // A CD has no partitions: there the region is a file.
    let seed = site.path("seed.img");
    said(
        tool("xorriso")
            .args(["-osirrox", "on", "-indev"])
            .arg(&stamped)
            .args(["-extract", "/castiron/seed.img"])
            .arg(&seed),
    );
    assert!(fs::read(&seed).unwrap() == region.read().unwrap());
    verified(&stamped);

    site.run(&["stamp", stamped.to_str().unwrap(), "--remove"]);
    assert_eq!(sha256(&stamped), sha256(&released));
    let noted = sums(alone());
    let line = noted.lines().find(|line| line.ends_with(".iso")).unwrap();
    assert!(line.starts_with(&sha256(&stamped).to_string()), "{line}");
}
