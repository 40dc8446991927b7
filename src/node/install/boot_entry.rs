//! The firmware's own entry for the installed disk.
//!
//! In: the disk's EFI system partition. Out: `Boot####` named `castiron`, in front of `BootOrder`; or `BootNext`. Nothing where
//! the machine was not started by UEFI.
//!
//! Written here and not by efibootmgr: it is one variable of a fixed form (UEFI 2.10, §3.1.3 and §10.3), and efibootmgr would
//! bring three packages into every image. Whatever entry has our name is ours: it is written over, and any other of
//! that name is removed, so that a second installation leaves no second entry. The removable path `/EFI/BOOT` on the disk
//! stays, for firmware that forgets. Linux takes these variables without more ado: those of booting are never marked
//! immutable (linux 6.8, fs/efivarfs, drivers/firmware/efi/vars.c).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::fs;
use crate::node::machine::Machine;

/// The entry's name.
const NAME: &str = "castiron";
/// What is started: shim, at the removable path.
const LOADER: &str = "\\EFI\\BOOT\\BOOTX64.EFI";
const VARIABLES: &str = "/sys/firmware/efi/efivars";
/// `EFI_GLOBAL_VARIABLE`.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Kept, and seen before and after the firmware has handed over.
const ATTRIBUTES: u32 = 7;
/// `LOAD_OPTION_ACTIVE`.
const ACTIVE: u32 = 1;

/// The partition that holds the boot loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Esp {
    /// Its number in the table.
    pub number: u32,
    /// Its first block.
    pub first: u64,
    /// Its blocks.
    pub blocks: u64,
    /// Its own GUID, as it lies in the table.
    pub guid: [u8; 16],
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The machine was not started by UEFI.
    NoUefi,
    /// The entry was there as it should be.
    Kept(u16),
    /// The entry was written.
    Written(u16),
}

/// Makes the entry for the disk, the first to be tried.
pub fn ensure_entry(machine: &Machine, esp: &Esp) -> Result<Done> {
    let folder = machine.path(VARIABLES);
    if !folder.is_dir() || fs::list(&folder)?.is_empty() {
        return Ok(Done::NoUefi);
    }
    let wanted = option(esp);
    let all = entries(&folder)?;
    let ours: Vec<u16> =
        all.iter().filter(|(_, bytes)| name(bytes).as_deref() == Some(NAME)).map(|(n, _)| *n).collect();
    let number = match ours.first() {
        Some(number) => *number,
        None => {
            (0..=u16::MAX).find(|n| !all.iter().any(|(taken, _)| taken == n)).context("all boot entries are taken")?
        }
    };
    let there = all.iter().any(|(n, bytes)| *n == number && *bytes == wanted);
    if !there {
        write(&folder, &entry(number), &wanted)?;
    }
    for double in ours.iter().skip(1) {
        fs::remove(&variable(&folder, &entry(*double)))?;
    }
    let order = order(&folder)?;
    let mut new = vec![number];
    new.extend(order.iter().filter(|n| !ours.contains(n) && **n != number));
    if new != order {
        write(&folder, "BootOrder", &new.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>())?;
    }
    Ok(if there && new == order && ours.len() == 1 { Done::Kept(number) } else { Done::Written(number) })
}

/// Lets the firmware start this entry once, whatever its order says.
pub fn start_next(machine: &Machine, number: u16) -> Result<()> {
    write(&machine.path(VARIABLES), "BootNext", &number.to_le_bytes())
}

