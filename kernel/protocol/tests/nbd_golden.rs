//! Golden bytes of every NBD message, written out by hand from the specification.

use datum_protocol::limits::{NBD_CONTEXTS_MAX, NBD_INFO_ITEMS_MAX, NBD_OPTION_BYTES_MAX, NBD_QUERIES_MAX};
use datum_protocol::name::ExportName;
use datum_protocol::nbd::*;

const REPLY: &str = "0003e889045565a9";

/// Bytes from hex text; spaces are for the reader.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn ascii(text: &str) -> String {
    text.bytes().map(|b| format!("{b:02x}")).collect()
}

fn option(number: u32, data: &str) -> Vec<u8> {
    let data = hex(data);
    let mut bytes = hex("49484156454f5054");
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&data);
    bytes
}

/// A negotiation past the client flags.
fn started(flags: &str) -> Negotiation {
    let mut negotiation = Negotiation::new();
    assert_eq!(negotiation.take_output(), hex("4e42444d41474943 49484156454f5054 0003"));
    assert_eq!(negotiation.receive(&hex(flags)), (4, None));
    negotiation
}

fn ask(negotiation: &mut Negotiation, bytes: &[u8]) -> Option<Event> {
    let (taken, event) = negotiation.receive(bytes);
    assert_eq!(taken, bytes.len());
    event
}

/// Sends an option that needs no answer of the service; gives back reply type and data.
fn reply_to(negotiation: &mut Negotiation, bytes: &[u8]) -> (u32, Vec<u8>) {
    assert_eq!(ask(negotiation, bytes), None);
    one_reply(&negotiation.take_output())
}

fn one_reply(bytes: &[u8]) -> (u32, Vec<u8>) {
    assert_eq!(bytes[..8], hex(REPLY));
    let length = u32::from_be_bytes(bytes[16..20].try_into().unwrap());
    assert_eq!(bytes.len(), 20 + length as usize);
    (u32::from_be_bytes(bytes[12..16].try_into().unwrap()), bytes[20..].to_vec())
}

fn description() -> Description {
    Description { size: 0x1_0000_0000, read_only: false, description: "hi".into() }
}

fn export(text: &str) -> ExportName {
    ExportName::parse(text).unwrap()
}

fn structured() -> Negotiation {
    let mut negotiation = started("00000003");
    assert_eq!(reply_to(&mut negotiation, &option(8, "")), (1, vec![]));
    negotiation
}

#[test]
fn client_flags_must_be_known() {
    for (flags, ends) in [("00000001", false), ("00000003", false), ("00000000", true), ("00000007", true)] {
        let (_, event) = Negotiation::new().receive(&hex(flags));
        assert_eq!(matches!(event, Some(Event::Ended(Fault::ClientFlags(_)))), ends, "{flags}");
    }
}

#[test]
fn go_with_every_item() {
    let mut negotiation = structured();
    let go = option(7, &format!("00000003 {} 0003 0001 0002 0003", ascii("vol")));
    assert_eq!(ask(&mut negotiation, &go), Some(Event::Describe(export("vol"))));
    assert_eq!(negotiation.receive(b"early"), (0, None), "nothing is taken before the answer");
    let Some(Event::Ready(session)) = negotiation.describe(Ok(description())) else { panic!() };
    assert_eq!((session.size, session.mode, session.read_only), (1 << 32, Mode::Structured, false));
    let head = |kind: &str, length: &str| format!("{REPLY} 00000007 {kind} {length}");
    let expected = [
        head("00000003", "0000000c"),
        "0000 0000000100000000 0ced".into(),
        head("00000003", "00000005"),
        format!("0001 {}", ascii("vol")),
        head("00000003", "00000004"),
        format!("0002 {}", ascii("hi")),
        head("00000003", "0000000e"),
        "0003 00000001 00001000 02000000".into(),
        head("00000001", "00000000"),
    ];
    assert_eq!(negotiation.take_output(), hex(&expected.concat()));
}

