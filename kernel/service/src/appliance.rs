//! The appliance as a whole: its disks, its pool or the reason why there is none, and who serves whom.
//!
//! Without a pool every port still answers; what needs the pool says what is missing and the way out. While
//! disks are being found and the pool is being opened, what needs them waits.

use crate::answer::Answer;
use crate::buffers::Buffers;
use crate::commands;
use crate::disks::{Disk, Disks, FoundDisks, Members, chain, random_identity};
use crate::environment::Environment;
use crate::events::{Event, Events, Stopping};
use crate::health::Health;
use crate::jobs::Jobs;
use crate::limits::{
    ANSWER_INTERVAL_NANOSECONDS, BACKGROUND_PAUSE_NANOSECONDS, CHALLENGE_NANOSECONDS,
    COMMIT_INTERVAL_NANOSECONDS, GUARD_INTERVAL_NANOSECONDS, LOOK_NANOSECONDS, WATCH_INTERVAL_NANOSECONDS,
};
use crate::port::Port;
use crate::sessions::{Session, Sessions};
use crate::signal::Signal;
use crate::tasks::Tasks;
use crate::{console, control, nbd};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, OnceCell, RefCell};
use core::future::Future;
use datum_protocol::control::{Command, ErrorObject};
use datum_store::device::BlockDevice;
use datum_store::{Challenge, Config, Error, ErrorKind, Name, NewPool, Pool, Result};

/// The pool's name where nobody gave one.
pub(crate) const DEFAULT_POOL_NAME: &str = "datum";

/// What to do about a pool at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolOption {
    /// Open the pool that is found.
    #[default]
    Open,
    /// As `Open`; where every disk is blank, make one of all of them.
    Auto,
    /// Neither.
    None,
}

impl PoolOption {
    /// The value of `pool=` on the kernel command line.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "open" => Some(Self::Open),
            "auto" => Some(Self::Auto),
            "none" => Some(Self::None),
            _ => None,
        }
    }
}

/// What to do about a pool that was not closed: its appliance may have lost power, or be running still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Takeover {
    /// Ask it, and wait two seconds for an answer.
    #[default]
    Wait,
    /// Open the pool at once: the operator knows that nobody has it.
    Now,
}

impl Takeover {
    /// The value of `takeover=` on the kernel command line.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "wait" => Some(Self::Wait),
            "now" => Some(Self::Now),
            _ => None,
        }
    }
}

/// What an appliance is made of, beside its disks.
pub struct Setup<E> {
    /// `pool=`.
    pub pool: PoolOption,
    /// `takeover=`.
    pub takeover: Takeover,
    /// Time, randomness and power.
    pub environment: E,
    /// The product's version.
    pub version: String,
    /// Metadata blocks the pool may hold in memory.
    pub cache_blocks: usize,
    /// Bytes that payloads under way may take in all, beside 512 KiB a session.
    pub buffer_bytes: u64,
}

pub(crate) enum PoolState<D: BlockDevice> {
    Opening,
    Absent(Error),
    Open(Pool<Disk<D>>),
}

/// The appliance. Share it through an [`Rc`]; spawn [`Appliance::start`], [`Appliance::background`] and one
/// `serve_*` a port.
pub struct Appliance<D: BlockDevice, E: Environment> {
    pub(crate) environment: E,
    disks: OnceCell<Disks<D>>,
    pub(crate) version: String,
    pub(crate) tasks: Tasks,
    pub(crate) buffers: Rc<Buffers>,
    pub(crate) events: Events,
    pub(crate) jobs: Jobs,
    pub(crate) health: Health,
    pub(crate) sessions: Sessions,
    pub(crate) started: u64,
    /// When the first control client was greeted, since the machine's start; 0 before.
    pub(crate) greeted: Cell<u64>,
    /// Nanoseconds that opening the pool took, without the wait for another appliance's answer.
    pub(crate) opening: Cell<u64>,
    option: PoolOption,
    takeover: Takeover,
    config: Config,
    pool: RefCell<PoolState<D>>,
    creating: Cell<bool>,
    stopping: Cell<Option<Stopping>>,
    changed: Signal,
}

