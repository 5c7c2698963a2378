//! The wrong bytes, all of them: each block of a small pool overwritten, swapped with others, and put back to what it
//! was earlier. Never a wrong byte, everything that does not lie below served; the check finds each block of metadata by
//! itself, and the scrub each of data too.
//!
//! What cannot be found, and why, is in [`Case::still_there`] and [`Case::may_be_silent`].

use datum_store::device::{BLOCK_SIZE, Block};
use datum_store::{BlockIndex, ErrorKind, Image, Progress, Result};
use datum_tests::disk::forge::{FIRST_BUCKET, Forge, RECORD_SIZE, RECORDS_PER_BLOCK, record};
use datum_tests::disk::layout::{Kind, word};
use datum_tests::disk::{DiskImage, PowerLoss};
use datum_tests::model::State;
use datum_tests::model::action::Action;
use datum_tests::rng::Rng;
use datum_tests::store::perform::{Disk, name};
use datum_tests::store::story::Story;
use datum_tests::store::world::Setup;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// Blocks of the disk.
const DISK: u64 = 4096;
/// Blocks that are read together; what is looked at comes in whole stretches but at a volume's end.
const STRETCH: usize = 10;
/// Workers, each with a pool of its own.
const WORKERS: usize = 2;

/// A volume, or one of its checkpoints.
type Contents = (String, Option<String>);

/// The pool that is damaged, and what is known of it.
struct Victim {
    story: Story,
    image: DiskImage,
    /// What lay on the disk before.
    earlier: Vec<DiskImage>,
    /// The states of history from the newest superblock to the end of the log.
    history: Vec<State>,
    /// Data blocks of the last log record.
    last_data: BTreeSet<u64>,
    last_record: BTreeSet<u64>,
    kinds: BTreeMap<u64, Kind>,
    /// What must be read to open an image, and to read each of its blocks.
    needs: BTreeMap<Contents, (BTreeSet<u64>, Vec<BTreeSet<u64>>)>,
}

impl Victim {
    fn new() -> Self {
        let mut story = Story::with(&Setup { members: vec![DISK], ..Setup::small(3) }, 128 * 128 + 40);
        let mut earlier = Vec::new();
        story.create("w", 60);
        story.fill(0, 60);
        story.fill(128 * 128, 30);
        story.checkpoint("a");
        story.fill(10, 20);
        story.refpoint("r");
        story.commit();
        earlier.push(story.world.disks[0].inner().visible());
        story.checkpoint("b");
        story.fill(5, 80);
        story.trim(30, 10);
        story.clone("a", "x");
        let write = |story: &mut Story, volume: &str, first: u64, count: u64| {
            let contents = (0..count).map(|_| story.world.contents.draw()).collect();
            story.world.act(Action::Write { volume: volume.into(), first, contents });
        };
        write(&mut story, "x", 3, 20);
        write(&mut story, "w", 0, 40);
        story.commit();
        earlier.push(story.world.disks[0].inner().visible());
        story.checkpoint("gone");
        story.fill(0, 100);
        story.commit();
        // A release that a commit catches half-way, and lists of what it has freed so far.
        story.world.executor.set_background_share(0);
        story.delete("gone");
        for _ in 0..400 {
            let image = story.world.disks[0].inner().visible();
            let forge = Forge::new(vec![image]);
            let cursor =
                |place: &(u64, usize)| (1..1 << 20).contains(&forge.field(*place, record::VERSION_CURSOR));
            if forge.records(record::VERSION).iter().any(cursor) {
                break;
            }
            story.step(1);
            story.commit();
        }
        earlier.push(story.world.disks[0].inner().visible());
        // What only the log knows.
        let mut history = vec![story.world.model.state.clone()];
        for (volume, first, count) in
            [("w", 3, 4), ("v", 128 * 128 + 3, 3), ("w", 50, 2), ("x", 21, 3), ("w", 9, 2)]
        {
            let before = story.world.disks[0].inner().visible();
            earlier.push(before);
            write(&mut story, volume, first, count);
            story.flush();
            history.push(story.world.model.state.clone());
        }
        let image = story.world.power_off(PowerLoss::Nothing).remove(0);
        let before = earlier.last().expect("an earlier image").clone();
        let mut victim = Self {
            kinds: BTreeMap::new(),
            needs: BTreeMap::new(),
            last_data: BTreeSet::new(),
            last_record: BTreeSet::new(),
            story,
            image,
            earlier,
            history,
        };
        let forge = Forge::new(vec![victim.image.clone()]);
        victim.kinds = forge.kinds();
        for at in victim.image.written() {
            if victim.image.block(at) != before.block(at) {
                match victim.kinds.get(&at) {
                    Some(Kind::Log) => drop(victim.last_record.insert(at)),
                    _ => drop(victim.last_data.insert(at)),
                }
            }
        }
        assert_eq!((victim.last_record.len(), victim.last_data.len()), (1, 2));
        victim.find_needs(&forge);
        victim
    }

