//! What a running machine says, in one queue: its console, its verdict port, its monitor's events, its end.
//!
//! In: streams. Out: [`Link`], on which every wait of the lab is made. Waits watch for events and have a limit;
//! nothing polls or sleeps. A question is asked whenever somebody in the machine opens the port, since OVMF opens it before
//! the kernel does and swallows what it reads (seen); an answer counts only when it carries the nonce of this question.

use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::fs;
use crate::lab::qmp::Event;
use crate::verdict::{Question, Verdict};

/// One thing that was heard.
#[derive(Debug)]
pub enum Heard {
    /// Bytes of the serial console.
    Console(Vec<u8>),
    /// Bytes of the verdict port.
    Port(Vec<u8>),
    /// An event of QEMU's monitor.
    Monitor(Event),
    /// QEMU is gone.
    Ended,
}

/// Why a wait ended without what it waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The limit was reached.
    Late,
    /// The machine switched itself off, or QEMU ended.
    Ended,
}

/// The answer to a question.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The machine gave a verdict with this question's nonce.
    Verdict(Verdict),
    /// It did not. Never a pass.
    NoVerdict {
        /// What happened instead.
        why: String,
        /// The console's last lines.
        console: Vec<String>,
    },
}

impl Answer {
    /// Whether the machine said, with the right nonce, that it is healthy, and every check that it names passed.
    pub fn is_healthy(&self) -> bool {
        matches!(self, Self::Verdict(v) if v.healthy && !v.checks.is_empty() && v.checks.iter().all(|c| c.passed))
    }

    /// The facts, where there are any.
    pub fn facts(&self) -> BTreeMap<String, String> {
        match self {
            Self::Verdict(verdict) => verdict.facts.clone(),
            Self::NoVerdict { .. } => BTreeMap::new(),
        }
    }

    /// The answer for people, one line each.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Verdict(verdict) => {
                let mut lines = vec![format!("verdict: {}", if self.is_healthy() { "healthy" } else { "not healthy" })];
                let mark = |passed| if passed { "ok    " } else { "FAILED" };
                lines.extend(verdict.checks.iter().map(|c| format!("  {} {}: {}", mark(c.passed), c.name, c.found)));
                if verdict.checks.is_empty() {
                    lines.push("  it names no check".into());
                }
                lines
            }
            Self::NoVerdict { why, console } => {
                let mut lines = vec![format!("no verdict: {why}")];
                lines.extend(console.iter().map(|line| format!("  | {line}")));
                lines
            }
        }
    }
}

type Echo = Box<dyn FnMut(&[u8])>;

/// The listening end of a machine.
pub struct Link {
    sender: Sender<Heard>,
    queue: Receiver<Heard>,
    port: Option<UnixStream>,
    port_bytes: Vec<u8>,
    /// Whether somebody in the machine has the port open, and how often anybody opened it.
    port_open: bool,
    port_opened: u32,
    console: Vec<u8>,
    echo: Option<Echo>,
    events: Vec<Event>,
    resets: u32,
    ended: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

impl Link {
    /// A link that nothing is attached to yet.
    pub fn new() -> Self {
        let (sender, queue) = channel();
        Self {
            sender,
            queue,
            port: None,
            port_bytes: Vec::new(),
            port_open: false,
            port_opened: 0,
            console: Vec::new(),
            echo: None,
            events: Vec::new(),
            resets: 0,
            ended: false,
        }
    }

    /// Whom others tell what they heard.
    pub fn sender(&self) -> Sender<Heard> {
        self.sender.clone()
    }

    /// Listens to a console whose end is the machine's end.
    pub fn attach_console(&self, stream: impl Read + Send + 'static) {
        let sender = self.sender();
        std::thread::spawn(move || {
            forward(stream, &sender, Heard::Console);
            let _ = sender.send(Heard::Ended);
        });
    }

    /// Listens to, and may write to, a verdict port.
    pub fn attach_port(&mut self, stream: UnixStream) -> Result<()> {
        let reader = stream.try_clone().context("sharing the verdict port")?;
        let sender = self.sender();
        std::thread::spawn(move || forward(reader, &sender, Heard::Port));
        self.port = Some(stream);
        Ok(())
    }

    /// Hands every byte of the console to `echo`, too.
    pub fn echo(&mut self, echo: impl FnMut(&[u8]) + 'static) {
        self.echo = Some(Box::new(echo));
    }

    /// How many bytes the console has said so far: a place to search from.
    pub fn console_mark(&self) -> usize {
        self.console.len()
    }

    /// What the console has said since a mark.
    pub fn console_since(&self, mark: usize) -> &[u8] {
        &self.console[mark.min(self.console.len())..]
    }

    /// The console's last lines, without escape codes.
    pub fn console_tail(&self, lines: usize) -> Vec<String> {
        let from = self.console.len().saturating_sub(8 << 10);
        let text = plain(&self.console[from..]);
        let all: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        all[all.len().saturating_sub(lines)..].iter().map(|&line| line.to_owned()).collect()
    }

