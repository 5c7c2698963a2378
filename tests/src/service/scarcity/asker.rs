//! A client that asks for one thing after the other, on an NBD port, a control port and a console, and once more for what
//! is refused for want of memory. What it asks for and is told goes into the log that everything is judged by.

use super::refusal::Refusals;
use super::works::{Ask, Request};
use crate::rng::Rng;
use crate::service::Context;
use crate::service::block::{BLOCK, Data, own_byte};
use crate::service::control::effect;
use crate::service::log::{OpId, Span};
use crate::service::nbd::{self, Export, Mode, Opened, Told};
use crate::service::volume::Place;
use crate::service::wire::Wire;
use datum_service::environment::Environment;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::rc::Rc;

const ENOMEM: u32 = 12;

/// How often the end of a job is looked for.
const POLLS_MAX: usize = 4000;

/// How long to wait between two looks.
const POLL_NANOSECONDS: u64 = 10_000_000;

/// The console's prompt.
const PROMPT: &[u8] = b"datum> ";

/// What the client has open.
struct Session {
    export: Export,
    place: Place,
}

/// The client.
pub(super) struct Asker {
    context: Context,
    refusals: Rc<Refusals>,
    nbd: Wire,
    control: Wire,
    console: Wire,
    session: Option<Session>,
    connected: bool,
    terminal: bool,
    next: u64,
    token: String,
    /// What was answered before memory ran out, by what was asked.
    known: BTreeMap<String, Vec<String>>,
}

impl Asker {
    pub(super) fn new(context: Context, refusals: Rc<Refusals>, [nbd, control, console]: [Wire; 3]) -> Self {
        let (session, known, token) = Default::default();
        let (connected, terminal, next) = (false, false, 0);
        Self { context, refusals, nbd, control, console, session, connected, terminal, next, token, known }
    }

    /// Asks for all of it, and leaves.
    pub(super) async fn all(&mut self, asks: &[Ask]) {
        self.some(asks).await;
        self.leave();
    }

    /// Asks for all of it, and stays.
    pub(super) async fn some(&mut self, asks: &[Ask]) {
        for ask in asks {
            self.ask(ask).await;
        }
    }

    /// Asks for what changes nothing, and keeps the answers: they must come again.
    pub(super) async fn rehearse(&mut self, asks: &[Ask]) {
        for ask in asks.iter().filter(|ask| ask.is_only_asking()) {
            self.ask(ask).await;
        }
        self.leave();
    }

    fn leave(&mut self) {
        self.close();
        let mut rng = Rng::new(1);
        if std::mem::take(&mut self.connected) {
            self.control.leave(&mut rng);
        }
        if std::mem::take(&mut self.terminal) {
            self.console.leave(&mut rng);
        }
    }

    fn close(&mut self) {
        if self.session.take().is_some() {
            self.nbd.leave(&mut Rng::new(1));
        }
    }

    async fn ask(&mut self, ask: &Ask) {
        match ask {
            Ask::Command(method, params) => drop(self.command(method, params.clone()).await),
            Ask::Fails(method, params, kind) => self.fails(method, params.clone(), kind).await,
            Ask::Names(method, params) => self.names(method, params.clone()).await,
            Ask::Blocks(method, params) => self.blocks(method, params.clone()).await,
            Ask::Token(params) => {
                let answer = self.command("refpoint.token", params.clone()).await;
                self.token = answer["token"].as_str().expect("a token is a text").to_owned();
            }
            Ask::Console(text) => self.console(text).await,
            Ask::Exports => self.exports().await,
            Ask::Describe(export) => self.describe(export).await,
            Ask::Open(export, mode, contexts) => self.open(export, *mode, contexts).await,
            Ask::Requests(requests) => self.requests(requests).await,
        }
    }

    /// What was answered must be what was answered before.
    fn again(&mut self, asked: String, answer: Vec<String>) {
        let known = self.known.entry(asked.clone()).or_insert_with(|| answer.clone());
        assert_eq!(*known, answer, "{asked}: it was answered otherwise before");
    }

    // Control.