    fn find_needs(&mut self, forge: &Forge) {
        let object = |id: u64| forge.object_path(id / RECORDS_PER_BLOCK);
        let named = |bytes: &[u8; RECORD_SIZE], at: usize| {
            let length = usize::from(bytes[at]);
            String::from_utf8(bytes[at + 1..at + 1 + length].to_vec()).expect("a name")
        };
        let id_of = |&(at, place): &(u64, usize), index: u64| {
            assert_eq!(forge.object_path(index).last(), Some(&at));
            index * RECORDS_PER_BLOCK + (place / RECORD_SIZE) as u64
        };
        let index_of = |at: u64| (0..64).find(|index| forge.object_path(*index).last() == Some(&at));
        let mut names = BTreeMap::new();
        for place in forge.records(record::VOLUME) {
            let id = id_of(&place, index_of(place.0).expect("a record has an index"));
            let bytes = forge.object(id);
            names.insert(id, named(&bytes, 1));
            let (head, line) = (word(&bytes, record::VOLUME_HEAD), word(&bytes, record::VOLUME_TIMELINE));
            let parent = word(&forge.object(head), record::VERSION_PARENT);
            let mut opened: BTreeSet<u64> = forge.object_path(FIRST_BUCKET).into_iter().collect();
            [id, head, line, parent].into_iter().for_each(|id| opened.extend(object(id)));
            self.add_needs(forge, (named(&bytes, 1), None), opened, head);
        }
        for place in forge.records(record::VERSION) {
            let id = id_of(&place, index_of(place.0).expect("a record has an index"));
            let bytes = forge.object(id);
            if bytes[record::VERSION_KIND] != record::CHECKPOINT {
                continue;
            }
            let volume = word(&bytes, record::VERSION_VOLUME);
            let contents = (names[&volume].clone(), Some(named(&bytes, 2)));
            let (mut opened, _) = self.needs[&(names[&volume].clone(), None)].clone();
            opened.extend(object(id));
            self.add_needs(forge, contents, opened, id);
        }
        assert_eq!(self.needs.len(), 5, "three volumes and two checkpoints");
    }

    fn add_needs(&mut self, forge: &Forge, contents: Contents, opened: BTreeSet<u64>, version: u64) {
        let state = self.history.last().expect("a state");
        let volume = &state.volumes[&contents.0];
        let map = match &contents.1 {
            None => &volume.head,
            Some(point) => volume.points[point].image.as_ref().expect("a checkpoint"),
        };
        let bytes = forge.object(version);
        let blocks =
            (0..map.size()).map(|at| forge.path(&bytes, record::VERSION_ROOT, at).into_iter().collect());
        self.needs.insert(contents, (opened, blocks.collect()));
    }

    /// Every block that may be damaged, with what it is: all that the newest superblock reaches, both slots at both
    /// ends, the marks, and the log's next blocks.
    fn places(&self) -> BTreeMap<u64, Option<Kind>> {
        let mut places: BTreeMap<u64, Option<Kind>> =
            self.kinds.iter().map(|(&at, &kind)| (at, Some(kind))).collect();
        for at in [0, 1, DISK - 2, DISK - 1] {
            places.insert(at, Some(Kind::Superblock));
        }
        for at in (2..4).chain(4..20) {
            places.entry(at).or_insert(None);
        }
        places
    }
}

/// What becomes of some blocks, and of which.
struct Case {
    what: String,
    blocks: Vec<(u64, Option<Kind>, [u8; BLOCK_SIZE])>,
}

impl Case {
    fn damaged(&self, at: u64) -> bool {
        self.blocks.iter().any(|(damaged, ..)| *damaged == at)
    }

    /// Whether an earlier state of the log may show, without a word: the last record, or data that only it names,
    /// looks like one that was never flushed.
    fn may_be_silent(&self, victim: &Victim) -> bool {
        self.blocks.iter().any(|(at, ..)| victim.last_record.contains(at) || victim.last_data.contains(at))
    }

