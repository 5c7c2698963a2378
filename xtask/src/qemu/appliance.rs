//! A running machine.
//!
//! QEMU is started and watched by one thread that lives as long as QEMU does: the kernel kills QEMU when that
//! thread ends for whatever reason, which covers a test runner that is itself killed. The thread also keeps
//! the time limit.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;

use super::command::{self, SERIAL_LOG};
use super::{EMULATOR_LOG, Machine, Port, SOCKET_PATH_BYTES_MAX, accelerator, evidence, resets};
use crate::control::Client;
use crate::qmp::Qmp;
use crate::symbols::{BACKTRACE_MARK, Symbols};
use crate::{kernel, shell};

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How often the watcher looks whether QEMU still runs.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);

/// How often the serial log is looked at while the appliance starts.
const LOG_INTERVAL: Duration = Duration::from_millis(200);

/// How much of each log an error shows.
const LOG_LINES_SHOWN: usize = 60;

/// A started machine. Dropping it kills QEMU.
#[derive(Debug)]
pub struct Appliance {
    machine: Machine,
    child: Arc<Mutex<Child>>,
    watcher: Option<JoinHandle<()>>,
    started: Instant,
    /// Where this start's part of the serial log begins.
    log_start: u64,
    /// Held while the directory is in use.
    _lock: File,
}

impl Appliance {
    pub(super) fn start(machine: &Machine) -> Result<Appliance> {
        accelerator::check(machine.accelerator)?;
        ensure!(
            machine.kernel.is_file(),
            "there is no kernel at {}: run `cargo xtask build`",
            machine.kernel.display()
        );
        let lock = take_directory(machine)?;
        machine.disks.iter().try_for_each(|disk| disk.prepare())?;
        let log_start = fs::metadata(machine.directory.join(SERIAL_LOG)).map_or(0, |log| log.len());
        let started = Instant::now();
        let (child, watcher) = spawn(machine)?;
        if machine.cut_at_reset {
            resets::follow(
                machine.resets(),
                machine.ports.iter().map(|port| command::port_id(*port)).collect(),
            );
        }
        Ok(Appliance {
            machine: machine.clone(),
            child,
            watcher: Some(watcher),
            started,
            log_start,
            _lock: lock,
        })
    }

    /// Waits for the appliance's greeting on the control port, and keeps the conversation.
    pub fn wait_for_hello(&mut self, patience: Duration) -> Result<Client> {
        let deadline = Instant::now() + patience;
        let stream = self.connect(Port::Control(0), patience)?;
        self.wait_for_bytes(&stream, deadline)?;
        Client::greet(stream, deadline).map_err(|error| self.explain(error.into()))
    }

