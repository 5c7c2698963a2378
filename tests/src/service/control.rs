//! A control client that follows a script: every method of the table, several requests at a time, with sense and
//! without, and disconnections in the middle. `draft` draws what it asks for.

mod draft;

use super::Context;
use super::block::{BLOCK, Look};
use super::harm::Takes;
use super::judge::Judge;
use super::log::{OpId, Span};
use super::volume::Place;
use super::wire::Wire;
use crate::rng::Rng;
use datum_service::environment::Environment;
use draft::{Draft, Kind, Need, Then, draft};
use serde_json::{Value, json};
use std::collections::VecDeque;

/// How often the end of a job is looked for.
const POLLS_MAX: u64 = 400;

/// How long to wait between the first two looks; later on longer.
const POLL_NANOSECONDS: u64 = 50_000_000;

/// A request under way.
struct Sent {
    id: Value,
    method: String,
    op: OpId,
    needs: Vec<Need>,
    changes: bool,
    /// It makes no sense.
    bad: bool,
    then: Then,
}

struct Job {
    id: String,
    op: OpId,
    kind: Kind,
}

/// The client.
pub(crate) struct Control {
    name: String,
    wire: Wire,
    context: Context,
    connected: bool,
    next: u64,
    sent: VecDeque<Sent>,
    jobs: Vec<Job>,
    /// Volumes that this client has suspended, by name.
    suspended: Vec<String>,
    /// This one suspends and shuts down.
    first: bool,
}

impl Control {
    pub(crate) fn new(name: String, wire: Wire, context: Context, first: bool) -> Self {
        let (sent, jobs, suspended) = Default::default();
        Self { name, wire, context, connected: false, next: 1, sent, jobs, suspended, first }
    }

    /// Does all steps, hears all answers, and lets go of what it has suspended. With `shutdown`, switches off then.
    pub(crate) async fn run(mut self, script: Vec<u64>, shutdown: bool) {
        for step in script {
            let mut rng = Rng::new(step);
            self.connect().await;
            match rng.below(100) {
                0..4 => self.leave(&mut rng),
                4..12 => self.bad(&mut rng),
                12..25 => self.hear().await,
                _ => self.command(&mut rng),
            }
            if self.sent.len() > 3 {
                self.hear().await;
            }
        }
        self.connect().await;
        self.hear().await;
        for volume in self.suspended.clone() {
            let name = Need::Volume(volume.clone());
            self.send(Draft::new("volume.resume", json!({ "volume": volume })).needs([name]));
            self.hear().await;
        }
        self.jobs().await;
        if shutdown {
            self.context.judge.borrow_mut().stopping = true;
            let method = if self.next.is_multiple_of(2) { "system.shutdown" } else { "system.reboot" };
            self.send(Draft::new(method, json!({})).then(Then::Shutdown));
            self.hear().await;
        }
    }

    async fn connect(&mut self) {
        if self.connected {
            return;
        }
        self.wire.connect();
        self.connected = true;
        self.wire.say(&[0xff]);
        let hello: Value = serde_json::from_slice(&self.wire.hear_line().await).expect("hello is JSON");
        assert_eq!(hello["method"], "hello", "{hello}");
        self.context.counts.sessions.set(self.context.counts.sessions.get() + 1);
    }

    /// Goes without a word. Answers that are missing never come.
    fn leave(&mut self, rng: &mut Rng) {
        if rng.chance(50) {
            self.wire.say(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"volu");
        }
        self.wire.leave(rng);
        self.connected = false;
        self.sent.clear();
    }

