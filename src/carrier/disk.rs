//! The raw disk: GPT, BIOS boot partition, ESP, slot A filled, slot B empty, a seed region, and room for `/var`.
//!
//! | # | size | label | PARTUUID |
//! | --- | --- | --- | --- |
//! | 1 | 1 MiB | bios | from role and version |
//! | 2 | `image.esp` | esp | from role and version |
//! | 3, 4 | `image.slot`, `image.verity` | root-a, verity-a | the halves of the root hash (systemd-veritysetup-generator(8)) |
//! | 5, 6 | the same | root-b, verity-b | from role and version, while empty |
//! | 7 | 4 MiB | CIDATA | from role and version |
//! | 8 | the rest | var | systemd-repart's, at first boot |
//!
//! Types are those of the Discoverable Partitions Specification, but for the seed region's, which is castiron's own. Only what carries data is written: the file is sparse.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{OperatingSystem, Type};
use uuid::Uuid;

use super::{bios, esp, region};
use crate::context::Context;
use crate::digest::Sha256;
use crate::fs;
use crate::lock::Lock;
use crate::profile::{Image, Profile};
use crate::region::HEADER;
use crate::system::System;
use crate::tools::Tools;

/// Bytes of a logical block.
pub const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

const BIOS_BOOT: Uuid = uuid::uuid!("21686148-6449-6e6f-744e-656564454649");
const EFI_SYSTEM: Uuid = uuid::uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
const ROOT_X86_64: Uuid = uuid::uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709");
const ROOT_X86_64_VERITY: Uuid = uuid::uuid!("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5");

/// One partition as it will be.
struct Planned {
    label: &'static str,
    kind: Uuid,
    uuid: Uuid,
    start: u64,
    size: u64,
}

/// The two PARTUUIDs of a slot: the halves of its root hash, root first (systemd-veritysetup-generator(8), `roothash=`).
pub fn slot_uuids(roothash: &str) -> Result<(Uuid, Uuid)> {
    ensure!(roothash.len() == 64 && roothash.is_ascii(), "`{roothash}` is no root hash of 64 hexadecimal digits");
    let half = |text: &str| Uuid::try_parse(text).with_context(|| format!("`{roothash}` is no root hash"));
    Ok((half(&roothash[..32])?, half(&roothash[32..])?))
}

/// Writes the raw disk of a role to `path`.
pub fn write(
    ctx: &Context,
    tools: &Tools,
    profile: &Profile,
    lock: &Lock,
    system: &System,
    identity: &Sha256,
    path: &Path,
) -> Result<()> {
    let step = ctx.ui.step("carrier", format!("writing the disk of `{}`", profile.name));
    let plan = plan(&profile.image, &system.roothash, identity)?;
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .with_context(|| format!("creating `{}`", path.display()))?;
    file.set_len(profile.image.size).with_context(|| format!("sizing `{}`", path.display()))?;
    let [bios_boot, efi, root, verity, .., seed] = plan.as_slice() else {
        anyhow::bail!("a disk has seven partitions")
    };

    let loader = bios::Loader::make(ctx, tools, bios_boot.start / SECTOR)?;
    write_table(&mut file, &plan, identity, &loader)?;
    write_at(&mut file, bios_boot.start, &loader.core)?;
    let volume = identity.bytes()[..4].try_into().map(u32::from_le_bytes).context("a digest has 32 bytes")?;
    std::thread::scope(|scope| {
        // Opened again: two handles of one opening would share their place in the file.
        let esp = scope.spawn(|| {
            let files = esp::files(ctx, profile, lock, system)?;
            esp::write(fs::open_rw(path)?, efi.start, efi.size, volume, &files)
        });
        let copied = copy_at(&mut file, root.start, &system.root)
            .and_then(|()| copy_at(&mut file, verity.start, &system.verity));
        esp.join().unwrap_or_else(|_| bail!("writing the ESP panicked")).and(copied)
    })?;
    let unstamped = region::unstamped();
    let header = unstamped.len() - HEADER;
    write_at(&mut file, seed.start + header as u64, &unstamped[header..])?;
    ctx.check_interrupt()?;
    step.done();
    Ok(())
}

