//! Opening a pool after whatever happened.
//!
//! Its members are put in order, and the newest superblock valid on any of them is where the pool stood; then the log is
//! replayed ([`crate::replay`]). It ends with a durable commit and a new log generation, and may be cut off at any point.

use crate::counters::next;
use crate::device::BlockDevice;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::format::owner::Mark;
use crate::format::superblock::{Defect, LogPosition, Superblock};
use crate::limits::MEMBER_BLOCKS_MIN;
use crate::pool::Config;
use crate::probe::{CONTRADICTORY, newest_superblock, refuse};
use crate::replay::replay;
use crate::shell::Shell;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

/// Opens a pool; see [`crate::Pool::open`].
pub(crate) async fn open<D: BlockDevice>(
    devices: Vec<D>,
    incarnation: u64,
    config: Config,
) -> Result<Rc<Shell<D>>> {
    let (members, superblock) = assemble(devices).await?;
    let reads_before = members.len() as u64 * 4;
    let obstacle = obstacle(&members, &superblock);
    let behind: Vec<bool> = members.iter().map(|member| member.commit < superblock.commit).collect();
    let devices = members.into_iter().map(|member| member.device).collect();
    let engine = Engine::new(superblock, config, incarnation);
    let shell = Shell::new(devices, engine);
    shell.engine.borrow_mut().counters.device_reads = reads_before;
    shell.engine.borrow_mut().failed = obstacle;
    // Where this fails, so does the commit at the end, and says why.
    let _figures_for_the_status = shell.run(Engine::count_by_member).await;
    if let Some(loss) = restore(&shell, &behind).await {
        shell.engine.borrow_mut().failed.get_or_insert(loss);
    }
    let generation = next(shell.engine.borrow().superblock.log_generation, "numbers of openings");
    if let Err(error) = &generation
        && shell.engine.borrow().failed.is_none()
    {
        shell.latch(error);
    }
    if shell.engine.borrow().failed.is_none() {
        let log = {
            let mut engine = shell.engine.borrow_mut();
            engine.superblock.log_generation = generation?;
            engine.forest.space.drop_claims();
            let sequence = engine.journal.position.sequence;
            let log = LogPosition { block: 0, sequence, chain: 0 };
            engine.journal.position = log;
            log
        };
        // Where this fails the pool stands read-only as of what was replayed, and its status says why.
        if shell.commit(false, None).await.is_ok() {
            assert!(shell.engine.borrow().superblock.log == log);
        }
    }
    let mut engine = shell.engine.borrow_mut();
    engine.counters.open_reads = engine.counters.device_reads;
    drop(engine);
    Ok(shell)
}

/// What keeps this pool, as these disks have it, from being written to.
fn obstacle<D: BlockDevice>(members: &[Member<D>], newest: &Superblock) -> Option<Error> {
    if let Some(member) = members.iter().find(|member| member.device.geometry().read_only) {
        let disk = member.device.name();
        let message = format_args!("disk {disk} is read-only; attach it writable to change anything");
        return Some(Error::new(ErrorKind::ReadOnly, message));
    }
    if !newest.writable() {
        let message = "a later version of Datum made this pool; this one can only read it";
        return Some(Error::new(ErrorKind::ReadOnly, message));
    }
    // The superblocks of a commit are written once those of the one before are on every member.
    let (member, lacks) =
        members.iter().map(|member| (member, newest.commit - member.commit)).find(|(_, lacks)| *lacks > 1)?;
    let disk = member.device.name();
    let message = format_args!(
        "disk {disk} is of an older day than the other disks of the pool; attach it as it was last, or copy what can be read"
    );
    Some(
        Error::new(ErrorKind::ReadOnly, message)
            .observed(format_args!("disk {disk} lacks the last {lacks} commits")),
    )
}

