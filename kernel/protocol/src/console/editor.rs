//! The line editor: a terminal's bytes in, lines and the terminal's echo out.
//!
//! It draws one row and scrolls sideways within the width, so it needs to know nothing of how a terminal wraps. How wide
//! the terminal is it asks once a line, when a key comes alone: keys that a person presses do, lines of a script come
//! whole, and a script is to see no question. The line, the history and each step of output are bounded. Completion needs names that only the service can list, and
//! listing waits for disks; so Tab is an event like Enter, and the names are offered afterwards.

use super::fold::fold;
use super::keys::{Key, Keys};
use crate::limits::{
    CONSOLE_COMPLETIONS_MAX, CONSOLE_HISTORY_LINES_MAX, CONSOLE_LINE_BYTES_MAX, CONSOLE_WIDTH_DEFAULT,
    CONSOLE_WIDTH_MAX, CONSOLE_WIDTH_MIN,
};
use alloc::borrow::ToOwned;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem;

const BELL: u8 = 7;

/// Keeps the cursor's place, goes as far right as there is, asks for the column, and goes back.
const WIDTH_QUESTION: &[u8] = b"\x1b7\x1b[999C\x1b[6n\x1b8";

/// What the person at the terminal did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entered {
    /// A line is complete. Show its outcome, then call [`Editor::start`].
    Line(String),
    /// Tab, with what stands before the cursor. Call [`Editor::offer`].
    Complete(String),
    /// Ctrl-C; the line is dropped. Call [`Editor::start`].
    Interrupt,
    /// Ctrl-D on an empty line.
    End,
}

/// The editor of one terminal.
#[derive(Debug)]
pub struct Editor {
    prompt: &'static str,
    width: usize,
    /// The terminal was asked for its width in this line.
    asked: bool,
    /// It has not answered yet.
    open: bool,
    keys: Keys,
    line: String,
    /// Byte index, always at a character's border.
    cursor: usize,
    history: VecDeque<String>,
    /// How far back in the history the line is; 0 is the line being written.
    back: usize,
    draft: String,
}

impl Editor {
    /// An editor with this prompt; nothing is shown before [`start`](Self::start).
    pub fn new(prompt: &'static str) -> Self {
        Self {
            prompt,
            width: CONSOLE_WIDTH_DEFAULT,
            asked: false,
            open: false,
            keys: Keys::default(),
            line: String::new(),
            cursor: 0,
            history: VecDeque::new(),
            back: 0,
            draft: String::new(),
        }
    }

    /// Shows the prompt, and what was typed ahead.
    pub fn start(&mut self, output: &mut Vec<u8>) {
        self.draw(output);
    }

    /// Columns of the terminal: what it told last, or 80.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Looks at what came at once, before it is received: a key that came alone is a person's, whose terminal is asked for
    /// its width, once a line. An end of a line alone may be a script's.
    pub fn arrived(&mut self, input: &[u8], output: &mut Vec<u8>) {
        if let [byte] = input
            && !matches!(byte, b'\r' | b'\n')
            && !self.asked
        {
            self.asked = true;
            self.open = true;
            output.extend_from_slice(WIDTH_QUESTION);
        }
    }

    /// Takes bytes up to the next event; says how many it took. Call again with the rest. Each byte may draw a row, so
    /// hand in what a terminal sends at once, not kilobytes.
    pub fn receive(&mut self, input: &[u8], output: &mut Vec<u8>) -> (usize, Option<Entered>) {
        for (index, byte) in input.iter().enumerate() {
            if let Some(key) = self.keys.receive(*byte)
                && let Some(entered) = self.press(key, output)
            {
                return (index + 1, Some(entered));
            }
        }
        (input.len(), None)
    }

    fn press(&mut self, key: Key, output: &mut Vec<u8>) -> Option<Entered> {
        match key {
            Key::Character(character) => return self.insert(character, output),
            Key::Enter => return Some(self.enter(output)),
            Key::Tab => return Some(Entered::Complete(self.line[..self.cursor].to_owned())),
            Key::Interrupt => {
                output.extend_from_slice(b"^C\r\n");
                self.asked = false;
                self.replace(String::new());
                self.back = 0;
                return Some(Entered::Interrupt);
            }
            Key::EndOrDelete if self.line.is_empty() => return Some(Entered::End),
            Key::Left => self.cursor = self.before(),
            Key::Right => self.cursor = self.after(),
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = self.line.len(),
            Key::Up => self.recall(self.back + 1),
            Key::Down => self.recall(self.back.saturating_sub(1)),
            Key::Backspace => self.remove(self.before(), self.cursor),
            Key::Delete | Key::EndOrDelete => self.remove(self.cursor, self.after()),
            Key::KillToEnd => self.remove(self.cursor, self.line.len()),
            Key::KillToStart => self.remove(0, self.cursor),
            Key::KillWord => self.remove(self.word_start(), self.cursor),
            Key::Column(column) => {
                self.answered(usize::from(column), output);
                return None;
            }
            Key::Clear => output.extend_from_slice(b"\x1b[2J\x1b[H"),
        }
        self.draw(output);
        None
    }

