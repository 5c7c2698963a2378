//! An NBD client that follows a script: it opens exports, keeps requests of all kinds under way, and leaves in the
//! middle of them.
//!
//! A step of a script is a number that draws what is done, from what the judge knows at that time. So any step can
//! be left out, and what follows still makes sense.

use super::Context;
use super::block::{BLOCK, Data, Look};
use super::harm::Takes;
use super::log::{NEVER, OpId, Span};
use super::nbd::{self, Export, Mode, Opened, Told};
use super::volume::{Place, PointId, Volume, VolumeId};
use super::wire::Wire;
use crate::rng::Rng;
use datum_service::environment::Environment;
use datum_service::limits::CHUNK_BLOCKS;
use std::collections::BTreeMap;

const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;

/// Requests that a client has under way at most.
const DEPTH: usize = 24;

/// How often a client tries to open something, before it goes on without.
const ATTEMPTS: usize = 3;

/// How long it waits in between, at most.
const WAIT_NANOSECONDS: u64 = 20_000_000;

/// A metadata context of an export, as it was selected.
#[derive(Clone, Copy)]
enum Shows {
    Allocation,
    ChangeIds,
    Changes(usize),
    /// One that nobody asked for.
    Unknown,
}

/// What a client has open.
struct Session {
    export: Export,
    place: Place,
    contexts: Vec<(u32, Shows)>,
    pending: BTreeMap<u64, Pending>,
}

/// A request under way.
struct Pending {
    op: OpId,
    kind: u16,
    offset: u64,
    length: u64,
    flags: u16,
    data: Vec<u8>,
    covered: u64,
    extents: Vec<(u32, Vec<(u64, u64)>)>,
    error: Option<u32>,
    /// It makes no sense, and must be refused with one of these.
    refusals: Option<&'static [u32]>,
}

/// The client.
pub(crate) struct Client {
    name: String,
    wire: Wire,
    context: Context,
    session: Option<Session>,
}

impl Client {
    pub(crate) fn new(name: String, wire: Wire, context: Context) -> Self {
        Self { name, wire, context, session: None }
    }

    /// Does all steps, then hears all answers and leaves.
    pub(crate) async fn run(mut self, script: Vec<u64>) {
        for step in script {
            let mut rng = Rng::new(step);
            for _ in 0..ATTEMPTS {
                if self.session.is_none() {
                    self.open(&mut rng).await;
                }
                if self.session.is_none() {
                    self.context.environment.sleep(rng.below(WAIT_NANOSECONDS)).await;
                }
            }
            match rng.below(100) {
                0..6 => self.leave(&mut rng),
                6..18 => self.hear_until(0).await,
                18..30 => self.hear_until(rng.below(DEPTH as u64) as usize).await,
                _ => {
                    self.hear_until(DEPTH - 1).await;
                    self.request(&mut rng);
                }
            }
        }
        self.hear_until(0).await;
        self.leave(&mut Rng::new(0));
    }

    /// Goes, with or without a word, perhaps in the middle of a request.
    fn leave(&mut self, rng: &mut Rng) {
        let Some(session) = self.session.take() else { return };
        let mut bytes = nbd::request(session.export.mode, nbd::DISCONNECT, 0, 0, 0, 0);
        match rng.below(3) {
            0 => self.wire.say(&bytes),
            1 => {
                let mut judge = self.context.judge.borrow_mut();
                let op = judge.log.send(format!("{} write 0+65536, cut off", self.name));
                if !session.export.read_only && session.export.size >= 65536 {
                    judge.write(op, session.place.volume, 0, 65536, &Data::Own);
                }
                bytes = nbd::request(session.export.mode, nbd::WRITE, 0, op as u64, 0, 65536);
                bytes.extend((0..65536).map(|at| super::block::own_byte(op, at)));
                bytes.truncate(rng.below(bytes.len() as u64) as usize);
                self.wire.say(&bytes);
            }
            _ => {}
        }
        self.wire.leave(rng);
    }

