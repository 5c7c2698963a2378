//! What a client asked of the appliance and was told, each with how far the write log had come by then; and from
//! that, what the disks may show at any entry of the log.
//!
//! Two implications are sound, and only these are used. What had not been asked for when the log had `n` bytes
//! is not in its first `n` bytes. What was acknowledged as durable when it had `n` bytes is in them.

use crate::model::action::Action;
use crate::model::compare::KeptToken;
use crate::model::{Candidate, State};

/// A moment of the pool's history.
struct Moment {
    candidate: Candidate,
    /// Length of the log before anything of it was asked for.
    asked: u64,
    /// Length of the log once it was known that nothing earlier can come back.
    settled: Option<u64>,
    /// The opening of the pool it belongs to.
    life: usize,
}

/// Everything that happened, in the order in which it was asked for.
pub struct Chronicle {
    /// The state that all acknowledged actions have led to.
    pub state: State,
    /// Random number of the present opening.
    pub incarnation: u64,
    moments: Vec<Moment>,
    tokens: Vec<(usize, KeptToken)>,
    life: usize,
    made_at: u64,
}

impl Default for Chronicle {
    fn default() -> Self {
        let mut chronicle = Self {
            state: State::default(),
            incarnation: 0,
            moments: Vec::new(),
            tokens: Vec::new(),
            life: 0,
            made_at: 0,
        };
        chronicle.push(Vec::new(), 0, Some(0));
        chronicle
    }
}

impl Chronicle {
    /// The appliance greeted when the log had this length: there is a pool, and nothing in it.
    pub fn pool_made(&mut self, length: u64) {
        self.made_at = length;
    }

    /// Length of the log from which on there is a pool, in this life.
    pub fn made_at(&self) -> u64 {
        self.made_at
    }

    /// The pool stands at `state`, and a new log begins.
    pub fn begin_life(&mut self, state: State) {
        self.state = state;
        self.life += 1;
        self.made_at = 0;
        self.push(Vec::new(), 0, Some(0));
    }

    /// `action` was asked for at `asked` and acknowledged at `answered`.
    pub fn acknowledge(&mut self, action: &Action, asked: u64, answered: u64) {
        self.state.apply(action, self.incarnation);
        self.push(Vec::new(), asked, action.is_durable().then_some(answered));
    }

    /// Writes that run together, any of whose blocks may be there. `flushed`: the length of the log when a flush among
    /// them was acknowledged, so that what was before them cannot come back.
    pub fn under_way(&mut self, writes: &[Action], asked: u64, flushed: Option<u64>) {
        self.push(writes.to_vec(), asked, flushed);
    }

    /// All of `writes` were acknowledged, in no known order.
    pub fn acknowledge_together(&mut self, writes: &[Action], asked: u64) {
        for write in writes {
            self.state.apply(write, self.incarnation);
        }
        self.push(Vec::new(), asked, None);
    }

    /// Writes that ran together with a checkpoint: those that it holds, and those that came later.
    pub fn acknowledge_around(
        &mut self,
        held: &[Action],
        checkpoint: &Action,
        later: &[Action],
        asked: u64,
        answered: u64,
    ) {
        for action in held.iter().chain([checkpoint]) {
            self.state.apply(action, self.incarnation);
        }
        self.push(later.to_vec(), asked, Some(answered));
        self.acknowledge_together(later, asked);
    }

    /// A client keeps a token of a point that was acknowledged last.
    pub fn keep_token(&mut self, token: KeptToken) {
        self.tokens.push((self.moments.len() - 1, token));
    }

    fn push(&mut self, writes: Vec<Action>, asked: u64, settled: Option<u64>) {
        let candidate = Candidate { state: self.state.clone(), optional: self.state.optional(&writes) };
        self.moments.push(Moment { candidate, asked, settled, life: self.life });
    }

    /// The moments that the disks may show when the log has `length` bytes in the present life, and the tokens of
    /// points that are older than all of them.
    pub fn candidates(&self, length: u64) -> (Vec<Candidate>, Vec<KeptToken>) {
        let settled =
            |moment: &Moment| moment.life == self.life && moment.settled.is_some_and(|at| at <= length);
        let first = self.moments.iter().rposition(settled).expect("a life begins with a settled moment");
        let later = self.moments[first + 1..].iter().filter(|moment| moment.asked < length);
        let possible = std::iter::once(&self.moments[first]).chain(later);
        let candidates = possible.map(|moment| moment.candidate.clone()).collect();
        let tokens = self.tokens.iter().filter(|(moment, _)| *moment <= first);
        (candidates, tokens.map(|(_, token)| token.clone()).collect())
    }

    /// How many moments there are.
    pub fn len(&self) -> usize {
        self.moments.len()
    }

    /// Never: a history has a beginning.
    pub fn is_empty(&self) -> bool {
        self.moments.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(name: &str) -> Action {
        Action::CreateVolume { name: name.into(), size: 4, timeline: 1, time: 0 }
    }

    fn write(content: u64) -> Action {
        Action::Write { volume: "v".into(), first: 0, contents: vec![content] }
    }

    /// What block 0 may be at this length: `None` where the volume is not there, 0 for a hole.
    fn shown(chronicle: &Chronicle, length: u64) -> Vec<Option<u64>> {
        let (candidates, _) = chronicle.candidates(length);
        let block = |state: &State| state.volumes.get("v").map(|v| v.head.get(0).content.unwrap_or(0));
        candidates.iter().map(|candidate| block(&candidate.state)).collect()
    }

    #[test]
    fn what_was_not_asked_for_is_not_there_and_what_was_flushed_is() {
        let mut chronicle = Chronicle::default();
        chronicle.acknowledge(&create("v"), 100, 200);
        chronicle.under_way(&[write(5)], 300, None);
        chronicle.acknowledge_together(&[write(5)], 300);
        chronicle.acknowledge(&Action::Flush, 400, 500);
        assert_eq!(shown(&chronicle, 100), [None]);
        assert_eq!(shown(&chronicle, 101), [None, Some(0)]);
        assert_eq!(shown(&chronicle, 200), [Some(0)]);
        assert_eq!(shown(&chronicle, 350), [Some(0), Some(0), Some(5)]);
        assert_eq!(shown(&chronicle, 500), [Some(5)]);
    }

    #[test]
    fn a_new_life_knows_only_where_the_last_one_ended() {
        let mut chronicle = Chronicle::default();
        chronicle.acknowledge(&create("v"), 100, 200);
        let state = chronicle.state.clone();
        chronicle.acknowledge(&create("w"), 300, 400);
        chronicle.begin_life(state);
        let (candidates, _) = chronicle.candidates(1000);
        assert_eq!(candidates.len(), 1);
        assert!(!candidates[0].state.volumes.contains_key("w"));
    }
}
