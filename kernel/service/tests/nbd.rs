//! NBD conversations over a real pool: data, metadata, errors, and clients that behave badly.

mod rig;

use rig::Rig;
use rig::nbd::*;
use serde_json::json;

const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const UNKNOWN: u32 = 0x8000_0006;
const POLICY: u32 = 0x8000_0002;
const MIB: u64 = 1 << 20;

fn rig_with_volume(size: u64) -> (Rig, rig::Control) {
    let mut rig = Rig::with_pool(256);
    let mut control = rig.control();
    control.call(&mut rig, "volume.create", json!({"name": "db", "size": size}));
    (rig, control)
}

/// Bytes that differ from block to block.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn random_requests_agree_with_an_array_in_every_mode() {
    let modes = [(1, Mode::Simple), (2, Mode::Structured), (3, Mode::Extended), (4, Mode::Extended)];
    for (seed, mode) in modes {
        let size = 2 * MIB + 8192;
        let (mut rig, _control) = rig_with_volume(size);
        let port = rig.nbd_port("org.datum.nbd.0");
        let mut nbd = Nbd::open(&mut rig, &port, mode, "db", &[]).unwrap();
        nbd.omits_payload_len = seed == 4;
        assert_eq!(nbd.size, size);
        let mut model = vec![0; size as usize];
        let mut random = seed * 7919;
        for step in 0..150u64 {
            random = pattern(random ^ step, 8).iter().fold(0, |n, b| n << 8 | u64::from(*b));
            let offset = random % size;
            let longest = if step % 10 == 0 { size } else { 20_000 };
            let length = (random >> 24) % (size - offset).min(longest) + 1;
            let range = offset as usize..(offset + length) as usize;
            match random >> 60 {
                0..6 => {
                    let bytes = pattern(random, length as usize);
                    assert_eq!(nbd.write(&mut rig, offset, &bytes), 0);
                    model[range].copy_from_slice(&bytes);
                }
                6 | 7 => {
                    assert_eq!(nbd.simple(&mut rig, TRIM, FUA, offset, length), 0);
                    model[range].fill(0);
                }
                8 => {
                    assert_eq!(nbd.simple(&mut rig, WRITE_ZEROES, 0, offset, length), 0);
                    model[range].fill(0);
                }
                9 => assert_eq!(nbd.simple(&mut rig, CACHE, 0, offset, length), 0),
                10 => assert_eq!(nbd.flush(&mut rig), 0),
                _ => {
                    let flags = if mode != Mode::Simple && random & 1 == 0 { DF } else { 0 };
                    let read = nbd.read_with(&mut rig, flags, offset, length as usize).unwrap();
                    assert!(read == model[range], "mode {mode:?}, step {step}");
                }
            }
        }
        assert!(nbd.read(&mut rig, 0, size as usize).unwrap() == model);
    }
}

/// QEMU 8.2 and later send extended WRITEs without `PAYLOAD_LEN`. They are served, and how many such clients there were is
/// counted: once a session, whatever it writes.
#[test]
fn clients_without_payload_len_are_counted() {
    let (mut rig, mut control) = rig_with_volume(MIB);
    let port = rig.nbd_port("org.datum.nbd.0");
    for omits_payload_len in [true, false, true] {
        let mut nbd = Nbd::open(&mut rig, &port, Mode::Extended, "db", &[]).unwrap();
        nbd.omits_payload_len = omits_payload_len;
        for offset in [0, 4096, 5] {
            assert_eq!(nbd.write(&mut rig, offset, &pattern(offset, 9000)), 0);
        }
        assert_eq!(nbd.read(&mut rig, 5, 9000), Ok(pattern(5, 9000)));
        port.leave();
    }
    let metrics = control.call(&mut rig, "system.metrics", json!({}));
    let text = metrics["text"].as_str().unwrap();
    assert!(text.contains("\ndatum_nbd_sessions_without_payload_len_total 2\n"), "{text}");
}

