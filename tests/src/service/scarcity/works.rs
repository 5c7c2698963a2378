//! What is asked for while memory runs out: every option and request of NBD in each form of replies, every method of the
//! control port, and the console; and the pools it is asked of.

use crate::service::block::BLOCK;
use crate::service::nbd::{self, Mode};
use datum_store::Name;
use datum_store::limits::CHECKPOINT_VOLUMES_MAX;
use serde_json::{Value, json};

/// One thing to ask for.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// A method that is carried out, and its job with it.
    Command(&'static str, Value),
    /// A method that is refused, with this kind.
    Fails(&'static str, Value, &'static str),
    /// A list, by all its pages.
    Names(&'static str, Value),
    /// A query for extents, by all its pages.
    Blocks(&'static str, Value),
    /// The token that `$token` stands for.
    Token(Value),
    /// A line of the console; with a tab at its end, what completes it.
    Console(String),
    /// NBD's LIST.
    Exports,
    /// NBD's INFO and LIST_META_CONTEXT.
    Describe(String),
    /// NBD's SET_META_CONTEXT and GO. The session stays open for the requests that follow.
    Open(String, Mode, Vec<String>),
    /// Requests that are under way together.
    Requests(Vec<Request>),
}

/// One request of NBD.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Ask {
    /// Whether it changes nothing, and its answer is the same every time.
    pub(super) fn is_only_asking(&self) -> bool {
        match self {
            Self::Command(..) | Self::Fails(..) => false,
            Self::Console(text) => !text.starts_with("volume create"),
            Self::Requests(requests) => requests.iter().all(|request| {
                [nbd::READ, nbd::BLOCK_STATUS, nbd::CACHE, nbd::FLUSH].contains(&request.kind)
            }),
            _ => true,
        }
    }

    /// Whether it may be asked for any number of times.
    fn is_repeatable(&self) -> bool {
        match self {
            Self::Command(method, _) => ["pool.status", "pool.check", "job.list"].contains(method),
            Self::Requests(_) | Self::Fails(..) => true,
            _ => self.is_only_asking(),
        }
    }
}

/// A pool, and who makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// A few volumes with data, checkpoints and reference points.
    Few,
    /// One volume with many points, each with the longest name.
    Long,
    /// As many volumes as one checkpoint may span, each with the longest name.
    Wide,
}

impl Pool {
    /// What makes it.
    pub(super) fn asks(self) -> Vec<Ask> {
        match self {
            Self::Few => few(),
            Self::Long => long(),
            Self::Wide => wide()
                .map(|name| Ask::Command("volume.create", json!({ "name": name, "size": block(1) })))
                .collect(),
        }
    }
}

/// Something to ask for while memory runs out.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) name: String,
    pub(super) pool: Pool,
    pub(super) asks: Vec<Ask>,
}

impl Work {
    fn new(name: impl Into<String>, pool: Pool, asks: Vec<Ask>) -> Self {
        Self { name: name.into(), pool, asks }
    }

    /// Whether all of it may be done any number of times.
    pub(super) fn is_repeatable(&self) -> bool {
        self.asks.iter().all(Ask::is_repeatable)
    }

    /// What opens a session for the rest, and the rest.
    pub(super) fn opening(&self) -> (&[Ask], &[Ask]) {
        let last = self.asks.len().saturating_sub(1);
        self.asks.split_at(self.asks[..last].iter().filter(|ask| matches!(ask, Ask::Open(..))).count())
    }

    /// Under what it is counted.
    pub(super) fn word(&self) -> &str {
        self.name.split_once('-').map_or(&*self.name, |(word, _)| word)
    }
}

/// Blocks of the larger volume.
const LARGE: u64 = 150;
/// Checkpoints and reference points of the volume with many.
const CHECKPOINTS: usize = 90;
const REFPOINTS: usize = 90;
/// Bytes of the longest name.
const LONGEST: usize = Name::MAX;

fn block(count: u64) -> u64 {
    count * BLOCK as u64
}