#[test]
fn only_what_was_asked_for_is_told() {
    let mut negotiation = started("00000003");
    ask(&mut negotiation, &option(6, &format!("00000003 {} 0000", ascii("vol"))));
    assert_eq!(negotiation.describe(Ok(Description { read_only: true, ..description() })), None);
    // Read-only, no DF without chunks, and never multi-connection (bit 8).
    let expected = format!(
        "{REPLY} 00000006 00000003 0000000c 0000 0000000100000000 040f {REPLY} 00000006 00000001 00000000"
    );
    assert_eq!(negotiation.take_output(), hex(&expected));
}

#[test]
fn export_name_old_form() {
    for (flags, zeroes) in [("00000001", 124), ("00000003", 0)] {
        let mut negotiation = started(flags);
        assert_eq!(ask(&mut negotiation, &option(1, &ascii("vol"))), Some(Event::Describe(export("vol"))));
        assert!(matches!(negotiation.describe(Ok(description())), Some(Event::Ready(_))));
        let mut expected = hex("0000000100000000 0c6d");
        expected.extend(vec![0; zeroes]);
        assert_eq!(negotiation.take_output(), expected);
    }
    let mut negotiation = started("00000001");
    ask(&mut negotiation, &option(1, &ascii("gone")));
    let ended = negotiation.describe(Err(Refusal::Unknown("no".into())));
    assert_eq!(ended, Some(Event::Ended(Fault::ExportName)));
    assert_eq!(negotiation.receive(&[0; 99]), (99, None), "input is discarded from then on");
    assert!(negotiation.take_output().is_empty());
    let mut extended = started("00000001");
    assert_eq!(reply_to(&mut extended, &option(11, "")), (1, vec![]));
    let ended = ask(&mut extended, &option(1, &ascii("vol")));
    assert_eq!(ended, Some(Event::Ended(Fault::ExportNameAfterExtended)));
}

#[test]
fn list_and_abort() {
    let mut negotiation = started("00000003");
    assert_eq!(ask(&mut negotiation, &option(3, "")), Some(Event::List));
    negotiation.list_export(&export("vol"), "");
    negotiation.list_export(&export("vol@cp"), "x");
    negotiation.list_end(Ok(()));
    let expected = [
        format!("{REPLY} 00000003 00000002 00000007 00000003 {}", ascii("vol")),
        format!("{REPLY} 00000003 00000002 0000000b 00000006 {}", ascii("vol@cpx")),
        format!("{REPLY} 00000003 00000001 00000000"),
    ];
    assert_eq!(negotiation.take_output(), hex(&expected.concat()));
    assert_eq!(ask(&mut negotiation, &option(2, "ff")), Some(Event::Ended(Fault::Closed)));
    assert_eq!(one_reply(&negotiation.take_output()), (1, vec![]));
}

