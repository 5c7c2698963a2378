//! Memory that runs out under the whole appliance: each allocation of small workloads on its ports fails in turn (one in some
//! unless `DATUM_SCALE=full`).
//!
//! As `store_allocations` does, this program starts itself for each case, with the case in `DATUM_ALLOCATION`.

use datum_scarcity::{ASKED_BYTES_MIN, Scarce};
use datum_tests::service::scarcity::{answer, workloads};
use datum_tests::store::scarcity::{Test, WHERE, explore};

#[global_allocator]
static ALLOCATOR: Scarce = Scarce;

/// One allocation in so many fails in the short form, and where the pool takes long to make.
const STRIDES: (usize, usize) = (40, 400);

#[test]
fn no_allocation_of_the_service_that_fails_loses_anything() {
    if let Ok(case) = std::env::var(WHERE) {
        return answer(&case);
    }
    let full = std::env::var("DATUM_SCALE").is_ok_and(|scale| scale == "full");
    let (stride, long_stride) = if full { (1, 1) } else { STRIDES };
    let name = "no_allocation_of_the_service_that_fails_loses_anything";
    let report = explore(Test { program: "service_allocations", name }, workloads(stride, long_stride), 2);
    report.judge(ASKED_BYTES_MIN);
}
