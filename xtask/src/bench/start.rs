//! Starting and idling: QEMU's start to the greeting, the kernel's size, the host's processor time of an
//! appliance that nobody talks to.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::compare::{Compare, linux_machine};
use super::report::{milliseconds, percentile};
use super::{Bench, GIB, Report, boot, metrics, sample};
use crate::nbd;
use crate::qemu::{Firmware, Machine, Port};
use crate::setup::{Need, ensure};

const STARTS: usize = 7;
const IDLE: Duration = Duration::from_secs(10);

/// From QEMU's start to `hello` on the control port, with a pool that is made once and then opened.
pub(super) fn hello(bench: &Bench, report: &mut Report) -> Result<()> {
    let (_directory, machine) = bench.machine(GIB)?;
    drop(boot(&machine)?);
    for (firmware, goal) in [(Firmware::Seabios, "under 120"), (Firmware::Qboot, "under 60")] {
        let machine = machine.clone().firmware(firmware);
        let (mut samples, mut own) = (Vec::new(), Vec::new());
        for _ in 0..STARTS {
            let mut appliance = machine.start()?;
            let mut control = appliance.wait_for_hello(super::HELLO_PATIENCE)?;
            samples.push(appliance.started().elapsed());
            own.push(Duration::from_nanos(sample(&metrics(&mut control)?, "greeting_nanoseconds")));
        }
        let name = format!("QEMU's start to hello, q35, {firmware:?}, median of {STARTS}");
        report.add(name, milliseconds(median(samples)), "ms", Some(goal));
        let name = format!("of it from the kernel's entry to hello, {firmware:?}");
        report.add(name, milliseconds(median(own)), "ms", Some("under 10"));
    }
    beside_linux(bench, report)
}

/// From QEMU's start until an NBD client has its export open: our appliance, and Debian's kernel with nbdkit on the disk.
fn beside_linux(bench: &Bench, report: &mut Report) -> Result<()> {
    ensure(&[Need::Peers])?;
    let (_directory, ours) = bench.machine(GIB)?;
    let (appliance, mut control) = boot(&ours)?;
    super::volume(&mut control, "db", GIB)?;
    drop(control);
    appliance.shut_down(super::HELLO_PATIENCE)?;
    let directory = tempfile::Builder::new().prefix("datum-bench-").tempdir()?;
    let compare = Compare::short(bench.kernel.clone());
    let theirs = linux_machine(&compare, directory.path())?.accelerator(bench.accelerator);
    for (name, machine, export) in [("Datum", &ours, "db"), ("Linux and nbdkit", &theirs, "")] {
        let samples = (0..STARTS).map(|_| export_opened(machine, export)).collect::<Result<Vec<_>>>()?;
        let name =
            format!("QEMU's start until an NBD client has the export open, {name}, median of {STARTS}");
        report.add(name, milliseconds(median(samples)), "ms", None);
    }
    Ok(())
}

/// Kills the machine afterwards: Linux has nothing to lose here. Ours would then wait for an owner that may live, so it
/// is ended in order.
fn export_opened(machine: &Machine, export: &str) -> Result<Duration> {
    let mut appliance = machine.start()?;
    let stream = appliance.connect(Port::Nbd(0), super::HELLO_PATIENCE)?;
    let open = nbd::Open { export, ..nbd::Open::default() };
    let opened = nbd::Client::open(stream, &open);
    let took = appliance.started().elapsed();
    drop(opened.map_err(|error| appliance.explain(error.into()))?);
    if !export.is_empty() {
        appliance.shut_down(super::HELLO_PATIENCE)?;
    }
    Ok(took)
}

fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort();
    percentile(&samples, 50)
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
    report.add("an idle appliance, over 10 s", percent, "% of core", Some("under 1"));
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
