//! Where Datum must arrive beside others, and whether it has. What a release costs those beside it is judged by the
//! measurement `release`: there both sides follow each other at once, here they would lie minutes apart.

use super::table::Table;

/// A ratio that is wanted.
struct Goal {
    scenario: &'static str,
    ours: &'static str,
    theirs: &'static str,
    at_least: f64,
}

const GUEST: &str = "datum-qemu";
const HOSTED: &str = "datum-hosted";

const fn goal(scenario: &'static str, ours: &'static str, theirs: &'static str, at_least: f64) -> Goal {
    Goal { scenario, ours, theirs, at_least }
}

const GOALS: [Goal; 27] = [
    goal("write-4k-d32-point", GUEST, "linux-thin", 5.0),
    goal("read-4k-d32", GUEST, "linux-thin", 4.0),
    goal("write-flush-d1", GUEST, "linux-thin", 3.0),
    goal("write-1m", GUEST, "linux-thin", 2.0),
    goal("read-1m", GUEST, "linux-thin", 2.0),
    goal("write-4k-d32-point", GUEST, "passthrough", 1.0),
    goal("read-4k-d32", GUEST, "passthrough", 0.95),
    goal("write-1m", GUEST, "passthrough", 0.95),
    goal("read-1m", GUEST, "passthrough", 0.95),
    goal("write-4k-d32", GUEST, "untracked", 0.98),
    // Stated from the other side: with the points at least nineteen twentieths of without.
    goal("write-4k-d32", "with-10000-points", GUEST, 0.95),
    goal("read-4k-d32", "with-10000-points", GUEST, 0.95),
    goal("write-4k-d32-point", HOSTED, "qcow2-internal", 3.0),
    goal("write-4k-d32-point", HOSTED, "qcow2-overlay", 3.0),
    goal("read-4k-d32", HOSTED, "qcow2-internal", 1.0),
    goal("read-4k-d32", HOSTED, "qcow2-overlay", 1.0),
    goal("write-flush-d1", HOSTED, "qcow2-internal", 1.0),
    goal("write-flush-d1", HOSTED, "qcow2-overlay", 1.0),
    goal("write-1m", HOSTED, "qcow2-internal", 1.0),
    goal("write-1m", HOSTED, "qcow2-overlay", 1.0),
    goal("read-1m", HOSTED, "qcow2-internal", 1.0),
    goal("read-1m", HOSTED, "qcow2-overlay", 1.0),
    goal("write-4k-d32-point", HOSTED, "nbdkit-file", 0.8),
    goal("read-4k-d32", HOSTED, "nbdkit-file", 0.8),
    goal("write-flush-d1", HOSTED, "nbdkit-file", 0.8),
    goal("write-1m", HOSTED, "nbdkit-file", 0.8),
    goal("read-1m", HOSTED, "nbdkit-file", 0.8),
];

/// One line for each goal whose two sides were measured: the ratio's median, its least and most, and the verdict.
pub(super) fn lines(table: &Table) -> Vec<String> {
    let judged = GOALS.iter().filter_map(|goal| {
        let ratios = table.ratios(goal.scenario, goal.ours, goal.theirs)?;
        let verdict = if ratios.median >= goal.at_least { "achieved" } else { "not achieved" };
        Some(format!(
            "{:<22} {:<18} {:<16} {:>6.2} {:>6.2} {:>6.2} {:>6.2}  {verdict}",
            goal.scenario, goal.ours, goal.theirs, goal.at_least, ratios.median, ratios.least, ratios.most,
        ))
    });
    judged.collect()
}

/// What the columns of [`lines`] are.
pub(super) fn header() -> String {
    format!(
        "{:<22} {:<18} {:<16} {:>6} {:>6} {:>6} {:>6}",
        "scenario", "ours", "against", "goal", "ratio", "least", "most"
    )
}

#[cfg(test)]
mod tests {
    use super::super::KINDS;
    use super::super::scenario::SCENARIOS;
    use super::*;

    #[test]
    fn goals_name_what_there_is() {
        for goal in &GOALS {
            assert!(SCENARIOS.iter().any(|one| one.name == goal.scenario), "{}", goal.scenario);
            for peer in [goal.ours, goal.theirs] {
                assert!(KINDS.iter().any(|kind| kind.name == peer), "{peer}");
            }
        }
    }
}
