//! Every class of fault during every operation, at each request that the operation makes.

use datum_tests::store::matrix::{Cell, Class, Operation};

/// Runs all cells and prints the table of docs/RELIABILITY.md: the number of cases in each. None is empty.
/// `DATUM_CELL` names one alone.
#[test]
fn every_fault_during_every_operation() {
    let chosen = std::env::var("DATUM_CELL").ok();
    let heads: Vec<String> =
        Operation::ALL.iter().map(|operation| format!("{operation:?}").to_lowercase()).collect();
    println!("| fault | {} |", heads.join(" | "));
    println!("|---|{}", "---:|".repeat(heads.len()));
    let classes = Class::all();
    std::thread::scope(|scope| {
        let chosen = chosen.as_deref();
        let rows: Vec<_> =
            classes.iter().map(|(fault, class)| scope.spawn(move || row(fault, *class, chosen))).collect();
        for ((fault, _), row) in classes.iter().zip(rows) {
            let counts = row.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause));
            println!("| {fault} | {} |", counts.join(" | "));
        }
    });
}

/// The cells of one class of faults.
fn row(fault: &str, class: Class, chosen: Option<&str>) -> Vec<String> {
    let mut counts = Vec::new();
    for operation in Operation::ALL {
        let cell = format!("{fault}, {operation:?}");
        if chosen.is_some_and(|chosen| chosen != cell) {
            continue;
        }
        let run = std::panic::catch_unwind(|| Cell::new(class, operation).run());
        let cases = run.unwrap_or_else(|cause| {
            eprintln!("replay: DATUM_CELL='{cell}' cargo test -p datum-tests --test store_matrix");
            std::panic::resume_unwind(cause)
        });
        assert!(cases > 0, "there is no case of {cell}");
        counts.push(cases.to_string());
    }
    counts
}
