//! Damage stays in sight from when somebody meets it until a scrub finds everything sound.

mod rig;

use datum_service::PoolOption;
use rig::disk::MemoryDisk;
use rig::nbd::{Mode, Nbd};
use rig::{Control, Rig};
use serde_json::{Value, json};

const BLOCK: u64 = 4096;
const SECOND: u64 = 1_000_000_000;

/// A pool with a volume of four blocks, each filled with its number plus one, and a client that has it open.
struct Damaged {
    disk: MemoryDisk,
    rig: Rig,
    control: Control,
    nbd: Nbd,
}

impl Damaged {
    fn new() -> Self {
        let disk = MemoryDisk::blank("vd0", 128);
        let mut rig = Rig::start(&[&disk], PoolOption::Auto);
        let mut control = rig.control();
        control.call(&mut rig, "volume.create", json!({"name": "db", "size": 4 * BLOCK}));
        let port = rig.nbd_port("org.datum.nbd.0");
        let mut nbd = Nbd::open(&mut rig, &port, Mode::Structured, "db", &[]).unwrap();
        for block in 0..4 {
            nbd.write(&mut rig, block * BLOCK, &[block as u8 + 1; BLOCK as usize]);
        }
        nbd.flush(&mut rig);
        // Commits have come, so that nothing is written under what is changed.
        rig.sleep(12 * SECOND);
        Self { disk, rig, control, nbd }
    }

    fn rot(&mut self, block: u8) -> u64 {
        let at = self.disk.find(&[block + 1; BLOCK as usize]);
        self.disk.rot(at);
        at
    }

    fn read(&mut self, block: u64) -> Result<Vec<u8>, u32> {
        self.nbd.read(&mut self.rig, block * BLOCK, BLOCK as usize)
    }

    fn call(&mut self, method: &str) -> Value {
        self.control.call(&mut self.rig, method, json!({}))
    }

    /// Runs a check or a scrub; how many errors it found.
    fn inspect(&mut self, method: &str) -> Value {
        let started = self.call(method);
        let job = self.control.wait(&mut self.rig, &started);
        assert_eq!(job["state"], "done", "{job}");
        job["result"]["errors"].clone()
    }

