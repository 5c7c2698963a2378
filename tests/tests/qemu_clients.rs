//! Unmodified clients: nbdinfo, nbdcopy, qemu-img, qemu-io, qemu-storage-daemon and fio, the installed versions, the
//! oldest and the newest.

use std::fs;
use std::path::PathBuf;

use datum_tests::qemu::daemon::StorageDaemon;
use datum_tests::qemu::{Stage, Tools, boot, call, client, finish, refused, same, volume};
use datum_tests::with_tools;
use serde_json::{Value, json};
use xtask::control::Client;
use xtask::qemu::{Appliance, Port};

const MIB: u64 = 1 << 20;

with_tools!([installed, qemu_oldest, qemu_newest] [
    qemu_img_converts_maps_and_compares,
    qemu_io_writes_any_alignment,
    qemu_io_keeps_many_requests_under_way,
    qemu_storage_daemon_mirrors,
    qemu_storage_daemon_backs_up,
]);

with_tools!([installed, libnbd_newest] [
    nbdcopy_brings_an_image_in_and_out,
    nbdinfo_sees_what_the_contract_says,
]);

fn nbdcopy_brings_an_image_in_and_out(tools: Tools) {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", 32 * MIB);
    let (image, uri) = (stage.file("image", 32 << 20, 1), appliance.nbd_uri(0, "db"));
    tools.run("nbdcopy", &["--flush", image.to_str().unwrap(), &uri]);
    let back = stage.path("back");
    tools.run("nbdcopy", &[&uri, back.to_str().unwrap()]);
    assert!(same(&image, &back));
    call(&mut control, "checkpoint.create", json!({ "volumes": ["db"], "name": "cp" }));
    tools.run("qemu-io", &["-f", "raw", "-c", "write -P 7 0 1M", &uri]);
    let point = stage.path("point");
    tools.run("nbdcopy", &[&appliance.nbd_uri(0, "db@cp"), point.to_str().unwrap()]);
    assert!(same(&image, &point), "the checkpoint has changed with its volume");
    finish(appliance, control);
}

fn nbdinfo_sees_what_the_contract_says(tools: Tools) {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", 8 * MIB);
    call(&mut control, "refpoint.create", json!({ "volume": "db", "name": "mark" }));
    let uri = appliance.nbd_uri(0, "db");
    tools.run("qemu-io", &["-f", "raw", "-c", "write 64k 8k", "-c", "discard 1M 4k", "-c", "flush", &uri]);
    let export = &json_of(&tools.run("nbdinfo", &["--json", &uri]))["exports"][0];
    let expected =
        [("export-size", json!(8 * MIB)), ("is_read_only", json!(false)), ("can_flush", json!(true))];
    for (key, value) in
        expected.iter().chain(&[("can_multi_conn", json!(false)), ("block_size_preferred", json!(4096))])
    {
        assert_eq!(&export[*key], value, "{export}");
    }
    let map = json_of(&tools.run("nbdinfo", &["--json", "--map", &uri]));
    assert_eq!(extents(&map), [(0, 65536, 3), (65536, 8192, 0), (73728, 8 * MIB - 73728, 3)]);
    let dirty = appliance.nbd_uri(0, "db+since=mark");
    let map = json_of(&tools.run("nbdinfo", &["--json", "--map=qemu:dirty-bitmap:mark", &dirty]));
    let changed: Vec<_> = extents(&map).into_iter().filter(|extent| extent.2 == 1).collect();
    assert_eq!(changed, [(65536, 8192, 1), (MIB, 4096, 1)]);
    assert!(!tools.attempt("nbdinfo", &[&appliance.nbd_uri(0, "nothing")]).status.success());
    assert!(!tools.attempt("nbdinfo", &[&appliance.nbd_uri(0, "db+since=nothing")]).status.success());
    finish(appliance, control);
}

fn qemu_img_converts_maps_and_compares(tools: Tools) {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", 16 * MIB);
    let (image, uri) = (stage.file("image", 16 << 20, 2), appliance.nbd_uri(0, "db"));
    let image = image.to_str().unwrap();
    tools.run("qemu-img", &["convert", "-n", "-m", "16", "-W", "-f", "raw", "-O", "raw", image, &uri]);
    tools.run("qemu-img", &["compare", "-f", "raw", "-F", "raw", image, &uri]);
    call(&mut control, "refpoint.create", json!({ "volume": "db", "name": "mark" }));
    tools.run("qemu-io", &["-f", "raw", "-c", "write -P 9 40k 4k", "-c", "flush", &uri]);
    assert!(!tools.attempt("qemu-img", &["compare", "-f", "raw", "-F", "raw", image, &uri]).status.success());
    let socket = appliance.socket(Port::Nbd(0));
    let options = format!(
        "driver=nbd,export=db,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:mark",
        socket.display()
    );
    let map = json_of(&tools.run("qemu-img", &["map", "--output=json", "--image-opts", &options]));
    let dirty: Vec<_> = map.as_array().unwrap().iter().filter(|extent| extent["data"] == false).collect();
    assert_eq!(dirty.len(), 1, "{map}");
    assert_eq!((dirty[0]["start"].as_u64(), dirty[0]["length"].as_u64()), (Some(40 << 10), Some(4096)));
    let missing = options.replace(":mark", ":nothing");
    assert!(!tools.attempt("qemu-img", &["map", "--image-opts", &missing]).status.success());
    leaves_payload_len_out(&mut control, tools);
    finish(appliance, control);
}

