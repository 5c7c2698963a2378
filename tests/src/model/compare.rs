//! Holds what the store shows against what the model knows.
//!
//! Contents must be equal. The store's change ids must be ordered as the model's ticks are, among themselves and
//! against every point and every token that a client kept; their values are the store's own business.

use crate::model::blockmap::BlockMap;
use crate::model::observe::{PoolView, VolumeView};
use crate::model::{Mark, State, Volume};
use datum_store::Token;
use std::collections::BTreeMap;

/// A token that a client keeps, and what it means.
pub type KeptToken = (Token, Mark);

/// What differs, if anything.
pub type Verdict = Result<(), String>;

macro_rules! same {
    ($shown:expr, $known:expr, $($what:tt)*) => {{
        let (shown, known) = (&$shown, &$known);
        if shown != known {
            return Err(format!("{}: the store shows {shown:?}, the model knows {known:?}", format!($($what)*)));
        }
    }};
}

/// Compares a whole pool.
pub fn compare(view: &PoolView, state: &State, tokens: &[KeptToken]) -> Verdict {
    let names: Vec<&String> = view.keys().collect();
    same!(names, state.volumes.keys().collect::<Vec<_>>(), "volumes");
    for (name, volume) in &state.volumes {
        compare_volume(&view[name], volume, tokens).map_err(|what| format!("volume {name}: {what}"))?;
    }
    Ok(())
}

fn compare_volume(view: &VolumeView, volume: &Volume, tokens: &[KeptToken]) -> Verdict {
    let info = &view.info;
    same!(info.timeline.0, volume.timeline, "timeline");
    same!(info.size, volume.head.size() * 4096, "size");
    same!(info.created, volume.created, "creation time");
    same!(info.suspended, volume.suspended, "suspension");
    let origin = info.origin.as_ref().map(|(v, c)| (v.as_str().to_string(), c.as_str().to_string()));
    same!(origin, volume.origin, "origin");
    compare_contents(&view.head, &volume.head)?;
    // What a large trim cut off leaves the count as its release proceeds; `World::quiesce` wants it exact.
    let reached = volume.head.data_blocks() * 4096;
    if info.allocated_bytes < reached {
        return Err(format!("{} allocated bytes are shown, {reached} are reached", info.allocated_bytes));
    }
    compare_points(view, volume)?;
    compare_clocks(view, volume, tokens)
}

fn compare_contents(shown: &BlockMap, known: &BlockMap) -> Verdict {
    same!(shown.size(), known.size(), "size in blocks");
    for (run, cell) in shown.segments(known) {
        same!(
            run.cell.content,
            cell.content,
            "contents of {} blocks from {} (tick {})",
            run.blocks,
            run.first,
            cell.change
        );
    }
    Ok(())
}

fn compare_points(view: &VolumeView, volume: &Volume) -> Verdict {
    let checkpoints: Vec<&String> = view.checkpoints.keys().collect();
    same!(checkpoints, volume.checkpoints().map(|(name, _)| name).collect::<Vec<_>>(), "checkpoints");
    let refpoints: Vec<&String> = view.refpoints.keys().collect();
    same!(refpoints, volume.refpoints().collect::<Vec<_>>(), "reference points");
    for (name, image) in volume.checkpoints() {
        let (info, map) = &view.checkpoints[name];
        compare_contents(map, image).map_err(|what| format!("checkpoint {name}: {what}"))?;
        same!(info.created, volume.points[name].created, "creation time of {name}");
    }
    for (name, info) in &view.refpoints {
        let point = &volume.points[name];
        same!(info.timeline.0, volume.timeline, "timeline of {name}");
        same!(info.created, point.created, "creation time of {name}");
        same!(info.incarnation, point.incarnation, "incarnation of {name}");
    }
    Ok(())
}

/// Lowest and highest change id seen for each tick.
type Ranges = BTreeMap<u64, (u64, u64)>;

fn note(ranges: &mut Ranges, shown: &BlockMap, known: &BlockMap) {
    for (run, cell) in shown.segments(known) {
        let id = run.cell.change;
        let range = ranges.entry(cell.change).or_insert((id, id));
        *range = (range.0.min(id), range.1.max(id));
    }
}

fn compare_clocks(view: &VolumeView, volume: &Volume, tokens: &[KeptToken]) -> Verdict {
    let mut points: Vec<(u64, u64, String)> = Vec::new();
    for (name, point) in &volume.points {
        let shown = match view.refpoints.get(name) {
            Some(info) => info.change.0,
            None => view.checkpoints[name].0.change.0,
        };
        points.push((point.at, shown, name.clone()));
    }
    for (token, mark) in
        tokens.iter().filter(|(_, mark)| volume.applies(mark, None) == crate::model::Applies::Yes)
    {
        points.push((mark.at, token.change.0, format!("token {token:?}")));
    }
    points.sort();
    for pair in points.windows(2) {
        let ((at, id, name), (later, later_id, later_name)) = (&pair[0], &pair[1]);
        if at.cmp(later) != id.cmp(later_id) {
            return Err(format!(
                "points {name} and {later_name} were made at ticks {at} and {later}, and have ids {id} and {later_id}"
            ));
        }
    }
    let mut all = Ranges::new();
    for (name, image) in volume.checkpoints() {
        let mut ranges = Ranges::new();
        note(&mut ranges, &view.checkpoints[name].1, image);
        note(&mut all, &view.checkpoints[name].1, image);
        let until = volume.points[name].at;
        let earlier = points.iter().filter(|(at, ..)| *at <= until);
        ordered(&ranges, earlier).map_err(|what| format!("checkpoint {name}: {what}"))?;
    }
    let mut ranges = Ranges::new();
    note(&mut ranges, &view.head, &volume.head);
    note(&mut all, &view.head, &volume.head);
    ordered(&ranges, points.iter())?;
    let newest = all.values().map(|range| range.1).max().unwrap_or(0);
    if newest > view.info.change.0 {
        return Err(format!("a block carries change id {newest}, the volume is at {}", view.info.change));
    }
    let disordered = all.values().zip(all.values().skip(1)).find(|(earlier, later)| earlier.1 >= later.0);
    match disordered {
        Some(pair) => Err(format!("change ids are not ordered as the changes were: {pair:?} in {all:?}")),
        None => Ok(()),
    }
}

/// A block is newer than a point by its change id exactly if it changed after it.
fn ordered<'a>(ranges: &Ranges, points: impl Iterator<Item = &'a (u64, u64, String)>) -> Verdict {
    for (at, id, name) in points {
        for (tick, (low, high)) in ranges {
            let right = if tick > at { low > id } else { high <= id };
            if !right {
                return Err(format!(
                    "change ids {low} to {high} were given at tick {tick}, point {name} has id {id} at tick {at}"
                ));
            }
        }
    }
    Ok(())
}
