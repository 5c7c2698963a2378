//! Memory against the volume's size, with the same data in each.

use anyhow::Result;

use super::{Bench, GIB, Report, TIB, boot, load, metrics, sample, volume};
use crate::nbd;
use crate::qemu::Port;

const SIZES: [(&str, u64); 4] = [("1 GiB", GIB), ("1 TiB", TIB), ("16 TiB", 16 * TIB), ("64 TiB", 64 * TIB)];

/// Scattered over each.
const BLOCKS: u64 = 20_000;

/// MiB of each machine.
const MACHINES: [u64; 2] = [64, 256];

/// The most the heap ever had allocated, after the same writes and reads of a volume of each size.
pub(super) fn against_size(bench: &Bench, report: &mut Report) -> Result<()> {
    for mebibytes in MACHINES {
        for (name, size) in SIZES {
            let (_directory, machine) = bench.machine(8 * GIB)?;
            let (appliance, mut control) = boot(&machine.memory(mebibytes))?;
            volume(&mut control, "db", size)?;
            let mut client = nbd::Client::connect(&appliance.socket(Port::Nbd(0)), "db")?;
            load::scatter(&mut client, size, BLOCKS, 0..BLOCKS)?;
            let high = sample(&metrics(&mut control)?, "memory_high_water_bytes");
            let what = format!("-m {mebibytes}, {BLOCKS} blocks scattered over {name}: memory high-water");
            report.add(what, high as f64, "bytes", None);
        }
    }
    Ok(())
}
