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

fn cut(qmp: &mut Qmp, ports: &[String]) -> Result<()> {
    let deadline = Instant::now() + OPEN_PATIENCE;
    let mut waiting: Vec<&String> = ports.iter().collect();
    while !waiting.is_empty() && Instant::now() < deadline {
        let devices = qmp.call("query-chardev", json!({}))?;
        for port in waiting.extract_if(.., |port| is_open(&devices, port)) {
            qmp.call("yank", json!({ "instances": [{ "type": "chardev", "id": port }] }))?;
        }
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

/// Whether the guest has the port open.
fn is_open(devices: &Value, port: &str) -> bool {
    let mut devices = devices.as_array().into_iter().flatten();
    devices.any(|device| device["label"] == port && device["frontend-open"] == true)
}
