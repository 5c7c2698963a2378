//! The real service and the real store on a simulated machine: disks with a volatile cache, ports, clock, entropy,
//! and clients that follow scripts. One seed names one run.
//!
//! `machine` and `wire` are the hardware, `client` (over `nbd`) and `control` the clients, `log`, `block`, `volume` and
//! `judge` decide whether an answer is right, `harm` what the disks have done excuses, `audit` looks at everything after a
//! recovery, and `recovered` holds that against the log. `plan` draws what happens, with the classes of `faults` that are
//! wanted, `run` puts lives of the machine in a row, `seeds` runs many, shrinks what fails and says how to replay it.
//! `scarcity` lets memory run out.

mod audit;
mod block;
mod client;
mod control;
mod faults;
mod harm;
mod judge;
mod log;
mod machine;
mod nbd;
mod plan;
mod recovered;
mod run;
pub mod scarcity;
mod seeds;
mod volume;
mod wire;

pub use faults::Faults;
pub use seeds::{Failure, Options, Report, replay, run, trace};

use judge::Judge;
use machine::Simulated;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

/// What was done, for figures.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) requests: Cell<u64>,
    pub(crate) commands: Cell<u64>,
    pub(crate) sessions: Cell<u64>,
    pub(crate) events: Cell<u64>,
    /// Refusals for want of space.
    pub(crate) full: Cell<u64>,
    methods: RefCell<BTreeSet<&'static str>>,
}

impl Counts {
    pub(crate) fn method(&self, method: &'static str) {
        self.methods.borrow_mut().insert(method);
    }
}

/// What the clients of one life share.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) judge: Rc<RefCell<Judge>>,
    pub(crate) counts: Rc<Counts>,
    pub(crate) environment: Simulated,
}
