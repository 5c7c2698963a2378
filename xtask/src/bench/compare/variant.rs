//! The appliance with a part of it left out, to see what that part costs.
//!
//! The variants are patches in `tests/variants/`, of the same kind as the seeded defects. Each is put into a copy of
//! the tree of its own, so that nothing of it is in the product.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::defects::{Defect, Tree};
use crate::workspace::{self, BARE_TARGET, artefacts};
use crate::{kernel, shell};

const DIRECTORY: &str = "tests/variants";

/// Builds the kernel of a variant.
pub(in crate::bench) fn build(name: &str) -> Result<PathBuf> {
    let mut cargo = tree(name)?.cargo(&["build", "--locked", "--release"]);
    cargo.args(["--package", kernel::PACKAGE, "--target", BARE_TARGET]);
    shell::say(shell::describe(&cargo));
    let messages = shell::output(cargo.arg("--message-format=json-render-diagnostics"))?;
    kernel::executable(&messages).with_context(|| format!("the variant {name} built no kernel"))
}

/// Builds a program of a variant's tests.
pub(in crate::bench) fn build_native(name: &str, program: &str) -> Result<PathBuf> {
    let tree = tree(name)?;
    super::datum::build_native(tree.cargo(&[]), program)
        .with_context(|| format!("building the variant {name}"))
}

fn tree(name: &str) -> Result<Tree> {
    let (root, place) = (workspace::root(), artefacts().join("variants").join(name));
    Tree::copy(root, &place, &read(name)?.apply(root)?)
}

fn read(name: &str) -> Result<Defect> {
    let path = workspace::root().join(DIRECTORY).join(name).with_extension("patch");
    Defect::parse(name, &fs::read_to_string(&path).with_context(|| path.display().to_string())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A variant whose lines have moved on is to be brought after them, or what it left out can no longer be priced.
    #[test]
    fn every_variant_applies() {
        for name in ["passthrough", "untracked"] {
            let changed = read(name).unwrap().apply(workspace::root());
            assert!(!changed.unwrap_or_else(|error| panic!("{error:#}")).is_empty());
        }
    }
}
