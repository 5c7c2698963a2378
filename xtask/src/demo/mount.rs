//! An ext4 file system in a volume, mounted without a kernel module of its own and without root: nbdfuse shows
//! the volume as a file, fuse2fs mounts that file. Both run in the foreground as our children, so the terminal's
//! Ctrl-C reaches them, and both undo their mounts when they end.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::shell;

/// How long a mount may take to appear, or a program to end after its mount has gone.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A FUSE program and the mount it serves. Dropping it takes the mount away.
struct Served {
    child: Child,
    point: PathBuf,
    name: &'static str,
}

impl Served {
    /// Starts a program and waits until `is_there` says that its mount has appeared.
    fn start(
        mut command: Command,
        name: &'static str,
        point: &Path,
        is_there: impl Fn() -> bool,
    ) -> Result<Served> {
        // What they say once the machine is gone would fill the terminal, so it goes to a log beside the mount.
        let log = point.with_extension("log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?).spawn();
        let child = child.with_context(|| format!("cannot start {name}"))?;
        let mut served = Served { child, point: point.to_owned(), name };
        let deadline = Instant::now() + PATIENCE;
        while !is_there() {
            if let Some(status) = served.child.try_wait()? {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("{name} ended with {status} instead of mounting {}:\n{said}", point.display());
            }
            ensure!(Instant::now() < deadline, "{name} has not mounted {}", point.display());
            thread::sleep(POLL_INTERVAL);
        }
        Ok(served)
    }

    /// Unmounts, and waits for the program: it writes back what it holds before it ends.
    fn stop(&mut self) -> Result<()> {
        let unmounted =
            shell::program("fusermount3").arg("-u").arg(&self.point).stderr(Stdio::null()).status();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "{} ended with {status}", self.name);
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{} did not end; unmounting said {unmounted:?}", self.name);
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Also where the program has ended: one that lost its volume may leave its mount behind. A lazy unmount always
        // succeeds on a mount; the program has nobody left to serve.
        let _ =
            shell::program("fusermount3").args(["-u", "-z"]).arg(&self.point).stderr(Stdio::null()).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A volume as a file on the host.
pub(super) struct VolumeFile {
    served: Served,
}

impl VolumeFile {
    /// Shows the export at `uri` as the file `name` in `directory`.
    pub(super) fn open(directory: &Path, name: &str, uri: &str) -> Result<VolumeFile> {
        ensure!(Path::new("/dev/fuse").exists(), "there is no /dev/fuse: run `modprobe fuse` as root");
        let path = directory.join(name);
        File::create(&path)?;
        let mut nbdfuse = shell::program("nbdfuse");
        nbdfuse.arg(&path).arg(uri);
        let served = Served::start(nbdfuse, "nbdfuse", &path, || {
            fs::metadata(&path).is_ok_and(|file| file.len() > 0)
        })?;
        Ok(VolumeFile { served })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.served.point
    }

    /// Lets e2fsck repair the file system, as after any power loss.
    pub(super) fn repair(&self) -> Result<()> {
        let status = e2fsck().args(["-f", "-y"]).arg(self.path()).output()?.status;
        // 1 says that errors were corrected.
        ensure!(matches!(status.code(), Some(0 | 1)), "e2fsck ended with {status}");
        Ok(())
    }

    /// Takes the file away; everything written has reached the volume then.
    pub(super) fn close(mut self) -> Result<()> {
        self.served.stop()
    }
}

/// A mounted file system.
pub(super) struct FileSystem {
    // Dropped in this order.
    served: Served,
    volume: VolumeFile,
}

impl FileSystem {
    /// Mounts the file system that `volume` holds at `point`.
    pub(super) fn mount(volume: VolumeFile, point: &Path) -> Result<FileSystem> {
        fs::create_dir_all(point)?;
        let above = point.parent().context("a mount needs a directory")?;
        let outside = fs::metadata(above)?.dev();
        let mut fuse2fs = shell::program("fuse2fs");
        fuse2fs.args(["-f", "-o", "fakeroot,rw"]).arg(volume.path()).arg(point);
        let served = Served::start(fuse2fs, "fuse2fs", point, || {
            fs::metadata(point).is_ok_and(|root| root.dev() != outside)
        })?;
        Ok(FileSystem { served, volume })
    }

    /// Where it is mounted.
    pub(super) fn root(&self) -> &Path {
        &self.served.point
    }

    /// Unmounts; everything written has reached the volume then.
    pub(super) fn unmount(mut self) -> Result<()> {
        self.served.stop()?;
        self.volume.close()
    }
}

/// e2fsck, wherever Debian keeps it.
pub(super) fn e2fsck() -> Command {
    shell::program("e2fsck")
}
