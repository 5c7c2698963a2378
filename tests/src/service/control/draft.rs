//! What a control client asks for next, drawn from what is known; what must be there for it to succeed, and what to make of
//! the answer.

use crate::rng::Rng;
use crate::service::block::BLOCK;
use crate::service::judge::Judge;
use crate::service::log::{OpId, Span};
use crate::service::volume::{Image, Place, PointId, VolumeId};
use serde_json::{Value, json};

/// What must be there, or not, for a command to succeed.
#[derive(Clone, Debug)]
pub(super) enum Need {
    Volume(String),
    NoVolume(String),
    Checkpoint(String, String),
    Refpoint(String, String),
    /// Either of them.
    Point(String, String),
    NoPoint(String, String),
    /// No client, clone or revert may have it.
    Idle(VolumeId),
    /// No revert may be at it.
    Still(VolumeId),
}

/// What to make of an answer, beside its success.
#[derive(Clone, Debug)]
pub(super) enum Then {
    Nothing,
    /// The effect comes with the end of a job.
    Revert,
    /// A job whose report must be clean.
    Check,
    Token(VolumeId, usize),
    Changes(Place, usize, u64),
    Holes(Place, u64),
    /// Whether the list begins at its beginning.
    Volumes(bool),
    /// Of a volume, its checkpoints or its reference points.
    Points(String, bool),
    Size(VolumeId),
    /// Any end of it is fine.
    Job(OpId, Kind),
    Shutdown,
}

/// What a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Revert,
    Check,
    Release,
}

/// A request to be sent.
pub(super) struct Draft {
    pub(super) method: &'static str,
    pub(super) params: Value,
    pub(super) needs: Vec<Need>,
    pub(super) then: Then,
}

impl Draft {
    pub(super) fn new(method: &'static str, params: Value) -> Self {
        Self { method, params, needs: Vec::new(), then: Then::Nothing }
    }

    pub(super) fn needs(self, needs: impl Into<Vec<Need>>) -> Self {
        Self { needs: needs.into(), ..self }
    }

    pub(super) fn then(self, then: Then) -> Self {
        Self { then, ..self }
    }
}

impl Need {
    /// Whether a success shows that it may have been so.
    pub(super) fn may_hold(&self, judge: &Judge, span: Span) -> bool {
        match self {
            Self::Volume(name) => judge.name_there(name, span).may,
            Self::NoVolume(name) => !judge.name_there(name, span).must,
            Self::Checkpoint(volume, name) => judge.point_there(volume, name, Some(true), span).may,
            Self::Refpoint(volume, name) => judge.point_there(volume, name, Some(false), span).may,
            Self::Point(volume, name) => judge.point_there(volume, name, None, span).may,
            Self::NoPoint(volume, name) => !judge.point_there(volume, name, None, span).must,
            Self::Idle(_) | Self::Still(_) => true,
        }
    }

    /// Whether it must have been so, which leaves a refusal without reason.
    pub(super) fn must_hold(&self, judge: &Judge, span: Span) -> bool {
        match self {
            Self::Volume(name) => judge.name_there(name, span).must,
            Self::NoVolume(name) => !judge.name_there(name, span).may,
            Self::Checkpoint(volume, name) => judge.point_there(volume, name, Some(true), span).must,
            Self::Refpoint(volume, name) => judge.point_there(volume, name, Some(false), span).must,
            Self::Point(volume, name) => judge.point_there(volume, name, None, span).must,
            Self::NoPoint(volume, name) => {
                judge.name_there(volume, span).must && !judge.point_there(volume, name, None, span).may
            }
            Self::Idle(volume) => !judge.volumes[*volume].busy && !judge.volumes[*volume].cloned,
            Self::Still(volume) => !judge.volumes[*volume].reverted,
        }
    }
}

/// Whether nobody ever renames or deletes a volume, so that its name stays taken.
fn stays(volume: VolumeId) -> bool {
    volume.is_multiple_of(3)
}

