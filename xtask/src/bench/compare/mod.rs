//! Datum beside what people would use instead: the same requests from the same client to each, in turns.
//!
//! What always holds: within a scenario the peers take turns, so that the machine's mood hits all alike, and a ratio
//! is the median of the ratios of single turns; every peer has a disk of the same size in the same directory, one
//! connection, and content written once before anything is measured. Nothing here is a test.
//!
//! [`load`] is the client, [`peer`] what is compared ([`datum`] ourselves, [`variant`] ourselves with a part left out,
//! [`host`] and [`linux`] others, the latter's root made by [`initramfs`]), [`scenario`] what is asked for, [`table`]
//! what is told, with [`goals`] and a [`chart`] for each scenario.

mod chart;
mod datum;
mod goals;
mod host;
mod initramfs;
mod linux;
mod load;
mod peer;
mod scenario;
mod table;
mod variant;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::start::processor_times;
use crate::qemu::Accelerator;
use crate::shell::say;
use datum::Guest;
pub(super) use datum::{Hosted, allocate, build_hosted, build_native, make_points};
use host::{Plain, Qcow2, Snapshot};
pub(super) use linux::plain_machine as linux_machine;
use linux::{Linux, Volume};
pub(super) use load::{Load, Order, Session};
use peer::{Peer, Side};
use scenario::{SCENARIOS, Scenario, Shape};
pub use table::Table;
use table::{Row, Turn};
pub(super) use variant::{build as build_variant, build_native as build_native_variant};

/// RAM of every virtual machine.
const MEMORY_MIB: u64 = 256;

/// How much larger a peer's disk is than what is used of its volume.
const DISK_FACTOR: u64 = 4;

/// What to compare, and how long.
pub struct Compare {
    /// The appliance.
    pub kernel: PathBuf,
    /// For every virtual machine.
    pub accelerator: Accelerator,
    /// Peers whose names contain one of these; all where there is none.
    pub peers: Vec<String>,
    /// Scenarios whose names contain one of these; all where there is none.
    pub scenarios: Vec<String>,
    /// How long one turn takes.
    pub turn: Duration,
    /// Turns of each peer in each scenario.
    pub repeat: usize,
    /// Bytes of the volume that are used.
    pub size: u64,
    /// Where the disks are made.
    pub directory: PathBuf,
}

/// How one kind of peer is started.
struct Kind {
    name: &'static str,
    side: Side,
    start: fn(&Compare, &Path) -> Result<Box<dyn Peer>>,
}

const KINDS: [Kind; 13] = [
    Kind {
        name: "datum-qemu",
        side: Side::Guest,
        start: |run, directory| Guest::start(run, &run.kernel, directory),
    },
    Kind {
        name: "passthrough",
        side: Side::Guest,
        start: |run, directory| Guest::start(run, &variant::build("passthrough")?, directory),
    },
    Kind {
        name: "untracked",
        side: Side::Guest,
        start: |run, directory| Guest::start(run, &variant::build("untracked")?, directory),
    },
    Kind {
        name: "with-100-points",
        side: Side::Guest,
        start: |run, directory| Guest::with_points(run, directory, 100),
    },
    Kind {
        name: "with-10000-points",
        side: Side::Guest,
        start: |run, directory| Guest::with_points(run, directory, 10_000),
    },
    Kind {
        name: "linux-raw",
        side: Side::Guest,
        start: |run, directory| Linux::start(run, directory, Volume::Raw),
    },
    Kind {
        name: "linux-era",
        side: Side::Guest,
        start: |run, directory| Linux::start(run, directory, Volume::Era),
    },
    Kind {
        name: "linux-thin",
        side: Side::Guest,
        start: |run, directory| Linux::start(run, directory, Volume::Thin),
    },
    Kind { name: "datum-hosted", side: Side::Host, start: Hosted::start },
    Kind { name: "nbdkit-file", side: Side::Host, start: Plain::nbdkit },
    Kind { name: "qemu-nbd-raw", side: Side::Host, start: Plain::qemu_nbd },
    Kind {
        name: "qcow2-internal",
        side: Side::Host,
        start: |run, directory| Qcow2::start(directory, run.size, Snapshot::Internal),
    },
    Kind {
        name: "qcow2-overlay",
        side: Side::Host,
        start: |run, directory| Qcow2::start(directory, run.size, Snapshot::Overlay),
    },
];

/// A peer that has been started, and what is known of its volume.
struct Running {
    kind: &'static Kind,
    session: Session,
    peer: Box<dyn Peer>,
    /// Whether the volume was overwritten at random since it was last written in order.
    scattered: bool,
    /// Whether it failed: then it is asked for nothing more.
    failed: bool,
    _directory: TempDir,
}

