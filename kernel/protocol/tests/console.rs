//! Console lines: every form of the table, what is said of mistakes, and noise on the terminal.

use datum_protocol::console::{Editor, Entered, Entry, complete, parse, render, synopsis};
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

proptest! {
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
    fn any_result_is_shown_without_control_characters(text in "\\PC{0,20}", control in any::<char>(), number in any::<u64>()) {
        let value = serde_json::json!({ "name": format!("{text}{control}"), "items": [{ "size": number }, {}], "next": text });
        let shown = render(&value);
        prop_assert!(shown.chars().all(|c| c == '\n' || !c.is_control()));
    }
}
