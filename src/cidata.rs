//! The volume that a seed travels in: FAT, labelled `CIDATA`, with the files of NoCloud and castiron's own.
//!
//! In: files by name. Out: the bytes of a volume, the same for the same files.
//!
//! `meta-data`, `user-data` and `network-config` are cloud-init's names (DataSourceNoCloud); castiron's images do not run
//! cloud-init, so nothing secret is in them. All secrets are in `castiron.seed`, [`crate::seal`]'s format.

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _, Write as _};

use anyhow::{Context as _, Result, ensure};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use zeroize::Zeroizing;

use crate::digest::Sha256;
use crate::error::{Failure, Kind};

/// Files by name.
pub type Files = BTreeMap<String, Zeroizing<Vec<u8>>>;

const SECTOR: usize = 512;
/// A volume without castiron's region around it has this many bytes.
pub const ALONE: usize = 4 << 20;
/// No seed is longer.
const FILE_MAX: u64 = crate::region::MAX;

/// Makes a volume of the files that fills `room` bytes.
pub fn make(files: &Files, room: usize) -> Result<Zeroizing<Vec<u8>>> {
    let wanted: usize = files.values().map(|bytes| bytes.len()).sum();
    let too_big = || {
        let text = format!("the seed has {wanted} bytes, and its place has room for {room}, some of it for the volume");
        Failure::new(Kind::Input, text).hint("name the nodes that this carrier is for: `--node NAME` or `--role ROLE`")
    };
    if wanted > room {
        return Err(too_big().into());
    }
    let room = room - room % SECTOR;
    let mut bytes = Zeroizing::new(vec![0; room]);
    let digest = files.iter().fold(Sha256::of("CIDATA"), |digest, (name, content)| {
        Sha256::of(format!("{digest} {name} {}", Sha256::of(content)))
    });
    let serial = u32::from_le_bytes([digest.bytes()[0], digest.bytes()[1], digest.bytes()[2], digest.bytes()[3]]);
    let mut cursor = Cursor::new(&mut bytes[..]);
    let options = FormatVolumeOptions::new().volume_id(serial).volume_label(*b"CIDATA     ");
    fatfs::format_volume(&mut cursor, options).with_context(too_big)?;
    let volume =
        FileSystem::new(cursor, FsOptions::new().update_accessed_date(false)).context("opening the seed's volume")?;
    {
        let folder = volume.root_dir();
        for (name, content) in files {
            let mut file = folder.create_file(name).with_context(too_big)?;
            file.write_all(content).and_then(|()| file.flush()).with_context(too_big)?;
        }
    }
    volume.unmount().context("closing the seed's volume")?;
    Ok(bytes)
}

/// A file of a volume.
pub fn read_file(volume: &[u8], name: &str) -> Result<Zeroizing<Vec<u8>>> {
    let reading = || format!("reading `{name}` in the seed's volume");
    // The volume says how long it is; what was zeros behind the payload is not stored.
    let mut whole = Zeroizing::new(volume.to_vec());
    let sectors = match volume.get(0x13..0x15) {
        Some([0, 0]) => volume.get(0x20..0x24).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        Some(b) => Some(u32::from(u16::from_le_bytes([b[0], b[1]]))),
        None => None,
    };
    let length = sectors.context("it is no FAT volume").with_context(reading)? as usize * SECTOR;
    if length > whole.len() && length as u64 <= FILE_MAX {
        whole.resize(length, 0);
    }
    let volume = FileSystem::new(Cursor::new(&mut whole[..]), FsOptions::new().update_accessed_date(false))
        .with_context(reading)?;
    // The folder of FAT32 is a chain of clusters, and one that bites its tail would be read for ever.
    ensure!(volume.fat_type() != FatType::Fat32, "the seed's volume is FAT32, which is for disks");
    let mut bytes = Zeroizing::new(Vec::new());
    let file = volume.root_dir().open_file(name).with_context(reading)?;
    file.take(FILE_MAX).read_to_end(&mut bytes).with_context(reading)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(length: usize) -> Files {
        let content = |length| Zeroizing::new((0..length).map(|i: usize| (i % 251) as u8).collect());
        BTreeMap::from([("meta-data".to_owned(), content(20)), ("castiron.seed".to_owned(), content(length))])
    }

    #[test]
    fn files_come_back_even_from_a_volume_without_its_zeros() {
        let files = files(300_000);
        let volume = make(&files, (4 << 20) - 4096).expect("fits");
        let end = volume.iter().rposition(|b| *b != 0).expect("is not empty") + 1;
        for (name, content) in &files {
            assert_eq!(&read_file(&volume[..end], name).expect("is there"), content, "{name}");
        }
        assert_eq!(make(&files, (4 << 20) - 4096).expect("fits"), volume);
    }

    #[test]
    fn what_does_not_fit_is_told_with_sizes() {
        let error = make(&files(5 << 20), (4 << 20) - 4096).expect_err("is too big");
        assert!(error.to_string().contains("5242900 bytes") && error.to_string().contains("4190208"), "{error}");
        // Fits by its length, but not with the volume's own tables.
        assert!(make(&files(4_190_000), (4 << 20) - 4096).is_err());
    }
}