impl Compare {
    /// The form for every test run: a minute, four peers that need no guest but our own, and what says most.
    pub fn short(kernel: PathBuf) -> Compare {
        let names = |names: &[&str]| names.iter().map(|&name| name.into()).collect();
        Compare {
            kernel,
            accelerator: Accelerator::Tcg,
            peers: names(&["datum-qemu", "datum-hosted", "nbdkit-file", "qcow2-internal"]),
            scenarios: names(&["write-1m", "read-4k-d32", "write-4k-d32", "write-flush-d1"]),
            turn: Duration::from_millis(300),
            repeat: 3,
            size: 64 << 20,
            directory: std::env::temp_dir(),
        }
    }

    /// Starts the peers, gives each of them each scenario, and tells what came of it.
    pub fn run(&self) -> Result<Table> {
        let kinds: Vec<_> = KINDS.iter().filter(|kind| chosen(&self.peers, kind.name)).collect();
        let scenarios: Vec<_> = SCENARIOS.iter().filter(|one| chosen(&self.scenarios, one.name)).collect();
        if kinds.is_empty() || scenarios.is_empty() {
            let names = KINDS.iter().map(|kind| kind.name).chain(SCENARIOS.iter().map(|one| one.name));
            bail!("nothing is chosen; there are {}", names.collect::<Vec<_>>().join(", "));
        }
        let mut peers = Vec::new();
        for kind in kinds {
            say(format!("starting {}", kind.name));
            let running = self.start(kind).with_context(|| format!("{} did not start", kind.name))?;
            peers.push(running);
        }
        let mut table = Table::new(self.turn, self.repeat, self.size);
        for scenario in scenarios {
            say(format!("measuring: {}", scenario.name));
            for row in self.measure(scenario, &mut peers) {
                table.add(row);
            }
            peers.retain(|peer| !peer.failed);
        }
        Ok(table)
    }

    fn disk_bytes(&self) -> u64 {
        self.size * DISK_FACTOR
    }

    fn start(&self, kind: &'static Kind) -> Result<Running> {
        let directory = tempfile::Builder::new().prefix("datum-bench-").tempdir_in(&self.directory)?;
        let peer = (kind.start)(self, directory.path())?;
        let mut session = Session::connect(&peer.socket(), peer.export(), self.size)?;
        session.fill()?;
        Ok(Running { kind, session, peer, scattered: false, failed: false, _directory: directory })
    }

    /// One row a peer. One that fails is told of and left out from there on; the others go on.
    fn measure(&self, scenario: &'static Scenario, peers: &mut [Running]) -> Vec<Row> {
        let mut rows: Vec<_> =
            peers.iter().map(|peer| Row::new(scenario, peer.kind.name, peer.kind.side)).collect();
        for turn in 0..self.repeat {
            for (peer, row) in peers.iter_mut().zip(&mut rows).filter(|(peer, _)| !peer.failed) {
                match self.turn(scenario, peer, turn as u64) {
                    Ok(measured) => row.turns.push(measured),
                    Err(error) => {
                        say(format!(
                            "{} on {} failed and is left out: {error:#}",
                            scenario.name, peer.kind.name
                        ));
                        peer.failed = true;
                    }
                }
            }
        }
        rows.retain(|row| !row.turns.is_empty());
        rows
    }

    fn turn(&self, scenario: &Scenario, running: &mut Running, seed: u64) -> Result<Turn> {
        if scenario.shape == Shape::InOrder && running.scattered {
            running.session.fill()?;
            running.scattered = false;
        }
        let releases = scenario.releasing && running.peer.make_point()?;
        if releases {
            running.session.fill()?;
            running.peer.begin_release()?;
        }
        running.session.flush()?;
        let has_point = scenario.after_point && running.peer.make_point()?;
        let process = running.peer.process_id();
        let (before, started) = (processor_times(process)?, Instant::now());
        let outcome = running.session.run(&scenario.load, self.turn, seed)?;
        let after = processor_times(process)?;
        let lasted = started.elapsed().as_secs_f64();
        running.scattered |= scenario.scatters();
        if has_point {
            running.peer.drop_point()?;
        }
        if releases {
            running.peer.end_release()?;
        }
        Ok(Turn { outcome, user: after.0 - before.0, system: after.1 - before.1, lasted })
    }
}

fn chosen(filters: &[String], name: &str) -> bool {
    filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
}
