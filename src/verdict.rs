//! What a machine and the lab say to each other: one JSON line each way on a virtio-serial port.
//!
//! The lab sends a [`Question`] with a nonce of its own making; the machine answers with a [`Verdict`] that carries it.
//! Silence, an old nonce or a broken line is never a pass.
//!
//! Firmware may have a driver for the port, too, and swallow what comes before the machine runs (OVMF does). So the lab says
//! its question again every few seconds until it is answered; the machine takes equal questions in a row for one.

use serde::{Deserialize, Serialize};

/// The virtio-serial port's name; in the machine `/dev/virtio-ports/io.castiron.report`.
pub const PORT: &str = "io.castiron.report";

/// The port on which an installation tells its events, as docs/events.md has them.
pub const EVENTS_PORT: &str = "io.castiron.events";

/// What the lab asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Any text without line breaks; comes back in the answer.
    pub nonce: String,
}

/// What the machine answers, once its boot has ended one way or the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The question's nonce.
    pub nonce: String,
    /// Whether every check passed.
    pub healthy: bool,
    /// The checks, in the order in which they were made.
    pub checks: Vec<Check>,
    /// What the machine says of itself: `role`, `image-version`, `debug-shell`, `roothash`, `slot`, `grub-variables` (those of
    /// the environment block), `machine-id`, `boot-id`, `kernel`, `firmware` (bios, uefi), `secure-boot` (enabled, disabled,
    /// absent), `var-bytes`, `var-uuid`, `uptime-seconds`; of a node also `node`, `fqdn`, `hostname`, `cluster`, `site`,
    /// `seed-serial`, `seed-source`, `addresses`. One that cannot be had is left out.
    pub facts: std::collections::BTreeMap<String, String>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its name: `system-running`, `seed`, `no-failed-unit`, `verity`, `var`, `etc`, `machine-id`, `slot-good`.
    pub name: String,
    /// Whether it is as it should be.
    pub passed: bool,
    /// What was found.
    pub found: String,
}