fn plan(image: &Image, roothash: &str, identity: &Sha256) -> Result<Vec<Planned>> {
    let (root, verity) = slot_uuids(roothash)?;
    let own = |label: &str| derived_uuid(identity, label);
    let wanted = [
        ("bios", BIOS_BOOT, own("bios"), MIB),
        ("esp", EFI_SYSTEM, own("esp"), image.esp),
        ("root-a", ROOT_X86_64, root, image.slot),
        ("verity-a", ROOT_X86_64_VERITY, verity, image.verity),
        ("root-b", ROOT_X86_64, own("root-b"), image.slot),
        ("verity-b", ROOT_X86_64_VERITY, own("verity-b"), image.verity),
        (region::NAME, region::PARTITION_TYPE, own(region::NAME), region::SIZE),
    ];
    let mut start = MIB;
    let mut plan = Vec::new();
    for (label, kind, uuid, size) in wanted {
        plan.push(Planned { label, kind, uuid, start, size });
        start += size.next_multiple_of(MIB);
    }
    ensure!(
        start + MIB <= image.size,
        "the partitions end at {} MiB, the disk has {} MiB",
        start / MIB,
        image.size / MIB
    );
    Ok(plan)
}

fn derived_uuid(identity: &Sha256, label: &str) -> Uuid {
    let digest = Sha256::of(format!("{identity} {label}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.bytes()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

fn write_table(file: &mut File, plan: &[Planned], identity: &Sha256, loader: &bios::Loader) -> Result<()> {
    let sectors = file.metadata().context("reading the disk's size")?.len() / SECTOR;
    let mut mbr = ProtectiveMBR::with_lb_size(u32::try_from(sectors - 1).unwrap_or(u32::MAX));
    mbr.set_bootcode(loader.boot);
    mbr.overwrite_lba0(file).context("writing the protective MBR")?;

    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(file, Some(derived_uuid(identity, "disk")))
        .context("making the partition table")?;
    let partitions: BTreeMap<u32, Partition> = (1..).zip(plan).map(|(id, p)| (id, partition(p))).collect();
    table.update_partitions(partitions).context("laying out the partitions")?;
    table.write().context("writing the partition table")?;
    Ok(())
}

fn partition(planned: &Planned) -> Partition {
    Partition {
        part_type_guid: Type { guid: planned.kind, os: OperatingSystem::None },
        part_guid: planned.uuid,
        first_lba: planned.start / SECTOR,
        last_lba: (planned.start + planned.size) / SECTOR - 1,
        flags: 0,
        name: planned.label.to_owned(),
    }
}

fn write_at(file: &mut File, offset: u64, bytes: &[u8]) -> Result<()> {
    file.seek(SeekFrom::Start(offset)).context("writing the disk")?;
    file.write_all(bytes).context("writing the disk")
}

fn copy_at(file: &mut File, offset: u64, from: &Path) -> Result<()> {
    file.seek(SeekFrom::Start(offset)).context("writing the disk")?;
    std::io::copy(&mut fs::open(from)?, file).with_context(|| format!("copying `{}` into the disk", from.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "00112233445566778899aabbccddeeff102132435465768798a9bacbdcedfe0f";

    #[test]
    fn a_slots_partitions_are_the_halves_of_its_root_hash() {
        let (root, verity) = slot_uuids(HASH).expect("is one");
        assert_eq!(root.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(verity.to_string(), "10213243-5465-7687-98a9-bacbdcedfe0f");
        assert!(slot_uuids("zz").is_err());
    }

    #[test]
    fn the_table_can_be_read_back_and_is_the_same_twice() {
        let image = Image { size: 64 * MIB, slot: 8 * MIB, verity: MIB, esp: 4 * MIB };
        let identity = Sha256::of("test");
        let plan = plan(&image, HASH, &identity).expect("fits");
        let loader = bios::Loader { boot: [7; 440], core: Vec::new() };
        let table = || {
            let mut file = tempfile::tempfile().expect("a file");
            file.set_len(image.size).expect("sizes");
            write_table(&mut file, &plan, &identity, &loader).expect("writes");
            Sha256::of_reader({
                file.rewind().expect("rewinds");
                &file
            })
            .expect("reads")
            .0
        };
        assert_eq!(table(), table());
        let mut file = tempfile::tempfile().expect("a file");
        file.set_len(image.size).expect("sizes");
        write_table(&mut file, &plan, &identity, &loader).expect("writes");
        let read = gpt::GptConfig::new().open_from_device(file).expect("is a GPT");
        let labels: Vec<&str> = read.partitions().values().map(|p| p.name.as_str()).collect();
        assert_eq!(labels, ["bios", "esp", "root-a", "verity-a", "root-b", "verity-b", "CIDATA"]);
    }

    #[test]
    fn partitions_that_do_not_fit_are_refused() {
        let image = Image { size: 16 * MIB, slot: 8 * MIB, verity: MIB, esp: 4 * MIB };
        let error = plan(&image, HASH, &Sha256::of("")).map(|_| ()).expect_err("is too small");
        assert_eq!(error.to_string(), "the partitions end at 28 MiB, the disk has 16 MiB");
    }
}
