//! QEMU's storage daemon: block jobs between block nodes, one of which is a volume of the appliance.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use xtask::qmp::Qmp;

use super::Tools;

/// A running daemon, which ends with its owner.
pub struct StorageDaemon {
    child: Child,
    monitor: Qmp,
}

impl StorageDaemon {
    /// Starts one; the socket of its monitor goes to `directory`.
    pub fn start(tools: Tools, directory: &Path) -> StorageDaemon {
        let socket = directory.join("qmp.sock");
        // What an earlier daemon has left is not one to connect to.
        let _ = fs::remove_file(&socket);
        let mut command = Command::new(tools.program("qemu-storage-daemon"));
        let listen = format!("socket,id=monitor,path={},server=on,wait=off", socket.display());
        command.args(["--chardev", &listen, "--monitor", "chardev=monitor"]);
        let log = directory.join("daemon.log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        let child = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !socket.exists() {
            let said = || fs::read_to_string(&log).unwrap();
            assert!(Instant::now() < deadline, "qemu-storage-daemon offers no monitor: {}", said());
            thread::sleep(Duration::from_millis(5));
        }
        StorageDaemon { child, monitor: Qmp::connect(&socket).unwrap() }
    }

    /// Adds a raw file as a block node.
    pub fn add_file(&mut self, node: &str, file: &Path) {
        self.add(json!({ "driver": "file", "node-name": node, "filename": file.display().to_string() }));
    }

    /// Adds an export as a block node.
    pub fn add_export(&mut self, node: &str, socket: &Path, export: &str) {
        let server = json!({ "type": "unix", "path": socket.display().to_string() });
        self.add(json!({ "driver": "nbd", "node-name": node, "server": server, "export": export }));
    }

    fn add(&mut self, node: Value) {
        self.monitor.call("blockdev-add", node).unwrap();
    }

    /// Serves a node to other clients on this socket, under its own name.
    pub fn serve(&mut self, node: &str, socket: &Path) {
        let address = json!({ "type": "unix", "data": { "path": socket.display().to_string() } });
        self.monitor.call("nbd-server-start", json!({ "addr": address })).unwrap();
        let export =
            json!({ "type": "nbd", "id": "served", "node-name": node, "name": node, "writable": true });
        self.monitor.call("block-export-add", export).unwrap();
    }

    /// Mirrors a node to another one, up to the moment when both are the same and writes go to both.
    pub fn begin_mirror(&mut self, from: &str, to: &str) {
        let job = json!({ "job-id": "mirror", "device": from, "target": to, "sync": "full" });
        self.monitor.call("blockdev-mirror", job).unwrap();
        self.monitor.wait_for("BLOCK_JOB_READY").unwrap();
    }

    /// Ends the mirroring: the target takes the source's place.
    pub fn end_mirror(&mut self) {
        self.monitor.call("block-job-complete", json!({ "device": "mirror" })).unwrap();
        self.wait_for_job();
    }

    /// Copies a node to another one.
    pub fn back_up(&mut self, from: &str, to: &str) {
        let job = json!({ "job-id": "backup", "device": from, "target": to, "sync": "full" });
        self.monitor.call("blockdev-backup", job).unwrap();
        self.wait_for_job();
    }

    fn wait_for_job(&mut self) {
        let event = self.monitor.wait_for("BLOCK_JOB_COMPLETED").unwrap();
        let data = &event["data"];
        assert!(data.get("error").is_none() && data["offset"] == data["len"], "{event}");
    }

    /// Ends in order: what it has open is flushed and left.
    pub fn quit(mut self) {
        self.monitor.call("quit", json!({})).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "qemu-storage-daemon ended with {status}");
    }
}

impl Drop for StorageDaemon {
    fn drop(&mut self) {
        // One that has ended already is what is wanted here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