    /// What of the damage is still part of the pool, and on the disk. Opening a pool, and a check, make a
    /// commit each: they replace old superblocks, void the log, and set the owner's mark.
    fn still_there(&self, now: &DiskImage) -> BTreeSet<Kind> {
        let forge = Forge::new(vec![now.clone()]);
        let kinds = forge.kinds();
        let freed = forge.freed();
        let in_use = |at: u64| {
            if !(2..DISK - 2).contains(&at) {
                return Some(Kind::Superblock);
            }
            let listed =
                freed.iter().any(|&(start, blocks)| (start..start.saturating_add(blocks)).contains(&at));
            kinds.get(&at).copied().filter(|kind| *kind != Kind::Log && !listed)
        };
        let damaged = self.blocks.iter().filter(|(at, _, bytes)| now.block(*at) == *bytes);
        damaged.filter_map(|(at, ..)| in_use(*at)).collect()
    }
}

/// Everything that is done to each block.
fn cases(victim: &Victim) -> Vec<Case> {
    let places = victim.places();
    let mut rng = Rng::new(7);
    let mut cases = Vec::new();
    let written: Vec<u64> = places.keys().copied().collect();
    for (&at, &kind) in &places {
        let now = victim.image.block(at);
        let mut one = |what: &str, bytes: [u8; BLOCK_SIZE]| {
            if bytes != now {
                let what = format!("block {at} ({kind:?}) {what}");
                cases.push(Case { what, blocks: vec![(at, kind, bytes)] });
            }
        };
        let mut rubbish = [0; BLOCK_SIZE];
        rubbish.iter_mut().for_each(|byte| *byte = rng.draw() as u8);
        one("is rubbish", rubbish);
        one("is zeros", [0; BLOCK_SIZE]);
        for bit in [0, rng.below(BLOCK_SIZE as u64 * 8)] {
            let mut flipped = now;
            flipped[bit as usize / 8] ^= 1 << (bit % 8);
            one(&format!("has bit {bit} flipped"), flipped);
        }
        let mut older: Vec<[u8; BLOCK_SIZE]> = victim.earlier.iter().map(|image| image.block(at)).collect();
        older.dedup();
        older.into_iter().for_each(|bytes| one("is as it was earlier", bytes));
        let others = |same: bool| {
            let alike = |other: &&u64| **other != at && (places[*other] == kind) == same;
            written.iter().filter(alike).copied().collect::<Vec<u64>>()
        };
        for same in [true, false] {
            let others = others(same);
            for _ in 0..2 {
                if others.is_empty() {
                    continue;
                }
                let other = *rng.pick(&others);
                let theirs = victim.image.block(other);
                if theirs != now {
                    let what = format!(
                        "block {at} ({kind:?}) and block {other} ({:?}) changed places",
                        places[&other]
                    );
                    let blocks = vec![(at, kind, theirs), (other, places[&other], now)];
                    cases.push(Case { what, blocks });
                }
            }
        }
    }
    cases
}

/// Reads blocks together, and each by itself where that fails.
async fn read_each(image: &Image<Disk>, wanted: &[u64]) -> Vec<(u64, Result<Option<Block>>)> {
    let mut shown = Vec::new();
    for run in wanted.chunks(STRETCH) {
        let (first, count) = (run[0], run.len() as u64);
        assert!(run.is_sorted_by(|a, b| a + 1 == *b));
        match image.read(BlockIndex(first), count).await {
            Ok(blocks) => shown.extend(run.iter().copied().zip(blocks.into_iter().map(Ok))),
            Err(_) => {
                for &at in run {
                    let read = image.read(BlockIndex(at), 1).await;
                    shown.push((at, read.map(|mut blocks| blocks.remove(0))));
                }
            }
        }
    }
    shown
}

/// What reading everything has shown.
struct Seen {
    /// Which states of the log it could be.
    possible: BTreeSet<usize>,
    /// What opened, and which of its blocks cannot be read.
    unreadable: BTreeMap<Contents, BTreeSet<u64>>,
}

/// The blocks that are read of contents of so many.
fn looked_at(size: usize) -> Vec<u64> {
    (0..110).chain(128 * 128..128 * 128 + 40).filter(|at| *at < size as u64).collect()
}

