//! What tests of seeds and stamps stand on: a site with its secrets, and small carriers with a seed region.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Cursor;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use castiron::carrier::region;
use castiron::digest::Sha256;
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{OperatingSystem, Type};

const MIB: u64 = 1 << 20;
const CLUSTER: usize = 64 << 10;

/// A folder with a site file, an identity and secrets.
pub struct Site {
    pub folder: tempfile::TempDir,
}

/// The starter's site: control planes cp1 to cp3, workers, a GPU worker, databases db1 to db3.
pub fn site() -> Site {
    let site = Site { folder: tempfile::tempdir().unwrap() };
    site.good(&["site", "new", "--output", site.path("site.toml").to_str().unwrap()]);
    site.run(&["secrets", "new"]);
    site
}

impl Site {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a verb, whatever comes of it.
    pub fn try_run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_castiron"));
        command.args(["--project", env!("CARGO_MANIFEST_DIR"), "--store"]).arg(self.path("store")).args(args);
        if args.iter().take(2).any(|arg| ["secrets", "seed", "stamp"].contains(arg)) {
            command.arg("--site").arg(self.path("site.toml")).arg("--identity").arg(self.path("identity"));
        }
        command.env_remove("CASTIRON_IDENTITY").output().unwrap()
    }

    /// Runs a verb as it is, which must go well; its stdout.
    pub fn good(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a verb with the site and the identity, which must go well; its stdout.
    pub fn run(&self, args: &[&str]) -> String {
        self.good(args)
    }

    /// Runs a verb that must fail with this exit code; its stderr.
    pub fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.try_run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        text
    }

    /// Writes a carrier and returns its path.
    pub fn carrier(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

pub fn sha256(path: impl AsRef<Path>) -> Sha256 {
    Sha256::of_file(path.as_ref()).unwrap().0
}

/// A disk of 8 MiB whose bytes are not zeros, with a region of `size` bytes at 2 MiB.
pub fn raw(size: u64) -> Vec<u8> {
    let mut disk: Vec<u8> = (0..8 * MIB).map(|i| (i % 253) as u8 + 1).collect();
    let mut cursor = Cursor::new(&mut disk);
    ProtectiveMBR::with_lb_size(16383).overwrite_lba0(&mut cursor).unwrap();
    let mut table = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(&mut cursor, Some(uuid::Uuid::from_u128(1)))
        .unwrap();
    let partition = |kind, id, first: u64, last: u64, name: &str| Partition {
        part_type_guid: Type { guid: kind, os: OperatingSystem::None },
        part_guid: uuid::Uuid::from_u128(id),
        first_lba: first,
        last_lba: last,
        flags: 0,
        name: name.to_owned(),
    };
    let start = 2 * MIB / 512;
    let partitions = BTreeMap::from([
        (1, partition(uuid::Uuid::from_u128(7), 2, 2048, start - 1, "other")),
        (2, partition(region::PARTITION_TYPE, 3, start, start + size / 512 - 1, "whatever")),
    ]);
    table.update_partitions(partitions).unwrap();
    table.write().unwrap();
    let at = 2 * MIB as usize;
    disk[at..at + size as usize].copy_from_slice(&castiron::region::unstamped(size as usize));
    disk
}

/// The same with the first volume descriptor of ISO 9660.
pub fn iso() -> Vec<u8> {
    let mut disk = raw(region::SIZE);
    disk[0x8000..0x8007].copy_from_slice(b"\x01CD001\x01");
    disk
}

/// A qcow2 of the disk, in QEMU's layout (docs/interop/qcow2.txt); its clusters lie in the file backwards. With
/// `dropped`, those that are all zeros are not there.
pub fn qcow2(disk: &[u8], dropped: bool) -> Vec<u8> {
    let clusters: Vec<&[u8]> = disk.chunks(CLUSTER).collect();
    // Header, refcount table, refcount block, L1, L2, then the data.
    let mut file = vec![0; 5 * CLUSTER];
    let mut header: Vec<u8> = b"QFI\xfb".to_vec();
    header.extend(3_u32.to_be_bytes());
    header.extend([0; 12]);
    header.extend(16_u32.to_be_bytes());
    header.extend((disk.len() as u64).to_be_bytes());
    header.extend(0_u32.to_be_bytes());
    header.extend(1_u32.to_be_bytes());
    header.extend((3 * CLUSTER as u64).to_be_bytes());
    header.extend((CLUSTER as u64).to_be_bytes());
    header.extend(1_u32.to_be_bytes());
    header.extend([0; 12]);
    header.extend([0; 24]);
    header.extend(4_u32.to_be_bytes());
    header.extend(104_u32.to_be_bytes());
    file[..104].copy_from_slice(&header);
    file[CLUSTER..CLUSTER + 8].copy_from_slice(&(2 * CLUSTER as u64).to_be_bytes());
    file[3 * CLUSTER..3 * CLUSTER + 8].copy_from_slice(&((1 << 63) | (4 * CLUSTER as u64)).to_be_bytes());
    for (i, cluster) in clusters.iter().enumerate().rev() {
        if dropped && cluster.iter().all(|byte| *byte == 0) {
            continue;
        }
        let entry = 4 * CLUSTER + 8 * i;
        let offset = file.len() as u64;
        file[entry..entry + 8].copy_from_slice(&((1 << 63) | offset).to_be_bytes());
        file.extend_from_slice(cluster);
    }
    for i in 0..file.len() / CLUSTER {
        file[2 * CLUSTER + 2 * i..2 * CLUSTER + 2 * i + 2].copy_from_slice(&1_u16.to_be_bytes());
    }
    file
}

/// The region's bytes of a carrier.
pub fn region_of(path: impl AsRef<Path>) -> Vec<u8> {
    let file = File::open(path).unwrap();
    region::Region::find(&file).unwrap().read().unwrap()
}

/// Turns a bit over.
pub fn flip(path: &str, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}
