//! The control contract: every method once and in an order that makes sense, then everything a client can get
//! wrong.

use std::time::Duration;

use datum_tests::qemu::{JOB_PATIENCE, Stage, boot, call, changes, end, finish, job, nbd, refused, volume};
use serde_json::{Value, json};
use xtask::control::{Client, ControlError};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// The names of a list's items, asked for in pages of one.
fn names(control: &mut Client, method: &str, mut params: Value) -> Vec<String> {
    let mut names = Vec::new();
    params["limit"] = json!(1);
    loop {
        let page = call(control, method, params.clone());
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 1, "{method} gave more than was asked for: {page}");
        names.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        match page["next"].is_null() {
            true => return names,
            false => params["after"] = page["next"].clone(),
        }
    }
}

#[test]
fn every_method_does_its_work() {
    let stage = Stage::wait();
    let machine =
        stage.machine().disks([stage.disk("a", 1 << 30), stage.disk("b", 1 << 30)]).option("pool=none");
    let (appliance, mut control) = boot(&machine);
    let control = &mut control;
    assert_eq!(names(control, "device.list", json!({})), ["a", "b"]);
    refused(control, "volume.list", json!({}), "no_pool");
    refused(control, "pool.create", json!({ "devices": ["c"] }), "not_found");
    call(control, "event.subscribe", json!({}));
    assert_eq!(
        call(control, "pool.create", json!({ "devices": ["a", "b"], "name": "tank" }))["name"],
        "tank"
    );
    assert_eq!(call(control, "pool.status", json!({}))["devices"].as_array().unwrap().len(), 2);
    volumes(control);
    let mut writer = nbd(&appliance, "db");
    writer.write(0, &[1; 8192]).unwrap();
    writer.flush().unwrap();
    points(control, &mut writer);
    drop(writer);
    reverts_and_clones(control);
    observes(control);
    for method in ["pool.check", "pool.scrub"] {
        assert_eq!(job(control, method, json!({}))["errors"], 0);
    }
    let types = event_types(control);
    for expected in [
        "volume.created",
        "checkpoint.created",
        "checkpoint.converted",
        "refpoint.deleted",
        "volume.reverted",
    ] {
        assert!(types.iter().any(|seen| seen == expected), "no event {expected} in {types:?}");
    }
    call(control, "system.shutdown", json!({}));
    let mut appliance = appliance;
    assert!(appliance.wait_for_end(PATIENCE).unwrap().success());
}

fn volumes(control: &mut Client) {
    volume(control, "db", 16 * MIB);
    volume(control, "log", 4 * MIB);
    assert_eq!(names(control, "volume.list", json!({})), ["db", "log"]);
    call(control, "volume.rename", json!({ "name": "log", "new_name": "logs" }));
    assert_eq!(call(control, "volume.resize", json!({ "name": "logs", "size": 8 * MIB }))["size"], 8 * MIB);
    assert_eq!(call(control, "volume.show", json!({ "name": "logs" }))["size"], 8 * MIB);
    assert_eq!(call(control, "volume.suspend", json!({ "volume": "logs" }))["suspended"], true);
    assert_eq!(call(control, "volume.resume", json!({ "volume": "logs" }))["suspended"], false);
    refused(control, "volume.show", json!({ "name": "log" }), "not_found");
    refused(control, "volume.create", json!({ "name": "db", "size": MIB }), "exists");
}