    /// Connects and opens something.
    async fn open(&mut self, rng: &mut Rng) {
        let Some((export, place, since)) = self.choose(rng) else { return };
        let mode = *rng.pick(&[Mode::Simple, Mode::Structured, Mode::Structured, Mode::Extended]);
        let contexts = self.contexts(rng, place, since);
        let queries: Vec<String> = contexts.iter().map(|(query, _)| query.clone()).collect();
        let writable = place.checkpoint.is_none() && since.is_none();
        let op = {
            let mut judge = self.context.judge.borrow_mut();
            judge.volumes[place.volume].busy |= writable;
            judge.log.send(format!("{} open {export} {mode:?} {queries:?}", self.name))
        };
        self.wire.connect();
        let opened = nbd::open(&self.wire, mode, &export, &queries).await;
        let mut judge = self.context.judge.borrow_mut();
        let judge = &mut *judge;
        let (volume, _) = export.split_once(['@', '+']).unwrap_or((&export, ""));
        match opened {
            Opened::Refused(reply) => {
                let span = judge.log.refused(op, &format!("refused with {reply:#x}"));
                let there = |point: PointId| {
                    let point = &judge.volumes[place.volume].points[point];
                    point.life.must_be(&judge.log, span)
                };
                let mut marks = contexts.iter().filter_map(|(_, shows)| match shows {
                    Shows::Changes(mark) => Some(*mark),
                    _ => None,
                });
                let certain = judge.name_there(volume, span).must
                    && place.checkpoint.is_none_or(there)
                    && since.is_none_or(there)
                    && !marks.any(|mark| judge.may_be_newer(place, mark));
                let takes = Takes { reads: true, ..Takes::default() };
                let failed = judge.excuses("io", takes) || judge.excuses("corrupt", takes);
                let excused = failed || judge.stopping || !certain;
                assert!(excused, "{} although it is there", judge.log.line(op));
                self.wire.leave(rng);
            }
            Opened::Open(export) => {
                let span = judge.log.done(op, &format!("{} bytes", export.size));
                if judge.named(volume, span) != [place.volume] {
                    // The name has changed hands meanwhile, and nobody can tell whose it was.
                    return self.wire.leave(rng);
                }
                self.context.counts.sessions.set(self.context.counts.sessions.get() + 1);
                assert!(judge.name_there(volume, span).may, "{}: it is not there", judge.log.line(op));
                assert_eq!(export.read_only, !writable, "{}", judge.log.line(op));
                let (least, most) = judge.size_range(place, span);
                let size = export.size / BLOCK as u64;
                assert!((least..=most).contains(&size), "{}: not of that size", judge.log.line(op));
                if let Some(point) = place.checkpoint
                    && let Some(image) = &mut judge.volumes[place.volume].points[point].image
                {
                    image.size = Some(size);
                }
                let known = |name: &str| contexts.iter().find(|(query, _)| query == name);
                let selected = export.contexts.iter();
                let selected = selected.map(|(id, name)| (*id, known(name).map_or(Shows::Unknown, |c| c.1)));
                let contexts = selected.collect();
                self.session = Some(Session { export, place, contexts, pending: BTreeMap::new() });
            }
        }
    }

    /// An export that is likely there.
    fn choose(&self, rng: &mut Rng) -> Option<(String, Place, Option<PointId>)> {
        let judge = self.context.judge.borrow();
        let likely = judge.likely();
        if likely.is_empty() {
            return None;
        }
        let volume: VolumeId = *rng.pick(&likely);
        let mut name = judge.volumes[volume].name(&judge.log)?.to_owned();
        let span = Span { from: 0, to: NEVER };
        if judge.named(&name, span) != [volume] {
            return None;
        }
        let checkpoints = judge.likely_points(volume, true);
        let mut place = Place { volume, checkpoint: None };
        if rng.chance(25) && !checkpoints.is_empty() {
            let point = *rng.pick(&checkpoints);
            name = format!("{name}@{}", judge.volumes[volume].points[point].name);
            place.checkpoint = Some(point);
        }
        let points = [checkpoints, judge.likely_points(volume, false)].concat();
        let mut since = None;
        if rng.chance(20) && !points.is_empty() {
            let point = *rng.pick(&points);
            name = format!("{name}+since={}", judge.volumes[volume].points[point].name);
            since = Some(point);
        }
        Some((name, place, since))
    }

