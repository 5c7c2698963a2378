//! A virtio disk as the store sees it. The two sides agree on blocks and buffers, so only errors change their type.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::future::Future;
use datum_drivers::virtio::block::{self, BlockError};
use datum_drivers::virtio::transport::DeviceTransport;
use datum_store::device::{Block, BlockDevice, DeviceError, Geometry, Transfer};

/// A disk and the name the operator knows it by.
pub(crate) struct Disk<T: DeviceTransport> {
    name: String,
    device: Rc<block::BlockDevice<T>>,
    geometry: Geometry,
}

impl<T: DeviceTransport> Disk<T> {
    /// Names a disk. The size is the one it has now: a disk that grows later is seen to at the next boot.
    pub(crate) fn new(name: String, device: Rc<block::BlockDevice<T>>) -> Self {
        let limits = device.limits();
        let geometry = Geometry {
            blocks: limits.blocks,
            read_only: limits.read_only,
            discard: limits.discard_blocks_max > 0,
        };
        Self { name, device, geometry }
    }
}

impl<T: DeviceTransport> BlockDevice for Disk<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, start: u64, into: Vec<Block>) -> impl Future<Output = Transfer> {
        let request = self.device.read(start, into);
        async move {
            let (buffers, outcome) = request.await;
            (buffers, outcome.map_err(store_error))
        }
    }

    fn write(&self, start: u64, from: Vec<Block>) -> impl Future<Output = Transfer> {
        let request = self.device.write(start, from);
        async move {
            let (buffers, outcome) = request.await;
            (buffers, outcome.map_err(store_error))
        }
    }

    fn flush(&self) -> impl Future<Output = Result<(), DeviceError>> {
        let request = self.device.flush();
        async move { request.await.map_err(store_error) }
    }

    fn discard(&self, start: u64, count: u64) -> impl Future<Output = Result<(), DeviceError>> {
        let request = self.device.discard(start, count);
        async move { request.await.map_err(store_error) }
    }
}

fn store_error(error: BlockError) -> DeviceError {
    match error {
        BlockError::Io => DeviceError::Io,
        BlockError::ReadOnly => DeviceError::ReadOnly,
        BlockError::OutOfRange => DeviceError::OutOfRange,
        BlockError::Unsupported => DeviceError::Unsupported,
        BlockError::Broken => DeviceError::Broken,
    }
}