    /// Sends a line that makes no sense.
    fn bad(&mut self, rng: &mut Rng) {
        let id = self.id();
        let long = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{}\"}}", "x".repeat(70_000));
        let lines = [
            "{".to_owned(),
            "[]".to_owned(),
            format!("[{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"system.info\"}}]"),
            format!("{{\"id\":{id},\"method\":\"system.info\"}}"),
            format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"volume.crate\"}}"),
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"volume.create\",\"params\":{{\"name\":\"x\"}}}}"
            ),
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"volume.show\",\"params\":{{\"name\":\"-\"}}}}"
            ),
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"volume.create\",\"params\":{{\"name\":\"x\",\"size\":\
                 \"4K\"}}}}"
            ),
            long,
        ];
        let line = rng.pick(&lines).clone();
        let shown: String = line.chars().take(80).collect();
        let op = self.context.judge.borrow_mut().log.send(format!("{} {shown}", self.name));
        self.wire.say(line.as_bytes());
        self.wire.say(b"\n");
        // A line whose id cannot be told is answered with none.
        let method = "a line without sense".to_owned();
        let (needs, then) = (Vec::new(), Then::Nothing);
        self.sent.push_back(Sent { id: Value::Null, method, op, needs, changes: false, bad: true, then });
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Draws a command from what is known.
    fn command(&mut self, rng: &mut Rng) {
        let draft = {
            let mut judge = self.context.judge.borrow_mut();
            draft(&mut judge, rng, self.first)
        };
        let Some(mut draft) = draft else { return };
        if let Some(job) = self.jobs.last().filter(|_| draft.method == "job.cancel") {
            draft.params["job"] = json!(job.id);
        }
        let live = |place: &Place| place.checkpoint.is_none();
        if let Then::Changes(place, ..) | Then::Holes(place, _) = &draft.then
            && live(place)
            && !self.suspended.is_empty()
        {
            // It would wait for what only this client does.
            return;
        }
        if draft.method == "volume.suspend"
            && let Some(volume) = draft.params["volume"].as_str()
        {
            self.suspended.push(volume.to_owned());
        }
        self.send(draft);
    }

    fn send(&mut self, draft: Draft) {
        let id = self.id();
        let Draft { method, params, needs, then } = draft;
        let mut judge = self.context.judge.borrow_mut();
        let op = judge.log.send(format!("{} {method} {params}", self.name));
        let changes = effect(&mut judge, op, method, &params);
        drop(judge);
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.wire.say(format!("{request}\n").as_bytes());
        self.context.counts.method(method);
        let method = method.to_owned();
        self.sent.push_back(Sent { id: json!(id), method, op, needs, changes, bad: false, then });
    }

    /// Hears all answers.
    async fn hear(&mut self) {
        while !self.sent.is_empty() {
            let line = self.wire.hear_line().await;
            let answer: Value = serde_json::from_slice(&line).expect("an answer is JSON");
            if answer["method"] == "event" {
                self.context.counts.events.set(self.context.counts.events.get() + 1);
                continue;
            }
            let Some(sent) = self.sent.pop_front() else { return };
            if !sent.bad {
                assert_eq!(answer["id"], sent.id, "answers come in the order of the requests: {answer}");
            }
            self.context.counts.commands.set(self.context.counts.commands.get() + 1);
            self.judge(sent, &answer);
        }
    }

    /// Looks at the jobs until all have ended.
    async fn jobs(&mut self) {
        for poll in 0..POLLS_MAX {
            // What a disk has refused may keep a release from going on. Nobody else does: whoever keeps the space of a
            // checkpoint does not keep its job from ending.
            let is_stuck =
                |job: &Job| job.kind == Kind::Release && self.context.judge.borrow().harm().spoils();
            if self.jobs.iter().all(is_stuck) {
                return;
            }
            let jobs: Vec<(String, OpId, Kind)> =
                self.jobs.iter().map(|job| (job.id.clone(), job.op, job.kind)).collect();
            for (job, op, kind) in jobs {
                self.send(Draft::new("job.show", json!({ "job": job })).then(Then::Job(op, kind)));
                self.hear().await;
            }
            // Where disks are slow a job takes its time, of which each request that asks for it takes some.
            self.context.environment.sleep(POLL_NANOSECONDS * (1 + poll / 4)).await;
        }
        let judge = self.context.judge.borrow();
        let jobs: Vec<String> = self.jobs.iter().map(|job| judge.log.line(job.op)).collect();
        assert!(judge.may_wait_for_ever() || judge.stopping, "jobs never end: {jobs:?}");
    }

    /// Holds an answer against what is known.
    fn judge(&mut self, sent: Sent, answer: &Value) {
        let shared = self.context.judge.clone();
        let mut judge = shared.borrow_mut();
        let judge = &mut *judge;
        if let Some(error) = answer.get("error") {
            let kind = error["data"]["kind"].as_str().unwrap_or("none").to_owned();
            let open = ["io", "read_only", "corrupt", "no_space"].contains(&kind.as_str());
            let span = match open {
                true => judge.log.failed(sent.op, &kind),
                false => judge.log.refused(sent.op, &kind),
            };
            let excused = sent.bad || self.excuses(judge, &sent, &kind, span);
            assert!(excused, "{}: for no reason: {error}", judge.log.line(sent.op));
            let full = &self.context.counts.full;
            full.set(full.get() + u64::from(kind == "no_space"));
            judge.left_suspended |=
                sent.method == "volume.resume" && ["io", "corrupt"].contains(&kind.as_str());
            if matches!(sent.then, Then::Job(..)) {
                self.jobs.retain(|job| job.op != sent.op);
            }
            return;
        }
        assert!(!sent.bad, "{}: it must be refused: {answer}", judge.log.line(sent.op));
        let later = matches!(sent.then, Then::Revert | Then::Shutdown);
        let span = match (sent.changes, later) {
            (_, true) => judge.log.failed(sent.op, "ok, not yet done"),
            (true, _) => judge.log.done_durably(sent.op, "ok"),
            (false, _) => judge.log.done(sent.op, "ok"),
        };
        let line = judge.log.line(sent.op);
        for need in &sent.needs {
            assert!(need.may_hold(judge, span), "{line}: {need:?} does not hold");
        }
        self.take(judge, &sent, &answer["result"], span).unwrap_or_else(|what| panic!("{line}: {what}"));
    }

    /// Whether an error has a reason.
    fn excuses(&self, judge: &Judge, sent: &Sent, kind: &str, span: Span) -> bool {
        let unsure = |wanted: fn(&Need) -> bool| {
            sent.needs.iter().any(|need| wanted(need) && !need.must_hold(judge, span))
        };
        let method = sent.method.as_str();
        let reason = match kind {
            "not_found" => {
                unsure(|need| {
                    matches!(
                        need,
                        Need::Volume(_) | Need::Checkpoint(..) | Need::Refpoint(..) | Need::Point(..)
                    )
                }) || method.starts_with("job.")
            }
            "exists" => {
                unsure(|need| matches!(need, Need::NoVolume(_) | Need::NoPoint(..)))
                    || method == "pool.create"
            }
            "in_use" => unsure(|need| matches!(need, Need::Idle(_) | Need::Still(_))),
            "invalid" => match &sent.then {
                Then::Changes(place, _, first) | Then::Holes(place, first) => {
                    // The volume may shrink between two looks at it.
                    let (least, most) = judge.size_range(*place, span);
                    least <= *first || least < most
                }
                _ => method == "job.cancel",
            },
            "limit" => method.starts_with("pool."),
            "device" => method == "pool.create",
            "refpoint_newer" => match &sent.then {
                Then::Changes(place, mark, _) => judge.may_be_newer(*place, *mark),
                _ => false,
            },
            "stopping" => judge.stopping,
            _ => false,
        };
        let takes = takes(method);
        reason || judge.excuses(kind, takes) || (judge.stopping && kind == "read_only" && takes.changes)
    }

    /// What a result says beside its success.
    fn take(&mut self, judge: &mut Judge, sent: &Sent, result: &Value, span: Span) -> Result<(), String> {
        let job = |kind| {
            let id = result["job"].as_str().unwrap_or_default().to_owned();
            Job { id, op: sent.op, kind }
        };
        match &sent.then {
            Then::Nothing => {}
            Then::Shutdown => {}
            Then::Revert => self.jobs.push(job(Kind::Revert)),
            Then::Check => self.jobs.push(job(Kind::Check)),
            Then::Token(volume, mark) => {
                let token = result["token"].as_str().ok_or("no token")?.to_owned();
                judge.volumes[*volume].marks[*mark].tokens.push(token);
            }
            Then::Job(op, kind) => return self.look_at_job(judge, *op, *kind, result),
            Then::Size(volume) => {
                let place = Place { volume: *volume, checkpoint: None };
                let (least, most) = judge.size_range(place, span);
                let size = result["size"].as_u64().ok_or("no size")? / BLOCK as u64;
                if !(least..=most).contains(&size) {
                    return Err(format!("{size} blocks, not {least} to {most}"));
                }
            }
            Then::Changes(place, mark, first) => {
                let changed = listed(judge, *place, *first, result, span)?;
                judge.changes(*place, *mark, *first, &changed, Look::at(span))?;
            }
            Then::Holes(place, first) => {
                for (block, data) in (*first..).zip(listed(judge, *place, *first, result, span)?) {
                    if !data {
                        judge.hole(*place, block * BLOCK as u64, BLOCK as u64, span)?;
                    }
                }
            }
            Then::Volumes(whole) => {
                let names: Vec<String> = judge
                    .volumes
                    .iter()
                    .flat_map(|volume| volume.names.iter().map(|(name, _)| name.clone()))
                    .collect();
                list(*whole, result, &names, |name| judge.name_there(name, span))?;
            }
            Then::Points(volume, checkpoints) => {
                let volumes = judge.volumes.iter().filter(|v| v.names.iter().any(|(name, _)| name == volume));
                let points = volumes.flat_map(|volume| &volume.points);
                let names: Vec<String> = points.map(|point| point.name.clone()).collect();
                list(true, result, &names, |name| judge.point_there(volume, name, Some(*checkpoints), span))?;
            }
        }
        if ["checkpoint.delete", "checkpoint.convert"].contains(&sent.method.as_str()) {
            self.jobs.push(job(Kind::Release));
        }
        Ok(())
    }

    fn look_at_job(&mut self, judge: &mut Judge, op: OpId, kind: Kind, job: &Value) -> Result<(), String> {
        let state = job["state"].as_str().ok_or("no state")?;
        match (kind, state) {
            (_, "queued" | "running") => return Ok(()),
            (Kind::Revert, "done") => drop(judge.log.done_durably(op, "ok")),
            (Kind::Revert, _) => {
                let error = job["error"]["data"]["kind"].as_str().unwrap_or(state).to_owned();
                match ["io", "read_only", "corrupt", "no_space"].contains(&error.as_str()) {
                    true => drop(judge.log.failed(op, &error)),
                    false => drop(judge.log.refused(op, &error)),
                }
                let reasons = ["cancelled", "in_use", "not_found"];
                if !reasons.contains(&error.as_str()) && !judge.excuses(&error, takes("volume.revert")) {
                    return Err(format!("the revert failed for no reason: {job}"));
                }
            }
            (Kind::Check, "done") if job["result"]["errors"] != 0 && !judge.harm().spoils() => {
                return Err(format!("the check finds errors: {job}"));
            }
            (_, "failed") => {
                let error = job["error"]["data"]["kind"].as_str().unwrap_or_default();
                let takes = Takes { space: false, ..takes("volume.revert") };
                if error != "limit" && !judge.excuses(error, takes) {
                    return Err(format!("the job failed for no reason: {job}"));
                }
            }
            _ => {}
        }
        self.jobs.retain(|job| job.op != op);
        Ok(())
    }
}

