//! Console sessions: the command table for people, with a line editor, completion and events between the lines.
//!
//! It carries out the same commands as control and only shows them otherwise. The same code serves a port of the
//! multiport console and the plain serial line.

use crate::appliance::Appliance;
use crate::environment::Environment;
use crate::events::Subscription;
use crate::limits::LIST_MAX;
use crate::memory::room_for;
use crate::port::{Chunk, Disconnected, Port};
use crate::sessions::Session;
use crate::signal::Signal;
use crate::time::rfc3339;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::convert::Infallible;
use core::future::pending;
use core::pin::pin;
use datum_protocol::console::{
    Editor, Entered, Entry, Objects, complete, fold, for_terminal, parse, render, render_bytes_max,
    render_error, render_event,
};
use datum_protocol::control::{Command, ErrorKind, ErrorObject};
use datum_protocol::size::text_bytes;
use datum_store::device::BlockDevice;
use datum_store::{Error, Name, Result as StoreResult};
use futures_util::future::{Either, select};
use serde_json::Value;

const PROMPT: &str = "datum> ";

/// Bytes received at a time: people type slowly, and pasted text may wait.
const BUFFER_BYTES: usize = 256;

/// Serves people on a port; never returns.
pub(crate) async fn serve<D: BlockDevice + 'static, E: Environment + 'static, P: Port>(
    appliance: &Rc<Appliance<D, E>>,
    port: P,
) {
    loop {
        port.accept().await;
        let session = appliance.open_session(port.name(), "console");
        let terminal = Terminal {
            appliance,
            port: &port,
            session: &session,
            editor: RefCell::new(Editor::new(PROMPT)),
            editing: Cell::new(false),
            subscription: RefCell::new(None),
            subscribed: Signal::default(),
        };
        // Any ends only when the person has left.
        let (events, farewell) = (pin!(terminal.events()), pin!(terminal.farewell()));
        select(pin!(terminal.lines()), select(events, farewell)).await;
        appliance.close_session(&session);
    }
}

/// The result, if there is memory to show it.
fn roomy(result: Value, json: bool) -> Result<Value, ErrorObject> {
    // A text that grows moves from one piece of memory to one of twice the size, and is copied once for the terminal.
    let bytes = if json { 5 * text_bytes(&result) } else { render_bytes_max(&result) };
    room_for(bytes).map_err(|error| ErrorObject::new(ErrorKind::NoMemory, error))?;
    Ok(result)
}

/// Adds names to others.
fn extend(names: &mut Vec<String>, more: Vec<String>) -> StoreResult<()> {
    names.try_reserve_exact(more.len()).map_err(|_| Error::no_memory())?;
    names.extend(more);
    Ok(())
}

struct Terminal<'a, D: BlockDevice, E: Environment, P> {
    appliance: &'a Rc<Appliance<D, E>>,
    port: &'a P,
    session: &'a Session,
    editor: RefCell<Editor>,
    /// A line is being edited, and must be drawn again after anything else was shown.
    editing: Cell<bool>,
    subscription: RefCell<Option<Rc<Subscription>>>,
    subscribed: Signal,
}