    async fn call(&mut self, method: &str, params: &Value) -> Result<Value, Value> {
        if !std::mem::replace(&mut self.connected, true) {
            self.control.connect();
            let hello = self.control.hear_line().await;
            assert!(
                hello.starts_with(b"{\"jsonrpc\":\"2.0\",\"method\":\"hello\""),
                "whoever connects is greeted"
            );
        }
        self.next += 1;
        let request = json!({ "jsonrpc": "2.0", "id": self.next, "method": method, "params": params });
        self.control.say(format!("{request}\n").as_bytes());
        loop {
            let line = self.control.hear_line().await;
            let mut answer: Value = serde_json::from_slice(&line).expect("an answer is JSON");
            if answer["method"] == "event" {
                continue;
            }
            if answer.get("error").is_some() {
                // A line for which there is no memory is not read, so nobody knows its number.
                let unread = answer["id"].is_null() && error_kind(&answer["error"]) == "no_memory";
                assert!(unread || answer["id"] == self.next, "{answer}");
                return Err(answer["error"].take());
            }
            assert_eq!(answer["id"], self.next, "answers have their request's number: {answer}");
            return Ok(answer["result"].take());
        }
    }

    /// A command that is carried out, if need be when it is sent again.
    async fn command(&mut self, method: &str, mut params: Value) -> Value {
        if params["since"] == "$token" {
            params["since"] = json!(self.token);
        }
        loop {
            let (op, changes) = {
                let mut judge = self.context.judge.borrow_mut();
                judge.stopping |= ["system.shutdown", "system.reboot"].contains(&method);
                let op = judge.log.send(format!("{method} {params}"));
                let changes = effect(&mut judge, op, method, &params);
                (op, changes)
            };
            let answer = match self.call(method, &params).await {
                Ok(answer) => answer,
                Err(error) => {
                    self.context.judge.borrow_mut().log.refused(op, "no_memory");
                    self.refusals.take(error_kind(&error) == "no_memory", &error.to_string());
                    continue;
                }
            };
            let later = method == "volume.revert";
            {
                let log = &mut self.context.judge.borrow_mut().log;
                match (changes, later) {
                    (true, false) => drop(log.done_durably(op, "ok")),
                    (true, true) => drop(log.failed(op, "ok, not yet done")),
                    (false, _) => drop(log.done(op, "ok")),
                }
            }
            if answer["job"].is_string()
                && method != "job.cancel"
                && !self.job(op, &answer["job"], later).await
            {
                continue;
            }
            return answer;
        }
    }

    /// Waits for a job's end. False where it was refused for want of memory.
    async fn job(&mut self, op: OpId, job: &Value, effect: bool) -> bool {
        for _ in 0..POLLS_MAX {
            let shown = match self.call("job.show", &json!({ "job": job })).await {
                Ok(shown) => shown,
                Err(error) => {
                    self.refusals.take(error_kind(&error) == "no_memory", &error.to_string());
                    continue;
                }
            };
            match shown["state"].as_str().unwrap_or_default() {
                "done" => {
                    let errors = &shown["result"]["errors"];
                    assert!(errors.is_null() || *errors == 0, "{shown}");
                    if effect {
                        self.context.judge.borrow_mut().log.done_durably(op, "ok");
                    }
                    return true;
                }
                "failed" => {
                    self.context.judge.borrow_mut().log.refused(op, "no_memory");
                    self.refusals.take(error_kind(&shown["error"]) == "no_memory", &shown.to_string());
                    return false;
                }
                _ => {}
            }
            self.context.environment.sleep(POLL_NANOSECONDS).await;
        }
        panic!("the job {job} does not end");
    }

    /// A command that is refused for a reason of its own.
    async fn fails(&mut self, method: &str, params: Value, kind: &str) {
        loop {
            let error = self.call(method, &params).await.expect_err("it is refused");
            if error_kind(&error) == kind {
                return;
            }
            self.refusals.take(error_kind(&error) == "no_memory", &error.to_string());
        }
    }

    /// All items of a list, by pages.
    async fn names(&mut self, method: &str, params: Value) {
        let asked = format!("{method} {params}");
        let (mut names, mut params) = (Vec::new(), params);
        loop {
            let page = self.command(method, params.clone()).await;
            let items = page["items"].as_array().expect("a list has items");
            names.extend(items.iter().map(|item| item["name"].as_str().unwrap_or_default().to_owned()));
            match page.get("next") {
                Some(next) => params["after"] = next.clone(),
                None => return self.again(asked, names),
            }
        }
    }

