//! What an exploration counts, and how it tells that something failed.

use std::fmt::Write;
use std::ops::AddAssign;
use std::time::Duration;

/// Counts of one worker or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sequences run.
    pub sequences: u64,
    /// Moments at which the power could fail.
    pub boundaries: u64,
    /// Different pairs of disk contents and allowed states, each recovered and checked.
    pub states: u64,
    /// The same, for a power loss during a recovery.
    pub nested: u64,
    /// The same, for a power loss during the recovery from such a one.
    pub nested_twice: u64,
    /// Power losses that left a state seen before.
    pub repeated: u64,
    /// Power losses left out to keep within bounds.
    pub left_out: u64,
    /// The same, of power losses in a recovery.
    pub nested_left_out: u64,
    /// Operations carried out on store and model.
    pub operations: u64,
    /// Requests that reached simulated disks.
    pub requests: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.sequences += other.sequences;
        self.boundaries += other.boundaries;
        self.states += other.states;
        self.nested += other.nested;
        self.nested_twice += other.nested_twice;
        self.repeated += other.repeated;
        self.left_out += other.left_out;
        self.nested_left_out += other.nested_left_out;
        self.operations += other.operations;
        self.requests += other.requests;
    }
}

/// What went wrong, by the promise that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The pool stands at no allowed state.
    Lost,
    /// A block holds what nobody wrote, or does not verify.
    WrongBytes,
    /// Anything else: a leak, a refused operation, a panic of the store.
    Other,
}

/// One failure.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Where: the argument of `--replay`.
    pub place: String,
    /// The seed of the run.
    pub seed: u64,
    /// What did not hold.
    pub what: String,
}

impl Failure {
    /// Which promise it breaks.
    pub fn class(&self) -> Class {
        if self.what.contains("stands at no state") {
            Class::Lost
        } else if self.what.contains("nobody ever wrote") || self.what.contains("wrong block") {
            Class::WrongBytes
        } else {
            Class::Other
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let parts: Vec<&str> = self.place.split(':').collect();
        let names = [
            "prelude",
            "operations",
            "moment",
            "unflushed blocks",
            "moment of the recovery",
            "its blocks",
            "moment of the recovery from that",
            "its blocks",
        ];
        let mut text = String::from("after a power loss something does not hold\n");
        for (name, part) in names.iter().zip(parts) {
            let _ = writeln!(text, "  {name}: {part}");
        }
        let _ = writeln!(
            text,
            "  (blocks: w whole, t torn, - absent, in the order of submission)\n{}",
            self.what
        );
        let _ = write!(text, "replay: cargo xtask sim --seed {} --replay '{}'", self.seed, self.place);
        text
    }
}

/// What an exploration came to.
#[derive(Debug)]
pub struct Report {
    /// All counts.
    pub counts: Counts,
    /// What failed, the first few.
    pub failures: Vec<Failure>,
    /// How long it took.
    pub elapsed: Duration,
    /// Whether every sequence asked for has run.
    pub complete: bool,
}

impl Report {
    /// The table.
    pub fn table(&self) -> String {
        let c = &self.counts;
        let seconds = self.elapsed.as_secs_f64().max(0.001);
        let of = |class| self.failures.iter().filter(|failure| failure.class() == class).count() as u64;
        let rows = [
            ("sequences", c.sequences),
            ("moments", c.boundaries),
            ("unique crash states", c.states),
            ("  of them in a recovery", c.nested),
            ("  in the recovery from one", c.nested_twice),
            ("crash states seen before", c.repeated),
            ("crash states left out", c.left_out),
            ("  in a recovery", c.nested_left_out),
            ("operations", c.operations),
            ("operations a second", (c.operations as f64 / seconds) as u64),
            ("simulated requests", c.requests),
            ("seconds", seconds as u64),
            ("acknowledged changes lost", of(Class::Lost)),
            ("wrong bytes", of(Class::WrongBytes)),
            ("other failures", of(Class::Other)),
        ];
        let mut table = rows.iter().fold(String::new(), |mut table, (name, value)| {
            let _ = writeln!(table, "{name:<26} {value:>12}");
            table
        });
        let _ = match self.complete {
            true => writeln!(table, "all sequences asked for have run"),
            false => writeln!(table, "the time was up before all sequences had run"),
        };
        table
    }
}
