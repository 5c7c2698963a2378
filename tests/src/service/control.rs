//! A control client that follows a script: every method of the table, several requests at a time, with sense and
//! without, and disconnections in the middle.

use super::Context;
use super::block::{BLOCK, Look};
use super::judge::{Judge, Place, PointId, VolumeId};
use super::log::{OpId, Span};
use super::wire::Wire;
use crate::rng::Rng;
use datum_service::environment::Environment;
use serde_json::{Value, json};
use std::collections::VecDeque;

/// How often the end of a job is looked for.
const POLLS_MAX: usize = 400;

/// How long to wait between two looks.
const POLL_NANOSECONDS: u64 = 50_000_000;

/// What must be there, or not, for a command to succeed.
#[derive(Clone, Debug)]
enum Need {
    Volume(String),
    NoVolume(String),
    Checkpoint(String, String),
    Refpoint(String, String),
    /// Either of them.
    Point(String, String),
    NoPoint(String, String),
    /// No client, clone or revert may have it.
    Idle(VolumeId),
    /// No revert may be at it.
    Still(VolumeId),
}

/// What to make of an answer, beside its success.
#[derive(Clone, Debug)]
enum Then {
    Nothing,
    /// The effect comes with the end of a job.
    Revert,
    /// A job whose report must be clean.
    Check,
    Token(VolumeId, usize),
    Changes(Place, usize, u64),
    Holes(Place, u64),
    /// Whether the list begins at its beginning.
    Volumes(bool),
    /// Of a volume, its checkpoints or its reference points.
    Points(String, bool),
    Size(VolumeId),
    /// Any end of it is fine.
    Job(OpId, Kind),
    Shutdown,
}

/// What a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Revert,
    Check,
    Release,
}

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

/// A request to be sent.
struct Draft {
    method: &'static str,
    params: Value,
    needs: Vec<Need>,
    then: Then,
}

impl Draft {
    fn new(method: &'static str, params: Value) -> Self {
        Self { method, params, needs: Vec::new(), then: Then::Nothing }
    }

    fn needs(self, needs: impl Into<Vec<Need>>) -> Self {
        Self { needs: needs.into(), ..self }
    }

    fn then(self, then: Then) -> Self {
        Self { then, ..self }
    }
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
        for _ in 0..POLLS_MAX {
            // Who reads a checkpoint, or has cloned it, keeps its space for as long as he likes.
            if self.jobs.iter().all(|job| job.kind == Kind::Release) {
                return;
            }
            let jobs: Vec<(String, OpId, Kind)> =
                self.jobs.iter().map(|job| (job.id.clone(), job.op, job.kind)).collect();
            for (job, op, kind) in jobs {
                self.send(Draft::new("job.show", json!({ "job": job })).then(Then::Job(op, kind)));
                self.hear().await;
            }
            self.context.environment.sleep(POLL_NANOSECONDS).await;
        }
        let judge = self.context.judge.borrow();
        assert!(judge.faulty || judge.stopping, "jobs never end");
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
        reason || (judge.faulty && ["io", "read_only", "corrupt", "in_use", "no_space"].contains(&kind))
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
                if !judge.faulty && !reasons.contains(&error.as_str()) {
                    return Err(format!("the revert failed for no reason: {job}"));
                }
            }
            (Kind::Check, "done") if job["result"]["errors"] != 0 && !judge.faulty => {
                return Err(format!("the check finds errors: {job}"));
            }
            (_, "failed") if !judge.faulty && job["error"]["data"]["kind"] != "limit" => {
                return Err(format!("the job failed for no reason: {job}"));
            }
            _ => {}
        }
        self.jobs.retain(|job| job.op != op);
        Ok(())
    }
}

