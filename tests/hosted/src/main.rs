//! The appliance's service on a host: files are its disks, Unix sockets its ports. For tests and native
//! benchmarks; it is not a second product.
//!
//! The twin of `kernel/`: a composition root over the same traits, on another platform. One thread serves.

#![forbid(unsafe_code)]

mod disk;
mod environment;
mod port;
mod reactor;

use anyhow::{Context as _, Result};
use clap::Parser;
use datum_service::{Appliance, FoundDisk, FoundDisks, PoolOption, Setup, Takeover};
use disk::FileDisk;
use futures_executor::LocalPool;
use futures_util::task::LocalSpawnExt;
use port::SocketPort;
use reactor::Host;
use std::path::PathBuf;

#[derive(Parser)]
#[command(about = "Serves Datum's ports over Unix sockets, with files as disks")]
struct Arguments {
    /// A file that is a disk; its stem is the disk's name. Repeat it for several.
    #[arg(long = "disk", required = true)]
    disks: Vec<PathBuf>,
    /// Where the sockets are made, each named as its port.
    #[arg(long)]
    dir: PathBuf,
    /// NBD ports.
    #[arg(long, default_value_t = 1)]
    nbd_ports: usize,
    /// open, auto or none.
    #[arg(long, default_value = "auto")]
    pool: String,
    /// What to do about a pool that was not closed: wait or now.
    #[arg(long, default_value = "wait")]
    takeover: String,
    /// Metadata blocks held in memory.
    #[arg(long, default_value_t = 4096)]
    cache_blocks: usize,
    /// MiB for payloads under way.
    #[arg(long, default_value_t = 16)]
    buffer_mebibytes: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let pool = PoolOption::parse(&arguments.pool).context("--pool is open, auto or none")?;
    let takeover = Takeover::parse(&arguments.takeover).context("--takeover is wait or now")?;
    let host = Host::new()?;
    let mut disks = Vec::new();
    for path in &arguments.disks {
        disks.push(FoundDisk { device: FileDisk::open(&host, path)?, location: path.display().to_string() });
    }
    let appliance = Appliance::new(Setup {
        pool,
        takeover,
        environment: host.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        cache_blocks: arguments.cache_blocks,
        buffer_bytes: arguments.buffer_mebibytes << 20,
    });
    let mut executor = LocalPool::new();
    let spawner = executor.spawner();
    let (starting, background) = (appliance.clone(), appliance.clone());
    spawner.spawn_local(async move { background.background().await })?;
    let found = FoundDisks { disks, problems: Vec::new() };
    spawner.spawn_local(async move { println!("{}", starting.start(found).await) })?;
    let open = |name: &str| SocketPort::listen(&host, &arguments.dir, name);
    let (control, console) = (open("org.datum.control.0")?, open("org.datum.console.0")?);
    let served = appliance.clone();
    spawner.spawn_local(async move { served.serve_control(control).await })?;
    let served = appliance.clone();
    spawner.spawn_local(async move { served.serve_console(console).await })?;
    for index in 0..arguments.nbd_ports {
        let (port, served) = (open(&format!("org.datum.nbd.{index}"))?, appliance.clone());
        spawner.spawn_local(async move { served.serve_nbd(port).await })?;
    }
    println!("serving on {}", arguments.dir.display());
    loop {
        executor.run_until_stalled();
        host.park()?;
    }
}
