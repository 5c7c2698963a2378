//! The appliance's clock beside the host's.
//!
//! Under KVM it is the host's own. Without it there is QEMU's CMOS clock, which begins to count a whole second when QEMU
//! starts, at whatever moment of the host's second that is: it lags by that part of a second for as long as QEMU runs, and no
//! guest can know by how much. So what is tested there is that the appliance keeps to that clock, to the same moment after
//! every start.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use datum_tests::qemu::{HELLO_PATIENCE, Stage, ask_monitor, boot, call, end, nanoseconds, wait_until_open};
use serde_json::json;
use xtask::control::Client;
use xtask::qemu::Accelerator;

const MILLISECOND: i64 = 1_000_000;
/// How right the clock is.
const RIGHT: i64 = 50 * MILLISECOND;
const SECOND: i64 = 1000 * MILLISECOND;

/// From the greeting until the clock is right, and a little more.
const SETTLED: Duration = Duration::from_millis(1300);

fn host() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

fn time(control: &mut Client) -> i64 {
    nanoseconds(&call(control, "system.info", json!({}))["time"]) as i64
}

/// How far the appliance lags behind the host, in nanoseconds, and how wrong that may be: the quickest of a few answers.
fn lag(control: &mut Client) -> (i64, i64) {
    let mut ask = || {
        let before = host();
        let told = time(control);
        let trip = host() - before;
        (before + trip / 2 - told, trip / 2 + MILLISECOND)
    };
    (0..8).map(|_| ask()).min_by_key(|(_, doubt)| *doubt).unwrap()
}

/// Waits until the clock is right, and sees that it never goes back on the way.
fn settle(control: &mut Client) {
    let (begun, mut last) = (Instant::now(), 0);
    while begun.elapsed() < SETTLED {
        let now = time(control);
        assert!(now >= last, "time went back from {last} to {now}");
        last = now;
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_clock_keeps_to_the_machines_clock_after_every_start() {
    let stage = Stage::wait();
    let machine = stage.with_disk(1 << 30);
    let (mut appliance, mut control) = boot(&machine);
    settle(&mut control);
    let (first, mut doubt) = lag(&mut control);
    assert!(first > -RIGHT - doubt && first < SECOND + RIGHT + doubt, "it lags by {first} ns");
    for start in 2..6 {
        drop(control);
        ask_monitor(&machine.monitor(), "system_reset");
        // Who connects before it would still be the client of the session that the reset ends.
        wait_until_open(&appliance, start);
        control = appliance.wait_for_hello(HELLO_PATIENCE).unwrap();
        settle(&mut control);
        let (again, more) = lag(&mut control);
        doubt += more;
        assert!((again - first).abs() < RIGHT + doubt, "it lags by {again} ns now, and by {first} ns before");
        thread::sleep(Duration::from_millis(170));
    }
    end(appliance, control);
}

#[test]
fn the_clock_is_the_hosts_under_kvm() {
    if Accelerator::Auto.resolve() != Accelerator::Kvm {
        eprintln!(
            "skipped: KVM does not work here, and without it no guest learns the host's time to less than a second"
        );
        return;
    }
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.machine().accelerator(Accelerator::Kvm));
    let (lag, doubt) = lag(&mut control);
    assert!(lag.abs() < RIGHT + doubt, "it lags by {lag} ns");
    end(appliance, control);
}
