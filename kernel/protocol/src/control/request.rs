//! From a line to a command, or to the error that answers it.

use super::commands::Command;
use super::error::{ErrorKind, ErrorObject};
use super::quoted;
use super::value::{self, Value};
use crate::limits::{CONTROL_LINE_BYTES_MAX, ID_BYTES_MAX};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;

/// The `id` of a request, given back as it came.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Id {
    /// `null`, also where the id could not be read.
    Null,
    /// An integer.
    Unsigned(u64),
    /// A negative integer.
    Signed(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
}

/// A request that can be carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Absent for a notification, which gets no answer.
    pub id: Option<Id>,
    /// What to do.
    pub command: Command,
}

/// A line that is no request of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct BadRequest {
    /// Where to send the error; nowhere for a notification.
    pub id: Option<Id>,
    /// The error.
    pub error: ErrorObject,
}

impl BadRequest {
    fn new(id: Id, kind: ErrorKind, message: &str) -> Self {
        Self { id: Some(id), error: ErrorObject::new(kind, message) }
    }

    /// The answer to [`Frame::TooLong`](super::Frame::TooLong).
    pub fn too_long() -> Self {
        let message =
            format!("the line is longer than {CONTROL_LINE_BYTES_MAX} bytes; send shorter requests");
        Self::new(Id::Null, ErrorKind::ParseError, &message)
    }

    /// The answer to [`Frame::NoMemory`](super::Frame::NoMemory).
    pub fn no_memory() -> Self {
        let message = "there is no memory for the line now; send it again later";
        Self::new(Id::Null, ErrorKind::NoMemory, message)
    }
}

/// Decodes one line.
pub fn decode(line: &[u8]) -> Result<Call, BadRequest> {
    let unreadable = |message: &str| BadRequest::new(Id::Null, ErrorKind::ParseError, message);
    let text =
        core::str::from_utf8(line).map_err(|_| unreadable("the line is not UTF-8; send JSON in UTF-8"))?;
    let message = value::parse(text)
        .map_err(|error| unreadable(&format!("the line is not JSON that can be read: {error}")))?;
    let mut members = match message {
        Value::Map(members) => members,
        Value::List(_) => return Err(invalid(Id::Null, "batches are not served; send one object a line")),
        Value::Other(what) if what.starts_with("an array") => {
            return Err(invalid(Id::Null, "batches are not served; send one object a line"));
        }
        other => {
            return Err(invalid(Id::Null, &format!("a request is an object, not {}", other.described())));
        }
    };
    let id = take_id(&mut members)?;
    let reply_to = id.clone().unwrap_or(Id::Null);
    let method = take_envelope(&mut members).map_err(|message| invalid(reply_to.clone(), &message))?;
    let command = arguments(&mut members)
        .and_then(|arguments| members_left(&members).map(|()| arguments))
        .map_err(|message| invalid(reply_to, &message))
        .and_then(|arguments| {
            Command::from_arguments(&method, arguments).map_err(|error| BadRequest { id: id.clone(), error })
        })?;
    Ok(Call { id, command })
}

fn invalid(id: Id, message: &str) -> BadRequest {
    BadRequest::new(id, ErrorKind::InvalidRequest, message)
}

fn take(members: &mut Vec<(String, Value)>, key: &str) -> Option<Value> {
    let index = members.iter().position(|(name, _)| name == key)?;
    Some(members.swap_remove(index).1)
}

fn take_id(members: &mut Vec<(String, Value)>) -> Result<Option<Id>, BadRequest> {
    Ok(Some(match take(members, "id") {
        None => return Ok(None),
        Some(Value::Null) => Id::Null,
        Some(Value::Unsigned(number)) => Id::Unsigned(number),
        Some(Value::Signed(number)) => Id::Signed(number),
        Some(Value::Float(number)) => Id::Float(number),
        Some(Value::Text(text)) if text.len() <= ID_BYTES_MAX => Id::Text(text),
        Some(_) => {
            let message = format!("an id is a number, null or a text of at most {ID_BYTES_MAX} bytes");
            return Err(invalid(Id::Null, &message));
        }
    }))
}

/// Checks the version and gives the method.
fn take_envelope(members: &mut Vec<(String, Value)>) -> Result<String, String> {
    if take(members, "jsonrpc") != Some(Value::Text("2.0".into())) {
        return Err("a request has the member \"jsonrpc\":\"2.0\"".into());
    }
    match take(members, "method") {
        Some(Value::Text(method)) => Ok(method),
        Some(other) => Err(format!("\"method\" is a text, not {}", other.described())),
        None => Err("a request has a member \"method\", such as \"system.info\"".into()),
    }
}

fn arguments(members: &mut Vec<(String, Value)>) -> Result<Vec<(String, Value)>, String> {
    match take(members, "params") {
        None => Ok(Vec::new()),
        Some(Value::Map(arguments)) => Ok(arguments),
        Some(other) => Err(format!("\"params\" is an object of named parameters, not {}", other.described())),
    }
}

fn members_left(members: &[(String, Value)]) -> Result<(), String> {
    match members.first() {
        None => Ok(()),
        Some((name, _)) => Err(format!(
            "a request has \"jsonrpc\", \"id\", \"method\" and \"params\", each once; {} is one too many",
            quoted(name)
        )),
    }
}