/// Draws a command. `first` may also suspend.
pub(super) fn draft(judge: &mut Judge, rng: &mut Rng, first: bool) -> Option<Draft> {
    let likely = judge.likely();
    let force = rng.chance(50);
    if likely.len() < 2 || (likely.len() < 4 && rng.chance(8)) {
        let name = judge.fresh("v");
        let blocks = match rng.below(8) {
            0 => rng.between(100, 300),
            1 => 1,
            _ if judge.is_small() => rng.between(600, 2400),
            _ => rng.between(2, 24),
        };
        let draft = Draft::new("volume.create", json!({ "name": name, "size": blocks * BLOCK as u64 }));
        return Some(draft.needs([Need::NoVolume(name)]));
    }
    let volume = *rng.pick(&likely);
    let name = judge.volumes[volume].name(&judge.log)?.to_owned();
    let exists = Need::Volume(name.clone());
    let point = |rng: &mut Rng, checkpoints: bool| -> Option<(PointId, String)> {
        let points = judge.likely_points(volume, checkpoints);
        let point = (!points.is_empty()).then(|| *rng.pick(&points))?;
        Some((point, judge.volumes[volume].points[point].name.clone()))
    };
    let checkpoint = point(rng, true);
    let refpoint = point(rng, false);
    let points = judge.volumes[volume].points.iter().filter(|p| !judge.log.op(p.life.born).void).count();
    let known =
        |point: PointId| judge.volumes[volume].points[point].image.as_ref().is_some_and(Image::is_known);
    let has_checkpoint = |(_, point): &(PointId, String)| Need::Checkpoint(name.clone(), point.clone());
    let has_refpoint = |(_, point): &(PointId, String)| Need::Refpoint(name.clone(), point.clone());
    Some(match rng.below(40) {
        0 => Draft::new("system.info", json!({})),
        1 => Draft::new("system.metrics", json!({})),
        2 => Draft::new("device.list", json!({ "limit": 1 })),
        3 => Draft::new("pool.status", json!({})),
        4 => Draft::new("pool.create", json!({ "devices": ["vd0"] })).needs([Need::NoVolume(name)]),
        5 => Draft::new(if force { "pool.check" } else { "pool.scrub" }, json!({})).then(Then::Check),
        6 => {
            let limit = rng.between(1, 5);
            let (after, needs) = if force { (json!(name), vec![exists]) } else { (Value::Null, Vec::new()) };
            let then = Then::Volumes(after.is_null());
            Draft::new("volume.list", json!({ "after": after, "limit": limit })).needs(needs).then(then)
        }
        7 => Draft::new("volume.show", json!({ "name": name })).needs([exists]).then(Then::Size(volume)),
        8 if judge.is_steady(volume) => {
            let size = judge.likely_size(Place { volume, checkpoint: None });
            let size = (size + rng.below(6)).saturating_sub(3).max(1);
            let params = json!({ "name": name, "size": size * BLOCK as u64, "force": force });
            let idle = if force { Need::Still(volume) } else { Need::Idle(volume) };
            let needs = [exists, idle];
            Draft::new("volume.resize", params).needs(needs)
        }
        9 if rng.chance(60) && !stays(volume) && !judge.volumes[volume].suspended => {
            judge.volumes[volume].renamed = true;
            let new = judge.fresh("v");
            let needs = [exists, Need::NoVolume(new.clone()), Need::Still(volume)];
            Draft::new("volume.rename", json!({ "name": name, "new_name": new })).needs(needs)
        }
        10 if likely.len() > 2 && !stays(volume) => {
            let needs = [exists, Need::Idle(volume)];
            Draft::new("volume.delete", json!({ "name": name, "force": force })).needs(needs)
        }
        11 if likely.len() < 5 => {
            let checkpoint = checkpoint.filter(|(id, _)| known(*id))?;
            let needs = [exists, has_checkpoint(&checkpoint), Need::Still(volume)];
            let new = judge.fresh("v");
            let params = json!({ "volume": name, "checkpoint": checkpoint.1, "name": new });
            let needs = [&needs[..], &[Need::NoVolume(new)]].concat();
            Draft::new("volume.clone", params).needs(needs)
        }
        12 | 13 if judge.is_steady(volume) => {
            let checkpoint = checkpoint.filter(|(id, _)| known(*id))?;
            let params = json!({ "volume": name, "checkpoint": checkpoint.1, "force": force });
            let needs = [exists, has_checkpoint(&checkpoint), Need::Idle(volume)];
            Draft::new("volume.revert", params).needs(needs).then(Then::Revert)
        }
        14 if first && !judge.volumes[volume].renamed => {
            judge.volumes[volume].suspended = true;
            Draft::new("volume.suspend", json!({ "volume": name })).needs([exists])
        }
        15 => Draft::new("volume.resume", json!({ "volume": name })).needs([exists]),
        16..20 if points < 7 => {
            let new = judge.fresh("c");
            let mut volumes = vec![name];
            if rng.chance(40) {
                volumes = likely
                    .iter()
                    .filter_map(|id| judge.volumes[*id].name(&judge.log))
                    .map(Into::into)
                    .collect();
            }
            let mut needs: Vec<Need> = volumes.iter().cloned().map(Need::Volume).collect();
            needs.extend(volumes.iter().map(|volume| Need::NoPoint(volume.clone(), new.clone())));
            needs.extend(likely.iter().copied().map(Need::Still));
            Draft::new("checkpoint.create", json!({ "volumes": volumes, "name": new })).needs(needs)
        }
        20 => {
            let then = Then::Points(name.clone(), true);
            Draft::new("checkpoint.list", json!({ "volume": name })).needs([exists]).then(then)
        }
        21 => {
            let checkpoint = checkpoint?;
            let params = json!({ "volume": name, "name": checkpoint.1 });
            Draft::new("checkpoint.show", params).needs([exists, has_checkpoint(&checkpoint)])
        }
        22 => {
            let checkpoint = checkpoint?;
            let params = json!({ "volume": name, "name": checkpoint.1 });
            let needs = [exists, has_checkpoint(&checkpoint), Need::Idle(volume)];
            Draft::new("checkpoint.delete", params).needs(needs)
        }
        23 | 24 => {
            let checkpoint = checkpoint?;
            let new = if force { judge.fresh("r") } else { checkpoint.1.clone() };
            let mut needs = vec![exists, has_checkpoint(&checkpoint), Need::Idle(volume)];
            if force {
                needs.push(Need::NoPoint(name.clone(), new.clone()));
            }
            let params = json!({ "volume": name, "name": checkpoint.1, "refpoint": new });
            Draft::new("checkpoint.convert", params).needs(needs)
        }
        25 | 26 if points < 9 => {
            let new = judge.fresh("r");
            let needs = [exists, Need::NoPoint(name.clone(), new.clone()), Need::Still(volume)];
            Draft::new("refpoint.create", json!({ "volume": name, "name": new })).needs(needs)
        }
        27 => {
            let then = Then::Points(name.clone(), false);
            Draft::new("refpoint.list", json!({ "volume": name })).needs([exists]).then(then)
        }
        28 => {
            let refpoint = refpoint?;
            let params = json!({ "volume": name, "name": refpoint.1 });
            Draft::new("refpoint.show", params).needs([exists, has_refpoint(&refpoint)])
        }
        29 => {
            let refpoint = refpoint?;
            let params = json!({ "volume": name, "name": refpoint.1 });
            Draft::new("refpoint.delete", params).needs([exists, has_refpoint(&refpoint)])
        }
        30 => {
            let refpoint = refpoint?;
            let mark = judge.volumes[volume].points[refpoint.0].mark;
            let params = json!({ "volume": name, "name": refpoint.1 });
            let needs = [exists, has_refpoint(&refpoint)];
            Draft::new("refpoint.token", params).needs(needs).then(Then::Token(volume, mark))
        }
        31..34 => {
            let until = checkpoint.clone().filter(|_| rng.chance(40));
            let tokens: Vec<(usize, String)> = judge.volumes[volume]
                .marks
                .iter()
                .enumerate()
                .flat_map(|(mark, known)| known.tokens.iter().map(move |token| (mark, token.clone())))
                .collect();
            let (mark, since, mut needs) = if !tokens.is_empty() && rng.chance(30) {
                let (mark, token) = rng.pick(&tokens).clone();
                (mark, token, vec![exists])
            } else {
                let since = match (refpoint, point(rng, true)) {
                    (Some(refpoint), _) if rng.chance(60) => refpoint,
                    (_, Some(checkpoint)) => checkpoint,
                    _ => return None,
                };
                let need = Need::Point(name.clone(), since.1.clone());
                (judge.volumes[volume].points[since.0].mark, since.1, vec![exists, need])
            };
            needs.extend(until.iter().map(has_checkpoint));
            let place = Place { volume, checkpoint: until.as_ref().map(|until| until.0) };
            let first = rng.below(judge.likely_size(place));
            let params = json!({
                "volume": name,
                "since": since,
                "until": until.map(|until| until.1),
                "offset": first * BLOCK as u64,
                "limit": rng.between(1, 6),
            });
            Draft::new("changes.query", params).needs(needs).then(Then::Changes(place, mark, first))
        }
        34 => {
            let params = json!({ "volume": name, "offset": 0, "limit": 9 });
            let place = Place { volume, checkpoint: None };
            Draft::new("allocated.query", params).needs([exists]).then(Then::Holes(place, 0))
        }
        35 => Draft::new("job.list", json!({})),
        36 => Draft::new("job.cancel", json!({ "job": "17" })),
        37 => Draft::new("event.subscribe", json!({})),
        38 => Draft::new("session.list", json!({ "limit": 3 })),
        _ => {
            // A name that is certainly taken.
            let now = judge.log.now();
            if !judge.name_there(&name, Span { from: now, to: now }).must || !stays(volume) {
                return None;
            }
            let blocks = rng.between(1, 4);
            let params = json!({ "name": name, "size": blocks * BLOCK as u64 });
            Draft::new("volume.create", params).needs([Need::NoVolume(name)])
        }
    })
}