#[test]
fn replies_come_as_requests_finish_and_nothing_mixes() {
    for mode in [Mode::Structured, Mode::Extended] {
        let (mut rig, _control) = rig_with_volume(16 * MIB);
        let port = rig.nbd_port("org.datum.nbd.0");
        let mut nbd = Nbd::open(&mut rig, &port, mode, "db", &[]).unwrap();
        let block = |n: u64| pattern(n + 1, 40_000);
        let written: Vec<u64> = (0..100).map(|n| nbd.send(WRITE, 0, n * 65_536, 40_000, &block(n))).collect();
        let mut answered: Vec<u64> = written.iter().map(|_| nbd.chunk(&mut rig).cookie).collect();
        answered.sort_unstable();
        assert_eq!(answered, written);
        for n in [0, 57, 99] {
            assert!(nbd.read(&mut rig, n * 65_536, 40_000).unwrap() == block(n));
        }
    }
}

#[test]
fn ranges_rights_and_flags_are_checked_and_the_session_goes_on() {
    let (mut rig, mut control) = rig_with_volume(MIB);
    control.call(&mut rig, "checkpoint.create", json!({"volumes": ["db"], "name": "cp"}));
    let port = rig.nbd_port("org.datum.nbd.0");
    let mut nbd = Nbd::open(&mut rig, &port, Mode::Structured, "db", &[]).unwrap();
    assert_eq!(nbd.write(&mut rig, MIB - 10, &[1; 11]), ENOSPC);
    assert_eq!(nbd.write(&mut rig, u64::MAX - 3, &[1; 11]), ENOSPC);
    assert_eq!(nbd.read(&mut rig, MIB, 1), Err(EINVAL));
    assert_eq!(nbd.simple(&mut rig, 77, 0, 0, 0), EINVAL, "unknown command");
    assert_eq!(nbd.simple(&mut rig, TRIM, 0x8000, 0, 4096), EINVAL, "unknown flag");
    assert_eq!(nbd.simple(&mut rig, FLUSH, 0, 4096, 4096), EINVAL);
    assert_eq!(nbd.simple(&mut rig, BLOCK_STATUS, 0, 0, 4096), EINVAL, "no context was selected");
    let long = nbd.send(WRITE, 0, 0, 33 << 20, &vec![0; 33 << 20]);
    assert_eq!(nbd.reply(&mut rig, long)[0].error(), Some(EINVAL));
    assert_eq!(nbd.write(&mut rig, 0, b"alive"), 0);
    let mut nbd = Nbd::open(&mut rig, &port, Mode::Structured, "db@cp", &[]).unwrap();
    assert_eq!(nbd.flags & 2, 2, "read-only");
    assert_eq!(nbd.write(&mut rig, 0, &[1; 8192]), EPERM);
    assert_eq!(nbd.simple(&mut rig, TRIM, 0, 0, 4096), EPERM);
    assert_eq!(nbd.read(&mut rig, 0, 5).unwrap(), [0; 5], "as it was when the checkpoint was made");
    for missing in ["nope", "db@nope", "db+since=nope", "nope+since=cp", ""] {
        assert_eq!(
            Nbd::open(&mut rig, &port, Mode::Structured, missing, &[]).err(),
            Some(UNKNOWN),
            "{missing}"
        );
    }
}