impl Need {
    /// Whether a success shows that it may have been so.
    fn may_hold(&self, judge: &Judge, span: Span) -> bool {
        match self {
            Self::Volume(name) => judge.name_there(name, span).may,
            Self::NoVolume(name) => !judge.name_there(name, span).must,
            Self::Checkpoint(volume, name) => judge.point_there(volume, name, Some(true), span).may,
            Self::Refpoint(volume, name) => judge.point_there(volume, name, Some(false), span).may,
            Self::Point(volume, name) => judge.point_there(volume, name, None, span).may,
            Self::NoPoint(volume, name) => !judge.point_there(volume, name, None, span).must,
            Self::Idle(_) | Self::Still(_) => true,
        }
    }

    /// Whether it must have been so, which leaves a refusal without reason.
    fn must_hold(&self, judge: &Judge, span: Span) -> bool {
        match self {
            Self::Volume(name) => judge.name_there(name, span).must,
            Self::NoVolume(name) => !judge.name_there(name, span).may,
            Self::Checkpoint(volume, name) => judge.point_there(volume, name, Some(true), span).must,
            Self::Refpoint(volume, name) => judge.point_there(volume, name, Some(false), span).must,
            Self::Point(volume, name) => judge.point_there(volume, name, None, span).must,
            Self::NoPoint(volume, name) => {
                judge.name_there(volume, span).must && !judge.point_there(volume, name, None, span).may
            }
            Self::Idle(volume) => !judge.volumes[*volume].busy && !judge.volumes[*volume].cloned,
            Self::Still(volume) => !judge.volumes[*volume].reverted,
        }
    }
}

