//! Ports and their clients: what one leaves is never the next one's.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use datum_tests::qemu::{HELLO_PATIENCE, Stage, boot, end};
use serde_json::json;
use xtask::qemu::{Appliance, Port};

/// How often one client follows another.
const ROUNDS: usize = 200;

/// What a console says at the end of its greeting, and after each command.
const PROMPT: &str = "datum> ";

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
