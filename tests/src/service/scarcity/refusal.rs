//! How many requests may be refused: one, where one allocation has failed.

use std::cell::Cell;

/// What was refused.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// An allocation has failed.
    pub(super) failed: Cell<bool>,
    refused: Cell<u64>,
}

impl Refusals {
    /// Something was refused: as is documented or not, in these words.
    pub(super) fn take(&self, documented: bool, words: &str) {
        assert!(self.failed.get(), "refused although there is memory: {words}");
        assert!(documented, "refused otherwise than for want of memory: {words}");
        assert_eq!(
            self.refused.get(),
            0,
            "one allocation has failed, and a second request was refused: {words}"
        );
        self.refused.set(1);
    }

    /// Whether anything was refused since this was asked last.
    pub(super) fn any(&self) -> bool {
        self.refused.take() > 0
    }
}