impl<D: BlockDevice + 'static, E: Environment + 'static> Appliance<D, E> {
    /// Puts the parts together.
    pub fn new(setup: Setup<E>) -> Rc<Self> {
        let environment = setup.environment;
        Rc::new(Self {
            disks: OnceCell::new(),
            version: setup.version,
            tasks: Tasks::default(),
            buffers: Buffers::new(setup.buffer_bytes),
            events: Events::default(),
            jobs: Jobs::new(environment.random()),
            health: Health::default(),
            sessions: Sessions::default(),
            started: environment.monotonic_nanoseconds(),
            greeted: Cell::new(0),
            opening: Cell::new(0),
            option: setup.pool,
            takeover: setup.takeover,
            config: Config::new(setup.cache_blocks),
            pool: RefCell::new(PoolState::Opening),
            creating: Cell::new(false),
            stopping: Cell::new(None),
            changed: Signal::default(),
            environment,
        })
    }

    /// Looks at the disks, which are given once, and opens or makes the pool. Returns what came of it, as a sentence for the
    /// boot log.
    pub async fn start(self: &Rc<Self>, found: FoundDisks<D>) -> String {
        let disks = self.disks.get_or_init(|| Disks::new(found));
        self.changed.notify();
        disks.look().await;
        let outcome = match (self.option, disks.members()) {
            (PoolOption::None, _) => Err(Error::new(
                ErrorKind::NotFound,
                "the pool was left closed because of pool=none; restart without it, or make one with `pool create`",
            )),
            (_, Ok(members)) => self.open(members).await,
            (_, Err(Members::Unfit(reason))) => Err(Error::new(ErrorKind::Device, reason)),
            (PoolOption::Open, Err(Members::None)) => Err(no_member(disks)),
            (PoolOption::Auto, Err(Members::None)) => self.create_from_all(disks).await,
        };
        match outcome {
            Ok(pool) => {
                let status = pool.status();
                self.adopt(pool);
                match status.read_only {
                    None => format!("pool {} is open", status.name),
                    Some(reason) => format!("pool {} is open read-only: {reason}", status.name),
                }
            }
            Err(error) => {
                let error = explained(disks, error);
                let sentence = format!("no pool: {}", chain(&error));
                self.set(PoolState::Absent(error));
                sentence
            }
        }
    }

    /// Runs requests, jobs, commits and the store's own work; never returns.
    pub async fn background(self: &Rc<Self>) {
        self.tasks.run().await;
    }