/// What a command takes.
fn takes(method: &str) -> Takes {
    let (subject, verb) = method.split_once('.').unwrap_or((method, ""));
    let of_volumes = ["volume", "checkpoint", "refpoint", "changes", "allocated"].contains(&subject);
    let space = ["create", "clone", "rename", "resize", "revert"].contains(&verb);
    let changes = space || ["delete", "convert"].contains(&verb);
    Takes { reads: of_volumes, data: false, changes: of_volumes && changes, space: of_volumes && space }
}

/// Notes what a command does once it is carried out. True if it does anything.
pub(super) fn effect(judge: &mut Judge, op: OpId, method: &str, params: &Value) -> bool {
    let text = |key: &str| params[key].as_str().unwrap_or_default().to_owned();
    let key = if params["volume"].is_string() { "volume" } else { "name" };
    let volume = judge.most_likely(&text(key));
    let size = params["size"].as_u64().unwrap_or(0) / BLOCK as u64;
    if params["force"] == true
        && let Some(volume) = volume
    {
        let forced = &mut judge.volumes[volume].forced;
        *forced = (*forced).min(judge.log.op(op).span.from);
    }
    match (method, volume) {
        ("volume.create", _) => judge.create(op, &text("name"), size),
        ("volume.resize", Some(volume)) => judge.resize(op, volume, size),
        ("volume.rename", Some(volume)) => judge.rename(op, volume, &text("name"), &text("new_name")),
        ("volume.delete", Some(volume)) => judge.delete(op, volume),
        ("volume.clone", Some(volume)) => match judge.point(volume, &text("checkpoint"), true) {
            Some(checkpoint) => judge.clone_volume(op, volume, checkpoint, &text("name")),
            None => return false,
        },
        ("volume.revert", Some(volume)) => match judge.point(volume, &text("checkpoint"), true) {
            Some(checkpoint) => judge.revert(op, volume, checkpoint),
            None => return false,
        },
        ("checkpoint.create", _) => {
            let names = params["volumes"].as_array().cloned().unwrap_or_default();
            for name in names.iter().filter_map(Value::as_str) {
                if let Some(volume) = judge.most_likely(name) {
                    judge.make_point(op, volume, &text("name"), true);
                }
            }
        }
        ("refpoint.create", Some(volume)) => judge.make_point(op, volume, &text("name"), false),
        ("checkpoint.delete" | "refpoint.delete" | "checkpoint.convert", Some(volume)) => {
            let is_checkpoint = method != "refpoint.delete";
            let Some(point) = judge.point(volume, &text("name"), is_checkpoint) else { return false };
            match method {
                "checkpoint.convert" => judge.convert(op, volume, point, &text("refpoint")),
                _ => judge.delete_point(op, volume, point),
            }
        }
        _ => return false,
    }
    judge.log.whole(op);
    true
}

