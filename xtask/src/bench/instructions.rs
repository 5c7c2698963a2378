//! Instructions that a client's request takes: in the store alone and in the hosted binary, counted by valgrind, and in the
//! appliance, counted by QEMU.
//!
//! Natively, each load is run twice in a process of its own, the second time with twice the requests; what the difference
//! took is what the requests took, without start and fill, and without the kernel of the host. In the appliance all that
//! the guest executes between two moments of one run is counted, drivers and commits included.
//!
//! The store alone has no clock: its counts are the same each time, and tell the price of a part of it. Service and
//! appliance commit by time, and look for a while for what may come before they rest: they differ by some hundredths
//! from one run to the next.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::compare::{
    Hosted, Load, Order, Session, build_hosted, build_native, build_native_variant, build_variant,
    make_points,
};
use super::report::median;
use super::{Bench, Report, boot, volume};
use crate::qemu::{Accelerator, Machine, Port};
use crate::shell;
use crate::workspace::items;

const SIZE: u64 = 64 << 20;

/// Requests of the shorter run; the longer one has as many more.
const REQUESTS: u64 = 1500;

/// The same of the store alone: so many that there is a commit after as many as it lets come between two.
const STORE_REQUESTS: u64 = 4096;

/// Loads of the store alone as its program knows them, and how many blocks one of their requests has.
const STORE_LOADS: [(&str, u64); 3] = [("read", 1), ("write", 1), ("write-in-order", 32)];

/// Requests of a round of each load for each that is under way at once, and the rounds.
const GUEST_REQUESTS: u64 = 1_000;
const GUEST_ROUNDS: u64 = 5;

/// Room for what 10,000 checkpoints keep, four times.
const GUEST_DISK_BYTES: u64 = 1 << 30;

/// What is counted: a name, the load, and how many blocks of 4 KiB one of its requests has.
const LOADS: [(&str, Load); 8] = [
    ("4 KiB random read, depth 1", random(100, 1, false)),
    ("4 KiB random read, depth 32", random(100, 32, false)),
    ("4 KiB random write, depth 1", random(0, 1, false)),
    ("4 KiB random write, depth 32", random(0, 32, false)),
    ("4 KiB write + FLUSH, depth 1", random(0, 1, true)),
    ("128 KiB sequential read, depth 8", sequential(100)),
    ("128 KiB sequential write, depth 8", sequential(0)),
    ("4 KiB random 70/30, depth 32", random(70, 32, false)),
];

const fn random(read_percent: u64, depth: usize, flush: bool) -> Load {
    Load { read_percent, length: 4096, depth, order: Order::Random, flush }
}

const fn sequential(read_percent: u64) -> Load {
    Load { read_percent, length: 128 << 10, depth: 8, order: Order::Sequential, flush: false }
}

/// An appliance whose instructions are counted: what it is called in the report, the patch that leaves a part of it
/// out, how many checkpoints its volume has, and what it is to take of what the appliance as it is takes.
struct Kind {
    name: &'static str,
    variant: Option<&'static str>,
    points: u64,
    goal: Option<&'static str>,
}

const KINDS: [Kind; 4] = [
    Kind { name: "as it is", variant: None, points: 0, goal: None },
    Kind { name: "10,000 checkpoints", variant: None, points: 10_000, goal: Some("at most 1.05") },
    Kind { name: "change ids left out", variant: Some("untracked"), points: 0, goal: Some("at least 0.98") },
    Kind { name: "no store", variant: Some("passthrough"), points: 0, goal: None },
];

/// What the guest executes for each block of each load, and what it would with a part left out or with many checkpoints.
pub(super) fn guest(bench: &Bench, report: &mut Report) -> Result<()> {
    if bench.accelerator != Accelerator::Tcg {
        return Ok(());
    }
    let plugin = build_counter()?;
    let mut whole = Vec::new();
    for kind in &KINDS {
        let kernel = kind.variant.map_or_else(|| Ok(bench.kernel.clone()), build_variant)?;
        for (index, each) in for_blocks(bench, kind, &kernel, &plugin)?.into_iter().enumerate() {
            let (load, shape) = LOADS[index];
            let name = format!("in the guest, {load}, {}", kind.name);
            // At depth 1 most are spent looking for the next request.
            let goal = kind.goal.filter(|_| shape.depth > 1);
            report.add(format!("{name}: instructions for 4 KiB"), each.round(), "", None);
            match whole.get(index) {
                Some(whole) => report.add(format!("{name}: of those as it is"), each / whole, "", goal),
                None => whole.push(each),
            }
        }
    }
    Ok(())
}

/// The same of each load for one appliance, medians of the rounds, each from its first request until all is flushed.
fn for_blocks(bench: &Bench, kind: &Kind, kernel: &Path, plugin: &Path) -> Result<Vec<f64>> {
    let directory = tempfile::Builder::new().prefix("datum-bench-").tempdir()?;
    let machine = bench.machine_of(kernel, directory.path(), GUEST_DISK_BYTES);
    let (machine, counter) = counting(machine, plugin, directory.path());
    let (appliance, mut control) = boot(&machine)?;
    volume(&mut control, "db", SIZE)?;
    let socket = appliance.socket(Port::Nbd(0));
    make_points(&socket, &mut control, SIZE, kind.points)?;
    let mut session = Session::connect(&socket, "db", SIZE)?;
    session.fill()?;
    let mut each = vec![Vec::new(); LOADS.len()];
    for round in 0..GUEST_ROUNDS {
        for ((_, load), each) in LOADS.iter().zip(&mut each) {
            let blocks = u64::from(load.length) / 4096;
            let requests = GUEST_REQUESTS * load.depth as u64;
            let before = counted(&counter)?;
            session.send_requests(load, requests, round)?;
            session.flush()?;
            each.push((counted(&counter)? - before) as f64 / (requests * blocks) as f64);
        }
    }
    Ok(each.into_iter().map(median).collect())
}

