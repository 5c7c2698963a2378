//! The control client: JSON-RPC 2.0, one object a line, over a control port's Unix socket.
//!
//! A port serves one client at a time and the host keeps bytes of the one before, so whatever arrives before
//! the appliance's `hello` is dropped. Events that arrive while a call waits are kept for
//! [`Client::next_event`].

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The longest line a client takes from an appliance.
pub const REPLY_BYTES_MAX: usize = 64 << 20;

/// How long [`Client::call`] waits for an answer.
pub const CALL_PATIENCE: Duration = Duration::from_secs(60);

/// Drops the line so far: no byte of UTF-8.
const RESYNCHRONISE: u8 = 0xff;

const POLL_INTERVAL: Duration = Duration::from_millis(5);
const JOB_INTERVAL: Duration = Duration::from_millis(100);

/// Why a conversation with an appliance failed.
#[derive(Debug)]
pub enum ControlError {
    /// The socket cannot be used.
    Socket(io::Error),
    /// Nothing came in time.
    Silent(&'static str),
    /// The appliance, or the machine under it, has gone.
    Closed,
    /// The appliance said something that is not in the protocol.
    Protocol(String),
    /// The appliance refused the request.
    Refused(Refusal),
    /// A job ended otherwise than `done`; this is what `job.show` said.
    Job(Value),
}

/// An error answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// JSON-RPC's number, or the appliance's own from 1 to 99.
    pub code: i64,
    /// The stable kind, such as `not_found`; empty for JSON-RPC's own errors.
    pub kind: String,
    /// What happened and what to do.
    pub message: String,
    /// From the cause to the failed request.
    pub observations: Vec<String>,
}

impl fmt::Display for ControlError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::Socket(error) => write!(out, "the control socket cannot be used: {error}"),
            ControlError::Silent(what) => {
                write!(
                    out,
                    "no {what} came in time: another client may hold the port, or the appliance is not up"
                )
            }
            ControlError::Closed => write!(out, "the appliance closed the control port"),
            ControlError::Protocol(line) => write!(out, "the appliance broke the protocol: {line}"),
            ControlError::Refused(refusal) => write!(out, "{refusal}"),
            ControlError::Job(job) => write!(out, "the job did not end well: {job}"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.message)?;
        if !self.kind.is_empty() {
            write!(out, " ({})", self.kind)?;
        }
        self.observations.iter().try_for_each(|observation| write!(out, "\n  because {observation}"))
    }
}

impl std::error::Error for ControlError {}
impl std::error::Error for Refusal {}

impl From<io::Error> for ControlError {
    fn from(error: io::Error) -> ControlError {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ControlError::Closed,
            _ => ControlError::Socket(error),
        }
    }
}

impl ControlError {
    /// The stable kind of a refusal, for tests and scripts.
    pub fn kind(&self) -> Option<&str> {
        match self {
            ControlError::Refused(refusal) => Some(&refusal.kind),
            _ => None,
        }
    }
}

type Result<T, E = ControlError> = std::result::Result<T, E>;

/// A conversation on a control port.
#[derive(Debug)]
pub struct Client {
    lines: Lines,
    hello: Value,
    next_id: u64,
    events: VecDeque<Value>,
}

impl Client {
    /// Connects, waiting for the socket to appear and for the appliance to greet, `patience` in all.
    pub fn connect(socket: &Path, patience: Duration) -> Result<Client> {
        let deadline = Instant::now() + patience;
        loop {
            match UnixStream::connect(socket) {
                Ok(stream) => return Client::greet(stream, deadline),
                Err(error) if Instant::now() >= deadline => return Err(ControlError::Socket(error)),
                Err(_) => thread::sleep(POLL_INTERVAL),
            }
        }
    }

    /// Starts on a connected stream: drops everything up to the `hello`.
    pub fn greet(stream: UnixStream, deadline: Instant) -> Result<Client> {
        let mut lines = Lines { stream, buffer: Vec::new(), searched: 0 };
        loop {
            if let Some(hello) = hello_in(&lines.next(deadline, "greeting")?) {
                // What the client before left unfinished may still be on its way to the appliance, ahead of us.
                lines.stream.write_all(&[RESYNCHRONISE])?;
                return Ok(Client { lines, hello, next_id: 1, events: VecDeque::new() });
            }
        }
    }