    /// Waits until the port says anything. An appliance that panics while it starts would do so again and
    /// again, so its first panic ends the wait.
    fn wait_for_bytes(&self, stream: &UnixStream, deadline: Instant) -> Result<()> {
        let interval = Timespec::try_from(LOG_INTERVAL)?;
        while poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&interval))? == 0
            && Instant::now() < deadline
        {
            if self.raw_log().unwrap_or_default().contains(BACKTRACE_MARK) {
                return Err(self.explain(anyhow!("the appliance panicked while it started")));
            }
        }
        Ok(())
    }

    /// A new conversation on the control port. The port serves one at a time: drop the old one first.
    pub fn control(&mut self) -> Result<Client> {
        self.wait_for_hello(Duration::from_secs(30))
    }

    /// Connects to a port's socket, waiting for QEMU to offer it.
    pub fn connect(&mut self, port: Port, patience: Duration) -> Result<UnixStream> {
        let socket = self.machine.socket(port);
        let deadline = Instant::now() + patience;
        loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() >= deadline => {
                    let error = anyhow!("{}: {error}", socket.display());
                    return Err(self.explain(error));
                }
                Err(_) => thread::sleep(POLL_INTERVAL),
            }
            if let Some(status) = self.ended()? {
                return Err(self.explain(anyhow!("QEMU ended with {status}")));
            }
        }
    }

    /// The socket of a port.
    pub fn socket(&self, port: Port) -> PathBuf {
        self.machine.socket(port)
    }

    /// The address of an export, for nbdinfo, nbdcopy, qemu-img, qemu-io and fio.
    pub fn nbd_uri(&self, port: u32, export: &str) -> String {
        let socket = self.machine.socket(Port::Nbd(port));
        format!(
            "nbd+unix:///{}?socket={}",
            percent_encoded(export),
            percent_encoded(&socket.to_string_lossy())
        )
    }

    /// QEMU's process id.
    pub fn process_id(&self) -> u32 {
        self.child().id()
    }

    /// When QEMU was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// How QEMU ended, if it has. 0 after a shutdown; an odd number after `panic=exit`.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child().try_wait()?)
    }

    /// Waits for QEMU to end by itself.
    pub fn wait_for_end(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(self.explain(anyhow!("QEMU did not end within {patience:?}")));
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Kills QEMU with SIGKILL and waits until it is gone: the appliance loses its power at once, while the
    /// host keeps what it had taken.
    pub fn kill(mut self) -> Result<()> {
        self.end()
    }

    /// Presses the power button, and kills the machine where the appliance has not gone down within `patience`. True when
    /// it went by itself. Needs no port: other clients may hold them all.
    pub fn shut_down(mut self, patience: Duration) -> Result<bool> {
        let pressed = Qmp::connect(&self.machine.qmp())
            .and_then(|mut qmp| qmp.call("system_powerdown", json!({})))
            .and_then(|_| self.wait_for_end(patience));
        self.end()?;
        Ok(pressed.is_ok())
    }

    /// What came out of COM1 since this start, with functions and lines below each backtrace.
    pub fn serial_log(&self) -> String {
        let log = self.raw_log().unwrap_or_default();
        match Symbols::open(&kernel::debug_path()) {
            Ok(symbols) => symbols.annotate(&log),
            Err(_) => log,
        }
    }

    fn raw_log(&self) -> Result<String> {
        let mut log = File::open(self.machine.directory.join(SERIAL_LOG))?;
        log.seek(SeekFrom::Start(self.log_start))?;
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Adds what the logs say to an error.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let emulator = fs::read_to_string(emulator_log(&self.machine)).unwrap_or_default();
        let mut text = String::new();
        for (name, log) in [("QEMU said", emulator), ("COM1 said", self.serial_log())] {
            let lines: Vec<_> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            if !shown.is_empty() {
                text += &format!("\n--- {name}:\n{}", shown.join("\n"));
            }
        }
        anyhow!("{error:#}{text}")
    }

    fn end(&mut self) -> Result<()> {
        let killed = self.child().kill();
        if let Some(watcher) = self.watcher.take() {
            // The watcher returns once QEMU has ended; it has no result of its own.
            let _ = watcher.join();
        }
        killed.context("QEMU cannot be killed")
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if self.machine.evidence && thread::panicking() {
            let name = thread::current().name().unwrap_or("unnamed").to_owned();
            match evidence::keep(&self.machine.directory, &name) {
                Ok(kept) => eprintln!("what the machine leaves is in {}", kept.display()),
                Err(error) => eprintln!("nothing is kept of the machine: {error}"),
            }
        }
        // A QEMU that has already ended is what is wanted here.
        let _ = self.end();
    }
}

