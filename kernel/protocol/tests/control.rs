//! Control lines, good and bad, and the command table's promises.

use datum_protocol::control::*;
use datum_protocol::limits::{ID_BYTES_MAX, TEXT_BYTES_MAX, TOKEN_BYTES_MAX};
use datum_protocol::name::{Name, NameError, Since};
use proptest::collection::vec;
use proptest::prelude::*;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn call(line: &str) -> Call {
    decode(line.as_bytes()).unwrap_or_else(|bad| panic!("{line}: {}", bad.error.message))
}

fn bad(line: &[u8]) -> (Option<Id>, i32, String) {
    match decode(line) {
        Err(bad) => (bad.id, bad.error.kind.code(), bad.error.message),
        Ok(call) => panic!("{call:?}"),
    }
}

fn with(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
}

fn message(method: &str, params: &str) -> String {
    let (id, code, message) = bad(with(method, params).as_bytes());
    assert_eq!((id, code), (Some(Id::Unsigned(1)), -32602));
    message
}

#[test]
fn commands_with_typed_parameters() {
    assert_eq!(
        call(&with("volume.create", r#"{"name":"db","size":18446744073709551615}"#)),
        Call {
            id: Some(Id::Unsigned(1)),
            command: Command::VolumeCreate { name: name("db"), size: Bytes(u64::MAX) }
        }
    );
    let changes =
        call(&with("changes.query", r#"{"volume":"db","since":"datum:1:00","until":null,"limit":5}"#));
    assert_eq!(
        changes.command,
        Command::ChangesQuery {
            volume: name("db"),
            since: Since::Token("datum:1:00".into()),
            until: None,
            offset: None,
            limit: Some(Count(5)),
        }
    );
    let create = call(&with("checkpoint.create", r#"{"volumes":["a","b"],"name":"n"}"#));
    let volumes = vec![name("a"), name("b")];
    assert_eq!(create.command, Command::CheckpointCreate { volumes, name: name("n") });
    assert_eq!(call(&with("job.show", r#"{"job":"7"}"#)).command, Command::JobShow { job: JobId(7) });
    let delete = call(&with("volume.delete", r#"{"name":"db","force":true}"#));
    assert_eq!(delete.command, Command::VolumeDelete { name: name("db"), force: true });
}

#[test]
fn ids_come_back_as_they_were() {
    let of = |id: &str| call(&format!(r#"{{"id":{id},"method":"system.info","jsonrpc":"2.0"}}"#)).id;
    assert_eq!(of("\"x\""), Some(Id::Text("x".into())));
    assert_eq!(of("-3"), Some(Id::Signed(-3)));
    assert_eq!(of("null"), Some(Id::Null));
    assert_eq!(call(r#"{"method":"system.info","jsonrpc":"2.0"}"#).id, None);
    let (id, ..) = bad(br#"{"method":"system.inf","jsonrpc":"2.0"}"#);
    assert_eq!(id, None, "a notification is not answered, not even with an error");
}

#[test]
fn lines_that_are_no_requests() {
    for (line, code, said) in [
        (&b"\xc3("[..], -32700, "not UTF-8"),
        (b"{\"jsonrpc\":\"2.0\"", -32700, "not JSON"),
        (b"{} {}", -32700, "not JSON"),
        (b"[]", -32600, "batches"),
        (b"[{\"jsonrpc\":\"2.0\"}]", -32600, "batches"),
        (b"7", -32600, "an object, not an integer"),
        (b"{}", -32600, "jsonrpc"),
        (b"{\"jsonrpc\":\"1.0\",\"method\":\"x\"}", -32600, "jsonrpc"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":[]}", -32600, "an id is"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":7}", -32600, "\"method\" is a text"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1}", -32600, "a member \"method\""),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"job.list\",\"params\":[1]}",
            -32600,
            "named parameters",
        ),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"job.list\",\"param\":{}}",
            -32600,
            "\"param\" is one too many",
        ),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"job.list\"}", -32600, "each once"),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"volume.lst\"}",
            -32601,
            "did you mean \"volume.list\"?",
        ),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\\u0007\"}", -32601, "unknown method"),
    ] {
        let (id, got, message) = bad(line);
        assert_eq!(got, code, "{message}");
        assert!(message.contains(said), "{message}");
        assert!(id.is_some());
        assert!(!message.contains('\u{7}'), "no control characters in messages");
    }
    assert_eq!(bad(&[b'['; 60_000]).1, -32700);
    assert_eq!(bad("{\"a\":".repeat(10_000).as_bytes()).1, -32700);
}

#[test]
fn parameters_are_named_when_wrong() {
    let unknown = message("volume.create", r#"{"name":"a","sise":1}"#);
    assert_eq!(
        unknown,
        r#"volume.create: unknown parameter "sise"; did you mean "size"? it takes name, size"#
    );
    let none = message("pool.status", r#"{"x":1}"#);
    assert_eq!(none, r#"pool.status: unknown parameter "x"; it takes none"#);
    let missing = message("volume.create", r#"{"name":"a"}"#);
    assert!(missing.starts_with(r#"volume.create: parameter "size" is missing"#), "{missing}");
    let text = message("volume.create", r#"{"name":"a","size":"20G"}"#);
    assert!(text.contains(r#"parameter "size" must be an integer of bytes"#), "{text}");
    assert!(message("volume.create", r#"{"name":"a","size":-1}"#).contains("not a negative integer"));
    assert!(message("volume.create", r#"{"name":"a","size":1.5}"#).contains("not a number"));
    assert!(message("volume.create", r#"{"name":"..","size":1}"#).contains("begin with a letter"));
    assert!(message("volume.create", r#"{"name":"a","name":"b","size":1}"#).contains("given twice"));
    assert!(message("volume.delete", r#"{"name":"a","force":"yes"}"#).contains("true or false"));
    assert!(message("job.show", r#"{"job":7}"#).contains("the text of a job's number"));
    assert!(message("job.show", r#"{"job":""}"#).contains("the text of a job's number"));
    assert!(message("checkpoint.create", r#"{"volumes":[],"name":"n"}"#).contains("not be empty"));
    assert!(message("checkpoint.create", r#"{"volumes":["a","a"],"name":"n"}"#).contains("twice"));
    assert!(message("checkpoint.create", r#"{"volumes":["/"],"name":"n"}"#).contains("is not a name"));
    assert!(message("changes.query", r#"{"volume":"a","since":"datum:1:\u0001"}"#).contains("token"));
}

#[test]
fn texts_have_bounds() {
    let asked =
        |id: usize| format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"system.info"}}"#, "a".repeat(id));
    assert_eq!(call(&asked(ID_BYTES_MAX)).id, Some(Id::Text("a".repeat(ID_BYTES_MAX))));
    let (id, code, _) = bad(asked(ID_BYTES_MAX + 1).as_bytes());
    assert_eq!((id, code), (Some(Id::Null), -32600));

    let after = |bytes: usize| format!(r#"{{"after":"{}"}}"#, "a".repeat(bytes));
    call(&with("volume.list", &after(TEXT_BYTES_MAX)));
    assert!(message("volume.list", &after(TEXT_BYTES_MAX + 1)).contains("after"));

    let token = |bytes: usize| format!("datum:1:{}", "a".repeat(bytes - "datum:1:".len()));
    assert!(matches!(Since::parse(&token(TOKEN_BYTES_MAX)), Ok(Since::Token(_))));
    assert_eq!(Since::parse(&token(TOKEN_BYTES_MAX + 1)), Err(NameError::Token));
    assert_eq!(Since::parse("datum:1:a b"), Err(NameError::Token));
}

#[test]
fn the_table_holds_the_contract() {
    let contract = "system.info system.metrics system.shutdown system.reboot device.list pool.create pool.status \
        pool.check pool.scrub volume.create volume.list volume.show volume.resize volume.rename volume.delete \
        volume.clone volume.revert volume.suspend volume.resume checkpoint.create checkpoint.list checkpoint.show \
        checkpoint.delete checkpoint.convert refpoint.create refpoint.list refpoint.show refpoint.delete \
        refpoint.token changes.query allocated.query job.list job.show job.cancel event.subscribe session.list";
    let mut methods: Vec<_> = COMMANDS.iter().map(|spec| spec.method).collect();
    let mut contract: Vec<_> = contract.split_whitespace().collect();
    methods.sort_unstable();
    contract.sort_unstable();
    assert_eq!(methods, contract);
    for spec in COMMANDS {
        assert!(spec.summary.ends_with('.') && spec.example.starts_with(spec.words), "{}", spec.method);
        let mut optional = false;
        for parameter in spec.parameters.iter().filter(|parameter| parameter.positional) {
            assert!(parameter.required || !optional, "{}", spec.method);
            optional |= !parameter.required;
        }
        let listing = spec.method.ends_with(".list");
        assert_eq!(spec.parameter("after").is_some() && spec.parameter("limit").is_some(), listing);
    }
}

proptest! {
    #[test]
    fn noise_is_answered_not_obeyed(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn any_json_like_text_is_survived(text in r#"[\[\]{}",:0-9a-z\\. -]{0,200}"#) {
        let _ = decode(text.as_bytes());
        let _ = decode(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"changes.query","params":{{{text}}}}}"#).as_bytes());
    }

    #[test]
    fn framing_does_not_depend_on_the_pieces(
        bytes in vec(prop_oneof![4 => Just(b'a'), 1 => Just(b'\n'), 1 => Just(b'\r'), 1 => Just(0xff), 1 => any::<u8>()], 0..300),
        piece in 1usize..40,
    ) {
        let frames = |piece: usize| {
            let (mut lines, mut frames) = (Lines::new(), Vec::new());
            for mut part in bytes.chunks(piece) {
                while !part.is_empty() {
                    let (taken, frame) = lines.receive(part);
                    frames.extend(frame);
                    part = &part[taken..];
                }
            }
            frames
        };
        prop_assert_eq!(frames(piece), frames(usize::MAX));
    }
}
