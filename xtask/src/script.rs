//! A script on the console: standard input that is no terminal, line by line.
//!
//! A line is sent when the line before it has been answered, and the console's prompt on an empty line is what tells so.
//! What goes to standard output is the answers alone: no prompt, no echo, no escape sequence. Errors go to standard error
//! with the number of their line; the first one ends the script, unless it is to keep going.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::event::{PollFd, PollFlags};

use crate::terminal::{Signals, wait_for};

/// The console's prompt on an empty line, once escape sequences are taken out: it begins and ends at the left margin.
const READY: &[u8] = b"\rdatum> \r";

/// What an answer that is an error begins with.
const ERROR: &str = "error:";

/// How long the console may be silent before it greets. It does so at once, unless another client holds it.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);

/// How much of a script is read ahead at most; a line of the console has at most 4 KiB.
const AHEAD_BYTES_MAX: usize = 64 << 10;

/// How a script ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every line was carried out.
    Done,
    /// This many lines were answered by an error.
    Errors(u64),
    /// The appliance, or the machine under it, has gone.
    Closed,
    /// A signal asked us to end.
    Signalled,
}

/// Runs the lines of `input` on a console.
pub fn run(console: &UnixStream, input: BorrowedFd<'_>, keep_going: bool) -> Result<Ended> {
    let script = Script { console, input, lines: Lines::default(), answer: Answer::default() };
    script.run(&Signals::listen()?, keep_going)
}

struct Script<'a> {
    console: &'a UnixStream,
    input: BorrowedFd<'a>,
    lines: Lines,
    answer: Answer,
}

impl Script<'_> {
    fn run(mut self, signals: &Signals, keep_going: bool) -> Result<Ended> {
        let mut errors = 0;
        // What precedes the first line is the greeting.
        let greeted = |script: &mut Self| script.answer.take().is_some();
        if let Some(ended) = self.wait(signals, Some(GREETING_PATIENCE), greeted)? {
            return Ok(ended);
        }
        loop {
            let mut line = None;
            let found = |script: &mut Self| {
                line = script.lines.next();
                line.is_some() || script.lines.ended
            };
            if let Some(ended) = self.wait(signals, None, found)? {
                return Ok(ended);
            }
            let Some(line) = line else { break };
            (&mut &*self.console).write_all(&[&line[..], b"\r"].concat())?;
            let mut answer = None;
            let answered = |script: &mut Self| {
                answer = script.answer.take();
                answer.is_some()
            };
            if let Some(ended) = self.wait(signals, None, answered)? {
                self.show(&self.answer.so_far());
                return Ok(ended);
            }
            let answer = answer.unwrap_or_default();
            if answer.starts_with(ERROR) {
                errors += 1;
                eprint!("line {}: {answer}", self.lines.number);
                if !keep_going {
                    break;
                }
            } else {
                self.show(&answer);
            }
        }
        Ok(if errors == 0 { Ended::Done } else { Ended::Errors(errors) })
    }

    fn show(&self, answer: &str) {
        // A reader that has gone does not end a script whose commands matter.
        let _ = io::stdout().write_all(answer.as_bytes()).and_then(|()| io::stdout().flush());
    }

    /// Takes in whatever comes, until `done`; why there is nothing to wait for any more, where that comes first.
    fn wait(
        &mut self,
        signals: &Signals,
        patience: Option<Duration>,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<Option<Ended>> {
        while !done(self) {
            let mut sides = [
                signals.side(),
                PollFd::new(self.console, PollFlags::IN),
                PollFd::from_borrowed_fd(self.input, PollFlags::IN),
            ];
            let count = if self.lines.wants_more() { 3 } else { 2 };
            if wait_for(&mut sides[..count], patience)? {
                bail!("the console does not answer: another client holds it, or the appliance is not up");
            }
            let [signal, console, input] = sides.map(|side| side.revents());
            if !signal.is_empty() {
                return Ok(Some(Ended::Signalled));
            }
            let mut chunk = [0; 4096];
            if !input.is_empty() {
                let length = rustix::io::read(self.input, &mut chunk)?;
                self.lines.receive(&chunk[..length]);
            }
            if !console.is_empty() {
                match (&mut &*self.console).read(&mut chunk) {
                    Ok(0) | Err(_) => return Ok(Some(Ended::Closed)),
                    Ok(length) => self.answer.receive(&chunk[..length]),
                }
            }
        }
        Ok(None)
    }
}

/// The lines of a script as they arrive. The last one may have no line end.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    ended: bool,
    /// Of the line last taken, from 1.
    number: u64,
}

impl Lines {
    fn wants_more(&self) -> bool {
        !self.ended && self.bytes.len() < AHEAD_BYTES_MAX
    }

