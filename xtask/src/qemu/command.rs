//! QEMU's command line for a machine. Nothing is left to QEMU's defaults, so a user's own configuration
//! cannot change what a test means.

use std::path::PathBuf;
use std::process::Command;

use clap::ValueEnum;

use super::{Machine, Port};
use crate::shell;

/// The emulator, unless a machine names its own.
pub(super) const PROGRAM: &str = "qemu-system-x86_64";

/// The log of COM1, in the machine's directory.
pub(super) const SERIAL_LOG: &str = "serial.log";

/// What a machine of either chipset would have by default and the appliance never uses: looking for disks and a keyboard
/// there takes the firmware longer than the appliance takes to start.
const LEFT_OUT: &str = "sata=off,smbus=off,i8042=off,hpet=off,vmport=off";

/// The chipset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MachineType {
    /// PCI Express.
    Q35,
    /// The older i440FX.
    Pc,
}

impl MachineType {
    fn name(self) -> &'static str {
        match self {
            MachineType::Q35 => "q35",
            MachineType::Pc => "pc",
        }
    }
}

/// What runs before the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Firmware {
    /// QEMU's usual one.
    Seabios,
    /// It does next to nothing, and so is there sooner; on q35 only. The appliance then places the registers of its PCI
    /// devices itself.
    Qboot,
}

/// The program and all its arguments.
pub(super) fn command(machine: &Machine) -> Command {
    let mut command = machine.emulator.as_ref().map_or_else(|| shell::program(PROGRAM), Command::new);
    command.args(["-no-user-config", "-nodefaults", "-display", "none", "-nic", "none"]);
    let mut machine_type = machine.machine_type.name().to_owned();
    if !machine.crowded {
        machine_type = format!("{machine_type},{LEFT_OUT}");
    }
    command.args(["-M", &machine_type, "-m", &machine.memory_mib.to_string()]);
    if machine.firmware == Firmware::Qboot {
        command.args(["-bios", "qboot.rom"]);
    }
    command.args(machine.accelerator.arguments());
    command.arg("-kernel").arg(&machine.kernel);
    if !machine.options.is_empty() {
        command.args(["-append", &machine.options.join(" ")]);
    }
    let log = escaped(&machine.directory.join(SERIAL_LOG).to_string_lossy());
    command.args(["-chardev", &format!("file,id=serial,path={log},append=on"), "-serial", "chardev:serial"]);
    command.args(["-device", "virtio-rng-pci", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
    for (index, disk) in machine.disks.iter().enumerate() {
        command.args(disk.arguments(index));
    }
    for (option, socket) in monitors(machine) {
        let socket = escaped(&socket.to_string_lossy());
        command.args([option, &format!("unix:{socket},server=on,wait=off")]);
    }
    command.args(port_arguments(machine)).args(&machine.arguments);
    command
}

/// The sockets on which QEMU itself is talked to, each with the option that makes it.
pub(super) fn monitors(machine: &Machine) -> Vec<(&'static str, PathBuf)> {
    let mut monitors = vec![("-qmp", machine.qmp())];
    monitors.extend(machine.cut_at_reset.then(|| ("-qmp", machine.resets())));
    monitors.extend(machine.evidence.then(|| ("-monitor", machine.monitor())));
    monitors
}

/// The character device behind a port.
pub(super) fn port_id(port: Port) -> String {
    port.socket_name().replace(".sock", "")
}

/// One controller and its ports, each a socket that QEMU listens on.
///
/// No port more than there are sockets, because QEMU's main loop looks at every queue's eventfd in each turn; the first
/// number is reserved.
fn port_arguments(machine: &Machine) -> Vec<String> {
    let ports_max = machine.ports.len() + 1;
    let controller = format!("virtio-serial-pci,id=ports,max_ports={ports_max}");
    let mut arguments = vec!["-device".to_owned(), controller];
    for port in &machine.ports {
        arguments.extend(one_port(machine, *port));
    }
    arguments
}

fn one_port(machine: &Machine, port: Port) -> [String; 4] {
    let id = port_id(port);
    let path = escaped(&machine.socket(port).to_string_lossy());
    let name = port.guest_name();
    [
        "-chardev".into(),
        format!("socket,id={id},path={path},server=on,wait=off"),
        "-device".into(),
        format!("virtserialport,bus=ports.0,chardev={id},name={name}"),
    ]
}

/// A value in QEMU's own option syntax, where a comma ends it.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::Disk;

    fn words(machine: &Machine) -> Vec<String> {
        command(machine).get_args().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn every_part_is_on_the_command_line() {
        let machine = Machine::new("/k.elf", "/run,d")
            .memory(64)
            .machine_type(MachineType::Pc)
            .disk(Disk::file("/a.img", 1))
            .nbd_ports(2)
            .without(Port::Console(0))
            .with(Port::Control(1))
            .option("pool=auto")
            .option("panic=exit");
        let line = words(&machine).join(" ");
        for part in [
            "-M pc,sata=off,smbus=off,i8042=off,hpet=off,vmport=off -m 64",
            "-kernel /k.elf -append pool=auto panic=exit",
            "path=/run,,d/serial.log",
            "name=org.datum.control.0",
            "socket,id=control1,path=/run,,d/control1.sock,server=on,wait=off",
            "name=org.datum.control.1",
            "socket,id=nbd1,path=/run,,d/nbd1.sock,server=on,wait=off",
            "max_ports=5",
            "isa-debug-exit,iobase=0xf4",
        ] {
            assert!(line.contains(part), "{part} is missing in {line}");
        }
        assert!(!line.contains("console"), "{line}");
    }

    #[test]
    fn a_machine_runs_in_the_emulator_that_it_names() {
        let machine = Machine::new("/k", "/d").emulator("/other/qemu");
        assert_eq!(command(&machine).get_program(), "/other/qemu");
    }

    #[test]
    fn a_crowded_machine_has_all_that_its_chipset_brings() {
        let line = words(&Machine::new("/k", "/d").crowded()).join(" ");
        assert!(line.contains("-M q35 -m"), "{line}");
    }

    #[test]
    fn the_controller_grows_with_the_ports() {
        let line = words(&Machine::new("/k", "/d").nbd_ports(30)).join(" ");
        assert!(line.contains("max_ports=33"), "{line}");
    }
}
