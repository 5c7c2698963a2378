//! Gates in front of live volumes: a suspended volume holds its requests, and whoever suspends it waits for
//! those under way.

use crate::types::ObjectId;
use alloc::collections::BTreeMap;
use core::cell::RefCell;

#[derive(Default)]
struct Gate {
    /// Requests under way.
    inside: usize,
    /// The operator has suspended the volume.
    suspended: bool,
    /// Reverts that hold it.
    held: usize,
}

/// The gates of all volumes in use.
#[derive(Default)]
pub(crate) struct Gates(RefCell<BTreeMap<ObjectId, Gate>>);

impl Gates {
    fn change<T>(&self, volume: ObjectId, change: impl FnOnce(&mut Gate) -> T) -> T {
        let mut gates = self.0.borrow_mut();
        let gate = gates.entry(volume).or_default();
        let result = change(gate);
        if gate.inside == 0 && !gate.suspended && gate.held == 0 {
            gates.remove(&volume);
        }
        result
    }

    /// Lets a request in unless the volume is held; the caller leaves again.
    pub(crate) fn enter(&self, volume: ObjectId) -> bool {
        self.change(volume, |gate| {
            let open = !gate.suspended && gate.held == 0;
            gate.inside += usize::from(open);
            open
        })
    }

    pub(crate) fn leave(&self, volume: ObjectId) {
        self.change(volume, |gate| gate.inside -= 1);
    }

    pub(crate) fn set_suspended(&self, volume: ObjectId, suspended: bool) {
        self.change(volume, |gate| gate.suspended = suspended);
    }

    pub(crate) fn is_suspended(&self, volume: ObjectId) -> bool {
        self.0.borrow().get(&volume).is_some_and(|gate| gate.suspended)
    }

    pub(crate) fn hold(&self, volume: ObjectId) {
        self.change(volume, |gate| gate.held += 1);
    }

    pub(crate) fn release(&self, volume: ObjectId) {
        self.change(volume, |gate| gate.held -= 1);
    }

    /// Whether a revert holds it.
    pub(crate) fn is_held(&self, volume: ObjectId) -> bool {
        self.0.borrow().get(&volume).is_some_and(|gate| gate.held > 0)
    }

    /// Whether requests go straight in.
    pub(crate) fn is_open(&self, volume: ObjectId) -> bool {
        self.0.borrow().get(&volume).is_none_or(|gate| !gate.suspended && gate.held == 0)
    }

    /// Whether no request is under way.
    pub(crate) fn is_quiet(&self, volume: ObjectId) -> bool {
        self.0.borrow().get(&volume).is_none_or(|gate| gate.inside == 0)
    }
}
