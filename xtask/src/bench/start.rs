//! Starting and idling: QEMU's start to the greeting, the kernel's size, the host's processor time of an
//! appliance that nobody talks to.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::report::milliseconds;
use super::{Bench, GIB, Report, boot};
use crate::qemu::Firmware;

const STARTS: usize = 7;
const IDLE: Duration = Duration::from_secs(10);

/// From QEMU's start to `hello` on the control port, with a pool that is made once and then opened.
pub(super) fn hello(bench: &Bench, report: &mut Report) -> Result<()> {
    let (_directory, machine) = bench.machine(GIB)?;
    drop(boot(&machine)?);
    for (firmware, goal) in [(Firmware::Seabios, "under 120"), (Firmware::Qboot, "under 60")] {
        let machine = machine.clone().firmware(firmware);
        let mut samples = Vec::new();
        for _ in 0..STARTS {
            let mut appliance = machine.start()?;
            appliance.wait_for_hello(super::HELLO_PATIENCE)?;
            samples.push(appliance.started().elapsed());
        }
        samples.sort();
        let name = format!("QEMU's start to hello, q35, {firmware:?}, median of {STARTS}");
        report.add(name, milliseconds(samples[STARTS / 2]), "ms", Some(goal));
    }
    Ok(())
}

/// The stripped kernel.
pub(super) fn size(bench: &Bench, report: &mut Report) -> Result<()> {
    let size = fs::metadata(&bench.kernel)?.len();
    report.add("the kernel's ELF", size as f64, "bytes", Some("under 2097152"));
    Ok(())
}

/// Processor time of the whole QEMU process, its own threads included, while nobody asks for anything.
pub(super) fn idle(bench: &Bench, report: &mut Report) -> Result<()> {
    let (_directory, machine) = bench.machine(GIB)?;
    let (appliance, _control) = boot(&machine)?;
    thread::sleep(Duration::from_secs(2));
    let (before, started) = (processor_seconds(appliance.process_id())?, Instant::now());
    thread::sleep(IDLE);
    let used = processor_seconds(appliance.process_id())? - before;
    let percent = used / started.elapsed().as_secs_f64() * 100.0;
    report.add("an idle appliance, over 10 s", percent, "% of core", Some("under 3"));
    Ok(())
}

/// What a process has used of processors so far.
fn processor_seconds(process_id: u32) -> Result<f64> {
    let (user, system) = processor_times(process_id)?;
    Ok(user + system)
}

/// The same apart: seconds of its own, and of the host's kernel for it.
pub(super) fn processor_times(process_id: u32) -> Result<(f64, f64)> {
    let stat = fs::read_to_string(format!("/proc/{process_id}/stat"))?;
    // The second field is a name in parentheses and may hold spaces; user and system time are 14 and 15.
    let (_, rest) = stat.rsplit_once(") ").context("/proc/<pid>/stat has no name")?;
    let mut times = rest.split(' ').skip(11).map(|field| {
        field.parse::<u64>().map(|ticks| ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    });
    let mut time = || Ok::<_, anyhow::Error>(times.next().context("/proc/<pid>/stat is too short")??);
    Ok((time()?, time()?))
}