/// Notes what a command does once it is carried out. True if it does anything.
fn effect(judge: &mut Judge, op: OpId, method: &str, params: &Value) -> bool {
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

/// Whether nobody ever renames or deletes a volume, so that its name stays taken.
fn stays(volume: VolumeId) -> bool {
    volume.is_multiple_of(3)
}

/// Draws a command. `first` may also suspend.
fn draft(judge: &mut Judge, rng: &mut Rng, first: bool) -> Option<Draft> {
    let likely = judge.likely();
    let force = rng.chance(50);
    if likely.len() < 2 || (likely.len() < 4 && rng.chance(8)) {
        let name = judge.fresh("v");
        let blocks = match rng.below(8) {
            0 => rng.between(100, 300),
            1 => 1,
            _ => rng.between(2, 24),
        };
        let draft = Draft::new("volume.create", json!({ "name": name, "size": blocks * BLOCK as u64 }));
        return Some(draft.needs([Need::NoVolume(name)]));
    }
    let volume = *rng.pick(&likely);
    let name = judge.volumes[volume].name(&judge.log)?.to_owned();
    let exists = Need::Volume(name.clone());
    let point = |rng: &mut Rng, checkpoints: bool| -> Option<(PointId, String)> {
        let points = judge.likely_points(volume, checkpoints);
        let point = (!points.is_empty()).then(|| *rng.pick(&points))?;
        Some((point, judge.volumes[volume].points[point].name.clone()))
    };
    let checkpoint = point(rng, true);
    let refpoint = point(rng, false);
    let points = judge.volumes[volume].points.iter().filter(|p| !judge.log.op(p.life.born).void).count();
    let known = |point: PointId| {
        judge.volumes[volume].points[point].image.as_ref().is_some_and(super::judge::Image::is_known)
    };
    let has_checkpoint = |(_, point): &(PointId, String)| Need::Checkpoint(name.clone(), point.clone());
    let has_refpoint = |(_, point): &(PointId, String)| Need::Refpoint(name.clone(), point.clone());
    Some(match rng.below(40) {
        0 => Draft::new("system.info", json!({})),
        1 => Draft::new("system.metrics", json!({})),
        2 => Draft::new("device.list", json!({ "limit": 1 })),
        3 => Draft::new("pool.status", json!({})),
        4 => Draft::new("pool.create", json!({ "devices": ["vd0"] })).needs([Need::NoVolume(name)]),
        5 => Draft::new(if force { "pool.check" } else { "pool.scrub" }, json!({})).then(Then::Check),
        6 => {
            let limit = rng.between(1, 5);
            let (after, needs) = if force { (json!(name), vec![exists]) } else { (Value::Null, Vec::new()) };
            let then = Then::Volumes(after.is_null());
            Draft::new("volume.list", json!({ "after": after, "limit": limit })).needs(needs).then(then)
        }
        7 => Draft::new("volume.show", json!({ "name": name })).needs([exists]).then(Then::Size(volume)),
        8 if judge.is_steady(volume) => {
            let size = judge.likely_size(Place { volume, checkpoint: None });
            let size = (size + rng.below(6)).saturating_sub(3).max(1);
            let params = json!({ "name": name, "size": size * BLOCK as u64, "force": force });
            let idle = if force { Need::Still(volume) } else { Need::Idle(volume) };
            let needs = [exists, idle];
            Draft::new("volume.resize", params).needs(needs)
        }
        9 if rng.chance(60) && !stays(volume) => {
            let new = judge.fresh("v");
            let needs = [exists, Need::NoVolume(new.clone()), Need::Still(volume)];
            Draft::new("volume.rename", json!({ "name": name, "new_name": new })).needs(needs)
        }
        10 if likely.len() > 2 && !stays(volume) => {
            let needs = [exists, Need::Idle(volume)];
            Draft::new("volume.delete", json!({ "name": name, "force": force })).needs(needs)
        }
        11 if likely.len() < 5 => {
            let checkpoint = checkpoint.filter(|(id, _)| known(*id))?;
            let needs = [exists, has_checkpoint(&checkpoint), Need::Still(volume)];
            let new = judge.fresh("v");
            let params = json!({ "volume": name, "checkpoint": checkpoint.1, "name": new });
            let needs = [&needs[..], &[Need::NoVolume(new)]].concat();
            Draft::new("volume.clone", params).needs(needs)
        }
        12 | 13 if judge.is_steady(volume) => {
            let checkpoint = checkpoint.filter(|(id, _)| known(*id))?;
            let params = json!({ "volume": name, "checkpoint": checkpoint.1, "force": force });
            let needs = [exists, has_checkpoint(&checkpoint), Need::Idle(volume)];
            Draft::new("volume.revert", params).needs(needs).then(Then::Revert)
        }
        14 if first => Draft::new("volume.suspend", json!({ "volume": name })).needs([exists]),
        15 => Draft::new("volume.resume", json!({ "volume": name })).needs([exists]),
        16..20 if points < 7 => {
            let new = judge.fresh("c");
            let mut volumes = vec![name];
            if rng.chance(40) {
                volumes = likely
                    .iter()
                    .filter_map(|id| judge.volumes[*id].name(&judge.log))
                    .map(Into::into)
                    .collect();
            }
            let mut needs: Vec<Need> = volumes.iter().cloned().map(Need::Volume).collect();
            needs.extend(volumes.iter().map(|volume| Need::NoPoint(volume.clone(), new.clone())));
            needs.extend(likely.iter().copied().map(Need::Still));
            Draft::new("checkpoint.create", json!({ "volumes": volumes, "name": new })).needs(needs)
        }
        20 => {
            let then = Then::Points(name.clone(), true);
            Draft::new("checkpoint.list", json!({ "volume": name })).needs([exists]).then(then)
        }
        21 => {
            let checkpoint = checkpoint?;
            let params = json!({ "volume": name, "name": checkpoint.1 });
            Draft::new("checkpoint.show", params).needs([exists, has_checkpoint(&checkpoint)])
        }
        22 => {
            let checkpoint = checkpoint?;
            let params = json!({ "volume": name, "name": checkpoint.1 });
            let needs = [exists, has_checkpoint(&checkpoint), Need::Idle(volume)];
            Draft::new("checkpoint.delete", params).needs(needs)
        }
        23 | 24 => {
            let checkpoint = checkpoint?;
            let new = if force { judge.fresh("r") } else { checkpoint.1.clone() };
            let mut needs = vec![exists, has_checkpoint(&checkpoint), Need::Idle(volume)];
            if force {
                needs.push(Need::NoPoint(name.clone(), new.clone()));
            }
            let params = json!({ "volume": name, "name": checkpoint.1, "refpoint": new });
            Draft::new("checkpoint.convert", params).needs(needs)
        }
        25 | 26 if points < 9 => {
            let new = judge.fresh("r");
            let needs = [exists, Need::NoPoint(name.clone(), new.clone()), Need::Still(volume)];
            Draft::new("refpoint.create", json!({ "volume": name, "name": new })).needs(needs)
        }
        27 => {
            let then = Then::Points(name.clone(), false);
            Draft::new("refpoint.list", json!({ "volume": name })).needs([exists]).then(then)
        }
        28 => {
            let refpoint = refpoint?;
            let params = json!({ "volume": name, "name": refpoint.1 });
            Draft::new("refpoint.show", params).needs([exists, has_refpoint(&refpoint)])
        }
        29 => {
            let refpoint = refpoint?;
            let params = json!({ "volume": name, "name": refpoint.1 });
            Draft::new("refpoint.delete", params).needs([exists, has_refpoint(&refpoint)])
        }
        30 => {
            let refpoint = refpoint?;
            let mark = judge.volumes[volume].points[refpoint.0].mark;
            let params = json!({ "volume": name, "name": refpoint.1 });
            let needs = [exists, has_refpoint(&refpoint)];
            Draft::new("refpoint.token", params).needs(needs).then(Then::Token(volume, mark))
        }
        31..34 => {
            let until = checkpoint.clone().filter(|_| rng.chance(40));
            let tokens: Vec<(usize, String)> = judge.volumes[volume]
                .marks
                .iter()
                .enumerate()
                .flat_map(|(mark, known)| known.tokens.iter().map(move |token| (mark, token.clone())))
                .collect();
            let (mark, since, mut needs) = if !tokens.is_empty() && rng.chance(30) {
                let (mark, token) = rng.pick(&tokens).clone();
                (mark, token, vec![exists])
            } else {
                let since = match (refpoint, point(rng, true)) {
                    (Some(refpoint), _) if rng.chance(60) => refpoint,
                    (_, Some(checkpoint)) => checkpoint,
                    _ => return None,
                };
                let need = Need::Point(name.clone(), since.1.clone());
                (judge.volumes[volume].points[since.0].mark, since.1, vec![exists, need])
            };
            needs.extend(until.iter().map(has_checkpoint));
            let place = Place { volume, checkpoint: until.as_ref().map(|until| until.0) };
            let first = rng.below(judge.likely_size(place));
            let params = json!({
                "volume": name,
                "since": since,
                "until": until.map(|until| until.1),
                "offset": first * BLOCK as u64,
                "limit": rng.between(1, 6),
            });
            Draft::new("changes.query", params).needs(needs).then(Then::Changes(place, mark, first))
        }
        34 => {
            let params = json!({ "volume": name, "offset": 0, "limit": 9 });
            let place = Place { volume, checkpoint: None };
            Draft::new("allocated.query", params).needs([exists]).then(Then::Holes(place, 0))
        }
        35 => Draft::new("job.list", json!({})),
        36 => Draft::new("job.cancel", json!({ "job": "17" })),
        37 => Draft::new("event.subscribe", json!({})),
        38 => Draft::new("session.list", json!({ "limit": 3 })),
        _ => {
            // A name that is certainly taken.
            let now = judge.log.now();
            if !judge.name_there(&name, Span { from: now, to: now }).must || !stays(volume) {
                return None;
            }
            let blocks = rng.between(1, 4);
            let params = json!({ "name": name, "size": blocks * BLOCK as u64 });
            Draft::new("volume.create", params).needs([Need::NoVolume(name)])
        }
    })
}
