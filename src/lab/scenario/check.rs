//! What a scenario's file says that can not be meant.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;

use super::ScenarioFile;
use super::steps::{Console, Healthy, Installs, PowerCuts, Step, Within};
use crate::lab::disk::Slot;

/// What serde cannot see.
pub(super) fn check(file: &ScenarioFile) -> Vec<(Range<usize>, String)> {
    let mut problems = Vec::new();
    if file.firmware.get_ref().is_empty() {
        problems.push((file.firmware.span(), "a scenario runs on at least one firmware".to_owned()));
    }
    let end = file.steps.last().map_or(file.firmware.span(), Spanned::span);
    if file.disk.corrupt.iter().any(|d| d.slot == Slot::B) && !file.disk.fill_slot_b {
        let text = "`corrupt` names slot `b`, which is empty: add `fill-slot-b = true`";
        problems.push((file.firmware.span(), text.to_owned()));
    }
    let with = |text: &str| (file.firmware.span(), text.to_owned());
    match (&file.medium, file.disks.is_empty()) {
        (Some(_), true) => problems.push(with("a machine that starts from `medium` needs `disks`")),
        (None, false) => problems.push(with("`disks` are those of a machine with a `medium`; the image's is `disk`")),
        _ => {}
    }
    if file.disks.iter().any(|disk| disk.size.is_some() && disk.short.is_some()) {
        problems.push(with("`short` is less than the role's image has: a disk with a `size` has no `short`"));
    }
    let (mut on, mut judged, mut used, mut inside) = (false, false, false, file.medium.is_some());
    let mut remembered = BTreeSet::new();
    for placed in &file.steps {
        let mut say = |text: String| problems.push((placed.span(), text));
        let step = placed.get_ref();
        let needs_verdict = matches!(step, Step::Remember(_) | Step::Same(_) | Step::Different(_));
        let recording = matches!(step, Step::PowerCuts(_) | Step::InstallCuts(_));
        let at_rest = matches!(step, Step::Start | Step::TakeOut | Step::Untouched(_)) || recording;
        let needs_power = !needs_verdict && !at_rest;
        if matches!(step, Step::Start) && on {
            say("the machine is on already".into());
        }
        if recording && used {
            say("this needs a disk that was never started: make it the first step".into());
        }
        if matches!(step, Step::InstallCuts(_) | Step::TakeOut | Step::PlugSeed) && !inside {
            say("there is no medium in the machine".into());
        }
        if matches!(step, Step::TakeOut | Step::Untouched(_)) && on {
            say("the machine is on: it must be off for this".into());
        }
        if needs_verdict && !judged {
            say("there is no verdict yet: a `healthy` step must come before".into());
        }
        if needs_power && !on {
            say("the machine is off: a `\"start\"` step must come before".into());
        }
        match step {
            Step::Start => on = true,
            Step::Cut | Step::PowerOff(_) | Step::Off(_) => on = false,
            Step::TakeOut => inside = false,
            Step::Untouched(n) if *n >= file.disks.len() => say(format!("there is no disk {n}")),
            Step::Healthy(_) => judged = true,
            Step::Remember(facts) => remembered.extend(facts.iter().cloned()),
            Step::Same(facts) | Step::Different(facts) => {
                for fact in facts.iter().filter(|f| !remembered.contains(*f)) {
                    say(format!("`{fact}` was not remembered by a step before"));
                }
            }
            Step::PowerCuts(PowerCuts { count: 0, .. }) | Step::InstallCuts(Installs { count: 0, .. }) => {
                say("`count` must be at least 1".into());
            }
            _ => {}
        }
        if limit(step) == Some(0) {
            say("a limit must be at least 1 second".into());
        }
        used = true;
    }
    if !file.steps.iter().any(|s| {
        use Step as S;
        matches!(s.get_ref(), S::Healthy(_) | S::Console(_) | S::Screen(_) | S::PowerCuts(_) | S::InstallCuts(_))
    }) {
        problems.push((end, "nothing must be seen: such a scenario cannot fail".to_owned()));
    }
    problems
}

fn limit(step: &Step) -> Option<u64> {
    match step {
        Step::Healthy(Healthy { within, .. })
        | Step::Console(Console { within, .. })
        | Step::PowerOff(Within { within })
        | Step::Off(Within { within })
        | Step::InstallCuts(Installs { within, .. })
        | Step::PowerCuts(PowerCuts { within, .. }) => Some(*within),
        Step::Stays(stays) => Some(stays.seconds),
        _ => None,
    }
}