fn request(kind: u16, offset: u64, length: u64) -> Request {
    Request { kind, flags: 0, offset, length }
}

fn with(request: Request, flags: u16) -> Request {
    Request { flags, ..request }
}

fn open(export: &str, mode: Mode) -> Ask {
    Ask::Open(export.into(), mode, Vec::new())
}

/// The volume with many points.
fn long_name() -> String {
    format!("volume{}", "-long".repeat(11))
}

fn point_name(kind: &str, number: usize) -> String {
    format!("{kind}-{number:03}{}", "-long".repeat(10))
}

fn few() -> Vec<Ask> {
    let command = |method, params| Ask::Command(method, params);
    let fill = |offset, length| Ask::Requests(vec![request(nbd::WRITE, offset, length)]);
    vec![
        command("volume.create", json!({ "name": "alpha", "size": block(24) })),
        command("volume.create", json!({ "name": "beta", "size": block(LARGE) })),
        open("beta", Mode::Extended),
        fill(0, block(70)),
        fill(block(100), block(4)),
        open("alpha", Mode::Structured),
        fill(0, block(10)),
        command("checkpoint.create", json!({ "volumes": ["alpha", "beta"], "name": "one" })),
        fill(block(2), block(3)),
        command("refpoint.create", json!({ "volume": "alpha", "name": "mark" })),
        fill(block(4) + 100, 9000),
        fill(block(12), block(1)),
        command("checkpoint.create", json!({ "volumes": ["alpha"], "name": "two" })),
        fill(block(7), block(2)),
        // Who looks at everything must know what a clone begins with.
        open("alpha@one", Mode::Structured),
        Ask::Requests(vec![request(nbd::READ, 0, block(24))]),
        command("volume.clone", json!({ "volume": "alpha", "checkpoint": "one", "name": "gamma" })),
    ]
}

fn long() -> Vec<Ask> {
    let volume = long_name();
    let mut asks = vec![
        Ask::Command("volume.create", json!({ "name": volume, "size": block(2) })),
        open(&volume, Mode::Structured),
        Ask::Requests(vec![request(nbd::WRITE, 0, 100)]),
    ];
    asks.extend((0..CHECKPOINTS).map(|at| {
        let name = point_name("checkpoint", at);
        Ask::Command("checkpoint.create", json!({ "volumes": [volume], "name": name }))
    }));
    asks.extend((0..REFPOINTS).map(|at| {
        let name = point_name("refpoint", at);
        Ask::Command("refpoint.create", json!({ "volume": volume, "name": name }))
    }));
    asks
}

fn wide() -> impl Iterator<Item = String> {
    (0..CHECKPOINT_VOLUMES_MAX).map(|at| format!("{at:x>LONGEST$}"))
}

/// Everything that is asked for.
pub(super) fn works() -> Vec<Work> {
    [negotiation(), requests(), commands(), lists(), console()].concat()
}

fn negotiation() -> Vec<Work> {
    let contexts: Vec<String> =
        ["base:allocation", "qemu:dirty-bitmap:mark", "x-datum:change"].map(str::to_owned).into();
    // As long as one option may be: texts that no context has.
    let queries = (0..15).map(|at| format!("base:{at}{}", "x".repeat(4000))).collect();
    vec![
        Work::new("negotiation-list", Pool::Few, vec![Ask::Exports]),
        Work::new("negotiation-info", Pool::Few, vec![Ask::Describe("alpha@two+since=mark".into())]),
        Work::new(
            "negotiation-go",
            Pool::Few,
            vec![Ask::Open("alpha".into(), Mode::Structured, contexts.clone())],
        ),
        Work::new(
            "negotiation-extended",
            Pool::Few,
            vec![Ask::Open("beta".into(), Mode::Extended, contexts)],
        ),
        Work::new("negotiation-simple", Pool::Few, vec![open("gamma", Mode::Simple)]),
        Work::new("negotiation-large", Pool::Few, vec![Ask::Open("beta".into(), Mode::Structured, queries)]),
        Work::new("negotiation-many", Pool::Long, vec![Ask::Exports]),
    ]
}