/// `EFI_LOAD_OPTION`: attributes, length of the paths, name, paths.
fn option(esp: &Esp) -> Vec<u8> {
    // Hard drive: type 4, subtype 1, 42 bytes; 2: a GPT, 2: its GUID.
    let mut paths = vec![4, 1, 42, 0];
    paths.extend(esp.number.to_le_bytes());
    paths.extend(esp.first.to_le_bytes());
    paths.extend(esp.blocks.to_le_bytes());
    paths.extend(esp.guid);
    paths.extend([2, 2]);
    // File: type 4, subtype 4; then the end.
    let file = utf16(LOADER);
    paths.extend([4, 4]);
    paths.extend((file.len() as u16 + 4).to_le_bytes());
    paths.extend(file);
    paths.extend([0x7f, 0xff, 4, 0]);
    let mut bytes = ACTIVE.to_le_bytes().to_vec();
    bytes.extend((paths.len() as u16).to_le_bytes());
    bytes.extend(utf16(NAME));
    bytes.extend(paths);
    bytes
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// The name in a load option.
fn name(option: &[u8]) -> Option<String> {
    let units = option.get(6..)?.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    String::from_utf16(&units.take_while(|unit| *unit != 0).collect::<Vec<_>>()).ok()
}

/// All load options, by number.
fn entries(folder: &Path) -> Result<Vec<(u16, Vec<u8>)>> {
    let mut entries = Vec::new();
    for path in fs::list(folder)? {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let digits = file.strip_suffix(&format!("-{GLOBAL}")).and_then(|name| name.strip_prefix("Boot"));
        let digits = digits.filter(|digits| digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit()));
        if let Some(number) = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok()) {
            entries.push((number, read(&path)?));
        }
    }
    entries.sort();
    Ok(entries)
}

fn order(folder: &Path) -> Result<Vec<u16>> {
    let path = variable(folder, "BootOrder");
    if !path.exists() {
        return Ok(Vec::new());
    }
    Ok(read(&path)?.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect())
}

fn entry(number: u16) -> String {
    format!("Boot{number:04X}")
}

fn variable(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}-{GLOBAL}"))
}

/// A variable without its attributes.
fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    ensure!(bytes.len() >= 4, "the firmware's variable `{}` has {} bytes", path.display(), bytes.len());
    Ok(bytes[4..].to_vec())
}

/// Writes a variable, in one write as efivarfs wants it.
fn write(folder: &Path, name: &str, value: &[u8]) -> Result<()> {
    let mut bytes = ATTRIBUTES.to_le_bytes().to_vec();
    bytes.extend(value);
    fs::write_at_once(&variable(folder, name), &bytes)
        .with_context(|| format!("writing the firmware's variable `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ESP: Esp = Esp { number: 2, first: 4096, blocks: 524_288, guid: *b"0123456789abcdef" };

    fn machine(folder: &Path) -> Machine {
        let machine = Machine::new(folder);
        let variables = machine.path(VARIABLES);
        fs::create_dir_all(&variables).expect("makes it");
        let mut other = option(&ESP);
        other[6] = b'C';
        write(&variables, "Boot0000", &other).expect("writes");
        write(&variables, "BootOrder", &[0, 0]).expect("writes");
        machine
    }

    fn names(machine: &Machine) -> Vec<(u16, Option<String>)> {
        let entries = entries(&machine.path(VARIABLES)).expect("reads");
        entries.into_iter().map(|(number, bytes)| (number, name(&bytes))).collect()
    }

    #[test]
    fn a_second_installation_leaves_one_entry() {
        let folder = tempfile::tempdir().expect("a folder");
        let machine = machine(folder.path());
        assert_eq!(ensure_entry(&machine, &ESP).expect("writes"), Done::Written(1));
        assert_eq!(ensure_entry(&machine, &ESP).expect("writes"), Done::Kept(1));
        let other = Esp { guid: *b"fedcba9876543210", ..ESP };
        assert_eq!(ensure_entry(&machine, &other).expect("writes"), Done::Written(1));
        write(&machine.path(VARIABLES), "Boot0007", &option(&ESP)).expect("writes");
        assert_eq!(ensure_entry(&machine, &other).expect("writes"), Done::Written(1));
        assert_eq!(names(&machine), [(0, Some("Castiron".to_owned())), (1, Some("castiron".to_owned()))]);
        assert_eq!(order(&machine.path(VARIABLES)).expect("reads"), [1, 0]);
    }

    #[test]
    fn a_bios_has_no_entries() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(ensure_entry(&Machine::new(folder.path()), &ESP).expect("does nothing"), Done::NoUefi);
    }

    #[test]
    fn an_entry_has_the_form_of_the_specification() {
        let bytes = option(&ESP);
        assert_eq!(&bytes[..6], &[1, 0, 0, 0, 42 + 48 + 4, 0]);
        assert_eq!(bytes.len(), 6 + 18 + 42 + 48 + 4);
        assert_eq!(name(&bytes).as_deref(), Some(NAME));
        assert_eq!(&bytes[24..28], &[4, 1, 42, 0]);
        assert_eq!(&bytes[bytes.len() - 4..], &[0x7f, 0xff, 4, 0]);
    }
}
