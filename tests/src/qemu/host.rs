//! A file system of the host's that is as full as a test makes it: ext4 in a file, mounted by fuse2fs, which takes no
//! root.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
const BALLAST: &str = "ballast";

/// The file system. It is unmounted when it goes; what uses its files must go before.
pub struct HostFileSystem {
    child: Child,
    point: PathBuf,
}

impl HostFileSystem {
    /// A new one of this many bytes in `directory`. None, with the reason on stderr, where this user may mount nothing.
    pub fn mount(directory: &Path, bytes: u64) -> Option<HostFileSystem> {
        if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/fuse") {
            eprintln!("skipped: /dev/fuse cannot be opened ({error}), so no file system can be filled");
            return None;
        }
        let (image, point) = (directory.join("host.ext4"), directory.join("host"));
        File::create(&image).unwrap().set_len(bytes).unwrap();
        let options = ["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-O", "^has_journal"];
        let program = xtask::shell::find_program("mke2fs").expect("mke2fs is set up with the clients");
        assert!(Command::new(program).args(options).arg(&image).status().unwrap().success());
        fs::create_dir(&point).unwrap();
        let outside = fs::metadata(directory).unwrap().dev();
        let mut command = xtask::shell::program("fuse2fs");
        command.args(["-f", "-o", "fakeroot,rw"]).arg(&image).arg(&point);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let system = HostFileSystem { child, point };
        let deadline = Instant::now() + PATIENCE;
        while fs::metadata(&system.point).is_ok_and(|root| root.dev() == outside) {
            assert!(Instant::now() < deadline, "fuse2fs mounts nothing");
            thread::sleep(Duration::from_millis(10));
        }
        Some(system)
    }

    /// A place in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.point.join(name)
    }

    /// Takes all of its space but this many bytes.
    pub fn fill(&self, left: u64) {
        let mut ballast = File::create(self.path(BALLAST)).unwrap();
        let block = [0xb5; 4096];
        let full = loop {
            match ballast.write_all(&block) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        let taken = ballast.metadata().unwrap().len();
        ballast.set_len(taken.checked_sub(left).expect("there was less space than is to be left")).unwrap();
    }

    /// Gives the space back.
    pub fn relieve(&self) {
        fs::remove_file(self.path(BALLAST)).unwrap();
    }
}

impl Drop for HostFileSystem {
    fn drop(&mut self) {
        // A mount that has already gone is what is wanted here.
        let _ = xtask::shell::program("fusermount3").arg("-u").arg(&self.point).status();
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
