//! What is kept of a machine whose test fails: its logs, and what QEMU's monitor says of it while it still runs.
//!
//! A test's directory goes with the test, so a failure that does not come again would leave nothing to look at.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::command::SERIAL_LOG;
use super::{EMULATOR_LOG, MONITOR_SOCKET};
use crate::workspace;

/// How long the monitor may take for one answer: a QEMU that hangs is a finding too, and not to be waited for.
const PATIENCE: Duration = Duration::from_secs(3);
const PROMPT: &str = "(qemu) ";

/// What is asked: whether the machine runs, where its processor stands (twice, so that a loop shows), what lies on its
/// stack, whether clients are connected, and what the disks have under way.
const QUESTIONS: [&str; 8] = [
    "info status",
    "info registers",
    "x /64gx $rsp",
    "info registers",
    "info chardev",
    "info blockstats",
    "info virtio",
    "info qtree",
];

/// Keeps what there is to keep of the machine in `directory`; returns where. `name` tells one test from another.
pub(super) fn keep(directory: &Path, name: &str) -> io::Result<PathBuf> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' };
    let name: String = name.chars().map(plain).collect();
    let kept = workspace::artefacts().join("failed").join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&kept)?;
    fs::write(kept.join("monitor.txt"), ask(&directory.join(MONITOR_SOCKET)))?;
    for log in [SERIAL_LOG, EMULATOR_LOG] {
        // A machine that never started has none.
        if directory.join(log).exists() {
            fs::copy(directory.join(log), kept.join(log))?;
        }
    }
    Ok(kept)
}

/// All answers of the monitor, up to where it says no more.
fn ask(socket: &Path) -> String {
    let mut said = String::new();
    if let Err(error) = converse(socket, &mut said) {
        said += &format!("\nthe monitor says no more: {error}\n");
    }
    said
}

fn converse(socket: &Path, said: &mut String) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    until_prompt(&mut stream, said)?;
    for question in QUESTIONS {
        writeln!(stream, "{question}")?;
        until_prompt(&mut stream, said)?;
    }
    Ok(())
}

fn until_prompt(stream: &mut UnixStream, said: &mut String) -> io::Result<()> {
    let (begun, mut buffer) = (Instant::now(), [0; 4096]);
    let from = said.len();
    while !said[from..].ends_with(PROMPT) {
        let count = stream.read(&mut buffer)?;
        if count == 0 || begun.elapsed() > PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        said.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_never_ran_leaves_that_it_said_nothing() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(SERIAL_LOG), "datum: last words").unwrap();
        let kept = keep(directory.path(), "xtask::a test/of mine").unwrap();
        assert!(kept.file_name().unwrap().to_string_lossy().starts_with("xtask--a-test-of-mine-"));
        assert_eq!(fs::read_to_string(kept.join(SERIAL_LOG)).unwrap(), "datum: last words");
        assert!(fs::read_to_string(kept.join("monitor.txt")).unwrap().contains("no more"));
        fs::remove_dir_all(kept).unwrap();
    }
}