/// Checkpoint, conversion, tokens and queries around one write of 4 KiB.
fn points(control: &mut Client, writer: &mut xtask::nbd::Client) {
    let made = call(control, "checkpoint.create", json!({ "volumes": ["db", "logs"], "name": "monday" }));
    assert_eq!(made["items"].as_array().unwrap().len(), 2, "{made}");
    writer.write(4096, &[2; 4096]).unwrap();
    writer.flush().unwrap();
    let shown = call(control, "checkpoint.show", json!({ "volume": "db", "name": "monday" }));
    // One block of data, and the nodes above it.
    assert!((8192..65536).contains(&shown["unique_bytes"].as_u64().unwrap()), "{shown}");
    let converted =
        call(control, "checkpoint.convert", json!({ "volume": "db", "name": "monday", "refpoint": "mark" }));
    control.wait_for_job(converted["job"].as_str().unwrap(), JOB_PATIENCE, |_| {}).unwrap();
    assert_eq!(names(control, "checkpoint.list", json!({ "volume": "db" })), [""; 0]);
    assert_eq!(names(control, "refpoint.list", json!({ "volume": "db" })), ["mark"]);
    assert_eq!(changes(control, "db", "mark"), [(4096, 4096)]);
    let token = call(control, "refpoint.token", json!({ "volume": "db", "name": "mark" }))["token"].clone();
    let token = token.as_str().unwrap();
    assert!(token.starts_with("datum:1:"));
    call(control, "refpoint.create", json!({ "volume": "db", "name": "later" }));
    call(control, "refpoint.show", json!({ "volume": "db", "name": "later" }));
    call(control, "refpoint.delete", json!({ "volume": "db", "name": "mark" }));
    assert_eq!(changes(control, "db", token), [(4096, 4096)]);
    assert_eq!(changes(control, "db", "later"), []);
    refused(control, "changes.query", json!({ "volume": "logs", "since": token }), "refpoint_foreign");
    refused(
        control,
        "changes.query",
        json!({ "volume": "db", "since": format!("{token}0") }),
        "token_invalid",
    );
    refused(control, "changes.query", json!({ "volume": "db", "since": "nothing" }), "not_found");
    let allocated = call(control, "allocated.query", json!({ "volume": "db" }));
    assert_eq!(allocated["extents"], json!([{ "offset": 0, "length": 8192, "kind": "data" }]));
    refused(
        control,
        "changes.query",
        json!({ "volume": "db", "since": "later", "until": "monday" }),
        "not_found",
    );
    let logs = json!({ "volume": "logs", "since": "monday" });
    assert_eq!(call(control, "changes.query", logs)["changed_bytes"], 0);
    call(control, "checkpoint.create", json!({ "volumes": ["db"], "name": "early" }));
    call(control, "refpoint.create", json!({ "volume": "db", "name": "late" }));
    let newer = json!({ "volume": "db", "since": "late", "until": "early" });
    refused(control, "changes.query", newer, "refpoint_newer");
    job(control, "checkpoint.delete", json!({ "volume": "db", "name": "early" }));
}

fn reverts_and_clones(control: &mut Client) {
    call(control, "checkpoint.create", json!({ "volumes": ["db"], "name": "base" }));
    let clone =
        call(control, "volume.clone", json!({ "volume": "db", "checkpoint": "base", "name": "copy" }));
    assert_eq!(clone["origin"], json!({ "volume": "db", "checkpoint": "base" }), "{clone}");
    job(control, "volume.revert", json!({ "volume": "db", "checkpoint": "base" }));
    assert_eq!(changes(control, "db", "base"), []);
    call(control, "volume.delete", json!({ "name": "copy" }));
    refused(control, "volume.show", json!({ "name": "copy" }), "not_found");
}

