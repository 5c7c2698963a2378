//! What is compared: something that serves a volume by NBD on a Unix socket.
//!
//! What always holds: a peer that is dropped takes its processes with it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long a peer may take to offer its socket.
const START_PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Where a peer runs. Ratios are taken within a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// In a virtual machine, behind a virtio-serial port.
    Guest,
    /// As a process of the host.
    Host,
}

/// Something that serves a volume.
pub(super) trait Peer {
    /// Where its NBD clients connect.
    fn socket(&self) -> PathBuf;

    /// The name of its export.
    fn export(&self) -> &str {
        ""
    }

    /// The process that does the work.
    fn process_id(&self) -> u32;

    /// Makes an image of the volume at this instant, to be kept while writing goes on. False where it cannot.
    fn make_point(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// Gives that image up, and waits until its space is back.
    fn drop_point(&mut self) -> Result<()> {
        Ok(())
    }

    /// Gives that image up, and waits for no more than a client would.
    fn begin_release(&mut self) -> Result<()> {
        self.drop_point()
    }

    /// Waits until its space is back.
    fn end_release(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A process that ends with its owner.
pub(in crate::bench) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program whose words go to `<name>.log` in the directory.
    pub(super) fn start(mut command: Command, directory: &Path, name: &str) -> Result<Process> {
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| crate::shell::describe(&command))?;
        Ok(Process { child, log })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub(in crate::bench) fn wait(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while self.child.try_wait()?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "a peer does not end: {}",
                std::fs::read_to_string(&self.log)?
            );
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Waits for a file, most likely a socket, that the process makes.
    pub(super) fn wait_for(&mut self, path: &Path) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        while !path.exists() {
            if let Some(status) = self.child.try_wait()? {
                bail!("a peer ended with {status}: {}", std::fs::read_to_string(&self.log)?);
            }
            if Instant::now() >= deadline {
                bail!("{} did not come: {}", path.display(), std::fs::read_to_string(&self.log)?);
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already is what is wanted here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
