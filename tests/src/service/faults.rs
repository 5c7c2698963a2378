//! Classes of faults, by the words of the command line. What is not wanted is left out of a plan, and all else in it stays.

use crate::disk::fault::{Effect, Request};
use std::fmt;
use std::str::FromStr;

/// A class of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A request fails: once, for a while, for good, or at one place.
    Eio,
    /// A flush fails and loses what it was for.
    Forget,
    /// Answers come late.
    Slow,
    /// Answers never come.
    Hang,
    /// A member answers nothing well for a while.
    Vanish,
    /// A write or flush is acknowledged and not done, or a flush has lost what it was for.
    Lost,
    /// A bit turns over on its way.
    Rot,
    /// A write lands elsewhere.
    Misdirect,
    /// At a start one member is that of an earlier life.
    Stale,
    /// At a start one member is gone; at the next it is back.
    Gone,
    /// The pool is so small that clients fill it.
    Full,
}

const WORDS: [(Fault, &str); 11] = [
    (Fault::Eio, "eio"),
    (Fault::Forget, "forget"),
    (Fault::Slow, "slow"),
    (Fault::Hang, "hang"),
    (Fault::Vanish, "vanish"),
    (Fault::Lost, "lost"),
    (Fault::Rot, "rot"),
    (Fault::Misdirect, "misdirect"),
    (Fault::Stale, "stale"),
    (Fault::Gone, "gone"),
    (Fault::Full, "full"),
];

/// The word for none of them.
const NONE: &str = "none";

/// What honest disks may do.
pub(super) const HONEST: &[(Fault, Request, Effect)] = &[
    (Fault::Eio, Request::Read, Effect::Fail),
    (Fault::Eio, Request::Write, Effect::Fail),
    (Fault::Eio, Request::Write, Effect::FailHalfway),
    (Fault::Eio, Request::Flush, Effect::Fail),
    (Fault::Forget, Request::Flush, Effect::Forget(0)),
    (Fault::Forget, Request::Flush, Effect::Forget(100)),
    (Fault::Slow, Request::Any, Effect::Delay(200)),
    (Fault::Hang, Request::Any, Effect::Withhold),
    (Fault::Vanish, Request::Any, Effect::Fail),
];

/// What lying ones do.
pub(super) const LYING: &[(Fault, Request, Effect)] = &[
    (Fault::Lost, Request::Write, Effect::Lose),
    (Fault::Lost, Request::Flush, Effect::Lose),
    (Fault::Lost, Request::Flush, Effect::Skip),
    (Fault::Rot, Request::Write, Effect::Corrupt),
    (Fault::Rot, Request::Read, Effect::Corrupt),
    (Fault::Misdirect, Request::Write, Effect::Misdirect),
];

/// A choice of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults(u16);

impl Faults {
    /// All of them.
    pub const ALL: Self = Self((1 << WORDS.len()) - 1);

    pub(super) fn has(self, fault: Fault) -> bool {
        self.0 & 1 << fault as u16 != 0
    }
}

impl FromStr for Faults {
    type Err = String;

    /// Words with commas between them, or `none`.
    fn from_str(text: &str) -> Result<Self, String> {
        let words = text.split(',').filter(|word| *word != NONE);
        words.into_iter().try_fold(Self(0), |faults, word| {
            match WORDS.iter().find(|(_, known)| *known == word) {
                Some((fault, _)) => Ok(Self(faults.0 | 1 << *fault as u16)),
                None => Err(format!("{word} is no class of faults; there are {}", Self::ALL)),
            }
        })
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> =
            WORDS.iter().filter(|(fault, _)| self.has(*fault)).map(|(_, word)| *word).collect();
        f.write_str(if words.is_empty() { NONE.into() } else { words.join(",") }.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_reads_as_it_is_written() {
        for bits in 0..=Faults::ALL.0 {
            assert_eq!(Faults(bits).to_string().parse(), Ok(Faults(bits)));
        }
        assert!(WORDS.iter().enumerate().all(|(place, (fault, _))| *fault as usize == place));
        assert!("eio,sloth".parse::<Faults>().is_err_and(|what| what.contains("sloth")));
    }
}
