//! Follows `mod` lines from each target of a package: which files belong to it, which only to its tests, and
//! which to nothing at all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use super::source::{Source, words};
use crate::workspace::{items, text};

/// The files of a package.
pub(super) struct Tree {
    directory: PathBuf,
    /// The roots of libraries and programs.
    pub(super) roots: Vec<PathBuf>,
    /// Every reached file, and whether only tests reach it.
    pub(super) files: BTreeMap<PathBuf, bool>,
}

/// A `mod` line.
struct Declaration {
    name: String,
    /// The value of its `#[path]`, if it has one.
    path: Option<String>,
    for_tests: bool,
}

impl Tree {
    pub(super) fn of(package: &Value) -> Result<Tree> {
        let manifest = Path::new(text(&package["manifest_path"]));
        let directory = manifest.parent().unwrap_or(manifest).to_owned();
        let mut tree = Tree { directory, roots: Vec::new(), files: BTreeMap::new() };
        for target in items(&package["targets"]) {
            let root = PathBuf::from(text(&target["src_path"]));
            let in_tests =
                items(&target["kind"]).any(|kind| kind == "test" || kind == "bench" || kind == "example");
            if items(&target["kind"]).any(|kind| kind == "lib" || kind == "bin") {
                tree.roots.push(root.clone());
            }
            let parent = root.parent().unwrap_or(&root).to_owned();
            tree.follow(&root, &parent, in_tests)?;
        }
        Ok(tree)
    }

    /// Adds a file and the modules it declares, which lie in `children`.
    fn follow(&mut self, file: &Path, children: &Path, in_tests: bool) -> Result<()> {
        // A file seen as a test's is looked at again where the product reaches it too.
        if self.files.get(file).is_some_and(|only_tests| !only_tests || in_tests) {
            return Ok(());
        }
        self.files.insert(file.to_owned(), in_tests);
        for module in declarations(&Source::read(file, in_tests)?) {
            let in_tests = in_tests || module.for_tests;
            if let Some(path) = &module.path {
                let file = file.parent().unwrap_or(file).join(path);
                self.follow(&file, file.parent().unwrap_or(&file), in_tests)?;
                continue;
            }
            let directory = children.join(&module.name);
            let candidates = [children.join(format!("{}.rs", module.name)), directory.join("mod.rs")];
            // Where neither exists the compiler says so.
            if let Some(found) = candidates.iter().find(|candidate| candidate.is_file()) {
                self.follow(found, &directory, in_tests)?;
            }
        }
        Ok(())
    }

    /// The package's files that nothing reaches. A package inside the directory has its own tree.
    pub(super) fn dead_files(&self) -> Result<Vec<PathBuf>> {
        let mut dead = Vec::new();
        self.look_through(&self.directory, &mut dead)?;
        Ok(dead)
    }

    fn look_through(&self, directory: &Path, dead: &mut Vec<PathBuf>) -> Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if path.is_dir() && !hidden && !path.ends_with("target") && !path.join("Cargo.toml").exists() {
                self.look_through(&path, dead)?;
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !self.files.contains_key(&path)
            {
                dead.push(path);
            }
        }
        Ok(())
    }
}

/// The `mod name;` lines of a file, with what their attributes say.
fn declarations(source: &Source) -> Vec<Declaration> {
    words(&source.code, "mod").filter_map(|start| declaration(source, start)).collect()
}

fn declaration(source: &Source, start: usize) -> Option<Declaration> {
    let rest = source.code[start + 3..].trim_start();
    let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    let (name, rest) = rest.split_at(length);
    if name.is_empty() || !rest.trim_start().starts_with(';') {
        return None;
    }
    let attributes = source.code[..start].rfind([';', '}', '{']).map_or(0, |end| end + 1)..start;
    let path = words(&source.code[attributes.clone()], "path").next().and_then(|offset| {
        let mut quoted = source.text[attributes.start + offset..start].split('"');
        quoted.nth(1).map(str::to_owned)
    });
    let for_tests = source.code[attributes].contains("cfg(test)");
    Some(Declaration { name: name.to_owned(), path, for_tests })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let at = |name: &str| directory.path().join(name).display().to_string();
        let tree = Tree::of(&json!({
            "manifest_path": at("Cargo.toml"),
            "targets": [{ "kind": ["lib"], "src_path": at("src/lib.rs") }],
        }));
        (directory, tree.unwrap())
    }

    #[test]
    fn every_way_to_declare_a_module_is_followed() {
        let (directory, tree) = package(&[
            (
                "src/lib.rs",
                "mod a;\npub(crate) mod b;\n#[cfg(test)]\nmod story;\nmod inline { }\n// mod dead;\n#[path = \"odd/name.rs\"]\nmod odd;",
            ),
            ("src/a.rs", "mod deep;"),
            ("src/a/deep.rs", ""),
            ("src/b/mod.rs", "mod deep;"),
            ("src/b/deep.rs", ""),
            ("src/story.rs", ""),
            ("src/odd/name.rs", ""),
            ("src/dead.rs", ""),
        ]);
        assert_eq!(tree.dead_files().unwrap(), [directory.path().join("src/dead.rs")]);
        assert!(tree.files[&directory.path().join("src/story.rs")]);
        assert!(!tree.files[&directory.path().join("src/b/deep.rs")]);
    }
}
