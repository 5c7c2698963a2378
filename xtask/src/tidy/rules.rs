//! The rules on single files.

use super::Report;
use super::rooms::Room;
use super::source::{Source, words};

/// A file past this many lines is worth a thought.
const LINES_WARNED: usize = 600;

/// Words that promise work for later. Split, so that this file does not break its own rule.
const PROMISES: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// How long a promise's reason is at least.
const REASON_BYTES_MIN: usize = 12;

/// Calls that panic.
const PANICS: [&str; 2] = [".unwrap()", ".expect(\""];

/// Checks one file.
pub(super) fn check(room: &Room, source: &Source, report: &mut Report) {
    header(source, report);
    promises(source, report);
    length(source, report);
    if !room.unsafe_allowed {
        no_unsafe(room, source, report);
    }
    if room.product {
        no_panics(source, report);
        limits(source, report);
    }
}

/// Checks the root of a library or program: what it must say about the whole package.
pub(super) fn check_root(room: &Room, source: &Source, report: &mut Report) {
    if !room.unsafe_allowed && !source.code.contains("#![forbid(unsafe_code)]") {
        report.error(&source.path, 1, "this room contains no unsafe: say #![forbid(unsafe_code)]");
    }
    if room.bare && words(&source.code, "no_std").next().is_none() {
        report.error(&source.path, 1, "this room does without the standard library: say #![no_std]");
    }
}

/// The first line that is no crate attribute is `//!`.
fn header(source: &Source, report: &mut Report) {
    let mut lines = source.text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("#!"));
    let first = lines.next().unwrap_or_default();
    if first.strip_prefix("//!").is_none_or(|text| text.trim().is_empty()) {
        report.error(
            &source.path,
            1,
            "open the file with `//!`: what it is for, what always holds, who its neighbours are",
        );
    }
}

fn promises(source: &Source, report: &mut Report) {
    for promise in PROMISES {
        for start in words(&source.text, promise) {
            let rest = source.text[start + promise.len()..].lines().next().unwrap_or_default();
            let reason = rest.strip_prefix(':').map(str::trim).unwrap_or_default();
            if reason.len() < REASON_BYTES_MIN {
                report.error(
                    &source.path,
                    source.line(start),
                    format!("{promise} without a reason: say why, or do it"),
                );
            }
        }
    }
}

fn length(source: &Source, report: &mut Report) {
    let lines = source.text.lines().count();
    if lines > LINES_WARNED {
        report.warn(&source.path, 0, format!("{lines} lines: does it hold more than one thing?"));
    }
}

fn no_unsafe(room: &Room, source: &Source, report: &mut Report) {
    for start in words(&source.code, "unsafe") {
        report.error(&source.path, source.line(start), format!("{} may not contain unsafe", room.package));
    }
}

fn no_panics(source: &Source, report: &mut Report) {
    for call in PANICS {
        for (start, _) in source.shipped.match_indices(call) {
            let message = "return an error, or assert with the reason: this panics without one";
            report.error(&source.path, source.line(start), message);
        }
    }
}

/// A bound that nobody explains cannot be changed with confidence.
fn limits(source: &Source, report: &mut Report) {
    if source.path.file_name() != Some("limits.rs".as_ref()) {
        return;
    }
    let mut documented = false;
    for (number, line) in source.text.lines().enumerate() {
        let line = line.trim();
        let constant = ["pub const ", "pub(crate) const "].iter().any(|start| line.starts_with(start));
        if constant && !documented && in_code(source, number) {
            report.error(
                &source.path,
                number + 1,
                "say what this limit bounds and why it is that large, in `///`",
            );
        }
        documented = line.starts_with("///") || (documented && line.starts_with("#["));
    }
}

/// Whether a line, counted from 0, is shipped code.
fn in_code(source: &Source, number: usize) -> bool {
    source.shipped.lines().nth(number).is_some_and(|line| !line.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::rooms::room;
    use super::*;

    fn errors(package: &str, path: &str, text: &str) -> Vec<String> {
        let mut report = Report::default();
        let source = Source::new(Path::new(path), text.into(), false);
        check(room(package).unwrap(), &source, &mut report);
        report.errors.into_iter().map(|finding| format!("{}: {}", finding.line, finding.message)).collect()
    }

    #[test]
    fn a_file_opens_with_its_header() {
        assert!(errors("xtask", "a.rs", "#![forbid(unsafe_code)]\n//! Why.\n").is_empty());
        for text in ["fn a() {}", "//!\nfn a() {}", "// Why.\n", ""] {
            assert_eq!(errors("xtask", "a.rs", text).len(), 1, "{text}");
        }
    }

    #[test]
    fn unsafe_stays_in_its_rooms() {
        let text = "//! Why.\nfn a() { unsafe { b() } } // unsafe\n";
        assert_eq!(errors("datum-store", "a.rs", text), ["2: datum-store may not contain unsafe"]);
        assert!(errors("datum-boot", "a.rs", text).is_empty());
    }

    #[test]
    fn the_product_does_not_unwrap_outside_tests() {
        let text = "//! Why.\nfn a() { b().unwrap() }\nfn p() { c.expect(token) }\n#[cfg(test)]\nmod tests { fn t() { b().expect(\"x\") } }\n";
        let found = errors("datum-store", "a.rs", text);
        assert!(found.len() == 1 && found[0].starts_with("2:"), "{found:?}");
        assert!(errors("xtask", "a.rs", text).is_empty());
    }

    #[test]
    fn a_promise_has_a_reason() {
        let promise = PROMISES[0];
        assert_eq!(errors("xtask", "a.rs", &format!("//! Why.\n// {promise} later\n")).len(), 1);
        let reasoned = format!("//! Why.\n// {promise}: waits for stable trait upcasting\n");
        assert!(errors("xtask", "a.rs", &reasoned).is_empty());
    }

    #[test]
    fn limits_are_explained() {
        let text = "//! Why.\n/// Bounds a.\npub const A: u8 = 1;\npub const B: u8 = 2;\n";
        let found = errors("datum-protocol", "src/limits.rs", text);
        assert!(found.len() == 1 && found[0].starts_with("4:"), "{found:?}");
        assert!(errors("datum-protocol", "src/other.rs", text).is_empty());
    }

    #[test]
    fn a_root_says_what_holds_for_all() {
        let mut report = Report::default();
        let source = Source::new(Path::new("lib.rs"), "//! Why.\n".into(), false);
        check_root(room("datum-store").unwrap(), &source, &mut report);
        check_root(room("datum-boot").unwrap(), &source, &mut report);
        check_root(room("xtask").unwrap(), &source, &mut report);
        assert_eq!(report.errors.len(), 4);
    }
}
