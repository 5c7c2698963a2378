//! NBD with a client of our own: extended headers, all ports at once, and clients that break off or talk
//! nonsense.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use datum_tests::qemu::{HELLO_PATIENCE, Stage, Tools, boot, call, finish, nbd, volume};
use datum_tests::with_tools;
use serde_json::json;
use xtask::nbd::{Client, Extent, NbdError, Open};
use xtask::qemu::{Appliance, Port};

const MIB: u64 = 1 << 20;

/// `org.datum.nbd.0` to `.29`.
const NBD_PORTS_MAX: u32 = 30;

with_tools!([installed, qemu_newest][as_many_ports_as_there_may_be_serve_at_once]);

fn extended<'a>(export: &'a str, contexts: &'a [&'a str]) -> Open<'a> {
    Open { export, contexts, extended: true }
}

fn open(appliance: &Appliance, open: &Open<'_>) -> Result<Client, NbdError> {
    Client::open(UnixStream::connect(appliance.socket(Port::Nbd(0))).unwrap(), open)
}

#[test]
fn extended_headers_carry_everything() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", 16 << 40);
    call(&mut control, "refpoint.create", json!({ "volume": "db", "name": "mark" }));
    let contexts = ["base:allocation", "x-datum:change", "qemu:dirty-bitmap:mark"];
    let mut client = open(&appliance, &extended("db", &contexts)).unwrap();
    assert_eq!(client.size(), 16 << 40);
    assert_eq!(client.contexts().len(), 3);
    client.write(1 << 43, &[5; 8192]).unwrap();
    client.trim(0, 8 << 40).unwrap();
    client.write_zeroes((1 << 43) + 4096, 5 << 30).unwrap();
    client.flush().unwrap();
    assert_eq!(client.read(1 << 43, 4096).unwrap(), [5; 4096]);
    assert_eq!(client.read((1 << 43) + 4096, 4096).unwrap(), [0; 4096]);
    let status = client.block_status(0, 16 << 40).unwrap();
    let of = |name: &str| {
        let number = client.contexts().iter().find(|context| context.1 == name).unwrap().0;
        &status.iter().find(|(context, _)| *context == number).unwrap().1
    };
    let allocation = of("base:allocation");
    assert_eq!(allocation[..2], [Extent { length: 8 << 40, flags: 3 }, Extent { length: 4096, flags: 0 }]);
    assert_eq!(allocation.iter().map(|extent| extent.length).sum::<u64>(), 16 << 40);
    let dirty = of("qemu:dirty-bitmap:mark");
    let changed: u64 = dirty.iter().filter(|extent| extent.flags == 1).map(|extent| extent.length).sum();
    assert_eq!(changed, (8 << 40) + 4096 + (5 << 30), "{dirty:?}");
    assert!(dirty.iter().all(|extent| extent.flags <= 1));
    let ids = of("x-datum:change");
    assert!(ids.iter().any(|extent| extent.flags > 0) && ids.last().unwrap().flags < ids[0].flags, "{ids:?}");
    client.disconnect().unwrap();
    finish(appliance, control);
}

#[test]
fn requests_beyond_the_export_are_refused_one_by_one() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", MIB);
    for extended in [false, true] {
        let mut client = open(&appliance, &Open { export: "db", contexts: &[], extended }).unwrap();
        let code = |result: Result<(), NbdError>| match result {
            Err(NbdError::Request(code, _)) => code,
            other => panic!("an error number was expected: {other:?}"),
        };
        assert_eq!(code(client.read(MIB, 4096).map(drop)), 22);
        assert_eq!(code(client.read(u64::MAX - 100, 4096).map(drop)), 22);
        assert_eq!(code(client.write(MIB - 1, &[1; 2])), 28);
        assert_eq!(code(client.trim(MIB - 4096, 8192)), 22);
        assert_eq!(code(client.write_zeroes(MIB, 1)), 28);
        client.write(MIB - 1, &[1]).unwrap();
        assert_eq!(client.read(MIB - 1, 1).unwrap(), [1]);
        client.disconnect().unwrap();
    }
    finish(appliance, control);
}

/// The case of libnbd's own tests of its strict mode: with extended headers a write's length is its payload's, whether
/// the flag says so or not; without them the flag is refused, its payload is no request, and the session goes on.
#[test]
fn a_write_has_its_payload_with_the_flag_and_without() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", MIB);
    // If it were taken for a request, it would be one that makes zeroes.
    let mut payload = vec![0; 8192];
    let zeroes = [0x21u8, 0xe4, 0x1c, 0x71, 0, 0, 0, 6].iter().chain(&[0; 24]).copied().collect::<Vec<_>>();
    payload[..32].copy_from_slice(&zeroes);
    for (extended, mistaken) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut client = open(&appliance, &Open { export: "db", contexts: &[], extended }).unwrap();
        client.write(0, &[3; 8192]).unwrap();
        if mistaken {
            client.mistake_payload_len();
        }
        let written = client.write(0, &payload);
        let expected = match (extended, mistaken) {
            (false, true) => {
                assert!(matches!(written, Err(NbdError::Request(22, _))), "{written:?}");
                vec![3; 8192]
            }
            _ => {
                written.unwrap();
                payload.clone()
            }
        };
        client.flush().unwrap();
        assert!(client.read(0, 8192).unwrap() == expected, "extended {extended}, mistaken {mistaken}");
        client.disconnect().unwrap();
    }
    finish(appliance, control);
}

