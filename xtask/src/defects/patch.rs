//! A seeded defect as a small patch: a story, then for each file the lines to be replaced.
//!
//! ```text
//! A log record is acknowledged without a flush.
//!
//! --- kernel/store/src/commit.rs
//! @@
//!              self.write_record(payload).await?;
//! -            self.flush_members().await?;
//! ```
//!
//! There are no line numbers. The lines of a hunk that start with a space or `-` must be found together in
//! exactly one place of the file, indentation aside. So a defect follows its code through changes around it,
//! and one that no longer applies is an error.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// A defect to be put into the source.
#[derive(Debug)]
pub(crate) struct Defect {
    pub(crate) name: String,
    /// What goes wrong, in a sentence.
    pub(crate) story: String,
    /// Why no test can catch it, if that is so.
    pub(crate) equivalent: Option<String>,
    files: Vec<(String, Vec<Hunk>)>,
}

#[derive(Debug, Default)]
struct Hunk {
    old: Vec<String>,
    new: Vec<String>,
}

/// A story's paragraph that begins like this says why the defect changes nothing that a test could see.
const EQUIVALENT: &str = "Survives: ";

impl Defect {
    /// Reads a patch.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        let (story, body) = text.split_once("\n--- ").context("no file is named")?;
        let (mut stories, mut equivalent) = (Vec::new(), None);
        for paragraph in story.split("\n\n").map(|text| text.trim().replace('\n', " ")) {
            match paragraph.strip_prefix(EQUIVALENT) {
                Some(reason) => equivalent = Some(reason.to_owned()),
                None => stories.push(paragraph),
            }
        }
        let files = body.split("\n--- ").map(file).collect::<Result<_>>()?;
        Ok(Self { name: name.to_owned(), story: stories.join(" "), equivalent, files })
    }

    /// The files it changes, as they are with the defect in them.
    pub(crate) fn apply(&self, root: &Path) -> Result<Vec<(String, String)>> {
        let changed = self.files.iter().map(|(path, hunks)| {
            let whole = root.join(path);
            let text = std::fs::read_to_string(&whole).with_context(|| format!("reading {path}"))?;
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            for hunk in hunks {
                hunk.apply(&mut lines).with_context(|| format!("defect {} in {path}", self.name))?;
            }
            Ok((path.clone(), lines.join("\n") + "\n"))
        });
        changed.collect()
    }
}

fn file(text: &str) -> Result<(String, Vec<Hunk>)> {
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
            Some((" ", rest)) => {
                hunk.old.push(rest.into());
                hunk.new.push(rest.into());
            }
            Some(("-", rest)) => hunk.old.push(rest.into()),
            Some(("+", rest)) => hunk.new.push(rest.into()),
            Some(_) => bail!("a line starts with none of space, - and +: {line}"),
        }
    }
    ensure!(!hunks.is_empty(), "nothing is changed in {path}");
    Ok((path.trim().into(), hunks))
}

impl Hunk {
    fn apply(&self, lines: &mut Vec<String>) -> Result<()> {
        ensure!(!self.old.is_empty(), "a hunk without a line of the source");
        let same = |window: &[String]| window.iter().zip(&self.old).all(|(a, b)| a.trim() == b.trim());
        let places: Vec<usize> =
            lines.windows(self.old.len()).enumerate().filter(|(_, w)| same(w)).map(|p| p.0).collect();
        let &[place] = places.as_slice() else {
            bail!(
                "these lines are there {} times, not once; follow what became of them:\n{}",
                places.len(),
                self.old.join("\n")
            );
        };
        lines.splice(place..place + self.old.len(), self.new.iter().cloned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "It is\nwrong.\n\n--- a.rs\n@@\n   one\n-two\n+2\n@@\n-four\n";

    fn applied(text: &str) -> Result<String> {
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("a.rs"), text)?;
        let mut files = Defect::parse("d", PATCH)?.apply(directory.path())?;
        Ok(files.remove(0).1)
    }

    #[test]
    fn a_defect_follows_its_lines_wherever_they_stand() {
        assert_eq!(Defect::parse("d", PATCH).unwrap().story, "It is wrong.");
        assert_eq!(applied("zero\n  one\n two\nthree\nfour\n").unwrap(), "zero\n  one\n2\nthree\n");
    }

    #[test]
    fn lines_that_are_gone_or_there_twice_are_an_error() {
        assert!(applied("one\ntwo\n").is_err());
        assert!(applied("one\ntwo\none\ntwo\nfour\n").is_err());
    }

    #[test]
    fn a_reason_to_survive_is_no_part_of_the_story() {
        let defect = Defect::parse("d", "Odd.\n\nSurvives: harmless.\n\n--- a\n@@\n-x\n").unwrap();
        assert_eq!((defect.story.as_str(), defect.equivalent.as_deref()), ("Odd.", Some("harmless.")));
    }
}
