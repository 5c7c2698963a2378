//! The client that looks after a recovery: it reads everything the appliance shows through its own ports, has it held
//! against the log by `recovered`, and asks for every change.

use super::Context;
use super::block::{BLOCK, Bytes, Look};
use super::nbd::{self, Mode, Opened, Told};
use super::recovered::{Question, Shown, View};
use super::wire::Wire;
use crate::rng::Rng;
use datum_service::environment::Environment;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::rc::Rc;

/// How often the end of a check is looked for.
const POLLS_MAX: usize = 2000;

/// Blocks that are read at a time.
const READ_BLOCKS: u64 = 40;

/// The client that looks at everything.
pub(crate) struct Audit {
    control: Wire,
    nbd: Wire,
    context: Context,
    rng: Rng,
    next: u64,
    /// Questions for changes that are asked at most.
    questions: usize,
}

impl Audit {
    pub(crate) fn new(control: Wire, nbd: Wire, context: Context, seed: u64) -> Self {
        Self { control, nbd, context, rng: Rng::new(seed), next: 0, questions: usize::MAX }
    }

    /// Asks for the changes since a few points only.
    pub(crate) fn brief(self, questions: usize) -> Self {
        Self { questions, ..self }
    }

    /// Reads everything, compares it with the log, and starts afresh from there.
    pub(crate) async fn run(mut self) {
        let lied = self.context.judge.borrow().lied;
        self.control.connect();
        self.control.hear_line().await;
        let view = match self.view().await {
            Ok(view) => view,
            Err(_) if lied => return,
            Err(what) => panic!("after a recovery: {what}"),
        };
        if lied {
            self.context.judge.borrow().right_bytes(&view).unwrap_or_else(|what| panic!("{what}"));
            // Whatever it finds.
            let _ = self.check().await;
            return;
        }
        {
            let mut judge = self.context.judge.borrow_mut();
            judge.recovered(&view).unwrap_or_else(|what| panic!("after a recovery: {what}"));
            judge.keep(&view);
        }
        self.check().await.unwrap_or_else(|what| panic!("after a recovery: {what}"));
        self.changes(&view).await;
        self.lost_tokens().await;
        self.context.judge.borrow_mut().settle(&view);
        self.control.leave(&mut self.rng);
        self.nbd.leave(&mut self.rng);
    }

    /// With everything answered and everybody gone, sees that no room for payloads is held for anyone any more.
    pub(crate) async fn at_rest(mut self) {
        self.control.connect();
        self.control.hear_line().await;
        for _ in 0..POLLS_MAX {
            let metrics =
                self.call("system.metrics", json!({})).await.unwrap_or_else(|what| panic!("{what}"));
            let metrics = metrics["text"].as_str().expect("metrics are a text");
            if metrics.lines().any(|line| line == "datum_payload_bytes 0") {
                return;
            }
            self.context.environment.sleep(10_000_000).await;
        }
        panic!("room for payloads is held though nobody asks for anything");
    }

    async fn call(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.next += 1;
        let request = json!({ "jsonrpc": "2.0", "id": self.next, "method": method, "params": params });
        self.control.say(format!("{request}\n").as_bytes());
        let line = self.control.hear_line().await;
        let mut answer: Value = serde_json::from_slice(&line).expect("an answer is JSON");
        match answer.get("error") {
            Some(error) => Err(format!("{method} {params}: {error}")),
            None => Ok(answer["result"].take()),
        }
    }

