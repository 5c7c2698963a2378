//! The table at the end: one line a step.

use std::time::{Duration, Instant};

/// One step. A column that means nothing for it stays empty.
#[derive(Debug)]
pub(super) struct Row {
    step: &'static str,
    bytes: Option<u64>,
    changed: Option<u64>,
    copied: Option<u64>,
    took: Duration,
}

impl Row {
    pub(super) fn new(step: &'static str) -> Row {
        Row { step, bytes: None, changed: None, copied: None, took: Duration::ZERO }
    }

    /// What the step was about.
    pub(super) fn bytes(mut self, bytes: u64) -> Row {
        self.bytes = Some(bytes);
        self
    }

    /// What of that had changed.
    pub(super) fn changed(mut self, bytes: u64) -> Row {
        self.changed = Some(bytes);
        self
    }

    /// What passed the NBD connection towards the client.
    pub(super) fn copied(mut self, bytes: u64) -> Row {
        self.copied = Some(bytes);
        self
    }

    /// How long it took, until now.
    pub(super) fn since(mut self, started: Instant) -> Row {
        self.took = started.elapsed();
        self
    }

    fn line(&self) -> String {
        let column = |bytes: Option<u64>| bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
        format!(
            "{:<20} {:>12} {:>12} {:>12} {:>9.3}",
            self.step,
            column(self.bytes),
            column(self.changed),
            column(self.copied),
            self.took.as_secs_f64()
        )
    }
}

/// Prints the steps. "copied" is counted on the NBD connection and includes the protocol's own bytes.
pub(super) fn print(rows: &[Row]) {
    println!("\n{:<20} {:>12} {:>12} {:>12} {:>9}", "", "bytes", "changed", "copied", "seconds");
    rows.iter().for_each(|row| println!("{}", row.line()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_columns_keep_their_width() {
        let row = Row::new("checkpoint").changed(12);
        assert_eq!(row.line(), "checkpoint                                  12                  0.000");
    }
}
