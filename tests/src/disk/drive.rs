//! The inside of a simulated disk: its cache, its medium, the requests under way, and what each does when it is taken on
//! and when it finishes.

use super::image::{Contents, Stored};
use super::{DiskImage, SECTOR_SIZE, Slow, Sort};
use crate::rng::{Rng, mix};
use datum_store::device::{BLOCK_SIZE, Block, DeviceError, Geometry, Transfer};
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// One block of a write that no flush covers yet.
#[derive(Clone)]
pub(super) struct Unflushed {
    pub(super) request: u64,
    pub(super) at: u64,
    pub(super) data: Rc<Stored>,
    /// When its request completed; `None` while in flight.
    pub(super) completed: Option<u64>,
    /// A discard left it.
    pub(super) rubbish: bool,
}

pub(super) enum Command {
    Read { start: u64, buffers: Vec<Block> },
    Write { buffers: Vec<Block> },
    Flush { submitted: u64 },
    Discard,
}

impl Command {
    fn into_buffers(self) -> Vec<Block> {
        match self {
            Self::Read { buffers, .. } | Self::Write { buffers } => buffers,
            Self::Flush { .. } | Self::Discard => Vec::new(),
        }
    }
}

pub(super) struct Request {
    pub(super) id: u64,
    /// Not carried out before.
    pub(super) not_before: u64,
    command: Command,
    reply: Rc<RefCell<Reply>>,
}

#[derive(Default)]
struct Reply {
    transfer: Option<Transfer>,
    waker: Option<Waker>,
}

pub(super) struct State {
    pub(super) geometry: Geometry,
    pub(super) durable: Contents,
    pub(super) visible: Contents,
    pub(super) unflushed: Vec<Unflushed>,
    /// The block written last.
    newest: Option<Rc<Stored>>,
    pub(super) in_flight: Vec<Request>,
    pub(super) clock: u64,
    pub(super) requests: u64,
    pub(super) flushes: u64,
    /// Counts what changed the states a power loss could leave.
    pub(super) changes: u64,
    pub(super) trace: u64,
    scramble: Rng,
    pub(super) slow: Option<Slow>,
}

impl State {
    /// The inside of a disk that is powered on.
    pub(super) fn power_on(image: DiskImage) -> Self {
        Self {
            geometry: image.geometry,
            durable: image.blocks.clone(),
            visible: image.blocks,
            unflushed: Vec::new(),
            newest: None,
            in_flight: Vec::new(),
            clock: 0,
            requests: 0,
            flushes: 0,
            changes: 0,
            trace: 0,
            scramble: Rng::new(0xd15c),
            slow: None,
        }
    }

    /// Takes a request on, or refuses it at once.
    pub(super) fn take(&mut self, start: u64, count: u64, writes: bool, command: Command) -> Completion {
        let reply = Rc::new(RefCell::new(Reply::default()));
        let end = start.checked_add(count);
        let refusal = match end {
            Some(end) if end <= self.geometry.blocks => {
                (writes && self.geometry.read_only).then_some(DeviceError::ReadOnly)
            }
            _ => Some(DeviceError::OutOfRange),
        };
        if let Some(error) = refusal {
            reply.borrow_mut().transfer = Some((command.into_buffers(), Err(error)));
            return Completion(reply);
        }
        self.requests += 1;
        self.flushes += u64::from(matches!(command, Command::Flush { .. }));
        let blocks: Vec<Rc<Stored>> = match &command {
            Command::Write { buffers } => buffers.iter().map(|buffer| self.store(buffer)).collect(),
            _ => Vec::new(),
        };
        self.note(start, count, &command, &blocks);
        let id = self.tick();
        match &command {
            Command::Write { .. } => self.cache(id, start, blocks),
            Command::Discard => self.scramble(id, start, count),
            Command::Read { .. } | Command::Flush { .. } => {}
        }
        let not_before = self.not_before(&command);
        self.in_flight.push(Request { id, not_before, command, reply: reply.clone() });
        Completion(reply)
    }

    pub(super) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// When a request may be carried out.
    fn not_before(&mut self, command: &Command) -> u64 {
        let meant = |sort| match (sort, command) {
            (Sort::Reads, command) => matches!(command, Command::Read { .. }),
            (Sort::Changes, command) => !matches!(command, Command::Read { .. }),
            (Sort::Flushes, command) => matches!(command, Command::Flush { .. }),
        };
        match &mut self.slow {
            Some(slow) if meant(slow.sort) && slow.requests > 0 => {
                slow.requests -= 1;
                if slow.requests.is_multiple_of(slow.one_in) { self.clock + slow.lasting } else { 0 }
            }
            _ => 0,
        }
    }

    pub(super) fn is_due(&self, request: &Request) -> bool {
        request.not_before <= self.clock
    }

