//! A random client of a running appliance that speaks the model's actions through NBD and control, and keeps a
//! chronicle of what it was told.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;

use datum_store::Token;
use serde_json::{Value, json};
use xtask::control::Client;
use xtask::nbd::{self, Command, Open};
use xtask::qemu::{Appliance, Port};

use super::chronicle::Chronicle;
use super::writelog::LoggedDisks;
use super::{call, job, time};
use crate::model::Mark;
use crate::model::action::Action;
use crate::model::content::Contents;
use crate::model::operation::{Chooser, Kind, Shape};
use crate::rng::Rng;

const BLOCK: u64 = 4096;

/// One port for each volume, and one more to read checkpoints.
pub const NBD_PORTS: u32 = 5;

/// What the client does, and how often.
const WEIGHTS: &[(Kind, u64)] = &[
    (Kind::Together, 40),
    (Kind::WritePartial, 6),
    (Kind::Trim, 10),
    (Kind::Flush, 8),
    (Kind::Commit, 8),
    (Kind::Checkpoint, 6),
    (Kind::AroundCheckpoint, 8),
    (Kind::Convert, 8),
    (Kind::DeleteCheckpoint, 3),
    (Kind::Refpoint, 5),
    (Kind::DeleteRefpoint, 1),
    (Kind::Clone, 3),
    (Kind::Revert, 4),
    (Kind::Resize, 4),
    (Kind::Rename, 1),
    (Kind::DeleteVolume, 1),
];

/// Volumes that reach over several levels of the tree, with a few writes each.
pub fn shape() -> Shape {
    Shape { sizes: vec![5, 200, 16_390, 1 << 21], write_max: 40, volumes_max: 3, points_max: 5 }
}

/// The client.
pub struct Load<'a> {
    /// What it has seen.
    pub chronicle: &'a mut Chronicle,
    /// What it writes.
    pub contents: &'a mut Contents,
    /// What it does next.
    pub rng: &'a mut Rng,
    appliance: &'a Appliance,
    disks: &'a LoggedDisks,
    control: Client,
    /// Open volumes, with the number of the port.
    open: BTreeMap<String, (u32, nbd::Client)>,
    shape: Shape,
    /// What tells this life's names from others'.
    life: String,
    named: u64,
}

