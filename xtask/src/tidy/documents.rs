//! The pages for people: each that readers count on is there and found from the README, and no link leads nowhere.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Report;

/// Where a reader starts.
const README: &str = "README.md";

/// The pages that the README must lead to.
const PAGES: [&str; 7] = [
    "docs/ARCHITECTURE.md",
    "docs/FORMAT.md",
    "docs/PERFORMANCE.md",
    "docs/PROTOCOL.md",
    "docs/RELIABILITY.md",
    "docs/SOUNDNESS.md",
    "docs/TESTING.md",
];

/// Checks the pages of the repository at `root`.
pub(super) fn check(root: &Path, report: &mut Report) -> Result<()> {
    let readme = fs::read_to_string(root.join(README))?;
    for page in PAGES.iter().filter(|page| !links(&readme).any(|(_, link)| link == **page)) {
        report.error(&root.join(README), 0, format!("it does not lead to {page}"));
    }
    for path in pages(root)? {
        let text = fs::read_to_string(&path)?;
        let directory = path.parent().unwrap_or(root);
        for (line, link) in links(&text).filter(|(_, link)| !leads_somewhere(directory, link)) {
            report.error(&path, line, format!("the link to {link} leads nowhere"));
        }
        report.files += 1;
    }
    Ok(())
}

/// All pages at the top and in docs/.
fn pages(root: &Path) -> Result<Vec<PathBuf>> {
    let mut pages = Vec::new();
    for directory in [root.to_owned(), root.join("docs")] {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    Ok(pages)
}

/// The targets of a page's links, each with its line, counted from 1.
fn links(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().flat_map(|(number, line)| {
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        targets.map(move |(target, _)| (number + 1, target))
    })
}

/// Whether a link is to a place outside, to a heading of its own page, or to a file that is there.
fn leads_somewhere(directory: &Path, link: &str) -> bool {
    let file = link.split('#').next().unwrap_or_default();
    file.is_empty() || link.contains("://") || directory.join(file).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_with_their_lines() {
        let text = "no link\n[a](docs/A.md) and [b](https://b.example/)\n";
        assert_eq!(links(text).collect::<Vec<_>>(), [(2, "docs/A.md"), (2, "https://b.example/")]);
    }

    #[test]
    fn a_link_to_a_missing_file_leads_nowhere() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        for link in ["Cargo.toml", "src/main.rs#L1", "#heading", "https://example.org/"] {
            assert!(leads_somewhere(here, link), "{link}");
        }
        assert!(!leads_somewhere(here, "docs/MISSING.md"));
    }

    #[test]
    fn a_readme_that_leads_to_no_page_is_told_so() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("docs")).unwrap();
        fs::write(root.path().join(README), "[gone](docs/GONE.md)\n").unwrap();
        let mut report = Report::default();
        check(root.path(), &mut report).unwrap();
        assert_eq!(report.errors.len(), PAGES.len() + 1, "{:?}", report.errors);
    }
}
