//! Without a pool the ports answer: with what is missing, and the way out.

mod rig;

use datum_service::PoolOption;
use rig::Rig;
use rig::nbd::{Mode, Nbd, option};
use serde_json::json;

#[test]
fn control_tells_that_there_is_no_disk() {
    let mut rig = Rig::start(&[], PoolOption::Auto);
    let mut control = rig.control();
    let answer = control.answer(&mut rig, "volume.list", json!({}));
    assert_eq!(answer["error"]["data"]["kind"], "no_pool");
    assert_eq!(answer["error"]["code"], 15);
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("no disk") && message.contains("attach"), "{message}");
    assert_eq!(answer["error"]["data"]["observations"], json!(["volume.list"]));
    let info = control.call(&mut rig, "system.info", json!({}));
    assert_eq!((&info["pool_state"], &info["protocol"]), (&json!("absent"), &json!(1)));
    let metrics = control.call(&mut rig, "system.metrics", json!({}));
    assert!(metrics["text"].as_str().unwrap().ends_with("# EOF\n"));
    assert_eq!(control.call(&mut rig, "device.list", json!({})), json!({"items": []}));
}

#[test]
fn bad_lines_are_answered_and_the_next_line_is_served() {
    let mut rig = Rig::start(&[], PoolOption::Open);
    let mut control = rig.control();
    let bomb = "[".repeat(60_000);
    let long = vec![b'x'; 70_000];
    let bad: [(&[u8], i64); 9] = [
        (b"{", -32700),
        (b"\xc3\x28", -32700),
        (bomb.as_bytes(), -32700),
        (&long, -32700),
        (b"[]", -32600),
        (br#"{"jsonrpc":"2.0","id":1}"#, -32600),
        (br#"{"jsonrpc":"2.0","id":1,"method":"volume.lst"}"#, -32601),
        (br#"{"jsonrpc":"2.0","id":1,"method":"volume.create","params":{"name":"a","size":"4096"}}"#, -32602),
        (br#"{"jsonrpc":"2.0","id":1,"method":"volume.create","params":{"name":"a/b","size":4096}}"#, -32602),
    ];
    for (line, code) in bad {
        let answer = control.raw(&mut rig, line);
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
    assert!(control.call(&mut rig, "system.info", json!({})).is_object());
    control.client.send(b"{\"jsonrpc\":\"2.0\",\"id\":77,\"meth\xff");
    assert!(control.call(&mut rig, "session.list", json!({}))["items"].is_array());
}

#[test]
fn a_client_that_leaves_is_forgotten_and_the_next_is_greeted() {
    let mut rig = Rig::start(&[], PoolOption::Open);
    let mut control = rig.control();
    let port = rig.nbd_port("org.datum.nbd.0");
    port.connect();
    rig.settle();
    port.send(b"\0\0");
    rig.settle();
    assert_eq!(control.call(&mut rig, "session.list", json!({}))["items"].as_array().unwrap().len(), 2);
    port.leave();
    rig.settle();
    assert_eq!(control.call(&mut rig, "session.list", json!({}))["items"].as_array().unwrap().len(), 1);
    control.client.send(br#"{"jsonrpc":"2.0","id":1,"#);
    control.client.connect();
    assert_eq!(control.line(&mut rig)["method"], "hello");
    assert!(control.call(&mut rig, "system.info", json!({})).is_object());
}

#[test]
fn events_reach_who_asked_for_them() {
    let mut rig = Rig::start(&[], PoolOption::Open);
    let mut control = rig.control();
    control.call(&mut rig, "event.subscribe", json!({}));
    let port = rig.nbd_port("org.datum.nbd.7");
    port.connect();
    let event = control.line(&mut rig);
    assert_eq!(event["method"], "event");
    assert_eq!(event["params"]["type"], "session.opened");
    assert_eq!(event["params"]["port"], "org.datum.nbd.7");
    assert!(event["params"]["time"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn nbd_refuses_exports_and_goes_on_negotiating() {
    let mut rig = Rig::start(&[], PoolOption::Open);
    let port = rig.nbd_port("org.datum.nbd.0");
    let unknown = 0x8000_0006;
    for export in ["", "db", "a b", "db@"] {
        assert_eq!(
            Nbd::open(&mut rig, &port, Mode::Structured, export, &[]).err(),
            Some(unknown),
            "{export:?}"
        );
    }
    let mut nbd = Nbd::connect(&mut rig, &port, Mode::Simple);
    assert_eq!(nbd.option(&mut rig, 99, b"??")[0].0, 0x8000_0001, "unknown option");
    assert_eq!(
        nbd.option(&mut rig, option::GO, b"\0\0\0\x09x")[0].0,
        0x8000_0003,
        "lengths that do not add up"
    );
    assert!(nbd.option(&mut rig, option::LIST, &[]).last().unwrap().0 & 0x8000_0000 != 0, "no pool to list");
    let huge = vec![0; 100_000];
    assert_eq!(nbd.option(&mut rig, option::INFO, &huge)[0].0, 0x8000_0009, "too big");
    assert_eq!(nbd.option(&mut rig, option::ABORT, &[])[0].0, 1);
    port.send(&[0; 1000]);
    rig.settle();
    assert_eq!(port.pending(), 0, "after the end nothing is heard or said");
    port.connect();
    let client = port.clone();
    assert_eq!(&rig.run(async move { client.receive(18).await })[..8], b"NBDMAGIC");
}

#[test]
fn shutdown_answers_first() {
    let mut rig = Rig::start(&[], PoolOption::Open);
    let mut control = rig.control();
    control.call(&mut rig, "system.reboot", json!({}));
    assert_eq!(rig.power(), None);
    assert_eq!(control.kind(&mut rig, "job.list", json!({})), "stopping");
    let port = rig.nbd_port("org.datum.nbd.0");
    assert_eq!(Nbd::open(&mut rig, &port, Mode::Extended, "db", &[]).err(), Some(0x8000_0007));
    rig.sleep(1_000_000_000);
    assert_eq!(rig.power(), Some(datum_service::environment::Power::Reset));
}