#[test]
fn options_that_are_refused() {
    let mut negotiation = structured();
    let kind = |negotiation: &mut Negotiation, bytes: &[u8]| reply_to(negotiation, bytes).0;
    assert_eq!(kind(&mut negotiation, &option(5, "")), 0x8000_0002, "STARTTLS: policy");
    assert_eq!(kind(&mut negotiation, &option(5, "00")), 0x8000_0003);
    assert_eq!(kind(&mut negotiation, &option(3, "00")), 0x8000_0003);
    assert_eq!(kind(&mut negotiation, &option(8, "00")), 0x8000_0003);
    assert_eq!(kind(&mut negotiation, &option(8, "")), 0x8000_0003, "structured replies once more");
    assert_eq!(kind(&mut negotiation, &option(99, "0102")), 0x8000_0001, "unknown");
    assert_eq!(kind(&mut negotiation, &option(7, "")), 0x8000_0003, "no name");
    assert_eq!(kind(&mut negotiation, &option(7, "000000ff 61 0000")), 0x8000_0003, "name too long");
    assert_eq!(kind(&mut negotiation, &option(7, "00000001 61 0002 0000")), 0x8000_0003, "item missing");
    assert_eq!(kind(&mut negotiation, &option(7, "00000000 0000")), 0x8000_0006, "the empty name");
    assert_eq!(kind(&mut negotiation, &option(6, "00000002 2e2e 0000")), 0x8000_0006, "bad name");
    let long = option(7, &"00".repeat(NBD_OPTION_BYTES_MAX + 1));
    assert_eq!(kind(&mut negotiation, &long), 0x8000_0009, "too big");
    assert_eq!(kind(&mut negotiation, &option(11, "")), 1);
    assert_eq!(kind(&mut negotiation, &option(11, "")), 0x8000_0003, "extended headers once more");
    assert_eq!(kind(&mut negotiation, &option(8, "")), 0x8000_000a, "no way back from extended headers");
    ask(&mut negotiation, &option(7, "00000001 61 0000"));
    assert_eq!(negotiation.describe(Err(Refusal::Unknown("try list".into()))), None);
    assert_eq!(one_reply(&negotiation.take_output()), (0x8000_0006, b"try list".to_vec()));
    let (_, event) = negotiation.receive(&[0; 16]);
    assert_eq!(event, Some(Event::Ended(Fault::OptionMagic(0))));
}

