//! NBD sessions: one client a port, any export on any port.
//!
//! A session negotiates ([`handshake`]), then one task receives requests while each request runs as a task of
//! its own and replies when it is done ([`connection`]). Payloads pass in chunks and are never collected. What
//! a client's leaving cuts off is finished without a reply; a request that was not received whole beyond a
//! chunk has no effect past what was.

mod connection;
mod handshake;
mod input;
mod read;
mod status;
mod write;
mod zero;

use crate::appliance::Appliance;
use crate::environment::Environment;
use crate::port::{Disconnected, Port};
use crate::sessions::Session;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use connection::{Connection, UnderWay};
use datum_protocol::nbd::{Command, ErrorNumber, Incoming, Request, RequestId, Transmission};
use datum_store::device::BlockDevice;
use datum_store::{Error, ErrorKind};
use input::Input;

/// Serves NBD on a port; never returns.
pub(crate) async fn serve<D: BlockDevice + 'static, E: Environment + 'static, P: Port + 'static>(
    appliance: &Rc<Appliance<D, E>>,
    port: P,
) {
    let port = Rc::new(port);
    loop {
        port.accept().await;
        let session = appliance.open_session(port.name(), "nbd");
        let mut input = Input::new(port.clone(), session.clone());
        // Either the client has left, or it must: a port cannot hang up, so the rest goes unheard.
        if run(appliance, &port, &session, &mut input).await.is_ok() {
            session.end();
            input.discard().await;
        }
        appliance.close_session(&session);
    }
}

/// From the greeting to the end that the protocol knows; `Err` where the client just leaves.
async fn run<D: BlockDevice + 'static, E: Environment + 'static, P: Port + 'static>(
    appliance: &Rc<Appliance<D, E>>,
    port: &Rc<P>,
    session: &Rc<Session>,
    input: &mut Input<P>,
) -> Result<(), Disconnected> {
    let Some(negotiated) = handshake::negotiate(appliance, port, input).await? else { return Ok(()) };
    let (export, settled) = negotiated;
    *session.export.borrow_mut() = Some(export.in_use());
    let connection = Rc::new(Connection::new(appliance, port.clone(), session.clone(), &settled, export));
    let mut transmission = Transmission::new(settled);
    loop {
        let counted = transmission.omits_payload_len();
        let incoming = input.next(|bytes| transmission.receive(bytes)).await?;
        if transmission.omits_payload_len() && !counted {
            appliance.sessions.count_omitted_payload_len();
        }
        match incoming {
            Incoming::Request(request) => dispatch(&connection, input, &mut transmission, request).await?,
            Incoming::Refused { id, error, message } => {
                let under_way = connection.begin().await?;
                connection.spawn(refuse(connection.clone(), id, error, message, under_way));
            }
            Incoming::Ended(_) => return Ok(()),
        }
    }
}

/// Starts one request. Returns when the next one may be received.
async fn dispatch<D: BlockDevice + 'static, P: Port + 'static>(
    connection: &Rc<Connection<D, P>>,
    input: &mut Input<P>,
    transmission: &mut Transmission,
    request: Request,
) -> Result<(), Disconnected> {
    connection.session.count(&connection.session.requests, 1);
    if request.command == Command::Write {
        return write::receive(connection, input, transmission, request).await;
    }
    let under_way = connection.begin().await?;
    connection.spawn(perform(connection.clone(), request, under_way));
    Ok(())
}

async fn refuse<D: BlockDevice, P: Port>(
    connection: Rc<Connection<D, P>>,
    id: RequestId,
    error: ErrorNumber,
    message: &'static str,
    _under_way: UnderWay<D, P>,
) {
    connection.error(id, error, message).await;
}

async fn perform<D: BlockDevice, P: Port>(
    connection: Rc<Connection<D, P>>,
    request: Request,
    _under_way: UnderWay<D, P>,
) {
    let connection = &*connection;
    let done = match connection.allowed() {
        Err(error) => Err(error),
        Ok(()) => match &request.command {
            Command::Read { dont_fragment } => {
                return read::reply(connection, &request, *dont_fragment).await;
            }
            Command::BlockStatus { one, contexts } => {
                return status::reply(connection, &request, *one, contexts).await;
            }
            Command::Flush => connection.image.flush().await,
            Command::Trim | Command::WriteZeroes { .. } => zero::zero(connection, &request).await,
            Command::Cache => read::cache(connection, &request).await,
            Command::Write | Command::Disconnect => Ok(()),
        },
    };
    connection.finish(request.id, done).await;
}

/// The NBD number of an operating error.
pub(crate) fn error_number(error: &Error) -> ErrorNumber {
    match error.kind() {
        ErrorKind::NoSpace => ErrorNumber::NoSpace,
        ErrorKind::NoMemory => ErrorNumber::NoMemory,
        ErrorKind::ReadOnly => ErrorNumber::NotPermitted,
        ErrorKind::Limit | ErrorKind::Invalid => ErrorNumber::Invalid,
        _ => ErrorNumber::Io,
    }
}

/// The text that goes with it: the cause and the way out.
fn error_text(error: &Error) -> String {
    let mut text = error.message().to_string();
    if let Some(cause) = error.observations().first() {
        text.push_str(" (");
        text.push_str(cause);
        text.push(')');
    }
    text
}