    /// The parameters of the greeting: `product`, `version` and `protocol`.
    pub fn hello(&self) -> &Value {
        &self.hello
    }

    /// Calls a method and waits up to [`CALL_PATIENCE`] for its result.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.call_within(method, params, CALL_PATIENCE)
    }

    /// Calls a method and waits for its result.
    pub fn call_within(&mut self, method: &str, params: Value, patience: Duration) -> Result<Value> {
        let id = self.send(method, params)?;
        let deadline = Instant::now() + patience;
        loop {
            let message = self.receive(deadline, "answer")?;
            if message["id"] == id {
                return result_of(message);
            }
        }
    }

    /// Calls a method; returns its answer's line as it came, and how long it took until it was there.
    pub fn call_timed(
        &mut self,
        method: &str,
        params: Value,
        patience: Duration,
    ) -> Result<(Vec<u8>, Duration)> {
        let begun = Instant::now();
        self.send(method, params)?;
        let line = self.lines.next(begun + patience, "answer")?;
        Ok((line, begun.elapsed()))
    }

    /// Sends a request without waiting; returns its id.
    pub fn send(&mut self, method: &str, params: Value) -> Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.send_bytes(format!("{request}\n").as_bytes())?;
        Ok(id)
    }

    /// Sends bytes as they are: for tests of bad input.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.lines.stream.write_all(bytes)?)
    }

    /// The next message that is no event, whatever it answers.
    pub fn receive_within(&mut self, patience: Duration) -> Result<Value> {
        self.receive(Instant::now() + patience, "message")
    }

    /// The next event, kept or new; `None` when `patience` ends first.
    pub fn next_event(&mut self, patience: Duration) -> Result<Option<Value>> {
        let deadline = Instant::now() + patience;
        while self.events.is_empty() {
            match self.receive_one(deadline, "event") {
                Ok(Some(answer)) => {
                    return Err(ControlError::Protocol(format!("an answer to nothing: {answer}")));
                }
                Ok(None) => {}
                Err(ControlError::Silent(_)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(self.events.pop_front())
    }

    /// Waits for a job to end; returns its `result`. `progress` is told how far it is, from 0 to 1.
    pub fn wait_for_job(
        &mut self,
        job: &str,
        patience: Duration,
        mut progress: impl FnMut(f64),
    ) -> Result<Value> {
        let deadline = Instant::now() + patience;
        loop {
            let shown = self.call("job.show", json!({ "job": job }))?;
            match shown["state"].as_str() {
                Some("done") => return Ok(shown["result"].clone()),
                Some("queued" | "running") => progress(shown["progress"].as_f64().unwrap_or(0.0)),
                _ => return Err(ControlError::Job(shown)),
            }
            if Instant::now() >= deadline {
                return Err(ControlError::Silent("end of the job"));
            }
            thread::sleep(JOB_INTERVAL);
        }
    }

    fn receive(&mut self, deadline: Instant, what: &'static str) -> Result<Value> {
        loop {
            if let Some(message) = self.receive_one(deadline, what)? {
                return Ok(message);
            }
        }
    }

    /// Takes one message in: `None` for a notification, which is kept.
    fn receive_one(&mut self, deadline: Instant, what: &'static str) -> Result<Option<Value>> {
        let line = self.lines.next(deadline, what)?;
        let message: Value = serde_json::from_slice(&line).map_err(|error| {
            ControlError::Protocol(format!("{error} in {}", String::from_utf8_lossy(&line)))
        })?;
        if message.get("method").is_none() {
            return Ok(Some(message));
        }
        self.events.push_back(message);
        Ok(None)
    }
}

/// The parameters of a `hello` in a line, which may begin with the rest of an earlier client's reply.
fn hello_in(line: &[u8]) -> Option<Value> {
    let starts = line.iter().enumerate().filter(|(_, byte)| **byte == b'{').map(|(start, _)| start);
    let messages = starts.filter_map(|start| serde_json::from_slice::<Value>(&line[start..]).ok());
    messages.filter(|message| message["method"] == "hello").map(|mut message| message["params"].take()).next()
}

fn result_of(mut message: Value) -> Result<Value> {
    if message["error"].is_null() {
        return Ok(message["result"].take());
    }
    let error = &message["error"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let observation = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Err(ControlError::Refused(Refusal {
        code: error["code"].as_i64().unwrap_or_default(),
        kind: text(&error["data"]["kind"]),
        message: text(&error["message"]),
        observations: crate::workspace::items(&error["data"]["observations"]).map(observation).collect(),
    }))
}

/// Lines from a stream, each with a deadline.
#[derive(Debug)]
struct Lines {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// Bytes of the buffer already known to hold no line end.
    searched: usize,
}

impl Lines {
    fn next(&mut self, deadline: Instant, what: &'static str) -> Result<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(self.searched + end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                self.searched = 0;
                return Ok(line);
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > REPLY_BYTES_MAX {
                return Err(ControlError::Protocol(format!("a line of more than {REPLY_BYTES_MAX} bytes")));
            }
            self.fill(deadline, what)?;
        }
    }

    fn fill(&mut self, deadline: Instant, what: &'static str) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ControlError::Silent(what));
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut chunk = [0; 64 << 10];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(ControlError::Closed),
            Ok(length) => {
                self.buffer.extend_from_slice(&chunk[..length]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(ControlError::Silent(what))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    const HELLO: &str = r#"{"jsonrpc":"2.0","method":"hello","params":{"product":"datum","protocol":1}}"#;

    /// Plays an appliance that says `greeting`, then answers each request with the next of `answers`.
    fn appliance(greeting: String, answers: &'static [&'static str]) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            (&theirs).write_all(greeting.as_bytes()).unwrap();
            let mut requests = BufReader::new(&theirs).lines();
            for answer in answers {
                requests.next();
                (&theirs).write_all(answer.as_bytes()).unwrap();
            }
            // The appliance's end stays open until the client has left.
            requests.for_each(drop);
        });
        Client::greet(ours, Instant::now() + Duration::from_secs(5)).unwrap()
    }

    #[test]
    fn what_an_earlier_client_left_is_dropped() {
        let client = appliance(format!("ly\"}}\n{{\"id\":1}}\n{{\"resu{HELLO}\n"), &[]);
        assert_eq!(client.hello()["product"], "datum");
    }

    #[test]
    fn an_answer_is_told_from_events_and_other_answers() {
        let mut client = appliance(
            format!("{HELLO}\n"),
            &[
                "{\"method\":\"event\",\"params\":{\"type\":\"t\"}}\n{\"id\":9,\"result\":0}\n{\"id\":1,\"result\":{\"a\":1}}\n",
            ],
        );
        assert_eq!(client.call("x", json!({})).unwrap(), json!({ "a": 1 }));
        assert_eq!(client.next_event(Duration::ZERO).unwrap().unwrap()["params"]["type"], "t");
    }

    #[test]
    fn a_refusal_carries_its_kind_and_observations() {
        let mut client = appliance(
            format!("{HELLO}\n"),
            &[
                "{\"id\":1,\"error\":{\"code\":7,\"message\":\"Create it first.\",\"data\":{\"kind\":\"not_found\",\"observations\":[\"no volume db\"]}}}\n",
            ],
        );
        let error = client.call("volume.show", json!({ "name": "db" })).unwrap_err();
        assert_eq!(error.kind(), Some("not_found"));
        assert_eq!(error.to_string(), "Create it first. (not_found)\n  because no volume db");
    }

    #[test]
    fn silence_and_departure_are_told_apart() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let silent = Client::greet(ours.try_clone().unwrap(), Instant::now() + Duration::from_millis(20));
        assert!(matches!(silent, Err(ControlError::Silent("greeting"))));
        drop(theirs);
        let closed = Client::greet(ours, Instant::now() + Duration::from_secs(5));
        assert!(matches!(closed, Err(ControlError::Closed)));
    }

    #[test]
    fn a_job_is_followed_to_its_result() {
        let mut client = appliance(
            format!("{HELLO}\n"),
            &[
                "{\"id\":1,\"result\":{\"state\":\"running\",\"progress\":0.5}}\n",
                "{\"id\":2,\"result\":{\"state\":\"done\",\"result\":{\"errors\":0}}}\n",
            ],
        );
        let mut seen = Vec::new();
        let result = client.wait_for_job("1", Duration::from_secs(5), |part| seen.push(part)).unwrap();
        assert_eq!((result, seen), (json!({ "errors": 0 }), vec![0.5]));
    }
}