    /// Contexts to ask for, and what each shows.
    fn contexts(&self, rng: &mut Rng, place: Place, since: Option<PointId>) -> Vec<(String, Shows)> {
        let judge = self.context.judge.borrow();
        let volume = &judge.volumes[place.volume];
        let mut contexts = Vec::new();
        if rng.chance(60) {
            contexts.push(("base:allocation".to_owned(), Shows::Allocation));
        }
        if rng.chance(30) {
            contexts.push(("x-datum:change".to_owned(), Shows::ChangeIds));
        }
        let mut points: Vec<PointId> = since.into_iter().collect();
        if rng.chance(40) {
            let other = [judge.likely_points(place.volume, true), judge.likely_points(place.volume, false)];
            points.extend(other.concat().first());
        }
        points.dedup();
        for point in points {
            let point = &volume.points[point];
            contexts.push((format!("qemu:dirty-bitmap:{}", point.name), Shows::Changes(point.mark)));
        }
        contexts
    }

    /// Sends one request.
    fn request(&mut self, rng: &mut Rng) {
        let Some(session) = &mut self.session else { return };
        let mut judge = self.context.judge.borrow_mut();
        let (size, mode) = (session.export.size, session.export.mode);
        let kinds = [
            (nbd::READ, 24),
            (nbd::WRITE, 40),
            (nbd::TRIM, 8),
            (nbd::WRITE_ZEROES, 7),
            (nbd::FLUSH, 10),
            (nbd::CACHE, 2),
            (nbd::BLOCK_STATUS, 9),
        ];
        let mut at = rng.below(100);
        let kind = kinds.iter().find(|(_, share)| {
            let hit = at < *share;
            at = at.saturating_sub(*share);
            hit
        });
        let kind = kind.map_or(nbd::READ, |(kind, _)| *kind);
        let (mut offset, mut length) = range(rng, size, judge.is_small());
        let mut refusals: Option<&[u32]> = None;
        if rng.chance(3) {
            offset = size - rng.below(size.min(5000));
            length = size - offset + rng.between(1, 9000);
            refusals = Some(&[EINVAL, ENOSPC, EPERM]);
        }
        if kind == nbd::FLUSH {
            (offset, length, refusals) = (0, 0, None);
        }
        let changes = [nbd::WRITE, nbd::TRIM, nbd::WRITE_ZEROES].contains(&kind);
        if changes && session.export.read_only {
            refusals = Some(&[EPERM, EINVAL, ENOSPC]);
        }
        if kind == nbd::BLOCK_STATUS && session.contexts.is_empty() {
            refusals = Some(&[EINVAL]);
        }
        let flags = match kind {
            nbd::READ if mode != Mode::Simple && rng.chance(20) => nbd::DONT_FRAGMENT,
            nbd::BLOCK_STATUS if rng.chance(30) => nbd::ONE,
            nbd::BLOCK_STATUS | nbd::READ => 0,
            _ if rng.chance(20) => nbd::FUA,
            _ => 0,
        };
        let words = ["read", "write", "", "flush", "trim", "cache", "zero", "status"];
        let whole = mode == Mode::Simple || flags & nbd::DONT_FRAGMENT != 0;
        judge.volumes[session.place.volume].read_whole |=
            kind == nbd::READ && whole && offset % BLOCK as u64 + length > (CHUNK_BLOCKS * BLOCK) as u64;
        let fua = if flags & nbd::FUA != 0 { " FUA" } else { "" };
        let word = words[usize::from(kind)];
        let op = judge.log.send(format!(
            "{} {word} v{}{} {offset}+{length}{fua}",
            self.name,
            session.place.volume,
            session.place.checkpoint.map(|point| format!("@{point}")).unwrap_or_default(),
        ));
        if changes && refusals.is_none() {
            let data = if kind == nbd::WRITE { Data::Own } else { Data::Zero };
            judge.write(op, session.place.volume, offset, length, &data);
        }
        let mut bytes = nbd::request(mode, kind, flags, op as u64, offset, length);
        if kind == nbd::WRITE {
            bytes.extend((offset..offset + length).map(|at| super::block::own_byte(op, at)));
        }
        self.wire.say(&bytes);
        let pending = Pending {
            op,
            kind,
            offset,
            length,
            flags,
            data: vec![0; if kind == nbd::READ { length as usize } else { 0 }],
            covered: 0,
            extents: Vec::new(),
            error: None,
            refusals,
        };
        session.pending.insert(op as u64, pending);
        self.context.counts.requests.set(self.context.counts.requests.get() + 1);
    }

