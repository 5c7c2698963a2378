//! QEMU's own control protocol, QMP: one JSON object a line, on a Unix socket that QEMU or qemu-storage-daemon listens on.
//!
//! A socket serves one client at a time. Events that arrive while an answer is waited for are kept.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// How long an answer, or an event that [`Qmp::wait_for`] expects, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A conversation with QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Connects to a socket that is there, and negotiates.
    pub fn connect(socket: &Path) -> Result<Qmp> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("cannot use {}", socket.display()))?;
        let lines = BufReader::new(stream.try_clone()?);
        let mut qmp = Qmp { stream, lines, events: VecDeque::new() };
        qmp.stream.set_read_timeout(Some(PATIENCE))?;
        qmp.line()?;
        qmp.call("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns what it returns.
    pub fn call(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.stream.write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut line = self.line()?;
            if line.get("error").is_some() {
                bail!("{command}: {}", line["error"]["desc"]);
            }
            match line.get_mut("return") {
                Some(returned) => return Ok(returned.take()),
                None => self.events.push_back(line),
            }
        }
    }

    /// Waits for an event of this name; those before it are dropped.
    pub fn wait_for(&mut self, event: &str) -> Result<Value> {
        loop {
            let line = self.event()?;
            if line["event"] == event {
                return Ok(line);
            }
        }
    }

    /// Waits for an event of this name for as long as QEMU runs; those before it are dropped.
    pub fn watch_for(&mut self, event: &str) -> Result<Value> {
        self.stream.set_read_timeout(None)?;
        let found = self.wait_for(event);
        self.stream.set_read_timeout(Some(PATIENCE))?;
        found
    }

    fn event(&mut self) -> Result<Value> {
        match self.events.pop_front() {
            Some(event) => Ok(event),
            None => self.line(),
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        while line.trim().is_empty() {
            line.clear();
            ensure!(self.lines.read_line(&mut line)? > 0, "QEMU closed its monitor");
        }
        Ok(serde_json::from_str(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    #[test]
    fn answers_are_told_from_events() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("qmp.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let emulator = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            (&stream).write_all(b"{\"QMP\":{}}\r\n").unwrap();
            let answers = [
                "{\"return\":{}}\n",
                "{\"event\":\"RESET\"}\n{\"return\":[1]}\n",
                "{\"error\":{\"desc\":\"no such device\"}}\n{\"event\":\"STOP\"}\n",
            ];
            let mut requests = BufReader::new(&stream).lines();
            for answer in answers {
                requests.next();
                (&stream).write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut qmp = Qmp::connect(&socket).unwrap();
        assert_eq!(qmp.call("query-chardev", json!({})).unwrap(), json!([1]));
        let refused = qmp.call("yank", json!({})).unwrap_err().to_string();
        assert!(refused.contains("no such device"), "{refused}");
        assert_eq!(qmp.wait_for("STOP").unwrap()["event"], "STOP");
        assert!(qmp.watch_for("RESET").is_err(), "the RESET was before the STOP");
        emulator.join().unwrap();
    }
}