#[test]
fn bitmaps_follow_the_contract() {
    let (mut rig, mut control) = rig_with_volume(4 * MIB);
    let port = rig.nbd_port("org.datum.nbd.0");
    let mut nbd = Nbd::open(&mut rig, &port, Mode::Structured, "db", &[]).unwrap();
    nbd.write(&mut rig, 0, &pattern(1, 8 * 4096));
    control.call(&mut rig, "checkpoint.create", json!({"volumes": ["db"], "name": "a"}));
    nbd.write(&mut rig, 4096, &pattern(2, 4096));
    nbd.simple(&mut rig, TRIM, 0, 3 * 4096, 4096);
    control.call(&mut rig, "checkpoint.create", json!({"volumes": ["db"], "name": "b"}));
    nbd.write(&mut rig, 6 * 4096, &pattern(3, 4096));
    let token = control.call(&mut rig, "refpoint.create", json!({"volume": "db", "name": "r"}));
    assert_eq!(token["name"], "r");

    let mut nbd = Nbd::connect(&mut rig, &port, Mode::Structured);
    let names = |contexts: Vec<(u32, String)>| contexts.into_iter().map(|(_, name)| name).collect::<Vec<_>>();
    let listed = |nbd: &mut Nbd, rig: &mut Rig, export: &str, queries: &[&str]| {
        names(nbd.meta(rig, option::LIST_META_CONTEXT, export, queries).unwrap())
    };
    assert_eq!(listed(&mut nbd, &mut rig, "db", &[]), ["base:allocation", "x-datum:change"]);
    assert!(listed(&mut nbd, &mut rig, "db", &["qemu:dirty-bitmap:"]).is_empty());
    assert_eq!(listed(&mut nbd, &mut rig, "db", &["qemu:dirty-bitmap:a"]), ["qemu:dirty-bitmap:a"]);
    assert_eq!(listed(&mut nbd, &mut rig, "db@b+since=a", &["qemu:"]), ["qemu:dirty-bitmap:a"]);
    assert!(
        nbd.meta(&mut rig, option::SET_META_CONTEXT, "db", &["qemu:dirty-bitmap:nope"]).unwrap().is_empty()
    );
    let altered = "qemu:dirty-bitmap:datum:1:00000000";
    assert_eq!(nbd.meta(&mut rig, option::SET_META_CONTEXT, "db", &[altered]), Err(POLICY));
    assert_eq!(
        Nbd::open(&mut rig, &port, Mode::Structured, "db@a+since=b", &[]).err(),
        Some(POLICY),
        "newer"
    );

    for mode in [Mode::Structured, Mode::Extended] {
        let queries = ["qemu:dirty-bitmap:a", "base:allocation"];
        let mut nbd = Nbd::open(&mut rig, &port, mode, "db@b+since=a", &queries).unwrap();
        let (bitmap, allocation) = (nbd.contexts[0].0, nbd.contexts[1].0);
        let block = 4096;
        let changed = vec![(block, 0), (block, 1), (block, 0), (block, 1), (4 * MIB - 4 * block, 0)];
        let held = vec![(3 * block, 0), (block, 3), (4 * block, 0), (4 * MIB - 8 * block, 3)];
        let status = nbd.status(&mut rig, 0, 0, 4 * MIB).unwrap();
        assert_eq!(status, [(bitmap, changed), (allocation, held)]);
        let one = nbd.status(&mut rig, REQ_ONE, 4096 + 100, 1000).unwrap();
        assert_eq!(one, [(bitmap, vec![(1000, 1)]), (allocation, vec![(1000, 0)])]);
    }
    let mut nbd = Nbd::open(&mut rig, &port, Mode::Extended, "db+since=a", &["qemu:dirty-bitmap:a"]).unwrap();
    let status = nbd.status(&mut rig, 0, 0, 10 * 4096).unwrap();
    let changed: u64 = status[0].1.iter().filter(|(_, flags)| *flags == 1).map(|(length, _)| length).sum();
    assert_eq!(changed, 3 * 4096);
    assert!(status[0].1.iter().all(|(_, flags)| *flags <= 1));
}

#[test]
fn a_full_pool_says_so_and_the_session_goes_on() {
    let mut rig = Rig::with_pool(32);
    let mut control = rig.control();
    control.call(&mut rig, "volume.create", json!({"name": "big", "size": 1u64 << 40}));
    let port = rig.nbd_port("org.datum.nbd.0");
    let mut nbd = Nbd::open(&mut rig, &port, Mode::Structured, "big", &[]).unwrap();
    let data = pattern(9, MIB as usize);
    let full = (0..40).map(|n| nbd.write(&mut rig, n * MIB, &data)).find(|error| *error != 0);
    assert_eq!(full, Some(ENOSPC));
    assert!(nbd.read(&mut rig, 0, MIB as usize).unwrap() == data);
    assert_eq!(nbd.simple(&mut rig, TRIM, 0, 0, 30 * MIB), 0);
    assert_eq!(nbd.write(&mut rig, 0, &data), 0, "the space came back");
}

#[test]
fn half_a_request_has_no_effect_and_the_next_client_is_served() {
    let (mut rig, _control) = rig_with_volume(MIB);
    let port = rig.nbd_port("org.datum.nbd.0");
    let mut nbd = Nbd::open(&mut rig, &port, Mode::Structured, "db", &[]).unwrap();
    assert_eq!(nbd.write(&mut rig, 0, &[7; 8192]), 0);
    nbd.send(WRITE, 0, 0, 8192, &[9; 8191]);
    rig.settle();
    port.leave();
    rig.settle();
    let mut nbd = Nbd::open(&mut rig, &port, Mode::Structured, "db", &[]).unwrap();
    assert!(nbd.read(&mut rig, 0, 8192).unwrap() == [7; 8192]);
    nbd.client.send(&[0xee; 500]);
    rig.settle();
    assert_eq!(port.pending(), 0, "out of step: nothing more is heard");
    let mut nbd = Nbd::open(&mut rig, &port, Mode::Simple, "db", &[]).unwrap();
    assert!(nbd.read(&mut rig, 0, 4).unwrap() == [7; 4]);
}

