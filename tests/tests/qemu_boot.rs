//! Starting and ending: both chipsets in 64 MiB, with and without each kind of port.

use std::fs;
use std::thread;

use datum_tests::qemu::{
    HELLO_PATIENCE, Stage, Tools, ask_monitor, boot, call, check, end, finish, nbd, volume, wait_until_open,
};
use datum_tests::with_tools;
use serde_json::json;
use xtask::control::Client;
use xtask::qemu::{Firmware, Machine, MachineType, Port};
use xtask::symbols::BACKTRACE_MARK;

with_tools!([installed, qemu_newest] [
    starts_on_q35_in_64_mib,
    starts_on_pc_in_64_mib,
    starts_without_a_bios,
    obeys_the_power_button_on_q35,
    obeys_the_power_button_on_pc,
    a_reboot_keeps_everything_and_greets_who_connects_again,
]);

fn starts_on(machine_type: MachineType, tools: Tools) {
    let stage = Stage::wait_with(tools);
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30).machine_type(machine_type));
    assert_eq!(control.hello()["product"], "datum");
    assert_eq!(control.hello()["protocol"], 1);
    volume(&mut control, "db", 1 << 20);
    finish(appliance, control);
}

fn starts_on_q35_in_64_mib(tools: Tools) {
    starts_on(MachineType::Q35, tools);
}

fn starts_on_pc_in_64_mib(tools: Tools) {
    starts_on(MachineType::Pc, tools);
}

/// As QEMU makes a machine for who says no more than `-M q35` or `-M pc`: with disk controllers, a keyboard, more timers.
#[test]
fn starts_among_all_the_devices_of_a_chipset() {
    for machine_type in [MachineType::Q35, MachineType::Pc] {
        let stage = Stage::wait();
        let (appliance, mut control) = boot(&stage.with_disk(1 << 30).machine_type(machine_type).crowded());
        volume(&mut control, "db", 1 << 20);
        finish(appliance, control);
    }
}

/// This firmware leaves PCI devices without a place for their registers; the kernel finds them one.
fn starts_without_a_bios(tools: Tools) {
    let stage = Stage::wait_with(tools);
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30).memory(1 << 10).firmware(Firmware::Qboot));
    volume(&mut control, "db", 1 << 20);
    nbd(&appliance, "db").write(0, &[7; 8192]).unwrap();
    finish(appliance, control);
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

/// A device with a window of 4 GiB leaves no room in the PCI hole, so the firmware puts every 64-bit window, the
/// virtio devices' too, above all RAM.
fn starts_with_windows_above_4_gib(machine_type: MachineType) {
    let stage = Stage::wait();
    let shared = "memory-backend-ram,id=shared,size=4G,share=on";
    let machine = stage.with_disk(1 << 30).memory(6 << 10).machine_type(machine_type);
    let machine = machine.argument("-object").argument(shared);
    let machine = machine.argument("-device").argument("ivshmem-plain,memdev=shared");
    let (appliance, mut control) = boot(&machine);
    let pci = ask_monitor(&machine.monitor(), "info pci");
    let high = |line: &&str| line.contains("64 bit prefetchable memory at 0x") && window(line) >= 4 << 30;
    // The shared memory itself, the disk, the ports and the source of randomness.
    assert_eq!(pci.lines().filter(high).count(), 4, "{pci}");
    volume(&mut control, "db", 1 << 20);
    nbd(&appliance, "db").write(0, &[7; 8192]).unwrap();
    finish(appliance, control);
}

/// Where a window of `info pci` begins.
fn window(line: &str) -> u64 {
    let address = line.split("at 0x").nth(1).unwrap().split(' ').next().unwrap();
    u64::from_str_radix(address, 16).unwrap()
}

#[test]
fn starts_on_q35_with_windows_above_4_gib() {
    starts_with_windows_above_4_gib(MachineType::Q35);
}

#[test]
fn starts_on_pc_with_windows_above_4_gib() {
    starts_with_windows_above_4_gib(MachineType::Pc);
}

/// Whatever the processor offers or lacks. TCG offers x2APIC to none of them.
#[test]
fn starts_on_every_kind_of_processor() {
    for processor in ["qemu64", "kvm64", "max", "Skylake-Client", "EPYC"] {
        let stage = Stage::wait();
        let machine = stage.with_disk(1 << 30).argument("-cpu").argument(processor);
        let (appliance, mut control) = boot(&machine.argument("-smp").argument("2"));
        volume(&mut control, "db", 1 << 20);
        finish(appliance, control);
    }
}

