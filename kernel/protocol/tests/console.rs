//! Console lines: every form of the table, what is said of mistakes, and noise on the terminal.

use datum_protocol::console::{Editor, Entered, Entry, complete, fold, parse, render, synopsis};
use datum_protocol::control::{Bytes, COMMANDS, Command, Count};
use datum_protocol::name::{Name, Since};
use proptest::collection::vec;
use proptest::prelude::*;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn run(line: &str) -> Command {
    match parse(line) {
        Ok(Entry::Run { command, .. }) => command,
        other => panic!("{line}: {other:?}"),
    }
}

fn refusal(line: &str) -> String {
    match parse(line) {
        Err(error) => error.message,
        other => panic!("{line}: {other:?}"),
    }
}

fn help(line: &str) -> String {
    match parse(line) {
        Ok(Entry::Help(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn every_example_is_its_command() {
    for spec in COMMANDS {
        assert_eq!(run(spec.example).method(), spec.method);
        let text = help(&format!("help {}", spec.words));
        assert!(text.contains(spec.example) && text.contains(spec.summary) && text.contains(&synopsis(spec)));
        assert!(help("help").contains(spec.words));
        assert_eq!(help(&format!("{} --help", spec.words)), text);
    }
    assert!(help("help volume").contains("volume resize"));
    assert_eq!(parse("   "), Ok(Entry::Nothing));
    assert_eq!(parse("# note"), Ok(Entry::Nothing));
}

#[test]
fn words_and_options_mean_the_same() {
    let create = Command::VolumeCreate { name: name("db"), size: Bytes(20 << 30) };
    for line in [
        "volume create db 20G",
        "volume create --size 20GiB db",
        "volume create --name=db --size=21474836480",
    ] {
        assert_eq!(run(line), create, "{line}");
    }
    assert_eq!(
        parse("volume delete db --force --json"),
        Ok(Entry::Run { command: Command::VolumeDelete { name: name("db"), force: true }, json: true })
    );
    let volumes = vec![name("a"), name("b")];
    for line in ["checkpoint create a,b n", "checkpoint create a b n", "checkpoint create n --volumes a,b"] {
        assert_eq!(
            run(line),
            Command::CheckpointCreate { volumes: volumes.clone(), name: name("n") },
            "{line}"
        );
    }
    assert_eq!(
        run("changes db --since nightly --limit 5 --offset 4K"),
        Command::ChangesQuery {
            volume: name("db"),
            since: Since::Named(name("nightly")),
            until: None,
            offset: Some(Bytes(4096)),
            limit: Some(Count(5)),
        }
    );
    assert_eq!(
        run("checkpoint convert db nightly monday"),
        Command::CheckpointConvert {
            volume: name("db"),
            name: name("nightly"),
            refpoint: Some(name("monday"))
        }
    );
    assert_eq!(run("volume rename db --new-name x"), run("volume rename db x"));
}

#[test]
fn mistakes_are_told_with_the_way_out() {
    for (line, said) in [
        ("volum list", "did you mean `volume`?"),
        ("volume lst", "did you mean `volume list`?"),
        ("volume", "volume needs a verb: create, list"),
        ("volume dance", "it takes create, list"),
        ("volume create db", "SIZE is missing: its size"),
        ("volume create db 20G", ""),
        ("volume create db 20X", "\"20X\" is not a size"),
        ("volume create db 20G extra", "\"extra\" is one word too many; write `volume create NAME SIZE`"),
        ("volume create db 20G --forc", "unknown option \"--forc\""),
        ("volume delete db --forc", "did you mean --force?"),
        ("volume create 'db 20G", "close it with '"),
        ("volume create ../db 20G", "is not a name"),
        ("changes db", "--since is missing"),
        ("changes db --since", "--since needs a value"),
        ("changes db --since a --since b", "given twice"),
        ("changes db --since a --limit x", "\"x\" is not a number"),
        ("volume delete db --force=perhaps", "neither yes nor no"),
        ("checkpoint create a,a n", "twice"),
        ("job show seven", "the text of a job's number"),
        ("help bogus", "unknown command \"bogus\""),
        ("help volume bogus", "volume cannot \"bogus\""),
    ] {
        if said.is_empty() {
            run(line);
        } else {
            let message = refusal(line);
            assert!(message.contains(said), "{line}: {message}");
        }
    }
}

const QUESTION: &str = "\x1b7\x1b[999C\x1b[6n\x1b8";

/// Presses keys one by one, as a person does, on a terminal of so many columns; gives what was shown and entered.
fn pressed(editor: &mut Editor, keys: &[&[u8]], columns: Option<usize>) -> (String, Vec<Entered>) {
    let (mut shown, mut events) = (Vec::new(), Vec::new());
    for key in keys {
        let mut output = Vec::new();
        editor.arrived(key, &mut output);
        let asked = String::from_utf8_lossy(&output).contains(QUESTION);
        events.extend(editor.receive(key, &mut output).1);
        if let (true, Some(columns)) = (asked, columns) {
            let answer = format!("\x1b[24;{columns}R");
            assert_eq!(editor.receive(answer.as_bytes(), &mut output), (answer.len(), None));
        }
        shown.extend(output);
    }
    (String::from_utf8(shown).unwrap(), events)
}

#[test]
fn a_person_is_asked_for_the_width_once_a_line_and_a_script_never() {
    let mut editor = Editor::new("> ");
    let (shown, events) = pressed(&mut editor, &[b"a", b"b", b"\r", b"c"], Some(132));
    assert_eq!(events, [Entered::Line("ab".into())], "the answer is no part of the line");
    assert_eq!(shown.matches(QUESTION).count(), 2, "{shown:?}");
    assert_eq!(editor.width(), 132);
    let mut editor = Editor::new("> ");
    let (shown, events) =
        pressed(&mut editor, &[b"volume list\r", b"\r", b"\n", b"job list\rhel", b"p\r"], Some(132));
    assert_eq!(events.len(), 4);
    assert!(!shown.contains("\x1b[6n"), "{shown:?}");
    assert_eq!(editor.width(), 80);
}

#[test]
fn what_is_no_answer_changes_no_width() {
    let mut editor = Editor::new("> ");
    // Nobody asked; then F3 with a modifier, which looks like an answer; then an answer out of all bounds, and another one.
    assert_eq!(pressed(&mut editor, &[b"\x1b[24;132R"], None).0, "");
    assert_eq!(editor.width(), 80);
    pressed(&mut editor, &[b"a", b"\x1b[1;5R"], None);
    assert_eq!(editor.width(), 80);
    pressed(&mut editor, &[b"\x1b[1;99999999R", b"\x1b[24;50R"], None);
    assert_eq!(editor.width(), 400);
    let (_, events) = pressed(&mut editor, &[b"b", b"\r"], None);
    assert_eq!(events, [Entered::Line("ab".into())]);
}

/// The row of a terminal that the editor draws in.
struct Row {
    cells: Vec<char>,
    cursor: usize,
}

impl Row {
    fn show(&mut self, text: &str) {
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '\r' => self.cursor = 0,
                '\x1b' if characters.next() == Some('[') => {
                    let rest: String = characters.by_ref().take_while(|c| c.is_ascii_digit()).collect();
                    // `take_while` has taken the final byte: K where there is no number, C where there is one.
                    match rest.parse::<usize>() {
                        Ok(right) => self.cursor += right,
                        Err(_) => self.cells[self.cursor..].fill(' '),
                    }
                }
                plain => {
                    assert!(!plain.is_control());
                    self.cells[self.cursor] = plain;
                    self.cursor += 1;
                    assert!(self.cursor < self.cells.len(), "the terminal would wrap");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn a_long_line_is_drawn_right_at_any_width(
        columns in 40usize..=400,
        keys in vec(prop_oneof![8 => "[a-zé]", 1 => Just("\x1b[D".to_owned()), 1 => Just("\x7f".to_owned()), 1 => Just("\x01".to_owned())], 1..600),
    ) {
        let mut editor = Editor::new("> ");
        let mut row = Row { cells: vec![' '; columns], cursor: 0 };
        let mut output = Vec::new();
        editor.start(&mut output);
        editor.arrived(b"x", &mut Vec::new());
        editor.receive(format!("\x1b[1;{columns}R").as_bytes(), &mut output);
        row.show(std::str::from_utf8(&output).unwrap());
        let (mut line, mut cursor) = (Vec::new(), 0);
        for key in &keys {
            let mut output = Vec::new();
            editor.receive(key.as_bytes(), &mut output);
            row.show(std::str::from_utf8(&output).unwrap());
            match key.as_str() {
                "\x1b[D" => cursor = cursor.max(1) - 1,
                "\x01" => cursor = 0,
                "\x7f" if cursor > 0 => { cursor -= 1; line.remove(cursor); }
                "\x7f" => {}
                character => { line.insert(cursor, character.chars().next().unwrap()); cursor += 1; }
            }
            let room = columns - 3;
            let first = (cursor + 1).saturating_sub(room);
            let expected: String = "> ".chars().chain(line.iter().copied().skip(first).take(room)).collect();
            let shown: String = row.cells.iter().collect();
            prop_assert_eq!(shown.trim_end(), expected.trim_end());
            prop_assert_eq!(row.cursor, 2 + cursor - first);
        }
    }

    #[test]
    fn help_and_tables_keep_to_the_width(width in 40usize..=400, name in "[a-z]{1,64}", rows in 1usize..4) {
        let widest = |text: &str| text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        let help = help("help");
        let folded = fold(&help, width);
        prop_assert!(widest(&folded) <= width, "{}", folded);
        let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        prop_assert_eq!(words(&folded), words(&help));
        let item = serde_json::json!({ "volume": name, "created": "2026-11-21T06:30:00.000Z", "size": 4096, "state": "kept" });
        let shown = render(&serde_json::json!({ "items": vec![item; rows] }), width);
        if shown.starts_with("VOLUME") {
            prop_assert!(widest(&shown) <= width && shown.lines().count() == rows + 1, "{}", shown);
        } else {
            prop_assert!(width < 52 + name.len(), "{}", shown);
            prop_assert!(shown.contains(&format!("volume   {name}\n")), "{}", shown);
        }
    }

    #[test]
    fn any_line_is_survived(line in "(volume|checkpoint|changes|help|job|x)?( (create|list|convert|--[a-z]{0,6}|'|\"|\\\\|[ -~]{0,8}|\\PC{0,3})){0,8}") {
        let _ = parse(&line);
        let completion = complete(&line);
        prop_assert!(completion.candidates.iter().all(|candidate| candidate.starts_with(&completion.typed)));
    }

    #[test]
    fn any_bytes_are_survived_by_the_editor(
        bytes in vec(prop_oneof![
            3 => any::<u8>(),
            2 => 0u8..0x20,
            1 => prop_oneof![Just(0x1b), Just(b'['), Just(b'3'), Just(b'~'), Just(b'A'), Just(b'D')],
        ], 0..400),
        piece in 1usize..50,
    ) {
        let lines = |piece: usize| {
            let (mut editor, mut events, mut output) = (Editor::new("datum> "), Vec::new(), Vec::new());
            for mut part in bytes.chunks(piece) {
                while !part.is_empty() {
                    let (taken, event) = editor.receive(part, &mut output);
                    part = &part[taken..];
                    if let Some(Entered::Complete(before)) = &event {
                        let completion = complete(before);
                        editor.offer(&completion.typed, &completion.candidates, &mut output);
                    }
                    events.extend(event);
                }
            }
            (events, output)
        };
        prop_assert_eq!(lines(piece), lines(usize::MAX));
    }

    #[test]
    fn any_result_is_shown_without_control_characters(text in "\\PC{0,20}", control in any::<char>(), number in any::<u64>(), width in 0usize..500) {
        let value = serde_json::json!({ "name": format!("{text}{control}"), "items": [{ "size": number }, {}], "next": text });
        let shown = render(&value, width);
        prop_assert!(shown.chars().all(|c| c == '\n' || !c.is_control()));
    }
}