/// Reads everything.
fn look(victim: &mut Victim, case: &Case) -> Seen {
    let pool = victim.story.world.pool();
    let mut possible: BTreeSet<usize> = (0..victim.history.len()).collect();
    let mut unreadable: BTreeMap<Contents, BTreeSet<u64>> = BTreeMap::new();
    let (contents, history, needs) = (&victim.story.world.contents, &victim.history, &victim.needs);
    let what = &case.what;
    let executor = &mut victim.story.world.executor;
    executor.run(async {
        for ((volume, point), (opened, blocks)) in needs {
            let image = match pool.open_image(&name(volume), point.as_deref().map(name).as_ref()).await {
                Ok(image) => image,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
                    let excused = opened.iter().any(|at| case.damaged(*at));
                    assert!(
                        excused,
                        "{what}: {volume} {point:?} does not open: {error} {:?}",
                        error.observations()
                    );
                    continue;
                }
            };
            let lost = unreadable.entry((volume.clone(), point.clone())).or_default();
            for (at, read) in read_each(&image, &looked_at(blocks.len())).await {
                let shown = match read {
                    Ok(block) => block.as_ref().map(|bytes| {
                        contents.identify(bytes).unwrap_or_else(|| panic!("{what}: bytes that nobody wrote"))
                    }),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
                        let path = blocks[at as usize].iter().chain(opened);
                        let excused = path.copied().any(|at| case.damaged(at));
                        let told = format!("{error} {:?}", error.observations());
                        assert!(excused, "{what}: block {at} of {volume} {point:?} is not served: {told}");
                        assert!(told.contains("vd0"), "{what}: {told}");
                        lost.insert(at);
                        continue;
                    }
                };
                let known = |state: &State| {
                    let known = &state.volumes[volume];
                    let map = match point {
                        None => &known.head,
                        Some(point) => known.points[point].image.as_ref().expect("a checkpoint"),
                    };
                    map.get(at).content
                };
                possible.retain(|n| known(&history[*n]) == shown);
                assert!(!possible.is_empty(), "{what}: block {at} of {volume} {point:?} holds {shown:?}");
            }
        }
    });
    Seen { possible, unreadable }
}

/// The contents and blocks that a finding names as lost; one of the object table, the free map, or anything else names none.
fn named_lost(finding: &str) -> Option<(Contents, RangeInclusive<u64>)> {
    let (lost, _) = finding.split_once(": ").filter(|(_, why)| why.contains("cannot be read"))?;
    let (whose, range) = lost.split_once(", blocks ")?;
    let (first, last) = range.split_once(" to ")?;
    let contents = match whose.strip_prefix("checkpoint ") {
        Some(checkpoint) => {
            let (point, volume) = checkpoint.split_once(" of volume ")?;
            (volume.to_owned(), Some(point.to_owned()))
        }
        None => (whose.strip_prefix("volume ")?.to_owned(), None),
    };
    let number = |text: &str| text.parse::<u64>().expect("a block's number");
    Some((contents, number(first)..=number(last)))
}

/// Where a node is lost, the check names the contents it belongs to and exactly the blocks that cannot be read there any more;
/// blocks of others that share it are among those. Returns how many such blocks there were.
fn demand_names(
    victim: &Victim,
    case: &Case,
    unreadable: &BTreeMap<Contents, BTreeSet<u64>>,
    told: &[String],
) -> u64 {
    let what = &case.what;
    let named: Vec<_> = told.iter().filter_map(|finding| named_lost(finding)).collect();
    for (contents, range) in &named {
        let Some(lost) = unreadable.get(contents) else { continue };
        let mut within =
            looked_at(victim.needs[contents].1.len()).into_iter().filter(|at| range.contains(at));
        assert!(within.all(|at| lost.contains(&at)), "{what}: {contents:?} can be read within {range:?}");
    }
    let node_lost = |at: &u64| case.damaged(*at) && matches!(victim.kinds.get(at), Some(Kind::Node(_)));
    let mut counted = 0;
    for (contents, lost) in unreadable {
        let (_, paths) = &victim.needs[contents];
        for &at in lost.iter().filter(|at| paths[**at as usize].iter().any(node_lost)) {
            let among = named.iter().any(|(_, range)| range.contains(&at));
            assert!(among, "{what}: nothing names block {at} of {contents:?} as lost: {told:?}");
            counted += 1;
        }
    }
    counted
}

/// What a check, or a scrub, finds (one that the damage stops has found it), and what of the damage was before it.
fn found_by(victim: &mut Victim, case: &Case, data: bool) -> (Vec<String>, BTreeSet<Kind>) {
    let report = victim.story.world.call(async |pool| match data {
        true => pool.scrub(&Progress::new()).await,
        false => pool.check(&Progress::new()).await,
    });
    let told = report.map_or_else(
        |error| {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{}: {error}", case.what);
            vec![error.to_string()]
        },
        |report| report.findings,
    );
    (told, case.still_there(&victim.story.world.disks[0].inner().visible()))
}

