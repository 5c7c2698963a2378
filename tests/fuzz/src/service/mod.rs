//! The real service over ports and a disk in memory, and clients that send anything.

mod console;
mod control;
mod nbd;
mod replies;

#[path = "../../../../kernel/service/tests/rig/mod.rs"]
mod rig;

use crate::input::Input;
use datum_service::PoolOption;
use rig::Rig;
use rig::disk::MemoryDisk;
use rig::port::Client;
use serde_json::json;
use std::cell::OnceCell;

pub(crate) use console::console;
pub(crate) use control::control;
pub(crate) use nbd::nbd;

/// Bytes of the volume `vol`; its first half has data.
const VOLUME_SIZE: u64 = 256 << 10;

/// An appliance whose pool has volumes, a checkpoint and a reference point.
fn appliance() -> Rig {
    thread_local! {
        static DISK: OnceCell<MemoryDisk> = const { OnceCell::new() };
    }
    let disk = DISK.with(|disk| disk.get_or_init(prepare).copy("vd0"));
    Rig::start(&[&disk], PoolOption::Open)
}

fn prepare() -> MemoryDisk {
    let disk = MemoryDisk::blank("vd0", 16);
    let mut rig = Rig::start(&[&disk], PoolOption::Auto);
    let mut control = rig.control();
    control.call(&mut rig, "volume.create", json!({"name": "vol", "size": VOLUME_SIZE}));
    control.call(&mut rig, "volume.create", json!({"name": "other", "size": 8192}));
    let port = rig.nbd_port("org.datum.nbd.0");
    let mut client = rig::nbd::Nbd::open(&mut rig, &port, rig::nbd::Mode::Structured, "vol", &[])
        .unwrap_or_else(|error| panic!("the volume does not open: {error:#x}"));
    client.write(&mut rig, 0, &vec![0xa5; VOLUME_SIZE as usize / 2]);
    control.call(&mut rig, "checkpoint.create", json!({"volumes": ["vol"], "name": "cp"}));
    control.call(&mut rig, "refpoint.create", json!({"volume": "vol", "name": "ref"}));
    disk
}

/// Sends `bytes` in pieces of `size`, each taken in before the next; 0 is all at once.
fn send(rig: &mut Rig, client: &Client, bytes: &[u8], size: u8) {
    let size = if size == 0 { bytes.len().max(1) } else { usize::from(size) };
    for piece in bytes.chunks(size) {
        client.send(piece);
        rig.settle();
    }
}

/// What is left of an input, as lines or keys: some of them words that mean something, so that they need not be
/// guessed letter by letter.
fn text(input: &mut Input<'_>, words: &[&str]) -> Vec<u8> {
    let mut text = Vec::new();
    while !input.is_empty() {
        match input.u8() {
            0x80..=0xfe => {
                let word = words[usize::from(input.u8()) % words.len()];
                text.extend_from_slice(word.as_bytes());
            }
            byte => text.push(byte),
        }
    }
    text
}
