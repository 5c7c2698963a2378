//! Figures as a table for people and as JSON for everything else.

use std::time::Duration;

use serde_json::{Value, json};

use crate::qemu::Accelerator;

/// One figure.
#[derive(Clone, Debug)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    goal: Option<&'static str>,
}

/// All figures of a run.
#[derive(Debug)]
pub struct Report {
    accelerator: Accelerator,
    figures: Vec<Figure>,
}

impl Report {
    pub(super) fn new(accelerator: Accelerator) -> Report {
        Report { accelerator, figures: Vec::new() }
    }

    /// Adds a figure. The goal is a text beside it and decides nothing.
    pub(super) fn add(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        goal: Option<&'static str>,
    ) {
        let figure = Figure { name: name.into(), value, unit, goal };
        eprintln!("  {}", figure.line());
        self.figures.push(figure);
    }

    /// Adds a median and a 99th percentile, in milliseconds.
    pub(super) fn latency(&mut self, name: &str, samples: &mut [Duration], goal: Option<&'static str>) {
        samples.sort();
        self.add(format!("{name}, median"), milliseconds(percentile(samples, 50)), "ms", None);
        self.add(
            format!("{name}, p99 of {}", samples.len()),
            milliseconds(percentile(samples, 99)),
            "ms",
            goal,
        );
    }

    /// The table.
    pub fn print(&self) {
        println!("\nmeasured under {:?}", self.accelerator);
        self.figures.iter().for_each(|figure| println!("{}", figure.line()));
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let figures = self.figures.iter().map(|figure| {
            json!({ "name": figure.name, "value": figure.value, "unit": figure.unit, "goal": figure.goal })
        });
        json!({ "accelerator": format!("{:?}", self.accelerator), "figures": figures.collect::<Vec<_>>() })
    }
}

impl Figure {
    fn line(&self) -> String {
        let goal = self.goal.map(|goal| format!("goal {goal}")).unwrap_or_default();
        let value =
            if self.value.fract() == 0.0 { format!("{}", self.value) } else { format!("{:.3}", self.value) };
        format!("{:<62} {value:>14} {:<9} {goal}", self.name, self.unit).trim_end().to_owned()
    }
}

/// A percentile of sorted samples, by the nearest rank; zero of none.
pub(super) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).copied().unwrap_or_default()
}

/// The middle one of some values.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_that_were_taken() {
        let samples: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&samples, 50), Duration::from_millis(50));
        assert_eq!(percentile(&samples, 99), Duration::from_millis(99));
        assert_eq!(percentile(&samples[..1], 99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}