#[test]
fn contexts_are_listed_and_selected() {
    let all = "00000003766f6c 00000000";
    let mut simple = started("00000003");
    assert_eq!(reply_to(&mut simple, &option(9, all)).0, 0x8000_0003, "chunks first");
    let mut negotiation = structured();
    let listed = ask(&mut negotiation, &option(9, all));
    let queries = Namespace::ALL.map(ContextQuery::All).to_vec();
    assert_eq!(listed, Some(Event::MetaContexts { export: export("vol"), queries }));
    negotiation.contexts(Ok(vec![MetaContext::Allocation]));
    let expected = [
        format!("{REPLY} 00000009 00000004 00000013 00000000 {}", ascii("base:allocation")),
        format!("{REPLY} 00000009 00000001 00000000"),
    ];
    assert_eq!(negotiation.take_output(), hex(&expected.concat()));

    let two = format!(
        "00000003766f6c 00000003 0000000f {} 00000013 {} 00000003 {}",
        ascii("base:allocation"),
        ascii("qemu:dirty-bitmap:r"),
        ascii("a:b")
    );
    let bitmap = MetaContext::parse("qemu:dirty-bitmap:r").unwrap();
    let chosen = vec![MetaContext::Allocation, bitmap];
    let queries = chosen.iter().cloned().map(ContextQuery::Exact).collect();
    let asked = ask(&mut negotiation, &option(10, &two));
    assert_eq!(asked, Some(Event::MetaContexts { export: export("vol"), queries }));
    negotiation.contexts(Ok(chosen.clone()));
    let expected = [
        format!("{REPLY} 0000000a 00000004 00000013 00000001 {}", ascii("base:allocation")),
        format!("{REPLY} 0000000a 00000004 00000017 00000002 {}", ascii("qemu:dirty-bitmap:r")),
        format!("{REPLY} 0000000a 00000001 00000000"),
    ];
    assert_eq!(negotiation.take_output(), hex(&expected.concat()));
    ask(&mut negotiation, &option(7, "00000003766f6c 0000"));
    let Some(Event::Ready(session)) = negotiation.describe(Ok(description())) else { panic!() };
    assert_eq!(session.contexts.iter().map(|c| c.id).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn contexts_have_bounds() {
    let mut negotiation = structured();
    let kind = |negotiation: &mut Negotiation, bytes: &[u8]| reply_to(negotiation, bytes).0;
    let query = format!("0000000f {}", ascii("base:allocation"));
    let asking = |count: usize, more: &str| {
        option(10, &format!("00000003766f6c {count:08x} {} {more}", query.repeat(count)))
    };
    assert_eq!(kind(&mut negotiation, &asking(NBD_QUERIES_MAX + 1, "")), 0x8000_0009, "too many queries");
    assert_eq!(kind(&mut negotiation, &asking(1, "00")), 0x8000_0003, "more than it says");
    let nul = option(10, "00000003766f6c 00000001 00000002 6100");
    assert_eq!(kind(&mut negotiation, &nul), 0x8000_0003, "a query with a NUL");

    ask(&mut negotiation, &asking(NBD_QUERIES_MAX, ""));
    let bitmap = |number| MetaContext::parse(&format!("qemu:dirty-bitmap:r{number}")).unwrap();
    negotiation.contexts(Ok((0..=NBD_CONTEXTS_MAX).map(bitmap).collect()));
    assert_eq!(one_reply(&negotiation.take_output()).0, 0x8000_0009, "too many contexts");
    ask(&mut negotiation, &asking(2, ""));
    negotiation.contexts(Ok(vec![MetaContext::Allocation; 2]));
    let expected = [
        format!("{REPLY} 0000000a 00000004 00000013 00000001 {}", ascii("base:allocation")),
        format!("{REPLY} 0000000a 00000001 00000000"),
    ];
    assert_eq!(negotiation.take_output(), hex(&expected.concat()), "one that is named twice is one");
}

#[test]
fn information_is_looked_for_among_so_many_items() {
    let mut negotiation = structured();
    let mut told = |others: usize| {
        let items = format!("{:04x} {} 0001", others + 1, "0000".repeat(others));
        ask(&mut negotiation, &option(6, &format!("00000003766f6c {items}")));
        assert_eq!(negotiation.describe(Ok(description())), None);
        negotiation.take_output().len()
    };
    let name = 20 + 2 + "vol".len();
    assert_eq!(
        told(NBD_INFO_ITEMS_MAX - 1) - told(NBD_INFO_ITEMS_MAX),
        name,
        "the last one looked at is the name"
    );
}

#[test]
fn contexts_of_another_export_do_not_count() {
    let mut negotiation = structured();
    let query = format!("00000003766f6c 00000001 0000000f {}", ascii("base:allocation"));
    ask(&mut negotiation, &option(10, &query));
    negotiation.contexts(Ok(vec![MetaContext::Allocation]));
    ask(&mut negotiation, &option(7, "0000000161 0000"));
    let Some(Event::Ready(session)) = negotiation.describe(Ok(description())) else { panic!() };
    assert!(session.contexts.is_empty());
}

fn session(mode: Mode) -> Session {
    let contexts = [(1, MetaContext::Allocation), (2, MetaContext::Change)];
    let contexts = contexts.map(|(id, context)| SelectedContext { id, context }).to_vec();
    Session { export: export("vol"), size: 1 << 30, read_only: false, mode, contexts }
}

fn compact(flags: u16, kind: u16, offset: u64, length: u32) -> Vec<u8> {
    hex(&format!("25609513 {flags:04x} {kind:04x} 00000000000000c0 {offset:016x} {length:08x}"))
}

fn extended(flags: u16, kind: u16, offset: u64, length: u64) -> Vec<u8> {
    hex(&format!("21e41c71 {flags:04x} {kind:04x} 00000000000000c0 {offset:016x} {length:016x}"))
}

fn incoming(mode: Mode, bytes: &[u8]) -> Incoming {
    let mut transmission = Transmission::new(session(mode));
    let (taken, event) = transmission.receive(bytes);
    assert_eq!(taken, bytes.len());
    event.unwrap()
}

fn command(mode: Mode, bytes: &[u8]) -> Command {
    match incoming(mode, bytes) {
        Incoming::Request(request) => request.command,
        other => panic!("{other:?}"),
    }
}

fn refused(mode: Mode, bytes: &[u8]) -> ErrorNumber {
    match incoming(mode, bytes) {
        Incoming::Refused { error, id, .. } => {
            assert_eq!(id.cookie, 0xc0);
            error
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_command_is_read_in_both_forms() {
    let all = vec![1, 2];
    let expected = [
        (0, 0, Command::Read { dont_fragment: false }),
        (4, 0, Command::Read { dont_fragment: true }),
        (1, 4, Command::Trim),
        (1, 5, Command::Cache),
        (0x13, 6, Command::WriteZeroes { no_hole: true, fast: true }),
        (0, 7, Command::BlockStatus { one: false, contexts: all.clone() }),
        (9, 7, Command::BlockStatus { one: true, contexts: all }),
    ];
    for (flags, kind, wanted) in expected {
        assert_eq!(command(Mode::Structured, &compact(flags, kind, 4096, 4096)), wanted);
        assert_eq!(command(Mode::Extended, &extended(flags, kind, 4096, 4096)), wanted);
    }
    assert_eq!(command(Mode::Simple, &compact(1, 3, 0, 0)), Command::Flush);
    assert_eq!(command(Mode::Simple, &compact(1, 1, 0, 4096)), Command::Write);
    assert_eq!(command(Mode::Extended, &extended(0x21, 1, 0, 4096)), Command::Write);
    assert_eq!(incoming(Mode::Simple, &compact(0, 2, 0, 0)), Incoming::Ended(Fault::Closed));
    assert_eq!(incoming(Mode::Extended, &extended(0, 2, 0, 0)), Incoming::Ended(Fault::Closed));
}

#[test]
fn rules_of_flags_lengths_and_ranges() {
    use ErrorNumber::*;
    let end = 1 << 30;
    for (flags, kind, offset, length, error) in [
        (0, 9, 0, 0, Invalid),
        (2, 0, 0, 1, Invalid),
        (4, 5, 0, 1, Invalid),
        (8, 0, 0, 1, Invalid),
        (0x20, 0, 0, 1, Invalid),
        (0x8000, 4, 0, 1, Invalid),
        (0, 0, end, 1, Invalid),
        (0, 0, u64::MAX, 2, Invalid),
        (0, 4, end - 1, 2, Invalid),
        (0, 6, end - 1, 2, NoSpace),
        (0, 0, 0, (32 << 20) + 1, Invalid),
        (4, 0, 0, (32 << 20) + 1, Overflow),
        (0, 3, 0, 1, Invalid),
        (0, 7, 0, 0, Invalid),
    ] {
        assert_eq!(refused(Mode::Structured, &compact(flags, kind, offset, length)), error, "{flags} {kind}");
    }
    assert_eq!(refused(Mode::Simple, &compact(4, 0, 0, 1)), Invalid, "DF needs chunks");
    assert_eq!(
        command(Mode::Structured, &compact(0, 4, 0, end as u32)),
        Command::Trim,
        "no payload, no bound"
    );
    let mut read_only = session(Mode::Structured);
    read_only.read_only = true;
    let (_, event) = Transmission::new(read_only).receive(&compact(0, 4, 0, 1));
    assert!(matches!(event, Some(Incoming::Refused { error: NotPermitted, .. })));
    let mut blind = session(Mode::Structured);
    blind.contexts.clear();
    let (_, event) = Transmission::new(blind).receive(&compact(0, 7, 0, 1));
    assert!(matches!(event, Some(Incoming::Refused { error: Invalid, .. })));
}

#[test]
fn payload_is_the_services_or_nobodys() {
    let mut transmission = Transmission::new(session(Mode::Simple));
    let mut input = compact(0, 1, 0, 5);
    input.extend_from_slice(b"12345");
    input.extend_from_slice(&compact(0, 3, 0, 0));
    let (taken, event) = transmission.receive(&input);
    assert!(matches!(event, Some(Incoming::Request(_))));
    assert_eq!((taken, transmission.payload_left()), (28, 5));
    assert_eq!(transmission.receive(&input[28..]), (0, None));
    transmission.payload_taken(2);
    assert_eq!(transmission.payload_left(), 3);
    transmission.discard_payload();
    let (taken, event) = transmission.receive(&input[30..]);
    assert_eq!(taken, 3 + 28);
    assert!(matches!(event, Some(Incoming::Request(Request { command: Command::Flush, .. }))));
}

#[test]
fn a_refused_write_is_answered_after_its_payload() {
    let mut transmission = Transmission::new(session(Mode::Simple));
    let length = (32 << 20) + 1;
    assert_eq!(transmission.receive(&compact(0, 1, 0, length)), (28, None));
    let piece = vec![0; 1 << 20];
    for _ in 0..32 {
        assert_eq!(transmission.receive(&piece), (1 << 20, None));
    }
    let (taken, event) = transmission.receive(&piece);
    assert_eq!(taken, 1);
    assert!(matches!(event, Some(Incoming::Refused { error: ErrorNumber::Invalid, .. })));
    let mut beyond = compact(0, 1, 1 << 30, 1);
    beyond.push(0);
    assert_eq!(refused(Mode::Simple, &beyond), ErrorNumber::NoSpace);
    let mut stray = extended(0x20, 0, 0, 3);
    stray.extend_from_slice(b"abc");
    assert_eq!(refused(Mode::Extended, &stray), ErrorNumber::Invalid, "READ takes no payload");
}

#[test]
fn block_status_narrowed_by_its_payload() {
    let with = |payload: &str| {
        let payload = hex(payload);
        let mut bytes = extended(0x20, 7, 4096, payload.len() as u64);
        bytes.extend_from_slice(&payload);
        bytes
    };
    match incoming(Mode::Extended, &with("0000000000002000 00000002")) {
        Incoming::Request(Request { length: 0x2000, offset: 4096, command, .. }) => {
            assert_eq!(command, Command::BlockStatus { one: false, contexts: vec![2] });
        }
        other => panic!("{other:?}"),
    }
    for bad in [
        "0000000000002000",
        "0000000000002000 00000003",
        "0000000000002000 00000001 00000001",
        "0000000000002000 0000",
        "0000000000000000 00000001",
        "ffffffffffffffff 00000001",
        &"00".repeat(8 + 4 * 17),
    ] {
        assert_eq!(refused(Mode::Extended, &with(bad)), ErrorNumber::Invalid, "{bad}");
    }
}

#[test]
fn what_cannot_be_framed_ends_the_session() {
    let mut transmission = Transmission::new(session(Mode::Structured));
    let (_, event) = transmission.receive(&extended(0, 0, 0, 1));
    assert_eq!(event, Some(Incoming::Ended(Fault::RequestMagic(0x21e4_1c71))));
    assert_eq!(transmission.receive(&compact(0, 0, 0, 1)), (28, None));
}

/// QEMU 8.2 and later negotiate extended headers and send each WRITE with its data but without `PAYLOAD_LEN`: their first
/// WRITE hung for ever, because the session ended in silence.
#[test]
fn an_extended_write_has_its_payload_with_the_flag_or_without() {
    for (flags, omits) in [(0x20, false), (0, true)] {
        let mut transmission = Transmission::new(session(Mode::Extended));
        let header = extended(flags, 1, 0, 4096);
        let (taken, event) = transmission.receive(&header);
        assert!(
            matches!(event, Some(Incoming::Request(Request { command: Command::Write, .. }))),
            "{event:?}"
        );
        assert_eq!((taken, transmission.payload_left()), (header.len(), 4096));
        assert_eq!(transmission.omits_payload_len(), omits);
        transmission.payload_taken(4096);
        assert!(transmission.is_between_requests());
    }
    // Too long either way: the payload is skipped, the stream stays in step.
    for flags in [0x20, 0] {
        let mut bytes = extended(flags, 1, 0, (32 << 20) + 1);
        bytes.resize(bytes.len() + (32 << 20) + 1, 0xee);
        assert_eq!(refused(Mode::Extended, &bytes), ErrorNumber::Invalid);
    }
}

fn request_id(mode: Mode, kind: u16) -> RequestId {
    let bytes = match mode {
        Mode::Extended => extended(0, kind, 0x2000, 1),
        _ => compact(0, kind, 0x2000, 1),
    };
    match incoming(mode, &bytes) {
        Incoming::Request(request) => request.id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn simple_replies() {
    let (replies, id) = (Replies::new(Mode::Simple), request_id(Mode::Simple, 0));
    assert_eq!(replies.done(id), hex("67446698 00000000 00000000000000c0"));
    assert_eq!(replies.data(id, 0x2000, 1, true), hex("67446698 00000000 00000000000000c0"));
    assert_eq!(replies.error(id, ErrorNumber::Io, "bad"), hex("67446698 00000005 00000000000000c0"));
    assert_eq!(
        replies.error_at(id, ErrorNumber::Io, "bad", 1, true),
        hex("67446698 00000005 00000000000000c0")
    );
}

#[test]
fn structured_replies() {
    let (replies, id) = (Replies::new(Mode::Structured), request_id(Mode::Structured, 0));
    let head = "00000000000000c0";
    let check = |bytes: Vec<u8>, expected: &str| assert_eq!(bytes, hex(expected));
    check(replies.done(id), &format!("668e33ef 0001 0000 {head} 00000000"));
    check(replies.done(request_id(Mode::Structured, 4)), &format!("67446698 00000000 {head}"));
    check(
        replies.data(id, 0x2000, 0x1000, false),
        &format!("668e33ef 0000 0001 {head} 00001008 0000000000002000"),
    );
    check(
        replies.hole(id, 0x3000, 0x1000, true),
        &format!("668e33ef 0001 0002 {head} 0000000c 0000000000003000 00001000"),
    );
    check(
        replies.error(id, ErrorNumber::Io, "bad"),
        &format!("668e33ef 0001 8001 {head} 00000009 00000005 0003 626164"),
    );
    check(
        replies.error_at(id, ErrorNumber::Io, "", 0x2000, false),
        &format!("668e33ef 0000 8002 {head} 0000000e 00000005 0000 0000000000002000"),
    );
    let extents = [
        Extent { length: 4096, flags: 0x1_0000_0003 },
        Extent { length: 1 << 33, flags: 0 },
        Extent { length: 1, flags: 1 },
    ];
    check(
        replies.block_status(id, 2, &extents, true),
        &format!("668e33ef 0001 0005 {head} 00000014 00000002 00001000 00000003 fffff000 00000000"),
    );
}

#[test]
fn extended_replies() {
    let (replies, id) = (Replies::new(Mode::Extended), request_id(Mode::Extended, 4));
    let head = "00000000000000c0 0000000000002000";
    let check = |bytes: Vec<u8>, expected: &str| assert_eq!(bytes, hex(expected));
    check(replies.done(id), &format!("6e8a278c 0001 0000 {head} 0000000000000000"));
    check(
        replies.data(id, 0x2001, 0x1000, false),
        &format!("6e8a278c 0000 0001 {head} 0000000000001008 0000000000002001"),
    );
    check(
        replies.hole(id, 0x3000, 0x1000, true),
        &format!("6e8a278c 0001 0002 {head} 000000000000000c 0000000000003000 00001000"),
    );
    check(
        replies.error(id, ErrorNumber::Shutdown, ""),
        &format!("6e8a278c 0001 8001 {head} 0000000000000006 0000006c 0000"),
    );
    let extents = [Extent { length: 1 << 33, flags: 0x1_0000_0003 }];
    check(
        replies.block_status(id, 1, &extents, true),
        &format!(
            "6e8a278c 0001 0006 {head} 0000000000000018 00000001 00000001 0000000200000000 0000000100000003"
        ),
    );
}
