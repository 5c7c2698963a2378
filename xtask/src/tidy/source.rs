//! A Rust file as the rules read it: its text, and the same with comments, string contents and tests blanked
//! out, so that a word in a comment is no finding. Blanking keeps every line and column in place.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A file and its views. All have the same length.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// Without comments and without what is inside strings.
    pub(super) code: String,
    /// As `code`, and without what is compiled for tests only; all blank in a file of tests.
    pub(super) shipped: String,
}

impl Source {
    pub(super) fn read(path: &Path, in_tests: bool) -> Result<Source> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Source::new(path, text, in_tests))
    }

    pub(super) fn new(path: &Path, text: String, in_tests: bool) -> Source {
        let code = code_of(&text);
        let shipped = if in_tests { " ".repeat(code.len()) } else { without_tests(&code) };
        Source { path: path.to_owned(), text, code, shipped }
    }

    /// The line, counted from 1, of a byte offset.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

/// Where `word` stands by itself in `code`.
pub(super) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part_of_name =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(start, _)| start).filter(move |start| {
        let before = start.checked_sub(1).and_then(|index| bytes.get(index));
        !part_of_name(before) && !part_of_name(bytes.get(start + word.len()))
    })
}

/// Blanks comments and the contents of strings and characters.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let (end, blank) = token(bytes, at);
        code[at..end][blank.start.min(end - at)..blank.end.min(end - at)]
            .iter_mut()
            .filter(|byte| **byte != b'\n')
            .for_each(|byte| *byte = b' ');
        at = end;
    }
    // Only whole comments and strings were blanked, so characters are whole too.
    String::from_utf8_lossy(&code).into_owned()
}

/// The end of the token at `at`, and the part of it to blank, counted from `at`.
fn token(bytes: &[u8], at: usize) -> (usize, std::ops::Range<usize>) {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        let end = find(rest, b"\n").unwrap_or(rest.len());
        return (at + end, 0..end);
    }
    if rest.starts_with(b"/*") {
        let end = block_comment(rest);
        return (at + end, 0..end);
    }
    let starts_name = at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if starts_name && let Some((open, hashes)) = raw_string(rest) {
        let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
        let length = find(&rest[open..], &close).unwrap_or(rest.len() - open);
        return ((at + open + length + close.len()).min(bytes.len()), open..open + length);
    }
    match rest[0] {
        b'"' => {
            let end = quoted(rest, b'"');
            (at + end, 1..end.saturating_sub(1))
        }
        b'\'' if is_character(rest) => {
            let end = quoted(rest, b'\'');
            (at + end, 1..end.saturating_sub(1))
        }
        _ => (at + 1, 0..0),
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// For `r"`, `r#"`, `br"` and `cr"`: where the contents begin, and how many hashes close them.
fn raw_string(rest: &[u8]) -> Option<(usize, usize)> {
    let marks = usize::from(matches!(rest[0], b'b' | b'c'));
    if rest.get(marks) != Some(&b'r') {
        return None;
    }
    let hashes = rest[marks + 1..].iter().take_while(|byte| **byte == b'#').count();
    (rest.get(marks + 1 + hashes) == Some(&b'"')).then_some((marks + hashes + 2, hashes))
}

/// One past the closing quote.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Tells `'a'` from the lifetime `'a`.
fn is_character(rest: &[u8]) -> bool {
    match rest {
        [_, b'\\', ..] => true,
        [_, first, ..] if first.is_ascii() => rest.get(2) == Some(&b'\''),
        _ => true,
    }
}

/// Blanks every item below a `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut shipped = code.to_owned();
    for (start, _) in code.match_indices("#[cfg(test)]").chain(code.match_indices("#[cfg(all(test")) {
        let end = start + item_length(&code[start..]);
        let blank: String = code[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        if blank.len() == end - start {
            shipped.replace_range(start..end, &blank);
        }
    }
    shipped
}

/// The length of an item and the attributes before it: to the closing brace of its first block, or to its
/// semicolon.
fn item_length(code: &str) -> usize {
    let (mut braces, mut brackets) = (0usize, 0usize);
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'{' => braces += 1,
            b'}' if braces == 1 => return at + 1,
            b'}' => braces = braces.saturating_sub(1),
            b'[' => brackets += 1,
            b']' => brackets = brackets.saturating_sub(1),
            b';' if braces == 0 && brackets == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_blanked() {
        for (text, code) in [
            ("a // unsafe\nb", "a          \nb"),
            ("a /* x /* y */ z */ b", "a                   b"),
            (r#"f("un\"safe")"#, r#"f("        ")"#),
            (r##"f(r#"a"b"#)"##, r##"f(r#"   "#)"##),
            ("f('\"', 'a', b'\\'')", "f(' ', ' ', b'  ')"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            ("\"open", "\"   n"),
        ] {
            assert_eq!(code_of(text), code);
        }
    }

    #[test]
    fn what_is_for_tests_is_not_shipped() {
        let text = "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests { fn b() { c() } }\nfn d() {}";
        let source = Source::new(Path::new("x.rs"), text.into(), false);
        assert!(source.shipped.contains("fn a") && source.shipped.contains("fn d"));
        assert!(!source.shipped.contains("fn b"));
        assert_eq!(source.shipped.len(), text.len());
        assert_eq!(source.line(text.find("fn d").unwrap()), 5);
    }

    #[test]
    fn words_stand_by_themselves() {
        let found: Vec<_> = words("unsafe_op unsafe { not_unsafe } unsafe", "unsafe").collect();
        assert_eq!(found, [10, 32]);
    }
}
