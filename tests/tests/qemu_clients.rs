//! Unmodified clients: nbdinfo, nbdcopy, qemu-img, qemu-io and fio.

use std::fs;

use datum_tests::qemu::{Stage, attempt, boot, call, client, finish, refused, same, volume};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

#[test]
fn nbdcopy_brings_an_image_in_and_out() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", 32 * MIB);
    let (image, uri) = (stage.file("image", 32 << 20, 1), appliance.nbd_uri(0, "db"));
    client("nbdcopy", &["--flush", image.to_str().unwrap(), &uri]);
    let back = stage.path("back");
    client("nbdcopy", &[&uri, back.to_str().unwrap()]);
    assert!(same(&image, &back));
    call(&mut control, "checkpoint.create", json!({ "volumes": ["db"], "name": "cp" }));
    client("qemu-io", &["-f", "raw", "-c", "write -P 7 0 1M", &uri]);
    let point = stage.path("point");
    client("nbdcopy", &[&appliance.nbd_uri(0, "db@cp"), point.to_str().unwrap()]);
    assert!(same(&image, &point), "the checkpoint has changed with its volume");
    finish(appliance, control);
}

#[test]
fn nbdinfo_sees_what_the_contract_says() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", 8 * MIB);
    call(&mut control, "refpoint.create", json!({ "volume": "db", "name": "mark" }));
    let uri = appliance.nbd_uri(0, "db");
    client("qemu-io", &["-f", "raw", "-c", "write 64k 8k", "-c", "discard 1M 4k", "-c", "flush", &uri]);
    let export = &json_of(&client("nbdinfo", &["--json", &uri]))["exports"][0];
    let expected =
        [("export-size", json!(8 * MIB)), ("is_read_only", json!(false)), ("can_flush", json!(true))];
    for (key, value) in
        expected.iter().chain(&[("can_multi_conn", json!(false)), ("block_size_preferred", json!(4096))])
    {
        assert_eq!(&export[*key], value, "{export}");
    }
    let map = json_of(&client("nbdinfo", &["--json", "--map", &uri]));
    assert_eq!(extents(&map), [(0, 65536, 3), (65536, 8192, 0), (73728, 8 * MIB - 73728, 3)]);
    let dirty = appliance.nbd_uri(0, "db+since=mark");
    let map = json_of(&client("nbdinfo", &["--json", "--map=qemu:dirty-bitmap:mark", &dirty]));
    let changed: Vec<_> = extents(&map).into_iter().filter(|extent| extent.2 == 1).collect();
    assert_eq!(changed, [(65536, 8192, 1), (MIB, 4096, 1)]);
    assert!(!attempt("nbdinfo", &[&appliance.nbd_uri(0, "nothing")]).status.success());
    assert!(!attempt("nbdinfo", &[&appliance.nbd_uri(0, "db+since=nothing")]).status.success());
    finish(appliance, control);
}

#[test]
fn qemu_img_converts_maps_and_compares() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", 16 * MIB);
    let (image, uri) = (stage.file("image", 16 << 20, 2), appliance.nbd_uri(0, "db"));
    let image = image.to_str().unwrap();
    client("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", image, &uri]);
    client("qemu-img", &["compare", "-f", "raw", "-F", "raw", image, &uri]);
    call(&mut control, "refpoint.create", json!({ "volume": "db", "name": "mark" }));
    client("qemu-io", &["-f", "raw", "-c", "write -P 9 40k 4k", "-c", "flush", &uri]);
    assert!(!attempt("qemu-img", &["compare", "-f", "raw", "-F", "raw", image, &uri]).status.success());
    let socket = appliance.socket(xtask::qemu::Port::Nbd(0));
    let options = format!(
        "driver=nbd,export=db,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:mark",
        socket.display()
    );
    let map = json_of(&client("qemu-img", &["map", "--output=json", "--image-opts", &options]));
    let dirty: Vec<_> = map.as_array().unwrap().iter().filter(|extent| extent["data"] == false).collect();
    assert_eq!(dirty.len(), 1, "{map}");
    assert_eq!((dirty[0]["start"].as_u64(), dirty[0]["length"].as_u64()), (Some(40 << 10), Some(4096)));
    let missing = options.replace(":mark", ":nothing");
    assert!(!attempt("qemu-img", &["map", "--image-opts", &missing]).status.success());
    finish(appliance, control);
}

#[test]
fn qemu_io_writes_any_alignment() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", 4 * MIB);
    let uri = appliance.nbd_uri(0, "db");
    let script = "write -P 1 0 1M;write -P 2 1023 4099;write -z 300000 5000;read -P 1 0 1023;read -P 2 1023 4099;\
                  read -P 1 5122 200;read -P 0 300000 5000;write -f -P 3 513 1;read -P 3 513 1;discard 0 4096;\
                  read -P 0 0 4096;aio_flush;flush";
    let commands: Vec<&str> = script.split(';').flat_map(|command| ["-c", command.trim()]).collect();
    let mut arguments = vec!["-f", "raw"];
    arguments.extend(commands);
    arguments.push(&uri);
    let said = client("qemu-io", &arguments);
    assert!(!said.contains("verification failed"), "{said}");
    let read_only = appliance.nbd_uri(0, "db@cp");
    call(&mut control, "checkpoint.create", json!({ "volumes": ["db"], "name": "cp" }));
    let output = attempt("qemu-io", &["-f", "raw", "-c", "write 0 4k", &read_only]);
    assert!(!output.status.success(), "a checkpoint took a write");
    finish(appliance, control);
}

#[test]
fn fio_finds_what_it_wrote() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", 32 * MIB);
    let uri = format!("--uri={}", appliance.nbd_uri(0, "db"));
    for (name, pattern, size) in
        [("random", "randwrite", "4k"), ("mixed", "randrw", "512-64k"), ("long", "write", "1M")]
    {
        let size =
            format!("--bsrange={}", if size.contains('-') { size.into() } else { format!("{size}-{size}") });
        let (name, pattern) = (format!("--name={name}"), format!("--rw={pattern}"));
        let output = stage.path("fio.log");
        client(
            "fio",
            &[
                &name,
                "--ioengine=nbd",
                &uri,
                &pattern,
                &size,
                "--size=16M",
                "--iodepth=16",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--do_verify=1",
                "--randrepeat=1",
                "--fsync=64",
                "--verify_state_save=0",
                "--output",
                output.to_str().unwrap(),
            ],
        );
        assert!(!fs::read_to_string(output).unwrap().contains("verify failed"));
    }
    finish(appliance, control);
}

/// What a client has open is not deleted under it unless that is asked for.
#[test]
fn an_open_volume_is_in_use() {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", 4 * MIB);
    let mut writer = datum_tests::qemu::nbd(&appliance, "db");
    writer.write(0, &[1; 4096]).unwrap();
    refused(&mut control, "volume.delete", json!({ "name": "db" }), "in_use");
    refused(&mut control, "volume.resize", json!({ "name": "db", "size": MIB }), "in_use");
    call(&mut control, "volume.delete", json!({ "name": "db", "force": true }));
    assert!(writer.write(0, &[2; 4096]).is_err(), "a deleted volume took a write");
    finish(appliance, control);
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Offset, length and type of each extent that nbdinfo printed.
fn extents(map: &Value) -> Vec<(u64, u64, u64)> {
    let number = |extent: &Value, key: &str| extent[key].as_u64().unwrap();
    let extents = map.as_array().unwrap().iter();
    extents.map(|e| (number(e, "offset"), number(e, "length"), number(e, "type"))).collect()
}