    /// All extents of a query, by pages. Where memory is short, a page is.
    async fn blocks(&mut self, method: &str, params: Value) {
        let asked = format!("{method} {params}");
        let (mut blocks, mut params) = (Vec::new(), params);
        loop {
            let page = self.command(method, params.clone()).await;
            for extent in page["extents"].as_array().expect("a query has extents") {
                let number = |key: &str| extent[key].as_u64().expect("an extent has numbers") / BLOCK as u64;
                let range = number("offset")..number("offset") + number("length");
                blocks.extend(range.map(|block| format!("{block} {}", extent["kind"])));
            }
            match page.get("next_offset") {
                Some(next) => params["offset"] = next.clone(),
                None => return self.again(asked, blocks),
            }
        }
    }

    // The console.

    /// Types a line, or the beginning of one and the Tab key. An interrupt after it shows where its output ends.
    async fn console(&mut self, text: &str) {
        if !std::mem::replace(&mut self.terminal, true) {
            self.console.connect();
            self.prompt("").await;
        }
        let enter = if text.ends_with('\t') { "" } else { "\r" };
        loop {
            self.console.say(format!("{text}{enter}\x03").as_bytes());
            let shown = self.prompt("^C").await;
            let (_, shown) = shown.split_once('\n').unwrap_or_default();
            match shown.starts_with("error: ") {
                true => self.refusals.take(shown.contains("no memory"), shown),
                false => return self.again(format!("console {text}"), vec![shown.to_owned()]),
            }
        }
    }

    /// Hears until there is a prompt after this.
    async fn prompt(&mut self, after: &str) -> String {
        let mut heard = Vec::new();
        loop {
            heard.extend(self.console.hear(1).await);
            let text = String::from_utf8_lossy(&heard);
            if heard.ends_with(PROMPT) && text.contains(after) {
                return text.into_owned();
            }
        }
    }

    // NBD.

    async fn exports(&mut self) {
        loop {
            self.nbd.connect();
            let listed = nbd::list(&self.nbd).await;
            self.nbd.leave(&mut Rng::new(1));
            match listed {
                Ok(names) => return self.again("exports".into(), names),
                Err(refusal) => self.refused_option(refusal),
            }
        }
    }

    async fn describe(&mut self, export: &str) {
        loop {
            self.nbd.connect();
            let described = nbd::describe(&self.nbd, export).await;
            self.nbd.leave(&mut Rng::new(1));
            match described {
                Ok(said) => return self.again(format!("describe {export}"), said),
                Err(refusal) => self.refused_option(refusal),
            }
        }
    }

    async fn open(&mut self, export: &str, mode: Mode, contexts: &[String]) {
        self.close();
        loop {
            self.nbd.connect();
            match nbd::open(&self.nbd, mode, export, contexts).await {
                Opened::Open(open) => {
                    let mut judge = self.context.judge.borrow_mut();
                    let (volume, point) = export.split_once('@').unwrap_or((export, ""));
                    let volume = judge.most_likely(volume).expect("the volume is there");
                    judge.volumes[volume].busy |= !open.read_only;
                    let checkpoint = judge.point(volume, point, true);
                    let place = Place { volume, checkpoint };
                    self.session = Some(Session { export: open, place });
                    return;
                }
                Opened::Refused(refusal) => self.refused_option(refusal),
            }
            self.nbd.leave(&mut Rng::new(1));
        }
    }

    /// An option is refused as a policy, with a text, or as too big to be kept.
    fn refused_option(&self, refusal: u32) {
        let documented = [0x8000_0002, 0x8000_0009].contains(&refusal);
        self.refusals.take(documented, &format!("an option is refused with {refusal:#x}"));
    }

