//! Ports and their clients: what one leaves is never the next one's, a reset gives nobody a second greeting, and there
//! are more ports than one of a kind.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use datum_tests::qemu::{
    HELLO_PATIENCE, Stage, ask_monitor, boot, call, end, finish, volume, wait_until_open,
};
use serde_json::json;
use xtask::control::{Client, ControlError};
use xtask::greeting;
use xtask::qemu::{Appliance, COMMAND_PORTS_MAX, Firmware, Machine, MachineType, Port};

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

/// Connects to a console and waits until it is ready for a command.
fn console(appliance: &mut Appliance, number: u32) -> UnixStream {
    let mut stream = appliance.connect(Port::Console(number), HELLO_PATIENCE).unwrap();
    read_until(&mut stream, |said| said.contains(PROMPT));
    stream
}

/// Whether a console has said all that it says to a command.
fn is_answered(said: &str, command: &str) -> bool {
    said.rsplit_once(command).is_some_and(|(_, answer)| answer.contains(PROMPT))
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
        console(&mut appliance, 0).write_all(b"first\r").unwrap();
        let mut second = console(&mut appliance, 0);
        second.write_all(b"second\r").unwrap();
        read_until(&mut second, |said| is_answered(said, "second")).contains("first")
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
    for start in 1..3 {
        wait_until_open(&appliance, start);
        let (mut block_client, mut console) = (block_client(&mut appliance), console(&mut appliance, 0));
        match start {
            1 => {
                call(&mut control, "system.reboot", json!({}));
                // The last words before it are that the appliance goes down.
                read_until(&mut console, |said| is_answered(said, "\n") && said.contains("* "));
            }
            _ => drop(ask_monitor(&machine.monitor(), "system_reset")),
        }
        wait_until_open(&appliance, start + 1);
        is_silent(&mut block_client, &[0; 4096]);
        is_silent(&mut console, b"help\r");
        let answer = control.call_within("system.info", json!({}), SILENCE);
        assert!(matches!(answer, Err(ControlError::Silent(_))), "{answer:?}");
        drop((block_client, console, control));
        control = appliance.control().unwrap();
    }
    drop((block_client(&mut appliance), console(&mut appliance, 0)));
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

/// With one control port, a program that only listened to events kept every other from administering.
#[test]
fn one_listens_to_events_while_others_administer() {
    let stage = Stage::wait();
    let machine = stage.with_disk(1 << 30).with(Port::Control(1)).with(Port::Console(1));
    let (mut appliance, mut listener) = boot(&machine);
    call(&mut listener, "event.subscribe", json!({}));
    let mut control = Client::connect(&appliance.socket(Port::Control(1)), HELLO_PATIENCE).unwrap();
    volume(&mut control, "db", 1 << 20);
    let heard = |listener: &mut Client| listener.next_event(HELLO_PATIENCE).unwrap().unwrap();
    while heard(&mut listener)["params"]["type"] != "volume.created" {}
    let mut people = [console(&mut appliance, 0), console(&mut appliance, 1)];
    for person in &mut people {
        person.write_all(b"volume list\r").unwrap();
        let said = read_until(person, |said| is_answered(said, "volume list"));
        assert!(said.contains("db"), "{said}");
    }
    let sessions = call(&mut control, "session.list", json!({}));
    assert_eq!(sessions["items"].as_array().unwrap().len(), 4, "{sessions}");
    drop(listener);
    finish(appliance, control);
}

/// What `ctl` and `console` do where somebody has the first port.
#[test]
fn a_busy_port_is_passed_over() {
    let stage = Stage::wait();
    let (mut appliance, control) = boot(&stage.machine().with(Port::Control(1)).with(Port::Console(1)));
    let _person = console(&mut appliance, 0);
    for kind in [Port::Control, Port::Console] {
        let sockets = [kind(0), kind(1)].map(|port| appliance.socket(port));
        let mut stream = greeting::first(&sockets, HELLO_PATIENCE).unwrap();
        read_until(&mut stream, |said| said.to_lowercase().contains("datum"));
        let mut busy = UnixStream::connect(&sockets[0]).unwrap();
        is_silent(&mut busy, b"");
    }
    end(appliance, control);
}

/// QEMU announces 32 ports at most; the driver asks for the others.
#[test]
fn all_ports_are_served_at_once() {
    let stage = Stage::wait();
    let machine = (1..COMMAND_PORTS_MAX).fold(stage.with_disk(1 << 30).nbd_ports(30), |machine, number| {
        machine.with(Port::Control(number)).with(Port::Console(number))
    });
    let (mut appliance, mut control) = boot(&machine);
    volume(&mut control, "db", 1 << 20);
    let clients: Vec<_> = (0..30)
        .map(|number| xtask::nbd::Client::connect(&appliance.socket(Port::Nbd(number)), "db").unwrap())
        .collect();
    let people: Vec<_> = (0..COMMAND_PORTS_MAX).map(|number| console(&mut appliance, number)).collect();
    let mut programs: Vec<_> = (1..COMMAND_PORTS_MAX)
        .map(|number| Client::connect(&appliance.socket(Port::Control(number)), HELLO_PATIENCE).unwrap())
        .collect();
    for program in &mut programs {
        let sessions = call(program, "session.list", json!({}));
        assert_eq!(sessions["items"].as_array().unwrap().len(), 38, "{sessions}");
    }
    drop((clients, people, programs));
    finish(appliance, control);
}
