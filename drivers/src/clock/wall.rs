//! Wall time as an offset to monotonic time, and what looks at another clock tell of that offset.
//!
//! A look never gives the offset itself, only bounds: a clock that counts whole seconds showed this second at some moment
//! between the beginning and the end of the look. The offset is moved as little as the bounds ask for. So a look that took
//! long does no harm, and two looks on either side of the clock's next second leave no more doubt than lies between them.

use super::NANOSECONDS_PER_SECOND;
use core::sync::atomic::{AtomicU64, Ordering};

/// A clock that is this far behind was set back; less is drift.
const SET_BACK_NANOSECONDS: u64 = 2 * NANOSECONDS_PER_SECOND;

/// Wall time. It stands still rather than go back, unless the clock that it follows was set back.
pub(super) struct Wall {
    /// Wall time when monotonic time began, in nanoseconds since 1970.
    offset: AtomicU64,
    /// The latest moment that anybody was told.
    told: AtomicU64,
}

/// What is known of the offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    low: u64,
    high: u64,
}

impl Bounds {
    /// A clock stood between `first` and `last`, in nanoseconds since 1970, at some moment between `before` and `after` of
    /// monotonic time.
    pub(super) fn of_look(first: u64, last: u64, before: u64, after: u64) -> Self {
        let low = first.saturating_sub(after);
        Self { low, high: last.saturating_sub(before).max(low) }
    }

    /// What both know; nothing where they contradict each other, because the clock was set in between.
    pub(super) fn and(self, other: Self) -> Option<Self> {
        let both = Self { low: self.low.max(other.low), high: self.high.min(other.high) };
        (both.low <= both.high).then_some(both)
    }

    /// How much doubt is left, in nanoseconds.
    pub(super) fn width(self) -> u64 {
        self.high - self.low
    }
}

impl Wall {
    /// Begins at the earliest moment that a first look allows, so that what is learnt later moves it forwards.
    pub(super) fn new(known: Bounds) -> Self {
        Self { offset: AtomicU64::new(known.low), told: AtomicU64::new(0) }
    }

    /// Nanoseconds since 1970 at this moment of monotonic time.
    pub(super) fn at(&self, monotonic: u64) -> u64 {
        let now = self.offset.load(Ordering::Relaxed).saturating_add(monotonic);
        self.told.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// Moves the offset into the bounds.
    pub(super) fn learn(&self, known: Bounds) {
        let before = self.offset.load(Ordering::Relaxed);
        let now = before.clamp(known.low, known.high);
        self.offset.store(now, Ordering::Relaxed);
        if before.saturating_sub(now) > SET_BACK_NANOSECONDS {
            self.told.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;
    const SECOND: u64 = NANOSECONDS_PER_SECOND;
    /// The true offset: the clock is in the middle of a second when monotonic time begins.
    const OFFSET: u64 = 1_700_000_000 * SECOND + 730 * MILLISECOND;

    /// A look at a clock of whole seconds, whose offset this is, that takes a tenth of a millisecond.
    fn look(offset: u64, monotonic: u64) -> Bounds {
        let second = (offset + monotonic) / SECOND * SECOND;
        Bounds::of_look(second, second + SECOND, monotonic, monotonic + MILLISECOND / 10)
    }

    #[test]
    fn a_second_of_looks_tells_the_time_to_the_time_between_two_and_only_forwards() {
        let wall = Wall::new(look(OFFSET, 0));
        assert!(OFFSET - wall.at(0) <= SECOND, "at first it is known to the second");
        let (mut known, mut last) = (look(OFFSET, 0), 0);
        for step in 1..250 {
            let now = step * 4 * MILLISECOND;
            known = known.and(look(OFFSET, now)).unwrap();
            wall.learn(known);
            assert!(wall.at(now) >= last);
            last = wall.at(now);
            assert!(last <= OFFSET + now, "it is never ahead");
        }
        assert!(known.width() < 5 * MILLISECOND);
        assert!(OFFSET + SECOND - wall.at(SECOND) < 5 * MILLISECOND);
    }

    #[test]
    fn a_look_that_takes_long_does_no_harm() {
        let wall = Wall::new(Bounds::of_look(OFFSET, OFFSET, 0, 0));
        wall.learn(Bounds::of_look(OFFSET - SECOND, OFFSET, 0, 3 * SECOND));
        assert_eq!(wall.at(SECOND), OFFSET + SECOND);
    }

    #[test]
    fn it_waits_for_a_clock_that_is_a_little_behind() {
        let wall = Wall::new(Bounds::of_look(OFFSET, OFFSET, 0, 0));
        let told = wall.at(60 * SECOND);
        let behind = OFFSET - 20 * MILLISECOND;
        wall.learn(Bounds::of_look(behind, behind, 0, 0));
        assert_eq!(wall.at(60 * SECOND + 5 * MILLISECOND), told);
        assert_eq!(wall.at(60 * SECOND + 25 * MILLISECOND), told + 5 * MILLISECOND);
    }

    #[test]
    fn it_follows_a_clock_that_was_set() {
        let wall = Wall::new(look(OFFSET, 0));
        for offset in [OFFSET + 3600 * SECOND, OFFSET - 3600 * SECOND] {
            assert_eq!(look(OFFSET, SECOND).and(look(offset, SECOND)), None);
            wall.at(SECOND);
            wall.learn(look(offset, SECOND));
            assert!(wall.at(SECOND).abs_diff(offset + SECOND) <= SECOND + MILLISECOND);
        }
    }
}
