//! The seed region's header: what the last 4096 bytes of the region say of the bytes before them.
//!
//! In: the bytes of a region. Out: [`State`].
//!
//! Every carrier and every installed disk has one region: a GPT partition of type [`TYPE`], 4 MiB in what castiron builds.
//! Up to the header there is *room*. Stamped, the room begins with the payload, a FAT volume labelled `CIDATA`, so that
//! udev, cloud-init and people see a NoCloud volume; the rest of the room is zeros. Unstamped, all of the room is zeros.
//!
//! | at | bytes | |
//! | --- | --- | --- |
//! | 0 | 16 | `castiron-region` and a zero byte |
//! | 16 | 4 | version of this format: 1 |
//! | 20 | 4 | zeros |
//! | 24 | 8 | room in bytes, all that is before the header |
//! | 32 | 8 | length of the payload in bytes; 0 where nothing is stamped |
//! | 40 | 32 | SHA-256 of the payload, or zeros |
//! | 72 | 16 | id of the site, or zeros |
//! | 88 | 8 | serial number of the seed, or 0 |
//! | 96 | 8 | time of the stamp in seconds since 1970 UTC, or 0 |
//! | 104 | 3960 | zeros |
//! | 4064 | 32 | SHA-256 of the header's bytes before it |
//!
//! Numbers are little-endian. The header is at the end and not at the beginning, since a volume is found by its first bytes.
//! Whoever stamps writes an unstamped header, then the payload, then the header, each on the disk before the next is
//! begun: a crash leaves an unstamped region or one whose digest is wrong, never one that looks right and is not.

use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::digest::Sha256;

/// The type of the partition, castiron's own: nothing else mounts it or makes something of it.
pub const TYPE: &str = "ca571204-5eed-4c1d-a7a0-6361737469f0";

/// The partition's name, and the label of the volume in it.
pub const NAME: &str = "CIDATA";

/// Bytes of the region in what castiron builds.
pub const SIZE: u64 = 4 << 20;

/// Bytes of the header.
pub const HEADER: usize = 4096;

/// Whoever reads a region takes no longer one than this.
pub const MAX: u64 = 256 << 20;

const MAGIC: &[u8; 16] = b"castiron-region\0";
const VERSION: u32 = 1;
const CHECKED: usize = HEADER - 32;

/// A site: the first 16 bytes of the SHA-256 of its first signing key, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SiteId([u8; 16]);

impl SiteId {
    /// The site whose first signing key is `key`.
    pub fn of_key(key: &[u8; 32]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&Sha256::of(key).bytes()[..16]);
        Self(id)
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl TryFrom<String> for SiteId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        hex(&text).map(Self).ok_or_else(|| format!("`{text}` is no site id: it has 32 hexadecimal digits"))
    }
}

impl From<SiteId> for String {
    fn from(id: SiteId) -> Self {
        id.to_string()
    }
}

/// Lower-case hexadecimal digits as bytes.
pub(crate) fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != 2 * N || !text.bytes().all(digit) {
        return None;
    }
    let mut bytes = [0; N];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

/// What is stamped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Length of the payload in bytes.
    pub length: u64,
    /// Its digest.
    pub sha256: Sha256,
    /// Whose seed it is.
    pub site: SiteId,
    /// The seed's serial number.
    pub serial: u64,
    /// When it was stamped: seconds since 1970 UTC.
    pub time: u64,
}

/// A header: how much room there is, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes before the header.
    pub room: u64,
    /// What is stamped, if anything is.
    pub stamp: Option<Stamp>,
}

impl Header {
    /// The bytes of the header.
    pub fn to_bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..16].copy_from_slice(MAGIC);
        bytes[16..20].copy_from_slice(&VERSION.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.room.to_le_bytes());
        if let Some(stamp) = &self.stamp {
            bytes[32..40].copy_from_slice(&stamp.length.to_le_bytes());
            bytes[40..72].copy_from_slice(stamp.sha256.bytes());
            bytes[72..88].copy_from_slice(&stamp.site.0);
            bytes[88..96].copy_from_slice(&stamp.serial.to_le_bytes());
            bytes[96..104].copy_from_slice(&stamp.time.to_le_bytes());
        }
        let check = Sha256::of(&bytes[..CHECKED]);
        bytes[CHECKED..].copy_from_slice(check.bytes());
        bytes
    }

    /// Reads the header of a region of `size` bytes.
    pub fn parse(bytes: &[u8], size: u64) -> Result<Self> {
        ensure!(bytes.len() == HEADER, "a header has {HEADER} bytes, not {}", bytes.len());
        ensure!(bytes.starts_with(MAGIC), "there is no header of castiron's in the region's last {HEADER} bytes");
        ensure!(Sha256::of(&bytes[..CHECKED]).bytes() == &bytes[CHECKED..], "the region's header is damaged");
        let version = u32::from_le_bytes(array(bytes, 16)?);
        ensure!(version == VERSION, "the region's header is of version {version}; this castiron knows {VERSION}");
        let room = u64::from_le_bytes(array(bytes, 24)?);
        ensure!(
            room.checked_add(HEADER as u64) == Some(size),
            "the region's header speaks of {room} bytes of room in a region of {size} bytes"
        );
        let length = u64::from_le_bytes(array(bytes, 32)?);
        ensure!(length <= room, "the region's header speaks of {length} bytes in a room of {room}");
        let sha256 = Sha256::from(array::<32>(bytes, 40)?);
        let stamp = (length > 0)
            .then(|| -> Result<Stamp> {
                Ok(Stamp {
                    length,
                    sha256,
                    site: SiteId(array(bytes, 72)?),
                    serial: u64::from_le_bytes(array(bytes, 88)?),
                    time: u64::from_le_bytes(array(bytes, 96)?),
                })
            })
            .transpose()?;
        Ok(Self { room, stamp })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).context("the header is cut short")
}

