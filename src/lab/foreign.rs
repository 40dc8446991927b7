//! Other people's disks, by the bytes that tell whose they are.
//!
//! In: a disk of zeros. Out: the same with just enough on it that libblkid, and so every Linux, knows it. ext4 is made by
//! mke2fs ([`crate::lab::installer`]); the tools for the rest want a real block device, or are not open source.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types::{BASIC, MICROSOFT_RESERVED};
use serde::Deserialize;

/// Whose data is on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holds {
    /// A physical volume of LVM.
    Lvm,
    /// A member of a RAID by mdadm.
    Raid,
    /// A filesystem without a partition table.
    Ext4,
    /// Windows: a GPT with its reserved partition and NTFS.
    Windows,
    /// The role's image, stamped for another site.
    OtherSite,
    /// The role's image of the other release, stamped for this site: a node that runs.
    OtherBuild,
}

/// Puts the signs of `holds` on a disk of `size` bytes.
pub fn put(holds: Holds, disk: &File, size: u64) -> Result<()> {
    match holds {
        Holds::Lvm => disk.write_all_at(&lvm(size), SECTOR).context("writing a label of LVM"),
        Holds::Raid => disk.write_all_at(&raid(size), RAID_AT).context("writing a superblock of mdadm"),
        Holds::Windows => windows(disk, size).context("writing the beginnings of a Windows disk"),
        Holds::Ext4 | Holds::OtherSite | Holds::OtherBuild => Ok(()),
    }
}

const SECTOR: u64 = 512;

/// LVM2's label (lvm2, lib/label/label.c and lib/format_text/layout.h).
fn lvm(size: u64) -> Vec<u8> {
    let mut label = vec![0; SECTOR as usize];
    label[..8].copy_from_slice(b"LABELONE");
    label[8..16].copy_from_slice(&1_u64.to_le_bytes()); // the sector of the label
    label[20..24].copy_from_slice(&32_u32.to_le_bytes()); // where the volume's header begins
    label[24..32].copy_from_slice(b"LVM2 001");
    label[32..64].copy_from_slice(b"castironcastironcastironcastiron"); // the volume's UUID
    label[64..72].copy_from_slice(&size.to_le_bytes());
    // CRC-32 over what follows it, begun with LVM's own number, and not inverted at the end.
    let mut crc = crc32fast::Hasher::new_with_initial(!0xf597_a6cf_u32);
    crc.update(&label[20..]);
    label[16..20].copy_from_slice(&(!crc.finalize()).to_le_bytes());
    label
}

/// Where a superblock of version 1.2 lies.
const RAID_AT: u64 = 4096;

/// mdadm's superblock, version 1.2 (linux, include/uapi/linux/raid/md_p.h).
fn raid(size: u64) -> Vec<u8> {
    let mut block = vec![0; 256];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0xa92b_4efc_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes()); // the version
    put(16, b"castironcastiron"); // the array's UUID
    put(32, b"castiron:0"); // and its name
    put(72, &1_u32.to_le_bytes()); // RAID 1
    put(80, &(size / SECTOR - 2048).to_le_bytes());
    put(92, &2_u32.to_le_bytes()); // of two disks
    put(128, &2048_u64.to_le_bytes()); // where data begins, in sectors
    put(136, &(size / SECTOR - 2048).to_le_bytes());
    put(144, &(RAID_AT / SECTOR).to_le_bytes()); // where this lies
    put(168, b"castironcastiron"); // the disk's UUID
    put(220, &1_u32.to_le_bytes()); // one role follows
    // The sum of all 32-bit words of it, folded once.
    let sum: u64 =
        block.chunks(4).map(|word| u64::from(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))).sum();
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    block[216..220].copy_from_slice(&(sum as u32).to_le_bytes());
    block
}

fn windows(disk: &File, size: u64) -> Result<()> {
    let mut file = disk.try_clone()?;
    let blocks = u32::try_from(size / SECTOR - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(blocks).overwrite_lba0(&mut file)?;
    let mut table =
        GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512).create_from_device(file, None)?;
    table.add_partition("Microsoft reserved partition", 16 << 20, MICROSOFT_RESERVED, 0, None)?;
    let id = table.add_partition("Basic data partition", 512 << 20, BASIC, 0, None)?;
    let start = table.partitions().get(&id).context("it was added")?.first_lba * SECTOR;
    table.write()?;
    // NTFS's boot sector, and where it says the master file table is, a record of that (libblkid, superblocks/ntfs.c).
    let mut boot = vec![0; SECTOR as usize];
    boot[..3].copy_from_slice(b"\xeb\x52\x90");
    boot[3..11].copy_from_slice(b"NTFS    ");
    boot[11..13].copy_from_slice(&512_u16.to_le_bytes()); // bytes a sector
    boot[13] = 8; // sectors a cluster
    boot[21] = 0xf8; // a hard disk
    boot[40..48].copy_from_slice(&((512_u64 << 20) / SECTOR - 1).to_le_bytes());
    boot[48..56].copy_from_slice(&4_u64.to_le_bytes()); // the table's cluster
    boot[56..64].copy_from_slice(&8_u64.to_le_bytes()); // and its mirror's
    boot[64] = 0xf6; // a record has 2^10 bytes
    boot[68] = 1; // clusters an index record
    boot[72..80].copy_from_slice(&0x1122_3344_5566_7788_u64.to_le_bytes());
    boot[510..].copy_from_slice(b"\x55\xaa");
    disk.write_all_at(&boot, start)?;
    // The table's own record, and the volume's, which is the fourth and has no attributes.
    let mut record = vec![0; 64];
    record[..4].copy_from_slice(b"FILE");
    record[20] = 56; // where its attributes begin
    record[56..60].copy_from_slice(&[0xff; 4]); // and end
    for record_at in [0, 3 * 1024] {
        disk.write_all_at(&record, start + 4 * 8 * SECTOR + record_at)?;
    }
    Ok(())
}
