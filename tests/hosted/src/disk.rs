//! A file as a disk. What is small is copied at once, since another thread would take longer to wake up; what is large, and
//! flushes, go to threads of their own.

use crate::reactor::Host;
use anyhow::{Context as _, Result, ensure};
use datum_store::device::{Block, BlockDevice, DeviceError, Geometry, Transfer};
use futures_channel::oneshot;
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

/// Buffers in one vectored disk request.
const VECTORS_MAX: usize = 1024;

/// Blocks from which on a disk's own thread copies them: copying as many takes longer than waking it.
const LARGE_BLOCKS: usize = 32;

/// A file as a disk.
pub(crate) struct FileDisk {
    name: String,
    content: Arc<Content>,
    geometry: Geometry,
    copies: Worker,
    flushes: Worker,
}

impl FileDisk {
    pub(crate) fn open(host: &Host, path: &Path) -> Result<Self> {
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
        let (content, done) = (content.clone(), host.bell());
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