    /// Takes the terminal's answer. What nobody asked for, or is no width, is a key that is not known here.
    fn answered(&mut self, width: usize, output: &mut Vec<u8>) {
        if !self.open || width < CONSOLE_WIDTH_MIN {
            return;
        }
        self.open = false;
        let width = width.min(CONSOLE_WIDTH_MAX);
        if mem::replace(&mut self.width, width) != width {
            self.draw(output);
        }
    }

    fn insert(&mut self, character: char, output: &mut Vec<u8>) -> Option<Entered> {
        if self.line.len() + character.len_utf8() > CONSOLE_LINE_BYTES_MAX {
            output.push(BELL);
            return None;
        }
        let at_end = self.cursor == self.line.len();
        self.line.insert(self.cursor, character);
        self.cursor += character.len_utf8();
        // Typing at the end of a short line needs no redrawing.
        if at_end && self.line.chars().count() < self.room() {
            output.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            self.draw(output);
        }
        None
    }

    fn enter(&mut self, output: &mut Vec<u8>) -> Entered {
        output.extend_from_slice(b"\r\n");
        self.asked = false;
        let line = mem::take(&mut self.line);
        self.replace(String::new());
        self.back = 0;
        if !line.trim().is_empty() && self.history.front() != Some(&line) {
            self.history.push_front(line.clone());
            self.history.truncate(CONSOLE_HISTORY_LINES_MAX);
        }
        Entered::Line(line)
    }

    /// Shows the line so many steps back; 0 is the one being written.
    fn recall(&mut self, back: usize) {
        if back > self.history.len() || back == self.back {
            return;
        }
        if self.back == 0 {
            self.draft = self.line.clone();
        }
        self.back = back;
        let line = match back.checked_sub(1).and_then(|index| self.history.get(index)) {
            Some(line) => line.clone(),
            None => mem::take(&mut self.draft),
        };
        self.replace(line);
    }

    fn replace(&mut self, line: String) {
        self.cursor = line.len();
        self.line = line;
    }

    fn remove(&mut self, start: usize, end: usize) {
        self.line.replace_range(start..end, "");
        self.cursor = start;
    }

    fn before(&self) -> usize {
        self.line[..self.cursor].char_indices().next_back().map_or(0, |(index, _)| index)
    }

    fn after(&self) -> usize {
        self.line[self.cursor..].chars().next().map_or(self.cursor, |next| self.cursor + next.len_utf8())
    }

    fn word_start(&self) -> usize {
        let before = self.line[..self.cursor].trim_end();
        before
            .rfind(char::is_whitespace)
            .map_or(0, |space| space + before[space..].chars().next().map_or(0, char::len_utf8))
    }

    /// Columns for the line behind the prompt; the last one stays free, or the terminal would wrap.
    fn room(&self) -> usize {
        self.width.saturating_sub(self.prompt.chars().count() + 1).max(8)
    }

    /// Draws prompt and line, or the part of the line around the cursor.
    fn draw(&self, output: &mut Vec<u8>) {
        let room = self.room();
        let column = self.line[..self.cursor].chars().count();
        let first = (column + 1).saturating_sub(room);
        let shown: String = self.line.chars().skip(first).take(room).collect();
        let cursor = self.prompt.chars().count() + column - first;
        output.extend_from_slice(format!("\r{}{shown}\x1b[K\r", self.prompt).as_bytes());
        if cursor > 0 {
            output.extend_from_slice(format!("\x1b[{cursor}C").as_bytes());
        }
    }

    /// Offers completions of the word before the cursor, as they follow `typed`, its part written so far. One is taken,
    /// of several the common beginning, and if there is none they are listed.
    pub fn offer(&mut self, typed: &str, candidates: &[String], output: &mut Vec<u8>) {
        let fitting: Vec<&str> =
            candidates.iter().map(String::as_str).filter(|candidate| candidate.starts_with(typed)).collect();
        let common = common_beginning(&fitting);
        let addition = common.get(typed.len()..).unwrap_or_default().to_owned();
        match fitting.as_slice() {
            [] => output.push(BELL),
            [_] => self.add(&format!("{addition} "), output),
            _ if !addition.is_empty() => self.add(&addition, output),
            several => {
                let shown: Vec<&str> = several.iter().take(CONSOLE_COMPLETIONS_MAX).copied().collect();
                let more = if several.len() > shown.len() { "  …" } else { "" };
                let list = fold(&format!("{}{more}\n", shown.join("  ")), self.width);
                output.extend_from_slice(format!("\r\n{}", list.replace('\n', "\r\n")).as_bytes());
                self.draw(output);
            }
        }
    }

    fn add(&mut self, text: &str, output: &mut Vec<u8>) {
        if self.line.len() + text.len() > CONSOLE_LINE_BYTES_MAX {
            output.push(BELL);
            return;
        }
        self.line.insert_str(self.cursor, text);
        self.cursor += text.len();
        self.draw(output);
    }
}

