//! What people and programs see of an installation.
//!
//! In: what happens. Out: every console of the kernel, the journal, and JSON events on a virtio-serial port.
//!
//! - Sentences go through the kernel's log, to all consoles. Progress is drawn in place on the screen, and is a line
//!   at every tenth on serial lines, whose logs are read later.
//! - Events are those of `castiron --json` (docs/events.md). Nobody need listen: nothing here can stop an installation.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use nix::libc::{O_NOCTTY, O_NONBLOCK};
use serde_json::{Value, json};

use super::writer::Phase;
use crate::node::machine::Machine;
use crate::verdict::EVENTS_PORT;

/// The version of the events: that of `castiron --json`.
const EVENTS_VERSION: u32 = 1;
/// How often a screen and a program are told.
const AGAIN: Duration = Duration::from_millis(500);
/// Columns of a screen in text mode.
const COLUMNS: usize = 80;

/// The consoles, and the port.
pub struct Screen<'m> {
    machine: &'m Machine,
    /// Consoles on which a line can be drawn over.
    screens: Vec<File>,
    /// Serial consoles.
    lines: Vec<File>,
    port: Option<File>,
    began: Instant,
    step: Option<Step>,
    steps: u64,
}

struct Step {
    text: String,
    total: u64,
    began: Instant,
    drawn: Option<Instant>,
    tenth: u64,
}

impl<'m> Screen<'m> {
    /// Opens whatever consoles there are.
    pub fn open(machine: &'m Machine) -> Self {
        let open = |path: &str| {
            let options = O_NONBLOCK | O_NOCTTY;
            OpenOptions::new().write(true).custom_flags(options).open(machine.path(path)).ok()
        };
        let names = machine.read("/sys/class/tty/console/active").unwrap_or_default();
        let (serial, virtual_): (Vec<&str>, Vec<&str>) = names
            .split_whitespace()
            .partition(|name| !name.trim_start_matches("tty").starts_with(|c: char| c.is_ascii_digit()));
        let all = |names: Vec<&str>| names.into_iter().filter_map(|name| open(&format!("/dev/{name}"))).collect();
        Self {
            machine,
            screens: all(virtual_),
            lines: all(serial),
            port: open(&format!("/dev/virtio-ports/{EVENTS_PORT}")),
            began: Instant::now(),
            step: None,
            steps: 0,
        }
    }

    /// Says a sentence.
    pub fn say(&self, text: &str) {
        // What no console can show is no reason to stop.
        let _ = self.machine.announce(text);
        self.event("note", &json!({ "text": text }));
    }

    /// Says why nothing is installed.
    pub fn fail(&self, error: &anyhow::Error) {
        let hint = crate::error::hint(error);
        let _ = self.machine.announce(&format!("THIS MACHINE IS NOT INSTALLED: {}", in_words(error)));
        let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
        let code = crate::error::exit_code(error);
        self.event("error", &json!({"message": error.to_string(), "causes": causes, "hint": hint, "exit_code": code}));
    }

    /// The machine's name, to be read from across the room.
    pub fn name(&self, name: &str) {
        let text = big(name);
        for mut console in self.screens.iter().chain(&self.lines) {
            let _ = console.write_all(format!("\r\n{}\r\n", text.replace('\n', "\r\n")).as_bytes());
        }
    }

    /// Begins a step of `total` bytes.
    pub fn begin(&mut self, text: &str, total: u64) {
        self.steps += 1;
        self.event("step-start", &json!({"id": self.steps, "stage": "install", "text": text, "total": total}));
        let _ = self.machine.announce(&format!("{text} ({} MiB)", total >> 20));
        self.step = Some(Step { text: text.to_owned(), total, began: Instant::now(), drawn: None, tenth: 0 });
    }

    /// Tells how far the step has come.
    pub fn progress(&mut self, phase: Phase, done: u64) {
        let Some(step) = &mut self.step else { return };
        let tenth = done * 10 / step.total.max(1);
        let due = step.drawn.is_none_or(|last| last.elapsed() >= AGAIN) || done == step.total;
        if !due && tenth == step.tenth {
            return;
        }
        let line = progress(phase, done, step.total, step.began.elapsed());
        for screen in &mut self.screens {
            let _ = screen.write_all(format!("\r{line:<width$}", width = COLUMNS - 1).as_bytes());
        }
        if tenth > step.tenth {
            step.tenth = tenth;
            for serial in &mut self.lines {
                let _ = serial.write_all(format!("castiron: {line}\r\n").as_bytes());
            }
        }
        step.drawn = Some(Instant::now());
        let event = json!({"id": self.steps, "done": done, "total": step.total});
        self.event("step-progress", &event);
    }

