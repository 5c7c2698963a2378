//! virtio-blk: an asynchronous disk of 4 KiB blocks.
//!
//! - Every request starts when it is made, whether or not its future is ever polled. It is split as the device's
//!   limits ask, joined where blocks lie side by side in memory, and waits first come, first served where the
//!   queue is full.
//! - The disk owns all buffers until the device is through with them. Dropping a future drops interest, not memory.
//! - A device that breaks the protocol is reset; every request, present and future, then ends with
//!   [`BlockError::Broken`] and gets its buffers back.
//!
//! [`limits`] reads the configuration, [`requests`] is the wire format, [`engine`] does the work.

mod engine;
mod limits;
mod requests;

use super::Polled;
use super::SetupError;
use super::queue::Fault;
use super::transport::DeviceTransport;
use super::wakers::wake_all;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use engine::{Engine, Finished};
pub use limits::Limits;
use requests::Kind;

/// Bytes in a block.
pub const BLOCK_SIZE: usize = 4096;

/// Requests the device holds at most.
pub const QUEUE_DEPTH_MAX: u16 = 256;

/// One block of data.
pub type Block = Box<[u8; BLOCK_SIZE]>;

/// Buffers handed back, with what became of the request.
pub type Transfer = (Vec<Block>, Result<(), BlockError>);

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The device reported an error for this request.
    Io,
    /// The device refuses writes.
    ReadOnly,
    /// The request reaches past the end of the disk.
    OutOfRange,
    /// The device does not know this kind of request.
    Unsupported,
    /// The device broke the protocol and was stopped.
    Broken,
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io => "the disk reported an I/O error; check the disk and its host",
            Self::ReadOnly => "the disk is read-only; attach it without readonly=on",
            Self::OutOfRange => "the request reaches past the end of the disk; check whether it has shrunk",
            Self::Unsupported => {
                "the disk does not know this request; attach it with discard=unmap where discards are meant"
            }
            Self::Broken => {
                "the disk broke its protocol and was stopped; restart the appliance and check its host"
            }
        })
    }
}

impl core::error::Error for BlockError {}

/// A disk on transport `T`.
#[derive(Debug)]
pub struct BlockDevice<T: DeviceTransport> {
    engine: RefCell<Engine<T>>,
    limits: Limits,
}

impl<T: DeviceTransport> BlockDevice<T> {
    /// Sets the device up with at most `depth` requests in flight. Memory: about 1.2 KiB for each of them.
    pub fn new(transport: T, depth: u16) -> Result<Self, SetupError> {
        let engine = Engine::new(transport, depth.min(QUEUE_DEPTH_MAX))?;
        let limits = engine.limits().clone();
        Ok(Self { engine: RefCell::new(engine), limits })
    }

    /// What the device can do, as it said at the start.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whole blocks the disk holds now: a host may grow it while it is in use.
    pub fn blocks(&self) -> u64 {
        self.engine.borrow().limits().blocks
    }

    /// What the device did wrong, once it was stopped for it.
    pub fn fault(&self) -> Option<Fault> {
        self.engine.borrow().fault()
    }

    /// Requests the device holds now.
    pub fn in_flight(&self) -> u16 {
        self.engine.borrow().in_flight()
    }

    /// The disk's serial number as its host set it, empty if it did not.
    pub async fn serial(&self) -> Result<String, BlockError> {
        let finished = self.submit(Kind::Identify, 0, 0, Vec::new()).await;
        finished.outcome?;
        let text = finished.identity.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).trim().into())
    }

    /// Reads `into.len()` blocks from `start` on.
    pub fn read(&self, start: u64, into: Vec<Block>) -> impl Future<Output = Transfer> + '_ {
        self.transfer(Kind::Read, start, into)
    }

    /// Writes `from` to the blocks from `start` on. Durable after a [`BlockDevice::flush`] made later.
    pub fn write(&self, start: u64, from: Vec<Block>) -> impl Future<Output = Transfer> + '_ {
        self.transfer(Kind::Write, start, from)
    }

    /// Makes every write that completed before this call durable.
    pub fn flush(&self) -> impl Future<Output = Result<(), BlockError>> + '_ {
        let request = self.submit(Kind::Flush, 0, 0, Vec::new());
        async move { request.await.outcome }
    }

    /// Tells the device that `count` blocks from `start` on are no longer needed; they then read as anything.
    pub fn discard(&self, start: u64, count: u64) -> impl Future<Output = Result<(), BlockError>> + '_ {
        let request = self.submit(Kind::Discard, start, count, Vec::new());
        async move { request.await.outcome }
    }

    /// Makes `count` blocks from `start` on read as zeroes; `unmap` allows the device to give up their space.
    pub fn write_zeroes(
        &self,
        start: u64,
        count: u64,
        unmap: bool,
    ) -> impl Future<Output = Result<(), BlockError>> + '_ {
        let request = self.submit(Kind::WriteZeroes { unmap }, start, count, Vec::new());
        async move { request.await.outcome }
    }

    fn transfer(&self, kind: Kind, start: u64, buffers: Vec<Block>) -> impl Future<Output = Transfer> + '_ {
        let request = self.submit(kind, start, buffers.len() as u64, buffers);
        async move {
            let finished = request.await;
            (finished.buffers, finished.outcome)
        }
    }

    fn submit(&self, kind: Kind, start: u64, count: u64, buffers: Vec<Block>) -> Request<'_, T> {
        let key = self.with(|engine| engine.submit(kind, start, count, buffers));
        Request { device: self, key: Some(key) }
    }

    /// Runs `action` on the engine, then wakes whom it made ready, with nothing borrowed.
    fn with<R>(&self, action: impl FnOnce(&mut Engine<T>) -> R) -> R {
        let (result, mut woken) = {
            let mut engine = self.engine.borrow_mut();
            (action(&mut engine), engine.take_woken())
        };
        if !woken.is_empty() {
            wake_all(&mut woken);
            self.engine.borrow_mut().reuse(woken);
        }
        result
    }
}

impl<T: DeviceTransport> Polled for BlockDevice<T> {
    fn poll(&self) -> bool {
        self.with(Engine::poll)
    }

    fn arm(&self) -> bool {
        self.engine.borrow_mut().arm()
    }

    fn disarm(&self) {
        self.engine.borrow_mut().disarm();
    }
}

/// A request under way. Its key is given up when it is over.
struct Request<'a, T: DeviceTransport> {
    device: &'a BlockDevice<T>,
    key: Option<usize>,
}

impl<T: DeviceTransport> Future for Request<'_, T> {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Finished> {
        let device = self.device;
        let Some(key) = self.key else { return Poll::Pending };
        let mut engine = device.engine.borrow_mut();
        match engine.take_finished(key) {
            Some(finished) => {
                self.key = None;
                Poll::Ready(finished)
            }
            None => {
                engine.wait(key, context.waker());
                Poll::Pending
            }
        }
    }
}

impl<T: DeviceTransport> Drop for Request<'_, T> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.device.engine.borrow_mut().abandon(key);
        }
    }
}

/// Replaces a waker where the task behind it has changed.
fn remember(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(known) if known.will_wake(waker) => {}
        _ => *slot = Some(waker.clone()),
    }
}
