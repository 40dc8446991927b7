//! The machine's side: what `castiron-node`, baked into every image, does on a running machine.
//!
//! ```text
//! medium ─▶ install       boot ─▶ verify_boot ─▶ config ─▶ banner ─▶ … ─▶ slot (good | fallback)      report ◀─▶ lab
//! ```
//!
//! [`machine::Machine`] is the only door to the running system's files, [`tool`] the only one to its programs; both can be
//! led to a folder, so that all of this is tested without a machine. The facts that the builder leaves in the image for
//! this program are the types of [`image`]. Each verb is a one-shot that looks before it acts; `report` alone stays.

pub mod banner;
mod checks;
pub mod config;
pub mod health;
pub mod identity;
pub mod image;
pub mod install;
pub mod machine;
mod mounts;
pub mod report;
pub mod settings;
pub mod slot;
mod tool;
pub mod verify_boot;
pub mod volumes;
