//! Making a pool on blank disks. Its first commit makes it one: before that it can be told from a pool and from a
//! foreign disk.

use crate::device::BlockDevice;
use crate::engine::Engine;
use crate::error::Result;
use crate::format::Pointer;
use crate::format::owner::{Mark, OWNER_BLOCKS};
use crate::format::superblock::{FreedQueue, LogPosition, SLOTS, Superblock};
use crate::limits::MEMBERS_MAX;
use crate::pool::{Config, NewPool};
use crate::probe::{Probe, probe, refuse};
use crate::shell::Shell;
use crate::space::Urgency;
use crate::transaction::Transaction;
use crate::types::Epoch;
use alloc::rc::Rc;
use alloc::vec::Vec;

/// Makes a pool; see [`crate::Pool::create`].
pub(crate) async fn create<D: BlockDevice>(
    devices: Vec<D>,
    new: NewPool,
    config: Config,
) -> Result<Rc<Shell<D>>> {
    if !(1..=MEMBERS_MAX).contains(&devices.len()) {
        return refuse(format_args!("a pool has 1 to {MEMBERS_MAX} disks; {} were given", devices.len()));
    }
    for device in &devices {
        let name = device.name();
        if device.geometry().read_only {
            return refuse(format_args!("disk {name} is read-only; attach it writable"));
        }
        match probe(device).await? {
            Probe::Blank | Probe::Unfinished { .. } => {}
            Probe::TooSmall => {
                return refuse(format_args!("disk {name} is too small; a member needs 16 MiB"));
            }
            Probe::Member { name: pool, .. } => {
                return refuse(format_args!("disk {name} belongs to pool {pool}; use another disk"));
            }
            Probe::Foreign(what) => {
                return refuse(format_args!("disk {name} is {what}; erase it first, or use another disk"));
            }
        }
    }
    let members: Vec<u64> = devices.iter().map(|device| device.geometry().blocks).collect();
    let superblock = first_superblock(&new, &members);
    let engine = Engine::new(superblock.clone(), config, new.incarnation);
    let shell = Shell::new(devices, engine);
    shell.write_superblocks(&superblock, |_| true).await?;
    shell.mark_owner(Mark { who: new.incarnation, answered: 0 }).await?;
    shell.engine.borrow_mut().lay_out(&superblock);
    let root = |engine: &mut Engine| {
        let mut transaction = Transaction::new(engine);
        transaction.set_root(Default::default())?;
        transaction.finish(Urgency::Administration)?.apply(engine);
        Ok(())
    };
    shell.run(root).await?;
    shell.commit(false, None).await?;
    Ok(shell)
}

fn first_superblock(new: &NewPool, members: &[u64]) -> Superblock {
    Superblock {
        pool: new.id,
        name: new.name.clone(),
        member: 0,
        commit: 0,
        epoch: Epoch(1),
        created: new.time,
        objects: Pointer::default(),
        map: Pointer::default(),
        log_generation: 1,
        log: LogPosition { block: 0, sequence: 1, chain: 0 },
        log_first: SLOTS + OWNER_BLOCKS,
        log_blocks: (members[0] / 64).clamp(256, 8_192),
        freed: FreedQueue::default(),
        next_object: 2,
        members: members.to_vec(),
        features: [0; 3],
    }
}

impl Engine {
    fn lay_out(&mut self, superblock: &Superblock) {
        let space = &mut self.forest.space;
        for run in superblock.system_runs() {
            let new = space.taken.insert(run) && space.allocated.insert(run);
            self.forest.witness.demand(new, "the places of superblocks, marks and log overlap");
        }
    }
}
