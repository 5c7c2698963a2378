//! Lines on the control port. Every answer is JSON and has the id of a request, or none; and at the end the
//! service still answers.

use super::{appliance, send, text};
use crate::input::Input;
use serde_json::Value;

const WORDS: [&str; 62] = [
    "system.info",
    "system.metrics",
    "device.list",
    "pool.create",
    "pool.status",
    "pool.check",
    "pool.scrub",
    "volume.create",
    "volume.list",
    "volume.show",
    "volume.resize",
    "volume.rename",
    "volume.delete",
    "volume.clone",
    "volume.revert",
    "volume.suspend",
    "volume.resume",
    "checkpoint.create",
    "checkpoint.list",
    "checkpoint.show",
    "checkpoint.delete",
    "checkpoint.convert",
    "refpoint.create",
    "refpoint.list",
    "refpoint.show",
    "refpoint.delete",
    "refpoint.token",
    "changes.query",
    "allocated.query",
    "job.show",
    "job.list",
    "job.cancel",
    "session.list",
    "event.subscribe",
    "{\"jsonrpc\":\"2.0\",\"id\":",
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"",
    "\",\"params\":{",
    "}}\n",
    "\"name\":\"",
    "\"volume\":\"vol\",",
    "\"volumes\":[\"vol\"]",
    "\"checkpoint\":\"cp\"",
    "\"since\":\"ref\"",
    "\"new_name\":\"",
    "\"size\":",
    "\"limit\":",
    "\"after\":\"",
    "\"offset\":",
    "\"job\":\"",
    "\"devices\":[\"vd0\"]",
    "\"method\":\"",
    "\"jsonrpc\":\"2.0\"",
    "\"id\":",
    "vol",
    "\"vol\"",
    "18446744073709551615",
    "4096",
    "null",
    "\"",
    "\\u00e9",
    "\\ud800",
    "[[[[[[[[[[[[[[[[",
];

/// See the module.
pub(crate) fn control(bytes: &[u8]) {
    let mut input = Input(bytes);
    let size = input.u8();
    let sent = text(&mut input, &WORDS);
    let mut rig = appliance();
    let control = rig.control();
    send(&mut rig, &control.client, &sent, size);
    let ids = ids(&sent);
    for line in control.client.drain().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let answer: Value = serde_json::from_slice(line)
            .unwrap_or_else(|error| panic!("no JSON: {error}: {}", String::from_utf8_lossy(line)));
        assert_eq!(answer["jsonrpc"], "2.0", "{answer}");
        let known = answer.get("method").is_some() || answer["id"].is_null() || ids.contains(&answer["id"]);
        assert!(known || ids.contains(&Value::Null), "nobody asked for {answer}");
    }
    control.client.send(b"\xff\n{\"jsonrpc\":\"2.0\",\"id\":\"last\",\"method\":\"system.info\"}\n");
    while rig.power().is_none() {
        let client = control.client.clone();
        let line = rig.run(async move { client.receive_line().await });
        let answer: Value = serde_json::from_slice(&line).unwrap_or_default();
        if answer["id"] == "last" {
            break;
        }
    }
}

/// The ids of all requests in `sent`; a null among them where a line leaves open which is meant.
fn ids(sent: &[u8]) -> Vec<Value> {
    let lines = sent.split(|byte| *byte == b'\n');
    lines.map(|line| line.rsplit(|byte| *byte == 0xff).next().unwrap_or_default()).map(id).collect()
}

fn id(line: &[u8]) -> Value {
    let Ok(request) = serde_json::from_slice::<Value>(line) else { return Value::Null };
    let twice = line.windows(4).filter(|part| part == b"\"id\"").count() > 1 || line.contains(&b'\\');
    match &request["id"] {
        id if !twice && (id.is_string() || id.is_u64() || id.is_i64()) => id.clone(),
        _ => Value::Null,
    }
}
