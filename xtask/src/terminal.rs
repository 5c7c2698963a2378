//! A terminal on the appliance's console: our standard input and output on one side, a port's socket on the
//! other. Input that is no terminal is a [`script`](crate::script).
//!
//! One loop waits for all sides, signals included, so leaving by whatever way passes through the `Drop` that
//! restores the terminal. Bytes on their way in are kept here and written as the port takes them: pasted text
//! longer than the port's buffers cannot block while the appliance blocks on its output. None is written before the
//! appliance has said something: what comes before its greeting it may drop.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{self, OptionalActions, OutputModes, Termios};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::low_level::pipe;

/// The key that leaves: Ctrl-].
pub const LEAVE: u8 = 0x1d;

/// How much input waits here for the port at most.
const PENDING_BYTES_MAX: usize = 64 << 10;

/// Why the terminal came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The user pressed Ctrl-].
    ByUser,
    /// The appliance, or the machine under it, has gone.
    Closed,
    /// A signal asked us to end.
    Signalled,
}

/// Whether a person can type here.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal()
}

/// Joins the terminal to the console until something ends it.
pub fn attach(console: &UnixStream) -> Result<Left> {
    let signals = Signals::listen()?;
    let stdin = io::stdin();
    let _raw = RawMode::enter(stdin.as_fd())?;
    console.set_nonblocking(true)?;
    Bridge { console, greeted: false, pending: Vec::new() }.run(&signals)
}

/// A terminal whose keys arrive one by one. Restored when dropped, so also while a panic unwinds.
struct RawMode<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawMode<'a> {
    fn enter(terminal: BorrowedFd<'a>) -> Result<RawMode<'a>> {
        let before = termios::tcgetattr(terminal).context("the terminal's mode cannot be read")?;
        let mut raw = before.clone();
        raw.make_raw();
        // Line feeds go on returning the carriage: our own messages would run down the screen otherwise.
        raw.output_modes |= before.output_modes & (OutputModes::OPOST | OutputModes::ONLCR);
        termios::tcsetattr(terminal, OptionalActions::Now, &raw)?;
        Ok(RawMode { terminal, before })
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        // Nothing better can be done where the terminal has gone.
        let _ = termios::tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// A pipe that becomes readable when a signal asks us to end.
pub struct Signals {
    pipe: OwnedFd,
}

impl Signals {
    /// Takes SIGINT, SIGTERM, SIGHUP and SIGQUIT over from now on.
    pub fn listen() -> Result<Signals> {
        let (read, write) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
            pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Signals { pipe: read.into() })
    }

    /// What to wait for beside others.
    pub fn side(&self) -> PollFd<'_> {
        PollFd::new(&self.pipe, PollFlags::IN)
    }

    /// Waits for a signal; true when one came.
    pub fn wait(&self, patience: Duration) -> Result<bool> {
        let mut sides = [self.side()];
        wait_for(&mut sides, Some(patience))?;
        Ok(!sides[0].revents().is_empty())
    }
}

struct Bridge<'a> {
    console: &'a UnixStream,
    /// Whether the appliance has said anything yet.
    greeted: bool,
    pending: Vec<u8>,
}

