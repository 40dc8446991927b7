//! QEMU's monitor: one JSON object a line (QEMU Machine Protocol).
//!
//! In: a connected stream. Out: [`Qmp`], which sends commands and waits for their replies; events go to a closure, from a
//! thread of their own, in the order in which they come.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

/// Something that QEMU tells unasked: `RESET`, `SHUTDOWN`, `STOP`, `GUEST_PANICKED` …
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// What it carries.
    pub data: Value,
}

/// A monitor that is ready for commands.
pub struct Qmp {
    stream: UnixStream,
    replies: Receiver<Value>,
    next_id: u64,
    limit: Duration,
}

impl Qmp {
    /// Greets the monitor and leaves its negotiation mode. A command that is not answered within `limit` is an error.
    pub fn connect(stream: UnixStream, limit: Duration, mut event: impl FnMut(Event) + Send + 'static) -> Result<Self> {
        let reader = BufReader::new(stream.try_clone().context("sharing the monitor's connection")?);
        let (sender, replies) = channel();
        std::thread::spawn(move || {
            for line in reader.split(b'\n') {
                let Ok(line) = line else { return };
                // What is no JSON cannot be an answer; the command's limit reports it.
                let Ok(value) = serde_json::from_slice::<Value>(&line) else { continue };
                if let Some(name) = value["event"].as_str() {
                    event(Event { name: name.to_owned(), data: value["data"].clone() });
                } else if sender.send(value).is_err() {
                    return;
                }
            }
        });
        let mut qmp = Self { stream, replies, next_id: 0, limit };
        let greeting = qmp.reply(Instant::now() + limit).context("waiting for the monitor's greeting")?;
        if greeting.get("QMP").is_none() {
            bail!("the monitor greets with `{greeting}` instead of `{{\"QMP\": …}}`");
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns what it returns.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.next_id += 1;
        let line = json!({"execute": command, "arguments": arguments, "id": self.next_id});
        let doing = || format!("asking QEMU's monitor for `{command}`");
        self.stream.write_all(format!("{line}\n").as_bytes()).with_context(doing)?;
        let deadline = Instant::now() + self.limit;
        loop {
            let mut reply = self.reply(deadline).with_context(doing)?;
            // A reply to an earlier command that was given up.
            if reply["id"] != json!(self.next_id) {
                continue;
            }
            if let Some(why) = reply["error"]["desc"].as_str() {
                return Err(anyhow!("QEMU says: {why}")).with_context(doing);
            }
            return Ok(reply["return"].take());
        }
    }

    /// Keeps a picture of the screen, as `png` or `ppm`; `file` is a path as QEMU sees it.
    pub fn screendump(&mut self, file: &str, format: &str) -> Result<()> {
        self.execute("screendump", json!({"filename": file, "format": format})).map(drop)
    }

    /// Presses the reset button.
    pub fn system_reset(&mut self) -> Result<()> {
        self.execute("system_reset", json!({})).map(drop)
    }

    /// Presses the power button: the machine shuts down in order, if it listens.
    pub fn system_powerdown(&mut self) -> Result<()> {
        self.execute("system_powerdown", json!({})).map(drop)
    }

    fn reply(&mut self, deadline: Instant) -> Result<Value> {
        use std::sync::mpsc::RecvTimeoutError as E;
        self.replies.recv_timeout(deadline.saturating_duration_since(Instant::now())).map_err(|error| match error {
            E::Timeout => anyhow!("no answer within {} s", self.limit.as_secs_f32()),
            E::Disconnected => anyhow!("QEMU has closed the connection"),
        })
    }
}