/// The machine with its instructions counted, and the file that holds their number.
pub(super) fn counting(machine: Machine, plugin: &Path, directory: &Path) -> (Machine, PathBuf) {
    let counter = directory.join("instructions");
    let plugin = format!("file={},count={}", plugin.display(), counter.display());
    (machine.argument("-plugin").argument(plugin), counter)
}

pub(super) fn counted(counter: &Path) -> Result<u64> {
    let bytes = fs::read(counter)?;
    Ok(u64::from_ne_bytes(bytes[..].try_into().context("the counter is not eight bytes long")?))
}

/// Builds the plugin that counts.
pub(super) fn build_counter() -> Result<PathBuf> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--locked", "--release", "--package", "datum-counter"]);
    shell::say(shell::describe(&cargo));
    let messages = shell::output(cargo.arg("--message-format=json-render-diagnostics"))?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut built = messages.filter(|message| message["target"]["name"] == "datum_counter");
    let files = built.find_map(|message| items(&message["filenames"]).next()?.as_str().map(PathBuf::from));
    files.context("cargo built no plugin")
}

/// What the store alone takes for each block, and what it would with many checkpoints or without tracking.
pub(super) fn store(_: &Bench, report: &mut Report) -> Result<()> {
    const PROGRAM: &str = "store_work";
    let (whole, untracked) =
        (build_native(shell::cargo(), PROGRAM)?, build_native_variant("untracked", PROGRAM)?);
    for (load, blocks) in STORE_LOADS {
        let mut all = None;
        for kind in KINDS.iter().filter(|kind| kind.variant != Some("passthrough")) {
            let of = |requests: u64| {
                let directory = tempfile::Builder::new().prefix("datum-bench-").tempdir()?;
                let (mut command, counts) = callgrind(directory.path())?;
                command.arg(if kind.variant.is_some() { &untracked } else { &whole });
                command.args([load, &requests.to_string(), "--points", &kind.points.to_string()]);
                shell::run_quietly(&mut command)?;
                total(&counts)
            };
            let more = of(2 * STORE_REQUESTS)?.saturating_sub(of(STORE_REQUESTS)?);
            let each = more as f64 / (STORE_REQUESTS * blocks) as f64;
            let name = format!("in the store, {load}, {}", kind.name);
            report.add(format!("{name}: instructions for 4 KiB"), each.round(), "", None);
            match all {
                Some(all) => report.add(format!("{name}: of those as it is"), each / all, "", kind.goal),
                None => all = Some(each),
            }
        }
    }
    Ok(())
}

/// What the hosted binary takes for each block.
pub(super) fn hosted(_: &Bench, report: &mut Report) -> Result<()> {
    let program = build_hosted()?;
    for (name, load) in &LOADS {
        let each = for_a_block(&program, load)?;
        report.add(format!("{name}: instructions for 4 KiB"), each.round(), "", None);
    }
    Ok(())
}

/// What one block of a load takes: the difference of two runs.
fn for_a_block(program: &Path, load: &Load) -> Result<f64> {
    let short = count(program, load, REQUESTS)?;
    let long = count(program, load, 2 * REQUESTS)?;
    Ok(long.saturating_sub(short) as f64 / REQUESTS as f64 / f64::from(load.length / 4096))
}

/// Instructions of a whole life of the hosted binary in which it serves so many requests.
fn count(program: &Path, load: &Load, requests: u64) -> Result<u64> {
    let directory = tempfile::Builder::new().prefix("datum-bench-").tempdir()?;
    let (mut valgrind, counts) = callgrind(directory.path())?;
    valgrind.arg(program);
    let hosted = Hosted::under(valgrind, directory.path(), SIZE, 4 * SIZE)?;
    let mut session = Session::connect(&hosted.nbd_socket(), "db", SIZE)?;
    session.fill()?;
    session.run_requests(load, requests)?;
    hosted.shut_down()?;
    total(&counts)
}

/// What counts the instructions of the program named next, and the file that holds the counts then.
fn callgrind(directory: &Path) -> Result<(Command, PathBuf)> {
    ensure!(shell::find_program("valgrind").is_some(), "install valgrind (in Debian the package valgrind)");
    let counts = directory.join("counts");
    let mut valgrind = Command::new("valgrind");
    // A string instruction would count once for each byte it moves.
    valgrind.env(
        "GLIBC_TUNABLES",
        "glibc.cpu.x86_rep_movsb_threshold=1048576:glibc.cpu.x86_rep_stosb_threshold=1048576",
    );
    valgrind.args(["--quiet", "--tool=callgrind"]).arg(format!("--callgrind-out-file={}", counts.display()));
    Ok((valgrind, counts))
}

/// Instructions of a whole life.
fn total(counts: &Path) -> Result<u64> {
    let text = fs::read_to_string(counts)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = total.or_else(|| text.lines().find_map(|line| line.strip_prefix("summary: ")));
    Ok(total.context("callgrind counted nothing")?.trim().parse()?)
}
