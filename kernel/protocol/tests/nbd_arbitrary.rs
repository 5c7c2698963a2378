//! Arbitrary bytes in arbitrary pieces: the NBD codec never panics, takes what it says, and means the same
//! whatever the pieces.

use datum_protocol::limits::NBD_OPTION_BYTES_MAX;
use datum_protocol::name::ExportName;
use datum_protocol::nbd::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// One option, well-formed or not.
fn any_option() -> impl Strategy<Value = Vec<u8>> {
    (0u32..14, vec(any::<u8>(), 0..40), any::<bool>(), 0u32..6).prop_map(|(number, data, named, skew)| {
        let mut body = Vec::new();
        if named {
            body.extend_from_slice(&3u32.to_be_bytes());
            body.extend_from_slice(b"vol");
        }
        body.extend_from_slice(&data[..if named { data.len().min(6) } else { data.len() }]);
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend_from_slice(&number.to_be_bytes());
        let length = if skew == 5 { 70_000 } else { body.len() as u32 };
        bytes.extend_from_slice(&length.to_be_bytes());
        body.resize(length as usize, 0);
        bytes.extend(body);
        bytes
    })
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let numbers = (any::<bool>(), 0u16..0x40, 0u16..9, 0u64..5000, prop_oneof![0u64..5000, any::<u64>()]);
    numbers.prop_map(|(extended, flags, kind, offset, length)| {
        let mut bytes = Vec::new();
        let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
        bytes.extend_from_slice(&magic.to_be_bytes());
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&7u64.to_be_bytes());
        bytes.extend_from_slice(&offset.to_be_bytes());
        match extended {
            true => bytes.extend_from_slice(&length.to_be_bytes()),
            false => bytes.extend_from_slice(&(length as u32).to_be_bytes()),
        }
        bytes
    })
}

/// Runs a negotiation over pieces; answers each question in a fixed way. Gives events and output.
fn negotiate(bytes: &[u8], piece: usize) -> (Vec<Event>, Vec<u8>) {
    let mut negotiation = Negotiation::new();
    let (mut events, mut output) = (Vec::new(), Vec::new());
    for mut input in bytes.chunks(piece) {
        while !input.is_empty() {
            let (taken, event) = negotiation.receive(input);
            assert!(taken <= input.len());
            input = &input[taken..];
            let Some(event) = event else {
                assert!(input.is_empty(), "bytes left without an event");
                break;
            };
            let ready = answer(&mut negotiation, &event);
            events.push(event);
            let over = matches!(ready, Some(Event::Ready(_)));
            events.extend(ready);
            output.extend(negotiation.take_output());
            if over {
                return (events, output);
            }
        }
        output.extend(negotiation.take_output());
    }
    (events, output)
}

fn answer(negotiation: &mut Negotiation, event: &Event) -> Option<Event> {
    match event {
        Event::List => {
            negotiation.list_export(&ExportName::parse("vol").unwrap(), "a volume");
            negotiation.list_end(Ok(()));
            None
        }
        Event::Describe(_) => {
            let description = Description { size: 1 << 20, read_only: false, description: String::new() };
            negotiation.describe(Ok(description))
        }
        Event::MetaContexts { .. } => {
            negotiation.contexts(Ok(vec![
                MetaContext::Allocation,
                MetaContext::Allocation,
                MetaContext::Change,
            ]));
            None
        }
        Event::Ready(_) | Event::Ended(_) => None,
    }
}

fn transmit(mode: Mode, bytes: &[u8], piece: usize) -> Vec<Incoming> {
    let contexts = vec![SelectedContext { id: 1, context: MetaContext::Allocation }];
    let export = ExportName::parse("vol").unwrap();
    let mut transmission =
        Transmission::new(Session { export, size: 4096, read_only: false, mode, contexts });
    let mut events = Vec::new();
    for mut input in bytes.chunks(piece) {
        while !input.is_empty() {
            let (taken, event) = transmission.receive(input);
            input = &input[taken..];
            events.extend(event.clone());
            let payload = transmission.payload_left().min(input.len() as u64);
            transmission.payload_taken(payload);
            input = &input[payload as usize..];
            assert!(taken + payload as usize > 0 || event.is_some(), "no progress");
        }
    }
    events
}

proptest! {
    #[test]
    fn negotiation_does_not_depend_on_the_pieces(options in vec(any_option(), 0..12), piece in 1usize..200) {
        let mut bytes = vec![0, 0, 0, 3];
        bytes.extend(options.concat());
        prop_assert_eq!(negotiate(&bytes, piece), negotiate(&bytes, usize::MAX));
    }

    #[test]
    fn negotiation_survives_noise(bytes in vec(any::<u8>(), 0..2000), piece in 1usize..200) {
        let (_, output) = negotiate(&bytes, piece);
        prop_assert!(output.len() <= 2 * NBD_OPTION_BYTES_MAX);
    }

    #[test]
    fn transmission_does_not_depend_on_the_pieces(
        mode in prop_oneof![Just(Mode::Simple), Just(Mode::Structured), Just(Mode::Extended)],
        requests in vec(prop_oneof![4 => request(), 1 => vec(any::<u8>(), 0..40)], 0..12),
        piece in 1usize..100,
    ) {
        let bytes = requests.concat();
        prop_assert_eq!(transmit(mode, &bytes, piece), transmit(mode, &bytes, usize::MAX));
    }
}
