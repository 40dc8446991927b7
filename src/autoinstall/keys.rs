//! Every key of Ubuntu's schema, and what becomes of it: the table of docs/autoinstall.md as data.

/// What castiron makes of a key at the top of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out.
    Done,
    /// It is not, and this is where it is said instead.
    Elsewhere(&'static str),
}

use Fate::{Done, Elsewhere};

const PROFILE: &str =
    "what an image holds is said in `profiles/<role>.toml`, and locked: packages can not be added on a machine";
const LOCALE: &str = "images speak `C.UTF-8` and keep UTC: leave it out";
const CLOUD_INIT: &str = "images do not run cloud-init: say it in site.toml, or in a unit of the profile";

/// Keys at the top.
pub const KEYS: &[(&str, Fate)] = &[
    ("version", Done),
    ("interactive-sections", Done),
    ("early-commands", Done),
    ("late-commands", Done),
    ("error-commands", Done),
    ("reporting", Done),
    ("storage", Done),
    ("identity", Done),
    ("ssh", Done),
    ("network", Done),
    ("shutdown", Done),
    ("refresh-installer", Done),
    ("source", Elsewhere("the node's `role` in site.toml says which image: leave it out")),
    ("proxy", Elsewhere("say it in site.toml, under `[proxy]`")),
    ("user-data", Elsewhere(CLOUD_INIT)),
    ("locale", Elsewhere(LOCALE)),
    ("keyboard", Elsewhere(LOCALE)),
    ("timezone", Elsewhere(LOCALE)),
    ("packages", Elsewhere(PROFILE)),
    ("snaps", Elsewhere(PROFILE)),
    ("apt", Elsewhere(PROFILE)),
    ("debconf-selections", Elsewhere(PROFILE)),
    ("kernel", Elsewhere(PROFILE)),
    ("codecs", Elsewhere(PROFILE)),
    ("drivers", Elsewhere(PROFILE)),
    ("oem", Elsewhere(PROFILE)),
    ("updates", Elsewhere("an image is updated as a whole, by a new release: leave it out")),
    ("ubuntu-pro", Elsewhere("an image is attached to nothing: leave it out")),
    ("ubuntu-advantage", Elsewhere("an image is attached to nothing: leave it out")),
    ("active-directory", Elsewhere("who may log in is said in site.toml, under `[ssh]` and `[console]`")),
];

/// Keys of `storage`.
pub const STORAGE: &[(&str, Fate)] = &[
    ("layout", Done),
    ("version", Done),
    ("config", Elsewhere("the release has the partitions: `layout: {name: dd}` writes them")),
    ("swap", Elsewhere("images have no swap, as Kubernetes wants it: leave it out")),
    ("grub", Elsewhere("the release has its boot loader: leave it out")),
];

/// Keys of `storage.layout`.
pub const LAYOUT: &[(&str, Fate)] = &[
    ("name", Done),
    ("match", Done),
    ("mode", Elsewhere("the whole disk is written: leave it out")),
    ("password", Elsewhere("castiron's disks are not encrypted: leave it out")),
    ("sizing-policy", Elsewhere("`/var` takes what the image leaves: leave it out")),
    ("reset-partition", Elsewhere("the other slot is what a machine falls back to: leave it out")),
];

/// Keys of `storage.layout.match`.
pub const MATCH: &[(&str, Fate)] = &[
    ("serial", Done),
    ("model", Done),
    ("vendor", Done),
    ("path", Done),
    ("id_path", Done),
    ("devpath", Done),
    ("ssd", Done),
    ("size", Done),
    ("install-media", Done),
];

/// Keys of `identity`.
pub const IDENTITY: &[(&str, Fate)] = &[
    ("hostname", Done),
    ("username", Done),
    ("password", Done),
    ("realname", Elsewhere("users have no other name than that which they log in by: leave it out")),
];

/// Keys of `ssh`.
pub const SSH: &[(&str, Fate)] = &[("install-server", Done), ("authorized-keys", Done), ("allow-pw", Done)];