#[test]
fn a_suspended_volume_holds_its_requests_and_nobody_elses() {
    let (mut rig, mut control) = rig_with_volume(16 * MIB);
    control.call(&mut rig, "volume.create", json!({"name": "other", "size": MIB}));
    let (held_port, free_port) = (rig.nbd_port("org.datum.nbd.0"), rig.nbd_port("org.datum.nbd.1"));
    let mut held = Nbd::open(&mut rig, &held_port, Mode::Structured, "db", &[]).unwrap();
    control.call(&mut rig, "volume.suspend", json!({"volume": "db"}));
    // More than all the memory for payloads.
    let written: Vec<u64> =
        (0..15).map(|n| held.send(WRITE, 0, n * MIB, MIB, &pattern(n, MIB as usize))).collect();
    rig.settle();
    assert_eq!(held_port.pending(), 0);
    let mut free = Nbd::open(&mut rig, &free_port, Mode::Structured, "other", &[]).unwrap();
    assert_eq!(free.write(&mut rig, 0, &pattern(5, 600_000)), 0);
    assert!(free.read(&mut rig, 0, 600_000).unwrap() == pattern(5, 600_000));
    control.call(&mut rig, "volume.resume", json!({"volume": "db"}));
    for _ in &written {
        let reply = held.chunk(&mut rig);
        assert!(written.contains(&reply.cookie) && reply.error().is_none());
    }
    assert!(held.read(&mut rig, 14 * MIB, MIB as usize).unwrap() == pattern(14, MIB as usize));
}

#[test]
fn a_client_that_leaves_a_suspended_volume_frees_its_port() {
    let (mut rig, mut control) = rig_with_volume(16 * MIB);
    control.call(&mut rig, "volume.create", json!({"name": "other", "size": MIB}));
    let port = rig.nbd_port("org.datum.nbd.0");
    let mut held = Nbd::open(&mut rig, &port, Mode::Structured, "db", &[]).unwrap();
    control.call(&mut rig, "volume.suspend", json!({"volume": "db"}));
    for n in 0..15 {
        held.send(WRITE, 0, n * MIB, MIB, &pattern(n, MIB as usize));
    }
    rig.settle();
    port.leave();
    rig.settle();
    let mut next = Nbd::open(&mut rig, &port, Mode::Structured, "other", &[]).unwrap();
    assert_eq!(next.write(&mut rig, 0, &pattern(5, 600_000)), 0);
    control.call(&mut rig, "volume.resume", json!({"volume": "db"}));
    rig.settle();
    assert_eq!(port.pending(), 0, "nobody hears the replies to who has left");
    assert!(next.read(&mut rig, 0, 600_000).unwrap() == pattern(5, 600_000));
}

#[test]
fn fua_flushes_the_disk_and_a_plain_write_does_not() {
    let (mut rig, mut control) = rig_with_volume(MIB);
    let port = rig.nbd_port("org.datum.nbd.0");
    let mut nbd = Nbd::open(&mut rig, &port, Mode::Structured, "db", &[]).unwrap();
    let mut flushes = |rig: &mut Rig| {
        let text = control.call(rig, "system.metrics", json!({}))["text"].as_str().unwrap().to_string();
        let line = text.lines().find_map(|line| line.strip_prefix("datum_device_flushes_total ")).unwrap();
        line.parse::<u64>().unwrap()
    };
    let before = flushes(&mut rig);
    assert_eq!(nbd.write(&mut rig, 0, &[1; 4096]), 0);
    assert_eq!(flushes(&mut rig), before);
    for (kind, payload) in [(WRITE, &[2; 4096][..]), (TRIM, &[]), (WRITE_ZEROES, &[])] {
        let before = flushes(&mut rig);
        let cookie = nbd.send(kind, FUA, 0, 4096, payload);
        assert_eq!(nbd.reply(&mut rig, cookie)[0].error(), None);
        assert!(flushes(&mut rig) > before, "command {kind}");
    }
}