    /// Serves NBD on a port; never returns.
    pub async fn serve_nbd<P: Port + 'static>(self: &Rc<Self>, port: P) {
        nbd::serve(self, port).await;
    }

    /// Serves JSON-RPC on a port; never returns.
    pub async fn serve_control<P: Port + 'static>(self: &Rc<Self>, port: P) {
        control::serve(self, port).await;
    }

    /// Serves people on a port; never returns.
    pub async fn serve_console<P: Port + 'static>(self: &Rc<Self>, port: P) {
        console::serve(self, port).await;
    }

    /// The disks, once they have been found.
    pub(crate) async fn disks(&self) -> &Disks<D> {
        self.changed.until(|| self.disks_now()).await
    }

    /// The disks, if they have been found.
    pub(crate) fn disks_now(&self) -> Option<&Disks<D>> {
        self.disks.get()
    }

    /// The pool, once it is known whether there is one.
    pub(crate) async fn pool(&self) -> Result<Pool<Disk<D>>> {
        self.changed.until(|| self.pool_now()).await
    }

    /// The pool as it stands; `None` while it is being opened.
    pub(crate) fn pool_now(&self) -> Option<Result<Pool<Disk<D>>>> {
        match &*self.pool.borrow() {
            PoolState::Opening => None,
            PoolState::Absent(error) => Some(Err(error.clone())),
            PoolState::Open(pool) => Some(Ok(pool.clone())),
        }
    }

    /// Makes a pool of the named disks, on an operator's request.
    pub(crate) async fn create_pool(
        self: &Rc<Self>,
        disks: Vec<Disk<D>>,
        name: Name,
    ) -> Result<Pool<Disk<D>>> {
        if let Ok(pool) = self.pool().await {
            let message = format!(
                "pool {} is open, and an appliance has one pool; start another appliance for the other disks",
                pool.status().name
            );
            return Err(Error::new(ErrorKind::Exists, message));
        }
        if self.creating.replace(true) {
            let message = "a pool is just being made; wait for it, then look at `pool status`";
            return Err(Error::new(ErrorKind::InUse, message));
        }
        let created = self.create(disks, name).await;
        self.creating.set(false);
        let pool = created?;
        self.disks().await.look().await;
        self.adopt(pool.clone());
        Ok(pool)
    }

    /// Whether an error is the reason why there is no pool.
    pub(crate) fn is_why_there_is_no_pool(&self, error: &Error) -> bool {
        matches!(&*self.pool.borrow(), PoolState::Absent(reason) if reason.message() == error.message())
    }

    /// Nothing new is begun from here on: the machine goes down.
    pub(crate) fn stop(&self, reason: Stopping) {
        self.stopping.set(Some(reason));
        self.publish(&Event::SystemStopping { reason });
        self.changed.notify();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get().is_some()
    }

    /// Why the machine goes down, once it does.
    pub(crate) async fn stopped(&self) -> Stopping {
        self.changed.until(|| self.stopping.get()).await
    }

    /// Nanoseconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.environment.unix_time_nanoseconds()
    }

    pub(crate) fn publish(&self, event: &Event) {
        self.events.publish(self.now(), event);
    }

    pub(crate) fn open_session(&self, port: &str, kind: &'static str) -> Rc<Session> {
        let session = self.sessions.open(port, kind, self.now());
        self.publish(&Event::SessionOpened { session: session.id.to_string(), port: port.into(), kind });
        session
    }

    pub(crate) fn close_session(&self, session: &Session) {
        self.sessions.close(session);
        let (id, port) = (session.id.to_string(), session.port.clone());
        self.publish(&Event::SessionClosed { session: id, port, kind: session.kind });
    }

    /// Runs a command to its end, whether or not its client stays.
    pub(crate) fn execute(
        self: &Rc<Self>,
        command: Command,
    ) -> impl Future<Output = Result<Answer, ErrorObject>> {
        let appliance = self.clone();
        self.tasks.call(async move { commands::execute(&appliance, command).await })
    }

    async fn open(&self, members: Vec<Disk<D>>) -> Result<Pool<Disk<D>>> {
        let incarnation = self.environment.random();
        if self.takeover == Takeover::Wait {
            self.challenge(&members, incarnation).await?;
        }
        let begun = self.environment.monotonic_nanoseconds();
        let opened = Pool::open(members, incarnation, self.config).await;
        self.opening.set(self.environment.monotonic_nanoseconds() - begun);
        opened
    }

    /// Makes sure that no other appliance has the pool open.
    async fn challenge(&self, members: &[Disk<D>], incarnation: u64) -> Result<()> {
        let Some(challenge) = Challenge::ask(members, incarnation).await? else { return Ok(()) };
        for _ in 0..CHALLENGE_NANOSECONDS / ANSWER_INTERVAL_NANOSECONDS {
            self.environment.sleep(ANSWER_INTERVAL_NANOSECONDS).await;
            if challenge.is_answered(members).await? {
                let message =
                    "another appliance has the pool open; stop it, or give this one other disks, and restart";
                return Err(Error::new(ErrorKind::InUse, message));
            }
        }
        Ok(())
    }

    async fn create(&self, disks: Vec<Disk<D>>, name: Name) -> Result<Pool<Disk<D>>> {
        let new = NewPool {
            name,
            id: random_identity(&self.environment),
            incarnation: self.environment.random(),
            time: self.now(),
        };
        Pool::create(disks, new, self.config).await
    }

    async fn create_from_all(&self, all: &Disks<D>) -> Result<Pool<Disk<D>>> {
        if all.entries.is_empty() {
            return Err(no_member(all));
        }
        let disks = all.all_blank().map_err(|reason| Error::new(ErrorKind::Device, reason))?;
        let name = Name::new(DEFAULT_POOL_NAME)
            .ok_or_else(|| Error::new(ErrorKind::Invalid, "the default pool name is not a name"))?;
        let pool = self.create(disks, name).await?;
        all.look().await;
        Ok(pool)
    }

    fn set(&self, state: PoolState<D>) {
        *self.pool.borrow_mut() = state;
        self.changed.notify();
    }

    /// Takes a pool into service.
    fn adopt(self: &Rc<Self>, pool: Pool<Disk<D>>) {
        let (appliance, worked) = (self.clone(), pool.clone());
        self.tasks.spawn(async move {
            let pause = async || appliance.environment.sleep(BACKGROUND_PAUSE_NANOSECONDS).await;
            worked.background(pause).await
        });
        let (appliance, guarded) = (self.clone(), pool.clone());
        self.tasks.spawn(async move { appliance.guard(&guarded).await });
        let appliance = self.clone();
        let watched = pool.clone();
        self.tasks.spawn(async move { appliance.watch(&watched).await });
        self.publish(&Event::PoolOpened { name: pool.status().name.to_string() });
        self.set(PoolState::Open(pool));
    }

    /// Answers other appliances that ask for the pool, for as long as it is this one's.
    async fn guard(&self, pool: &Pool<Disk<D>>) {
        let lost = |error: Error| error.kind() == ErrorKind::ReadOnly;
        while !pool.guard(self.environment.sleep(LOOK_NANOSECONDS)).await.is_err_and(lost) {
            self.environment.sleep(GUARD_INTERVAL_NANOSECONDS).await;
        }
    }

    /// Commits by time, and says so when the pool stops taking writes, and where reads have met damage.
    async fn watch(&self, pool: &Pool<Disk<D>>) {
        let mut announced = false;
        let mut told = 0;
        let mut waited = 0;
        loop {
            self.environment.sleep(WATCH_INTERVAL_NANOSECONDS).await;
            waited += WATCH_INTERVAL_NANOSECONDS;
            let status = pool.status();
            told = self.tell_of_damage(&status, told);
            if let Some(reason) = status.read_only
                && !announced
            {
                announced = true;
                self.publish(&Event::PoolReadOnly { reason });
            }
            if waited >= COMMIT_INTERVAL_NANOSECONDS {
                waited = 0;
                // A commit that fails turns the pool read-only, which the next round announces.
                let _ = if pool.is_dirty() { pool.commit().await } else { Ok(()) };
            }
        }
    }
}

fn no_member<D: BlockDevice>(disks: &Disks<D>) -> Error {
    let message = match disks.entries.is_empty() {
        true => "no disk was found; attach at least one virtio-blk disk and restart",
        false => "no disk carries a pool; make one with `pool create`, or restart with pool=auto",
    };
    Error::new(ErrorKind::NotFound, message)
}

/// Adds what is known of the disks that are not in use.
fn explained<D: BlockDevice>(disks: &Disks<D>, error: Error) -> Error {
    let refusals = disks.refusals();
    refusals.iter().chain(&disks.problems).fold(error, |error, refusal| {
        match error.message().contains(refusal) {
            true => error,
            false => error.observed(refusal),
        }
    })
}