/// Which blocks from `first` on an answer lists, as far as it goes and the volume certainly does.
fn listed(judge: &Judge, place: Place, first: u64, result: &Value, span: Span) -> Result<Vec<bool>, String> {
    let block = BLOCK as u64;
    let extents = result["extents"].as_array().ok_or("no extents")?;
    let size = judge.size_range(place, span).0;
    let end = result["next_offset"].as_u64().map_or(size, |next| (next / block).min(size));
    let mut blocks = vec![false; end.saturating_sub(first) as usize];
    let mut past = first;
    for extent in extents {
        let number = |key: &str| extent[key].as_u64().ok_or_else(|| format!("an extent without {key}"));
        let (from, count) = (number("offset")? / block, number("length")? / block);
        if from < past || count == 0 {
            return Err(format!("extents that do not ascend: {result}"));
        }
        past = from + count;
        (from..past).for_each(|at| {
            if let Some(listed) = blocks.get_mut(at.saturating_sub(first) as usize) {
                *listed = true;
            }
        });
    }
    Ok(blocks)
}

/// Holds one page of a list against what may and what must be there; `whole` if it is the first.
fn list(
    whole: bool,
    result: &Value,
    known: &[String],
    there: impl Fn(&str) -> super::judge::There,
) -> Result<(), String> {
    let items = result["items"].as_array().ok_or("no items")?;
    let names: Vec<&str> = items.iter().filter_map(|item| item["name"].as_str()).collect();
    if let Some(name) = names.iter().find(|name| !there(name).may) {
        return Err(format!("{name} is listed and cannot be there"));
    }
    let all = whole && result.get("next").is_none();
    match known.iter().find(|name| all && there(name).must && !names.contains(&name.as_str())) {
        Some(name) => Err(format!("{name} is not listed and must be there")),
        None => Ok(()),
    }
}
