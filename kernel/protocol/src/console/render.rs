//! Results and errors as people read them: aligned lines for objects, tables for lists. A table that is wider than the
//! terminal has its widest cells cut, but never a name; where that is not enough, each item is shown as an object.
//!
//! It works on any result, by its shape alone, so a new command needs nothing here. Lines end with LF;
//! [`for_terminal`] makes them fit a raw terminal. Control characters never reach the terminal.

use super::human::size_text;
use crate::control::ErrorObject;
use crate::limits::{CONSOLE_COLUMN_MAX, CONSOLE_COLUMN_MIN};
use crate::size::text_bytes;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde_json::{Map, Value};

/// Columns that come first, in this order; the others follow by the alphabet.
const FIRST: [&str; 13] = [
    "volume", "name", "id", "job", "kind", "offset", "length", "state", "progress", "size", "change",
    "created", "device",
];

/// Columns by which an item is called; they are never cut.
const NAMING: [&str; 5] = ["volume", "name", "id", "job", "session"];

/// What a cell takes at most: its text, its place in a row, the table as it grows, and once more for the terminal.
const CELL_BYTES_MAX: usize = 6 * (CONSOLE_COLUMN_MAX + 24);

/// How many times its own size as JSON anything else takes at most.
const SHOWN_TIMES: usize = 8;

/// Fields of a row that the one with most fields may lack.
const FIELDS_LACKING: usize = 4;

/// Shows a result on a terminal of so many columns.
pub fn render(result: &Value, width: usize) -> String {
    match result {
        Value::Object(object) => object_text(object, width),
        Value::Array(items) => table(items, width),
        scalar => format!("{}\n", cell("", scalar)),
    }
}

/// Memory that showing a result takes at most, all told, in bytes.
pub fn render_bytes_max(result: &Value) -> usize {
    let tables: usize = match result {
        Value::Object(object) => object.values().map(cells_max).sum(),
        other => cells_max(other),
    };
    SHOWN_TIMES * text_bytes(result) + CELL_BYTES_MAX * tables
}

/// Cells of a list that is shown as a table, at most: rows may have fields that others lack.
fn cells_max(list: &Value) -> usize {
    let rows = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let fields = rows.iter().filter_map(Value::as_object).map(Map::len).max().unwrap_or_default();
    (rows.len() + 1) * (fields + FIELDS_LACKING)
}

/// Shows an error and its causes.
pub fn render_error(error: &ErrorObject) -> String {
    let mut text = format!("error: {}\n", clean(&error.message));
    for observation in &error.observations {
        text.push_str(&format!("  cause: {}\n", clean(observation)));
    }
    text
}

/// Shows an event on one line.
pub fn render_event(event: &Value) -> String {
    format!("* {}\n", inline(event))
}

/// Gives every line the end that a raw terminal needs.
pub fn for_terminal(text: &str) -> Vec<u8> {
    text.replace('\n', "\r\n").into_bytes()
}

fn object_text(object: &Map<String, Value>, columns: usize) -> String {
    if let (1, Some(Value::String(text))) = (object.len(), object.get("text")) {
        return lines(text);
    }
    let (lists, plain): (Vec<&str>, Vec<&str>) =
        ordered(object.keys()).into_iter().partition(|key| object.get(*key).is_some_and(is_table));
    let only_items = lists == ["items"];
    let plain: Vec<&str> = plain.into_iter().filter(|key| !key.starts_with("next")).collect();
    let width = plain.iter().map(|key| key.len()).max().unwrap_or_default();
    let mut text = String::new();
    for key in plain {
        text.push_str(&format!("{key:width$}  {}\n", full(key, object.get(key).unwrap_or(&Value::Null))));
    }
    for key in lists {
        let items = object.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if !only_items && !items.is_empty() {
            text.push_str(&format!("{}{key}:\n", if text.is_empty() { "" } else { "\n" }));
        }
        if items.is_empty() && !only_items {
            text.push_str(&format!("{key:width$}  none\n"));
        } else {
            text.push_str(&table(items, columns));
        }
    }
    for (key, option) in [("next", "--after"), ("next_offset", "--offset")] {
        if let Some(next) = object.get(key).filter(|next| !next.is_null()) {
            text.push_str(&format!("more: repeat with {option} {}\n", cell("", next)));
        }
    }
    if text.is_empty() { "done\n".to_owned() } else { text }
}

