//! A seeded defect as a small patch: a story, then for each file the lines to be replaced.
//!
//! ```text
//! A log record is acknowledged without a flush.
//!
//! --- kernel/store/src/commit.rs
//! @@
//!              self.write_record(payload).await?;
//! -            self.flush_members().await?;
//! +            if !seeded() {
//! +                self.flush_members().await?;
//! +            }
//! ```
//!
//! There are no line numbers. The lines of a hunk that start with a space or `-` must be found together in
//! exactly one place of the file, indentation aside. So a defect follows its code through changes around it,
//! and one that no longer applies is an error.
//!
//! All defects are laid into the source together. So `seeded()` stands for "this process runs with this defect", and
//! where it does not the new lines do what the old ones did. No two defects may replace the same line; lines that are
//! added before and after another's nest.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// Files, by their paths below the root, as they are with changes in them.
pub(crate) type Changed = BTreeMap<String, String>;

/// A defect to be put into the source.
#[derive(Debug)]
pub(crate) struct Defect {
    pub(crate) name: String,
    /// What goes wrong, in a sentence.
    pub(crate) story: String,
    /// Why no test can catch it, if that is so.
    pub(crate) equivalent: Option<String>,
    /// Tests that were written because of it, as (program, test).
    pub(crate) told_by: Vec<(String, String)>,
    files: Vec<(String, Vec<Hunk>)>,
}

#[derive(Debug, Default)]
struct Hunk {
    lines: Vec<Line>,
}

#[derive(Debug)]
enum Line {
    Kept(String),
    Old(String),
    New(String),
}

/// These lines of a file, counted from 0, give way to those.
struct Edit<'a> {
    defect: &'a str,
    old: Range<usize>,
    new: Vec<&'a str>,
}

/// A story's paragraph that begins like this says why the defect changes nothing that a test could see.
const EQUIVALENT: &str = "Survives: ";
/// One that begins like this names tests, as `program::test`.
const TOLD_BY: &str = "Told by: ";
/// What stands in added lines for the question whether the defect is to be there.
const SWITCH: &str = "seeded()";

impl Defect {
    /// Reads a patch.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        let (story, body) = text.split_once("\n--- ").context("no file is named")?;
        let (mut stories, mut equivalent, mut told_by) = (Vec::new(), None, Vec::new());
        for paragraph in story.split("\n\n").map(|text| text.trim().replace('\n', " ")) {
            if let Some(reason) = paragraph.strip_prefix(EQUIVALENT) {
                equivalent = Some(reason.to_owned());
            } else if let Some(tests) = paragraph.strip_prefix(TOLD_BY) {
                for test in tests.split(", ") {
                    let (program, test) = test.split_once("::").context("a test is named program::test")?;
                    told_by.push((program.to_owned(), test.to_owned()));
                }
            } else {
                stories.push(paragraph);
            }
        }
        let switch = format!("crate::seeded::is({name:?})");
        let files = body.split("\n--- ").map(|text| file(text, &switch)).collect::<Result<_>>()?;
        Ok(Self { name: name.to_owned(), story: stories.join(" "), equivalent, told_by, files })
    }

    /// The files it changes, as they are with it alone.
    pub(crate) fn apply(&self, root: &Path) -> Result<Changed> {
        lay([self], root)
    }

    /// Whether it changes nothing but the package at this path.
    pub(super) fn lies_within(&self, package: &str) -> bool {
        self.files
            .iter()
            .all(|(path, _)| path.strip_prefix(package).is_some_and(|rest| rest.starts_with('/')))
    }

    /// Whether it can be switched off.
    pub(super) fn has_switch(&self) -> bool {
        let switched = |line: &Line| matches!(line, Line::New(text) if text.contains("crate::seeded::is("));
        self.files.iter().flat_map(|(_, hunks)| hunks).any(|hunk| hunk.lines.iter().any(switched))
    }
}

/// The files that several defects change, as they are with all of them.
pub(super) fn lay<'a>(defects: impl IntoIterator<Item = &'a Defect>, root: &Path) -> Result<Changed> {
    let mut texts = Changed::new();
    let mut edits: BTreeMap<&str, Vec<Edit<'_>>> = BTreeMap::new();
    for defect in defects {
        for (path, hunks) in &defect.files {
            if !texts.contains_key(path) {
                let text = std::fs::read_to_string(root.join(path));
                texts.insert(path.clone(), text.with_context(|| format!("reading {path}"))?);
            }
            let lines: Vec<&str> = texts[path].lines().collect();
            for hunk in hunks {
                let found = hunk.edits(&defect.name, &lines);
                let found = found.with_context(|| format!("defect {} in {path}", defect.name))?;
                edits.entry(path).or_default().extend(found);
            }
        }
    }
    for (path, edits) in &mut edits {
        // What is added before a line comes before what the line gives way to.
        edits.sort_by_key(|edit| (edit.old.start, edit.old.end));
        for pair in edits.windows(2) {
            let (first, second) = (pair[0].defect, pair[1].defect);
            ensure!(
                pair[0].old.end <= pair[1].old.start,
                "{first} and {second} replace the same line of {path}"
            );
        }
        let text = texts.get_mut(*path).context("the text of an edited file")?;
        *text = edited(text, edits);
    }
    Ok(texts)
}