    /// How many times the machine was reset, by itself or by us.
    pub fn resets(&self) -> u32 {
        self.resets
    }

    /// Events of the monitor since a former count of them.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Whether the machine has ended.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Waits until `look` finds what it looks for; it looks again after everything that is heard.
    pub fn until<T>(&mut self, limit: Duration, mut look: impl FnMut(&mut Self) -> Option<T>) -> Result<T, Miss> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = look(self) {
                return Ok(found);
            }
            if self.ended {
                return Err(Miss::Ended);
            }
            match self.queue.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(heard) => self.take(heard),
                Err(RecvTimeoutError::Timeout) => return Err(Miss::Late),
                Err(RecvTimeoutError::Disconnected) => return Err(Miss::Ended),
            }
        }
    }

    fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Console(bytes) => {
                if let Some(echo) = &mut self.echo {
                    echo(&bytes);
                }
                self.console.extend(bytes);
            }
            Heard::Port(bytes) => self.port_bytes.extend(bytes),
            Heard::Monitor(event) => {
                if event.name == "RESET" {
                    self.resets += 1;
                    self.port_open = false;
                    // Half a line of the life before must not spoil the first line of the next.
                    self.port_bytes.clear();
                }
                if event.name == "VSERPORT_CHANGE" {
                    self.port_open = event.data["open"] == true;
                    self.port_opened += u32::from(self.port_open);
                }
                self.events.push(event);
            }
            Heard::Ended => self.ended = true,
        }
    }

    /// Asks for the machine's verdict and waits for the answer that carries this question's nonce.
    pub fn ask(&mut self, limit: Duration) -> Result<Answer> {
        let nonce = fresh_nonce()?;
        let mut question = serde_json::to_string(&Question { nonce: nonce.clone() }).context("writing a question")?;
        question.push('\n');
        let mut asked_after = None;
        let mut refused: Option<String> = None;
        let found = self.until(limit, |link| {
            if link.port_open && asked_after != Some(link.port_opened) {
                asked_after = Some(link.port_opened);
                // A port that is gone is told by the machine's end.
                if let Some(port) = &mut link.port {
                    let _ = port.write_all(question.as_bytes());
                }
            }
            while let Some(end) = link.port_bytes.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = link.port_bytes.drain(..=end).collect();
                match read_verdict(&line, &nonce) {
                    Ok(verdict) => return Some(verdict),
                    Err(why) => refused = Some(why),
                }
            }
            None
        });
        let what = match found {
            Ok(verdict) => return Ok(Answer::Verdict(verdict)),
            Err(Miss::Late) => format!("nothing that counts within {} s", limit.as_secs()),
            Err(Miss::Ended) => "the machine ended before it answered".to_owned(),
        };
        let why = refused.map_or_else(|| what.clone(), |refused| format!("{what}; what came last: {refused}"));
        Ok(Answer::NoVerdict { why, console: self.console_tail(20) })
    }
}

/// Reads one line of the port as the answer to the question with `nonce`.
pub fn read_verdict(line: &[u8], nonce: &str) -> Result<Verdict, String> {
    let verdict: Verdict = serde_json::from_slice(line).map_err(|error| {
        let shown: String = String::from_utf8_lossy(line).trim().chars().take(80).collect();
        format!("`{shown}` is no verdict ({error})")
    })?;
    if verdict.nonce != nonce {
        return Err(format!("a verdict with the nonce `{}` instead of `{nonce}`", verdict.nonce));
    }
    Ok(verdict)
}

/// Text of a console without escape sequences and carriage returns.
pub fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                // A control sequence (ECMA-48, 5.4) ends with a character from `@` to `~`. Any other escape sequence
                // (ECMA-35, 13.2) has some from ` ` to `/` and one more.
                if chars.next_if_eq(&'[').is_some() {
                    // Cursor movement separates what stood in different places.
                    if chars.by_ref().find(|c| ('@'..='~').contains(c)).is_some_and(|end| end == 'H') {
                        plain.push('\n');
                    }
                } else {
                    while chars.next_if(|c| (' '..='/').contains(c)).is_some() {}
                    chars.next();
                }
            }
            '\r' => {}
            c => plain.push(c),
        }
    }
    plain
}

fn forward(mut stream: impl Read, sender: &Sender<Heard>, wrap: fn(Vec<u8>) -> Heard) {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => {
                if sender.send(wrap(buffer[..n].to_vec())).is_err() {
                    return;
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// A text that was never used before: the kernel makes a random UUID at every reading.
fn fresh_nonce() -> Result<String> {
    Ok(fs::read_to_string(std::path::Path::new("/proc/sys/kernel/random/uuid"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escape_codes_are_no_text() {
        assert_eq!(plain(b"\x1b[1;32m  OK  \x1b[0m Reached\r\n\x1b(Bx\x1b[4;2Hy"), "  OK   Reached\nx\ny");
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_verdict_but_one_with_the_nonce(line in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read_verdict(&line, "n").is_err());
            let _ = plain(&line);
        }
    }
}
