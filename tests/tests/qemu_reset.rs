//! Clients that are connected while the machine is reset. QEMU keeps their sockets open, and the guest cannot close them:
//! `Machine::cut_at_reset`, as `cargo xtask run` has it, has QEMU do so, and clients connect anew.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use datum_tests::qemu::{INSTALLED, Stage, Tools, boot, call, client, finish, volume, wait_until_open};
use datum_tests::with_tools;
use serde_json::json;
use xtask::control::Client;
use xtask::qemu::{Appliance, Port};

const MIB: u64 = 1 << 20;

/// How long nbdkit may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Resets the machine and waits until the appliance is back.
fn reset(appliance: &mut Appliance, mut control: Client) -> Client {
    call(&mut control, "system.reboot", json!({}));
    drop(control);
    wait_until_open(appliance, 2);
    appliance.control().unwrap()
}

/// qemu-io with a conversation: commands in, what it says out. It ends with the test.
struct QemuIo {
    process: Child,
    commands: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl QemuIo {
    fn start(appliance: &Appliance, stage: &Stage, tools: Tools) -> QemuIo {
        let socket = appliance.socket(Port::Nbd(0));
        let image = format!(
            "driver=nbd,export=db,server.type=unix,server.path={},reconnect-delay=60",
            socket.display()
        );
        let mut process = Command::new("timeout")
            .args(["-k", "1", "120"])
            .arg(tools.program("qemu-io"))
            .args(["--image-opts", &image])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(stage.path("qemu-io.log")).unwrap())
            .spawn()
            .unwrap();
        let commands = process.stdin.take().unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        QemuIo { process, commands, said }
    }

    /// Gives a command and reads up to a line that contains `expected`.
    fn ask(&mut self, command: &str, expected: &str) {
        writeln!(self.commands, "{command}").unwrap();
        let mut all = String::new();
        loop {
            let mut line = String::new();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "{command}: qemu-io ended after {all}");
            all += &line;
            assert!(!line.contains("fail") && !line.contains("rror"), "{command}: {all}");
            if line.contains(expected) {
                return;
            }
        }
    }
}

impl Drop for QemuIo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

with_tools!([installed, qemu_oldest, qemu_newest][qemus_client_goes_on_after_a_reset]);

/// Its socket stayed open, the next start's greeting came in the middle of its session, and it failed for good.
fn qemus_client_goes_on_after_a_reset(tools: Tools) {
    let stage = Stage::wait_with(tools);
    let (mut appliance, mut control) = boot(&stage.with_disk(1 << 30).cut_at_reset());
    volume(&mut control, "db", 8 * MIB);
    let mut qemu_io = QemuIo::start(&appliance, &stage, tools);
    qemu_io.ask("write -P 7 0 64k", "wrote 65536/65536");
    qemu_io.ask("write -f -P 9 1M 64k", "wrote 65536/65536");
    let control = reset(&mut appliance, control);
    qemu_io.ask("read -P 9 1M 64k", "read 65536/65536");
    qemu_io.ask("write -P 8 64k 64k", "wrote 65536/65536");
    qemu_io.ask("read -P 8 64k 64k", "read 65536/65536");
    drop(qemu_io);
    finish(appliance, control);
}

/// libnbd by way of nbdkit, which opens its server anew where a request fails.
#[test]
fn a_libnbd_client_goes_on_after_a_reset() {
    let stage = Stage::wait();
    let (mut appliance, mut control) = boot(&stage.with_disk(1 << 30).cut_at_reset());
    volume(&mut control, "db", 8 * MIB);
    let front = stage.path("front.sock");
    let server = format!("socket={}", appliance.socket(Port::Nbd(0)).display());
    let mut nbdkit = Command::new("timeout")
        .args(["-k", "1", "120"])
        .arg(INSTALLED.program("nbdkit"))
        .args(["-f", "-U", front.to_str().unwrap(), "--filter=retry", "nbd"])
        .args([&server, "export=db", "retry=20", "retry-delay=1"])
        .spawn()
        .unwrap();
    let uri = format!("nbd+unix:///?socket={}", front.display());
    let deadline = Instant::now() + PATIENCE;
    while !front.exists() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    client("qemu-io", &["-f", "raw", "-c", "write -f -P 5 0 64k", &uri]);
    let control = reset(&mut appliance, control);
    client("qemu-io", &["-f", "raw", "-c", "read -P 5 0 64k", "-c", "write -P 6 64k 64k", &uri]);
    nbdkit.kill().unwrap();
    nbdkit.wait().unwrap();
    finish(appliance, control);
}