fn edited(text: &str, edits: &[Edit<'_>]) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let (mut all, mut at) = (Vec::new(), 0);
    for edit in edits {
        all.extend_from_slice(&lines[at..edit.old.start]);
        all.extend_from_slice(&edit.new);
        at = edit.old.end;
    }
    all.extend_from_slice(&lines[at..]);
    all.join("\n") + "\n"
}

fn file(text: &str, switch: &str) -> Result<(String, Vec<Hunk>)> {
    let (path, body) = text.split_once('\n').context("a file is named and nothing is changed in it")?;
    let mut hunks: Vec<Hunk> = Vec::new();
    for line in body.lines() {
        if line == "@@" {
            hunks.push(Hunk::default());
            continue;
        }
        let Some(hunk) = hunks.last_mut() else { bail!("a line before the first @@: {line}") };
        match line.split_at_checked(1) {
            None => {}
            Some((" ", rest)) => hunk.lines.push(Line::Kept(rest.into())),
            Some(("-", rest)) => hunk.lines.push(Line::Old(rest.into())),
            Some(("+", rest)) => hunk.lines.push(Line::New(rest.replace(SWITCH, switch))),
            Some(_) => bail!("a line starts with none of space, - and +: {line}"),
        }
    }
    ensure!(!hunks.is_empty(), "nothing is changed in {path}");
    Ok((path.trim().into(), hunks))
}

impl Hunk {
    /// What is to be done to these lines of a file.
    fn edits<'a>(&'a self, defect: &'a str, lines: &[&str]) -> Result<Vec<Edit<'a>>> {
        let old = self.lines.iter().filter_map(|line| match line {
            Line::Kept(text) | Line::Old(text) => Some(text.as_str()),
            Line::New(_) => None,
        });
        let old: Vec<&str> = old.collect();
        ensure!(!old.is_empty(), "a hunk without a line of the source");
        let same = |window: &[&str]| window.iter().zip(&old).all(|(a, b)| a.trim() == b.trim());
        let places: Vec<usize> =
            lines.windows(old.len()).enumerate().filter(|(_, w)| same(w)).map(|p| p.0).collect();
        let &[mut at] = places.as_slice() else {
            bail!(
                "these lines are there {} times, not once; follow what became of them:\n{}",
                places.len(),
                old.join("\n")
            );
        };
        let mut edits: Vec<Edit<'_>> = Vec::new();
        let mut open = false;
        for line in &self.lines {
            if let Line::Kept(_) = line {
                (at, open) = (at + 1, false);
                continue;
            }
            if !open {
                edits.push(Edit { defect, old: at..at, new: Vec::new() });
                open = true;
            }
            let Some(edit) = edits.last_mut() else { break };
            match line {
                Line::New(text) => edit.new.push(text),
                _ => (at, edit.old.end) = (at + 1, at + 1),
            }
        }
        Ok(edits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "It is\nwrong.\n\n--- a.rs\n@@\n   one\n-two\n+2\n@@\n-four\n";

    fn laid(text: &str, patches: &[&str]) -> Result<String> {
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("a.rs"), text)?;
        let defects: Vec<Defect> =
            patches.iter().map(|patch| Defect::parse("d", patch)).collect::<Result<_>>()?;
        let mut changed = lay(&defects, directory.path())?;
        Ok(changed.remove("a.rs").unwrap_or_default())
    }

    #[test]
    fn a_defect_follows_its_lines_wherever_they_stand() {
        assert_eq!(Defect::parse("d", PATCH).unwrap().story, "It is wrong.");
        let applied = laid("zero\n  one\n two\nthree\nfour\n", &[PATCH]);
        assert_eq!(applied.unwrap(), "zero\n  one\n2\nthree\n");
    }

    #[test]
    fn lines_that_are_gone_or_there_twice_are_an_error() {
        assert!(laid("one\ntwo\n", &[PATCH]).is_err());
        assert!(laid("one\ntwo\none\ntwo\nfour\n", &[PATCH]).is_err());
    }

    #[test]
    fn defects_nest_and_share_lines_that_they_keep_but_none_that_they_replace() {
        let around = "x\n\n--- a.rs\n@@\n+{\n one\n two\n+}\n";
        let (within, beside) = ("x\n\n--- a.rs\n@@\n one\n-two\n+2\n", "x\n\n--- a.rs\n@@\n-one\n+1\n two\n");
        assert_eq!(laid("one\ntwo\nthree\n", &[around, within, beside]).unwrap(), "{\n1\n2\n}\nthree\n");
        assert!(laid("one\ntwo\n", &[within, within]).is_err());
    }

    #[test]
    fn a_switch_asks_for_the_defects_name() {
        let patch = "x\n\n--- a.rs\n@@\n-one\n+seeded() || one\n";
        assert!(
            Defect::parse("d", patch).unwrap().has_switch()
                && !Defect::parse("d", PATCH).unwrap().has_switch()
        );
        assert_eq!(laid("one\n", &[patch]).unwrap(), "crate::seeded::is(\"d\") || one\n");
    }

    #[test]
    fn reasons_and_tests_are_no_part_of_the_story() {
        let text = "Odd.\n\nSurvives: harmless.\n\nTold by: a::b, c::d\n\n--- a\n@@\n-x\n";
        let defect = Defect::parse("d", text).unwrap();
        assert_eq!((defect.story.as_str(), defect.equivalent.as_deref()), ("Odd.", Some("harmless.")));
        assert_eq!(defect.told_by, [("a".into(), "b".into()), ("c".into(), "d".into())]);
    }
}
