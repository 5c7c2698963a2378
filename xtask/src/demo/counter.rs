//! A Unix socket in front of an NBD port that counts what passes. Clients connect to it as to the port, one
//! after another, and need not know.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result};

/// Counts the bytes that a port's clients send and get. Its thread ends with the process.
pub(super) struct Counter {
    path: PathBuf,
    received: Arc<AtomicU64>,
}

impl Counter {
    /// Listens at `path` and passes everything on to the port at `target`.
    pub(super) fn listen(path: &Path, target: &Path) -> Result<Counter> {
        let listener =
            UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))?;
        let received = Arc::new(AtomicU64::new(0));
        let (count, target) = (Arc::clone(&received), target.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().map_while(io::Result::ok) {
                // A connection that fails is the client's to report: it sees the socket close.
                let _ = pass(&client, &target, &count);
            }
        });
        Ok(Counter { path: path.to_owned(), received })
    }

    /// The address of an export through this socket.
    pub(super) fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.path.display())
    }

    /// Bytes that clients have got since the last call, of every kind: data, headers, extents, negotiation.
    pub(super) fn take_received(&self) -> u64 {
        self.received.swap(0, Ordering::Relaxed)
    }
}

/// Serves one client until it leaves.
fn pass(client: &UnixStream, target: &Path, received: &AtomicU64) -> io::Result<()> {
    let port = UnixStream::connect(target)?;
    let (client_up, port_up) = (client.try_clone()?, port.try_clone()?);
    let up = thread::spawn(move || {
        let ended = copy(&client_up, &port_up, &AtomicU64::new(0));
        // The port must see that its client has left; the other direction ends with it.
        let _ = port_up.shutdown(Shutdown::Both);
        ended
    });
    let ended = copy(&port, client, received);
    let _ = client.shutdown(Shutdown::Both);
    // A thread that panicked has copied nothing that counts.
    let _ = up.join();
    ended
}

fn copy(mut from: &UnixStream, mut to: &UnixStream, count: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        count.fetch_add(length as u64, Ordering::Relaxed);
        to.write_all(&buffer[..length])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_both_ways_and_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let (front, back) = (directory.path().join("front"), directory.path().join("back"));
        let server = UnixListener::bind(&back).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut request = [0; 3];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&request.repeat(2)).unwrap();
        });
        let counter = Counter::listen(&front, &back).unwrap();
        let mut client = UnixStream::connect(&front).unwrap();
        client.write_all(b"abc").unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"abcabc");
        assert_eq!((counter.take_received(), counter.take_received()), (6, 0));
    }
}
