//! Ports and their clients: what one leaves is never the next one's, and a reset gives nobody a second greeting.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use datum_tests::qemu::{HELLO_PATIENCE, Stage, ask_monitor, boot, call, end, wait_until_open};
use serde_json::json;
use xtask::control::ControlError;
use xtask::qemu::{Appliance, Firmware, Machine, MachineType, Port};

/// How often one client follows another.
const ROUNDS: usize = 200;

/// What a console says at the end of its greeting, and after each command.
const PROMPT: &str = "datum> ";

/// How long a port must stay silent.
const SILENCE: Duration = Duration::from_millis(500);

/// Reads until what has come is enough; returns all of it.
fn read_until(stream: &mut UnixStream, enough: impl Fn(&str) -> bool) -> String {
    let mut said = String::new();
    stream.set_read_timeout(Some(HELLO_PATIENCE)).unwrap();
    while !enough(&said) {
        let mut chunk = [0; 4096];
        let length = stream.read(&mut chunk).unwrap_or_default();
        said += &String::from_utf8_lossy(&chunk[..length]);
        assert!(length > 0, "this is not enough: {said:?}");
    }
    said
}

/// Connects to the console and waits until it is ready for a command.
fn console(appliance: &mut Appliance) -> UnixStream {
    let mut stream = appliance.connect(Port::Console, HELLO_PATIENCE).unwrap();
    read_until(&mut stream, |said| said.contains(PROMPT));
    stream
}

/// Bytes that arrived before the new client did were taken for its own: in 142 of 200 rounds it got the answer to a
/// request that the client before had not waited for.
#[test]
fn a_program_gets_no_answer_to_the_request_of_the_one_before() {
    let stage = Stage::wait();
    let (mut appliance, control) = boot(&stage.machine());
    drop(control);
    let wrong = (0..ROUNDS).filter(|round| {
        appliance.control().unwrap().send("system.info", json!({})).unwrap();
        let mut second = appliance.control().unwrap();
        let id = format!("second {round}");
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": "system.info" });
        second.send_bytes(format!("{request}\n").as_bytes()).unwrap();
        second.receive_within(HELLO_PATIENCE).unwrap()["id"] != id.as_str()
    });
    assert_eq!(wrong.count(), 0, "of {ROUNDS} clients, so many got an answer that was not theirs");
    let control = appliance.control().unwrap();
    end(appliance, control);
}

#[test]
fn a_person_sees_nothing_of_the_command_of_the_one_before() {
    let stage = Stage::wait();
    let (mut appliance, control) = boot(&stage.machine());
    let wrong = (0..ROUNDS).filter(|_| {
        console(&mut appliance).write_all(b"first\r").unwrap();
        let mut second = console(&mut appliance);
        second.write_all(b"second\r").unwrap();
        let answered =
            |said: &str| said.rsplit_once("second").is_some_and(|(_, after)| after.contains(PROMPT));
        read_until(&mut second, answered).contains("first")
    });
    assert_eq!(wrong.count(), 0, "of {ROUNDS} people, so many saw a command that was not theirs");
    end(appliance, control);
}

/// Connects to the NBD port and waits for its greeting.
fn block_client(appliance: &mut Appliance) -> UnixStream {
    let mut stream = appliance.connect(Port::Nbd(0), HELLO_PATIENCE).unwrap();
    stream.set_read_timeout(Some(HELLO_PATIENCE)).unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    assert!(greeting.starts_with(b"NBDMAGICIHAVEOPT"));
    stream
}

/// Nothing comes, neither by itself nor when asked.
fn is_silent(stream: &mut UnixStream, question: &[u8]) {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    for _ in 0..2 {
        let heard = stream.read(&mut [0; 64]).map_err(|error| error.kind());
        assert_eq!(heard, Err(std::io::ErrorKind::WouldBlock), "what is heard after a reset");
        stream.write_all(question).unwrap();
    }
}

/// A reset leaves every client connected, and the greeting of the next start came in the middle of its session. To
/// unmodified NBD clients that is fatal.
fn a_reset_greets_nobody_who_was_connected(machine: &Machine) {
    let (mut appliance, mut control) = boot(machine);
    for start in 2..4 {
        let (mut block_client, mut console) = (block_client(&mut appliance), console(&mut appliance));
        match start {
            2 => drop(call(&mut control, "system.reboot", json!({}))),
            _ => drop(ask_monitor(&machine.monitor(), "system_reset")),
        }
        wait_until_open(&appliance, start);
        is_silent(&mut block_client, &[0; 4096]);
        is_silent(&mut console, b"help\r");
        let answer = control.call_within("system.info", json!({}), SILENCE);
        assert!(matches!(answer, Err(ControlError::Silent(_))), "{answer:?}");
        drop((block_client, console, control));
        control = appliance.control().unwrap();
    }
    drop((block_client(&mut appliance), console(&mut appliance)));
    end(appliance, control);
}

#[test]
fn a_reset_greets_nobody_who_was_connected_on_q35() {
    let stage = Stage::wait();
    a_reset_greets_nobody_who_was_connected(&stage.with_disk(1 << 30));
}

#[test]
fn a_reset_greets_nobody_who_was_connected_on_pc() {
    let stage = Stage::wait();
    a_reset_greets_nobody_who_was_connected(&stage.with_disk(1 << 30).machine_type(MachineType::Pc));
}

#[test]
fn a_reset_greets_nobody_who_was_connected_without_a_bios() {
    let stage = Stage::wait();
    a_reset_greets_nobody_who_was_connected(&stage.with_disk(1 << 30).firmware(Firmware::Qboot));
}