impl Bridge<'_> {
    fn run(&mut self, signals: &Signals) -> Result<Left> {
        let stdin = io::stdin();
        loop {
            let (input, console) = (self.wanted_input(), self.wanted_console());
            let mut sides = [signals.side(), PollFd::new(self.console, console), PollFd::new(&stdin, input)];
            // A side that is asked for nothing would still report its hang-up, over and over.
            let count = if input.is_empty() { 2 } else { 3 };
            wait_for(&mut sides[..count], None)?;
            let [signal, port, input] = sides.map(|side| side.revents());
            if !signal.is_empty() {
                return Ok(Left::Signalled);
            }
            if !input.is_empty() && self.read_input(stdin.as_fd())? {
                return Ok(Left::ByUser);
            }
            self.write_pending()?;
            if port.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) && !self.show_output()? {
                return Ok(Left::Closed);
            }
        }
    }

    fn wanted_input(&self) -> PollFlags {
        if self.pending.len() < PENDING_BYTES_MAX { PollFlags::IN } else { PollFlags::empty() }
    }

    fn wanted_console(&self) -> PollFlags {
        let writes = self.greeted && !self.pending.is_empty();
        if writes { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
    }

    /// Takes input in; true when the user wants to leave, or the terminal has gone.
    fn read_input(&mut self, stdin: BorrowedFd<'_>) -> Result<bool> {
        let mut chunk = [0; 4096];
        let length = rustix::io::read(stdin, &mut chunk)?;
        let typed = &chunk[..length];
        let end = typed.iter().position(|byte| *byte == LEAVE);
        self.pending.extend_from_slice(&typed[..end.unwrap_or(length)]);
        Ok(end.is_some() || typed.is_empty())
    }

    fn write_pending(&mut self) -> Result<()> {
        if !self.greeted {
            return Ok(());
        }
        match (&mut &*self.console).write(&self.pending) {
            Ok(length) => drop(self.pending.drain(..length)),
            Err(error) if would_block(&error) => {}
            // The reading side says that the appliance has gone.
            Err(_) => self.pending.clear(),
        }
        Ok(())
    }

    /// Shows what the console said; false when it has gone.
    fn show_output(&mut self) -> Result<bool> {
        let mut chunk = [0; 4096];
        match (&mut &*self.console).read(&mut chunk) {
            Ok(0) => Ok(false),
            Ok(length) => {
                self.greeted = true;
                let mut out = io::stdout();
                out.write_all(&chunk[..length])?;
                out.flush()?;
                Ok(true)
            }
            Err(error) if would_block(&error) => Ok(true),
            Err(_) => Ok(false),
        }
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Waits until a side has something to tell; true when the time ran out first.
pub(crate) fn wait_for(sides: &mut [PollFd<'_>], patience: Option<Duration>) -> Result<bool> {
    let timeout = patience.map(Timespec::try_from).transpose()?;
    match poll(sides, timeout.as_ref()) {
        Ok(ready) => Ok(ready == 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(bytes: &[u8]) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&theirs).write_all(bytes).unwrap();
        ours
    }

    #[test]
    fn the_leaving_key_ends_what_is_typed() {
        let (console, _guest) = UnixStream::pair().unwrap();
        let mut bridge = Bridge { console: &console, greeted: true, pending: Vec::new() };
        assert!(bridge.read_input(input(b"help\r\x1drest").as_fd()).unwrap());
        assert_eq!(bridge.pending, b"help\r");
    }

    #[test]
    fn a_terminal_that_has_gone_ends_the_visit() {
        let (console, _guest) = UnixStream::pair().unwrap();
        let mut bridge = Bridge { console: &console, greeted: true, pending: Vec::new() };
        assert!(bridge.read_input(input(b"").as_fd()).unwrap());
    }

    /// What a client sends before it is greeted may be dropped with what the client before it left.
    #[test]
    fn what_is_typed_waits_until_the_console_has_said_something() {
        let (console, guest) = UnixStream::pair().unwrap();
        guest.set_nonblocking(true).unwrap();
        let mut bridge = Bridge { console: &console, greeted: false, pending: Vec::new() };
        bridge.read_input(input(b"help\r").as_fd()).unwrap();
        bridge.write_pending().unwrap();
        assert!(would_block(&(&guest).read(&mut [0; 5]).unwrap_err()));
        assert!(!bridge.wanted_console().contains(PollFlags::OUT), "it would be asked over and over");
        (&guest).write_all(b"datum> ").unwrap();
        assert!(bridge.show_output().unwrap());
        bridge.write_pending().unwrap();
        let mut arrived = [0; 5];
        (&guest).read_exact(&mut arrived).unwrap();
        assert_eq!(&arrived, b"help\r");
    }

    #[test]
    fn input_stops_while_the_port_takes_none() {
        let (console, _guest) = UnixStream::pair().unwrap();
        let bridge = Bridge { console: &console, greeted: true, pending: vec![0; PENDING_BYTES_MAX] };
        assert!(bridge.wanted_input().is_empty());
        assert!(bridge.wanted_console().contains(PollFlags::OUT));
    }
}