fn requests() -> Vec<Work> {
    let mut works = Vec::new();
    let mut add = |name: &str, export: &str, mode, requests: Vec<Request>| {
        let asks = vec![open(export, mode), Ask::Requests(requests)];
        works.push(Work::new(name, Pool::Few, asks));
    };
    let all = request(nbd::READ, 0, block(LARGE));
    let (write, zero) =
        (request(nbd::WRITE, block(60) + 700, block(80)), request(nbd::WRITE_ZEROES, 300, block(9)));
    add("read-simple", "beta", Mode::Simple, vec![all]);
    add("read-structured", "beta", Mode::Structured, vec![all]);
    add("read-whole", "beta", Mode::Structured, vec![with(all, nbd::DONT_FRAGMENT)]);
    add("read-extended", "beta@one", Mode::Extended, vec![all]);
    add("read-cache", "beta", Mode::Structured, vec![request(nbd::CACHE, 0, block(LARGE))]);
    add("write-structured", "beta", Mode::Structured, vec![write, request(nbd::FLUSH, 0, 0)]);
    add("write-simple", "alpha", Mode::Simple, vec![with(request(nbd::WRITE, 10, 5), nbd::FUA)]);
    add(
        "write-extended",
        "alpha",
        Mode::Extended,
        vec![with(request(nbd::WRITE, block(3), block(5)), nbd::FUA)],
    );
    add("trim", "beta", Mode::Structured, vec![with(request(nbd::TRIM, block(2), block(60)), nbd::FUA)]);
    add("zeroes", "beta", Mode::Simple, vec![zero, request(nbd::FLUSH, 0, 0)]);
    add("flush", "beta", Mode::Extended, vec![request(nbd::FLUSH, 0, 0)]);
    let together = (0..20).flat_map(|at| {
        let offset = block(at * 4);
        [
            request(nbd::WRITE, offset, block(3)),
            request(nbd::READ, block(100), block(20)),
            request(nbd::TRIM, offset + block(3), block(1)),
        ]
    });
    add("together", "beta", Mode::Structured, together.chain([request(nbd::FLUSH, 0, 0)]).collect());
    let status = |length| request(nbd::BLOCK_STATUS, 0, length);
    for (name, mode) in [("status-structured", Mode::Structured), ("status-extended", Mode::Extended)] {
        let contexts = ["base:allocation", "qemu:dirty-bitmap:one", "x-datum:change"].map(str::to_owned);
        let asks = vec![
            Ask::Open("alpha".into(), mode, contexts.into()),
            Ask::Requests(vec![status(block(24)), with(status(block(24)), nbd::ONE)]),
        ];
        works.push(Work::new(name, Pool::Few, asks));
    }
    works
}

