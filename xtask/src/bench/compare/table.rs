//! What came of a comparison: a table for people, JSON for programs.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::chart::{self, Bar};
use super::goals;
use super::load::Outcome;
use super::peer::Side;
use super::scenario::Scenario;

/// One turn of a peer.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) outcome: Outcome,
    /// Processor time of the peer's own code, in seconds; in a machine also what runs in it.
    pub(super) user: f64,
    /// Processor time of the host's kernel for the peer.
    pub(super) system: f64,
    /// From its start to its end, the flush included.
    pub(super) lasted: f64,
}

/// One peer in one scenario.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) scenario: &'static Scenario,
    pub(super) peer: &'static str,
    pub(super) side: Side,
    pub(super) turns: Vec<Turn>,
}

impl Row {
    pub(super) fn new(scenario: &'static Scenario, peer: &'static str, side: Side) -> Row {
        Row { scenario, peer, side, turns: Vec::new() }
    }

    fn rates(&self) -> Vec<f64> {
        sorted(self.turns.iter().map(|turn| turn.outcome.rate()))
    }

    /// Requests a second where the flush after them counts too.
    fn durable_rate(&self) -> f64 {
        median(&sorted(self.turns.iter().map(|turn| {
            let outcome = &turn.outcome;
            outcome.requests as f64 / (outcome.seconds + outcome.flush_seconds)
        })))
    }

    fn latency(&self, percent: usize) -> f64 {
        median(&sorted(self.turns.iter().map(|turn| f64::from(turn.outcome.latency(percent)))))
    }

    /// Microseconds of processor time for one request.
    fn busy(&self, time: fn(&Turn) -> f64) -> f64 {
        median(&sorted(self.turns.iter().map(|turn| time(turn) * 1e6 / turn.outcome.requests.max(1) as f64)))
    }

    fn bar(&self) -> Bar<'_> {
        let rates = self.rates();
        let end = |value: Option<&f64>| value.copied().unwrap_or(0.0);
        let ours = self.peer.starts_with("datum");
        Bar {
            name: self.peer,
            ours,
            median: median(&rates),
            least: end(rates.first()),
            most: end(rates.last()),
        }
    }

    fn mebibytes(&self) -> f64 {
        median(&self.rates()) * f64::from(self.scenario.load.length) / f64::from(1 << 20)
    }
}

/// How many times as fast one peer is as another, turn by turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ratios {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Ratios {
    fn of(ours: &Row, theirs: &Row) -> Ratios {
        let pairs = ours.turns.iter().zip(&theirs.turns);
        let ratios = sorted(pairs.map(|(ours, theirs)| ours.outcome.rate() / theirs.outcome.rate()));
        let end = |value: Option<&f64>| value.copied().unwrap_or(0.0);
        Ratios { median: median(&ratios), least: end(ratios.first()), most: end(ratios.last()) }
    }
}

/// All rows of a run.
#[derive(Debug)]
pub struct Table {
    turn: Duration,
    repeat: usize,
    size: u64,
    rows: Vec<Row>,
}

impl Table {
    pub(super) fn new(turn: Duration, repeat: usize, size: u64) -> Table {
        Table { turn, repeat, size, rows: Vec::new() }
    }

    pub(super) fn add(&mut self, row: Row) {
        let line = self.line(&row);
        eprintln!("  {line}");
        self.rows.push(row);
    }

    /// How many times as fast as this row Datum is on its side of the machine; nothing for Datum itself.
    fn ratio(&self, row: &Row) -> Option<f64> {
        let ours = |other: &&Row| {
            std::ptr::eq(other.scenario, row.scenario)
                && other.side == row.side
                && other.peer.starts_with("datum")
        };
        let ours = self.rows.iter().find(ours).filter(|ours| ours.peer != row.peer)?;
        Some(Ratios::of(ours, row).median)
    }