    /// No bytes are the end.
    fn receive(&mut self, bytes: &[u8]) {
        self.ended |= bytes.is_empty();
        self.bytes.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n');
        // A line longer than what is read ahead is cut, and the console refuses it.
        let cut = self.ended || !self.wants_more();
        let end = end.or_else(|| (cut && !self.bytes.is_empty()).then_some(self.bytes.len()))?;
        let rest = self.bytes.split_off((end + 1).min(self.bytes.len()));
        let mut line = std::mem::replace(&mut self.bytes, rest);
        while line.last().is_some_and(|byte| b"\r\n".contains(byte)) {
            line.pop();
        }
        self.number += 1;
        Some(line)
    }
}

/// What the console says, without escape sequences.
#[derive(Default)]
struct Answer {
    text: Vec<u8>,
    escape: Escape,
}

/// Where in an escape sequence the console's output stands.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Begun,
    /// Parameters, up to a letter.
    Parameters,
}

impl Answer {
    fn receive(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.escape = match (self.escape, byte) {
                (Escape::None, 0x1b) => Escape::Begun,
                (Escape::None, _) => {
                    self.text.push(*byte);
                    Escape::None
                }
                (Escape::Begun, b'[') => Escape::Parameters,
                (Escape::Parameters, 0x20..=0x3f) => Escape::Parameters,
                (Escape::Begun | Escape::Parameters, _) => Escape::None,
            };
        }
    }

    /// The answer to the line sent last, once the console is ready for another.
    fn take(&mut self) -> Option<String> {
        if !self.text.ends_with(READY) {
            return None;
        }
        let answer = self.so_far();
        self.text.clear();
        Some(answer)
    }

    /// What has been said behind the echo of the line, which ends with the row.
    fn so_far(&self) -> String {
        let text = self.text.strip_suffix(READY).unwrap_or(&self.text);
        let text = String::from_utf8_lossy(text);
        let answer = text.split_once("\r\n").map_or("", |(_echo, answer)| answer);
        answer.replace("\r\n", "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::thread;

    const PROMPT: &[u8] = b"\rdatum> \x1b[K\r\x1b[7C";

    #[test]
    fn the_last_line_needs_no_end() {
        let mut lines = Lines::default();
        lines.receive(b"one\r\n\ntw");
        assert_eq!(
            (lines.next(), lines.next(), lines.next()),
            (Some(b"one".to_vec()), Some(Vec::new()), None)
        );
        lines.receive(b"o");
        lines.receive(b"");
        assert_eq!((lines.next(), lines.number, lines.next()), (Some(b"two".to_vec()), 3, None));
    }

    #[test]
    fn an_answer_is_what_stands_between_echo_and_prompt() {
        let mut answer = Answer::default();
        answer.receive(b"volume list\r\nNAME\r\n");
        assert_eq!(answer.take(), None);
        answer.receive(b"db\r\n\x1b[");
        PROMPT.chunks(3).for_each(|part| answer.receive(part));
        assert_eq!(answer.take(), None, "the sequence begun before swallowed the margin");
        let mut answer = Answer::default();
        let said = [&b"\rdatum> long\x1b[K\r\x1b[11Cer\r\nNAME\r\ndb\r\n"[..], PROMPT].concat();
        said.chunks(3).for_each(|part| answer.receive(part));
        assert_eq!(answer.take().as_deref(), Some("NAME\ndb\n"));
        answer.receive(&[b"# nothing\r\n", PROMPT].concat());
        assert_eq!(answer.take().as_deref(), Some(""));
    }

    /// Plays a console that refuses `bad`, and gives the lines it was sent.
    fn play(script: &str, keep_going: bool) -> (Ended, Vec<String>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let console = thread::spawn(move || {
            (&theirs).write_all(&[b"Datum. `help` helps.\r\n", PROMPT].concat()).unwrap();
            let (mut lines, mut line) = (Vec::new(), Vec::new());
            for byte in std::io::BufReader::new(&theirs).bytes() {
                match byte.unwrap() {
                    b'\r' => {
                        let text = String::from_utf8(std::mem::take(&mut line)).unwrap();
                        let answer = if text == "bad" { "error: no\r\n" } else { "" };
                        let said = [text.as_bytes(), b"\r\n", answer.as_bytes(), PROMPT].concat();
                        (&theirs).write_all(&said).unwrap();
                        lines.push(text);
                    }
                    byte => line.push(byte),
                }
            }
            lines
        });
        let (input, mut source) = std::io::pipe().unwrap();
        source.write_all(script.as_bytes()).unwrap();
        drop(source);
        let ended = run(&ours, input.as_fd(), keep_going).unwrap();
        drop(ours);
        (ended, console.join().unwrap())
    }

    #[test]
    fn every_line_is_carried_out() {
        assert_eq!(play("a\nb", false), (Ended::Done, vec!["a".into(), "b".into()]));
        assert_eq!(play("", false), (Ended::Done, vec![]));
    }

    #[test]
    fn an_error_ends_a_script_unless_it_keeps_going() {
        let lines = ["a", "bad", "c"].map(String::from).to_vec();
        assert_eq!(play("a\nbad\nc\n", false), (Ended::Errors(1), lines[..2].to_vec()));
        assert_eq!(play("a\nbad\nc\n", true), (Ended::Errors(1), lines));
    }
}
