//! The checkers, checked: defects are put into store and service, and the tests must notice each.
//!
//! The defects are patches in `tests/defects/` (`patch`). All are laid together into one copy of the tree (`tree`),
//! never into the source itself, each behind a switch of its own (`seeded`). So the copy's test programs are built once,
//! and run with one defect after the other (`trial`, `program`); `table` sums up.

mod patch;
mod program;
/// For its own test; the copies are what runs.
#[cfg(test)]
mod seeded;
mod table;
mod tree;
mod trial;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::shell::say;
use crate::workspace;
use patch::Changed;
pub(crate) use patch::Defect;
use table::Table;
pub(crate) use tree::Tree;
use trial::{Suites, Verdict};

/// Where the patches lie.
const DIRECTORY: &str = "tests/defects";

/// What tells a process with which defect it runs.
const SWITCHES: &str = include_str!("seeded.rs");

/// All defects, by name.
fn all(root: &Path) -> Result<Vec<Defect>> {
    let mut defects = Vec::new();
    for entry in fs::read_dir(root.join(DIRECTORY))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "patch") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path)?;
            let defect = Defect::parse(&name, &text).with_context(|| format!("in {}", path.display()))?;
            ensure!(defect.has_switch(), "{name} cannot be switched off: no seeded() in its lines");
            defects.push(defect);
        }
    }
    defects.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(defects)
}

/// The files of the copy that differ: with the defects in them, and with the switches.
fn switched(defects: &[Defect], root: &Path) -> Result<Changed> {
    let mut changed = patch::lay(defects, root)?;
    let paths: Vec<String> = changed.keys().cloned().collect();
    for path in paths {
        let (package, _) =
            path.split_once("/src/").with_context(|| format!("{path} is no package's source"))?;
        if changed.insert(format!("{package}/src/seeded.rs"), SWITCHES.to_owned()).is_none() {
            let library = format!("{package}/src/lib.rs");
            let text = match changed.remove(&library) {
                Some(text) => text,
                None => {
                    fs::read_to_string(root.join(&library)).with_context(|| format!("reading {library}"))?
                }
            };
            changed.insert(library, text + "\nextern crate std;\nmod seeded;\n");
        }
    }
    Ok(changed)
}

/// The copy of the tree with all defects in it.
fn tree(defects: &[Defect]) -> Result<Tree> {
    let root = workspace::root();
    Tree::copy(root, &workspace::artefacts().join("defects"), &switched(defects, root)?)
}

/// Cargo at work in the copy: what is built once and run some eighty times is worth more of the compiler's time.
fn cargo(tree: &Tree, arguments: &[&str]) -> Command {
    let mut cargo = tree.cargo(arguments);
    cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "2").env("CARGO_PROFILE_DEV_DEBUG", "false");
    cargo.env("CARGO_INCREMENTAL", "0").stdin(Stdio::null());
    cargo
}

/// Tries the named defects, or all. False if one survived that should not have.
pub fn try_out(names: &[String]) -> Result<bool> {
    let defects = all(workspace::root())?;
    if let Some(unknown) = names.iter().find(|name| defects.iter().all(|defect| defect.name != **name)) {
        bail!("there is no {DIRECTORY}/{unknown}.patch");
    }
    let chosen: Vec<&Defect> =
        defects.iter().filter(|defect| names.is_empty() || names.contains(&defect.name)).collect();
    let tree = tree(&defects)?;
    let mut table = Table::default();
    Suites::of(&tree).try_out(&chosen, names.is_empty(), |defect, verdict| {
        say(format!("{}: {}", defect.name, defect.story));
        match (&defect.equivalent, &verdict) {
            (Some(reason), Verdict::Survived) => println!("{}: survives as expected: {reason}", defect.name),
            _ => println!("{}: {verdict}", defect.name),
        }
        table.enter(defect, verdict);
    })?;
    print!("\n{table}");
    Ok(table.survivors() == 0)
}

/// What belongs to the usual checks: all defects compile, each behind its switch. To try them takes a while.
pub fn check() -> Result<()> {
    let defects = all(workspace::root())?;
    let packages = ["check", "--locked", "--quiet", "--package", "datum-store", "--package", "datum-service"];
    let output = cargo(&tree(&defects)?, &packages).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "a defect does not compile: {errors}");
    say(format!("{} defects compile", defects.len()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A defect whose code has moved on is to be brought after it, or what it stood for is no longer tested.
    #[test]
    fn every_defect_applies() {
        let root = workspace::root();
        let defects = all(root).unwrap();
        assert!(defects.len() >= 25, "only {} defects", defects.len());
        for defect in &defects {
            assert!(!defect.story.is_empty(), "{} has no story", defect.name);
            for (path, text) in defect.apply(root).unwrap_or_else(|error| panic!("{error:#}")) {
                assert_ne!(text, fs::read_to_string(root.join(path)).unwrap(), "{}", defect.name);
            }
        }
        let changed = switched(&defects, root).unwrap_or_else(|error| panic!("{error:#}"));
        let named = |defect: &Defect| format!("crate::seeded::is({:?})", defect.name);
        for defect in &defects {
            assert!(changed.values().any(|text| text.contains(&named(defect))), "{}", defect.name);
        }
    }

    /// A test that is told of and not there would count for nothing.
    #[test]
    fn the_tests_that_defects_name_are_there() {
        let root = workspace::root();
        for defect in all(root).unwrap() {
            for (program, test) in &defect.told_by {
                let text = fs::read_to_string(root.join("tests/tests").join(program).with_extension("rs"));
                assert!(text.is_ok_and(|text| text.contains(&format!("fn {test}()"))), "{program}::{test}");
            }
        }
    }
}
