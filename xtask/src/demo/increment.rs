//! The incremental backup with unmodified clients: nbdinfo asks `qemu:dirty-bitmap` what changed, and qemu-io
//! reads exactly that through a qcow2 file in copy-on-read mode, which keeps what it has read. Laid over the
//! full backup, that file is the newer image.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::counter::Counter;
use crate::shell;
use crate::workspace::items;

/// A run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The most that one read asks for.
const READ_BYTES_MAX: u64 = 16 << 20;

/// What `qemu:dirty-bitmap:<mark>` of an export flags as changed.
pub(super) fn dirty_ranges(counter: &Counter, export: &str, mark: &str) -> Result<Vec<Range>> {
    let mut nbdinfo = shell::program("nbdinfo");
    nbdinfo.args(["--json", &format!("--map=qemu:dirty-bitmap:{mark}")]).arg(counter.uri(export));
    let map: Value = serde_json::from_str(&shell::output(&mut nbdinfo)?)?;
    let dirty = items(&map).filter(|extent| extent["type"] == 1);
    dirty
        .map(|extent| {
            let number =
                |key: &str| extent[key].as_u64().context("nbdinfo printed an extent without numbers");
            Ok(Range { offset: number("offset")?, length: number("length")? })
        })
        .collect()
}

/// Copies these ranges of an export into a new qcow2 file.
pub(super) fn copy(counter: &Counter, export: &str, size: u64, ranges: &[Range], to: &Path) -> Result<()> {
    let mut create = shell::program("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", "-u", "-F", "raw", "-b"]);
    create.arg(counter.uri(export)).arg(to).arg(size.to_string());
    shell::run_quietly(&mut create)?;
    let mut qemu_io = shell::program("qemu-io");
    qemu_io.args(["-C", "-f", "qcow2"]).arg(to);
    qemu_io.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = qemu_io.spawn().context("cannot start qemu-io")?;
    let mut commands = child.stdin.take().context("qemu-io has no input")?;
    let script: String =
        reads(ranges).map(|range| format!("read {} {}\n", range.offset, range.length)).collect();
    let writer = std::thread::spawn(move || commands.write_all(script.as_bytes()));
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| anyhow::anyhow!("the commands for qemu-io could not be written"))??;
    let said = String::from_utf8_lossy(&output.stdout);
    // qemu-io goes on after a failed read, and its status does not always tell.
    let done =
        said.lines().filter(|line| line.contains("read ") && line.contains(" bytes at offset")).count();
    ensure!(output.status.success() && done == reads(ranges).count(), "qemu-io could not read all:\n{said}");
    Ok(())
}

/// Ranges in pieces that one read may ask for.
fn reads(ranges: &[Range]) -> impl Iterator<Item = Range> {
    ranges.iter().flat_map(|range| {
        let end = range.offset + range.length;
        (range.offset..end)
            .step_by(READ_BYTES_MAX as usize)
            .map(move |offset| Range { offset, length: READ_BYTES_MAX.min(end - offset) })
    })
}

/// Lays an increment over the full backup and writes the whole to a new raw file.
pub(super) fn restore(full: &Path, increment: &Path, to: &Path) -> Result<()> {
    let mut rebase = shell::program("qemu-img");
    rebase.args(["rebase", "-u", "-F", "raw", "-b"]).arg(full).arg(increment);
    shell::run_quietly(&mut rebase)?;
    let mut convert = shell::program("qemu-img");
    shell::run_quietly(convert.args(["convert", "-f", "qcow2", "-O", "raw"]).arg(increment).arg(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_ranges_are_read_in_pieces() {
        let ranges =
            [Range { offset: 4096, length: 4096 }, Range { offset: 1 << 30, length: READ_BYTES_MAX + 1 }];
        let pieces: Vec<_> = reads(&ranges).collect();
        assert_eq!(pieces[0], ranges[0]);
        assert_eq!(pieces[1], Range { offset: 1 << 30, length: READ_BYTES_MAX });
        assert_eq!(pieces[2], Range { offset: (1 << 30) + READ_BYTES_MAX, length: 1 });
        assert_eq!(pieces.len(), 3);
    }
}