#[test]
fn serves_without_a_console_and_without_nbd() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30).without(Port::Console(0)).nbd_ports(0));
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
    let mut appliance = machine.without(Port::Control(0)).start().unwrap();
    let stream = appliance.connect(Port::Nbd(0), HELLO_PATIENCE).unwrap();
    let open = xtask::nbd::Open { export: "db", ..Default::default() };
    assert_eq!(xtask::nbd::Client::open(stream, &open).unwrap().size(), 1 << 20);
    assert!(!appliance.serial_log().contains(BACKTRACE_MARK));
}

/// What QEMU's `system_powerdown` presses, and a management tool's "shut down". The press comes between a write that nobody
/// flushed and the start that must find it.
fn obeys_the_power_button(machine: &Machine) {
    let (mut appliance, mut control) = boot(machine);
    volume(&mut control, "db", 1 << 20);
    call(&mut control, "event.subscribe", json!({}));
    let mut client = nbd(&appliance, "db");
    client.write(0, &[7; 8192]).unwrap();
    ask_monitor(&machine.monitor(), "system_powerdown");
    let stopping = |control: &mut Client| loop {
        let event = control.next_event(HELLO_PATIENCE).unwrap().expect("it tells that it stops");
        if event["params"]["type"] == "system.stopping" {
            return event;
        }
    };
    assert_eq!(stopping(&mut control)["params"]["reason"], "power_button");
    let status = appliance.wait_for_end(HELLO_PATIENCE).unwrap();
    let log = appliance.serial_log();
    assert!(!log.contains(BACKTRACE_MARK), "the appliance panicked:\n{log}");
    assert!(status.success(), "QEMU ended with {status}; COM1 said:\n{log}");
    drop((appliance, client));
    let (appliance, control) = boot(machine);
    assert_eq!(nbd(&appliance, "db").read(0, 8192).unwrap(), [7; 8192]);
    finish(appliance, control);
}

fn obeys_the_power_button_on_q35(tools: Tools) {
    let stage = Stage::wait_with(tools);
    obeys_the_power_button(&stage.with_disk(1 << 30));
}

fn obeys_the_power_button_on_pc(tools: Tools) {
    let stage = Stage::wait_with(tools);
    obeys_the_power_button(&stage.with_disk(1 << 30).machine_type(MachineType::Pc));
}

#[test]
fn obeys_the_power_button_among_all_the_devices_of_a_chipset() {
    for machine_type in [MachineType::Q35, MachineType::Pc] {
        let stage = Stage::wait();
        obeys_the_power_button(&stage.with_disk(1 << 30).machine_type(machine_type).crowded());
    }
}

#[test]
fn obeys_the_power_button_without_a_bios() {
    let stage = Stage::wait();
    obeys_the_power_button(&stage.with_disk(1 << 30).memory(1 << 10).firmware(Firmware::Qboot));
}

fn a_reboot_keeps_everything_and_greets_who_connects_again(tools: Tools) {
    let stage = Stage::wait_with(tools);
    let (mut appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", 1 << 20);
    call(&mut control, "system.reboot", json!({}));
    wait_until_open(&appliance, 2);
    drop(control);
    let mut control = appliance.wait_for_hello(HELLO_PATIENCE).unwrap();
    assert_eq!(call(&mut control, "volume.show", json!({ "name": "db" }))["size"], 1 << 20);
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

/// A failure that does not come again must leave something to look at.
#[test]
fn a_test_that_fails_leaves_what_its_machine_said_and_where_it_stood() {
    let name = "a test that fails";
    let failed = thread::Builder::new().name(name.into()).spawn(|| {
        let stage = Stage::wait();
        let (_appliance, _control) = boot(&stage.machine());
        panic!("this is what is tested");
    });
    assert!(failed.unwrap().join().is_err());
    let directory = xtask::workspace::artefacts().join("failed");
    let kept = directory.join(format!("a-test-that-fails-{}", std::process::id()));
    let read = |name: &str| fs::read_to_string(kept.join(name)).unwrap();
    assert!(read("serial.log").contains("datum "), "{}", read("serial.log"));
    for word in ["VM status: running", "RIP=", "virtio-serial", "ports.0"] {
        assert!(read("monitor.txt").contains(word), "'{word}' is missing in {}", read("monitor.txt"));
    }
    fs::remove_dir_all(&kept).unwrap();
}
