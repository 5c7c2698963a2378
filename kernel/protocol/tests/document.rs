//! docs/PROTOCOL.md and the code say the same: every method with its parameters, every error, every example.

use datum_protocol::console;
use datum_protocol::control::{COMMANDS, ErrorKind, decode};
use std::collections::BTreeSet;

const DOCUMENT: &str = include_str!("../../../docs/PROTOCOL.md");

/// The cells of the table row that begins with this one.
fn row(first: &str) -> Vec<&'static str> {
    let begin = format!("| {first} |");
    let mut rows = DOCUMENT.lines().filter(|line| line.starts_with(&begin));
    let row = rows.next().unwrap_or_else(|| panic!("no row {first}"));
    assert!(rows.next().is_none(), "two rows {first}");
    row.trim_matches('|').split('|').map(str::trim).collect()
}

#[test]
fn every_method_has_a_row_with_its_parameters() {
    for spec in COMMANDS {
        let written = row(&format!("`{}`", spec.method))[1].replace("*page*", "`after?`, `limit?`");
        let written: Vec<&str> =
            written.split(", ").map(|name| name.trim_matches('`')).filter(|n| !n.is_empty()).collect();
        let mark = |required, list| match (required, list) {
            (true, true) => "[]",
            (true, false) => "",
            (false, _) => "?",
        };
        let parameters = spec.parameters.iter().map(|parameter| {
            let list = parameter.kind == datum_protocol::control::Kind::List;
            format!("{}{}", parameter.name, mark(parameter.required, list))
        });
        assert_eq!(written, parameters.collect::<Vec<_>>(), "{}", spec.method);
    }
}

#[test]
fn every_error_has_a_row() {
    for kind in ErrorKind::ALL {
        assert_eq!(row(&kind.code().to_string())[1], format!("`{}`", kind.as_str()));
    }
    let failures = COMMANDS.iter().map(|spec| row(&format!("`{}`", spec.method))[3]);
    for word in failures.flat_map(|cell| cell.trim_matches('`').split_whitespace()) {
        assert!(ErrorKind::from_word(word).is_some(), "{word}");
    }
}

#[test]
fn every_example_is_accepted() {
    let lines = DOCUMENT.lines().map(|line| line.trim().trim_start_matches("→ "));
    let requests =
        lines.filter(|line| line.starts_with('{') && line.contains("\"id\"") && line.contains("\"method\""));
    let mut methods = BTreeSet::new();
    for line in requests {
        let call = decode(line.as_bytes()).unwrap_or_else(|bad| panic!("{line}: {}", bad.error.message));
        methods.insert(call.command.method());
    }
    assert_eq!(methods, COMMANDS.iter().map(|spec| spec.method).collect(), "an example of each method");
    let typed: Vec<&str> = DOCUMENT.lines().filter_map(|line| line.trim().strip_prefix("datum> ")).collect();
    assert!(typed.len() >= 5);
    for line in typed {
        assert!(matches!(console::parse(line), Ok(console::Entry::Run { .. })), "{line}");
    }
}