fn qemu_io_writes_any_alignment(tools: Tools) {
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
    let said = tools.run("qemu-io", &arguments);
    assert!(!said.contains("verification failed"), "{said}");
    let read_only = appliance.nbd_uri(0, "db@cp");
    call(&mut control, "checkpoint.create", json!({ "volumes": ["db"], "name": "cp" }));
    let output = tools.attempt("qemu-io", &["-f", "raw", "-c", "write 0 4k", &read_only]);
    assert!(!output.status.success(), "a checkpoint took a write");
    finish(appliance, control);
}

/// The newest QEMU is here for what it does differently. Before the appliance knew of it, its first write hung.
fn leaves_payload_len_out(control: &mut Client, tools: Tools) {
    let metrics = call(control, "system.metrics", json!({}))["text"].as_str().unwrap().to_owned();
    let counter = "datum_nbd_sessions_without_payload_len_total ";
    let sessions = metrics.lines().find_map(|line| line.strip_prefix(counter)).unwrap();
    assert!(
        !tools.are_qemu_newest() || sessions != "0",
        "the newest QEMU no longer writes without PAYLOAD_LEN"
    );
}

fn qemu_io_keeps_many_requests_under_way(tools: Tools) {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    volume(&mut control, "db", 16 * MIB);
    let uri = appliance.nbd_uri(0, "db");
    let many = |commands: &dyn Fn(u64) -> Vec<String>| {
        let mut arguments = vec!["-f".to_owned(), "raw".to_owned()];
        let commands = (0..32).flat_map(commands).chain(["aio_flush".into(), "flush".into()]);
        arguments.extend(commands.flat_map(|command| ["-c".to_owned(), command]));
        arguments.push(uri.clone());
        let said = tools.run("qemu-io", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!said.contains("failed"), "{said}");
    };
    many(&|n| vec![format!("aio_write -P {} {}k 68k", n + 1, n * 256)]);
    many(&|n| match n % 4 {
        0 => vec![format!("aio_write -z {}k 8k", n * 256)],
        1 => vec![format!("aio_write -z -u {}k 8k", n * 256)],
        2 => vec![format!("discard {}k 8k", n * 256)],
        _ => vec![format!("aio_write -f -P 0 {}k 8k", n * 256)],
    });
    many(&|n| {
        let start = n * 256;
        let read = |pattern, from, length| format!("aio_read -P {pattern} {from}k {length}k");
        vec![read(0, start, 8), read(n + 1, start + 8, 60), read(0, start + 68, 4)]
    });
    finish(appliance, control);
}

/// A volume is mirrored to, and from, while writes go on at the source; each is copied as a virtual machine moves.
fn qemu_storage_daemon_mirrors(tools: Tools) {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30).nbd_ports(2));
    let (image, copy) = files_and_volumes(&stage, &mut control);
    let served = stage.path("served.sock");
    for (from, to, pattern) in [("image", "first", 5), ("first", "second", 6), ("second", "copy", 7)] {
        let mut daemon = daemon_with(&stage, &appliance, tools);
        daemon.serve(from, &served);
        daemon.begin_mirror(from, to);
        let write = format!("write -P {pattern} {pattern}M 64k");
        let uri = format!("nbd+unix:///{from}?socket={}", served.display());
        tools.run("qemu-io", &["-f", "raw", "-c", &write, "-c", "flush", &uri]);
        daemon.end_mirror();
        daemon.quit();
    }
    assert!(!same(&image, &copy), "the copy has writes that the first source has not");
    let checks = [5, 6, 7].map(|pattern| format!("read -P {pattern} {pattern}M 64k"));
    let copied = copy.to_str().unwrap();
    let said =
        tools.run("qemu-io", &["-f", "raw", "-c", &checks[0], "-c", &checks[1], "-c", &checks[2], copied]);
    assert!(!said.contains("failed"), "{said}");
    tools.run("qemu-img", &["compare", "-f", "raw", "-F", "raw", copied, &appliance.nbd_uri(0, "second")]);
    finish(appliance, control);
}

fn qemu_storage_daemon_backs_up(tools: Tools) {
    let stage = Stage::wait();
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30).nbd_ports(2));
    let (image, copy) = files_and_volumes(&stage, &mut control);
    let mut daemon = daemon_with(&stage, &appliance, tools);
    daemon.back_up("image", "first");
    daemon.back_up("first", "second");
    daemon.back_up("second", "copy");
    daemon.quit();
    assert!(same(&image, &copy), "the copy differs");
    for export in ["first", "second"] {
        let image = image.to_str().unwrap();
        let uri = appliance.nbd_uri(0, export);
        tools.run("qemu-img", &["compare", "-f", "raw", "-F", "raw", image, &uri]);
    }
    finish(appliance, control);
}

/// A file of random bytes, an empty one, and two volumes, all of one size.
fn files_and_volumes(stage: &Stage, control: &mut Client) -> (PathBuf, PathBuf) {
    let (image, copy) = (stage.file("image", 12 << 20, 3), stage.file("copy", 12 << 20, 4));
    ["first", "second"].iter().for_each(|name| volume(control, name, 12 * MIB));
    (image, copy)
}

/// A daemon that has both files and both volumes as block nodes.
fn daemon_with(stage: &Stage, appliance: &Appliance, tools: Tools) -> StorageDaemon {
    let mut daemon = StorageDaemon::start(tools, &stage.path(""));
    ["image", "copy"].iter().for_each(|name| daemon.add_file(name, &stage.path(name)));
    daemon.add_export("first", &appliance.socket(Port::Nbd(0)), "first");
    daemon.add_export("second", &appliance.socket(Port::Nbd(1)), "second");
    daemon
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
