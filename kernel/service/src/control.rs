//! Control sessions: JSON-RPC requests in, answers in their order, and events in between once asked for.
//!
//! A request runs to its end even when its client leaves, and the next client does not wait for it. One session's
//! long request holds up only that session: what takes really long is a job anyway.

use crate::appliance::Appliance;
use crate::environment::Environment;
use crate::events::Subscription;
use crate::memory::room_for;
use crate::port::{Chunk, Disconnected, Port};
use crate::sessions::Session;
use crate::signal::Signal;
use crate::time::rfc3339;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::convert::Infallible;
use core::pin::pin;
use datum_protocol::control::{BadRequest, Command, ErrorKind, ErrorObject, Frame, Lines, decode, encode};
use datum_store::device::BlockDevice;
use futures_util::future::{Either, select};

/// Bytes received at a time.
const BUFFER_BYTES: usize = 1024;

/// How many times its own size a line takes at most while it is decoded.
const DECODED_TIMES: usize = 16;

/// Serves JSON-RPC on a port; never returns.
pub(crate) async fn serve<D: BlockDevice + 'static, E: Environment + 'static, P: Port>(
    appliance: &Rc<Appliance<D, E>>,
    port: P,
) {
    loop {
        port.accept().await;
        let session = appliance.open_session(port.name(), "control");
        let conversation =
            Conversation { appliance, port: &port, session: &session, listening: Listening::default() };
        // Either ends only when the client has left.
        select(pin!(conversation.requests()), pin!(conversation.events())).await;
        appliance.close_session(&session);
    }
}

/// The session's subscription, once there is one.
#[derive(Default)]
struct Listening {
    subscription: RefCell<Option<Rc<Subscription>>>,
    changed: Signal,
}

struct Conversation<'a, D: BlockDevice, E: Environment, P> {
    appliance: &'a Rc<Appliance<D, E>>,
    port: &'a P,
    session: &'a Session,
    listening: Listening,
}

impl<D: BlockDevice + 'static, E: Environment + 'static, P: Port> Conversation<'_, D, E, P> {
    async fn requests(&self) -> Result<Infallible, Disconnected> {
        self.send(encode::hello(&self.appliance.version)).await?;
        if self.appliance.greeted.get() == 0 {
            self.appliance.greeted.set(self.appliance.environment.monotonic_nanoseconds());
        }
        let mut lines = Lines::new();
        let mut buffer = [0; BUFFER_BYTES];
        loop {
            let received = self.port.receive(&mut buffer).await?;
            self.session.count(&self.session.bytes_received, received as u64);
            let mut rest = &buffer[..received];
            loop {
                let (taken, frame) = lines.receive(rest);
                rest = &rest[taken..];
                match frame {
                    Some(Frame::Line(line)) => self.line(&line).await?,
                    Some(Frame::TooLong) => self.refuse(BadRequest::too_long()).await?,
                    Some(Frame::NoMemory) => self.refuse(BadRequest::no_memory()).await?,
                    None => break,
                }
            }
        }
    }

    async fn line(&self, line: &[u8]) -> Result<(), Disconnected> {
        self.session.count(&self.session.requests, 1);
        if room_for(DECODED_TIMES * line.len()).is_err() {
            return self.refuse(BadRequest::no_memory()).await;
        }
        let call = match decode(line) {
            Ok(call) => call,
            Err(bad) => return self.refuse(bad).await,
        };
        let subscribes = matches!(call.command, Command::EventSubscribe {});
        let only_asks = call.command.only_asks();
        let executed = pin!(self.appliance.execute(call.command));
        let left = pin!(self.port.left());
        // It may wait for a suspended volume, which perhaps only the next client resumes.
        let Either::Left((mut outcome, _)) = select(executed, left).await else { return Err(Disconnected) };
        if subscribes && outcome.is_ok() {
            self.subscribe();
        }
        let Some(id) = call.id else { return Ok(()) };
        // A text that grows moves from one piece of memory to one of twice the size. Of what was done nobody may say that
        // it was refused, and that is told in few words.
        if let Ok(result) = &mut outcome {
            result.give_room();
        }
        let room = match &outcome {
            Ok(result) if only_asks => room_for(3 * result.text_bytes()),
            _ => Ok(()),
        };
        self.send(match (&outcome, room) {
            (Ok(result), Ok(())) => encode::response(&id, result),
            (Ok(_), Err(error)) => encode::error(&id, &ErrorObject::new(ErrorKind::NoMemory, error)),
            (Err(error), _) => encode::error(&id, error),
        })
        .await
    }

    async fn refuse(&self, bad: BadRequest) -> Result<(), Disconnected> {
        let Some(id) = &bad.id else { return Ok(()) };
        self.send(encode::error(id, &bad.error)).await
    }

    fn subscribe(&self) {
        let mut subscription = self.listening.subscription.borrow_mut();
        if subscription.is_none() {
            *subscription = Some(Rc::new(self.appliance.events.subscribe()));
            self.listening.changed.notify();
        }
    }

    async fn events(&self) -> Result<Infallible, Disconnected> {
        let subscription =
            self.listening.changed.until(|| self.listening.subscription.borrow().clone()).await;
        loop {
            let (time, event) = subscription.next().await;
            self.send(encode::notification("event", &event.to_json(&rfc3339(time)))).await?;
        }
    }

    async fn send(&self, line: Vec<u8>) -> Result<(), Disconnected> {
        self.session.count(&self.session.bytes_sent, line.len() as u64);
        self.port.send(vec![Chunk::Bytes(line)], drop).await
    }
}