    /// The problems, as one text.
    fn problems(&mut self) -> String {
        let info = self.call("system.info");
        let problems: Vec<&str> =
            info["problems"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
        problems.join("\n")
    }

    fn metric(&mut self, name: &str) -> Option<u64> {
        let text = self.call("system.metrics")["text"].as_str().unwrap().to_string();
        let prefix = format!("datum_{name} ");
        text.lines().find_map(|line| line.strip_prefix(&prefix)).map(|value| value.parse().unwrap())
    }
}

#[test]
fn a_read_that_meets_damage_is_told_of_until_a_scrub_is_clean() {
    let mut pool = Damaged::new();
    assert_eq!((pool.problems(), pool.metric("pool_damage_read_errors")), (String::new(), Some(0)));
    let mut listener = pool.rig.control();
    listener.call(&mut pool.rig, "event.subscribe", json!({}));
    let at = pool.rot(2);
    assert!(pool.read(2).is_err());
    let place = json!({"disk": "vd0", "block": at, "volume": "db", "offset": 2 * BLOCK});
    let status = pool.call("pool.status");
    assert_eq!(status["damage"], json!({"read_errors": 1, "last": place}), "at once");
    assert!(pool.problems().contains(&format!("block {at} of disk vd0, byte 8192 of volume db")));
    // Again, which is no other place.
    assert!(pool.read(2).is_err());
    pool.rig.sleep(3 * SECOND);
    let other = pool.rot(1);
    assert!(pool.read(1).is_err());
    for at in [at, other] {
        let event = listener.line(&mut pool.rig)["params"].clone();
        assert_eq!((&event["type"], &event["block"]), (&json!("pool.damaged"), &json!(at)), "{event}");
        assert_eq!((&event["disk"], &event["volume"]), (&json!("vd0"), &json!("db")));
    }
    let status = pool.call("pool.status");
    assert_eq!((&status["damage"]["read_errors"], &status["damaged"][0]), (&json!(3), &place));
    assert_eq!(pool.metric("pool_damage_read_errors"), Some(3));
    // A check reads no data, and disproves nothing.
    assert_eq!(pool.inspect("pool.check"), 0);
    assert_eq!(pool.call("pool.status")["damage"]["read_errors"], 3);
    for block in [1, 2] {
        assert_eq!(pool.nbd.write(&mut pool.rig, block * BLOCK, &[9; BLOCK as usize]), 0);
    }
    assert_eq!(pool.inspect("pool.scrub"), 0);
    let status = pool.call("pool.status");
    assert_eq!((&status["damage"], &status["damaged"]), (&json!({"read_errors": 0}), &json!([])));
    assert_eq!((pool.problems(), pool.metric("pool_damage_read_errors")), (String::new(), Some(0)));
}

#[test]
fn what_a_scrub_finds_stays_in_sight_until_the_next_is_clean() {
    let mut pool = Damaged::new();
    assert_eq!((pool.call("pool.status").get("last_scrub"), pool.metric("pool_scrub_errors")), (None, None));
    pool.control.call(&mut pool.rig, "checkpoint.create", json!({"volumes": ["db"], "name": "cp"}));
    let mut listener = pool.rig.control();
    listener.call(&mut pool.rig, "event.subscribe", json!({}));
    let at = pool.rot(3);
    assert_eq!(pool.inspect("pool.scrub"), 1);
    pool.rig.sleep(2 * SECOND);
    let mut events: Vec<Value> = (0..3).map(|_| listener.line(&mut pool.rig)["params"].clone()).collect();
    events.sort_by_key(|event| event["method"].is_null());
    assert_eq!((&events[0]["method"], &events[0]["volumes"]), (&json!("pool.scrub"), &json!(["db"])));
    let place = events.iter().find(|event| event["block"] == at).expect("the place was told of");
    assert_eq!((&place["checkpoint"], &place["offset"]), (&json!("cp"), &json!(3 * BLOCK)), "{place}");
    let status = pool.call("pool.status");
    assert_eq!(
        (&status["last_scrub"]["errors"], &status["last_scrub"]["volumes"]),
        (&json!(1), &json!(["db"]))
    );
    assert!(status["last_scrub"]["time"].as_str().unwrap().ends_with('Z'));
    assert!(pool.problems().contains("found 1 error(s) (volumes: db)"), "{}", pool.problems());
    assert_eq!(pool.metric("pool_scrub_errors"), Some(1));
    // Nothing is known of it after a restart, until something reads it again.
    pool.call("system.shutdown");
    let mut rig = Rig::start(&[&pool.disk], PoolOption::Open);
    let mut control = rig.control();
    let status = control.call(&mut rig, "pool.status", json!({}));
    assert_eq!((&status["damage"]["read_errors"], status.get("last_scrub")), (&json!(0), None));
    (pool.rig, pool.control) = (rig, control);
    assert_eq!(pool.inspect("pool.scrub"), 1);
    let deleted = pool.control.call(&mut pool.rig, "volume.delete", json!({"name": "db"}));
    assert_eq!(deleted, json!({}));
    pool.rig.sleep(20 * SECOND);
    assert_eq!(pool.inspect("pool.scrub"), 0);
    assert_eq!((pool.problems(), pool.metric("pool_scrub_errors")), (String::new(), Some(0)));
}

#[test]
fn what_a_check_finds_stays_in_sight_until_a_check_or_scrub_is_clean() {
    for clean in ["pool.check", "pool.scrub"] {
        let mut pool = Damaged::new();
        pool.disk.rot(0);
        pool.disk.rot(1);
        let errors = pool.inspect("pool.check").as_u64().unwrap();
        assert!(errors > 0);
        assert_eq!(pool.call("pool.status")["last_check"]["errors"], errors);
        assert!(pool.problems().contains("the check that ended at"), "{}", pool.problems());
        assert_eq!(pool.metric("pool_check_errors"), Some(errors));
        // Commits write the superblocks again.
        for byte in 0..3 {
            pool.nbd.write(&mut pool.rig, 0, &[byte; BLOCK as usize]);
            pool.rig.sleep(6 * SECOND);
        }
        assert_eq!(pool.inspect(clean), 0);
        assert_eq!(pool.problems(), "");
    }
}