    /// The same between any two peers in a scenario, where both were measured.
    pub(super) fn ratios(&self, scenario: &str, ours: &str, theirs: &str) -> Option<Ratios> {
        let row = |peer| self.rows.iter().find(|row| (row.scenario.name, row.peer) == (scenario, peer));
        Some(Ratios::of(row(ours)?, row(theirs)?))
    }

    fn line(&self, row: &Row) -> String {
        let rates = row.rates();
        let (least, most) = (rates.first().copied().unwrap_or(0.0), rates.last().copied().unwrap_or(0.0));
        let ratio = self.ratio(row).map(|ratio| format!("{ratio:7.2}")).unwrap_or_default();
        format!(
            "{:<22} {:<18} {:>9.0} {:>9.0} {:>9.0} {:>8.1} {:>9.0} {:>8.0} {:>8.0} {:>8.1} {:>9.1} {ratio}",
            row.scenario.name,
            row.peer,
            median(&rates),
            least,
            most,
            row.mebibytes(),
            row.durable_rate(),
            row.latency(50),
            row.latency(99),
            row.busy(|turn| turn.user),
            row.busy(|turn| turn.system),
        )
        .trim_end()
        .to_owned()
    }

    /// The table.
    pub fn print(&self) {
        println!(
            "\n{} turns of {:?} each, {} MiB of the volume in use, load average {}",
            self.repeat,
            self.turn,
            self.size >> 20,
            load_average()
        );
        println!(
            "{:<22} {:<18} {:>9} {:>9} {:>9} {:>8} {:>9} {:>8} {:>8} {:>8} {:>9} {:>7}",
            "scenario",
            "peer",
            "per s",
            "least",
            "most",
            "MiB/s",
            "flushed/s",
            "p50 µs",
            "p99 µs",
            "user µs",
            "system µs",
            "datum ×"
        );
        self.rows.iter().for_each(|row| println!("{}", self.line(row)));
        let goals = goals::lines(self);
        if !goals.is_empty() {
            println!("\n{}", goals::header());
            goals.iter().for_each(|line| println!("{line}"));
        }
    }

    /// A picture of each scenario, by its name.
    pub fn charts(&self) -> Vec<(&'static str, String)> {
        let of_one = self.rows.chunk_by(|a, b| a.scenario.name == b.scenario.name);
        let charts = of_one.map(|rows| {
            let name = rows[0].scenario.name;
            let bars: Vec<_> = rows.iter().map(Row::bar).collect();
            (name, chart::svg(&format!("{name}: requests a second"), &bars))
        });
        charts.collect()
    }

    /// The same for programs, with every turn.
    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let turns = row.turns.iter().map(|turn| {
                json!({
                    "requests": turn.outcome.requests,
                    "seconds": turn.outcome.seconds,
                    "flush_seconds": turn.outcome.flush_seconds,
                    "p50_us": turn.outcome.latency(50),
                    "p99_us": turn.outcome.latency(99),
                    "user_seconds": turn.user,
                    "system_seconds": turn.system,
                    "lasted_seconds": turn.lasted,
                })
            });
            json!({
                "scenario": row.scenario.name,
                "peer": row.peer,
                "side": format!("{:?}", row.side),
                "length": row.scenario.load.length,
                "depth": row.scenario.load.depth,
                "per_second": median(&row.rates()),
                "datum_times": self.ratio(row),
                "turns": turns.collect::<Vec<_>>(),
            })
        });
        json!({
            "turn_seconds": self.turn.as_secs_f64(),
            "size": self.size,
            "load_average": load_average(),
            "rows": rows.collect::<Vec<_>>(),
        })
    }
}

/// What else the machine does, as Linux tells it.
fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The middle of sorted values; the mean of two where there is none.
fn median(sorted: &[f64]) -> f64 {
    match sorted {
        [] => 0.0,
        _ => (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
        assert_eq!(median(&[]), 0.0);
    }
}
