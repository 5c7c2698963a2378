//! Keys on the console: editing, completion and commands. What comes back is UTF-8.

use super::{appliance, send, text};
use crate::input::Input;

const WORDS: [&str; 44] = [
    "help",
    "volume ",
    "checkpoint ",
    "refpoint ",
    "pool ",
    "device ",
    "job ",
    "system ",
    "changes ",
    "session ",
    "list",
    "show ",
    "create ",
    "delete ",
    "convert ",
    "status",
    "query ",
    "info",
    "metrics",
    "resize ",
    "rename ",
    "clone ",
    "revert ",
    "suspend ",
    "vol",
    "cp",
    "ref",
    "name=",
    "size=1M",
    "since=ref",
    "volume=vol",
    "limit=1",
    "\r",
    "\n",
    "\t",
    "\t\t",
    "\x1b[A",
    "\x1b[B",
    "\x1b[C",
    "\x1b[D",
    "\x1b[3~",
    "\x1b[H",
    "\x7f",
    "\u{e9}",
];

/// Turns of the service after which an answer must have come.
const LINE_MAX: usize = 64 << 20;

/// See the module.
pub(crate) fn console(bytes: &[u8]) {
    let mut input = Input(bytes);
    let size = input.u8();
    let keys = text(&mut input, &WORDS);
    let mut rig = appliance();
    let client = rig.console();
    client.connect();
    rig.settle();
    send(&mut rig, &client, &keys, size);
    let shown = client.drain();
    assert!(shown.len() < LINE_MAX, "{} bytes for {} keys", shown.len(), keys.len());
    if let Err(error) = std::str::from_utf8(&shown) {
        panic!("not UTF-8: {error}");
    }
}
