//! castiron makes immutable Ubuntu 24.04 machines for a production Kubernetes site.
//!
//! The line, each stage using only what stands before it (`tests/architecture.rs` enforces it):
//!
//! ```text
//! profile ─▶ lock ─▶ fetch ─▶ rootfs ─▶ system ─▶ carrier ─▶ release ─▶ lab
//!    └─▶ site ─▶ seed ─────────────────────────────▶ (stamped into a carrier)
//! ```
//!
//! `build` is that drawing as code. `commands` holds one file a verb of the operator's program. `node` is the other
//! program, baked into every image. The rest stands around the line and is used by all of it.

#[cfg(feature = "builder")]
pub mod build;
#[cfg(feature = "builder")]
pub mod cli;
#[cfg(feature = "builder")]
pub mod commands;

#[cfg(feature = "builder")]
pub mod carrier;
#[cfg(feature = "builder")]
pub mod fetch;
#[cfg(feature = "builder")]
pub mod lab;
#[cfg(feature = "builder")]
pub mod lock;
#[cfg(feature = "builder")]
pub mod profile;
#[cfg(feature = "builder")]
pub mod release;
#[cfg(feature = "builder")]
pub mod rootfs;
#[cfg(feature = "builder")]
pub mod seed;
#[cfg(feature = "builder")]
pub mod site;
#[cfg(feature = "builder")]
pub mod system;

pub mod autoinstall;
pub mod cidata;
pub mod grubenv;
pub mod medium;
pub mod node;
pub mod region;
pub mod seal;
pub mod verdict;

#[cfg(feature = "builder")]
pub mod cache;
#[cfg(feature = "builder")]
pub mod cmd;
#[cfg(feature = "builder")]
pub mod context;
#[cfg(feature = "builder")]
pub mod deb;
#[cfg(feature = "builder")]
pub mod diagnostic;
pub mod digest;
#[cfg(feature = "builder")]
pub mod document;
#[cfg(feature = "builder")]
pub mod download;
pub mod error;
pub mod fs;
#[cfg(feature = "builder")]
pub mod mirror;
#[cfg(feature = "builder")]
pub mod registry;
#[cfg(feature = "builder")]
pub mod sandbox;
#[cfg(feature = "builder")]
pub mod store;
#[cfg(feature = "builder")]
pub mod tools;
#[cfg(feature = "builder")]
pub mod ui;
#[cfg(feature = "builder")]
pub mod value;