#[test]
fn exports_that_are_none_are_refused_by_name() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", MIB);
    let long = "x".repeat(4096);
    for export in
        ["", "nothing", "db@nothing", "db+since=nothing", "db+since=", "db@", "../db", "db+until=x", &long]
    {
        match open(&appliance, &Open { export, ..Open::default() }) {
            Err(NbdError::Option(..)) => {}
            other => panic!("{export:?} must be refused: {other:?}"),
        }
    }
    assert!(!nbd(&appliance, "db").is_read_only());
    finish(appliance, control);
}

/// As many NBD ports as there are names for, all at work at once, on the smallest machine; and one more, which is not
/// served. QEMU drops what announces a 33rd port without a word; the driver asks for it, and the boot log names it.
fn as_many_ports_as_there_may_be_serve_at_once(tools: Tools) {
    let stage = Stage::wait_with(tools);
    let (mut appliance, mut control) = boot(&stage.with_disk(1 << 30).nbd_ports(NBD_PORTS_MAX + 1));
    (0..NBD_PORTS_MAX).for_each(|port| volume(&mut control, &format!("v{port}"), 8 * MIB));
    let mut connect = |port| appliance.connect(Port::Nbd(port), HELLO_PATIENCE).unwrap();
    let streams: Vec<_> = (0..NBD_PORTS_MAX).map(&mut connect).collect();
    let mut beyond = connect(NBD_PORTS_MAX);
    let together = Barrier::new(streams.len());
    thread::scope(|scope| {
        let clients = streams.into_iter().zip(1u8..).map(|(stream, number)| {
            let together = &together;
            scope.spawn(move || {
                let export = format!("v{}", number - 1);
                let mut client = Client::open(stream, &Open { export: &export, ..Open::default() }).unwrap();
                // Nobody begins before all are greeted, and nobody leaves before all are done.
                together.wait();
                for round in 0..32u64 {
                    client.write(round * 65536, &[number; 65536]).unwrap();
                }
                client.flush().unwrap();
                for round in 0..32u64 {
                    assert!(client.read(round * 65536, 65536).unwrap().iter().all(|byte| *byte == number));
                }
                together.wait();
                client
            })
        });
        let clients: Vec<_> = clients.collect();
        let clients: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        let sessions = call(&mut control, "session.list", json!({}));
        let sessions = sessions["items"].as_array().unwrap();
        let nbd = sessions.iter().filter(|session| session["kind"] == "nbd").count();
        assert_eq!(nbd, NBD_PORTS_MAX as usize, "{sessions:?}");
        clients.into_iter().for_each(|client| client.disconnect().unwrap());
    });
    beyond.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let greeting = beyond.read(&mut [0]);
    assert!(greeting.is_err(), "a port that is not served greets nobody: {greeting:?}");
    let log = appliance.serial_log();
    assert!(log.contains("port 'org.datum.nbd.30' is not served"), "{log}");
    finish(appliance, control);
}

/// Every export on every port: one volume through two ports at once.
#[test]
fn two_ports_share_a_volume() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30).nbd_ports(2));
    volume(&mut control, "db", MIB);
    let mut first = Client::connect(&appliance.socket(Port::Nbd(0)), "db").unwrap();
    let mut second = Client::connect(&appliance.socket(Port::Nbd(1)), "db").unwrap();
    first.write(4096, &[3; 4096]).unwrap();
    assert_eq!(second.read(4096, 4096).unwrap(), [3; 4096]);
    finish(appliance, control);
}

/// A client that goes in the middle of anything frees its port and does no harm.
#[test]
fn half_a_request_is_forgotten_with_its_client() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", 4 * MIB);
    let socket = appliance.socket(Port::Nbd(0));
    for round in 0u8..12 {
        match round % 4 {
            0 => drop(UnixStream::connect(&socket).unwrap()),
            1 => nbd_after(&appliance, &[0x25, 0x60, 0x95]),
            2 => half_a_write(&appliance),
            _ => nbd_after(&appliance, &[0xee; 5000]),
        }
        let mut client = reconnect(&appliance);
        assert_eq!(client.read(0, 4096).unwrap(), [0; 4096], "round {round}");
        client.disconnect().unwrap();
    }
    finish(appliance, control);
}

/// Opens the export, says this, and goes.
fn nbd_after(appliance: &Appliance, bytes: &[u8]) {
    let mut client = reconnect(appliance);
    client.send_bytes(bytes).unwrap();
}

/// Announces a write of 1 MiB, sends a part of it, and goes.
fn half_a_write(appliance: &Appliance) {
    let mut client = reconnect(appliance);
    client.send(xtask::nbd::Command::Write(false), 0, MIB, &[9; 1000]).unwrap();
}

/// Connects; what an earlier client left on its way may spoil a first attempt, as for any client.
fn reconnect(appliance: &Appliance) -> Client {
    let attempt = || open(appliance, &Open { export: "db", ..Open::default() });
    attempt().or_else(|_| attempt()).unwrap()
}