    /// Hears answers until no more than so many are missing.
    async fn hear_until(&mut self, left: usize) {
        while let Some(session) = &mut self.session
            && session.pending.len() > left
        {
            let chunk = nbd::chunk(&self.wire, session.export.mode).await;
            let Some(pending) = session.pending.get_mut(&chunk.cookie) else {
                panic!("{}: an answer to a request of nobody: {chunk:?}", self.name);
            };
            let (cookie, done) = (chunk.cookie, chunk.done);
            if chunk.simple && pending.kind == nbd::READ {
                pending.data = self.wire.hear(pending.length as usize).await;
                pending.covered = pending.length;
            }
            pending.take(chunk.told());
            if done && let Some(pending) = session.pending.remove(&cookie) {
                let (place, contexts) = (session.place, session.contexts.clone());
                self.judge(pending, place, &contexts);
            }
        }
    }

    /// A whole answer is there.
    fn judge(&self, pending: Pending, place: Place, contexts: &[(u32, Shows)]) {
        let mut judge = self.context.judge.borrow_mut();
        let judge = &mut *judge;
        let op = pending.op;
        if let Some(error) = pending.error {
            // A refused request has done nothing; one that failed may have, in part.
            let span = match pending.refusals.is_some() {
                true => judge.log.refused(op, &format!("error {error}")),
                false => judge.log.failed(op, &format!("error {error}")),
            };
            let volume = &judge.volumes[place.volume];
            let end = pending.offset + pending.length;
            let short = judge.size_range(place, span).0 * (BLOCK as u64) < end;
            let taken = volume.forced <= span.to || !volume.must_be(&judge.log, span);
            let reason = match pending.refusals {
                Some(refusals) => refusals.contains(&error) || taken,
                None => match error {
                    EINVAL | ENOSPC | EOVERFLOW => short,
                    EIO => taken || (pending.kind == nbd::BLOCK_STATUS && passing(volume, contexts)),
                    _ => false,
                },
            };
            let takes = takes(pending.kind);
            let excused = match error {
                EIO => judge.excuses("io", takes) || judge.excuses("corrupt", takes),
                EPERM => judge.excuses("read_only", takes) || (judge.stopping && takes.changes),
                ENOSPC => judge.excuses("no_space", takes),
                _ => false,
            };
            assert!(reason || excused, "{}: for no reason", judge.log.line(op));
            let full = &self.context.counts.full;
            full.set(full.get() + u64::from(error == ENOSPC && !reason));
            return;
        }
        let durable =
            pending.kind == nbd::FLUSH || (pending.kind != nbd::CACHE && pending.flags & nbd::FUA != 0);
        let span = match durable {
            true => judge.log.done_durably(op, "ok"),
            false => judge.log.done(op, "ok"),
        };
        let line = judge.log.line(op);
        assert!(pending.refusals.is_none(), "{line}: it must be refused");
        let verdict = match pending.kind {
            nbd::READ => {
                assert_eq!(pending.covered, pending.length, "{line}: each byte comes once");
                judge.read(place, pending.offset, &pending.data, span)
            }
            nbd::BLOCK_STATUS => pending.extents.iter().try_for_each(|(id, extents)| {
                let shows = contexts.iter().find(|(known, _)| known == id).map_or(Shows::Unknown, |c| c.1);
                status(judge, place, shows, &pending, extents, span)
            }),
            _ => Ok(()),
        };
        verdict.unwrap_or_else(|what| panic!("{line}: {what}"));
    }
}