    /// The bytes of a write. Equal blocks in a row share memory, so that a million of them cost nothing.
    fn store(&mut self, bytes: &[u8; BLOCK_SIZE]) -> Rc<Stored> {
        match &self.newest {
            Some(newest) if newest.bytes == *bytes => newest.clone(),
            _ => self.newest.insert(Stored::new(*bytes)).clone(),
        }
    }

    /// Adds a request to the trace.
    fn note(&mut self, start: u64, count: u64, command: &Command, blocks: &[Rc<Stored>]) {
        let kind = match command {
            Command::Read { .. } => 1,
            Command::Write { .. } => 2,
            Command::Flush { .. } => 3,
            Command::Discard => 4,
        };
        let data = blocks.iter().fold(0, |sum, block| sum ^ block.digest);
        for part in [kind, start, count, data] {
            self.trace = mix(self.trace ^ part);
        }
    }

    /// Puts the blocks of a write in flight where a power loss can find them.
    fn cache(&mut self, request: u64, start: u64, blocks: Vec<Rc<Stored>>) {
        self.changes += 1;
        let writes = (start..).zip(blocks).map(|(at, data)| Unflushed {
            request,
            at,
            data,
            completed: None,
            rubbish: false,
        });
        self.unflushed.extend(writes);
    }

    /// A discard is a write of rubbish to every block that ever held something.
    fn scramble(&mut self, request: u64, start: u64, count: u64) {
        let mut held: Vec<u64> = if count < 1024 {
            (start..start + count).filter(|at| self.visible.contains_key(at)).collect()
        } else {
            self.visible.keys().copied().filter(|at| (start..start + count).contains(at)).collect()
        };
        held.sort_unstable();
        for at in held {
            let data = Stored::new([self.scramble.draw() as u8; BLOCK_SIZE]);
            self.changes += 1;
            self.unflushed.push(Unflushed { request, at, data, completed: None, rubbish: true });
        }
    }

    pub(super) fn finish(&mut self, request: Request) {
        let now = self.tick();
        let buffers = match request.command {
            Command::Read { start, mut buffers } => {
                for (at, buffer) in (start..).zip(&mut buffers) {
                    match self.visible.get(&at) {
                        Some(block) => **buffer = block.bytes,
                        None => buffer.fill(0),
                    }
                }
                buffers
            }
            Command::Write { buffers } => {
                self.show(request.id, now);
                buffers
            }
            Command::Discard => {
                self.show(request.id, now);
                Vec::new()
            }
            Command::Flush { submitted } => {
                self.make_durable(submitted);
                Vec::new()
            }
        };
        let mut reply = request.reply.borrow_mut();
        reply.transfer = Some((buffers, Ok(())));
        if let Some(waker) = reply.waker.take() {
            waker.wake();
        }
    }

    fn show(&mut self, request: u64, now: u64) {
        for write in self.unflushed.iter_mut().filter(|write| write.request == request) {
            write.completed = Some(now);
            self.visible.insert(write.at, write.data.clone());
        }
    }

    /// Moves what had completed when the flush was submitted onto the medium, in order of completion.
    fn make_durable(&mut self, submitted: u64) {
        let covered = |write: &Unflushed| write.completed.is_some_and(|completed| completed < submitted);
        let (mut flushed, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unflushed).into_iter().partition(covered);
        self.changes += u64::from(!flushed.is_empty());
        self.unflushed = kept;
        flushed.sort_by_key(|write| write.completed);
        for write in flushed {
            self.durable.insert(write.at, write.data);
        }
    }
}

/// Waits for a request. Dropping it leaves the request running.
pub(super) struct Completion(Rc<RefCell<Reply>>);

impl Future for Completion {
    type Output = Transfer;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Transfer> {
        let mut reply = self.0.borrow_mut();
        if let Some(transfer) = reply.transfer.take() {
            return Poll::Ready(transfer);
        }
        reply.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Puts the chosen sectors of a write onto the medium.
pub(super) fn land(blocks: &mut Contents, write: &Unflushed, sectors: u8) {
    let landed = match sectors {
        0 => return,
        0xff => write.data.clone(),
        _ => torn(blocks.get(&write.at), &write.data, sectors),
    };
    blocks.insert(write.at, landed);
}

/// A block of which only the chosen sectors are new.
pub(super) fn torn(old: Option<&Rc<Stored>>, new: &Stored, sectors: u8) -> Rc<Stored> {
    let mut torn = old.map_or([0; BLOCK_SIZE], |block| block.bytes);
    for sector in (0..8).filter(|s| sectors & (1 << s) != 0) {
        let range = sector * SECTOR_SIZE..(sector + 1) * SECTOR_SIZE;
        torn[range.clone()].copy_from_slice(&new.bytes[range]);
    }
    Stored::new(torn)
}