/// Every method, but for those that list.
fn commands() -> Vec<Work> {
    let point = |name: &str| json!({ "volume": "alpha", "name": name });
    let commands = [
        ("system.info", json!({})),
        ("system.metrics", json!({})),
        ("system.shutdown", json!({})),
        ("system.reboot", json!({})),
        ("pool.status", json!({})),
        ("pool.check", json!({})),
        ("pool.scrub", json!({})),
        ("volume.create", json!({ "name": "delta", "size": block(5) })),
        ("volume.show", json!({ "name": "alpha" })),
        ("volume.resize", json!({ "name": "alpha", "size": block(20) })),
        ("volume.rename", json!({ "name": "alpha", "new_name": "delta" })),
        ("volume.delete", json!({ "name": "gamma" })),
        ("volume.clone", json!({ "volume": "beta", "checkpoint": "one", "name": "delta" })),
        ("volume.revert", json!({ "volume": "alpha", "checkpoint": "two" })),
        ("volume.suspend", json!({ "volume": "beta" })),
        ("volume.resume", json!({ "volume": "beta" })),
        ("checkpoint.create", json!({ "volumes": ["alpha", "beta", "gamma"], "name": "three" })),
        ("checkpoint.show", point("one")),
        ("checkpoint.delete", point("two")),
        ("checkpoint.convert", json!({ "volume": "alpha", "name": "two", "refpoint": "converted" })),
        ("refpoint.create", point("other")),
        ("refpoint.show", point("mark")),
        ("refpoint.delete", point("mark")),
        ("event.subscribe", json!({})),
        ("job.list", json!({})),
        ("session.list", json!({})),
        ("device.list", json!({})),
    ];
    let mut works: Vec<Work> = commands
        .into_iter()
        .map(|(method, params)| Work::new(method, Pool::Few, vec![Ask::Command(method, params)]))
        .collect();
    let widest = json!({ "volumes": wide().collect::<Vec<_>>(), "name": "x".repeat(LONGEST) });
    works.push(Work::new(
        "checkpoint.create-widest",
        Pool::Wide,
        vec![Ask::Command("checkpoint.create", widest)],
    ));
    let fails = [
        ("pool.create", json!({ "devices": ["vd0"] }), "device"),
        ("job.show", json!({ "job": "17" }), "not_found"),
        ("job.cancel", json!({ "job": "17" }), "not_found"),
        ("volume.create", json!({ "name": "x", "size": "4K" }), "invalid_params"),
    ];
    works.extend(fails.map(|(method, params, kind)| {
        Work::new(format!("refused-{method}"), Pool::Few, vec![Ask::Fails(method, params, kind)])
    }));
    works
}

/// Lists and queries, short and long.
fn lists() -> Vec<Work> {
    let alpha = json!({ "volume": "alpha" });
    let long = long_name();
    let many = json!({ "volume": long, "limit": 500 });
    let since = json!({ "volume": "alpha", "since": "one", "limit": 1 });
    let token = json!({ "volume": "alpha", "since": "$token", "until": "two" });
    let volumes: Vec<String> = (0..900).map(|at| point_name("volume", at)).collect();
    let too_many = json!({ "volumes": volumes, "name": "x" });
    let works = [
        ("lists-volumes", Pool::Few, vec![Ask::Names("volume.list", json!({ "limit": 2 }))]),
        ("lists-checkpoints", Pool::Few, vec![Ask::Names("checkpoint.list", alpha.clone())]),
        ("lists-refpoints", Pool::Few, vec![Ask::Names("refpoint.list", alpha.clone())]),
        ("lists-many-checkpoints", Pool::Long, vec![Ask::Names("checkpoint.list", many.clone())]),
        ("lists-many-refpoints", Pool::Long, vec![Ask::Names("refpoint.list", many)]),
        ("changes-pages", Pool::Few, vec![Ask::Blocks("changes.query", since)]),
        (
            "changes-token",
            Pool::Few,
            vec![
                Ask::Token(json!({ "volume": "alpha", "name": "mark" })),
                Ask::Blocks("changes.query", token),
            ],
        ),
        ("allocated", Pool::Few, vec![Ask::Blocks("allocated.query", json!({ "volume": "beta" }))]),
        ("refused-long-line", Pool::Few, vec![Ask::Fails("checkpoint.create", too_many, "limit")]),
    ];
    works.into_iter().map(|(name, pool, asks)| Work::new(name, pool, asks)).collect()
}

fn console() -> Vec<Work> {
    let long = long_name();
    let lines = [
        ("console-help", Pool::Few, "help".to_owned()),
        ("console-list", Pool::Few, "volume list".into()),
        ("console-complete", Pool::Few, "checkpoint show al\t".into()),
        ("console-changes", Pool::Few, "changes alpha --since one".into()),
        ("console-many", Pool::Long, format!("refpoint list {long}")),
        ("console-many-complete", Pool::Long, format!("refpoint show {long} \t")),
    ];
    let works = lines.into_iter().map(|(name, pool, line)| Work::new(name, pool, vec![Ask::Console(line)]));
    works.collect()
}
