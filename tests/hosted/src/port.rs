//! A Unix socket as a port. It serves one client at a time, as a serial port does; the next one waits.

use crate::reactor::Host;
use anyhow::{Context as _, Result};
use datum_service::port::{Chunk, Disconnected, Port};
use datum_store::device::Block;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;
use std::task::{Poll, Waker};

static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

/// A Unix socket as a port.
pub(crate) struct SocketPort {
    name: String,
    host: Host,
    listener: Rc<UnixListener>,
    stream: RefCell<Option<Rc<UnixStream>>>,
    sending: Cell<bool>,
    senders: RefCell<Vec<Waker>>,
}

impl SocketPort {
    pub(crate) fn listen(host: &Host, directory: &Path, name: &str) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join(name);
        // What an earlier run left behind is in the way and of no use.
        let _ = std::fs::remove_file(&path);
        let listener =
            UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            name: name.into(),
            host: host.clone(),
            listener: Rc::new(listener),
            stream: RefCell::new(None),
            sending: Cell::new(false),
            senders: RefCell::default(),
        })
    }

    fn current(&self) -> Result<Rc<UnixStream>, Disconnected> {
        self.stream.borrow().clone().ok_or(Disconnected)
    }

    /// One sender at a time, so that messages do not mix.
    async fn turn(&self) -> Turn<'_> {
        poll_fn(|context| {
            if !self.sending.replace(true) {
                return Poll::Ready(Turn(self));
            }
            self.senders.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

struct Turn<'a>(&'a SocketPort);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.sending.set(false);
        self.0.senders.take().into_iter().for_each(Waker::wake);
    }
}

impl Port for SocketPort {
    fn name(&self) -> &str {
        &self.name
    }

    async fn accept(&self) {
        *self.stream.borrow_mut() = None;
        loop {
            let accepted = self.host.when(&self.listener, PollFlags::IN, UnixListener::accept).await;
            if let Ok((stream, _)) = accepted
                && stream.set_nonblocking(true).is_ok()
            {
                *self.stream.borrow_mut() = Some(Rc::new(stream));
                return;
            }
        }
    }

    async fn receive(&self, into: &mut [u8]) -> Result<usize, Disconnected> {
        let stream = self.current()?;
        match self.host.when(&stream, PollFlags::IN, |mut stream| stream.read(into)).await {
            Ok(0) | Err(_) => Err(Disconnected),
            Ok(count) => Ok(count),
        }
    }

    async fn receive_scattered(&self, into: &mut [&mut [u8]]) -> Result<usize, Disconnected> {
        let stream = self.current()?;
        let received = self.host.when(&stream, PollFlags::IN, |mut stream| {
            let mut slices: Vec<_> = into.iter_mut().map(|piece| IoSliceMut::new(piece)).collect();
            stream.read_vectored(&mut slices)
        });
        match received.await {
            Ok(0) | Err(_) => Err(Disconnected),
            Ok(count) => Ok(count),
        }
    }

    async fn left(&self) {
        let Ok(stream) = self.current() else { return };
        let gone = |stream: &UnixStream| {
            let mut polled = [PollFd::new(stream, PollFlags::RDHUP)];
            match poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
                Ok(0) => Err(ErrorKind::WouldBlock.into()),
                result => Ok(result.is_ok()),
            }
        };
        // Whatever comes of it, the session is over.
        let _ = self.host.when(&stream, PollFlags::RDHUP, gone).await;
    }

    async fn send(&self, message: Vec<Chunk>, mut spare: impl FnMut(Block)) -> Result<(), Disconnected> {
        let stream = self.current()?;
        let _turn = self.turn().await;
        let mut slices = slices(&message);
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let sent =
                self.host.when(&stream, PollFlags::OUT, |mut stream| stream.write_vectored(rest)).await;
            match sent {
                Ok(0) | Err(_) => return Err(Disconnected),
                Ok(count) => IoSlice::advance_slices(&mut rest, count),
            }
        }
        for chunk in message {
            if let Chunk::Block { data, .. } = chunk {
                spare(data);
            }
        }
        Ok(())
    }
}

/// The bytes of a message where they lie, without empty pieces.
fn slices(message: &[Chunk]) -> Vec<IoSlice<'_>> {
    let mut slices = Vec::with_capacity(message.len());
    for chunk in message {
        match chunk {
            Chunk::Bytes(bytes) => slices.push(IoSlice::new(bytes)),
            Chunk::Block { data, start, end } => {
                slices.push(IoSlice::new(&data[usize::from(*start)..usize::from(*end)]));
            }
            Chunk::Zeroes(count) => {
                let mut left = *count as usize;
                while left > 0 {
                    let piece = left.min(ZEROES.len());
                    slices.push(IoSlice::new(&ZEROES[..piece]));
                    left -= piece;
                }
            }
        }
    }
    slices.retain(|slice| !slice.is_empty());
    slices
}
