//! The lab: machines that boot what was built, are broken on purpose, and are judged by their own answer.
//!
//! In: a release's files, and scenarios. Out: passed or failed, and on failure the console, the screen and the verdict.
//!
//! - `image` finds an image and looks whether it is whole; `disk` and `writelog` change raw copies of it.
//! - `probe` decides between KVM and TCG; `hardware` is what a machine is made of, `qemu` the machine that runs, `qmp` its
//!   monitor, `link` all that it says, `screen` what it shows.
//! - `site` makes seeds for a scenario, `foreign` disks with somebody else's data.
//! - `console` is a person's terminal on a machine; `scenario` and `runner` are for tests.
//!
//! Only the verdict counts: QEMU ends with status 0 after a panic, after a failed check and after silence alike (tried).

pub mod console;
pub mod disk;
pub mod foreign;
pub mod hardware;
pub mod image;
pub mod link;
pub mod probe;
pub mod qemu;
pub mod qmp;
pub mod runner;
pub mod scenario;
pub mod screen;
pub mod site;
pub mod writelog;