    /// All items of a list, by pages.
    async fn list(&mut self, method: &str, mut params: Value) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        params["limit"] = json!(self.rng.between(1, 9));
        loop {
            let page = self.call(method, params.clone()).await?;
            let items = page["items"].as_array().ok_or("no items")?;
            names.extend(items.iter().filter_map(|item| item["name"].as_str()).map(str::to_owned));
            match page.get("next") {
                Some(next) => params["after"] = next.clone(),
                None => return Ok(names),
            }
        }
    }

    async fn view(&mut self) -> Result<View, String> {
        let status = self.call("pool.status", json!({})).await?;
        if status.get("read_only").is_some() {
            return Err(format!("the pool takes no writes: {status}"));
        }
        let mut view = View::new();
        for volume in self.list("volume.list", json!({})).await? {
            let mut checkpoints = BTreeMap::new();
            for checkpoint in self.list("checkpoint.list", json!({ "volume": volume })).await? {
                let blocks = self.contents(&format!("{volume}@{checkpoint}")).await?;
                checkpoints.insert(checkpoint, blocks);
            }
            let refpoints = self.list("refpoint.list", json!({ "volume": volume })).await?;
            let shown = Shown {
                blocks: self.contents(&volume).await?,
                checkpoints,
                refpoints: refpoints.into_iter().collect(),
            };
            view.insert(volume, shown);
        }
        Ok(view)
    }

    /// All blocks of an export.
    async fn contents(&mut self, export: &str) -> Result<Vec<Bytes>, String> {
        let mode = *self.rng.pick(&[Mode::Simple, Mode::Structured, Mode::Extended]);
        self.nbd.connect();
        let open = match nbd::open(&self.nbd, mode, export, &[]).await {
            Opened::Open(open) => open,
            Opened::Refused(reply) => return Err(format!("{export} does not open: {reply:#x}")),
        };
        let mut blocks = Vec::new();
        let size = open.size / BLOCK as u64;
        while (blocks.len() as u64) < size {
            let count = READ_BLOCKS.min(size - blocks.len() as u64) as usize;
            let (offset, length) = ((blocks.len() * BLOCK) as u64, (count * BLOCK) as u64);
            self.nbd.say(&nbd::request(mode, nbd::READ, 0, offset, offset, length));
            let data = self.data(mode, offset, length).await.map_err(|e| format!("{export}: error {e}"))?;
            blocks.extend(
                data.chunks_exact(BLOCK).map(|block| Rc::new(<[u8; BLOCK]>::try_from(block).unwrap())),
            );
        }
        self.nbd.leave(&mut self.rng);
        Ok(blocks)
    }

    async fn data(&mut self, mode: Mode, offset: u64, length: u64) -> Result<Vec<u8>, u32> {
        let mut data = vec![0; length as usize];
        loop {
            let chunk = nbd::chunk(&self.nbd, mode).await;
            let done = chunk.done;
            if chunk.simple {
                return Ok(self.nbd.hear(length as usize).await);
            }
            match chunk.told() {
                Told::Data(at, bytes) => {
                    data[(at - offset) as usize..][..bytes.len()].copy_from_slice(&bytes);
                }
                Told::Error(error) => return Err(error),
                _ => {}
            }
            if done {
                return Ok(data);
            }
        }
    }

    /// The pool's own check must end, and say whether it has found something.
    async fn check(&mut self) -> Result<(), String> {
        let method = if self.rng.chance(30) { "pool.scrub" } else { "pool.check" };
        let started = self.call(method, json!({})).await?;
        for _ in 0..POLLS_MAX {
            let shown = self.call("job.show", json!({ "job": started["job"] })).await?;
            if !["queued", "running"].contains(&shown["state"].as_str().unwrap_or_default()) {
                let is_clean = shown["state"] == "done" && shown["result"]["errors"] == 0;
                return if is_clean { Ok(()) } else { Err(format!("{method}: {shown}")) };
            }
            self.context.environment.sleep(10_000_000).await;
        }
        panic!("{method} does not end");
    }

    /// Asks for the changes since every point and token, up to now and to every checkpoint, and takes the answers
    /// that fit as what they must be from now on.
    async fn changes(&mut self, view: &View) {
        let questions = self.context.judge.borrow().questions();
        for Question { place, mark, since, volume, until } in questions.into_iter().take(self.questions) {
            let size = self.context.judge.borrow().likely_size(place);
            let params = json!({ "volume": volume, "since": since, "until": until });
            let answer = self.changed(params, size).await;
            let mut judge = self.context.judge.borrow_mut();
            let changed = match answer {
                Ok(changed) => changed,
                // A token of a point that was not durable yet, and is lost.
                Err(error) if refused(&error) && judge.is_lost(place.volume, mark) => {
                    let tokens = std::mem::take(&mut judge.volumes[place.volume].marks[mark].tokens);
                    judge.lost.extend(tokens.into_iter().map(|token| (place.volume, token)));
                    continue;
                }
                Err(error) => {
                    let newer = judge.may_be_newer(place, mark) && error.contains("refpoint_newer");
                    assert!(newer, "changes of {volume} since {since} until {until:?}: {error}");
                    continue;
                }
            };
            let look = Look { span: judge.horizon(), durable: true };
            let verdict = judge.changes(place, mark, 0, &changed, look);
            let differ = judge.differences(place, mark, &changed, &view[&volume]);
            verdict.and(differ).unwrap_or_else(|what| {
                panic!("after a recovery: changes of {volume} since {since} until {until:?}: {what}")
            });
            judge.volumes[place.volume].marks[mark].settled.insert(place.checkpoint, changed);
        }
    }

    /// Tokens of points that are lost are refused for ever, whatever points are made in their place.
    async fn lost_tokens(&mut self) {
        let lost = self.context.judge.borrow().lost.clone();
        for (volume, since) in lost {
            let name = {
                let judge = self.context.judge.borrow();
                judge.volumes[volume].name(&judge.log).map(str::to_owned)
            };
            let Some(name) = name else { continue };
            let answer = self.call("changes.query", json!({ "volume": name, "since": since })).await;
            assert!(
                answer.as_ref().is_err_and(|error| refused(error)),
                "changes of {name} since {since}, a point that is lost: {answer:?}"
            );
        }
    }

    async fn changed(&mut self, mut params: Value, size: u64) -> Result<Vec<bool>, String> {
        let mut changed = vec![false; size as usize];
        params["limit"] = json!(self.rng.between(1, 50));
        loop {
            let answer = self.call("changes.query", params.clone()).await?;
            for extent in answer["extents"].as_array().ok_or("no extents")? {
                let number = |key: &str| extent[key].as_u64().unwrap_or(0) as usize / BLOCK;
                changed[number("offset")..][..number("length")].fill(true);
            }
            match answer.get("next_offset") {
                Some(next) => params["offset"] = next.clone(),
                None => return Ok(changed),
            }
        }
    }
}

/// Whether an error says that a point may not be compared with.
fn refused(error: &str) -> bool {
    error.contains("refpoint_newer") || error.contains("refpoint_foreign")
}
