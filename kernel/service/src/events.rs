//! What happened, told to whoever asked to be told. A slow listener never holds up anyone: its queue is
//! bounded, and what did not fit is announced as a count.

use crate::environment::Power;
use crate::limits::EVENTS_QUEUED_MAX;
use crate::signal::Signal;
use alloc::collections::VecDeque;
use alloc::rc::{Rc, Weak};
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use serde_json::{Value, json};

/// One kind of event a variant.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    PoolOpened {
        name: String,
    },
    PoolReadOnly {
        reason: String,
    },
    /// A damaged place, or a check or scrub that found something.
    PoolDamaged {
        found: Value,
    },
    VolumeCreated {
        volume: String,
    },
    VolumeResized {
        volume: String,
        size: u64,
    },
    VolumeRenamed {
        volume: String,
        new_name: String,
    },
    VolumeDeleted {
        volume: String,
    },
    VolumeReverted {
        volume: String,
        checkpoint: String,
    },
    VolumeSuspended {
        volume: String,
    },
    VolumeResumed {
        volume: String,
    },
    CheckpointCreated {
        volume: String,
        name: String,
    },
    CheckpointConverted {
        volume: String,
        name: String,
        refpoint: String,
    },
    CheckpointDeleted {
        volume: String,
        name: String,
    },
    RefpointCreated {
        volume: String,
        name: String,
    },
    RefpointDeleted {
        volume: String,
        name: String,
    },
    JobFinished {
        job: String,
        kind: &'static str,
        state: &'static str,
    },
    SessionOpened {
        session: String,
        port: String,
        kind: &'static str,
    },
    SessionClosed {
        session: String,
        port: String,
        kind: &'static str,
    },
    SystemStopping {
        reason: Stopping,
    },
    /// This many events did not fit the listener's queue.
    Lost {
        count: u64,
    },
}

impl Event {
    /// The `params` of the notification: a `type` and what belongs to it.
    pub(crate) fn to_json(&self, time: &str) -> Value {
        let (kind, mut fields) = self.parts();
        if let Some(fields) = fields.as_object_mut() {
            fields.insert("type".into(), kind.into());
            fields.insert("time".into(), time.into());
        }
        fields
    }

    fn parts(&self) -> (&'static str, Value) {
        match self {
            Self::PoolOpened { name } => ("pool.opened", json!({ "name": name })),
            Self::PoolReadOnly { reason } => ("pool.read_only", json!({ "reason": reason })),
            Self::PoolDamaged { found } => ("pool.damaged", found.clone()),
            Self::VolumeCreated { volume } => ("volume.created", json!({ "volume": volume })),
            Self::VolumeResized { volume, size } => {
                ("volume.resized", json!({ "volume": volume, "size": size }))
            }
            Self::VolumeRenamed { volume, new_name } => {
                ("volume.renamed", json!({ "volume": volume, "new_name": new_name }))
            }
            Self::VolumeDeleted { volume } => ("volume.deleted", json!({ "volume": volume })),
            Self::VolumeReverted { volume, checkpoint } => {
                ("volume.reverted", json!({ "volume": volume, "checkpoint": checkpoint }))
            }
            Self::VolumeSuspended { volume } => ("volume.suspended", json!({ "volume": volume })),
            Self::VolumeResumed { volume } => ("volume.resumed", json!({ "volume": volume })),
            Self::CheckpointCreated { volume, name } => {
                ("checkpoint.created", json!({ "volume": volume, "name": name }))
            }
            Self::CheckpointConverted { volume, name, refpoint } => {
                ("checkpoint.converted", json!({ "volume": volume, "name": name, "refpoint": refpoint }))
            }
            Self::CheckpointDeleted { volume, name } => {
                ("checkpoint.deleted", json!({ "volume": volume, "name": name }))
            }
            Self::RefpointCreated { volume, name } => {
                ("refpoint.created", json!({ "volume": volume, "name": name }))
            }
            Self::RefpointDeleted { volume, name } => {
                ("refpoint.deleted", json!({ "volume": volume, "name": name }))
            }
            Self::JobFinished { job, kind, state } => {
                ("job.finished", json!({ "job": job, "kind": kind, "state": state }))
            }
            Self::SessionOpened { session, port, kind } => {
                ("session.opened", json!({ "session": session, "port": port, "kind": kind }))
            }
            Self::SessionClosed { session, port, kind } => {
                ("session.closed", json!({ "session": session, "port": port, "kind": kind }))
            }
            Self::SystemStopping { reason } => ("system.stopping", json!({ "reason": reason.word() })),
            Self::Lost { count } => ("event.lost", json!({ "count": count })),
        }
    }
}

