//! The first of several ports to greet: each serves one client at a time, and any will do.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::shell::say;

/// How long a port that does not greet may be without counting as busy.
const GREETING_PATIENCE: Duration = Duration::from_secs(1);

/// Connects to each socket in turn until one says something. Where all are busy, says so and waits for the first to be
/// free, `patience` in all; then the error is [`ErrorKind::TimedOut`].
pub fn first(sockets: &[PathBuf], patience: Duration) -> io::Result<UnixStream> {
    let deadline = Instant::now() + patience;
    let (mut waiting, mut busy, mut failed) = (Vec::new(), Vec::new(), None);
    for socket in sockets {
        match connect_now(socket) {
            Ok(stream) => waiting.push(stream),
            // As many wait in line as fit there.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                failed = Some(io::Error::new(error.kind(), format!("{}: {error}", socket.display())));
                continue;
            }
        }
        busy.push(socket.display().to_string());
        if let Some(stream) = speaker(&mut waiting, deadline.min(Instant::now() + GREETING_PATIENCE))? {
            return Ok(stream);
        }
    }
    if let Some(error) = failed.filter(|_| busy.is_empty()) {
        return Err(error);
    }
    let busy =
        format!("no greeting from {}: another client has each, or the appliance is not up", busy.join(", "));
    if !waiting.is_empty() && Instant::now() < deadline {
        say(format!("{busy}; waiting for the first"));
        if let Some(stream) = speaker(&mut waiting, deadline)? {
            return Ok(stream);
        }
    }
    Err(io::Error::new(ErrorKind::TimedOut, busy))
}

/// Connects at once, or not at all where too many wait in line already.
fn connect_now(socket: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let descriptor: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&descriptor, &SocketAddrUnix::new(socket)?)?;
    let stream = UnixStream::from(descriptor);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Takes out the first stream on which something is to be read before the deadline.
fn speaker(waiting: &mut Vec<UnixStream>, deadline: Instant) -> io::Result<Option<UnixStream>> {
    let mut sides: Vec<_> = waiting.iter().map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()));
        match poll(&mut sides, left.ok().as_ref()) {
            Err(Errno::INTR) => {}
            outcome => break outcome.map(drop)?,
        }
    }
    let spoken = sides.iter().position(|side| !side.revents().is_empty());
    Ok(spoken.map(|index| waiting.remove(index)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Two ports: the first is another client's, and greets whoever comes after it.
    fn ports() -> (tempfile::TempDir, [PathBuf; 2], UnixListener) {
        let directory = tempfile::tempdir().unwrap();
        let sockets = ["control.sock", "control1.sock"].map(|name| directory.path().join(name));
        let listener = UnixListener::bind(&sockets[0]).unwrap();
        (directory, sockets, listener)
    }

    #[test]
    fn a_busy_port_is_passed_over() {
        let (_directory, sockets, _busy) = ports();
        let free = UnixListener::bind(&sockets[1]).unwrap();
        let greets = thread::spawn(move || free.accept().unwrap().0.write_all(b"hello"));
        let mut said = String::new();
        first(&sockets, PATIENCE).unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello");
        greets.join().unwrap().unwrap();
    }

    #[test]
    fn the_first_to_be_free_is_taken_where_all_are_busy() {
        let (_directory, sockets, busy) = ports();
        let _busy = UnixListener::bind(&sockets[1]).unwrap();
        let greets = thread::spawn(move || {
            thread::sleep(3 * GREETING_PATIENCE);
            busy.accept().unwrap().0.write_all(b"hello")
        });
        let mut said = String::new();
        first(&sockets, PATIENCE).unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello");
        greets.join().unwrap().unwrap();
    }

    #[test]
    fn busy_ports_are_named_and_one_without_an_appliance_fails_at_once() {
        let (_directory, sockets, _busy) = ports();
        let error = first(&sockets, GREETING_PATIENCE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.to_string().contains("control.sock:"), "{error}");
        let error = first(&sockets[1..], PATIENCE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("control1.sock"), "{error}");
    }
}
