//! Answers the lab's questions on the virtual serial port, for as long as the machine runs.
//!
//! In: lines of [`Question`]. Out: for each one line of [`Verdict`], once the boot has ended. Runs: what [`health`] runs.
//!
//! A line that is no question gets no answer, since silence is never a pass; the journal tells why. The port knows no
//! "wait until somebody is there": with nobody at the other end a read gives nothing at once, and poll() says hang-up at
//! once (`drivers/char/virtio_console.c`). So the only pause of this program is here.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::node::health::{self, Health, Wait};
use crate::node::machine::Machine;
use crate::verdict::{PORT, Question, Verdict};

/// The longest line that is taken for a question.
const LONGEST: usize = 4096;

/// How often to look whether somebody has come.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers questions until the port goes away.
pub fn report(machine: &Machine, log: &mut dyn Write) -> Result<()> {
    let path = machine.path("/dev/virtio-ports").join(PORT);
    let mut port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening the port `{}`", path.display()))?;
    let mut lines = Lines::default();
    let mut buffer = [0; 1024];
    loop {
        let length = match port.read(&mut buffer) {
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e).with_context(|| format!("reading from the port `{}`", path.display())),
        };
        if length == 0 {
            lines.forget();
            std::thread::sleep(PAUSE);
        }
        let mut questions = Vec::new();
        for line in lines.take(&buffer[..length]) {
            match line.and_then(|line| question(&line)) {
                Ok(question) => questions.push(question),
                Err(wrong) => say(log, &format!("a line that is no question was not answered: {wrong:#}")),
            }
        }
        questions.dedup();
        for question in questions {
            let answer = answer(question, health::examine(machine, Wait::ForBoot));
            say(log, if answer.healthy { "asked, and answered: healthy" } else { "asked, and answered: not healthy" });
            // The lab may be gone by now; the next one gets its own answer.
            if let Err(e) = send(&mut port, &answer) {
                say(log, &format!("the answer could not be sent: {e}"));
            }
        }
    }
}

fn question(line: &str) -> Result<Question> {
    serde_json::from_str(line).context("it does not read as `{\"nonce\": …}`")
}

fn answer(question: Question, health: Health) -> Verdict {
    Verdict { nonce: question.nonce, healthy: health.healthy, checks: health.checks, facts: health.facts }
}

fn send(port: &mut impl Write, answer: &Verdict) -> io::Result<()> {
    let mut line = serde_json::to_string(answer)?;
    line.push('\n');
    port.write_all(line.as_bytes())
}

fn say(log: &mut dyn Write, text: &str) {
    // A closed log is no reason to be silent on the port.
    let _ = writeln!(log, "{text}");
}

/// Cuts a stream into lines, and never holds more than one of the longest.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
    too_long: bool,
}

impl Lines {
    /// The lines that end in `bytes`; an error for one that is too long or no text.
    fn take(&mut self, bytes: &[u8]) -> Vec<Result<String>> {
        let mut ended = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.begun);
                ended.push(if std::mem::take(&mut self.too_long) {
                    Err(anyhow::anyhow!("it has more than {LONGEST} bytes"))
                } else {
                    String::from_utf8(line).context("it is not UTF-8")
                });
            } else if self.begun.len() < LONGEST {
                self.begun.push(byte);
            } else {
                self.too_long = true;
            }
        }
        ended
    }

    /// Drops the line that was begun: whoever began it is gone.
    fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_the_reads_were() {
        let mut lines = Lines::default();
        assert!(lines.take(b"one").is_empty());
        let ended: Vec<String> =
            lines.take(b" more\ntwo\nthr").into_iter().map(|line| line.expect("is text")).collect();
        assert_eq!(ended, ["one more", "two"]);
        assert_eq!(lines.take(b"ee\n")[0].as_ref().expect("is text"), "three");
    }

    #[test]
    fn a_line_without_end_is_not_kept_and_the_next_one_counts() {
        let mut lines = Lines::default();
        for _ in 0..100 {
            assert!(lines.take(&[b'x'; 1000]).is_empty());
        }
        assert!(lines.begun.len() <= LONGEST);
        let ended = lines.take(b"\nnext\n");
        assert_eq!(ended[0].as_ref().expect_err("is too long").to_string(), "it has more than 4096 bytes");
        assert_eq!(ended[1].as_ref().expect("is text"), "next");
    }

    #[test]
    fn half_a_line_is_forgotten_when_its_writer_goes() {
        let mut lines = Lines::default();
        assert!(lines.take(b"{\"nonce\": \"old").is_empty());
        lines.forget();
        assert_eq!(lines.take(b"new\n")[0].as_ref().expect("is text"), "new");
    }

    #[test]
    fn a_question_is_one_nonce_and_nothing_else() {
        assert_eq!(question(r#"{"nonce": "n1"}"#).expect("is one").nonce, "n1");
        for line in ["", "n1", "{}", r#"{"nonce": 1}"#, r#"{"nonce": "n1", "and": 1}"#, r#"{"nonce": "n1"} x"#] {
            assert!(question(line).is_err(), "{line}");
        }
    }
}
