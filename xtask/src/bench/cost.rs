//! What one acknowledged write costs the disks, in requests, from the appliance's own counters; and how many of
//! them a second go through.

use std::time::Instant;

use anyhow::Result;

use super::{BLOCK, Bench, GIB, Report, boot, metrics, sample, volume};
use crate::nbd;
use crate::qemu::Port;

const ROUNDS: u64 = 500;

/// 4 KiB written, then a FLUSH, one after the other.
pub(super) fn acknowledged_write(bench: &Bench, report: &mut Report) -> Result<()> {
    let (_directory, machine) = bench.machine(4 * GIB)?;
    let (appliance, mut control) = boot(&machine)?;
    volume(&mut control, "db", GIB)?;
    let mut client = nbd::Client::connect(&appliance.socket(Port::Nbd(0)), "db")?;
    let block = vec![0x5a; BLOCK as usize];
    client.write(0, &block)?;
    client.flush()?;
    let (before, started) = (metrics(&mut control)?, Instant::now());
    for round in 0..ROUNDS {
        client.write(round * 7919 % (GIB / BLOCK) * BLOCK, &block)?;
        client.flush()?;
    }
    let (seconds, after) = (started.elapsed().as_secs_f64(), metrics(&mut control)?);
    let commits = sample(&after, "commits_total") - sample(&before, "commits_total");
    for (name, counter, goal) in
        [("writes", "device_writes_total", "2"), ("flushes", "device_flushes_total", "1")]
    {
        let count = sample(&after, counter) - sample(&before, counter);
        let name = format!("device {name} per 4 KiB write + FLUSH, {commits} commits in between");
        report.add(name, count as f64 / ROUNDS as f64, "requests", Some(goal));
    }
    report.add("4 KiB write + FLUSH, one after the other", ROUNDS as f64 / seconds, "per s", None);
    Ok(())
}
