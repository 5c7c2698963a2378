//! The load that every peer gets: one connection, a fixed number of requests under way, and little work of its own.
//!
//! What always holds: every peer sees the same bytes in the same order of requests, from the same code; a reply that
//! is an error, or a read that brings too little, ends the measurement. Requests and replies are packed and parsed
//! here, with few system calls and copies, because the client shares the machine with what it measures.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};

use crate::nbd::{Client, Command, wire};

/// What a reply is read into; larger ones come in pieces.
const RECEIVE_BYTES: usize = 256 << 10;

/// Pieces handed to the kernel at once.
const SLICES_MAX: usize = 64;

/// The flush after a load takes dm-thin with a snapshot, in a guest under TCG, more than a minute.
const PATIENCE: Duration = Duration::from_secs(300);

/// Bytes of one request while a volume is filled, and how many are under way.
const FILL: Load =
    Load { read_percent: 0, length: 1 << 20, depth: 4, order: Order::Sequential, flush: false };

/// Where requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Order {
    /// Anywhere, aligned to their length.
    Random,
    /// One after the other, and from the start again.
    Sequential,
    /// At every so many requests' lengths.
    Every(u64),
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench) struct Load {
    /// How many of a hundred requests read; the others write.
    pub(in crate::bench) read_percent: u64,
    /// Bytes of a request.
    pub(in crate::bench) length: u32,
    /// Requests under way at once.
    pub(in crate::bench) depth: usize,
    pub(in crate::bench) order: Order,
    /// A FLUSH follows each write, and the two count as one.
    pub(in crate::bench) flush: bool,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub(in crate::bench) struct Outcome {
    pub(in crate::bench) requests: u64,
    pub(in crate::bench) seconds: f64,
    /// What a FLUSH took after it.
    pub(in crate::bench) flush_seconds: f64,
    /// Of each request, in microseconds, sorted.
    pub(in crate::bench) latencies: Vec<u32>,
}

impl Outcome {
    pub(in crate::bench) fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    pub(in crate::bench) fn latency(&self, percent: usize) -> u32 {
        let rank = (self.latencies.len() * percent).div_ceil(100).saturating_sub(1);
        self.latencies.get(rank).copied().unwrap_or(0)
    }
}

/// When a run ends.
#[derive(Clone, Copy)]
enum Limit {
    Time(Instant),
    Requests(u64),
}

/// A connection to one peer, and what it takes to use it.
pub(in crate::bench) struct Session {
    stream: UnixStream,
    size: u64,
    payload: Vec<u8>,
    received: Received,
}

/// A request under way.
#[derive(Clone, Copy)]
struct Slot {
    command: Command,
    sent: Instant,
}

impl Session {
    /// Connects; `size` bytes of the export are used.
    pub(in crate::bench) fn connect(socket: &Path, export: &str, size: u64) -> Result<Session> {
        let client = Client::connect(socket, export)?;
        ensure!(client.size() >= size, "the export has {} bytes, {size} are wanted", client.size());
        let mut random = Random(size);
        let payload = (0..FILL.length as usize / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        let stream = client.into_stream();
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Session { stream, size, payload, received: Received::default() })
    }

    /// Writes everything once, in order, and flushes.
    pub(in crate::bench) fn fill(&mut self) -> Result<()> {
        self.go(&FILL, Limit::Requests(self.size / u64::from(FILL.length)), 0)?;
        self.flush().map(drop)
    }

    /// Keeps the load up for a while, then flushes.
    pub(in crate::bench) fn run(&mut self, load: &Load, duration: Duration, seed: u64) -> Result<Outcome> {
        let mut outcome = self.go(load, Limit::Time(Instant::now() + duration), seed)?;
        outcome.flush_seconds = self.flush()?.as_secs_f64();
        outcome.latencies.sort_unstable();
        Ok(outcome)
    }

    /// So many requests of the load, then a flush.
    pub(in crate::bench) fn run_requests(&mut self, load: &Load, requests: u64) -> Result<()> {
        self.send_requests(load, requests, 0)?;
        self.flush().map(drop)
    }

    /// So many requests of the load, and no flush.
    pub(in crate::bench) fn send_requests(&mut self, load: &Load, requests: u64, seed: u64) -> Result<()> {
        self.go(load, Limit::Requests(requests), seed).map(drop)
    }

    /// Trims so many requests' lengths, as the load's order says, then a flush.
    pub(in crate::bench) fn trim(&mut self, load: &Load, requests: u64) -> Result<()> {
        let plan = Plan { change: Command::Trim, ..Plan::new(load, self.size, 0) };
        self.follow(plan, Limit::Requests(requests))?;
        self.flush().map(drop)
    }

    /// One FLUSH, and what it took.
    pub(in crate::bench) fn flush(&mut self) -> Result<Duration> {
        let mut run = Run::new(self, 1);
        run.begin(0, Command::Flush, 0, 0);
        while run.under_way > 0 {
            run.turn(|_, _| Ok(()))?;
        }
        Ok(run.started.elapsed())
    }

    fn go(&mut self, load: &Load, limit: Limit, seed: u64) -> Result<Outcome> {
        self.follow(Plan::new(load, self.size, seed), limit)
    }

    fn follow(&mut self, mut plan: Plan, limit: Limit) -> Result<Outcome> {
        let load = plan.load;
        let mut run = Run::new(self, load.depth);
        let mut outcome = Outcome::default();
        let mut begun = 0;
        let first = match limit {
            Limit::Time(_) => load.depth,
            Limit::Requests(count) => load.depth.min(count as usize),
        };
        for slot in 0..first {
            let (command, offset) = plan.next();
            run.begin(slot, command, offset, load.length);
            begun += 1;
        }
        while run.under_way > 0 {
            run.turn(|run, slot| {
                let done = run.slots[slot];
                let now = Instant::now();
                if load.flush && done.command == Command::Write(false) {
                    run.begin(slot, Command::Flush, 0, 0);
                    run.slots[slot].sent = done.sent;
                    return Ok(());
                }
                outcome.requests += 1;
                outcome.latencies.push((now - done.sent).as_micros() as u32);
                let more = match limit {
                    Limit::Time(end) => now < end,
                    Limit::Requests(count) => begun < count,
                };
                if more {
                    let (command, offset) = plan.next();
                    run.begin(slot, command, offset, load.length);
                    begun += 1;
                }
                Ok(())
            })?;
        }
        outcome.seconds = run.started.elapsed().as_secs_f64();
        Ok(outcome)
    }
}

/// Which requests come, in which order.
struct Plan {
    load: Load,
    size: u64,
    random: Random,
    next: u64,
    /// What the requests do that do not read.
    change: Command,
}

impl Plan {
    fn new(load: &Load, size: u64, seed: u64) -> Plan {
        Plan { load: *load, size, random: Random(seed), next: 0, change: Command::Write(false) }
    }

    fn next(&mut self) -> (Command, u64) {
        let places = self.size / u64::from(self.load.length);
        let place = match self.load.order {
            Order::Random => self.random.next() % places,
            Order::Sequential => self.next % places,
            Order::Every(step) => self.next * step % places,
        };
        self.next += 1;
        let reads = self.random.next() % 100 < self.load.read_percent;
        let command = if reads { Command::Read } else { self.change };
        (command, place * u64::from(self.load.length))
    }
}

/// The generator splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Requests on their way out: a header, and perhaps as much of the payload.
struct Outgoing {
    header: Vec<u8>,
    payload: usize,
}

/// Requests under way on a session. A request's cookie is its slot.
struct Run<'a> {
    stream: &'a UnixStream,
    payload: &'a [u8],
    received: &'a mut Received,
    slots: Vec<Slot>,
    /// Bytes that the replies to reads still have to bring, by slot: chunks of several replies may alternate.
    missing: Vec<u64>,
    under_way: usize,
    outgoing: VecDeque<Outgoing>,
    /// Bytes of the first outgoing request that have been sent.
    sent: usize,
    started: Instant,
}

