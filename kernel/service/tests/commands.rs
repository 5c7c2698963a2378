//! Every method over a real pool, as a program would use it.

mod rig;

use rig::nbd::{Mode, Nbd, TRIM};
use rig::{Control, Rig};
use serde_json::{Value, json};

const BLOCK: u64 = 4096;

fn fresh() -> (Rig, Control) {
    let mut rig = Rig::with_pool(128);
    let control = rig.control();
    (rig, control)
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

#[test]
fn a_volume_from_cradle_to_grave() {
    let (mut rig, mut control) = fresh();
    let volume = control.call(&mut rig, "volume.create", json!({"name": "db", "size": 1 << 20}));
    assert_eq!(
        (&volume["name"], &volume["size"], &volume["suspended"]),
        (&json!("db"), &json!(1 << 20), &json!(false))
    );
    assert!(volume["id"].is_string() && volume["created"].as_str().unwrap().ends_with('Z'));
    assert_eq!(control.kind(&mut rig, "volume.create", json!({"name": "db", "size": 4096})), "exists");
    for size in [0u64, 1, 4095, 4097, (64 << 40) + 4096, u64::MAX] {
        let kind = control.kind(&mut rig, "volume.create", json!({"name": "odd", "size": size}));
        assert!(kind == "invalid" || kind == "limit", "{size}: {kind}");
    }
    control.call(&mut rig, "volume.create", json!({"name": "huge", "size": 64u64 << 40}));
    let grown = control.call(&mut rig, "volume.resize", json!({"name": "db", "size": 2 << 20}));
    assert_eq!(grown["size"], 2 << 20);
    assert_eq!(control.kind(&mut rig, "volume.resize", json!({"name": "db", "size": 0})), "invalid");
    control.call(&mut rig, "volume.rename", json!({"name": "db", "new_name": "base"}));
    assert_eq!(
        control.kind(&mut rig, "volume.rename", json!({"name": "base", "new_name": "huge"})),
        "exists"
    );
    assert_eq!(names(&control.call(&mut rig, "volume.list", json!({}))), ["base", "huge"]);
    let page = control.call(&mut rig, "volume.list", json!({"limit": 1}));
    assert_eq!((names(&page), &page["next"]), (vec!["base"], &json!("base")));
    let page = control.call(&mut rig, "volume.list", json!({"limit": 1, "after": "base"}));
    assert_eq!((names(&page), page.get("next")), (vec!["huge"], None));
    assert_eq!(control.call(&mut rig, "volume.suspend", json!({"volume": "base"}))["suspended"], true);
    assert_eq!(control.call(&mut rig, "volume.resume", json!({"volume": "base"}))["suspended"], false);
    control.call(&mut rig, "volume.delete", json!({"name": "base"}));
    for (method, params) in [
        ("volume.show", json!({"name": "base"})),
        ("volume.delete", json!({"name": "base"})),
        ("volume.suspend", json!({"volume": "base"})),
        ("checkpoint.create", json!({"volumes": ["base"], "name": "c"})),
        ("checkpoint.list", json!({"volume": "base"})),
        ("refpoint.token", json!({"volume": "huge", "name": "r"})),
        ("changes.query", json!({"volume": "huge", "since": "r"})),
        ("job.show", json!({"job": "7"})),
    ] {
        assert_eq!(control.kind(&mut rig, method, params), "not_found", "{method}");
    }
}

#[test]
fn checkpoint_convert_and_ask_what_changed() {
    let (mut rig, mut control) = fresh();
    control.call(&mut rig, "volume.create", json!({"name": "db", "size": 16 << 20}));
    let port = rig.nbd_port("org.datum.nbd.0");
    let mut nbd = Nbd::open(&mut rig, &port, Mode::Structured, "db", &[]).unwrap();
    nbd.write(&mut rig, 0, &vec![1; 100 * BLOCK as usize]);
    let made = control.call(&mut rig, "checkpoint.create", json!({"volumes": ["db"], "name": "monday"}));
    assert_eq!(made["items"][0]["state"], "ready");
    nbd.write(&mut rig, 10 * BLOCK, &vec![2; 3 * BLOCK as usize]);
    nbd.simple(&mut rig, TRIM, 0, 20 * BLOCK, 2 * BLOCK);
    nbd.write(&mut rig, 200 * BLOCK + 5, b"one byte is a block");
    let expected = json!({
        "extents": [
            {"offset": 10 * BLOCK, "length": 3 * BLOCK, "kind": "data"},
            {"offset": 20 * BLOCK, "length": 2 * BLOCK, "kind": "zero"},
            {"offset": 200 * BLOCK, "length": BLOCK, "kind": "data"},
        ],
        "changed_bytes": 6 * BLOCK,
    });
    let since = |since: &str| json!({"volume": "db", "since": since});
    assert_eq!(control.call(&mut rig, "changes.query", since("monday")), expected);
    let shown = control.call(&mut rig, "checkpoint.show", json!({"volume": "db", "name": "monday"}));
    assert!(shown["unique_bytes"].as_u64().unwrap() >= 5 * BLOCK, "{shown}");
    let before = control.call(&mut rig, "pool.status", json!({}))["allocated_bytes"].as_u64().unwrap();
    let converted = control.call(&mut rig, "checkpoint.convert", json!({"volume": "db", "name": "monday"}));
    assert_eq!(converted["refpoint"]["name"], "monday");
    let job = control.wait(&mut rig, &converted);
    assert_eq!((&job["state"], &job["progress"]), (&json!("done"), &json!(1.0)), "{job}");
    let after = control.call(&mut rig, "pool.status", json!({}))["allocated_bytes"].as_u64().unwrap();
    assert!(after < before, "{after} < {before}");
    assert_eq!(
        control.call(&mut rig, "changes.query", since("monday")),
        expected,
        "conversion changes no answer"
    );
    let token = control.call(&mut rig, "refpoint.token", json!({"volume": "db", "name": "monday"}));
    let token = token["token"].as_str().unwrap();
    assert!(token.starts_with("datum:1:"));
    assert_eq!(control.call(&mut rig, "changes.query", since(token)), expected);
    let page = json!({"volume": "db", "since": "monday", "limit": 1});
    let page = control.call(&mut rig, "changes.query", page);
    assert_eq!((&page["next_offset"], &page["changed_bytes"]), (&json!(20 * BLOCK), &json!(3 * BLOCK)));
    let rest = json!({"volume": "db", "since": "monday", "offset": 20 * BLOCK});
    assert_eq!(control.call(&mut rig, "changes.query", rest)["changed_bytes"], 3 * BLOCK);
    control.call(&mut rig, "refpoint.delete", json!({"volume": "db", "name": "monday"}));
    assert_eq!(control.kind(&mut rig, "changes.query", since("monday")), "not_found");
    assert_eq!(control.call(&mut rig, "changes.query", since(token)), expected, "a token needs no record");
    let mut altered = token.to_string();
    let last = altered.pop().unwrap();
    altered.push(if last == '0' { '1' } else { '0' });
    assert_eq!(control.kind(&mut rig, "changes.query", since(&altered)), "token_invalid");
    control.call(&mut rig, "volume.create", json!({"name": "other", "size": 1 << 20}));
    let foreign = json!({"volume": "other", "since": token});
    assert_eq!(control.kind(&mut rig, "changes.query", foreign), "refpoint_foreign");
    let allocated = control.call(&mut rig, "allocated.query", json!({"volume": "db"}));
    assert_eq!(allocated["changed_bytes"], 99 * BLOCK, "{allocated}");
    assert_eq!(
        control.kind(&mut rig, "allocated.query", json!({"volume": "db", "offset": 17 << 20})),
        "invalid"
    );
}

#[test]
fn points_are_compared_only_backwards() {
    let (mut rig, mut control) = fresh();
    control.call(&mut rig, "volume.create", json!({"name": "db", "size": 1 << 20}));
    for name in ["a", "b"] {
        control.call(&mut rig, "checkpoint.create", json!({"volumes": ["db"], "name": name}));
    }
    let query = |since: &str, until: &str| json!({"volume": "db", "since": since, "until": until});
    assert_eq!(control.call(&mut rig, "changes.query", query("a", "b"))["extents"], json!([]));
    assert_eq!(control.kind(&mut rig, "changes.query", query("b", "a")), "refpoint_newer");
    assert_eq!(control.kind(&mut rig, "refpoint.create", json!({"volume": "db", "name": "a"})), "exists");
}

#[test]
fn clones_hold_space_and_reverts_are_jobs() {
    let (mut rig, mut control) = fresh();
    control.call(&mut rig, "volume.create", json!({"name": "db", "size": 1 << 20}));
    let port = rig.nbd_port("org.datum.nbd.0");
    let mut nbd = Nbd::open(&mut rig, &port, Mode::Structured, "db", &[]).unwrap();
    nbd.write(&mut rig, 0, &[1; 8192]);
    control.call(&mut rig, "checkpoint.create", json!({"volumes": ["db"], "name": "cp"}));
    let clone = json!({"volume": "db", "checkpoint": "cp", "name": "copy"});
    let clone = control.call(&mut rig, "volume.clone", clone);
    assert_eq!(clone["origin"], json!({"volume": "db", "checkpoint": "cp"}));
    nbd.write(&mut rig, 4096, &[2; 4096]);
    port.leave();
    rig.settle();
    let reverted = control.call(&mut rig, "volume.revert", json!({"volume": "db", "checkpoint": "cp"}));
    let job = control.wait(&mut rig, &reverted);
    assert_eq!((&job["state"], &job["result"]["name"]), (&json!("done"), &json!("db")), "{job}");
    let mut nbd = Nbd::open(&mut rig, &port, Mode::Structured, "db", &[]).unwrap();
    assert!(nbd.read(&mut rig, 0, 8192).unwrap() == [1; 8192]);
    let changed = control.call(&mut rig, "changes.query", json!({"volume": "db", "since": "cp"}));
    assert_eq!(changed["extents"], json!([{"offset": 4096, "length": 4096, "kind": "data"}]));
}

#[test]
fn check_and_scrub_find_a_sound_pool_sound() {
    let (mut rig, mut control) = fresh();
    control.call(&mut rig, "volume.create", json!({"name": "db", "size": 8 << 20}));
    let port = rig.nbd_port("org.datum.nbd.0");
    let mut nbd = Nbd::open(&mut rig, &port, Mode::Structured, "db", &[]).unwrap();
    nbd.write(&mut rig, 0, &vec![5; 3 << 20]);
    control.call(&mut rig, "checkpoint.create", json!({"volumes": ["db"], "name": "cp"}));
    nbd.write(&mut rig, 1 << 20, &vec![6; 1 << 20]);
    for method in ["pool.check", "pool.scrub"] {
        let started = control.call(&mut rig, method, json!({}));
        let job = control.wait(&mut rig, &started);
        assert_eq!((&job["state"], &job["result"]["errors"]), (&json!("done"), &json!(0)), "{job}");
        assert_eq!(job["kind"], method);
    }
    let jobs = control.call(&mut rig, "job.list", json!({}));
    assert_eq!(jobs["items"].as_array().unwrap().len(), 2);
    let text = control.call(&mut rig, "system.metrics", json!({}))["text"].as_str().unwrap().to_string();
    assert!(text.contains("datum_data_blocks_written_total ") && text.contains("datum_pool_read_only 0\n"));
}

#[test]
fn events_tell_the_story() {
    let (mut rig, mut control) = fresh();
    control.call(&mut rig, "event.subscribe", json!({}));
    let mut other = rig.control();
    other.call(&mut rig, "volume.create", json!({"name": "db", "size": 1 << 20}));
    other.call(&mut rig, "checkpoint.create", json!({"volumes": ["db"], "name": "cp"}));
    let convert = json!({"volume": "db", "name": "cp", "refpoint": "r"});
    let converted = other.call(&mut rig, "checkpoint.convert", convert);
    other.wait(&mut rig, &converted);
    let kinds: Vec<String> =
        (0..5).map(|_| control.line(&mut rig)["params"]["type"].as_str().unwrap().to_string()).collect();
    let expected =
        ["session.opened", "volume.created", "checkpoint.created", "checkpoint.converted", "job.finished"];
    assert_eq!(kinds, expected);
}

#[test]
fn the_console_does_what_control_does() {
    let (mut rig, mut control) = fresh();
    let console = rig.console();
    console.connect();
    let typed = |rig: &mut Rig, line: &str| {
        console.send(line.as_bytes());
        console.send(b"\r");
        rig.settle();
        String::from_utf8(console.drain()).unwrap()
    };
    assert!(typed(&mut rig, "volume create db 20G").contains("20 GiB (21474836480)"));
    typed(&mut rig, "checkpoint create db nightly");
    assert!(typed(&mut rig, "changes db --since nightly").contains("changed_bytes  0"));
    assert!(typed(&mut rig, "checkpoint convert db nightly").contains("job"));
    assert!(typed(&mut rig, "volume list").contains("NAME"));
    assert!(typed(&mut rig, "volume show d\t").contains("db"));
    let volumes = control.call(&mut rig, "volume.list", json!({}));
    assert_eq!(names(&volumes), ["db"]);
}

/// A query of a suspended volume waits for the resume, which may have to come through the same port. A client that gave
/// up waiting once left a port that greeted nobody any more.
#[test]
fn whoever_leaves_a_query_of_a_suspended_volume_frees_the_port() {
    let (mut rig, mut control) = fresh();
    control.call(&mut rig, "volume.create", json!({"name": "db", "size": 1 << 20}));
    control.call(&mut rig, "refpoint.create", json!({"volume": "db", "name": "r"}));
    control.call(&mut rig, "volume.suspend", json!({"volume": "db"}));
    let console = rig.console();
    console.connect();
    rig.settle();
    console.send(b"changes db --since r\n");
    control.send("changes.query", json!({"volume": "db", "since": "r"}));
    rig.settle();
    for client in [&console, &control.client] {
        client.leave();
        rig.settle();
        client.connect();
    }
    assert_eq!(control.line(&mut rig)["method"], "hello");
    let banner = rig.run(async move { console.receive(5).await });
    assert_eq!(banner, b"Datum");
    control.call(&mut rig, "volume.resume", json!({"volume": "db"}));
    let changes = control.call(&mut rig, "changes.query", json!({"volume": "db", "since": "r"}));
    assert_eq!(changes["changed_bytes"], 0);
}
