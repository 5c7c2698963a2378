//! What came of all defects, as a table for people and for docs/TESTING.md.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::patch::Defect;
use super::trial::Verdict;

/// Which program was first, how often, and how soon.
#[derive(Default)]
pub(super) struct Table {
    caught: BTreeMap<String, Vec<(String, Duration)>>,
    told: Vec<String>,
    survived: Vec<String>,
    equivalent: Vec<String>,
}

impl Table {
    /// Takes in what became of one.
    pub(super) fn enter(&mut self, defect: &Defect, verdict: Verdict) {
        let name = defect.name.clone();
        match verdict {
            Verdict::Caught(catch) => {
                self.caught.entry(catch.program).or_default().push((name, catch.after));
            }
            Verdict::Told(_) => self.told.push(name),
            Verdict::Survived if defect.equivalent.is_some() => self.equivalent.push(name),
            Verdict::Survived => self.survived.push(name),
        }
    }

    /// How many were noticed by no test, or only by one that was written for them.
    pub(super) fn survivors(&self) -> usize {
        self.survived.len() + self.told.len()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "| first noticed by | defects | after |\n|---|---:|---|")?;
        let mut programs: Vec<_> = self.caught.iter().collect();
        programs.sort_by_key(|(_, caught)| std::cmp::Reverse(caught.len()));
        for (program, caught) in programs {
            let times = || caught.iter().map(|(_, after)| after.as_secs_f32());
            let (first, last) = (times().fold(f32::INFINITY, f32::min), times().fold(0.0, f32::max));
            writeln!(out, "| `{program}` | {} | {first:.1} to {last:.1} s |", caught.len())?;
        }
        let rows = [
            ("only what was written for it", &self.told),
            ("nothing, as expected", &self.equivalent),
            ("nothing", &self.survived),
        ];
        for (what, names) in rows.into_iter().filter(|(_, names)| !names.is_empty()) {
            let named: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            writeln!(out, "| {what}: {} | {} | |", named.join(", "), names.len())?;
        }
        let caught: usize = self.caught.values().map(Vec::len).sum();
        writeln!(out, "| noticed, of {} | {caught} | |", caught + self.survivors() + self.equivalent.len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial::Catch;
    use super::*;

    #[test]
    fn a_table_counts_by_program_and_names_who_survived() {
        let defect =
            |name: &str, text: &str| Defect::parse(name, &format!("{text}\n\n--- a\n@@\n-x\n")).unwrap();
        let catch = |seconds| Catch {
            program: "store_random".into(),
            failed: "a".into(),
            after: Duration::from_secs(seconds),
        };
        let mut table = Table::default();
        table.enter(&defect("a", "A."), Verdict::Caught(catch(7)));
        table.enter(&defect("b", "B."), Verdict::Caught(catch(2)));
        table.enter(&defect("c", "C."), Verdict::Told(catch(1)));
        table.enter(&defect("d", "D."), Verdict::Survived);
        table.enter(&defect("e", "E.\n\nSurvives: harmless."), Verdict::Survived);
        assert_eq!(
            table.to_string(),
            "| first noticed by | defects | after |\n|---|---:|---|\n\
             | `store_random` | 2 | 2.0 to 7.0 s |\n\
             | only what was written for it: `c` | 1 | |\n\
             | nothing, as expected: `e` | 1 | |\n\
             | nothing: `d` | 1 | |\n\
             | noticed, of 5 | 2 | |\n"
        );
        assert_eq!(table.survivors(), 2);
    }
}
