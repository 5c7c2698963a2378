//! Disks that fail under the real driver: QEMU's `blkdebug` in front of a disk, or an nbdkit server behind it.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use xtask::qemu::Disk;

/// A request that fails.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// `read`, `write` or `flush`.
    pub request: &'static str,
    /// From this many writes after the start on.
    pub writes_before: u64,
    /// Only requests that touch this sector.
    pub sector: Option<u64>,
    /// Only the first of them.
    pub once: bool,
    /// What the host says.
    pub errno: i32,
}

impl Failure {
    /// Every request of a kind, for an I/O error.
    pub fn of(request: &'static str) -> Failure {
        Failure { request, writes_before: 60, sector: None, once: false, errno: 5 }
    }

    /// What is wanted of `blkdebug`, which counts writes in its state.
    fn rule(&self) -> Value {
        let mut rule = json!({
            "event": "pwritev", "state": self.writes_before, "iotype": self.request, "errno": self.errno,
            "once": self.once,
        });
        if let Some(sector) = self.sector {
            rule["sector"] = json!(sector);
        }
        rule
    }
}

/// The disk, with requests that fail. All failures begin at the same write.
pub fn failing(disk: Disk, failures: &[Failure]) -> Disk {
    let writes = failures[0].writes_before;
    assert!(failures.iter().all(|failure| failure.writes_before == writes));
    let count: Vec<Value> = (1..writes)
        .map(|state| json!({ "event": "pwritev", "state": state, "new_state": state + 1 }))
        .collect();
    let rules: Vec<Value> = failures.iter().map(Failure::rule).collect();
    disk.wrap(
        |image| json!({ "driver": "blkdebug", "image": image, "set-state": count, "inject-error": rules }),
    )
}

/// An NBD server on the host that has a disk's file. It ends with its test.
pub struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// Serves `file` through nbdkit filters, each with its parameters.
    pub fn start(file: &Path, socket: PathBuf, filters: &[&str], parameters: &[String]) -> Server {
        let mut command = xtask::shell::program("nbdkit");
        command.args(["--exit-with-parent", "--foreground", "--unix"]).arg(&socket);
        command.args(filters.iter().map(|filter| format!("--filter={filter}")));
        command.arg("file").arg(file).args(parameters);
        let server = Server { child: command.stderr(Stdio::null()).spawn().unwrap(), socket };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !server.socket.exists() {
            assert!(Instant::now() < deadline, "nbdkit offers no socket");
            thread::sleep(Duration::from_millis(5));
        }
        server
    }

    /// The disk that it serves.
    pub fn disk(&self, serial: &str) -> Disk {
        let server = json!({ "type": "unix", "path": self.socket.display().to_string() });
        Disk::node(json!({ "driver": "nbd", "server": server, "export": "" })).serial(serial)
    }

    /// Ends at once, whatever is under way.
    pub fn kill(&mut self) {
        // A server that has already ended is what is wanted here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
