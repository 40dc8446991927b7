//! Steps: what is done and what must be seen.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::machine::Size;

/// One step.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Switches the machine on.
    Start,
    /// The machine must answer that it is healthy, and what it says of itself must fit.
    Healthy(Healthy),
    /// The console must say a text.
    Console(Console),
    /// For some seconds the machine must neither reset nor switch itself off.
    Stays(Stays),
    /// Keeps facts of the last verdict, to compare with later ones.
    Remember(Vec<String>),
    /// These facts of the last verdict must be as they were remembered.
    Same(Vec<String>),
    /// These facts of the last verdict must not be as they were remembered.
    Different(Vec<String>),
    /// The screen must show a text, now.
    Screen(String),
    /// Presses the reset button.
    Reset,
    /// Presses the power button and waits until the machine is off.
    PowerOff(Within),
    /// Takes the power away.
    Cut,
    /// The machine must switch itself off.
    Off(Within),
    /// Takes the installer medium out, of a machine that is off.
    TakeOut,
    /// Plugs a stick with the seeds of the site's nodes in.
    PlugSeed,
    /// The disk with this number, from 0, must hold what it held before the machine was on.
    Untouched(usize),
    /// Records an installation, then installs copies of the disk whose power was cut at random moments of it.
    InstallCuts(Installs),
    /// Records a first boot, then boots copies of the disk whose power was cut at random moments of it.
    PowerCuts(PowerCuts),
}

/// See [`Step::Healthy`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Healthy {
    /// Seconds.
    pub within: u64,
    /// Facts that must have these values.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
    /// Facts, numbers of bytes, that must be at least so large.
    #[serde(default)]
    pub at_least: BTreeMap<String, Size>,
}

/// See [`Step::Console`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Console {
    /// What it must say, after what former steps have seen.
    pub text: String,
    /// Seconds.
    pub within: u64,
    /// What it must not say before.
    #[serde(default)]
    pub before: Vec<String>,
}

/// See [`Step::Stays`].
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Stays {
    /// Seconds.
    pub seconds: u64,
}

/// A limit.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Within {
    /// Seconds.
    pub within: u64,
}

/// See [`Step::PowerCuts`].
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PowerCuts {
    /// How many.
    pub count: u64,
    /// Seconds for each boot.
    pub within: u64,
}

/// See [`Step::InstallCuts`].
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Installs {
    /// How many.
    pub count: u64,
    /// Seconds for each installation.
    pub within: u64,
    /// Seconds for each boot after it.
    pub boot: u64,
}
