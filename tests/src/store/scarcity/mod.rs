//! Memory that runs out: of every small workload each allocation of the product fails in turn.
//!
//! An allocation whose size a request decides must be refused as an error of that request, and the appliance goes on. Any other
//! ends the machine: the kernel panics and resets, and here the process aborts. So each case has a process of its own, this
//! program started once more with the case in its environment (`case`). In the midst of the product's step, just before it is
//! told that there is no memory, that process takes the power from copies of its disks, recovers from what that leaves, and
//! holds it against the model with the checks of `explore`. `parent` starts the processes and counts how they end; it does
//! so for the service too, whose cases are in `service::scarcity`.

mod case;
mod parent;

pub use case::{Case, Work, answer, workloads};
pub use parent::{Report, Test, WHERE, Workload, explore};
pub(crate) use parent::{say, say_again, say_recovered};

/// How a case ended that came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The work is done, and none failed.
    Beyond {
        /// How many allocations it makes.
        count: u64,
        /// The numbers of the large ones among them.
        large: Vec<u64>,
        /// The first of each call site, and what names the site.
        sites: Vec<(u64, u64)>,
    },
    /// A request was refused, and was done when it was asked again.
    Refused,
    /// Nobody was refused anything.
    Absorbed,
}

use std::future::{Future, poll_fn};

/// The product's own work: its allocations count.
pub fn watched<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let mut work = Box::pin(work);
    poll_fn(move |context| datum_scarcity::watched(|| work.as_mut().poll(context)))
}
