//! What each peer is asked for.

use super::load::{Load, Order};

/// What the volume must look like before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// As earlier scenarios left it.
    Any,
    /// Written from its start to its end, with nothing overwritten since.
    InOrder,
}

/// One kind of work.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) load: Load,
    pub(super) shape: Shape,
    /// An image of the volume is made before each turn, and given up after it.
    pub(super) after_point: bool,
    /// An image of which every block has been overwritten since is given up just before.
    pub(super) releasing: bool,
}

impl Scenario {
    /// Whether it leaves a volume whose blocks were overwritten in no order.
    pub(super) fn scatters(&self) -> bool {
        self.load.order == Order::Random && self.load.read_percent < 100
    }

    const fn after_point(mut self, name: &'static str) -> Scenario {
        (self.name, self.after_point) = (name, true);
        self
    }

    const fn releasing(mut self, name: &'static str) -> Scenario {
        (self.name, self.releasing) = (name, true);
        self
    }

    const fn in_order(mut self) -> Scenario {
        self.shape = Shape::InOrder;
        self
    }
}

const fn random(name: &'static str, read_percent: u64, depth: usize) -> Scenario {
    let load = Load { read_percent, length: 4096, depth, order: Order::Random, flush: false };
    Scenario { name, load, shape: Shape::Any, after_point: false, releasing: false }
}

const fn durable(name: &'static str) -> Scenario {
    let mut scenario = random(name, 0, 1);
    scenario.load.flush = true;
    scenario
}

const fn sequential(name: &'static str, read_percent: u64, kibibytes: u32, depth: usize) -> Scenario {
    let load = Load { read_percent, length: kibibytes << 10, depth, order: Order::Sequential, flush: false };
    Scenario { name, load, shape: Shape::Any, after_point: false, releasing: false }
}

/// All of them, in the order in which they run: what wants a volume written in order comes first.
pub(super) const SCENARIOS: [Scenario; 21] = [
    sequential("read-128k", 100, 128, 8).in_order(),
    sequential("read-1m", 100, 1024, 4).in_order(),
    sequential("write-128k", 0, 128, 8),
    sequential("write-1m", 0, 1024, 4),
    random("read-4k-d1", 100, 1),
    random("read-4k-d32", 100, 32),
    random("write-4k-d1", 0, 1),
    random("write-4k-d32", 0, 32),
    durable("write-flush-d1"),
    random("mixed-4k-d32", 70, 32),
    sequential("read-1m-scattered", 100, 1024, 4),
    random("", 100, 32).after_point("read-4k-d32-point"),
    random("", 0, 1).after_point("write-4k-d1-point"),
    random("", 0, 32).after_point("write-4k-d32-point"),
    durable("").after_point("write-flush-d1-point"),
    random("", 70, 32).after_point("mixed-4k-d32-point"),
    sequential("", 0, 128, 8).after_point("write-128k-point"),
    sequential("", 0, 1024, 4).after_point("write-1m-point"),
    sequential("", 100, 1024, 4).in_order().after_point("read-1m-point"),
    random("", 100, 32).releasing("read-4k-d32-release"),
    random("", 0, 32).releasing("write-4k-d32-release"),
];
