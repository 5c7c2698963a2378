//! The alphabet: what a short history is spelt in, and what each letter means where the pool stands.
//!
//! Writing zeroes is no letter of its own: the service turns it into a trim before it reaches the store. A FUA
//! write is a write and a flush, as the service does it. Positions are fixed, since the volumes are tiny; names and
//! contents follow from what was drawn before, so a word means the same in every run.

use crate::model::action::Action;
use crate::model::content::Contents;
use crate::model::{State, Volume};

/// One step of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table below says it")]
pub enum Letter {
    Overwrite,
    FillHole,
    WriteOther,
    Fua,
    Together,
    TrimBlock,
    TrimAll,
    Flush,
    Commit,
    Checkpoint,
    Refpoint,
    Convert,
    DeleteCheckpoint,
    DeleteRefpoint,
    Clone,
    Revert,
    Grow,
    Shrink,
    DeleteVolume,
    Step,
    Background,
    Reopen,
    PowerLoss,
}

/// All letters and how they are written in a replay command.
pub const ALPHABET: [(Letter, &str); 23] = [
    (Letter::Overwrite, "overwrite"),
    (Letter::FillHole, "fill"),
    (Letter::WriteOther, "other"),
    (Letter::Fua, "fua"),
    (Letter::Together, "together"),
    (Letter::TrimBlock, "trim"),
    (Letter::TrimAll, "trim-all"),
    (Letter::Flush, "flush"),
    (Letter::Commit, "commit"),
    (Letter::Checkpoint, "checkpoint"),
    (Letter::Refpoint, "refpoint"),
    (Letter::Convert, "convert"),
    (Letter::DeleteCheckpoint, "delete-checkpoint"),
    (Letter::DeleteRefpoint, "delete-refpoint"),
    (Letter::Clone, "clone"),
    (Letter::Revert, "revert"),
    (Letter::Grow, "grow"),
    (Letter::Shrink, "shrink"),
    (Letter::DeleteVolume, "delete-volume"),
    (Letter::Step, "step"),
    (Letter::Background, "background"),
    (Letter::Reopen, "reopen"),
    (Letter::PowerLoss, "power-loss"),
];

impl Letter {
    /// As written in a replay command.
    pub fn word(self) -> &'static str {
        let entry = ALPHABET.iter().find(|(letter, _)| *letter == self);
        entry.expect("every letter is in the alphabet").1
    }

    /// The letter written so.
    pub fn parse(word: &str) -> Option<Self> {
        ALPHABET.iter().find(|(_, spelt)| *spelt == word).map(|(letter, _)| *letter)
    }
}

/// What a letter comes down to.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// One request, alone.
    Act(Action),
    /// Writes at the same time, and a flush among them.
    Together(Vec<Action>),
    /// Background work takes a few steps.
    Step,
    /// Background work runs until it has come to rest.
    Background,
    /// The pool is closed in good order and opened again.
    Reopen,
    /// The power fails, and the pool is opened again.
    PowerLoss,
}

/// Names that nobody has, and contents that nobody wrote.
pub struct Drawer<'a> {
    /// All contents so far.
    pub contents: &'a mut Contents,
    /// Names drawn so far.
    pub drawn: &'a mut u64,
}

impl Drawer<'_> {
    fn name(&mut self, prefix: &str) -> String {
        *self.drawn += 1;
        format!("{prefix}{}", self.drawn)
    }

    fn write(&mut self, volume: &str, first: u64, blocks: u64) -> Action {
        let contents = (0..blocks).map(|_| self.contents.draw()).collect();
        Action::Write { volume: volume.into(), first, contents }
    }
}

/// The volume that most letters are about.
pub const VOLUME: &str = "v";

impl Letter {
    /// What it means in `state`; `None` where it means nothing.
    pub fn parts(self, state: &State, drawer: &mut Drawer<'_>) -> Option<Vec<Part>> {
        Some(match self {
            Self::Flush => vec![Part::Act(Action::Flush)],
            Self::Commit => vec![Part::Act(Action::Commit)],
            Self::Step => vec![Part::Step],
            Self::Background => vec![Part::Background],
            Self::Reopen => vec![Part::Reopen],
            Self::PowerLoss => vec![Part::PowerLoss],
            Self::WriteOther => {
                let other = state.volumes.keys().rfind(|name| *name != VOLUME)?;
                vec![Part::Act(drawer.write(other, 0, 1))]
            }
            _ => self.parts_on(state.volumes.get(VOLUME)?, state, drawer)?,
        })
    }

