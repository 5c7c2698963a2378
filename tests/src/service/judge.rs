//! What clients know of the pool, and what follows from it for every answer.
//!
//! Names, sizes, contents and changes are all judged by the log: each came with one operation and went with
//! another, and both happened at one instant of a span. Nothing here knows the store or the service.

use super::block::{BLOCK, Block, Change, Data, Look, Put};
use super::harm::{Harm, Takes};
use super::log::{Log, NEVER, OpId, Span, Tick};
use super::volume::{Image, Life, Mark, Place, Point, PointId, Volume, VolumeId};
use crate::store::perform::Disk;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Blocks below which a pool is small.
const SMALL_BLOCKS: u64 = 8192;

/// Whether something is there at a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct There {
    pub(crate) may: bool,
    pub(crate) must: bool,
}

/// Everything that is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Judge {
    pub(crate) log: Log,
    pub(crate) volumes: Vec<Volume>,
    /// Names drawn so far.
    drawn: u64,
    /// To which moment the pool has come in the last recovery, at least.
    pub(crate) recovery: Tick,
    /// The volumes that were found then, by name.
    pub(crate) found: BTreeMap<String, VolumeId>,
    /// Tokens of points that a power loss has taken.
    pub(crate) lost: Vec<(VolumeId, String)>,
    /// Operations before are older than the last recovery.
    pub(crate) settled_before: OpId,
    /// The disks of this life.
    pub(crate) disks: Vec<Disk>,
    /// Disks have lied: what was acknowledged may be lost, but a byte is right or refused.
    pub(crate) lied: bool,
    /// Somebody has asked for the end.
    pub(crate) stopping: bool,
    /// A volume waits for ever: it could not be resumed.
    pub(crate) left_suspended: bool,
    /// Blocks that clients have asked to write so far.
    pub(crate) written: u64,
}

impl Judge {
    /// A name nobody has had.
    pub(crate) fn fresh(&mut self, prefix: &str) -> String {
        self.drawn += 1;
        format!("{prefix}{}", self.drawn)
    }

    /// Volumes that are likely there; not those that were to get a name that is taken.
    pub(crate) fn likely(&self) -> Vec<VolumeId> {
        let is_likely = |id: &VolumeId| {
            self.volumes[*id].name(&self.log).is_some_and(|name| self.most_likely(name) == Some(*id))
        };
        (0..self.volumes.len()).filter(is_likely).collect()
    }

    /// Points of a volume that are likely there.
    pub(crate) fn likely_points(&self, volume: VolumeId, checkpoints: bool) -> Vec<PointId> {
        let points = &self.volumes[volume].points;
        let fits = |point: &Point| point.image.is_some() == checkpoints && point.life.is_likely(&self.log);
        (0..points.len()).filter(|id| fits(&points[*id])).collect()
    }

    pub(crate) fn likely_size(&self, place: Place) -> u64 {
        let volume = &self.volumes[place.volume];
        let image = place.checkpoint.and_then(|point| volume.points[point].image.as_ref());
        image.and_then(|image| image.size).unwrap_or_else(|| volume.likely_size(&self.log))
    }

    /// The volumes of a name that a look may find.
    pub(crate) fn named(&self, name: &str, look: Span) -> Vec<VolumeId> {
        let has = |volume: &Volume| {
            volume.names.iter().any(|(known, life)| known == name && life.may_be(&self.log, look))
        };
        (0..self.volumes.len()).filter(|id| has(&self.volumes[*id])).collect()
    }

    /// The volume that a name most likely stands for.
    pub(crate) fn most_likely(&self, name: &str) -> Option<VolumeId> {
        let has = |volume: &Volume| {
            volume.names.iter().any(|(known, life)| known == name && life.is_likely(&self.log))
        };
        self.volumes.iter().position(has)
    }

    /// Whether a volume's name is there.
    pub(crate) fn name_there(&self, name: &str, look: Span) -> There {
        let lives = self.volumes.iter().flat_map(|volume| &volume.names).filter(|(known, _)| known == name);
        self.there(lives.map(|(_, life)| life), look)
    }