    /// Ends the step.
    pub fn end(&mut self) {
        let Some(step) = self.step.take() else { return };
        for screen in &mut self.screens {
            let _ = screen.write_all(b"\r\n");
        }
        let seconds = (step.began.elapsed().as_secs_f64() * 100.0).round() / 100.0;
        let rate = step.total as f64 / f64::from(1 << 20) / seconds.max(0.01);
        let _ = self.machine.announce(&format!("{}: done in {seconds:.2} s, {rate:.1} MiB/s", step.text));
        let event = json!({
            "id": self.steps, "stage": "install", "text": step.text, "outcome": "done", "seconds": seconds, "bytes": step.total,
        });
        self.event("step-end", &event);
    }

    /// Lines that a command has printed.
    pub fn command(&self, line: &str) {
        let _ = self.machine.announce(&format!("| {line}"));
        self.event("note", &json!({ "text": line }));
    }

    /// What was installed where: the last event of an installation that went well.
    pub fn installed(&self, facts: &Value) {
        self.event("installed", facts);
    }

    fn event(&self, name: &str, fields: &Value) {
        let Some(mut port) = self.port.as_ref() else { return };
        let time = (self.began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        let mut event = json!({ "v": EVENTS_VERSION, "event": name, "time": time });
        if let (Some(event), Some(fields)) = (event.as_object_mut(), fields.as_object()) {
            event.extend(fields.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())));
        }
        let _ = port.write_all(format!("{event}\n").as_bytes());
    }
}

/// An error and, on a line of its own, what to do about it.
pub fn in_words(error: &anyhow::Error) -> String {
    let hint = crate::error::hint(error).map(|hint| format!("\nwhat to do: {hint}")).unwrap_or_default();
    format!("{error:#}{hint}")
}

/// ` 42 %  49 of 117 MiB written, 12.3 MiB/s, 8 s left`
fn progress(phase: Phase, done: u64, total: u64, elapsed: Duration) -> String {
    let verb = if phase == Phase::Write { "written" } else { "compared" };
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let percent = done * 100 / total.max(1);
    let mut line = format!("{percent:>3} %  {} of {} MiB {verb}", done >> 20, total >> 20);
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.5 && done > 0 {
        let rate = done as f64 / seconds;
        let left = total.saturating_sub(done) as f64 / rate;
        let _ = write!(line, ", {:.1} MiB/s, {left:.0} s left", mib(done) / seconds);
    }
    line
}

/// Letters of five by five: one a line, its rows after it.
const LETTERS: &str = include_str!("letters.txt");

/// A host name in big letters; as it is where the screen is too narrow.
fn big(name: &str) -> String {
    const WIDTH: usize = 6;
    if name.chars().count() * WIDTH > COLUMNS {
        return name.to_uppercase();
    }
    let glyph = |letter: char| LETTERS.lines().find(|line| line.starts_with(letter));
    let rows = (1..=5).map(|row| {
        let cells = name.chars().filter_map(|letter| glyph(letter.to_ascii_lowercase())?.split(' ').nth(row));
        cells.collect::<Vec<_>>().join(" ").replace('.', " ").trim_end().to_owned()
    });
    rows.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_of_a_host_name_is_five_by_five() {
        for letter in ('a'..='z').chain('0'..='9').chain(['-']) {
            let line = LETTERS.lines().find(|line| line.starts_with(letter)).expect("is there");
            assert!(line.split(' ').skip(1).all(|row| row.len() == 5) && line.split(' ').count() == 6, "{line}");
        }
        insta::assert_snapshot!(big("db-1"));
        assert_eq!(big("a-very-long-name-of-a-node"), "A-VERY-LONG-NAME-OF-A-NODE");
    }

    #[test]
    fn progress_says_bytes_rate_and_time_left() {
        let line = progress(Phase::Write, 50 << 20, 200 << 20, Duration::from_secs(5));
        assert_eq!(line, " 25 %  50 of 200 MiB written, 10.0 MiB/s, 15 s left");
        assert_eq!(progress(Phase::Compare, 0, 200 << 20, Duration::ZERO), "  0 %  0 of 200 MiB compared");
    }
}