/// How long somebody else's lock may be one that is just going away.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// Makes the directory, claims it, and removes the sockets of an earlier run.
fn take_directory(machine: &Machine) -> Result<File> {
    let directory = &machine.directory;
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for port in &machine.ports {
        let socket = machine.socket(*port);
        ensure!(
            socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX,
            "{} is too long for a Unix socket: choose a shorter directory, such as /tmp/datum",
            socket.display()
        );
    }
    let lock = File::create(directory.join("lock"))?;
    let tried = Instant::now();
    // A process that is being started on another thread has a copy of every lock until it is another program.
    while lock.try_lock().is_err() {
        if tried.elapsed() < LOCK_PATIENCE {
            thread::sleep(LOCK_INTERVAL);
            continue;
        }
        bail!("another appliance runs in {}: end it, or choose another directory", directory.display());
    }
    for port in &machine.ports {
        // A socket that is not there is what is wanted here; any other trouble QEMU will name.
        let _ = fs::remove_file(machine.socket(*port));
    }
    for (_, socket) in command::monitors(machine) {
        let _ = fs::remove_file(socket);
    }
    Ok(lock)
}

/// Starts QEMU on a thread that stays with it until its end.
fn spawn(machine: &Machine) -> Result<(Arc<Mutex<Child>>, JoinHandle<()>)> {
    let log = emulator_log(machine);
    let errors = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = tied_to_this_thread(command::command(machine));
    command.stdin(Stdio::null()).stdout(errors.try_clone()?).stderr(errors);
    let limit = machine.limit;
    let (sender, receiver) = mpsc::channel();
    let watcher = thread::spawn(move || match command.spawn() {
        Ok(child) => {
            let child = Arc::new(Mutex::new(child));
            if sender.send(Ok(Arc::clone(&child))).is_ok() {
                watch(&child, limit);
            }
        }
        Err(error) => drop(sender.send(Err(error))),
    });
    let child = receiver.recv()?.context("qemu-system-x86_64 cannot be started")?;
    Ok((child, watcher))
}

/// Has the kernel kill the program when the thread that starts it ends, and gives it a session of its own: a signal to our
/// process group, from a terminal or from `timeout`, is for us, and we then end the appliance in order. Without util-linux
/// only an orderly end of ours takes QEMU along.
fn tied_to_this_thread(mut command: Command) -> Command {
    let (Some(setpriv), Some(setsid)) = (shell::find_program("setpriv"), shell::find_program("setsid"))
    else {
        command.process_group(0);
        return command;
    };
    let mut tied = Command::new(setpriv);
    tied.args(["--pdeathsig", "KILL", "--"]).arg(setsid).arg(command.get_program()).args(command.get_args());
    tied
}

fn watch(child: &Mutex<Child>, limit: Option<Duration>) {
    let started = Instant::now();
    loop {
        let mut child = child.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        if limit.is_some_and(|limit| started.elapsed() > limit) {
            // Fails only where QEMU has just ended.
            let _ = child.kill();
        }
        drop(child);
        thread::sleep(WATCH_INTERVAL);
    }
}

fn emulator_log(machine: &Machine) -> PathBuf {
    Path::new(&machine.directory).join(EMULATOR_LOG)
}

fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/@:+=".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_with_marks_survive_in_an_address() {
        assert_eq!(percent_encoded("v@c+since=r"), "v@c+since=r");
        assert_eq!(percent_encoded("a b?&%"), "a%20b%3F%26%25");
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::new("/bin/true", directory.path().join("d".repeat(100)));
        let error = machine.start().unwrap_err().to_string();
        assert!(error.contains("too long for a Unix socket"), "{error}");
    }

    #[test]
    fn a_directory_serves_one_appliance() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::new("/bin/true", directory.path());
        let _first = take_directory(&machine).unwrap();
        let error = take_directory(&machine).unwrap_err().to_string();
        assert!(error.contains("another appliance runs"), "{error}");
    }

    /// QEMU refuses a file that is no kernel: the error must carry what it said, and must come at once.
    #[test]
    fn a_machine_that_ends_at_once_says_why() {
        if shell::find_program(command::PROGRAM).is_none() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("kernel");
        fs::write(&kernel, "no kernel at all").unwrap();
        let mut appliance = Machine::new(&kernel, directory.path()).start().unwrap();
        let error = appliance.wait_for_hello(Duration::from_secs(30)).unwrap_err().to_string();
        assert!(error.contains("kernel"), "{error}");
    }
}
