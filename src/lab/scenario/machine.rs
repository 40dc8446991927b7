//! The machine of a scenario: what is attached to it, and what is wrong with that.

use std::path::PathBuf;

use serde::Deserialize;

use crate::lab::disk::{Part, Slot};
use crate::lab::foreign::Holds;
use crate::lab::hardware::{Attach, Bus};

/// What is done to a copy of the image before the first start.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DiskPlan {
    /// The disk's size, where it is larger than the image.
    pub size: Option<Size>,
    /// Puts the other release into slot B.
    #[serde(default)]
    pub fill_slot_b: bool,
    /// Spoils the first partition table, as a power cut does while it is written; the one at the disk's end is whole.
    #[serde(default)]
    pub tear_table: bool,
    /// Nodes of the site whose seed is stamped into it.
    #[serde(default)]
    pub stamp: Vec<String>,
    /// Bits to turn over.
    #[serde(default)]
    pub corrupt: Vec<Damage>,
}

/// One bit to turn over.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Damage {
    /// In which slot.
    pub slot: Slot,
    /// In what of it.
    pub part: Part,
    /// In which byte of that.
    pub at: u64,
}

/// The release's installer medium, stamped for a site.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MediumPlan {
    /// As what.
    #[serde(default)]
    pub attach: Attach,
    /// Whether the seeds of the site's nodes are stamped into it.
    #[serde(default = "yes")]
    pub stamp: bool,
    /// Bits to turn over.
    #[serde(default)]
    pub corrupt: Vec<MediumDamage>,
    /// Where it ends, when it was not copied to its end.
    pub cut: Option<Size>,
}

fn yes() -> bool {
    true
}

/// One bit of a medium to turn over.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MediumDamage {
    /// In which file of the medium.
    pub file: PathBuf,
    /// In which byte of it.
    pub at: u64,
}

/// A disk of a machine that is installed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Disk {
    /// Bytes; as many as the role's image has, where nothing is said.
    pub size: Option<Size>,
    /// How much it is smaller than that.
    pub short: Option<Size>,
    /// What it is attached to.
    #[serde(default)]
    pub bus: Bus,
    /// Its serial number.
    pub serial: Option<String>,
    /// Whose data is on it.
    pub holds: Option<Holds>,
    /// A byte that can not be written.
    pub fails_at: Option<Size>,
}

/// A number of bytes: a whole number and M or G.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub u64);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size: write a whole number and `M` or `G`, such as `8G`");
        let (number, shift) = match text.strip_suffix('G') {
            Some(number) => (number, 30),
            None => (text.strip_suffix('M').ok_or_else(wrong)?, 20),
        };
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let number: u64 = number.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
        number.checked_mul(1 << shift).filter(|&bytes| bytes > 0).map(Self).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