fn observes(control: &mut Client) {
    let info = call(control, "system.info", json!({}));
    assert_eq!(info["product"], "datum");
    let metrics = call(control, "system.metrics", json!({}));
    assert!(metrics["text"].as_str().unwrap().ends_with("# EOF\n"));
    let sessions = call(control, "session.list", json!({}));
    assert!(
        sessions["items"].as_array().unwrap().iter().any(|session| session["kind"] == "control"),
        "{sessions}"
    );
    let jobs = call(control, "job.list", json!({}));
    let first = jobs["items"][0]["job"].clone();
    call(control, "job.show", json!({ "job": first }));
    refused(control, "job.show", json!({ "job": "999999" }), "not_found");
    let check = call(control, "pool.check", json!({}));
    // The check may be over before it is cancelled; either answer is a clear one.
    match control.call("job.cancel", json!({ "job": check["job"] })) {
        Ok(_) | Err(ControlError::Refused(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

fn event_types(control: &mut Client) -> Vec<String> {
    let mut types = Vec::new();
    while let Some(event) = control.next_event(Duration::from_millis(300)).unwrap() {
        types.push(event["params"]["type"].as_str().unwrap().to_owned());
    }
    types
}

/// Sends a line as it is; the answer must be an error with this code, and the port must go on.
fn wrong(control: &mut Client, line: &[u8], code: i64) {
    control.send_bytes(line).unwrap();
    control.send_bytes(b"\n").unwrap();
    let answer = control.receive_within(PATIENCE).unwrap();
    let shown = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
    assert_eq!(answer["error"]["code"], code, "{shown}: {answer}");
    assert!(answer["error"]["message"].as_str().unwrap().len() > 10, "{shown}: {answer}");
    call(control, "system.info", json!({}));
}

#[test]
fn bad_lines_are_answered_and_the_port_goes_on() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    let control_ref = &mut control;
    wrong(control_ref, b"{", -32700);
    wrong(control_ref, b"\xc3\x28", -32700);
    wrong(control_ref, b"nonsense", -32700);
    wrong(control_ref, &b"[".repeat(60_000), -32700);
    wrong(control_ref, br#"{"a":"#.repeat(12_000).as_slice(), -32700);
    wrong(control_ref, &vec![b'x'; 70_000], -32700);
    wrong(control_ref, &vec![b' '; 3 << 20], -32700);
    wrong(control_ref, b"[]", -32600);
    wrong(control_ref, br#"{"id":1,"method":"system.info"}"#, -32600);
    wrong(control_ref, br#"{"jsonrpc":"2.0","id":1,"method":"system.inf"}"#, -32601);
    for params in [
        r#"{"name":"x"}"#,
        r#"{"name":"x","size":"big"}"#,
        r#"{"name":"x","size":1.5}"#,
        r#"{"name":"x","size":-4096}"#,
        r#"{"name":"x","size":99999999999999999999999}"#,
        r#"{"name":"x","size":4096,"colour":"blue"}"#,
        r#"{"name":"x","size":4096,"name":"y"}"#,
        r#"{"name":7,"size":4096}"#,
        r#"{"name":"../x","size":4096}"#,
        r#"{"name":"","size":4096}"#,
        r#"{"name":"x y","size":4096}"#,
    ] {
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"volume.create","params":{params}}}"#);
        wrong(control_ref, line.as_bytes(), -32602);
    }
    // A 0xFF drops what came before it, so only the second half is a request.
    control_ref.send_bytes(b"{\"half a line\xff").unwrap();
    call(control_ref, "system.info", json!({}));
    finish(appliance, control);
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    for size in [0, 1, 4095, 4097, (64 << 40) + 4096, u64::MAX, u64::MAX - 4095] {
        let error = control.call("volume.create", json!({ "name": "x", "size": size })).unwrap_err();
        assert!(matches!(error.kind(), Some("invalid" | "limit" | "invalid_params")), "{size}: {error}");
    }
    volume(&mut control, "small", 4096);
    volume(&mut control, "large", 64 << 40);
    for size in [0, 100, u64::MAX] {
        assert!(control.call("volume.resize", json!({ "name": "small", "size": size })).is_err());
    }
    assert_eq!(call(&mut control, "volume.show", json!({ "name": "small" }))["size"], 4096);
    finish(appliance, control);
}

/// A client that leaves in the middle of a line costs the next one nothing.
#[test]
fn half_a_line_is_forgotten_with_its_client() {
    let stage = Stage::wait();
    let (mut appliance, mut control) = boot(&stage.with_disk(1 << 30));
    for round in 0..10 {
        control
            .send_bytes(br#"{"jsonrpc":"2.0","id":1,"method":"volume.create","params":{"name":"x"#)
            .unwrap();
        drop(control);
        control = appliance.control().unwrap();
        assert_eq!(call(&mut control, "volume.list", json!({}))["items"], json!([]), "round {round}");
    }
    finish(appliance, control);
}

#[test]
fn a_pool_fills_up_loudly_and_empties_again() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(64 << 20));
    volume(&mut control, "db", 256 * MIB);
    let mut writer = nbd(&appliance, "db");
    let mut offset = 0;
    let error = loop {
        match writer.write(offset, &vec![7; 1 << 20]) {
            Ok(()) => offset += MIB,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, xtask::nbd::NbdError::Request(28, _)), "ENOSPC was expected: {error}");
    assert!(offset > 32 * MIB, "only {offset} bytes fit in 64 MiB");
    writer.flush().unwrap();
    assert_eq!(writer.read(offset - 4096, 4096).unwrap(), [7; 4096]);
    call(&mut control, "checkpoint.create", json!({ "volumes": ["db"], "name": "cp" }));
    let converted = call(&mut control, "checkpoint.convert", json!({ "volume": "db", "name": "cp" }));
    control.wait_for_job(converted["job"].as_str().unwrap(), JOB_PATIENCE, |_| {}).unwrap();
    writer.trim(0, 16 * MIB).unwrap();
    writer.write(0, &vec![8; 8 << 20]).unwrap();
    writer.disconnect().unwrap();
    call(&mut control, "volume.delete", json!({ "name": "db", "force": true }));
    finish(appliance, control);
}

#[test]
fn suspension_holds_requests_and_fails_none() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", 4 * MIB);
    let mut writer = nbd(&appliance, "db");
    call(&mut control, "volume.suspend", json!({ "volume": "db" }));
    let held = std::thread::spawn(move || {
        writer.write(0, &[1; 4096]).unwrap();
        writer
    });
    std::thread::sleep(Duration::from_millis(300));
    assert!(!held.is_finished(), "a suspended volume answered a write");
    call(&mut control, "volume.resume", json!({ "volume": "db" }));
    held.join().unwrap().disconnect().unwrap();
    end(appliance, control);
}
