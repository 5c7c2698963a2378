//! Which states a power loss could leave at one moment: all of them where few blocks are unflushed, a choice
//! where they are many.

use crate::disk::{DiskImage, Fate, Moment};
use crate::rng::{Rng, mix};

/// How far one moment is looked into.
#[derive(Clone, Copy, Debug)]
pub struct Breadth {
    /// Up to so many unflushed blocks, each is absent, whole and torn in every combination.
    pub torn_max: usize,
    /// Up to so many, each is absent and whole in every combination.
    pub subsets_max: usize,
    /// Random combinations beyond that.
    pub samples: usize,
}

/// All members at one moment.
pub type Moments = Vec<Moment>;

/// One power loss: what becomes of each unflushed block, member by member in the order of submission.
pub type Fates = Vec<Fate>;

const EVERY: [Fate; 3] = [Fate::Absent, Fate::Whole, Fate::Torn];

/// Unflushed blocks of all members.
pub fn unflushed(moments: &Moments) -> usize {
    moments.iter().map(Moment::unflushed).sum()
}

/// The power losses to try at one moment.
pub fn losses(moments: &Moments, breadth: &Breadth, seed: u64) -> Vec<Fates> {
    let count = unflushed(moments);
    if count <= breadth.torn_max {
        return combinations(count, &EVERY);
    }
    let mut losses = match count <= breadth.subsets_max {
        true => combinations(count, &EVERY[..2]),
        false => policies(count),
    };
    let whole = vec![Fate::Whole; count];
    losses.extend((0..count).map(|at| but_one(&whole, at, Fate::Torn)));
    let mut rng = Rng::new(mix(seed) ^ count as u64);
    losses.extend((0..breadth.samples).map(|_| {
        let survive = *rng.pick(&[10, 50, 90]);
        let mut fate = || match rng.below(100) {
            0..15 => Fate::Torn,
            other if other < 15 + survive * 85 / 100 => Fate::Whole,
            _ => Fate::Absent,
        };
        (0..count).map(|_| fate()).collect()
    }));
    losses
}

/// Every combination of these fates, in the order of counting.
fn combinations(count: usize, fates: &[Fate]) -> Vec<Fates> {
    let total = fates.len().pow(count as u32);
    let digit = |number: usize, place: usize| fates[number / fates.len().pow(place as u32) % fates.len()];
    (0..total).map(|number| (0..count).map(|place| digit(number, place)).collect()).collect()
}

/// Nothing, every prefix, everything, all but one, and one alone.
fn policies(count: usize) -> Vec<Fates> {
    let (absent, whole) = (vec![Fate::Absent; count], vec![Fate::Whole; count]);
    let prefixes = (0..=count).map(|end| [&whole[..end], &absent[end..]].concat());
    let drop_one = (0..count).map(|at| but_one(&whole, at, Fate::Absent));
    let keep_one = (0..count).map(|at| but_one(&absent, at, Fate::Whole));
    prefixes.chain(drop_one).chain(keep_one).collect()
}

fn but_one(fates: &[Fate], at: usize, fate: Fate) -> Fates {
    let mut fates = fates.to_vec();
    fates[at] = fate;
    fates
}

fn by_member<'a>(moments: &'a Moments, fates: &'a [Fate]) -> impl Iterator<Item = (&'a Moment, &'a [Fate])> {
    let mut rest = fates;
    moments.iter().map(move |moment| {
        let (own, others) = rest.split_at(moment.unflushed());
        rest = others;
        (moment, own)
    })
}

/// A digest of the disks after this power loss.
pub fn digest(moments: &Moments, fates: &[Fate]) -> u64 {
    by_member(moments, fates).fold(0, |sum, (moment, fates)| mix(sum ^ moment.digest(fates)))
}

/// The disks after this power loss.
pub fn images(moments: &Moments, fates: &[Fate]) -> Vec<DiskImage> {
    by_member(moments, fates).map(|(moment, fates)| moment.image(fates)).collect()
}

/// Fates as a replay command writes them: `-` absent, `w` whole, `t` torn; `.` where nothing was unflushed.
pub fn spell(fates: &[Fate]) -> String {
    let letter = |fate: &Fate| match fate {
        Fate::Absent => '-',
        Fate::Whole => 'w',
        Fate::Torn => 't',
    };
    if fates.is_empty() { ".".into() } else { fates.iter().map(letter).collect() }
}

/// The fates written so.
pub fn parse(text: &str) -> Option<Fates> {
    let fate = |letter| match letter {
        '-' => Some(Fate::Absent),
        'w' => Some(Fate::Whole),
        't' => Some(Fate::Torn),
        _ => None,
    };
    if text == "." { Some(Vec::new()) } else { text.chars().map(fate).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_are_all_and_differ() {
        let mut all = combinations(4, &EVERY);
        assert_eq!(all.len(), 81);
        all.sort_by_key(|fates| spell(fates));
        all.dedup();
        assert_eq!(all.len(), 81);
        assert_eq!(combinations(0, &EVERY), [Vec::new()]);
    }

    #[test]
    fn policies_include_the_extremes() {
        let policies: Vec<String> = policies(3).iter().map(|fates| spell(fates)).collect();
        for wanted in ["---", "w--", "ww-", "www", "-ww", "w-w", "-w-", "--w"] {
            assert!(policies.iter().any(|fates| fates == wanted), "{wanted} is missing");
        }
    }

    #[test]
    fn fates_are_read_as_they_are_written() {
        for fates in combinations(3, &EVERY).into_iter().chain([Vec::new()]) {
            assert_eq!(parse(&spell(&fates)), Some(fates));
        }
        assert_eq!(parse("wx"), None);
    }
}
