//! Memory that runs out: each allocation of small workloads fails in turn (one in some unless `DATUM_SCALE=full`).
//!
//! A case ends its process, as it would end the machine; so this program starts itself for each, with the case in
//! `DATUM_ALLOCATION`.

use datum_scarcity::Scarce;
use datum_tests::store::scarcity::{Test, WHERE, answer, explore, workloads};

#[global_allocator]
static ALLOCATOR: Scarce = Scarce;

/// One allocation in so many fails in the short form.
const STRIDE: usize = 10;

/// An allocation of more bytes than this may not end in a reset: a request decides its size, so the request is refused.
const RESET_BYTES_MAX: usize = 16 << 10;

#[test]
fn no_allocation_that_fails_loses_anything() {
    if let Ok(case) = std::env::var(WHERE) {
        return answer(&case);
    }
    let full = std::env::var("DATUM_SCALE").is_ok_and(|scale| scale == "full");
    let test = Test { program: "store_allocations", name: "no_allocation_that_fails_loses_anything" };
    let report = explore(test, workloads(if full { 1 } else { STRIDE }), 2);
    report.judge(RESET_BYTES_MAX);
}
