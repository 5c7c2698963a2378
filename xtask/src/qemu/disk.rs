//! Disks of a machine: a sparse raw file as a rule, anything that QEMU's block layer offers where a test
//! needs faults.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A virtio-blk disk.
#[derive(Clone, Debug)]
pub struct Disk {
    file: Option<(PathBuf, u64)>,
    serial: Option<String>,
    node: Value,
    read_only: bool,
}

impl Disk {
    /// A raw file, made sparse and of `size` bytes where it is missing; one that exists stays as it is.
    pub fn file(path: impl Into<PathBuf>, size: u64) -> Disk {
        let path = path.into();
        let file = json!({ "driver": "file", "filename": path.display().to_string(), "discard": "unmap" });
        let node = json!({ "driver": "raw", "discard": "unmap", "file": file });
        Disk { file: Some((path, size)), serial: None, node, read_only: false }
    }

    /// Any block node, in the JSON of QEMU's `-blockdev`, without a `node-name`.
    pub fn node(node: Value) -> Disk {
        Disk { file: None, serial: None, node, read_only: false }
    }

    /// Puts a node in front of this disk's: `over` gets the present one, and returns for instance
    /// `{"driver": "blkdebug", "image": …}`.
    pub fn wrap(mut self, over: impl FnOnce(Value) -> Value) -> Disk {
        self.node = over(self.node);
        self
    }

    /// The virtio serial by which the appliance names the disk: at most 20 bytes. Without one it is `vd0`,
    /// `vd1` and so on.
    pub fn serial(mut self, serial: impl Into<String>) -> Disk {
        self.serial = Some(serial.into());
        self
    }

    /// The appliance may not write to it.
    pub fn read_only(mut self) -> Disk {
        self.read_only = true;
        self
    }

    /// The file, for a disk that is one.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }

    /// Makes the file where it is missing, but no directory for it.
    pub(super) fn prepare(&self) -> Result<()> {
        let Some((path, size)) = &self.file else { return Ok(()) };
        if path.exists() {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        file.and_then(|file| file.set_len(*size))
            .with_context(|| format!("a disk of {size} bytes cannot be made at {}", path.display()))
    }

    /// QEMU's arguments for disk number `index`. Errors of the host's file reach the appliance: by default
    /// QEMU would stop the machine at ENOSPC.
    pub(super) fn arguments(&self, index: usize) -> Vec<String> {
        let mut node = self.node.clone();
        node["node-name"] = json!(format!("disk{index}"));
        if self.read_only {
            node["read-only"] = json!(true);
        }
        let mut device = json!({
            "driver": "virtio-blk-pci",
            "drive": format!("disk{index}"),
            "iothread": format!("disk{index}-thread"),
            "discard": true,
            "write-zeroes": true,
            "rerror": "report",
            "werror": "report",
        });
        if let Some(serial) = &self.serial {
            device["serial"] = json!(serial);
        }
        let thread = format!("iothread,id=disk{index}-thread");
        ["-object", &thread, "-blockdev", &node.to_string(), "-device", &device.to_string()]
            .map(String::from)
            .to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_missing_file_is_made_sparse_and_an_existing_one_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let nowhere = Disk::file(directory.path().join("new/disk.img"), 1 << 20).prepare().unwrap_err();
        assert!(nowhere.to_string().contains("new/disk.img"), "{nowhere}");
        assert!(!directory.path().join("new").exists(), "a mistyped path leaves no directories behind");
        let path = directory.path().join("disk.img");
        Disk::file(&path, 1 << 40).prepare().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 40);
        Disk::file(&path, 1 << 20).prepare().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 40);
    }

    #[test]
    fn a_wrapped_disk_keeps_its_file_below() {
        let disk = Disk::file("/d,1.img", 0)
            .wrap(|image| json!({ "driver": "blkdebug", "image": image }))
            .serial("a")
            .read_only();
        let arguments = disk.arguments(3);
        let node: Value = serde_json::from_str(&arguments[3]).unwrap();
        assert_eq!(node["node-name"], "disk3");
        assert_eq!(node["read-only"], true);
        assert_eq!(node["image"]["file"]["filename"], "/d,1.img");
        assert!(arguments[5].contains(r#""serial":"a""#), "{}", arguments[5]);
    }
}