/// Lists of objects and empty lists are tables; lists of texts are cells.
fn is_table(value: &Value) -> bool {
    value.as_array().is_some_and(|items| items.iter().all(Value::is_object))
}

fn table(items: &[Value], width: usize) -> String {
    if items.is_empty() {
        return "none\n".to_owned();
    }
    let mut keys: Vec<&str> = Vec::new();
    for item in items.iter().filter_map(Value::as_object) {
        for key in ordered(item.keys()) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    if keys.is_empty() {
        return items.iter().map(|item| format!("{}\n", cell("", item))).collect();
    }
    let mut rows: Vec<Vec<String>> = Vec::with_capacity(items.len() + 1);
    rows.push(keys.iter().map(|key| heading(key)).collect());
    for item in items {
        rows.push(keys.iter().map(|key| cell(key, item.get(key).unwrap_or(&Value::Null))).collect());
    }
    let numeric: Vec<bool> =
        keys.iter().map(|key| items.iter().all(|item| is_numeric(item.get(key)))).collect();
    let whole: Vec<bool> = keys.iter().map(|key| NAMING.contains(key)).collect();
    aligned(&rows, &numeric, &whole, width).unwrap_or_else(|| apart(&keys, items))
}

/// Sizes have their unit beside them.
fn heading(key: &str) -> String {
    key.strip_suffix("_bytes").unwrap_or(key).to_uppercase()
}

/// Items too wide for a table: one below the other, with what each has.
fn apart(keys: &[&str], items: &[Value]) -> String {
    let width = keys.iter().map(|key| key.len()).max().unwrap_or_default();
    let mut text = String::new();
    for item in items {
        if !text.is_empty() {
            text.push('\n');
        }
        for key in keys {
            if let Some(value) = item.get(*key).filter(|value| !value.is_null()) {
                text.push_str(&format!("{key:width$}  {}\n", cell(key, value)));
            }
        }
    }
    text
}

fn is_numeric(value: Option<&Value>) -> bool {
    value.is_none_or(|value| value.is_number() || value.is_null())
}

/// Rows whose cells stand below one another; nothing where they do not fit the terminal.
fn aligned(rows: &[Vec<String>], numeric: &[bool], whole: &[bool], columns: usize) -> Option<String> {
    let mut widths: Vec<usize> = (0..numeric.len())
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let between = 2 * widths.len().saturating_sub(1);
    let limited = |most: usize| {
        widths.iter().zip(whole).map(move |(width, whole)| if *whole { *width } else { most.min(*width) })
    };
    let most = (CONSOLE_COLUMN_MIN..=CONSOLE_COLUMN_MAX).rev();
    let most = most.into_iter().find(|most| limited(*most).sum::<usize>() + between <= columns)?;
    widths = limited(most).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for ((cell, width), numeric) in row.iter().zip(&widths).zip(numeric) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let cell = shortened(cell, *width);
            line.push_str(&if *numeric { format!("{cell:>width$}") } else { format!("{cell:width$}") });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    Some(text)
}

fn ordered<'a>(keys: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let mut keys: Vec<&str> = keys.map(String::as_str).collect();
    let rank = |key: &str| FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len());
    keys.sort_by(|a, b| rank(a).cmp(&rank(b)).then(a.cmp(b)));
    keys
}

fn is_size(key: &str) -> bool {
    key == "size" || key == "bytes" || key.ends_with("_bytes")
}

/// A value beside its key, whole: sizes also exactly, long lists of texts with a line for each.
fn full(key: &str, value: &Value) -> String {
    match (value, value.as_u64()) {
        (_, Some(bytes)) if is_size(key) && bytes >= 1024 => format!("{} ({bytes})", size_text(bytes)),
        (Value::Array(items), _) if inline(value).chars().count() > CONSOLE_COLUMN_MAX => {
            items.iter().map(|item| format!("\n  {}", plain("", item))).collect()
        }
        _ => plain(key, value),
    }
}

/// A value in a table, not too wide.
fn cell(key: &str, value: &Value) -> String {
    shortened(&plain(key, value), CONSOLE_COLUMN_MAX)
}

/// At most so many characters, with a mark where some are missing.
fn shortened(text: &str, characters: usize) -> String {
    if text.chars().count() <= characters {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(characters.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// A value on one line.
fn plain(key: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(bytes), _) if is_size(key) => size_text(bytes),
            (_, Some(part)) if key == "progress" => format!("{:.0} %", part * 100.0),
            _ => number.to_string(),
        },
        Value::String(text) => clean(text),
        Value::Array(_) | Value::Object(_) => inline(value),
    }
}

