//! The appliance's service on a host: files are its disks, Unix sockets its ports. For tests and native
//! benchmarks; it is not a second product.
//!
//! One thread serves: a local executor runs until everything waits, then `poll` waits for sockets, disks and timers.
//! A disk copies what is small at once, since another thread would take longer to wake up; what is large, and flushes,
//! it leaves to threads of its own. A socket serves one client at a time, as a serial port does; the next one waits.

#![forbid(unsafe_code)]

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use datum_service::environment::{Environment, MemoryUsage, Power};
use datum_service::port::{Chunk, Disconnected, Port};
use datum_service::{Appliance, FoundDisk, FoundDisks, PoolOption, Setup, Takeover};
use datum_store::device::{Block, BlockDevice, DeviceError, Geometry, Transfer};
use futures_channel::oneshot;
use futures_executor::LocalPool;
use futures_util::task::LocalSpawnExt;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Buffers in one vectored disk request.
const VECTORS_MAX: usize = 1024;

/// Blocks from which on a disk's own thread copies them: copying as many takes longer than waking it.
const LARGE_BLOCKS: usize = 32;

static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

#[derive(Parser)]
#[command(about = "Serves Datum's ports over Unix sockets, with files as disks")]
struct Arguments {
    /// A file that is a disk; its stem is the disk's name. Repeat it for several.
    #[arg(long = "disk", required = true)]
    disks: Vec<PathBuf>,
    /// Where the sockets are made, each named as its port.
    #[arg(long)]
    dir: PathBuf,
    /// NBD ports.
    #[arg(long, default_value_t = 1)]
    nbd_ports: usize,
    /// open, auto or none.
    #[arg(long, default_value = "auto")]
    pool: String,
    /// What to do about a pool that was not closed: wait or now.
    #[arg(long, default_value = "wait")]
    takeover: String,
    /// Metadata blocks held in memory.
    #[arg(long, default_value_t = 4096)]
    cache_blocks: usize,
    /// MiB for payloads under way.
    #[arg(long, default_value_t = 16)]
    buffer_mebibytes: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let pool = PoolOption::parse(&arguments.pool).context("--pool is open, auto or none")?;
    let takeover = Takeover::parse(&arguments.takeover).context("--takeover is wait or now")?;
    let host = Host::new()?;
    let mut disks = Vec::new();
    for path in &arguments.disks {
        disks.push(FoundDisk { device: FileDisk::open(&host, path)?, location: path.display().to_string() });
    }
    let appliance = Appliance::new(Setup {
        pool,
        takeover,
        environment: host.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        cache_blocks: arguments.cache_blocks,
        buffer_bytes: arguments.buffer_mebibytes << 20,
    });
    let mut executor = LocalPool::new();
    let spawner = executor.spawner();
    let (starting, background) = (appliance.clone(), appliance.clone());
    spawner.spawn_local(async move { background.background().await })?;
    let found = FoundDisks { disks, problems: Vec::new() };
    spawner.spawn_local(async move { println!("{}", starting.start(found).await) })?;
    let open = |name: &str| SocketPort::listen(&host, &arguments.dir, name);
    let (control, console) = (open("org.datum.control.0")?, open("org.datum.console.0")?);
    let served = appliance.clone();
    spawner.spawn_local(async move { served.serve_control(control).await })?;
    let served = appliance.clone();
    spawner.spawn_local(async move { served.serve_console(console).await })?;
    for index in 0..arguments.nbd_ports {
        let (port, served) = (open(&format!("org.datum.nbd.{index}"))?, appliance.clone());
        spawner.spawn_local(async move { served.serve_nbd(port).await })?;
    }
    println!("serving on {}", arguments.dir.display());
    loop {
        executor.run_until_stalled();
        host.park()?;
    }
}

/// Time, sleep, and readiness of sockets and disks.
#[derive(Clone)]
struct Host(Rc<Reactor>);

struct Reactor {
    started: Instant,
    /// Written to by the disks' threads when they have done something.
    done: Arc<OwnedFd>,
    sockets: RefCell<Vec<Wait>>,
    timers: RefCell<Vec<(Instant, Waker)>>,
}

struct Wait {
    socket: Rc<dyn AsFd>,
    event: PollFlags,
    waker: Waker,
}

impl Host {
    fn new() -> Result<Self> {
        let done = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let (sockets, timers) = (RefCell::default(), RefCell::default());
        Ok(Self(Rc::new(Reactor { started: Instant::now(), done, sockets, timers })))
    }

