//! A small ISO 9660 volume: some files in one folder, for machines that take their seed from a CD.
//!
//! In: files by name. Out: the bytes of a volume labelled `CIDATA`, the same for the same files. Sources: ECMA-119 (ISO 9660),
//! and the Joliet specification for names as they are written, which Linux and cloud-init read first.
//!
//! Written here rather than by xorriso: a seed needs no tools tree then, and takes a millisecond.

use anyhow::{Result, ensure};
use zeroize::Zeroizing;

use crate::cidata::Files;

const SECTOR: usize = 2048;
const LABEL: &str = "CIDATA";
// The order of sectors: sixteen that are free, descriptors, path tables (little and big, of both trees), folders, files.
const PRIMARY: usize = 16;
const JOLIET: usize = 17;
const END: usize = 18;
const TABLES: usize = 19;
const FOLDERS: usize = 23;
const CONTENT: usize = 25;

/// A file and where it lies.
struct Placed<'a> {
    name: &'a str,
    sector: usize,
    bytes: &'a [u8],
}

/// Makes a volume of the files.
pub fn make(files: &Files) -> Result<Zeroizing<Vec<u8>>> {
    let mut sector = CONTENT;
    let mut placed = Vec::new();
    for (name, bytes) in files {
        placed.push(Placed { name, sector, bytes });
        sector += bytes.len().div_ceil(SECTOR).max(1);
    }
    let mut volume = Zeroizing::new(vec![0; sector * SECTOR]);
    for (which, joliet) in [false, true].into_iter().enumerate() {
        let folder = FOLDERS + which;
        let records = folder_records(folder, &placed, joliet);
        ensure!(records.len() <= SECTOR, "{} files are more than a seed's ISO has room for in its folder", files.len());
        put(&mut volume, folder, &records);
        let table = TABLES + 2 * which;
        put(&mut volume, table, &[&[1, 0][..], &(folder as u32).to_le_bytes(), &[1, 0, 0, 0]].concat());
        put(&mut volume, table + 1, &[&[1, 0][..], &(folder as u32).to_be_bytes(), &[0, 1, 0, 0]].concat());
        put(&mut volume, PRIMARY + which, &descriptor(sector, folder, table, joliet));
    }
    put(&mut volume, END, b"\xffCD001\x01");
    for file in &placed {
        put(&mut volume, file.sector, file.bytes);
    }
    debug_assert_eq!(JOLIET, PRIMARY + 1);
    Ok(volume)
}

fn put(volume: &mut [u8], sector: usize, bytes: &[u8]) {
    volume[sector * SECTOR..sector * SECTOR + bytes.len()].copy_from_slice(bytes);
}

/// ECMA-119, 8.4 and 8.5.
fn descriptor(sectors: usize, folder: usize, table: usize, joliet: bool) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR];
    bytes[0] = if joliet { 2 } else { 1 };
    bytes[1..7].copy_from_slice(b"CD001\x01");
    let mut text = |range: std::ops::Range<usize>, text: &str| {
        let field = &mut bytes[range];
        if joliet {
            let mut wide = text.encode_utf16().chain(std::iter::repeat(u16::from(b' ')));
            for pair in field.chunks_exact_mut(2) {
                pair.copy_from_slice(&wide.next().unwrap_or(0).to_be_bytes());
            }
        } else {
            field.fill(b' ');
            field[..text.len()].copy_from_slice(text.as_bytes());
        }
    };
    text(8..40, "");
    text(40..72, LABEL);
    for range in [190..318, 318..446, 446..574, 574..702, 702..739, 739..776, 776..813] {
        text(range, "");
    }
    bytes[80..88].copy_from_slice(&both32(sectors));
    if joliet {
        // UCS-2, level 3.
        bytes[88..91].copy_from_slice(b"%/E");
    }
    bytes[120..124].copy_from_slice(&both16(1));
    bytes[124..128].copy_from_slice(&both16(1));
    bytes[128..132].copy_from_slice(&both16(SECTOR));
    bytes[132..140].copy_from_slice(&both32(10));
    bytes[140..144].copy_from_slice(&(table as u32).to_le_bytes());
    bytes[148..152].copy_from_slice(&(table as u32 + 1).to_be_bytes());
    bytes[156..190].copy_from_slice(&record(b"\0", folder, SECTOR, true));
    for at in [813, 830, 847, 864] {
        bytes[at..at + 16].fill(b'0');
    }
    bytes[881] = 1;
    bytes
}

fn folder_records(folder: usize, files: &[Placed<'_>], joliet: bool) -> Vec<u8> {
    let mut records = [record(b"\0", folder, SECTOR, true), record(b"\x01", folder, SECTOR, true)].concat();
    let mut named: Vec<(Vec<u8>, &Placed<'_>)> = files.iter().map(|file| (name(file.name, joliet), file)).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, file) in named {
        records.extend(record(&name, file.sector, file.bytes.len(), false));
    }
    records
}

fn name(name: &str, joliet: bool) -> Vec<u8> {
    if joliet {
        return name.encode_utf16().flat_map(u16::to_be_bytes).collect();
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_uppercase() } else { '_' };
    let plain: String = name.chars().map(plain).collect();
    let dot = if plain.contains('.') { "" } else { "." };
    format!("{plain}{dot};1").into_bytes()
}

/// ECMA-119, 9.1. The time is 1980-01-01, as on the FAT volume.
fn record(name: &[u8], sector: usize, length: usize, folder: bool) -> Vec<u8> {
    let size = (33 + name.len()).next_multiple_of(2);
    let mut bytes = vec![size as u8, 0];
    bytes.extend(both32(sector));
    bytes.extend(both32(length));
    bytes.extend([80, 1, 1, 0, 0, 0, 0]);
    bytes.extend([if folder { 2 } else { 0 }, 0, 0]);
    bytes.extend(both16(1));
    bytes.push(name.len() as u8);
    bytes.extend(name);
    bytes.resize(size, 0);
    bytes
}

fn both32(number: usize) -> [u8; 8] {
    let number = number as u32;
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn both16(number: usize) -> [u8; 4] {
    let number = number as u16;
    let (little, big) = (number.to_le_bytes(), number.to_be_bytes());
    [little[0], little[1], big[0], big[1]]
}
