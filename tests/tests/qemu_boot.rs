//! Starting and ending: both chipsets in 64 MiB, with and without each kind of port.

use std::time::Duration;

use datum_tests::qemu::{HELLO_PATIENCE, Stage, boot, call, check, end, finish, volume};
use serde_json::json;
use xtask::qemu::{MachineType, Port};
use xtask::symbols::BACKTRACE_MARK;

fn starts_on(machine_type: MachineType) {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30).machine_type(machine_type));
    assert_eq!(control.hello()["product"], "datum");
    assert_eq!(control.hello()["protocol"], 1);
    volume(&mut control, "db", 1 << 20);
    finish(appliance, control);
}

#[test]
fn starts_on_q35_in_64_mib() {
    starts_on(MachineType::Q35);
}

#[test]
fn starts_on_pc_in_64_mib() {
    starts_on(MachineType::Pc);
}

/// RAM beyond 4 GiB lies in a second range, above the PCI hole.
#[test]
fn starts_in_much_memory() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30).memory(5 << 10));
    let info = call(&mut control, "system.info", json!({}));
    assert!(info["memory"]["heap_bytes"].as_u64().unwrap() > 4 << 30, "{info}");
    finish(appliance, control);
}

#[test]
fn serves_without_a_console_and_without_nbd() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30).without(Port::Console).nbd_ports(0));
    volume(&mut control, "db", 1 << 20);
    finish(appliance, control);
}

/// Without a control port there is no greeting to wait for; the NBD port still opens the volume of before.
#[test]
fn serves_nbd_without_control() {
    let stage = Stage::wait();
    let machine = stage.with_disk(1 << 30);
    let (appliance, mut control) = boot(&machine);
    volume(&mut control, "db", 1 << 20);
    end(appliance, control);
    let mut appliance = machine.without(Port::Control).start().unwrap();
    let stream = appliance.connect(Port::Nbd(0), HELLO_PATIENCE).unwrap();
    let open = xtask::nbd::Open { export: "db", ..Default::default() };
    assert_eq!(xtask::nbd::Client::open(stream, &open).unwrap().size(), 1 << 20);
    assert!(!appliance.serial_log().contains(BACKTRACE_MARK));
}

#[test]
fn a_reboot_keeps_everything_and_greets_again() {
    let stage = Stage::wait();
    let (mut appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", 1 << 20);
    call(&mut control, "system.reboot", json!({}));
    drop(control);
    // The old session may still be there for a moment: only a greeting after the reset knows no uptime.
    let mut control = loop {
        let mut control = appliance.wait_for_hello(HELLO_PATIENCE).unwrap();
        match control.call_within("volume.show", json!({ "name": "db" }), Duration::from_secs(5)) {
            Ok(shown) if appliance.serial_log().matches("is open").count() == 2 => {
                assert_eq!(shown["size"], 1 << 20);
                break control;
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    check(&mut control);
    end(appliance, control);
}

/// Unknown options and values are reported and ignored.
#[test]
fn odd_options_are_reported_and_ignored() {
    let stage = Stage::wait();
    let machine =
        stage.with_disk(1 << 30).option("colour=blue").option("pool=perhaps").option("=").option("x");
    let (appliance, control) = boot(&machine);
    let log = appliance.serial_log();
    for word in ["colour", "perhaps"] {
        assert!(log.contains(word), "{word} is not reported:\n{log}");
    }
    finish(appliance, control);
}
