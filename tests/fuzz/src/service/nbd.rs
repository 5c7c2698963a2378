//! Bytes on an NBD port: options and requests put together from the input, with rubbish in between. Where the
//! handshake is ours, every reply must be well-formed and belong to a request; and at the end the port still
//! greets.

use super::rig::nbd::{Mode, Nbd};
use super::{appliance, replies, send};
use crate::input::Input;

/// Longest WRITE payload that is really sent.
const PAYLOAD_MAX: usize = 9000;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const EXTENDED_MAGIC: u32 = 0x21e4_1c71;
const WRITE: u16 = 1;

const NAMES: [&str; 10] = [
    "vol",
    "other",
    "vol@cp",
    "vol+since=ref",
    "vol@cp+since=ref",
    "vol@cp+since=cp",
    "",
    "no",
    "vol+since=",
    "vol+since=datum:1:0",
];
const CONTEXTS: [&str; 9] = [
    "base:allocation",
    "qemu:dirty-bitmap:ref",
    "qemu:dirty-bitmap:",
    "x-datum:change",
    "base:",
    "qemu:",
    "",
    "x-datum:",
    "qemu:dirty-bitmap:cp",
];

/// See the module.
pub(crate) fn nbd(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (how, size) = (input.u8(), input.u8());
    let mut rig = appliance();
    let client = rig.nbd_port("org.datum.nbd.0");
    let mode = [Mode::Simple, Mode::Structured, Mode::Extended][usize::from(how % 3)];
    let negotiated = how & 0x80 == 0;
    if negotiated {
        let contexts: &[&str] = match mode {
            Mode::Simple => &[],
            _ => &["base:allocation", "qemu:dirty-bitmap:ref", "x-datum:change"],
        };
        let opened = Nbd::open(&mut rig, &client, mode, "vol", contexts);
        assert!(opened.is_ok(), "the volume opens");
    } else {
        client.connect();
        rig.settle();
        client.drain();
        if how & 0x40 == 0 {
            client.send(&[0, 0, 0, how >> 4 & 3]);
        }
    }
    let sent = assemble(&mut input);
    send(&mut rig, &client, &sent, size);
    let came = client.drain();
    if negotiated {
        replies::check(&came, &sent, mode);
    }
    client.leave();
    rig.settle();
    client.connect();
    let greeted = client.clone();
    assert_eq!(rig.run(async move { greeted.receive(8).await }), b"NBDMAGIC");
}

/// Options and requests, as the input says.
fn assemble(input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !input.is_empty() {
        match input.u8() {
            0..=0x3f => request(input, &mut bytes, false),
            0x40..=0x7f => request(input, &mut bytes, true),
            0x80..=0xbf => option(input, &mut bytes),
            length => bytes.extend_from_slice(input.bytes(usize::from(length & 0x3f))),
        }
    }
    bytes
}

fn request(input: &mut Input<'_>, bytes: &mut Vec<u8>, extended: bool) {
    let (kind, flags, cookie) = (u16::from(input.u8() % 10), u16::from(input.u8()), u64::from(input.u8()));
    let unit = if flags & 0x80 == 0 { 512 } else { 1 };
    let (offset, length) = (u64::from(input.u16()) * unit, u64::from(input.u16()) * unit);
    bytes.extend(if extended { EXTENDED_MAGIC } else { REQUEST_MAGIC }.to_be_bytes());
    bytes.extend((flags & 0x3f).to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    match extended {
        true => bytes.extend(length.to_be_bytes()),
        false => bytes.extend((length as u32).to_be_bytes()),
    }
    if kind == WRITE && flags & 0x40 == 0 {
        bytes.resize(bytes.len() + (length as usize).min(PAYLOAD_MAX), 0x5a);
    }
}

fn option(input: &mut Input<'_>, bytes: &mut Vec<u8>) {
    let (kind, form, name) = (input.u8(), input.u8(), NAMES[usize::from(input.u8()) % NAMES.len()]);
    let string = |text: &str| [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat();
    let mut data = Vec::new();
    match form % 5 {
        0 => data.extend_from_slice(name.as_bytes()),
        1 => {
            data.extend(string(name));
            let count = u16::from(form >> 4);
            data.extend(count.to_be_bytes());
            (0..count).for_each(|at| data.extend((at % 5).to_be_bytes()));
        }
        2 => {
            data.extend(string(name));
            let count = u32::from(form >> 4);
            data.extend(count.to_be_bytes());
            (0..count).for_each(|_| data.extend(string(CONTEXTS[usize::from(input.u8()) % CONTEXTS.len()])));
        }
        3 => {}
        _ => data.extend_from_slice(input.bytes(usize::from(form >> 2))),
    }
    bytes.extend(OPTION_MAGIC.to_be_bytes());
    bytes.extend(u32::from(kind % 14).to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
}