    /// Tries `operation` until the socket no longer asks to wait.
    async fn when<S: AsFd + 'static, T>(
        &self,
        socket: &Rc<S>,
        event: PollFlags,
        mut operation: impl FnMut(&S) -> io::Result<T>,
    ) -> io::Result<T> {
        poll_fn(|context| match operation(socket) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.wait(socket.clone(), event, context.waker());
                Poll::Pending
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            result => Poll::Ready(result),
        })
        .await
    }

    fn wait(&self, socket: Rc<dyn AsFd>, event: PollFlags, waker: &Waker) {
        let mut waits = self.0.sockets.borrow_mut();
        let known = |wait: &Wait| {
            Rc::ptr_eq(&wait.socket, &socket) && wait.event == event && wait.waker.will_wake(waker)
        };
        if !waits.iter().any(known) {
            waits.push(Wait { socket, event, waker: waker.clone() });
        }
    }

    /// Sleeps until a socket is ready, a disk has done something or a timer has run out, and wakes who waits for it.
    fn park(&self) -> Result<()> {
        let waits = self.0.sockets.take();
        let next = self.0.timers.borrow().iter().map(|(at, _)| *at).min();
        let timeout =
            next.map(|at| Timespec::try_from(at.saturating_duration_since(Instant::now()))).transpose()?;
        let mut polled: Vec<PollFd<'_>> =
            waits.iter().map(|wait| PollFd::from_borrowed_fd(wait.socket.as_fd(), wait.event)).collect();
        polled.push(PollFd::new(&self.0.done, PollFlags::IN));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
        drop(polled);
        // Who waits for a disk was woken by its thread; what counts here is that `poll` has returned.
        let _ = rustix::io::read(&self.0.done, &mut [0_u8; 8]);
        for (wait, ready) in waits.into_iter().zip(ready) {
            if ready {
                wait.waker.wake();
            } else {
                self.0.sockets.borrow_mut().push(wait);
            }
        }
        let now = Instant::now();
        let due: Vec<_> = self.0.timers.borrow_mut().extract_if(.., |(at, _)| *at <= now).collect();
        due.into_iter().for_each(|(_, waker)| waker.wake());
        Ok(())
    }
}

impl Environment for Host {
    fn unix_time_nanoseconds(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn monotonic_nanoseconds(&self) -> u64 {
        u64::try_from(self.0.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn random(&self) -> u64 {
        // Each state is keyed from the system's randomness.
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(self.monotonic_nanoseconds());
        hasher.finish()
    }

    fn sleep(&self, nanoseconds: u64) -> impl Future<Output = ()> {
        let until = Instant::now() + Duration::from_nanos(nanoseconds);
        poll_fn(move |context| {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            let mut timers = self.0.timers.borrow_mut();
            if !timers.iter().any(|(at, waker)| *at == until && waker.will_wake(context.waker())) {
                timers.push((until, context.waker().clone()));
            }
            Poll::Pending
        })
    }

    fn memory(&self) -> MemoryUsage {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kibibytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
        };
        MemoryUsage {
            heap_bytes: kibibytes("VmSize:") << 10,
            used_bytes: kibibytes("VmRSS:") << 10,
            high_water_bytes: kibibytes("VmHWM:") << 10,
        }
    }

    fn power(&self, how: Power) {
        std::process::exit(match how {
            Power::Off => 0,
            Power::Reset => 3,
        });
    }
}

/// A file as a disk.
struct FileDisk {
    name: String,
    content: Arc<Content>,
    geometry: Geometry,
    copies: Worker,
    flushes: Worker,
}

impl FileDisk {
    fn open(host: &Host, path: &Path) -> Result<Self> {
        let name =
            path.file_stem().and_then(|stem| stem.to_str()).context("give the disk's file a UTF-8 name")?;
        let writable = OpenOptions::new().read(true).write(true).open(path);
        let read_only = writable.is_err();
        let file = writable
            .or_else(|_| File::open(path))
            .with_context(|| format!("cannot open {}", path.display()))?;
        let blocks = file.metadata()?.len() / datum_store::device::BLOCK_SIZE as u64;
        ensure!(blocks > 0, "{} is empty; make it with `truncate -s 1G`", path.display());
        let content = Arc::new(Content { file });
        let (copies, flushes) = (Worker::start(host, &content), Worker::start(host, &content));
        let geometry = Geometry { blocks, read_only, discard: false };
        Ok(Self { name: name.into(), content, geometry, copies, flushes })
    }

    /// Where a request begins, in bytes.
    fn offset(&self, start: u64, count: usize) -> Result<u64, DeviceError> {
        let end = start.checked_add(count as u64).ok_or(DeviceError::OutOfRange)?;
        if end > self.geometry.blocks { Err(DeviceError::OutOfRange) } else { Ok(start * 4096) }
    }

    /// Copies blocks, here or on the other thread. The buffers are lost only with that thread.
    async fn copy(
        &self,
        blocks: Vec<Block>,
        copy: impl FnOnce(&Content, Vec<Block>) -> Transfer + Send + 'static,
    ) -> Transfer {
        if blocks.len() < LARGE_BLOCKS {
            return copy(&self.content, blocks);
        }
        let copied = self.copies.call(move |content| copy(content, blocks)).await;
        copied.unwrap_or((Vec::new(), Err(DeviceError::Broken)))
    }
}

/// A thread that works on a disk, one job after the other.
struct Worker(mpsc::Sender<Job>);

type Job = Box<dyn FnOnce(&Content) + Send>;

impl Worker {
    fn start(host: &Host, content: &Arc<Content>) -> Self {
        let (sender, jobs) = mpsc::channel::<Job>();
        let (content, done) = (content.clone(), host.0.done.clone());
        thread::spawn(move || {
            for job in jobs {
                job(&content);
                // It fails only where the counter is full, and then `poll` returns anyway.
                let _ = rustix::io::write(&done, &1_u64.to_ne_bytes());
            }
        });
        Self(sender)
    }

    /// The job's result; `None` where the thread is gone. The job is done whether or not anybody waits for it.
    async fn call<T: Send + 'static>(&self, job: impl FnOnce(&Content) -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        let job = move |content: &Content| drop(done.send(job(content)));
        self.0.send(Box::new(job)).ok()?;
        result.await.ok()
    }
}

/// What a disk holds.
struct Content {
    file: File,
}

impl Content {
    fn read(&self, mut offset: u64, into: &mut [Block]) -> Result<(), DeviceError> {
        for group in into.chunks_mut(VECTORS_MAX) {
            let wanted = group.len() * 4096;
            let mut slices: Vec<IoSliceMut<'_>> =
                group.iter_mut().map(|block| IoSliceMut::new(&mut block[..])).collect();
            let mut rest = &mut slices[..];
            let mut done = 0;
            while done < wanted {
                let count = rustix::io::preadv(&self.file, rest, offset).map_err(|_| DeviceError::Io)?;
                if count == 0 {
                    return Err(DeviceError::Io);
                }
                (done, offset) = (done + count, offset + count as u64);
                IoSliceMut::advance_slices(&mut rest, count);
            }
        }
        Ok(())
    }

