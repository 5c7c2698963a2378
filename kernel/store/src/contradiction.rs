//! What disks say with right checksums and what cannot be true together.
//!
//! No accident to a disk does that; a defect of another version, or somebody who writes checksums, does. Where it
//! can be seen before a step changes anything, the step returns `Corrupt`. Where a step that can no longer stop
//! half-way meets it, the step notes it on the [`Witness`] and goes on in whatever way harms nobody: the shell
//! looks there after each step, and then the pool takes no writes any more. What the step has left in memory is
//! never written.

use crate::error::{Error, ErrorKind};
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::cell::RefCell;
use core::fmt;

/// Where contradictions are noted; clones are the same place.
#[derive(Clone, Default)]
pub(crate) struct Witness(Rc<RefCell<Option<String>>>);

impl Witness {
    /// Notes a contradiction. The first one counts: others may only follow from it.
    pub(crate) fn note(&self, what: impl fmt::Display) {
        self.0.borrow_mut().get_or_insert_with(|| what.to_string());
    }

    /// Notes it unless it `holds`.
    pub(crate) fn demand(&self, holds: bool, what: impl fmt::Display) {
        if !holds {
            self.note(what);
        }
    }

    /// `from - less`; 0, and noted, where a count says less than what is taken off it.
    pub(crate) fn subtract(&self, from: u64, less: u64, count: &str) -> u64 {
        self.demand(less <= from, format_args!("{count} is counted as {from} and loses {less}"));
        from.saturating_sub(less)
    }

    /// What was noted since the last look.
    pub(crate) fn take(&self) -> Option<Error> {
        self.0.borrow_mut().take().map(contradiction)
    }
}

/// The error of contents that contradict each other.
pub(crate) fn contradiction(what: impl fmt::Display) -> Error {
    let then = "run pool.check, and copy what can be read";
    Error::new(ErrorKind::Corrupt, format_args!("the pool's contents contradict each other ({what}); {then}"))
}