impl<'a> Run<'a> {
    fn new(session: &'a mut Session, depth: usize) -> Run<'a> {
        let started = Instant::now();
        let idle = Slot { command: Command::Flush, sent: started };
        Run {
            stream: &session.stream,
            payload: &session.payload,
            received: &mut session.received,
            slots: vec![idle; depth],
            missing: vec![0; depth],
            under_way: 0,
            outgoing: VecDeque::with_capacity(depth),
            sent: 0,
            started,
        }
    }

    fn begin(&mut self, slot: usize, command: Command, offset: u64, length: u32) {
        let header = wire::request(false, command, slot as u64, offset, length.into());
        let payload = if command == Command::Write(false) { length as usize } else { 0 };
        self.outgoing.push_back(Outgoing { header: header.unwrap_or_default(), payload });
        self.slots[slot] = Slot { command, sent: Instant::now() };
        self.missing[slot] = if command == Command::Read { length.into() } else { 0 };
        self.under_way += 1;
    }

    /// Sends what the peer takes, waits for bytes from it, and hands each slot that is done to `ended`.
    fn turn(&mut self, mut ended: impl FnMut(&mut Self, usize) -> Result<()>) -> Result<()> {
        let all_sent = self.send()?;
        // Waiting inside the call is cheapest, and right where nothing remains to be sent.
        let flags = if all_sent { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        if !self.received.fill(self.stream, flags)? {
            let mut polled = [PollFd::new(self.stream, PollFlags::IN | PollFlags::OUT)];
            poll(&mut polled, None)?;
            return Ok(());
        }
        while let Some(chunk) = self.received.next()? {
            let slot = chunk.cookie as usize;
            ensure!(slot < self.slots.len() && self.under_way > 0, "an answer to nothing");
            let missing =
                self.missing[slot].checked_sub(chunk.bytes).context("more data than was asked for")?;
            self.missing[slot] = missing;
            if chunk.last {
                ensure!(missing == 0, "{missing} bytes are missing in a reply");
                self.under_way -= 1;
                ended(self, slot)?;
            }
        }
        Ok(())
    }

    /// True when nothing is left to send.
    fn send(&mut self) -> Result<bool> {
        while !self.outgoing.is_empty() {
            let mut slices = Vec::with_capacity(SLICES_MAX);
            let mut skip = self.sent;
            for request in self.outgoing.iter().take(SLICES_MAX / 2) {
                for bytes in [&request.header[..], &self.payload[..request.payload]] {
                    let from = skip.min(bytes.len());
                    skip -= from;
                    if from < bytes.len() {
                        slices.push(IoSlice::new(&bytes[from..]));
                    }
                }
            }
            match sendmsg(self.stream, &slices, &mut SendAncillaryBuffer::default(), SendFlags::DONTWAIT) {
                Ok(count) => self.advance(count),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn advance(&mut self, count: usize) {
        self.sent += count;
        while let Some(first) = self.outgoing.front() {
            let length = first.header.len() + first.payload;
            if self.sent < length {
                return;
            }
            self.sent -= length;
            self.outgoing.pop_front();
        }
    }
}

/// Bytes from the peer, and the replies in them.
struct Received {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The chunk whose payload is passing by.
    chunk: Option<Chunk>,
}

/// A chunk, or a simple reply, which is one.
#[derive(Clone, Copy)]
struct Chunk {
    cookie: u64,
    /// Bytes of its payload that have not passed yet.
    left: usize,
    /// Bytes of the volume that it brings.
    bytes: u64,
    /// Whether the reply ends with it.
    last: bool,
}

impl Default for Received {
    fn default() -> Received {
        Received { buffer: vec![0; RECEIVE_BYTES], start: 0, end: 0, chunk: None }
    }
}

impl Received {
    /// Takes more bytes in; false where it would have had to wait.
    fn fill(&mut self, stream: &UnixStream, flags: RecvFlags) -> Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        match recv(stream, &mut self.buffer[self.end..], flags) {
            Ok((0, _)) => bail!("the peer closed the connection"),
            Ok((count, _)) => self.end += count,
            Err(Errno::AGAIN) if flags.contains(RecvFlags::DONTWAIT) => return Ok(false),
            Err(Errno::AGAIN) => bail!("the peer has been silent for too long"),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// The next chunk that is whole.
    fn next(&mut self) -> Result<Option<Chunk>> {
        if self.chunk.is_none() && !self.header()? {
            return Ok(None);
        }
        let Some(chunk) = &mut self.chunk else { return Ok(None) };
        let passed = chunk.left.min(self.end - self.start);
        (chunk.left, self.start) = (chunk.left - passed, self.start + passed);
        Ok(self.chunk.take_if(|chunk| chunk.left == 0))
    }

    /// Takes the next header in; false where it is not all there.
    fn header(&mut self) -> Result<bool> {
        let Some(head) = self.field::<16>(0) else { return Ok(false) };
        let int = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if int(0) == wire::SIMPLE_REPLY {
            ensure!(int(4) == 0, "the peer answered with error {}", int(4));
            let cookie = u64::from(int(8)) << 32 | u64::from(int(12));
            self.start += 16;
            self.chunk = Some(Chunk { cookie, left: 0, bytes: 0, last: true });
            return Ok(true);
        }
        ensure!(int(0) == wire::CHUNK, "a reply with the magic {:#x}", int(0));
        let Some(length) = self.field::<4>(16) else { return Ok(false) };
        let length = u32::from_be_bytes(length);
        let (flags, kind) = (int(4) >> 16, int(4) as u16);
        if kind & wire::CHUNK_ERROR_BIT != 0 {
            let Some(number) = self.field::<4>(20) else { return Ok(false) };
            bail!("the peer answered with error {}", u32::from_be_bytes(number));
        }
        let bytes = match kind {
            wire::CHUNK_DATA => u64::from(length).saturating_sub(8),
            wire::CHUNK_HOLE => match self.field::<4>(28) {
                Some(hole) => u64::from(u32::from_be_bytes(hole)),
                None => return Ok(false),
            },
            _ => 0,
        };
        let cookie = u64::from(int(8)) << 32 | u64::from(int(12));
        self.start += 20;
        let last = flags & u32::from(wire::CHUNK_FLAG_DONE) != 0;
        self.chunk = Some(Chunk { cookie, left: length as usize, bytes, last });
        Ok(true)
    }

    fn field<const LENGTH: usize>(&self, at: usize) -> Option<[u8; LENGTH]> {
        let bytes = &self.buffer[self.start..self.end];
        bytes.get(at..at + LENGTH)?.try_into().ok()
    }
}