#[test]
fn what_a_client_has_open_is_only_taken_by_force() {
    let (mut rig, mut control) = rig_with_volume(MIB);
    control.call(&mut rig, "checkpoint.create", json!({"volumes": ["db"], "name": "cp"}));
    let port = rig.nbd_port("org.datum.nbd.0");
    let mut nbd = Nbd::open(&mut rig, &port, Mode::Structured, "db", &[]).unwrap();
    let shrink = json!({"name": "db", "size": 4096});
    assert_eq!(control.kind(&mut rig, "volume.delete", json!({"name": "db"})), "in_use");
    assert_eq!(control.kind(&mut rig, "volume.resize", shrink), "in_use");
    let revert = json!({"volume": "db", "checkpoint": "cp"});
    assert_eq!(control.kind(&mut rig, "volume.revert", revert), "in_use");
    control.call(&mut rig, "volume.resize", json!({"name": "db", "size": 2 * MIB}));
    assert_eq!(nbd.write(&mut rig, 0, &[1; 4096]), 0, "growing disturbs nobody");
    control.call(&mut rig, "volume.delete", json!({"name": "db", "force": true}));
    assert_ne!(nbd.write(&mut rig, 0, &[1; 4096]), 0);
    assert!(nbd.read(&mut rig, 0, 4096).is_err());
    assert_ne!(nbd.flush(&mut rig), 0);
    assert_eq!(control.kind(&mut rig, "volume.show", json!({"name": "db"})), "not_found");
}

#[test]
fn sixteen_ports_serve_at_once_even_when_one_client_stops_reading() {
    let (mut rig, mut control) = rig_with_volume(64 * MIB);
    let ports: Vec<_> = (0..16).map(|n| rig.nbd_port(&format!("org.datum.nbd.{n}"))).collect();
    let mut clients: Vec<Nbd> =
        ports.iter().map(|port| Nbd::open(&mut rig, port, Mode::Structured, "db", &[]).unwrap()).collect();
    for (n, client) in (0u64..).zip(&mut clients) {
        client.send(WRITE, 0, n * 2 * MIB, MIB, &pattern(n, MIB as usize));
    }
    for client in &mut clients {
        assert_eq!(client.chunk(&mut rig).error(), None);
    }
    ports[0].stall(true);
    for _ in 0..60 {
        clients[0].send(READ, 0, 0, MIB, &[]);
    }
    for n in 1..16u64 {
        let read = clients[n as usize].read(&mut rig, n * 2 * MIB, MIB as usize).unwrap();
        assert!(read == pattern(n, MIB as usize));
    }
    let sessions = control.call(&mut rig, "session.list", json!({}));
    assert_eq!(sessions["items"].as_array().unwrap().len(), 17);
    assert_eq!(sessions["items"][3]["export"], "db");
}

#[test]
fn list_names_volumes_and_checkpoints() {
    let (mut rig, mut control) = rig_with_volume(MIB);
    for n in 0..150 {
        control.call(&mut rig, "volume.create", json!({"name": format!("v{n:03}"), "size": 4096}));
    }
    control.call(&mut rig, "checkpoint.create", json!({"volumes": ["db", "v007"], "name": "cp"}));
    control.call(&mut rig, "refpoint.create", json!({"volume": "db", "name": "r"}));
    let port = rig.nbd_port("org.datum.nbd.0");
    let mut nbd = Nbd::connect(&mut rig, &port, Mode::Simple);
    let replies = nbd.option(&mut rig, option::LIST, &[]);
    let name = |data: &[u8]| {
        let length = u32::from_be_bytes(data[..4].try_into().unwrap()) as usize;
        String::from_utf8(data[4..4 + length].to_vec()).unwrap()
    };
    let names: Vec<String> =
        replies.iter().filter(|(kind, _)| *kind == 2).map(|(_, data)| name(data)).collect();
    assert_eq!(names.len(), 151 + 2);
    assert_eq!(names[..3], ["db", "db@cp", "v000"]);
    assert!(names.contains(&"v007@cp".to_string()) && !names.contains(&"db@r".to_string()));
}