    /// Requests that are all under way at once; those that are refused, once more.
    async fn requests(&mut self, requests: &[Request]) {
        let mut left: Vec<Request> = requests.to_vec();
        while !left.is_empty() {
            let mut pending: BTreeMap<u64, Pending> = BTreeMap::new();
            for request in left.drain(..) {
                let op = self.send(&request);
                pending.insert(op as u64, Pending::new(op, request));
            }
            while !pending.is_empty() {
                let session = self.session.as_ref().expect("an export is open");
                let chunk = nbd::chunk(&self.nbd, session.export.mode).await;
                let (cookie, done) = (chunk.cookie, chunk.done);
                let known = pending.get_mut(&cookie).expect("an answer has its request's cookie");
                if chunk.simple && known.request.kind == nbd::READ {
                    known.data = self.nbd.hear(known.data.len()).await;
                }
                known.take(chunk.told());
                if done && let Some(answered) = pending.remove(&cookie) {
                    left.extend(self.answered(answered));
                }
            }
        }
    }

    fn send(&mut self, request: &Request) -> OpId {
        let session = self.session.as_ref().expect("an export is open");
        let Request { kind, flags, offset, length } = *request;
        let mut judge = self.context.judge.borrow_mut();
        let op = judge.log.send(format!("request {kind} {offset}+{length} flags {flags}"));
        match kind {
            nbd::WRITE => judge.write(op, session.place.volume, offset, length, &Data::Own),
            nbd::TRIM | nbd::WRITE_ZEROES => {
                judge.write(op, session.place.volume, offset, length, &Data::Zero)
            }
            _ => {}
        }
        let mut bytes = nbd::request(session.export.mode, kind, flags, op as u64, offset, length);
        if kind == nbd::WRITE {
            bytes.extend((offset..offset + length).map(|at| own_byte(op, at)));
        }
        self.nbd.say(&bytes);
        op
    }

    /// Judges a whole answer. Returns the request where it was refused.
    fn answered(&mut self, pending: Pending) -> Option<Request> {
        let place = self.session.as_ref().expect("an export is open").place;
        let Pending { op, request, data, extents, error } = pending;
        if let Some(error) = error {
            // Of a long write some may have been done.
            self.context.judge.borrow_mut().log.failed(op, &format!("error {error}"));
            self.refusals
                .take(error == ENOMEM, &format!("a request of kind {} fails with {error}", request.kind));
            return Some(request);
        }
        let durable =
            request.kind == nbd::FLUSH || (request.kind != nbd::CACHE && request.flags & nbd::FUA != 0);
        let judge = &mut *self.context.judge.borrow_mut();
        let span: Span = match durable {
            true => judge.log.done_durably(op, "ok"),
            false => judge.log.done(op, "ok"),
        };
        if request.kind == nbd::READ {
            let right = judge.read(place, request.offset, &data, span);
            right.unwrap_or_else(|what| panic!("{}: {what}", judge.log.line(op)));
        }
        for (context, extents) in extents {
            let said: Vec<String> = extents
                .iter()
                .flat_map(|(length, flags)| (0..length / BLOCK as u64).map(move |_| flags.to_string()))
                .collect();
            assert!(!said.is_empty(), "a context has an extent");
            // An answer may be short, and what it says is the same.
            let asked = format!("context {context} at {}", request.offset);
            let known = self.known.entry(asked.clone()).or_insert_with(|| said.clone());
            let common = known.len().min(said.len());
            assert_eq!(known[..common], said[..common], "{asked}: it was answered otherwise before");
        }
        None
    }
}

/// A request under way.
struct Pending {
    op: OpId,
    request: Request,
    data: Vec<u8>,
    extents: Vec<(u32, Vec<(u64, u64)>)>,
    error: Option<u32>,
}

impl Pending {
    fn new(op: OpId, request: Request) -> Self {
        let length = if request.kind == nbd::READ { request.length as usize } else { 0 };
        Self { op, request, data: vec![0; length], extents: Vec::new(), error: None }
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Nothing | Told::Hole(_) => {}
            Told::Data(at, bytes) => {
                let start = (at - self.request.offset) as usize;
                self.data[start..start + bytes.len()].copy_from_slice(&bytes);
            }
            Told::Extents(id, extents) => self.extents.push((id, extents)),
            Told::Error(error) => self.error = Some(error),
        }
    }
}

fn error_kind(error: &Value) -> &str {
    error["data"]["kind"].as_str().unwrap_or_default()
}
