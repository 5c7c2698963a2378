//! The console: what a person sees, byte for byte where it matters.

mod rig;

use datum_service::PoolOption;
use rig::Rig;
use rig::port::Client;

fn typed(rig: &mut Rig, console: &Client, text: &str) -> String {
    console.send(text.as_bytes());
    rig.settle();
    String::from_utf8(console.drain()).unwrap()
}

#[test]
fn it_greets_helps_and_explains_mistakes() {
    let mut rig = Rig::start(&[], PoolOption::Auto);
    let console = rig.console();
    console.connect();
    let greeting = typed(&mut rig, &console, "");
    assert!(greeting.starts_with("Datum 0.1.0. `help` lists the commands.\r\n"), "{greeting:?}");
    assert!(greeting.contains("datum> "));
    let help = typed(&mut rig, &console, "help volume create\r");
    assert!(help.contains("Example: volume create db 20G\r\n"), "{help}");
    let wrong = typed(&mut rig, &console, "volume crate db 1G\r");
    assert!(wrong.contains("did you mean `volume create`?") && wrong.contains("\r\n\rdatum> "), "{wrong:?}");
    let no_pool = typed(&mut rig, &console, "volume list\r");
    assert!(no_pool.contains("error: no disk was found; attach"), "{no_pool}");
    let json = typed(&mut rig, &console, "device list --json\r");
    assert!(json.contains("{\"items\":[]}\r\n"), "{json}");
    let ended = typed(&mut rig, &console, "\x04");
    assert!(ended.contains("stays open") && ended.contains("datum> "), "{ended:?}");
}

#[test]
fn an_event_does_not_disturb_the_line_being_written() {
    let mut rig = Rig::start(&[], PoolOption::Open);
    let console = rig.console();
    console.connect();
    typed(&mut rig, &console, "event subscribe\r");
    typed(&mut rig, &console, "volume li");
    let port = rig.nbd_port("org.datum.nbd.0");
    port.connect();
    let shown = typed(&mut rig, &console, "");
    assert!(shown.contains("session.opened") && shown.contains("datum> volume li"), "{shown:?}");
}

#[test]
fn any_bytes_leave_the_console_alive() {
    let mut rig = Rig::start(&[], PoolOption::Open);
    let console = rig.console();
    console.connect();
    let bytes: Vec<u8> = (0..20_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    console.send(&bytes);
    rig.settle();
    console.drain();
    let json = typed(&mut rig, &console, "\x03device list --json\r");
    assert!(json.contains("{\"items\":[]}"), "{json:?}");
}

/// A person's terminal is asked how wide it is; what a script is shown holds no question.
#[test]
fn tables_are_as_wide_as_the_terminal_says() {
    let mut rig = Rig::with_pool(64);
    let console = rig.console();
    console.connect();
    let scripted = typed(&mut rig, &console, "volume create db 1M\rjob list\rvolume list\r");
    assert!(scripted.contains("\r\nNAME ") && !scripted.contains("\x1b[6n"), "{scripted:?}");
    let asked = typed(&mut rig, &console, "v");
    assert!(asked.contains("\x1b[6n"), "{asked:?}");
    assert_eq!(typed(&mut rig, &console, "\x1b[24;40R"), "\rdatum> v\x1b[K\r\x1b[8C");
    let narrow = typed(&mut rig, &console, "olume list\r");
    assert!(narrow.contains("\r\nname             db\r\n"), "{narrow:?}");
    typed(&mut rig, &console, "v");
    typed(&mut rig, &console, "\x1b[24;200R");
    assert!(typed(&mut rig, &console, "olume list\r").contains("\r\nNAME "));
}