/// Why the appliance goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopping {
    /// `system.shutdown`.
    Shutdown,
    /// `system.reboot`.
    Reboot,
    /// Somebody pressed the machine's power button.
    PowerButton,
}

impl Stopping {
    /// What ends the machine then.
    pub(crate) fn power(self) -> Power {
        match self {
            Self::Shutdown | Self::PowerButton => Power::Off,
            Self::Reboot => Power::Reset,
        }
    }

    /// In the event.
    fn word(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Reboot => "reboot",
            Self::PowerButton => "power_button",
        }
    }

    /// For people.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::Shutdown => "The appliance shuts down.",
            Self::Reboot => "The appliance starts again.",
            Self::PowerButton => "The power button was pressed: the appliance shuts down.",
        }
    }
}

/// The listeners.
#[derive(Default)]
pub(crate) struct Events(RefCell<Vec<Weak<Queue>>>);

#[derive(Default)]
struct Queue {
    waiting: RefCell<VecDeque<(u64, Event)>>,
    lost: Cell<u64>,
    signal: Signal,
}

impl Events {
    /// Tells every listener. `time` is in nanoseconds since 1970.
    pub(crate) fn publish(&self, time: u64, event: &Event) {
        self.0.borrow_mut().retain(|queue| {
            let Some(queue) = queue.upgrade() else { return false };
            if queue.lost.get() > 0 || queue.waiting.borrow().len() >= EVENTS_QUEUED_MAX {
                queue.lost.set(queue.lost.get() + 1);
            } else {
                queue.waiting.borrow_mut().push_back((time, event.clone()));
            }
            queue.signal.notify();
            true
        });
    }

    /// Starts listening; ends when the subscription is dropped.
    pub(crate) fn subscribe(&self) -> Subscription {
        let queue = Rc::new(Queue::default());
        self.0.borrow_mut().push(Rc::downgrade(&queue));
        Subscription(queue)
    }
}

/// One listener's place.
pub(crate) struct Subscription(Rc<Queue>);

impl Subscription {
    /// The next event and its time. Lost events are announced where they are missing: after all that came
    /// before them and before all that came later.
    pub(crate) async fn next(&self) -> (u64, Event) {
        self.0.signal.until(|| self.take()).await
    }

    fn take(&self) -> Option<(u64, Event)> {
        if let Some(event) = self.0.waiting.borrow_mut().pop_front() {
            return Some(event);
        }
        let count = self.0.lost.take();
        (count > 0).then_some((0, Event::Lost { count }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_slow_listener_hears_of_what_it_lost_and_where() {
        let events = Events::default();
        let listener = events.subscribe();
        let total = EVENTS_QUEUED_MAX as u64 + 7;
        for size in 0..total {
            events.publish(size, &Event::VolumeResized { volume: "v".into(), size });
        }
        for expected in 0..EVENTS_QUEUED_MAX as u64 {
            let (time, _) = listener.next().now_or_never().unwrap();
            assert_eq!(time, expected);
        }
        assert!(matches!(listener.next().now_or_never(), Some((_, Event::Lost { count: 7 }))));
        assert!(listener.next().now_or_never().is_none());
        events.publish(9, &Event::VolumeCreated { volume: "w".into() });
        let (_, event) = listener.next().now_or_never().unwrap();
        assert_eq!(
            event.to_json("t"),
            serde_json::json!({"type": "volume.created", "time": "t", "volume": "w"})
        );
    }

    #[test]
    fn who_has_left_is_forgotten() {
        let events = Events::default();
        drop(events.subscribe());
        events.publish(0, &Event::PoolOpened { name: "p".into() });
        assert!(events.0.borrow().is_empty());
    }
}