    fn write(&self, mut offset: u64, from: &[Block]) -> Result<(), DeviceError> {
        for group in from.chunks(VECTORS_MAX) {
            let wanted = group.len() * 4096;
            let mut slices: Vec<IoSlice<'_>> = group.iter().map(|block| IoSlice::new(&block[..])).collect();
            let mut rest = &mut slices[..];
            let mut done = 0;
            while done < wanted {
                let count = rustix::io::pwritev(&self.file, rest, offset).map_err(|_| DeviceError::Io)?;
                (done, offset) = (done + count, offset + count as u64);
                IoSlice::advance_slices(&mut rest, count);
            }
        }
        Ok(())
    }
}

impl BlockDevice for FileDisk {
    fn name(&self) -> &str {
        &self.name
    }
    fn geometry(&self) -> Geometry {
        self.geometry
    }
    async fn read(&self, start: u64, into: Vec<Block>) -> Transfer {
        let offset = match self.offset(start, into.len()) {
            Ok(offset) => offset,
            Err(error) => return (into, Err(error)),
        };
        let read = move |content: &Content, mut into: Vec<Block>| {
            let result = content.read(offset, &mut into);
            (into, result)
        };
        self.copy(into, read).await
    }
    async fn write(&self, start: u64, from: Vec<Block>) -> Transfer {
        let offset = match self.offset(start, from.len()) {
            _ if self.geometry.read_only => return (from, Err(DeviceError::ReadOnly)),
            Ok(offset) => offset,
            Err(error) => return (from, Err(error)),
        };
        let write = move |content: &Content, from: Vec<Block>| {
            let result = content.write(offset, &from);
            (from, result)
        };
        self.copy(from, write).await
    }
    async fn flush(&self) -> Result<(), DeviceError> {
        let flushed = self.flushes.call(|content| content.file.sync_data()).await;
        flushed.ok_or(DeviceError::Broken)?.map_err(|_| DeviceError::Io)
    }
    async fn discard(&self, _start: u64, _count: u64) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported)
    }
}

/// A Unix socket as a port.
struct SocketPort {
    name: String,
    host: Host,
    listener: Rc<UnixListener>,
    stream: RefCell<Option<Rc<UnixStream>>>,
    sending: Cell<bool>,
    senders: RefCell<Vec<Waker>>,
}

impl SocketPort {
    fn listen(host: &Host, directory: &Path, name: &str) -> Result<Self> {
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
