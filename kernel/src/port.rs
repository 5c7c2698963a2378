//! A virtio console port as the service sees it: the same sessions, the same chunks, two types.

use alloc::vec::Vec;
use core::future::Future;
use datum_drivers::virtio::console::{self, Chunk as DeviceChunk};
use datum_drivers::virtio::transport::DeviceTransport;
use datum_service::port::{Chunk, Disconnected, Port};
use datum_store::device::Block;

/// A port of the console device.
pub(crate) struct DevicePort<T: DeviceTransport>(pub(crate) console::Port<T>);

impl<T: DeviceTransport> Port for DevicePort<T> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn accept(&self) -> impl Future<Output = ()> {
        self.0.accept()
    }

    async fn receive(&self, into: &mut [u8]) -> Result<usize, Disconnected> {
        self.0.receive(into).await.map_err(|console::Disconnected| Disconnected)
    }

    async fn receive_scattered(&self, into: &mut [&mut [u8]]) -> Result<usize, Disconnected> {
        self.0.receive_scattered(into).await.map_err(|console::Disconnected| Disconnected)
    }

    fn left(&self) -> impl Future<Output = ()> {
        self.0.left()
    }

    fn send(
        &self,
        message: Vec<Chunk>,
        mut spare: impl FnMut(Block),
    ) -> impl Future<Output = Result<(), Disconnected>> {
        let sent = self.0.send(message.into_iter().map(device_chunk).collect(), &mut spare);
        async move { sent.await.map_err(|console::Disconnected| Disconnected) }
    }
}

fn device_chunk(chunk: Chunk) -> DeviceChunk {
    match chunk {
        Chunk::Bytes(bytes) => DeviceChunk::Bytes(bytes),
        Chunk::Block { data, start, end } => DeviceChunk::Block { data, start, end },
        Chunk::Zeroes(count) => DeviceChunk::Zeroes(count),
    }
}