impl Pending {
    fn take(&mut self, told: Told) {
        match told {
            Told::Nothing => {}
            Told::Data(at, bytes) => {
                let start =
                    at.checked_sub(self.offset).expect("data of the range that was asked for") as usize;
                self.data[start..start + bytes.len()].copy_from_slice(&bytes);
                self.covered += bytes.len() as u64;
            }
            Told::Hole(length) => self.covered += length,
            Told::Extents(id, extents) => self.extents.push((id, extents)),
            Told::Error(error) => self.error = Some(error),
        }
    }
}

/// A range within an export: mostly small, at any byte or at blocks' borders, now and then all of it; the latter more often
/// where the pool is to be `filled`.
fn range(rng: &mut Rng, size: u64, filled: bool) -> (u64, u64) {
    let blocks = size / BLOCK as u64;
    let at = rng.below(blocks) * BLOCK as u64;
    match rng.below(if filled { 14 } else { 10 }) {
        0..5 => (at, (rng.between(1, 3) * BLOCK as u64).min(size - at)),
        5..9 => {
            let offset = at + rng.below(BLOCK as u64);
            (offset, rng.between(1, 9000).min(size - offset))
        }
        _ => {
            let offset = rng.below(size);
            (offset, rng.between(1, size - offset))
        }
    }
}

/// What a request takes.
fn takes(kind: u16) -> Takes {
    let writes = [nbd::WRITE, nbd::TRIM, nbd::WRITE_ZEROES].contains(&kind);
    let changes = writes || kind == nbd::FLUSH;
    Takes { reads: kind != nbd::FLUSH, data: writes, changes, space: writes }
}

/// Whether a point that a context compares with may have gone before the export was opened. The context is
/// selected before, and then has nothing to show.
fn passing(volume: &Volume, contexts: &[(u32, Shows)]) -> bool {
    let ends =
        |mark: usize| volume.points.iter().any(|point| point.mark == mark && !point.life.ends.is_empty());
    contexts.iter().any(|(_, shows)| matches!(shows, Shows::Changes(mark) if ends(*mark)))
}

/// Holds the extents of one context against what is known.
fn status(
    judge: &super::judge::Judge,
    place: Place,
    shows: Shows,
    pending: &Pending,
    extents: &[(u64, u64)],
    span: Span,
) -> Result<(), String> {
    let total: u64 = extents.iter().map(|(length, _)| length).sum();
    if extents.is_empty() || total > pending.length || extents.iter().any(|(length, _)| *length == 0) {
        return Err(format!("extents of {total} bytes in a range of {}", pending.length));
    }
    let mut at = pending.offset;
    for (length, flags) in extents {
        match shows {
            Shows::Allocation if *flags == 3 => judge.hole(place, at, *length, span)?,
            Shows::Changes(mark) => {
                let first = at / BLOCK as u64;
                let blocks = (at + length).div_ceil(BLOCK as u64) - first;
                // Where the size changes meanwhile, what lies beyond it says nothing.
                let whole = judge.size_range(place, span).0.saturating_sub(first).min(blocks);
                let changed = vec![*flags == 1; whole as usize];
                judge.changes(place, mark, first, &changed, Look::at(span))?;
            }
            Shows::Allocation | Shows::ChangeIds | Shows::Unknown => {}
        }
        at += length;
    }
    Ok(())
}
