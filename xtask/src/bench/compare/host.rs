//! Peers that are processes of the host: nbdkit and qemu-nbd on a raw file, which keep no history at all, and
//! qcow2 images with a persistent bitmap in QEMU's storage daemon, with either kind of snapshot.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use super::Compare;
use super::peer::{Peer, Process};
use crate::qmp::Qmp;
use crate::shell;

const SOCKET: &str = "nbd.sock";
const MONITOR: &str = "qmp.sock";
const IMAGE: &str = "disk.qcow2";
const EXPORT: &str = "db";

/// The image's block node, and that of the overlay.
const NODE: &str = "image";
const OVERLAY: &str = "overlay";

/// What a bitmap has a bit for: QEMU's default, a cluster.
const BITMAP: [&str; 5] = ["bitmap", "--add", "-g", "64K", IMAGE];

/// A server that knows nothing but its file.
pub(super) struct Plain {
    process: Process,
    socket: PathBuf,
}

impl Plain {
    /// nbdkit's file plugin: the bare limit of a server that is given a file.
    pub(super) fn nbdkit(run: &Compare, directory: &Path) -> Result<Box<dyn Peer>> {
        let mut command = shell::program("nbdkit");
        command.args(["-f", "-U", SOCKET, "file", "disk.img"]);
        Plain::start(run, command, directory)
    }

    /// qemu-nbd on a raw file.
    pub(super) fn qemu_nbd(run: &Compare, directory: &Path) -> Result<Box<dyn Peer>> {
        let mut command = shell::program("qemu-nbd");
        let socket = directory.join(SOCKET);
        command.arg("-k").arg(socket).args(["-t", "-f", "raw", "--cache=writeback", "disk.img"]);
        Plain::start(run, command, directory)
    }

    fn start(run: &Compare, mut command: Command, directory: &Path) -> Result<Box<dyn Peer>> {
        File::create(directory.join("disk.img"))?.set_len(run.disk_bytes())?;
        command.current_dir(directory);
        let socket = directory.join(SOCKET);
        let mut process = Process::start(command, directory, "server")?;
        process.wait_for(&socket)?;
        Ok(Box::new(Plain { process, socket }))
    }
}

impl Peer for Plain {
    fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    fn process_id(&self) -> u32 {
        self.process.id()
    }
}

/// How a qcow2 image keeps what it was.
#[derive(Clone, Copy)]
pub(super) enum Snapshot {
    /// In the same file.
    Internal,
    /// The file stays as it is, and a new one over it, with a bitmap of its own, takes what is written.
    Overlay,
}

/// A qcow2 image with a persistent bitmap, in qemu-storage-daemon.
pub(super) struct Qcow2 {
    process: Process,
    directory: PathBuf,
    monitor: Qmp,
    snapshot: Snapshot,
}

impl Qcow2 {
    pub(super) fn start(directory: &Path, size: u64, snapshot: Snapshot) -> Result<Box<dyn Peer>> {
        let mut create = shell::program("qemu-img");
        create.args(["create", "-q", "-f", "qcow2", IMAGE, &size.to_string()]).current_dir(directory);
        shell::run_quietly(&mut create)?;
        let mut bitmap = shell::program("qemu-img");
        bitmap.args(BITMAP).arg("changes").current_dir(directory);
        shell::run_quietly(&mut bitmap)?;
        let mut command = shell::program("qemu-storage-daemon");
        command.current_dir(directory);
        let (monitor, socket) = (directory.join(MONITOR), directory.join(SOCKET));
        let file = json!({ "driver": "file", "filename": IMAGE, "discard": "unmap" });
        let node = json!({ "driver": "qcow2", "node-name": NODE, "discard": "unmap", "file": file });
        command.args(["--chardev", &format!("socket,id=monitor,path={MONITOR},server=on,wait=off")]);
        command.args(["--monitor", "chardev=monitor", "--blockdev", &node.to_string()]);
        command.args(["--nbd-server", &format!("addr.type=unix,addr.path={SOCKET}"), "--export"]);
        command.arg(format!("type=nbd,id=export,node-name={NODE},name={EXPORT},writable=on"));
        let mut process = Process::start(command, directory, "server")?;
        process.wait_for(&socket)?;
        let monitor = Qmp::connect(&monitor)?;
        Ok(Box::new(Qcow2 { process, directory: directory.into(), monitor, snapshot }))
    }
}

impl Peer for Qcow2 {
    fn socket(&self) -> PathBuf {
        self.directory.join(SOCKET)
    }

    fn export(&self) -> &str {
        EXPORT
    }

    fn process_id(&self) -> u32 {
        self.process.id()
    }

    fn make_point(&mut self) -> Result<bool> {
        match self.snapshot {
            Snapshot::Internal => {
                let which = json!({ "device": NODE, "name": "point" });
                self.monitor.call("blockdev-snapshot-internal-sync", which)?;
            }
            Snapshot::Overlay => {
                let file = self.directory.join("overlay.qcow2");
                let overlay = json!({
                    "node-name": NODE,
                    "snapshot-node-name": OVERLAY,
                    "snapshot-file": file.display().to_string(),
                    "format": "qcow2",
                });
                self.monitor.call("blockdev-snapshot-sync", overlay)?;
                let bitmap = json!({ "node": OVERLAY, "name": "changes", "persistent": true });
                self.monitor.call("block-dirty-bitmap-add", bitmap)?;
            }
        }
        Ok(true)
    }

    fn drop_point(&mut self) -> Result<()> {
        match self.snapshot {
            Snapshot::Internal => {
                let which = json!({ "device": NODE, "name": "point" });
                self.monitor.call("blockdev-snapshot-delete-internal-sync", which)?;
                Ok(())
            }
            Snapshot::Overlay => {
                self.monitor.call("block-commit", json!({ "device": OVERLAY, "job-id": "commit" }))?;
                self.monitor.wait_for("BLOCK_JOB_READY")?;
                self.monitor.call("job-complete", json!({ "id": "commit" }))?;
                self.monitor.wait_for("BLOCK_JOB_COMPLETED")?;
                // The block job takes the overlay's node with it.
                Ok(fs::remove_file(self.directory.join("overlay.qcow2"))?)
            }
        }
    }
}