    /// Whether a point of this name is there: any, or only a checkpoint or a reference point.
    pub(crate) fn point_there(
        &self,
        volume: &str,
        name: &str,
        checkpoint: Option<bool>,
        look: Span,
    ) -> There {
        let mut there = There { may: false, must: false };
        for known in &self.volumes {
            let names = known.names.iter().filter(|(known, _)| known == volume);
            let named = self.there(names.map(|(_, life)| life), look);
            let points = known.points.iter().filter(|point| point.name == name);
            let points = points.filter(|p| checkpoint.is_none_or(|wanted| p.image.is_some() == wanted));
            let point = self.there(points.map(|point| &point.life), look);
            there.may |= named.may && point.may;
            there.must |= named.must && point.must;
        }
        there
    }

    fn there<'a>(&self, lives: impl Iterator<Item = &'a Life>, look: Span) -> There {
        lives.fold(There { may: false, must: false }, |there, life| There {
            may: there.may || life.may_be(&self.log, look),
            must: there.must || life.must_be(&self.log, look),
        })
    }

    /// The latest point of a name.
    pub(crate) fn point(&self, volume: VolumeId, name: &str, checkpoint: bool) -> Option<PointId> {
        let points = self.volumes[volume].points.iter();
        points.clone().rposition(|p| {
            p.name == name && p.image.is_some() == checkpoint && !self.log.op(p.life.born).void
        })
    }

    // What operations do. Each is noted when it is sent.

    pub(crate) fn create(&mut self, op: OpId, name: &str, size: u64) {
        let blocks = (0..size).map(|_| Block::new(op, Data::Zero, Change::No)).collect();
        self.volumes.push(Volume::new(name, op, size, blocks));
    }

    pub(crate) fn clone_volume(&mut self, op: OpId, from: VolumeId, checkpoint: PointId, name: &str) {
        self.volumes[from].cloned = true;
        let Some(image) = self.volumes[from].points[checkpoint].image.clone() else { return };
        let blocks =
            image.blocks.values().map(|bytes| Block::new(op, Data::Bytes(bytes.clone()), Change::No));
        let blocks: Vec<Block> = blocks.collect();
        self.volumes.push(Volume::new(name, op, blocks.len() as u64, blocks));
    }

    pub(crate) fn rename(&mut self, op: OpId, volume: VolumeId, from: &str, to: &str) {
        let names = &mut self.volumes[volume].names;
        names.iter_mut().filter(|(name, _)| name == from).for_each(|(_, life)| life.ends.push(op));
        names.push((to.into(), Life::new(op)));
    }

    pub(crate) fn delete(&mut self, op: OpId, volume: VolumeId) {
        self.volumes[volume].names.iter_mut().for_each(|(_, life)| life.ends.push(op));
    }

    /// What the disks have done so far.
    pub(crate) fn harm(&self) -> Harm {
        Harm::of(&self.disks)
    }

    /// Whatever follows from now on may lack what the disks have lost in secret.
    pub(crate) fn note_lies(&mut self) {
        self.lied |= self.harm().lied;
    }

    /// Whether a client may wait for ever: for an answer that a disk has withheld, for a volume that could not be resumed, or for
    /// the rest of a reply in one piece. That cannot go on where the volume was taken away by force or a disk refuses what it
    /// gave a moment ago, and nothing else may come in its place.
    pub(crate) fn may_wait_for_ever(&self) -> bool {
        let harm = self.harm();
        let cut_off = |volume: &Volume| volume.read_whole && (volume.forced != NEVER || harm.hides());
        harm.withheld || self.left_suspended || self.volumes.iter().any(cut_off)
    }

    /// Whether an error of this kind has its reason in the disks.
    pub(crate) fn excuses(&self, kind: &str, takes: Takes) -> bool {
        self.harm().excuses(kind, takes) || (kind == "no_space" && takes.space && self.may_be_full())
    }

    /// Whether the pool may have come to its end. If nothing that was ever written had gone again, data would take as much;
    /// metadata and what is kept for commits take less than half of the smallest pool.
    fn may_be_full(&self) -> bool {
        2 * self.written >= self.pool_blocks()
    }

    fn pool_blocks(&self) -> u64 {
        self.disks.iter().map(|disk| disk.inner().blocks()).sum()
    }

    /// Whether clients are to fill the pool.
    pub(crate) fn is_small(&self) -> bool {
        self.pool_blocks() < SMALL_BLOCKS
    }

    /// Whether a volume's size is certain: nothing that changes it is under way.
    pub(crate) fn is_steady(&self, volume: VolumeId) -> bool {
        let sizes = &self.volumes[volume].sizes;
        sizes.iter().all(|(op, _)| self.log.op(*op).void || self.log.op(*op).span.to < NEVER)
    }

    /// A volume that [is steady](Self::is_steady) changes its size: what lies between the two is trimmed.
    pub(crate) fn resize(&mut self, op: OpId, volume: VolumeId, size: u64) {
        let volume = &mut self.volumes[volume];
        let old = volume.likely_size_before(&self.log, op);
        volume.sizes.push((op, size));
        volume.put_all(op, old.min(size), old.max(size), |_| Data::Zero, Change::Yes);
    }

    /// A volume that [is steady](Self::is_steady) becomes a checkpoint of which all is known.
    pub(crate) fn revert(&mut self, op: OpId, volume: VolumeId, checkpoint: PointId) {
        let volume = &mut self.volumes[volume];
        (volume.busy, volume.reverted) = (true, true);
        let Some(image) = volume.points[checkpoint].image.clone() else { return };
        let (old, size) = (volume.likely_size_before(&self.log, op), image.blocks.len() as u64);
        volume.sizes.push((op, size));
        let data = |block| image.blocks.get(&block).map_or(Data::Zero, |bytes| Data::Bytes(bytes.clone()));
        volume.put_all(op, 0, size.max(old), data, Change::Perhaps);
    }

    pub(crate) fn make_point(&mut self, op: OpId, volume: VolumeId, name: &str, checkpoint: bool) {
        let volume = &mut self.volumes[volume];
        volume.marks.push(Mark { made: op, settled: BTreeMap::new(), tokens: Vec::new() });
        let (mark, image) = (volume.marks.len() - 1, checkpoint.then(Image::default));
        volume.points.push(Point { name: name.into(), life: Life::new(op), mark, image });
    }

    pub(crate) fn delete_point(&mut self, op: OpId, volume: VolumeId, point: PointId) {
        self.volumes[volume].points[point].life.ends.push(op);
    }

    pub(crate) fn convert(&mut self, op: OpId, volume: VolumeId, checkpoint: PointId, name: &str) {
        let volume = &mut self.volumes[volume];
        volume.points[checkpoint].life.ends.push(op);
        let mark = volume.points[checkpoint].mark;
        volume.points.push(Point { name: name.into(), life: Life::new(op), mark, image: None });
    }

    /// A write or zeroing of bytes.
    pub(crate) fn write(&mut self, op: OpId, volume: VolumeId, offset: u64, length: u64, data: &Data) {
        let end = offset + length;
        let mut at = offset;
        self.written += match data {
            Data::Zero => 2,
            Data::Own | Data::Bytes(_) => length / BLOCK as u64 + 2,
        };
        while at < end {
            let block = at / BLOCK as u64;
            let start = (at % BLOCK as u64) as usize;
            let stop = (end - block * BLOCK as u64).min(BLOCK as u64) as usize;
            let put = Put { op, start, end: stop, data: data.clone(), change: Change::Yes, seen: NEVER };
            self.volumes[volume].put(block, put);
            at = (block + 1) * BLOCK as u64;
        }
    }

    // What looks show.

    /// Bytes that a read brought.
    pub(crate) fn read(&mut self, place: Place, offset: u64, bytes: &[u8], span: Span) -> Result<(), String> {
        let mut at = 0;
        while at < bytes.len() {
            let place_at = offset + at as u64;
            let (block, start) = (place_at / BLOCK as u64, (place_at % BLOCK as u64) as usize);
            let count = (BLOCK - start).min(bytes.len() - at);
            self.read_block(place, block, start, &bytes[at..at + count], span)?;
            at += count;
        }
        Ok(())
    }

    fn read_block(
        &mut self,
        place: Place,
        block: u64,
        start: usize,
        bytes: &[u8],
        span: Span,
    ) -> Result<(), String> {
        let volume = &mut self.volumes[place.volume];
        let mut span = span;
        if let Some(point) = place.checkpoint {
            let made = volume.marks[volume.points[point].mark].made;
            let made_at = self.log.op(made).span;
            let Some(image) = &mut volume.points[point].image else {
                return Err("a reference point was read".into());
            };
            if let Some(known) = image.blocks.get(&block) {
                return match known[start..start + bytes.len()] == *bytes {
                    true => Ok(()),
                    false => Err(format!("block {block} of a checkpoint is not what it was")),
                };
            }
            if let Ok(whole) = <[u8; BLOCK]>::try_from(bytes) {
                image.blocks.insert(block, Rc::new(whole));
            }
            // It is what it was when the checkpoint was made: before this answer, and not before the question.
            span = Span { from: self.log.op(made).reached, to: made_at.to.min(span.to) };
        }
        let Some(known) = volume.blocks.get_mut(block as usize) else {
            return Err(format!("block {block} was never there"));
        };
        let seen = known.look(&self.log, block, start, bytes, Look::at(span))?;
        for at in seen {
            let put = &mut known.puts[at];
            put.seen = put.seen.min(span.to);
            if let Some(point) = place.checkpoint {
                let made = volume.marks[volume.points[point].mark].made;
                self.log.reach(made, self.log.op(put.op).span.from);
            }
        }
        Ok(())
    }

    /// Bytes that are said to be a hole.
    pub(crate) fn hole(&self, place: Place, offset: u64, length: u64, span: Span) -> Result<(), String> {
        const ZEROES: [u8; BLOCK] = [0; BLOCK];
        let volume = &self.volumes[place.volume];
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let (block, start) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let stop = (end - block * BLOCK as u64).min(BLOCK as u64) as usize;
            let image = place.checkpoint.map(|point| &volume.points[point]);
            let read = image.and_then(|point| point.image.as_ref()?.blocks.get(&block));
            let fits = match (read, image, volume.blocks.get(block as usize)) {
                (Some(known), ..) => known[start..stop].iter().all(|byte| *byte == 0),
                (None, None, Some(known)) => {
                    known.look(&self.log, block, start, &ZEROES[start..stop], Look::at(span)).is_ok()
                }
                _ => true,
            };
            if !fits {
                return Err(format!(
                    "bytes {start}..{stop} of block {block} are called a hole and hold data"
                ));
            }
            at = (block + 1) * BLOCK as u64;
        }
        Ok(())
    }

    /// Blocks `first..` that are said to have changed since a mark, or not.
    pub(crate) fn changes(
        &self,
        place: Place,
        mark: usize,
        first: u64,
        changed: &[bool],
        look: Look,
    ) -> Result<(), String> {
        let volume = &self.volumes[place.volume];
        let mark = &volume.marks[mark];
        let mut look = look;
        if let Some(point) = place.checkpoint {
            let made = self.log.op(volume.marks[volume.points[point].mark].made);
            look = Look::at(Span { from: made.reached, to: made.span.to.min(look.span.to) });
        }
        for (block, told) in (first..).zip(changed) {
            let (must, may) = volume.changed(&self.log, mark, place.checkpoint, block, look);
            if (must && !told) || (*told && !may) {
                let puts = volume.blocks.get(block as usize).map_or(&[][..], |known| &known.puts);
                let puts: Vec<String> = puts.iter().map(|put| self.log.line(put.op)).collect();
                return Err(format!(
                    "block {block} is said {} since [{}]; it was written by {puts:#?}",
                    if *told { "to have changed" } else { "not to have changed" },
                    self.log.line(mark.made)
                ));
            }
        }
        Ok(())
    }

    /// Whether a mark may be newer than a checkpoint, whose changes since it are then refused.
    pub(crate) fn may_be_newer(&self, place: Place, mark: usize) -> bool {
        let volume = &self.volumes[place.volume];
        place.checkpoint.is_some_and(|until| {
            let until = volume.points[until].mark;
            let made = |mark: usize| self.log.op(volume.marks[mark].made).span;
            until != mark && made(mark).to >= made(until).from
        })
    }

    /// The smallest and largest size in blocks that a look may find.
    pub(crate) fn size_range(&self, place: Place, span: Span) -> (u64, u64) {
        let volume = &self.volumes[place.volume];
        let sizes: Vec<u64> =
            match place.checkpoint.and_then(|point| volume.points[point].image.as_ref()?.size) {
                Some(size) => vec![size],
                None => {
                    let from = match place.checkpoint {
                        Some(point) => self.log.op(volume.marks[volume.points[point].mark].made).span.from,
                        None => span.from,
                    };
                    volume.sizes_at(&self.log, Look::at(Span { from, ..span })).collect()
                }
            };
        (sizes.iter().copied().min().unwrap_or(0), sizes.iter().copied().max().unwrap_or(0))
    }
}
