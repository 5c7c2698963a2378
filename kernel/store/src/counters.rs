//! The counters that name things once and for all, at their ends: refused in good time, never wrapped round.
//!
//! Change ids and epochs have 64 bits, object ids 38. What needs a new one is refused at a margin before the end,
//! which is left to what gives space back and to commits. Where those come to the end too, the pool goes
//! read-only. An opening then is one too: it cannot make the commit that ends it.

use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::format::journal::Body;
use crate::limits::{
    CHANGE_IDS_END, EPOCHS_FOR_CLOSING, EPOCHS_FOR_COMMITS, OBJECTS_END, OBJECTS_FOR_RETURNS,
};
use crate::types::ChangeId;

/// The error of a counter at its end.
pub(crate) fn used_up(what: &str) -> Error {
    Error::new(ErrorKind::Limit, format_args!("all {what} are used up; copy the volumes to a new pool"))
}

/// One more of a counter that never comes back.
pub(crate) fn next(counter: u64, what: &str) -> Result<u64> {
    counter.checked_add(1).filter(|&next| next < u64::MAX).ok_or_else(|| used_up(what))
}

/// The change id after a point of this one.
pub(crate) fn next_change(change: ChangeId) -> Result<ChangeId> {
    match change.0 < CHANGE_IDS_END {
        true => Ok(ChangeId(change.0 + 1)),
        false => Err(Error::new(
            ErrorKind::Limit,
            "all change ids of the volume are used up; copy it to a new one to make points of it",
        )),
    }
}

impl Engine {
    /// Whether what an operation draws leaves enough for those that must always be possible.
    pub(crate) fn admits_draws(&self, body: &Body) -> Result<()> {
        let epochs = (u64::MAX - 1).saturating_sub(self.forest.epoch.0);
        let objects = OBJECTS_END.saturating_sub(self.next_object);
        let (epochs_kept, objects_kept) = match body {
            Body::Checkpoint { .. } => (EPOCHS_FOR_COMMITS, OBJECTS_FOR_RETURNS),
            Body::CreateVolume { .. }
            | Body::CloneVolume { .. }
            | Body::CreateRefpoint { .. }
            | Body::Revert { .. } => (EPOCHS_FOR_CLOSING, OBJECTS_FOR_RETURNS),
            Body::Write { .. } | Body::RenameVolume { .. } => (EPOCHS_FOR_CLOSING, 0),
            Body::Trim { .. }
            | Body::ResizeVolume { .. }
            | Body::DeleteVolume { .. }
            | Body::DeleteCheckpoint { .. }
            | Body::ConvertCheckpoint { .. }
            | Body::DeleteRefpoint { .. } => (0, 0),
        };
        if epochs < epochs_kept {
            return Err(used_up("epochs of the pool"));
        }
        if objects < objects_kept {
            return Err(used_up("object ids of the pool"));
        }
        Ok(())
    }
}
