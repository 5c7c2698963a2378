//! Bounds in bytes, by a counting allocator: whatever a peer sends, the codecs hold and use no more than promised.
//!
//! One test in this file, because the counters are the process's.

use datum_protocol::console::Editor;
use datum_protocol::control::{Lines, decode};
use datum_protocol::limits::*;
use datum_protocol::nbd::Negotiation;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes allocated since the region began and not freed.
fn held(region: &Region<'_, System>) -> usize {
    let change = region.change();
    change.bytes_allocated.saturating_sub(change.bytes_deallocated)
}

/// Bytes that the work allocates in all, also those it frees again: no less than its peak.
fn used<T>(work: impl FnOnce() -> T) -> usize {
    let region = Region::new(ALLOCATOR);
    let result = work();
    let change = region.change();
    drop(result);
    change.bytes_allocated
}

fn negotiation_holds_one_option() {
    let region = Region::new(ALLOCATOR);
    let (mut negotiation, mut most) = (Negotiation::new(), 0);
    negotiation.receive(&[0, 0, 0, 3]);
    for length in [NBD_OPTION_BYTES_MAX as u32, u32::MAX] {
        let mut header = *b"IHAVEOPT\0\0\0\x63\0\0\0\0";
        header[12..].copy_from_slice(&length.to_be_bytes());
        negotiation.receive(&header);
        for _ in 0..NBD_OPTION_BYTES_MAX / 1024 {
            most = most.max(held(&region));
            negotiation.receive(&[0x41; 1024]);
            most = most.max(held(&region));
            negotiation.take_output();
        }
    }
    assert!(most >= NBD_OPTION_BYTES_MAX, "the test must see the option: {most}");
    assert!(most <= 2 * NBD_OPTION_BYTES_MAX + 1024, "{most}");
}

fn lines_hold_one_line() {
    let region = Region::new(ALLOCATOR);
    let (mut lines, mut most) = (Lines::new(), 0);
    for _ in 0..1000 {
        lines.receive(&[b'x'; 1000]);
        most = most.max(held(&region));
    }
    assert!(most <= 2 * CONTROL_LINE_BYTES_MAX, "{most}");
}

fn a_line_costs_little_to_decode() {
    let params = |inner: &str| {
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"checkpoint.create","params":{inner}}}"#);
        assert!(line.len() <= CONTROL_LINE_BYTES_MAX);
        line
    };
    let lists: Vec<String> = (0..16).map(|i| format!("\"k{i}\":[{}\"\"]", "\"\",".repeat(1023))).collect();
    for line in [
        params(&format!("{{\"volumes\":[{}0]}}", "0,".repeat(30_000))),
        params(&format!("{{\"volumes\":[{}\"\"]}}", "\"\",".repeat(20_000))),
        params(&format!("{{\"volumes\":{}{}}}", "[".repeat(100), "]".repeat(100))),
        params(&format!("{{{}}}", lists.join(","))),
        params(&format!("{{{}\"z\":1}}", "\"a\":1,".repeat(10_000))),
        params(&format!("{{\"{}\":1}}", "k".repeat(60_000))),
        params(&format!("{{\"name\":\"{}\"}}", "\\u0041".repeat(10_000))),
        "[".repeat(60_000),
        "{\"a\":".repeat(12_000),
    ] {
        let bytes = used(|| decode(line.as_bytes()).map_err(drop));
        assert!(bytes <= 1 << 20, "{bytes} for {}", &line[..80]);
    }
}

fn the_editor_holds_its_history() {
    let region = Region::new(ALLOCATOR);
    let (mut editor, mut output) = (Editor::new("> "), Vec::with_capacity(1 << 20));
    let before = held(&region);
    for number in 0..105u32 {
        editor.receive(format!("{number}{}\r", "y".repeat(4200)).as_bytes(), &mut output);
        output.clear();
    }
    let most = held(&region) - before;
    assert!(most <= (CONSOLE_HISTORY_LINES_MAX + 3) * 2 * CONSOLE_LINE_BYTES_MAX, "{most}");
}

#[test]
fn memory_is_bounded() {
    negotiation_holds_one_option();
    lines_hold_one_line();
    a_line_costs_little_to_decode();
    the_editor_holds_its_history();
}
