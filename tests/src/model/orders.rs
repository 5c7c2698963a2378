//! What actions that run together may come to: the states after all their orders.
//!
//! Each action of a group takes effect at one instant, wholly. So once all have ended, the pool stands where
//! some order of the successful ones leads to; and after a crash in between, where some order of a part of
//! them leads to. An action that was refused must have had a reason: the others could have made it impossible.

use crate::model::action::Action;
use crate::model::{Point, State};
use std::ops::Range;

/// One action of a group, and whether its effect must be there.
pub type Member<'a> = (&'a Action, bool);

/// The states that orders of `group` lead to from `state`: each takes every action whose effect must be there,
/// and any of the others. The order in which they are given comes first.
pub fn outcomes(state: &State, group: &[Member<'_>], incarnation: u64) -> Vec<State> {
    let mut found = Vec::new();
    extend(state, group, incarnation, &mut found);
    found
}

fn extend(state: &State, left: &[Member<'_>], incarnation: u64, found: &mut Vec<State>) {
    for (at, (action, _)) in left.iter().enumerate() {
        if state.admits(action) {
            let mut next = state.clone();
            next.apply(action, incarnation);
            let rest: Vec<Member<'_>> = left[..at].iter().chain(&left[at + 1..]).copied().collect();
            extend(&next, &rest, incarnation, found);
        }
    }
    if left.iter().all(|(_, must)| !must) {
        found.push(state.clone());
    }
}

/// Whether the others of its group could have made an action impossible before it came to its turn.
pub fn may_be_refused(state: &State, action: &Action, others: &[&Action], incarnation: u64) -> bool {
    let optional: Vec<Member<'_>> = others.iter().map(|other| (*other, false)).collect();
    outcomes(state, &optional, incarnation).iter().any(|reached| !reached.admits(action))
}

/// The state after clients that each did one thing after another, while the others did theirs. They must have kept out
/// of each other's way: then all orders come to the same.
pub fn side_by_side(state: &State, clients: &[Vec<Action>], incarnation: u64) -> State {
    for (at, client) in clients.iter().enumerate() {
        for (one, other) in
            client.iter().flat_map(|one| clients[..at].iter().flatten().map(move |o| (one, o)))
        {
            assert!(!meet(one, other), "{one:?} and {other:?} have an order");
        }
    }
    let mut reached = state.clone();
    clients.iter().flatten().for_each(|action| reached.apply(action, incarnation));
    reached
}

/// Whether it may matter which of two actions comes first.
fn meet(one: &Action, other: &Action) -> bool {
    match (reach(one), reach(other)) {
        (Reach::Nothing, _) | (_, Reach::Nothing) => false,
        (Reach::Blocks(v, a), Reach::Blocks(w, b)) => v == w && a.start < b.end && b.start < a.end,
        (Reach::Point(v, a), Reach::Point(w, b)) => v == w && a == b,
        (Reach::Blocks(..), Reach::Point(..)) | (Reach::Point(..), Reach::Blocks(..)) => false,
        (Reach::All, _) | (_, Reach::All) => true,
    }
}

/// What the effect of an action depends on, and what depends on it.
enum Reach<'a> {
    Nothing,
    /// Blocks of a live volume.
    Blocks(&'a str, Range<u64>),
    /// A point that is there, and goes.
    Point(&'a str, &'a str),
    All,
}

fn reach(action: &Action) -> Reach<'_> {
    match action {
        Action::Write { volume, first, contents } => {
            Reach::Blocks(volume, *first..*first + contents.len() as u64)
        }
        Action::WritePartial { volume, block, .. } => Reach::Blocks(volume, *block..*block + 1),
        Action::Trim { volume, first, count } => Reach::Blocks(volume, *first..*first + *count),
        Action::DeleteCheckpoint { volume, name } | Action::DeleteRefpoint { volume, name } => {
            Reach::Point(volume, name)
        }
        Action::ConvertCheckpoint { volume, name, refpoint } if name == refpoint => {
            Reach::Point(volume, name)
        }
        Action::Flush | Action::Commit => Reach::Nothing,
        _ => Reach::All,
    }
}

impl State {
    /// Whether an action is possible.
    pub fn admits(&self, action: &Action) -> bool {
        let has = |volume: &String| self.volumes.contains_key(volume);
        let checkpoint = |v: &String, c: &String| self.point_of(v, c).is_some_and(|p| p.image.is_some());
        let refpoint = |v: &String, r: &String| self.point_of(v, r).is_some_and(|p| p.image.is_none());
        let vacant = |v: &String, name: &String| has(v) && self.point_of(v, name).is_none();
        let within =
            |v: &String, end: u64| self.volumes.get(v).is_some_and(|volume| end <= volume.head.size());
        match action {
            Action::CreateVolume { name, .. } => !has(name),
            Action::DeleteVolume { name } | Action::ResizeVolume { name, .. } => has(name),
            Action::RenameVolume { name, new_name } => has(name) && !has(new_name),
            Action::CloneVolume { volume, checkpoint: c, name, .. } => checkpoint(volume, c) && !has(name),
            Action::RevertVolume { volume, checkpoint: c } => checkpoint(volume, c),
            Action::CreateCheckpoint { volumes, name, .. } => {
                volumes.iter().all(|volume| vacant(volume, name))
            }
            Action::DeleteCheckpoint { volume, name } => checkpoint(volume, name),
            Action::ConvertCheckpoint { volume, name, refpoint: new } => {
                checkpoint(volume, name) && (name == new || vacant(volume, new))
            }
            Action::CreateRefpoint { volume, name, .. } => vacant(volume, name),
            Action::DeleteRefpoint { volume, name } => refpoint(volume, name),
            Action::Write { volume, first, contents } => within(volume, first + contents.len() as u64),
            Action::WritePartial { volume, block, .. } => within(volume, block + 1),
            Action::Trim { volume, first, count } => within(volume, first + count),
            Action::Suspend { volume } | Action::Resume { volume } => has(volume),
            Action::Flush | Action::Commit => true,
        }
    }

    fn point_of(&self, volume: &str, name: &str) -> Option<&Point> {
        self.volumes.get(volume)?.points.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(content: u64) -> Action {
        Action::Write { volume: "v".into(), first: 0, contents: vec![content] }
    }

    fn checkpoint() -> Action {
        Action::CreateCheckpoint { volumes: vec!["v".into()], name: "c".into(), time: 1 }
    }

    fn revert() -> Action {
        Action::RevertVolume { volume: "v".into(), checkpoint: "c".into() }
    }

    fn one_volume() -> State {
        let mut state = State::default();
        state.apply(&Action::CreateVolume { name: "v".into(), size: 4, timeline: 7, time: 1 }, 1);
        state
    }

    #[test]
    fn every_order_of_what_must_be_there_and_no_other() {
        let (a, b) = (write(1), write(2));
        let ends = |group: &[Member<'_>]| {
            let states = outcomes(&one_volume(), group, 1);
            states.iter().map(|state| state.volumes["v"].head.get(0).content).collect::<Vec<_>>()
        };
        assert_eq!(ends(&[(&a, true), (&b, true)]), [Some(2), Some(1)]);
        assert_eq!(ends(&[(&a, true), (&b, false)]), [Some(2), Some(1), Some(1)]);
        assert_eq!(ends(&[(&a, false)]), [Some(1), None]);
    }

    #[test]
    fn clients_apart_come_to_one_state() {
        let mut state = one_volume();
        state.apply(&checkpoint(), 1);
        let at = |first, content| Action::Write { volume: "v".into(), first, contents: vec![content] };
        let delete = Action::DeleteCheckpoint { volume: "v".into(), name: "c".into() };
        let clients = [vec![at(0, 1), at(0, 2)], vec![Action::Flush, at(1, 3)], vec![delete.clone()]];
        let reached = side_by_side(&state, &clients, 1);
        let orders = clients.iter().flatten().map(|action| (action, true)).collect::<Vec<_>>();
        let all = outcomes(&state, &orders, 1);
        assert!(all.contains(&reached) && reached.volumes["v"].head.get(0).content == Some(2));
        assert!(!meet(&at(0, 1), &delete) && meet(&at(0, 1), &checkpoint()) && meet(&at(0, 1), &at(0, 2)));
    }

    #[test]
    #[should_panic(expected = "have an order")]
    fn clients_in_each_others_way_have_no_one_state() {
        side_by_side(&one_volume(), &[vec![write(1)], vec![write(2)]], 1);
    }

    #[test]
    fn impossible_orders_are_left_out_and_give_a_reason_to_refuse() {
        let mut state = one_volume();
        let (checkpoint, revert) = (checkpoint(), revert());
        assert_eq!(outcomes(&state, &[(&revert, true), (&checkpoint, true)], 1).len(), 1);
        state.apply(&checkpoint, 1);
        let delete = Action::DeleteCheckpoint { volume: "v".into(), name: "c".into() };
        assert!(may_be_refused(&state, &revert, &[&delete], 1));
        assert!(!may_be_refused(&state, &revert, &[&write(1)], 1));
    }
}
