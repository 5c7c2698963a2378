//! Whole NBD conversations, byte for byte, as a client on the wire sees them.

mod rig;

use rig::Rig;
use rig::port::Client;
use serde_json::json;

/// Bytes written as hexadecimal digits; whatever follows a `|` on a line is a remark.
fn hex(text: &str) -> Vec<u8> {
    let digits: String = text
        .lines()
        .map(|line| line.split('|').next().unwrap_or_default())
        .flat_map(|line| line.chars().filter(char::is_ascii_hexdigit))
        .collect();
    assert!(digits.len().is_multiple_of(2), "{text}");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn exchange(rig: &mut Rig, client: &Client, sent: &str, expected: &str) {
    client.send(&hex(sent));
    rig.settle();
    let (received, expected) = (client.drain(), hex(expected));
    assert!(received == expected, "after\n{sent}\ncame\n{received:02x?}\ninstead of\n{expected:02x?}");
}

const GREETING: &str = "4e42444d41474943 49484156454f5054 0003";

#[test]
fn negotiation_without_a_pool() {
    let mut rig = Rig::start(&[], datum_service::PoolOption::Open);
    let port = rig.nbd_port("org.datum.nbd.0");
    port.connect();
    exchange(&mut rig, &port, "", GREETING);
    let flags_and_structured = "00000003 | fixed newstyle, no zeroes
        49484156454f5054 00000008 00000000 | STRUCTURED_REPLY";
    exchange(&mut rig, &port, flags_and_structured, "0003e889045565a9 00000008 00000001 00000000 | ACK");
    let starttls = "49484156454f5054 00000005 00000000";
    port.send(&hex(starttls));
    rig.settle();
    assert_eq!(port.drain()[..16], hex("0003e889045565a9 00000005 80000002 | policy"));
    let abort = "49484156454f5054 00000002 00000000";
    exchange(&mut rig, &port, abort, "0003e889045565a9 00000002 00000001 00000000");
    exchange(&mut rig, &port, starttls, "");
}

/// A volume `v` of three blocks: data, a hole, data.
fn three_blocks() -> (Rig, Client) {
    let mut rig = Rig::with_pool(64);
    let mut control = rig.control();
    control.call(&mut rig, "volume.create", json!({"name": "v", "size": 12288}));
    let port = rig.nbd_port("org.datum.nbd.0");
    let mut nbd = rig::nbd::Nbd::open(&mut rig, &port, rig::nbd::Mode::Simple, "v", &[]).unwrap();
    assert_eq!(nbd.write(&mut rig, 0, &[0x11; 4096]), 0);
    assert_eq!(nbd.write(&mut rig, 8192, &[0x33; 4096]), 0);
    port.leave();
    rig.settle();
    port.connect();
    exchange(&mut rig, &port, "", GREETING);
    (rig, port)
}

#[test]
fn a_structured_session() {
    let (mut rig, port) = three_blocks();
    port.send(&hex("00000003 49484156454f5054 00000008 00000000"));
    rig.settle();
    port.drain();
    let set_context = "49484156454f5054 0000000a 0000001c | SET_META_CONTEXT
        00000001 76 | v
        00000001 0000000f 626173653a616c6c6f636174696f6e | base:allocation";
    let context = "0003e889045565a9 0000000a 00000004 00000013
        00000001 626173653a616c6c6f636174696f6e
        0003e889045565a9 0000000a 00000001 00000000";
    exchange(&mut rig, &port, set_context, context);
    let go = "49484156454f5054 00000007 00000009 00000001 76 0001 0003 | GO v, block sizes";
    let info = "0003e889045565a9 00000007 00000003 0000000c 0000 0000000000003000 0ced
        0003e889045565a9 00000007 00000003 0000000e 0003 00000001 00001000 02000000
        0003e889045565a9 00000007 00000001 00000000";
    exchange(&mut rig, &port, go, info);
    let read = "25609513 0000 0000 0102030405060708 0000000000000ffe 00001004 | READ 2 + 4096 + 2 bytes";
    let chunks = "668e33ef 0000 0001 0102030405060708 0000000a 0000000000000ffe 1111
        668e33ef 0000 0002 0102030405060708 0000000c 0000000000001000 00001000
        668e33ef 0001 0001 0102030405060708 0000000a 0000000000002000 3333";
    exchange(&mut rig, &port, read, chunks);
    let unfragmented = "25609513 0004 0000 0102030405060708 0000000000001ffe 00000004 | READ with DF";
    let chunk = "668e33ef 0001 0001 0102030405060708 0000000c 0000000000001ffe 00003333";
    exchange(&mut rig, &port, unfragmented, chunk);
    let status = "25609513 0000 0007 00000000000000aa 0000000000000000 00003000 | BLOCK_STATUS";
    let extents = "668e33ef 0001 0005 00000000000000aa 0000001c 00000001
        00001000 00000000 00001000 00000003 00001000 00000000";
    exchange(&mut rig, &port, status, extents);
    let flush = "25609513 0000 0003 00000000000000ab 0000000000000000 00000000 | FLUSH";
    exchange(&mut rig, &port, flush, "67446698 00000000 00000000000000ab");
    let disconnect = "25609513 0000 0002 00000000000000ac 0000000000000000 00000000 | DISC";
    exchange(&mut rig, &port, disconnect, "");
    exchange(&mut rig, &port, flush, "");
}

#[test]
fn an_extended_session() {
    let (mut rig, port) = three_blocks();
    port.send(&hex("00000003 49484156454f5054 0000000b 00000000"));
    rig.settle();
    assert_eq!(port.drain(), hex("0003e889045565a9 0000000b 00000001 00000000"));
    port.send(&hex(
        "49484156454f5054 0000000a 0000001c 00000001 76 00000001 0000000f 626173653a616c6c6f636174696f6e",
    ));
    port.send(&hex("49484156454f5054 00000007 00000007 00000001 76 0000"));
    rig.settle();
    port.drain();
    let read = "21e41c71 0000 0000 00000000000000c1 0000000000001ffe 0000000000000004 | READ";
    let chunks =
        "6e8a278c 0000 0002 00000000000000c1 0000000000001ffe 000000000000000c 0000000000001ffe 00000002
        6e8a278c 0001 0001 00000000000000c1 0000000000001ffe 000000000000000a 0000000000002000 3333";
    exchange(&mut rig, &port, read, chunks);
    let write = "21e41c71 0021 0001 00000000000000c2 0000000000001001 0000000000000003 aabbcc | WRITE, FUA";
    exchange(&mut rig, &port, write, "6e8a278c 0001 0000 00000000000000c2 0000000000001001 0000000000000000");
    let zero = "21e41c71 0000 0006 00000000000000c3 0000000000000000 0000000000001000 | WRITE_ZEROES";
    exchange(&mut rig, &port, zero, "6e8a278c 0001 0000 00000000000000c3 0000000000000000 0000000000000000");
    let status = "21e41c71 0000 0007 00000000000000c4 0000000000000000 0000000000003000 | BLOCK_STATUS";
    let extents = "6e8a278c 0001 0006 00000000000000c4 0000000000000000 0000000000000028 00000001 00000002
        0000000000001000 0000000000000003 0000000000002000 0000000000000000";
    exchange(&mut rig, &port, status, extents);
    let beyond =
        "21e41c71 0000 0004 00000000000000c5 0000000000002000 0000000000001001 | TRIM beyond the end";
    port.send(&hex(beyond));
    rig.settle();
    let error = port.drain();
    assert_eq!(error[..24], hex("6e8a278c 0001 8001 00000000000000c5 0000000000002000"));
    assert_eq!(error[32..36], hex("00000016 | EINVAL"));
}