impl<'a> Load<'a> {
    /// A client with no volume open.
    pub fn new(
        (appliance, control): (&'a Appliance, Client),
        disks: &'a LoggedDisks,
        chronicle: &'a mut Chronicle,
        contents: &'a mut Contents,
        rng: &'a mut Rng,
    ) -> Self {
        let life = format!("{:x}", rng.below(1 << 32));
        Self {
            chronicle,
            contents,
            rng,
            appliance,
            disks,
            control,
            open: BTreeMap::new(),
            shape: shape(),
            life,
            named: 0,
        }
    }

    /// Makes a volume of this many blocks.
    pub fn create(&mut self, blocks: u64) {
        let name = self.fresh("v");
        let asked = self.disks.position();
        let made = call(&mut self.control, "volume.create", json!({ "name": name, "size": blocks * BLOCK }));
        let answered = self.disks.position();
        self.add_volume(&name, &made, (asked, answered), |timeline, time| Action::CreateVolume {
            name: name.clone(),
            size: blocks,
            timeline,
            time,
        });
    }

    /// One step of the client's own choosing, if the volumes as they are allow it.
    pub fn step(&mut self) {
        let total = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut ticket = self.rng.below(total);
        let kind = WEIGHTS.iter().find(|(_, weight)| {
            let hit = ticket < *weight;
            ticket = ticket.wrapping_sub(*weight);
            hit
        });
        match kind.expect("a ticket lies below the total").0 {
            Kind::Together => self.write_together(),
            Kind::AroundCheckpoint => self.write_around_checkpoint(),
            Kind::DeleteVolume if self.chronicle.state.volumes.len() < 3 => {}
            kind => {
                if let Some(action) = self.choose(kind) {
                    self.act(&action);
                }
            }
        }
    }

    /// Sends writes and waits for nothing.
    pub fn leave_under_way(&mut self) {
        let writes = self.choose_together();
        self.chronicle.under_way(&writes, self.disks.position(), None);
        self.send(&writes, None);
    }

    fn fresh(&mut self, prefix: &str) -> String {
        self.named += 1;
        format!("{prefix}{}-{}", self.life, self.named)
    }

    fn chooser(&mut self) -> (Chooser<'_>, &mut Contents) {
        let salt = self.rng.draw();
        (Chooser::new(salt, &self.chronicle.state, &self.shape), self.contents)
    }

    fn choose(&mut self, kind: Kind) -> Option<Action> {
        let name = self.fresh("n");
        let (mut chooser, contents) = self.chooser();
        chooser.action(kind, contents, |_| name.clone())
    }

    fn choose_together(&mut self) -> Vec<Action> {
        let (mut chooser, contents) = self.chooser();
        chooser.writes_together(contents)
    }

    /// Writes that run together, half of the time with a flush among them.
    fn write_together(&mut self) {
        let writes = self.choose_together();
        let flush = self.rng.chance(50).then(|| self.rng.below(writes.len() as u64) as usize);
        let asked = self.disks.position();
        let flushed = self.send(&writes, flush);
        let flushed = flushed.map(|(volume, cookie)| self.answers(&volume, Some(cookie)));
        self.all_answers();
        self.chronicle.under_way(&writes, asked, flushed.flatten());
        self.chronicle.acknowledge_together(&writes, asked);
    }

    /// Writes with a checkpoint among them, which then tells which of them it holds, block by block.
    fn write_around_checkpoint(&mut self) {
        let Some(Action::CreateCheckpoint { volumes, name, .. }) = self.choose(Kind::Checkpoint) else {
            return;
        };
        let writes = self.choose_together();
        let asked = self.disks.position();
        self.send(&writes, None);
        let params = json!({ "volumes": volumes, "name": name });
        let made = call(&mut self.control, "checkpoint.create", params);
        let answered = self.disks.position();
        self.all_answers();
        let checkpoint =
            Action::CreateCheckpoint { volumes, name, time: time::nanoseconds(&made["items"][0]["created"]) };
        let (held, later) = self.sort_out(&writes, &checkpoint);
        self.chronicle.under_way(&writes, asked, None);
        self.chronicle.acknowledge_around(&held, &checkpoint, &later, asked, answered);
    }

    /// Single-block writes that the checkpoint holds, and those that it does not.
    fn sort_out(&mut self, writes: &[Action], checkpoint: &Action) -> (Vec<Action>, Vec<Action>) {
        let Action::CreateCheckpoint { volumes, name, .. } = checkpoint else { panic!("{checkpoint:?}") };
        let (mut held, mut later) = (Vec::new(), Vec::new());
        for write in writes {
            let Action::Write { volume, first, contents } = write else { panic!("{write:?}") };
            let shown = volumes.contains(volume).then(|| {
                let mut client = self.connect(NBD_PORTS - 1, &format!("{volume}@{name}"));
                let shown = client.read(first * BLOCK, (contents.len() as u64 * BLOCK) as u32).unwrap();
                client.disconnect().unwrap();
                shown
            });
            for (at, content) in contents.iter().enumerate() {
                let one = Action::Write {
                    volume: volume.clone(),
                    first: first + at as u64,
                    contents: vec![*content],
                };
                let bytes = self.contents.bytes(*content);
                let range = at * bytes.len()..(at + 1) * bytes.len();
                let holds = shown.as_ref().is_some_and(|shown| shown[range] == bytes[..]);
                if holds { held.push(one) } else { later.push(one) }
            }
        }
        (held, later)
    }

    /// Carries out one action and waits for its answer.
    fn act(&mut self, action: &Action) {
        let asked = self.disks.position();
        match action {
            Action::Write { .. } | Action::WritePartial { .. } => {
                self.send(std::slice::from_ref(action), None);
                self.all_answers();
                self.chronicle.under_way(std::slice::from_ref(action), asked, None);
                self.chronicle.acknowledge_together(std::slice::from_ref(action), asked);
            }
            Action::Trim { volume, first, count } => {
                self.open(volume).trim(first * BLOCK, count * BLOCK).unwrap();
                self.chronicle.acknowledge(action, asked, self.disks.position());
            }
            Action::Flush => {
                let volume = self.chronicle.state.volumes.keys().next().expect("there is a volume").clone();
                self.open(&volume).flush().unwrap();
                self.chronicle.acknowledge(action, asked, self.disks.position());
            }
            // A check begins with a commit.
            Action::Commit => {
                super::check(&mut self.control);
                self.chronicle.acknowledge(action, asked, self.disks.position());
            }
            _ => self.administer(action, asked),
        }
    }

    fn administer(&mut self, action: &Action, asked: u64) {
        let mut action = action.clone();
        match &mut action {
            Action::CreateCheckpoint { volumes, name, time } => {
                let params = json!({ "volumes": volumes, "name": name });
                let made = call(&mut self.control, "checkpoint.create", params);
                *time = time::nanoseconds(&made["items"][0]["created"]);
            }
            Action::CreateRefpoint { volume, name, .. } => {
                let (volume, name) = (volume.clone(), name.clone());
                return self.create_refpoint(&volume, &name);
            }
            Action::CloneVolume { volume, checkpoint, name, .. } => {
                let params = json!({ "volume": volume, "checkpoint": checkpoint, "name": name });
                let made = call(&mut self.control, "volume.clone", params);
                let answered = self.disks.position();
                return self.add_volume(name, &made, (asked, answered), |timeline, time| {
                    let (volume, checkpoint) = (volume.clone(), checkpoint.clone());
                    Action::CloneVolume { volume, checkpoint, name: name.clone(), timeline, time }
                });
            }
            Action::ConvertCheckpoint { volume, name, refpoint } => {
                let params = json!({ "volume": volume, "name": name, "refpoint": refpoint });
                call(&mut self.control, "checkpoint.convert", params);
            }
            Action::DeleteCheckpoint { volume, name } => {
                call(&mut self.control, "checkpoint.delete", json!({ "volume": volume, "name": name }));
            }
            Action::DeleteRefpoint { volume, name } => {
                call(&mut self.control, "refpoint.delete", json!({ "volume": volume, "name": name }));
            }
            Action::RevertVolume { volume, checkpoint } => {
                self.close(volume);
                let params = json!({ "volume": volume, "checkpoint": checkpoint, "force": true });
                job(&mut self.control, "volume.revert", params);
            }
            Action::ResizeVolume { name, size } => {
                self.close(name);
                let params = json!({ "name": name, "size": *size * BLOCK, "force": true });
                call(&mut self.control, "volume.resize", params);
            }
            Action::RenameVolume { name, new_name } => {
                self.close(name);
                call(&mut self.control, "volume.rename", json!({ "name": name, "new_name": new_name }));
            }
            Action::DeleteVolume { name } => {
                self.close(name);
                call(&mut self.control, "volume.delete", json!({ "name": name, "force": true }));
            }
            other => panic!("{other:?} is no administrative action"),
        }
        self.chronicle.acknowledge(&action, asked, self.disks.position());
    }

    /// Takes a new volume in. Only a token tells its timeline, so it gets a reference point first of all.
    fn add_volume(
        &mut self,
        name: &str,
        made: &Value,
        (asked, answered): (u64, u64),
        action: impl FnOnce(u128, u64) -> Action,
    ) {
        let point = self.fresh("r");
        let asked_again = self.disks.position();
        let (token, created) = self.ask_refpoint(name, &point);
        let answered_again = self.disks.position();
        let action = action(token.timeline.0, time::nanoseconds(&made["created"]));
        self.chronicle.acknowledge(&action, asked, answered);
        let action = Action::CreateRefpoint { volume: name.into(), name: point, time: created };
        self.chronicle.acknowledge(&action, asked_again, answered_again);
    }

    /// Makes a reference point and keeps its token.
    fn create_refpoint(&mut self, volume: &str, name: &str) {
        let asked = self.disks.position();
        let (token, time) = self.ask_refpoint(volume, name);
        let answered = self.disks.position();
        let action = Action::CreateRefpoint { volume: volume.into(), name: name.into(), time };
        self.chronicle.acknowledge(&action, asked, answered);
        let at = self.chronicle.state.volumes[volume].points[name].at;
        self.chronicle.keep_token((token, Mark { timeline: token.timeline.0, at }));
    }

    fn ask_refpoint(&mut self, volume: &str, name: &str) -> (Token, u64) {
        let params = json!({ "volume": volume, "name": name });
        let made = call(&mut self.control, "refpoint.create", params.clone());
        let token = call(&mut self.control, "refpoint.token", params);
        let token = Token::decode(token["token"].as_str().unwrap()).unwrap();
        assert_eq!(token.incarnation, self.chronicle.incarnation);
        (token, time::nanoseconds(&made["created"]))
    }

    fn connect(&self, port: u32, export: &str) -> nbd::Client {
        let stream = UnixStream::connect(self.appliance.socket(Port::Nbd(port))).unwrap();
        nbd::Client::open(stream, &Open { export, extended: true, ..Open::default() }).unwrap()
    }

    /// The connection to a volume, made where there is none.
    fn open(&mut self, volume: &str) -> &mut nbd::Client {
        if !self.open.contains_key(volume) {
            let taken = |port: &u32| self.open.values().any(|(number, _)| number == port);
            let port = (0..NBD_PORTS - 1).find(|port| !taken(port)).expect("a port for each volume");
            let client = self.connect(port, volume);
            self.open.insert(volume.into(), (port, client));
        }
        &mut self.open.get_mut(volume).expect("opened just now").1
    }

    fn close(&mut self, volume: &str) {
        if let Some((_, client)) = self.open.remove(volume) {
            client.disconnect().unwrap();
        }
    }

    /// Sends writes, with a flush before one of them. Returns where the flush went, and its cookie.
    fn send(&mut self, writes: &[Action], flush: Option<usize>) -> Option<(String, u64)> {
        let mut sent = None;
        for (index, write) in writes.iter().enumerate() {
            let (volume, offset, bytes) = match write {
                Action::Write { volume, first, contents } => {
                    let bytes = contents.iter().flat_map(|content| *self.contents.bytes(*content));
                    (volume, first * BLOCK, bytes.collect())
                }
                Action::WritePartial { volume, block, offset, bytes, .. } => {
                    (volume, block * BLOCK + *offset as u64, bytes.clone())
                }
                other => panic!("{other:?} is no write"),
            };
            let client = self.open(volume);
            if flush == Some(index) {
                sent = Some((volume.clone(), client.send(Command::Flush, 0, 0, &[]).unwrap()));
            }
            client.send(Command::Write(false), offset, bytes.len() as u64, &bytes).unwrap();
        }
        sent
    }

    /// Waits for everything that was sent to a volume. Returns the length of the log when this answer came.
    fn answers(&mut self, volume: &str, cookie: Option<u64>) -> Option<u64> {
        let (_, client) = self.open.get_mut(volume).expect("an open volume");
        let mut position = None;
        while client.under_way() > 0 {
            let reply = client.receive(0, 0).unwrap();
            assert_eq!(reply.error, None, "the appliance refused a request");
            if Some(reply.cookie) == cookie {
                position = Some(self.disks.position());
            }
        }
        position
    }

    fn all_answers(&mut self) {
        let volumes: Vec<String> = self.open.keys().cloned().collect();
        for volume in volumes {
            self.answers(&volume, None);
        }
    }
}
