//! What happens in a run, drawn from its seed before anything does: the pool's members, the lives of the machine, what
//! the disks do to each, the clients' steps with their numbers, and how it ends.

use super::faults::{Fault, Faults, HONEST, LYING};
use super::machine::Parts;
use crate::disk::fault::{Effect, Request, Rule};
use crate::rng::Rng;
use crate::store::world::Ending;
use datum_service::Takeover;
use std::collections::BTreeSet;

/// Lives of a pool in one run.
const LIVES: usize = 4;
/// NBD clients of a life.
pub(super) const NBD_CLIENTS: usize = 3;
/// Control clients of a life.
const CONTROL_CLIENTS: usize = 2;
/// Steps of one client's script.
const SCRIPT_STEPS: usize = 40;
/// Executor steps within which scripts must be done.
pub(super) const LIFE_STEPS: u64 = 40_000_000;
/// Members of a pool that clients fill, and of one that takes its place where that is not wanted.
const SMALL: &[u64] = &[4096];
const LARGE: &[u64] = &[16384];

/// What disks do to the appliance for a while.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    None,
    /// Members behave by rules.
    Rules(Vec<(Fault, usize, Rule)>),
    /// One member is that of an earlier life.
    Stale(usize),
    /// One member is gone, and returns.
    Gone(usize),
}

/// One life of the machine.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) seed: u64,
    pub(super) takeover: Takeover,
    /// Ends of the machine before anything was looked at: after so many steps.
    pub(super) false_starts: Vec<(u64, Ending)>,
    pub(super) trouble: Trouble,
    /// Steps by client: those of NBD first.
    pub(super) scripts: Vec<Vec<(usize, u64)>>,
    pub(super) ending: Ending,
    /// Executor steps after which the machine ends at the latest.
    pub(super) steps: u64,
    /// The first control client switches it off before.
    pub(super) shutdown: bool,
}

/// A whole run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) members: Vec<u64>,
    pub(super) parts: Parts,
    pub(super) lives: Vec<Life>,
    pub(super) steps: usize,
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5e7_1ce);
        let members = match rng.below(12) {
            0..5 => LARGE.to_vec(),
            5..8 => vec![8192, 8192],
            8..11 => vec![4096, 16384, 4097],
            _ => SMALL.to_vec(),
        };
        let parts = Parts {
            cache_blocks: *rng.pick(&[256, 1024, 8192]),
            buffer_bytes: *rng.pick(&[0, 1 << 20, 8 << 20]),
            takeover: Takeover::Now,
        };
        let mut steps = 0;
        let lives = (0..LIVES).map(|number| Life::new(&mut rng, number, members.len(), &mut steps)).collect();
        Self { seed, members, parts, lives, steps }
    }

    /// The plan with some classes of faults only.
    pub(super) fn only(self, faults: Faults) -> Self {
        let mut plan = self;
        if plan.members == SMALL && !faults.has(Fault::Full) {
            plan.members = LARGE.to_vec();
        }
        for trouble in plan.lives.iter_mut().map(|life| &mut life.trouble) {
            if let Trouble::Rules(rules) = trouble {
                rules.retain(|(fault, ..)| faults.has(*fault));
            }
            let stays = match trouble {
                Trouble::None => true,
                Trouble::Rules(rules) => !rules.is_empty(),
                Trouble::Stale(_) => faults.has(Fault::Stale),
                Trouble::Gone(_) => faults.has(Fault::Gone),
            };
            if !stays {
                *trouble = Trouble::None;
            }
        }
        plan
    }

    /// The plan with some of its steps only.
    pub(super) fn with(&self, kept: &BTreeSet<usize>) -> Self {
        let mut plan = self.clone();
        for script in plan.lives.iter_mut().flat_map(|life| &mut life.scripts) {
            script.retain(|(number, _)| kept.contains(number));
        }
        // Lives at the end in which nothing happens show nothing, but for the one that looks at the rest.
        while let [.., last, _] = &plan.lives[..]
            && last.scripts.iter().all(Vec::is_empty)
            && matches!(last.trouble, Trouble::None)
        {
            let last = plan.lives.len() - 2;
            plan.lives.remove(last);
        }
        plan
    }
}

impl Life {
    fn new(rng: &mut Rng, number: usize, members: usize, steps: &mut usize) -> Self {
        let last = number + 1 == LIVES;
        let trouble = match rng.below(100) {
            _ if last => Trouble::None,
            0..60 => Trouble::None,
            60..88 => Trouble::Rules(rules(rng, members, HONEST)),
            88..94 => Trouble::Rules(rules(rng, members, LYING)),
            94..97 if number > 0 => Trouble::Stale(rng.below(members as u64) as usize),
            _ if number > 0 => Trouble::Gone(rng.below(members as u64) as usize),
            _ => Trouble::None,
        };
        let length = if last { 0 } else { *rng.pick(&[4, 20, SCRIPT_STEPS, 2 * SCRIPT_STEPS]) };
        let scripts = (0..NBD_CLIENTS + CONTROL_CLIENTS).map(|client| {
            let length = if client < NBD_CLIENTS { 3 * length } else { length };
            let script = (0..length).map(|_| {
                *steps += 1;
                (*steps, rng.draw())
            });
            script.collect()
        });
        let scripts: Vec<Vec<(usize, u64)>> = scripts.collect();
        let depth = *rng.pick(&[0, 0, 0, 1, 2]);
        let false_starts = (0..depth).map(|_| (rng.below(3000), Ending::pick(rng))).collect();
        Self {
            seed: rng.draw(),
            takeover: if rng.chance(20) { Takeover::Wait } else { Takeover::Now },
            false_starts: if number == 0 { Vec::new() } else { false_starts },
            trouble,
            scripts,
            ending: Ending::pick(rng),
            steps: match rng.below(3) {
                0 => LIFE_STEPS,
                1 => rng.below(20_000),
                _ => rng.below(400_000),
            },
            shutdown: rng.chance(15),
        }
    }
}

/// One to three rules: once, for a while, for good, or at one place.
fn rules(rng: &mut Rng, members: usize, effects: &[(Fault, Request, Effect)]) -> Vec<(Fault, usize, Rule)> {
    let count = rng.between(1, 3);
    let rule = |rng: &mut Rng| {
        let (fault, on, effect) = *rng.pick(effects);
        let rule = Rule::once(on).with(effect).after(rng.below(60));
        let rule = match rng.below(4) {
            _ if fault == Fault::Vanish => Rule { times: rng.between(10, 300), ..rule },
            0 => Rule { times: u64::MAX, ..rule },
            1 => Rule { times: rng.between(2, 9), ..rule },
            2 if on != Request::Flush => rule.sticking(),
            _ => rule,
        };
        (fault, rng.below(members as u64) as usize, rule)
    };
    (0..count).map(|_| rule(rng)).collect()
}
