//! The model itself, on the stories whose answers are plain.

use super::*;

fn state(size: u64) -> State {
    let mut state = State::default();
    state.apply(&Action::CreateVolume { name: "v".into(), size, timeline: 1, time: 0 }, 1);
    state
}

fn write(state: &mut State, first: u64, content: u64) {
    state.apply(&Action::Write { volume: "v".into(), first, contents: vec![content] }, 1);
}

fn trim(state: &mut State, first: u64, count: u64) {
    state.apply(&Action::Trim { volume: "v".into(), first, count }, 1);
}

fn checkpoint(state: &mut State, name: &str) {
    state.apply(&Action::CreateCheckpoint { volumes: vec!["v".into()], name: name.into(), time: 0 }, 1);
}

fn revert(state: &mut State, name: &str) {
    state.apply(&Action::RevertVolume { volume: "v".into(), checkpoint: name.into() }, 1);
}

fn changed_since(state: &State, name: &str) -> Vec<u64> {
    let volume = &state.volumes["v"];
    let at = volume.points[name].at;
    (0..volume.head.size()).filter(|block| volume.head.get(*block).change > at).collect()
}

#[test]
fn a_revert_counts_what_it_changes_and_keeps_what_was_counted() {
    let mut state = state(4);
    write(&mut state, 0, 10);
    checkpoint(&mut state, "c");
    assert_eq!(changed_since(&state, "c"), [0u64; 0]);
    write(&mut state, 0, 11);
    trim(&mut state, 1, 1);
    revert(&mut state, "c");
    assert_eq!(changed_since(&state, "c"), [0, 1]);
    assert_eq!(state.volumes["v"].head.get(0).content, Some(10));
}

#[test]
fn growth_and_a_revert_over_a_shrink_count_as_trims() {
    let mut state = state(4);
    checkpoint(&mut state, "c");
    state.apply(&Action::ResizeVolume { name: "v".into(), size: 2 }, 1);
    revert(&mut state, "c");
    assert_eq!(changed_since(&state, "c"), [2, 3]);
    checkpoint(&mut state, "d");
    state.apply(&Action::ResizeVolume { name: "v".into(), size: 6 }, 1);
    assert_eq!(changed_since(&state, "d"), [4, 5]);
}

#[test]
fn an_acknowledged_flush_leaves_one_candidate() {
    let mut model = Model::default();
    model.record();
    let create = Action::CreateVolume { name: "v".into(), size: 4, timeline: 1, time: 0 };
    model.acknowledge(&create, 1);
    let write = |content| Action::Write { volume: "v".into(), first: 0, contents: vec![content] };
    model.acknowledge(&write(1), 1);
    model.acknowledge(&write(2), 1);
    assert_eq!(model.candidates(&[], 1).len(), 4, "the durable state, two writes, and now");
    model.acknowledge(&Action::Flush, 1);
    assert_eq!(model.candidates(&[], 1).len(), 2);
}

#[test]
fn marks_apply_up_to_the_fork_and_not_beyond() {
    let mut state = state(4);
    checkpoint(&mut state, "c");
    let clone = Action::CloneVolume {
        volume: "v".into(),
        checkpoint: "c".into(),
        name: "w".into(),
        timeline: 2,
        time: 0,
    };
    state.apply(&clone, 1);
    let mark = |timeline, at| Mark { timeline, at };
    let clone = &state.volumes["w"];
    assert_eq!(clone.applies(&mark(1, 1), None), Applies::Yes);
    assert_eq!(clone.applies(&mark(1, 2), None), Applies::BeyondFork);
    assert_eq!(clone.applies(&mark(3, 1), None), Applies::Foreign);
    assert_eq!(state.volumes["v"].applies(&mark(1, 2), Some(1)), Applies::Newer);
}