/// The longest text that all begin with.
fn common_beginning<'a>(texts: &[&'a str]) -> &'a str {
    let Some((first, rest)) = texts.split_first() else { return "" };
    let mut length = first.len();
    for text in rest {
        let same = first.char_indices().zip(text.chars()).take_while(|((_, a), b)| a == b);
        length = length.min(same.last().map_or(0, |((index, a), _)| index + a.len_utf8()));
    }
    &first[..length]
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// Types the bytes; gives the events.
    fn typed(editor: &mut Editor, bytes: &[u8]) -> Vec<Entered> {
        let (mut rest, mut events, mut output) = (bytes, Vec::new(), Vec::new());
        while !rest.is_empty() {
            let (taken, event) = editor.receive(rest, &mut output);
            rest = &rest[taken..];
            events.extend(event);
        }
        events
    }

    fn line(bytes: &[u8]) -> String {
        let mut editor = Editor::new("> ");
        typed(&mut editor, bytes);
        match typed(&mut editor, b"\r").pop() {
            Some(Entered::Line(line)) => line,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn editing_keys() {
        assert_eq!(line(b"ac\x1b[Db"), "abc");
        assert_eq!(line(b"bc\x01a"), "abc");
        assert_eq!(line(b"bc\x1b[Ha\x1b[Fd\x1bOH.\x1b[4~!"), ".abcd!");
        assert_eq!(line(b"abx\x7fc"), "abc");
        assert_eq!(line(b"xabc\x01\x1b[3~"), "abc");
        assert_eq!(line(b"abcd\x02\x02\x0b"), "ab");
        assert_eq!(line(b"abcd\x02\x02\x15"), "cd");
        assert_eq!(line(b"one two  \x17x"), "one x");
        assert_eq!(line("aé中\x08\x08x".as_bytes()), "ax");
        assert_eq!(line(b"a\xc3b\xff\x80c\x1b[1;5Cd\x1b[200~"), "abcd");
        assert_eq!(line(b"\x1b[D\x1b[C\x7f\x1b[3~\x17\x15\x0bx"), "x");
    }

    #[test]
    fn line_ends_and_controls() {
        let mut editor = Editor::new("> ");
        let entered = typed(&mut editor, b"a\r\nb\nc\r\r");
        let lines = ["a", "b", "c", ""].map(|text| Entered::Line(text.into()));
        assert_eq!(entered, lines);
        assert_eq!(typed(&mut editor, b"x\x03\x04"), [Entered::Interrupt, Entered::End]);
    }

    #[test]
    fn history_goes_back_and_forth() {
        let mut editor = Editor::new("> ");
        typed(&mut editor, b"one\rtwo\rtwo\r  \r");
        let (up, down) = (b"\x1b[A", b"\x1b[B");
        typed(&mut editor, b"draft");
        typed(&mut editor, &[&up[..], up, up, up].concat());
        assert_eq!(editor.line, "one");
        typed(&mut editor, down);
        assert_eq!(editor.line, "two");
        typed(&mut editor, &[&down[..], down].concat());
        assert_eq!(editor.line, "draft");
        for number in 0..200 {
            typed(&mut editor, format!("{number}\r").as_bytes());
        }
        assert_eq!(editor.history.len(), CONSOLE_HISTORY_LINES_MAX);
    }

    #[test]
    fn lines_are_bounded() {
        let mut editor = Editor::new("> ");
        typed(&mut editor, &vec![b'x'; 10_000]);
        assert_eq!(editor.line.len(), CONSOLE_LINE_BYTES_MAX);
        let mut output = Vec::new();
        editor.receive(b"\x1b[D", &mut output);
        assert!(output.len() < 200, "one row is drawn, not the line");
    }

    #[test]
    fn completion_is_offered() {
        let mut editor = Editor::new("> ");
        let mut output = Vec::new();
        assert_eq!(typed(&mut editor, b"vol\t"), [Entered::Complete("vol".into())]);
        editor.offer("vol", &["volume".into(), "other".into()], &mut output);
        assert_eq!(editor.line, "volume ");
        typed(&mut editor, b"re\t");
        let verbs = ["resize", "resume", "rename"].map(String::from);
        editor.offer("re", &verbs, &mut output);
        assert_eq!(editor.line, "volume re");
        assert!(String::from_utf8_lossy(&output).contains("resize  resume  rename"));
        typed(&mut editor, b"s\t");
        editor.offer("res", &verbs, &mut output);
        editor.offer("zzz", &verbs, &mut output);
        assert_eq!(output.last(), Some(&BELL));
    }

    #[test]
    fn drawing_scrolls_sideways() {
        let mut editor = Editor::new("> ");
        let mut output = Vec::new();
        editor.receive(&[b'a'; 100], &mut output);
        output.clear();
        editor.receive(b"b", &mut output);
        let shown = String::from_utf8(output).unwrap();
        assert!(shown.starts_with("\r> aaa") && shown.contains("b\x1b[K") && shown.len() < 100, "{shown:?}");
    }
}