/// What cases came to.
#[derive(Default)]
struct Tally {
    /// By the kind of the block damaged first.
    cases: BTreeMap<Option<Kind>, u64>,
    /// Those in which metadata that was in use was damaged when the check came.
    of_metadata: u64,
    /// Blocks that could not be read because a node above them was lost.
    below_nodes: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        other.cases.into_iter().for_each(|(kind, count)| *self.cases.entry(kind).or_default() += count);
        self.of_metadata += other.of_metadata;
        self.below_nodes += other.below_nodes;
    }
}

/// Opens the pool on the damage, and demands what is promised.
fn judge(victim: &mut Victim, case: &Case, tally: &mut Tally) {
    let what = &case.what;
    let mut image = victim.image.clone();
    for (at, _, bytes) in &case.blocks {
        image.alter(*at, |block| *block = *bytes);
    }
    victim.story.world.power_off(PowerLoss::Nothing);
    victim.story.world.power_on(vec![image]);
    victim.story.world.open().unwrap_or_else(|error| panic!("{what}: the pool does not open: {error}"));
    let Seen { possible, unreadable } = look(victim, case);
    let status = victim.story.world.pool().status();
    let newest = victim.history.len() - 1;
    let silent = status.read_only.is_none();
    if silent && !possible.contains(&newest) {
        assert!(
            case.may_be_silent(victim) && possible.contains(&(newest - 1)),
            "{what}: {possible:?} without a word"
        );
    }
    let (told, damage) = found_by(victim, case, false);
    let metadata = damage.iter().any(|kind| *kind != Kind::Data);
    assert!(!told.is_empty() || !metadata, "{what}: the check finds nothing of {damage:?}");
    tally.below_nodes += demand_names(victim, case, &unreadable, &told);
    let (told, damage) = found_by(victim, case, true);
    assert!(!told.is_empty() || damage.is_empty(), "{what}: the scrub finds nothing of {damage:?}");
    // Where nothing is found, nothing is wrong: everything is served.
    if told.is_empty() && silent {
        let nothing = Case { what: what.clone(), blocks: Vec::new() };
        look(victim, &nothing);
    }
    *tally.cases.entry(case.blocks[0].1).or_default() += 1;
    tally.of_metadata += u64::from(metadata);
}

#[test]
fn every_block_damaged_in_every_way() {
    let share = |worker: usize| {
        let mut victim = Victim::new();
        let cases = cases(&victim);
        let mut tally = Tally::default();
        for case in cases.iter().skip(worker).step_by(WORKERS) {
            judge(&mut victim, case, &mut tally);
        }
        tally
    };
    let mut all = Tally::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|worker| scope.spawn(move || share(worker))).collect();
        for worker in workers {
            all.add(worker.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause)));
        }
    });
    let Tally { cases, of_metadata, below_nodes } = all;
    let total: u64 = cases.values().sum();
    println!(
        "{total} cases: {cases:?}; {of_metadata} with damaged metadata, {below_nodes} blocks below lost nodes"
    );
    assert!(total > 2000 && cases.len() == 11, "{total} cases: {cases:?}");
    assert!(of_metadata > 900 && below_nodes > 10_000, "{of_metadata} cases, {below_nodes} blocks");
}

/// A free map that is whole and wrong: each of its bits turned over, with checksums that fit.
#[test]
fn every_wrong_bit_of_the_free_map_is_found() {
    let mut victim = Victim::new();
    let sound = Forge::new(vec![victim.image.clone()]);
    let bitmaps = sound.of_kind(Kind::Bitmap);
    let [bitmap] = bitmaps[..] else { panic!("a small disk has one bitmap: {bitmaps:?}") };
    victim.story.world.forged = true;
    let in_use = |at: u64| sound.block(bitmap)[at as usize / 8] >> (at % 8) & 1 == 1;
    // All that is in use but the log's ring, of which, as of what is free, some will do.
    let chosen = |at: &u64| (in_use(*at) && !(20..250).contains(at)) || at.is_multiple_of(16);
    let mut flipped = 0;
    for at in (0..DISK).filter(chosen) {
        let mut forge = Forge::new(vec![victim.image.clone()]);
        forge.alter(bitmap, |bits| bits[at as usize / 8] ^= 1 << (at % 8));
        victim.story.world.power_off(PowerLoss::Nothing);
        victim.story.world.power_on(forge.finish());
        victim.story.world.open().unwrap_or_else(|error| panic!("bit {at}: {error}"));
        let told = victim.story.world.pool().status().read_only;
        let check = victim.story.world.call(async |pool| pool.check(&Progress::new()).await);
        let found = check.map_or(true, |report| report.errors > 0);
        assert!(found || told.is_some(), "bit {at}, which was {}: nothing is found", in_use(at));
        flipped += 1;
    }
    assert!(flipped > 400, "{flipped} bits");
}