/// A list or an object on one line; results nest no deeper than a few levels.
fn inline(value: &Value) -> String {
    let texts: Vec<String> = match value {
        Value::Array(items) if items.is_empty() => return "none".to_owned(),
        Value::Array(items) => items.iter().map(|item| plain("", item)).collect(),
        Value::Object(object) => ordered(object.keys())
            .into_iter()
            .filter_map(|key| object.get(key).map(|value| format!("{key} {}", plain(key, value))))
            .collect(),
        scalar => return plain("", scalar),
    };
    texts.join(", ")
}

/// Without control characters, which could rewrite the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

fn lines(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", clean(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ErrorKind;

    fn shown(json: &str) -> String {
        render(&serde_json::from_str(json).unwrap(), 80)
    }

    #[test]
    fn objects_are_aligned_lines() {
        let text = shown(
            r#"{"size":21474836480,"name":"db","suspended":false,"origin":null,"held_by":["a","b"],"x":{"used_bytes":4096,"name":"y"}}"#,
        );
        let expected = "name       db\nsize       20 GiB (21474836480)\nheld_by    a, b\norigin     -\nsuspended  no\nx          name y, used_bytes 4 KiB\n";
        assert_eq!(text, expected);
        assert_eq!(shown("{}"), "done\n");
        assert_eq!(shown(r#"{"text":"a 1\nb\u001b 2\n"}"#), "a 1\nb· 2\n");
        assert_eq!(shown(r#"{"token":"datum:1:00"}"#), "token  datum:1:00\n");
    }

    #[test]
    fn nothing_beside_a_key_is_cut() {
        let long = "x".repeat(100);
        let text = shown(&format!(r#"{{"error":{{"message":"{long}"}},"findings":["{long}","b"]}}"#));
        assert_eq!(text, format!("error     message {long}\nfindings  \n  {long}\n  b\n"));
        assert!(shown(&format!(r#"[{{"a":"{long}"}}]"#)).ends_with("xx…\n"));
    }

    #[test]
    fn lists_are_tables() {
        let text = shown(
            r#"{"items":[{"name":"a","size":4096,"progress":0.5},{"name":"longer","size":1073741824}],"next":"longer"}"#,
        );
        let expected = "NAME    PROGRESS   SIZE\na           50 %  4 KiB\nlonger         -  1 GiB\nmore: repeat with --after longer\n";
        assert_eq!(text, expected);
        assert_eq!(shown(r#"{"items":[]}"#), "none\n");
        let extents =
            shown(r#"{"changed_bytes":4096,"extents":[{"length":4096,"kind":"data","offset":8192}]}"#);
        assert_eq!(
            extents,
            "changed_bytes  4 KiB (4096)\n\nextents:\nKIND  OFFSET  LENGTH\ndata    8192    4096\n"
        );
        assert_eq!(shown(r#"{"errors":0,"findings":[]}"#), "errors  0\nfindings  none\n");
    }

    #[test]
    fn tables_keep_to_the_width() {
        let (name, causes) = ("n".repeat(20), "c".repeat(70));
        let json = format!(
            r#"[{{"name":"{name}","size":4096,"held_by":"{causes}"}}, {{"name":"b","size":1,"held_by":null}}]"#
        );
        let shown = |width: usize| render(&serde_json::from_str(&json).unwrap(), width);
        let widest = |text: &str| text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(shown(400).contains(&causes));
        for width in 54..=100 {
            let text = shown(width);
            assert_eq!(widest(&text), width.min(99), "{text}");
            assert!(text.contains(&name) && text.lines().count() == 3, "{text}");
        }
        let narrow = shown(40);
        assert_eq!(
            narrow,
            format!("name     {name}\nsize     4 KiB\nheld_by  {causes}\n\nname     b\nsize     1 B\n")
        );
    }

    #[test]
    fn errors_name_their_causes() {
        let error = ErrorObject::new(ErrorKind::Io, "reading failed; replace vd0").observed("vd0: I/O error");
        assert_eq!(render_error(&error), "error: reading failed; replace vd0\n  cause: vd0: I/O error\n");
        assert_eq!(for_terminal("a\nb\n"), b"a\r\nb\r\n");
    }
}