/// What a whole region holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State<'a> {
    /// Nothing, and room for this many bytes.
    Unstamped(u64),
    /// This payload, whose digest is right.
    Stamped(Stamp, &'a [u8]),
}

/// Reads all the bytes of a region.
pub fn read(region: &[u8]) -> Result<State<'_>> {
    let Some(at) = region.len().checked_sub(HEADER) else {
        bail!("a region has at least {HEADER} bytes, not {}", region.len());
    };
    let header = Header::parse(&region[at..], region.len() as u64)?;
    let Some(stamp) = header.stamp else { return Ok(State::Unstamped(header.room)) };
    let length = usize::try_from(stamp.length).context("the payload is longer than this machine can address")?;
    let payload = region[..at].get(..length).context("the payload is longer than its region")?;
    ensure!(
        Sha256::of(payload) == stamp.sha256,
        "what is stamped is not what the header promises: the stamp was cut short, or somebody changed it"
    );
    Ok(State::Stamped(stamp, payload))
}

/// What is to be stamped. Without `Debug`: a volume holds secrets.
#[derive(Clone, Copy)]
pub struct Payload<'a> {
    /// The volume; zeros at its end are not counted.
    pub volume: &'a [u8],
    /// Whose seed it is.
    pub site: SiteId,
    /// The seed's serial number.
    pub serial: u64,
    /// Seconds since 1970 UTC.
    pub time: u64,
}

/// A region of `size` bytes that holds the payload. An error where it does not fit.
pub fn stamped(size: usize, payload: &Payload<'_>) -> Result<Zeroizing<Vec<u8>>> {
    let room = size.checked_sub(HEADER).context("the region has no room for its header")?;
    let Payload { volume, site, serial, time } = *payload;
    let length = volume.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    ensure!(length <= room, "{length} bytes do not fit into the {room} of the seed region");
    let volume = &volume[..length];
    let mut region = Zeroizing::new(vec![0; size]);
    region[..length].copy_from_slice(volume);
    let stamp = Stamp { length: length as u64, sha256: Sha256::of(volume), site, serial, time };
    region[room..].copy_from_slice(&Header { room: room as u64, stamp: Some(stamp) }.to_bytes());
    Ok(region)
}

/// An unstamped region of `size` bytes.
pub fn unstamped(size: usize) -> Vec<u8> {
    let mut region = vec![0; size];
    if let Some(at) = size.checked_sub(HEADER) {
        region[at..].copy_from_slice(&Header { room: at as u64, stamp: None }.to_bytes());
    }
    region
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamped(payload: &[u8]) -> Vec<u8> {
        let mut region = unstamped(64 << 10);
        let at = region.len() - HEADER;
        region[..payload.len()].copy_from_slice(payload);
        let stamp = Stamp {
            length: payload.len() as u64,
            sha256: Sha256::of(payload),
            site: SiteId::of_key(&[7; 32]),
            serial: 8,
            time: 9,
        };
        region[at..].copy_from_slice(&Header { room: at as u64, stamp: Some(stamp) }.to_bytes());
        region
    }

    #[test]
    fn a_region_says_what_was_written() {
        assert_eq!(read(&unstamped(64 << 10)).expect("reads"), State::Unstamped(60 << 10));
        let region = stamped(b"something");
        let State::Stamped(stamp, payload) = read(&region).expect("reads") else { panic!("is stamped") };
        assert_eq!((payload, stamp.serial, stamp.time), (&b"something"[..], 8, 9));
    }

    #[test]
    fn a_site_id_reads_as_it_is_written() {
        let id = SiteId::of_key(&[7; 32]);
        assert_eq!(SiteId::try_from(id.to_string()), Ok(id));
        for wrong in ["", "zz", &"A".repeat(32), &"é".repeat(16)] {
            assert!(SiteId::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_region(bytes in proptest::collection::vec(any::<u8>(), 0..10_000)) {
            prop_assert!(read(&bytes).is_err());
        }

        #[test]
        fn any_changed_bit_of_header_or_payload_is_seen(at in 0_usize..(HEADER + 100), bit in 0_u8..8) {
            let mut region = stamped(&[5; 100]);
            let at = if at < 100 { at } else { region.len() - HEADER + at - 100 };
            region[at] ^= 1_u8 << bit;
            prop_assert!(read(&region).is_err());
        }

        #[test]
        fn a_header_that_checks_may_still_say_nonsense(fields in proptest::collection::vec(any::<u8>(), 88)) {
            let mut region = stamped(b"x");
            let at = region.len() - HEADER;
            region[at + 16..at + 16 + fields.len()].copy_from_slice(&fields);
            let check = Sha256::of(&region[at..at + CHECKED]);
            region[at + CHECKED..].copy_from_slice(check.bytes());
            prop_assert!(read(&region).is_err());
        }
    }
}