impl<D: BlockDevice + 'static, E: Environment + 'static, P: Port> Terminal<'_, D, E, P> {
    async fn lines(&self) -> Result<Infallible, Disconnected> {
        let banner = format!("Datum {}. `help` lists the commands.\n", self.appliance.version);
        self.show(&banner).await?;
        self.prompt().await?;
        let mut buffer = [0; BUFFER_BYTES];
        loop {
            let received = self.port.receive(&mut buffer).await?;
            self.session.count(&self.session.bytes_received, received as u64);
            let mut rest = &buffer[..received];
            let mut question = Vec::new();
            self.editor.borrow_mut().arrived(rest, &mut question);
            self.send(question).await?;
            while !rest.is_empty() {
                let mut echo = Vec::new();
                let (taken, entered) = self.editor.borrow_mut().receive(rest, &mut echo);
                rest = &rest[taken..];
                self.send(echo).await?;
                match entered {
                    None => {}
                    Some(Entered::Line(line)) => self.line(&line).await?,
                    Some(Entered::Complete(before)) => self.complete(&before).await?,
                    Some(Entered::Interrupt) => self.prompt().await?,
                    Some(Entered::End) => {
                        self.show("\nThe console stays open; disconnect to leave it.\n").await?;
                        self.prompt().await?;
                    }
                }
            }
        }
    }

    async fn line(&self, line: &str) -> Result<(), Disconnected> {
        self.editing.set(false);
        match parse(line) {
            Ok(Entry::Nothing) => {}
            Ok(Entry::Help(text)) => self.show(&fold(&text, self.width())).await?,
            Ok(Entry::Run { command, json }) => self.run(command, json).await?,
            Err(error) => self.show(&render_error(&error)).await?,
        }
        self.prompt().await
    }

    async fn run(&self, command: Command, json: bool) -> Result<(), Disconnected> {
        self.session.count(&self.session.requests, 1);
        let subscribes = matches!(command, Command::EventSubscribe {});
        let only_asks = command.only_asks();
        let executed = pin!(self.appliance.execute(command));
        let left = pin!(self.port.left());
        // It may wait for a suspended volume, which perhaps only the next person resumes.
        let Either::Left((outcome, _)) = select(executed, left).await else { return Err(Disconnected) };
        let no_memory = |error| ErrorObject::new(ErrorKind::NoMemory, error);
        let value = outcome.and_then(|answer| answer.into_value().map_err(no_memory));
        // Of what was done nobody may say that it was refused, and that is told in few words.
        let shown = if only_asks { value.and_then(|result| roomy(result, json)) } else { value };
        let text = match shown {
            Ok(result) if json => format!("{result}\n"),
            Ok(result) => render(&result, self.width()),
            Err(error) => render_error(&error),
        };
        if subscribes {
            self.subscribe();
        }
        self.show(&text).await
    }

    fn width(&self) -> usize {
        self.editor.borrow().width()
    }

    fn subscribe(&self) {
        let mut subscription = self.subscription.borrow_mut();
        if subscription.is_none() {
            *subscription = Some(Rc::new(self.appliance.events.subscribe()));
            self.subscribed.notify();
        }
    }

    async fn events(&self) -> Result<Infallible, Disconnected> {
        let subscription = self.subscribed.until(|| self.subscription.borrow().clone()).await;
        loop {
            let (time, event) = subscription.next().await;
            self.interrupt(&render_event(&event.to_json(&rfc3339(time)))).await?;
        }
    }

    /// Tells everybody that the machine goes down, and why. Who listens to events has heard it as one.
    async fn farewell(&self) -> Result<Infallible, Disconnected> {
        let reason = self.appliance.stopped().await;
        if self.subscription.borrow().is_none() {
            self.interrupt(&format!("* {}\n", reason.sentence())).await?;
        }
        pending().await
    }

    /// Shows a line between others, and the one being edited again below it.
    async fn interrupt(&self, line: &str) -> Result<(), Disconnected> {
        let mut output = b"\r\x1b[K".to_vec();
        output.extend(for_terminal(line));
        if self.editing.get() {
            self.editor.borrow_mut().start(&mut output);
        }
        self.send(output).await
    }

    async fn complete(&self, before: &str) -> Result<(), Disconnected> {
        let mut completion = complete(before);
        if let Some(objects) = completion.objects.take() {
            // Where names cannot be listed, there is nothing to offer; the command itself will say why.
            let names = self.names(objects).await.unwrap_or_default();
            extend(&mut completion.candidates, names).unwrap_or_default();
        }
        let mut output = Vec::new();
        self.editor.borrow_mut().offer(&completion.typed, &completion.candidates, &mut output);
        self.send(output).await
    }

    /// Names of objects, as many as one list holds.
    async fn names(&self, objects: Objects) -> StoreResult<Vec<String>> {
        Ok(match objects {
            Objects::Volumes => {
                let volumes = self.appliance.pool().await?.volumes(None, LIST_MAX).await?;
                volumes.iter().map(|volume| volume.name.to_string()).collect()
            }
            Objects::Checkpoints(volume) => self.checkpoints(&volume).await?,
            Objects::Refpoints(volume) => self.refpoints(&volume).await?,
            Objects::Points(volume) => {
                let mut names = self.checkpoints(&volume).await?;
                extend(&mut names, self.refpoints(&volume).await?)?;
                names
            }
            Objects::Devices => {
                self.appliance.disks().await.entries.iter().map(|entry| entry.name().to_string()).collect()
            }
            Objects::Jobs => {
                self.appliance.jobs.list(0, LIST_MAX).iter().map(|job| job.id.to_string()).collect()
            }
        })
    }

    async fn checkpoints(&self, volume: &str) -> StoreResult<Vec<String>> {
        let Some(volume) = Name::new(volume) else { return Ok(Vec::new()) };
        let found = self.appliance.pool().await?.checkpoints(&volume, None, LIST_MAX).await?;
        Ok(found.iter().map(|checkpoint| checkpoint.name.to_string()).collect())
    }

    async fn refpoints(&self, volume: &str) -> StoreResult<Vec<String>> {
        let Some(volume) = Name::new(volume) else { return Ok(Vec::new()) };
        let found = self.appliance.pool().await?.refpoints(&volume, None, LIST_MAX).await?;
        Ok(found.iter().map(|refpoint| refpoint.name.to_string()).collect())
    }

    async fn prompt(&self) -> Result<(), Disconnected> {
        let mut output = Vec::new();
        self.editor.borrow_mut().start(&mut output);
        self.editing.set(true);
        self.send(output).await
    }

    async fn show(&self, text: &str) -> Result<(), Disconnected> {
        self.send(for_terminal(text)).await
    }

    async fn send(&self, output: Vec<u8>) -> Result<(), Disconnected> {
        if output.is_empty() {
            return Ok(());
        }
        self.session.count(&self.session.bytes_sent, output.len() as u64);
        self.port.send(vec![Chunk::Bytes(output)], drop).await
    }
}
