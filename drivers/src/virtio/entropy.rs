//! virtio-rng: random bytes from the host.
//!
//! One request at a time; callers take turns. The device writes into a buffer of the driver's own, so that a
//! dropped future leaves nothing behind that the device could still write to.

use super::dma::DmaRegion;
use super::queue::{Fault, Queue};
use super::segment::Segment;
use super::transport::{DeviceTransport, negotiate, open_queue, reset};
use super::wakers::{Waiters, wake_all};
use super::{Polled, SetupError};
use core::cell::RefCell;
use core::future::poll_fn;
use core::mem::ManuallyDrop;
use core::task::{Context, Poll};

const QUEUE: u16 = 0;
const BUFFER_BYTES: usize = 256;

/// A source of random bytes on transport `T`.
#[derive(Debug)]
pub struct Entropy<T: DeviceTransport> {
    engine: RefCell<Engine<T>>,
}

#[derive(Debug)]
struct Engine<T: DeviceTransport> {
    transport: T,
    queue: Queue<()>,
    /// Not freed on drop, like the rings.
    buffer: ManuallyDrop<DmaRegion>,
    /// Bytes at the start of the buffer that nobody has taken yet.
    fresh: usize,
    waiting: Waiters,
    fault: Option<Fault>,
}

impl<T: DeviceTransport> Entropy<T> {
    /// Sets the device up.
    pub fn new(mut transport: T) -> Result<Self, SetupError> {
        let features = negotiate(&mut transport, 0)?;
        let ring = open_queue(&mut transport, QUEUE, 4)?;
        let queue = Queue::new(ring, features.queue(), 0, 0)?;
        let buffer = ManuallyDrop::new(DmaRegion::allocate(BUFFER_BYTES)?);
        transport.finish_init();
        let (fresh, waiting, fault) = (0, Waiters::default(), None);
        Ok(Self { engine: RefCell::new(Engine { transport, queue, buffer, fresh, waiting, fault }) })
    }

    /// Fills `into` with random bytes.
    pub async fn fill(&self, into: &mut [u8]) -> Result<(), Fault> {
        let mut filled = 0;
        while filled < into.len() {
            let rest = &mut into[filled..];
            filled += poll_fn(|context| self.engine.borrow_mut().take(rest, context)).await?;
        }
        Ok(())
    }
}

impl<T: DeviceTransport> Engine<T> {
    /// Hands out bytes once each, from the end of what is fresh.
    fn take(&mut self, into: &mut [u8], context: &Context<'_>) -> Poll<Result<usize, Fault>> {
        if let Some(fault) = self.fault {
            return Poll::Ready(Err(fault));
        }
        if self.fresh > 0 {
            let count = self.fresh.min(into.len());
            self.fresh -= count;
            self.buffer.copy_out(self.fresh, &mut into[..count]);
            return Poll::Ready(Ok(count));
        }
        self.ask();
        self.waiting.register(context);
        Poll::Pending
    }

    fn ask(&mut self) {
        if self.queue.in_flight() == 0 && self.queue.has_room(1) {
            let segment = Segment::device_writes(self.buffer.address(0), BUFFER_BYTES as u32);
            // SAFETY: the buffer is never freed, and read only while no request is in flight.
            unsafe { self.queue.submit(&[segment], ()) };
        }
        if self.queue.take_notification() {
            self.transport.notify(QUEUE);
        }
    }

    fn collect(&mut self) -> bool {
        match self.queue.complete() {
            Ok(None) => false,
            Ok(Some(completion)) => {
                self.fresh = completion.written as usize;
                true
            }
            Err(fault) if self.fault.is_none() => {
                self.fault = Some(fault);
                // The buffer is never given to anybody else, so it does not matter whether this succeeds.
                let _silent = reset(&mut self.transport);
                true
            }
            Err(_) => false,
        }
    }
}

impl<T: DeviceTransport> Polled for Entropy<T> {
    fn poll(&self) -> bool {
        let mut woken = alloc::vec::Vec::new();
        let progress = {
            let mut engine = self.engine.borrow_mut();
            let progress = engine.collect();
            if progress {
                engine.waiting.wake_into(&mut woken);
            }
            progress
        };
        wake_all(&mut woken);
        progress
    }

    fn arm(&self) -> bool {
        let mut engine = self.engine.borrow_mut();
        engine.fault.is_none() && engine.queue.enable_interrupts()
    }

    fn disarm(&self) {
        self.engine.borrow_mut().queue.suppress_interrupts();
    }
}
