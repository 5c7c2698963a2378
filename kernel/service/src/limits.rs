//! Every bound of the service, in one place; those of the languages are in `datum_protocol::limits`.

/// Blocks that one step of a READ or WRITE moves. Payloads of any length pass in steps of this size, so that
/// sixteen clients fit in a machine of 64 MiB.
pub const CHUNK_BLOCKS: usize = 64;

/// Requests under way in one NBD session; further ones wait in the port.
pub const REQUESTS_PER_SESSION: usize = 64;

/// Least memory for payloads under way that all sessions share, in blocks. Beside it, each session owns one
/// chunk a direction, so that none waits for another's client.
pub const SHARED_BLOCKS_MIN: usize = 4 * CHUNK_BLOCKS;

/// Extents in one BLOCK_STATUS reply, over all contexts.
pub const STATUS_EXTENTS_MAX: usize = 2048;

/// Memory that a BLOCK_STATUS under way counts for, in blocks: its extents as the store gives them and as they go out.
pub const STATUS_BLOCKS: usize = 32;

/// Turns of all other tasks for which a READ that is half answered waits for memory.
pub const MEMORY_TURNS: usize = 10_000;

/// Checkpoints that one message of a NBD LIST names.
pub const EXPORTS_PER_MESSAGE: usize = 40;

/// Exports that a NBD LIST names; more can be opened by name.
pub const EXPORTS_LISTED_MAX: usize = 4096;

/// Items in a list reply where the request does not say.
pub const LIST_DEFAULT: usize = 100;

/// Most items in a list reply. The store is asked for one more, to learn whether there is a next page.
pub const LIST_MAX: usize = 500;
const _: () = assert!(LIST_MAX < datum_store::limits::LIST_MAX);

/// Extents in a `changes.query` or `allocated.query` reply where the request does not say.
pub const EXTENTS_DEFAULT: usize = 1000;

/// Most extents in a `changes.query` or `allocated.query` reply.
pub const EXTENTS_MAX: usize = 4096;

/// Ended jobs that are remembered.
pub const JOBS_ENDED_MAX: usize = 256;

/// Jobs that may run or wait at once.
pub const JOBS_ACTIVE_MAX: usize = 1024;

/// Events that wait for one slow subscriber before further ones count as lost.
pub const EVENTS_QUEUED_MAX: usize = 256;

/// Disks in one machine that the service will look at.
pub const DISKS_MAX: usize = 64;

/// How long written data may stay outside a commit.
pub const COMMIT_INTERVAL_NANOSECONDS: u64 = 5_000_000_000;

/// How often an appliance looks whether another one asks for its pool, or has taken it over.
pub const GUARD_INTERVAL_NANOSECONDS: u64 = 250_000_000;

/// How long such a look may take before nothing is acknowledged as durable any more until it is done.
pub const LOOK_NANOSECONDS: u64 = 750_000_000;
// A look that just missed the question, and the next one, are over or overdue before the other one takes the pool.
const _: () = assert!(2 * LOOK_NANOSECONDS + GUARD_INTERVAL_NANOSECONDS < CHALLENGE_NANOSECONDS);

/// How long an appliance that finds a pool not closed waits for an answer from whoever has it open.
pub const CHALLENGE_NANOSECONDS: u64 = 2_000_000_000;

/// How often it looks for the answer.
pub const ANSWER_INTERVAL_NANOSECONDS: u64 = 50_000_000;

/// How often the pool is looked at for a turn to read-only.
pub const WATCH_INTERVAL_NANOSECONDS: u64 = 1_000_000_000;

/// How long a step of background work waits at most while clients are busy, and for how long nobody must have come before
/// it goes on without waiting. Timers cost a guest more than looking at a pointer does, so few are better than many.
pub const BACKGROUND_PAUSE_NANOSECONDS: u64 = 10_000_000;

/// How often a job that waits for the store looks again.
pub const JOB_POLL_NANOSECONDS: u64 = 100_000_000;

/// How long a job that returns space waits for readers of what it returns, who may stay for days. What only a checkpoint or
/// volume holds is not waited for at all.
pub const READERS_PATIENCE_NANOSECONDS: u64 = 10_000_000_000;

/// How long `pool.status` looks for what holds space before it answers without.
pub const HELD_LOOK_NANOSECONDS: u64 = 1_000_000_000;

/// What an answer gets to reach its client before the machine goes down.
pub const POWER_DELAY_NANOSECONDS: u64 = 200_000_000;