    /// The letters that are about one volume.
    fn parts_on(self, volume: &Volume, state: &State, drawer: &mut Drawer<'_>) -> Option<Vec<Part>> {
        let size = volume.head.size();
        let v = || VOLUME.to_string();
        // Names ascend as points are made.
        let oldest = || volume.checkpoints().next().map(|(name, _)| name.clone());
        let newest = || volume.checkpoints().last().map(|(name, _)| name.clone());
        let action = match self {
            Self::Overwrite => drawer.write(VOLUME, 0, 1),
            Self::FillHole => drawer.write(VOLUME, size - 1, 1),
            Self::Fua => {
                let write = drawer.write(VOLUME, 0, size.min(2));
                return Some(vec![Part::Act(write), Part::Act(Action::Flush)]);
            }
            Self::Together => {
                let writes = (0..size.min(3)).map(|at| drawer.write(VOLUME, at, 1)).collect();
                return Some(vec![Part::Together(writes)]);
            }
            Self::TrimBlock => Action::Trim { volume: v(), first: 0, count: 1 },
            Self::TrimAll => Action::Trim { volume: v(), first: 0, count: size },
            Self::Checkpoint => {
                let volumes = state.volumes.keys().cloned().collect();
                Action::CreateCheckpoint { volumes, name: drawer.name("c"), time: 7 }
            }
            Self::Refpoint => Action::CreateRefpoint { volume: v(), name: drawer.name("r"), time: 8 },
            Self::Convert => {
                let name = oldest()?;
                Action::ConvertCheckpoint { volume: v(), refpoint: name.clone(), name }
            }
            Self::DeleteCheckpoint => Action::DeleteCheckpoint { volume: v(), name: newest()? },
            Self::DeleteRefpoint => {
                Action::DeleteRefpoint { volume: v(), name: volume.refpoints().next()?.clone() }
            }
            Self::Clone => {
                let name = drawer.name("k");
                let timeline = 0x7157_0000 + u128::from(*drawer.drawn);
                Action::CloneVolume { volume: v(), checkpoint: newest()?, name, timeline, time: 9 }
            }
            Self::Revert => Action::RevertVolume { volume: v(), checkpoint: oldest()? },
            Self::Grow => Action::ResizeVolume { name: v(), size: size + 1 },
            Self::Shrink if size > 1 => Action::ResizeVolume { name: v(), size: size - 1 },
            Self::DeleteVolume => Action::DeleteVolume { name: v() },
            _ => return None,
        };
        Some(vec![Part::Act(action)])
    }
}

/// All sequences of exactly `length` letters that mean something from `state` on.
pub fn sequences(state: &State, contents: &Contents, drawn: u64, length: usize) -> Vec<Vec<Letter>> {
    if length == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (letter, _) in ALPHABET {
        let (mut contents, mut drawn, mut after) = (contents.clone(), drawn, state.clone());
        let mut drawer = Drawer { contents: &mut contents, drawn: &mut drawn };
        let Some(parts) = letter.parts(state, &mut drawer) else { continue };
        for part in &parts {
            match part {
                Part::Act(action) => after.apply(action, 0),
                Part::Together(actions) => actions.iter().for_each(|action| after.apply(action, 0)),
                _ => {}
            }
        }
        for rest in sequences(&after, &contents, drawn, length - 1) {
            all.push([&[letter][..], &rest].concat());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_is_found_by_its_word() {
        for (letter, word) in ALPHABET {
            assert_eq!((letter.word(), Letter::parse(word)), (word, Some(letter)));
        }
        assert_eq!(Letter::parse("wipe"), None);
    }

    #[test]
    fn sequences_hold_only_what_means_something() {
        let nothing = State::default();
        let alone = sequences(&nothing, &Contents::default(), 0, 1);
        assert!(alone.contains(&vec![Letter::Flush]) && !alone.contains(&vec![Letter::Overwrite]));
        assert_eq!(sequences(&nothing, &Contents::default(), 0, 2).len(), alone.len() * alone.len());
    }
}
