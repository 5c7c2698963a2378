//! Sockets that outlive the machine they led to: after a reset QEMU keeps every client connected to a guest that knows
//! nothing of it. The guest cannot close a client's socket, QEMU can; clients then connect anew, and those that have a
//! way to reconnect (QEMU's `reconnect-delay`) go on where they were.
//!
//! A socket is cut once the guest has opened its port again, not before: the appliance greets nobody on a port that was
//! connected before it started, and a client that is quick to reconnect would wait for ever.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use crate::qmp::Qmp;

/// How often it is looked whether the guest has opened its ports.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long QEMU may take to make its sockets.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long the guest may take to open them: a firmware, a kernel, the driver.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);

/// Cuts the sockets of the character devices `ports` after each reset, on a thread that ends with QEMU.
pub(super) fn follow(socket: PathBuf, ports: Vec<String>) {
    thread::spawn(move || {
        // Any error means that QEMU has gone, and nothing is left to do here.
        let Some(mut qmp) = connect(&socket) else { return };
        while qmp.watch_for("RESET").is_ok() && cut(&mut qmp, &ports).is_ok() {}
    });
}

/// Waits for QEMU to offer the socket.
fn connect(socket: &Path) -> Option<Qmp> {
    let deadline = Instant::now() + START_PATIENCE;
    while !socket.exists() && Instant::now() < deadline {
        thread::sleep(LOOK_INTERVAL);
    }
    Qmp::connect(socket).ok()
}

/// Cuts those of the ports that are connected now.
fn cut(qmp: &mut Qmp, ports: &[String]) -> Result<()> {
    let deadline = Instant::now() + OPEN_PATIENCE;
    let mut waiting: Vec<&String> = ports.iter().collect();
    loop {
        let devices = qmp.call("query-chardev", json!({}))?;
        // Whose client has left meanwhile needs no cut, and the next client none.
        waiting.retain(|port| is_connected(&devices, port));
        for port in waiting.extract_if(.., |port| is_open(&devices, port)) {
            qmp.call("yank", json!({ "instances": [{ "type": "chardev", "id": port }] }))?;
        }
        if waiting.is_empty() || Instant::now() >= deadline {
            return Ok(());
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

/// Whether a client is connected to the port.
fn is_connected(devices: &Value, port: &str) -> bool {
    let name = device(devices, port).and_then(|device| device["filename"].as_str());
    name.is_some_and(|name| !name.starts_with("disconnected:"))
}

/// Whether the guest has the port open.
fn is_open(devices: &Value, port: &str) -> bool {
    device(devices, port).is_some_and(|device| device["frontend-open"] == true)
}

fn device<'a>(devices: &'a Value, port: &str) -> Option<&'a Value> {
    devices.as_array().into_iter().flatten().find(|device| device["label"] == port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connected_and_open_are_told_apart() {
        let devices = json!([
            { "label": "nbd0", "filename": "unix:/s,server=on", "frontend-open": false },
            { "label": "nbd1", "filename": "disconnected:unix:/s,server=on", "frontend-open": true },
        ]);
        assert!(is_connected(&devices, "nbd0") && !is_open(&devices, "nbd0"));
        assert!(!is_connected(&devices, "nbd1") && is_open(&devices, "nbd1"));
        assert!(!is_connected(&devices, "nbd2") && !is_open(&devices, "nbd2"));
    }
}
