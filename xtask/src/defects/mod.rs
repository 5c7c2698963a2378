//! The checkers, checked: defects are put into the store one at a time, and the tests must notice each.
//!
//! The defects are patches in `tests/defects/` (`patch`). They are applied to a copy of the tree
//! (`tree`), never to the source itself, and the copy's tests are run (`trial`).

mod patch;
mod tree;
mod trial;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::shell::say;
use crate::workspace;
pub(crate) use patch::Defect;
pub(crate) use tree::Tree;
use trial::trial;

/// Where the patches lie.
const DIRECTORY: &str = "tests/defects";

/// All defects, by name.
fn all(root: &Path) -> Result<Vec<Defect>> {
    let mut defects = Vec::new();
    for entry in fs::read_dir(root.join(DIRECTORY))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "patch") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path)?;
            defects.push(Defect::parse(&name, &text).with_context(|| format!("in {}", path.display()))?);
        }
    }
    defects.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(defects)
}

/// Where the copy of the tree is made, and what is built of it.
fn place() -> PathBuf {
    workspace::artefacts().join("defects")
}

/// Tries the named defects, or all. False if one survived that should not have.
pub fn try_out(names: &[String]) -> Result<bool> {
    let root = workspace::root();
    let defects = all(root)?;
    if let Some(unknown) = names.iter().find(|name| defects.iter().all(|defect| defect.name != **name)) {
        anyhow::bail!("there is no {DIRECTORY}/{unknown}.patch");
    }
    let chosen: Vec<&Defect> =
        defects.iter().filter(|defect| names.is_empty() || names.contains(&defect.name)).collect();
    let tree = Tree::copy(root, &place())?;
    if names.is_empty() {
        tree.compile(&defects)?;
        say("the suites without a defect");
        let sound = trial(&tree)?;
        ensure!(sound.caught.is_none(), "tests fail without any defect: {sound}");
    }
    let mut survivors = 0;
    for defect in &chosen {
        say(format!("{}: {}", defect.name, defect.story));
        let verdict = tree.with(defect, || trial(&tree))?;
        match &defect.equivalent {
            Some(reason) if verdict.caught.is_none() => {
                println!("{}: survives as expected: {reason}", defect.name)
            }
            _ => println!("{}: {verdict}", defect.name),
        }
        survivors += usize::from(verdict.caught.is_none() && defect.equivalent.is_none());
    }
    println!("{} defects tried, {survivors} survived", chosen.len());
    Ok(survivors == 0)
}

/// What belongs to the usual checks: every defect compiles. To try them takes a build for each.
pub fn check() -> Result<()> {
    let root = workspace::root();
    let defects = all(root)?;
    Tree::copy(root, &place())?.compile(&defects)?;
    say(format!("{} defects compile", defects.len()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A defect whose code has moved on is to be brought after it, or what it stood for is no longer tested.
    #[test]
    fn every_defect_applies() {
        let defects = all(workspace::root()).unwrap();
        assert!(defects.len() >= 25, "only {} defects", defects.len());
        for defect in &defects {
            assert!(!defect.story.is_empty(), "{} has no story", defect.name);
            let changed = defect.apply(workspace::root()).unwrap_or_else(|error| panic!("{error:#}"));
            for (path, text) in changed {
                assert_ne!(
                    text,
                    fs::read_to_string(workspace::root().join(path)).unwrap(),
                    "{}",
                    defect.name
                );
            }
        }
    }
}