/// Brings memory to where the pool stood. Returns what keeps it from being written to, if anything does:
/// then it is as of what could be restored. `behind`: whether a member lacks the newest commit.
async fn restore<D: BlockDevice>(shell: &Rc<Shell<D>>, behind: &[bool]) -> Option<Error> {
    let damaged = |error: Error| {
        let message = format_args!("the pool was opened read-only: {}", error.message());
        let observations = error.observations().iter();
        observations.fold(Error::new(ErrorKind::ReadOnly, message), |e, o| e.observed(o))
    };
    let writable = shell.engine.borrow().failed.is_none();
    // What can be read is restored all the same: the log holds what was acknowledged.
    if writable && let Err(error) = take_possession(shell, behind).await {
        shell.engine.borrow_mut().failed = Some(damaged(error));
    }
    if let Err(error) = shell.run(Engine::resume_sweep).await {
        return Some(damaged(error));
    }
    // Before the replay: what it overwrites is freed by how far the release had come.
    if let Err(error) = shell.run(Engine::resume_release).await {
        return Some(damaged(error));
    }
    shell.engine.borrow_mut().forest.space.replaying = true;
    let loss = replay(shell).await;
    shell.engine.borrow_mut().forest.space.replaying = false;
    loss.unwrap_or_else(|error| Some(damaged(error)))
}

/// Writes what must be on the disks before anything is built on them.
async fn take_possession<D: BlockDevice>(shell: &Shell<D>, behind: &[bool]) -> Result<()> {
    let (who, newest) = {
        let engine = shell.engine.borrow();
        (engine.incarnation, engine.superblock.clone())
    };
    shell.mark_owner(Mark { who, answered: 0 }).await?;
    // What an earlier life wrote may still be in the devices' caches, where this one would build on it.
    (0..shell.devices.len()).for_each(|member| shell.note_written(member));
    shell.flush_members().await?;
    // A crash or a bad disk kept the newest commit from some members. With the next one they would lack two, and that is the
    // mark of an older day.
    shell.write_superblocks(&newest, |member| behind[member]).await
}

/// A disk of the pool.
struct Member<D> {
    device: D,
    /// The newest commit that it knows.
    commit: u64,
}

/// Puts the members in order and finds the newest superblock of all.
async fn assemble<D: BlockDevice>(devices: Vec<D>) -> Result<(Vec<Member<D>>, Superblock)> {
    let mut found: Vec<(D, Superblock)> = Vec::new();
    for device in devices {
        let name = String::from(device.name());
        if device.geometry().blocks < MEMBER_BLOCKS_MIN {
            return refuse(format_args!("disk {name} is too small to be a member; attach the right disk"));
        }
        match newest_superblock(&device).await? {
            // An older one may be sound; to go back to it would lose what was acknowledged since.
            (_, Some(Defect::Contradictory)) => {
                return refuse(format_args!("disk {name} is {CONTRADICTORY}; restore the disk"));
            }
            (Some(superblock), _) => found.push((device, superblock)),
            (None, Some(Defect::Unknown)) => {
                return refuse(format_args!(
                    "disk {name} belongs to a later version of Datum; use that version"
                ));
            }
            (None, Some(_)) => {
                return refuse(format_args!("all superblocks of disk {name} are damaged; restore the disk"));
            }
            (None, None) => {
                return refuse(format_args!("disk {name} is no member of a pool; attach the right disk"));
            }
        }
    }
    let Some(newest) = found.iter().map(|(_, s)| s).max_by_key(|s| s.commit).cloned() else {
        return refuse("no disk belongs to a pool; create one with pool.create");
    };
    if newest.commit == 0 {
        return refuse("the creation of this pool did not finish; create it again with pool.create");
    }
    let mut members: Vec<Option<Member<D>>> = newest.members.iter().map(|_| None).collect();
    for (device, superblock) in found {
        let name = device.name();
        if superblock.pool != newest.pool {
            return refuse(format_args!(
                "disk {name} belongs to pool {}, not to {}; detach it",
                superblock.name, newest.name
            ));
        }
        let index = usize::from(superblock.member);
        let Some(expected) = newest.members.get(index) else {
            return refuse(format_args!(
                "disk {name} claims to be member {index}, which the pool does not have"
            ));
        };
        if device.geometry().blocks < *expected {
            return refuse(format_args!(
                "disk {name} has shrunk from {expected} blocks to {}; restore its size",
                device.geometry().blocks
            ));
        }
        if let Some(twin) = &members[index] {
            return refuse(format_args!(
                "disks {} and {name} are copies of the same member; detach one",
                twin.device.name()
            ));
        }
        members[index] = Some(Member { device, commit: superblock.commit });
    }
    let count = members.len();
    let mut complete = Vec::new();
    for (index, member) in members.into_iter().enumerate() {
        match member {
            Some(member) => complete.push(member),
            None => {
                return refuse(format_args!(
                    "member {index} of {count} of pool {} is missing; attach its disk",
                    newest.name
                ));
            }
        }
    }
    Ok((complete, newest))
}
