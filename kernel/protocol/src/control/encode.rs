//! What goes back on the control port: each a line with its end.

use super::error::ErrorObject;
use super::request::Id;
use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;

/// The version of the control protocol.
pub const PROTOCOL: u32 = 1;

#[derive(Serialize)]
struct Response<'a, T> {
    jsonrpc: &'static str,
    id: &'a Id,
    result: &'a T,
}

#[derive(Serialize)]
struct Failure<'a> {
    jsonrpc: &'static str,
    id: &'a Id,
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: i32,
    message: &'a str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    kind: &'static str,
    observations: &'a [String],
}

#[derive(Serialize)]
struct Notification<'a, T> {
    jsonrpc: &'static str,
    method: &'a str,
    params: &'a T,
}

#[derive(Serialize)]
struct Hello<'a> {
    product: &'static str,
    version: &'a str,
    protocol: u32,
}

/// The answer to a request that succeeded.
pub fn response<T: Serialize>(id: &Id, result: &T) -> Vec<u8> {
    line(&Response { jsonrpc: "2.0", id, result })
}

/// The answer to a request that failed.
pub fn error(id: &Id, error: &ErrorObject) -> Vec<u8> {
    let data = Data { kind: error.kind.as_str(), observations: &error.observations };
    let error = Error { code: error.kind.code(), message: &error.message, data };
    line(&Failure { jsonrpc: "2.0", id, error })
}

/// The error object alone, as `job.show` holds it.
pub fn error_value(error: &ErrorObject) -> serde_json::Value {
    let data = Data { kind: error.kind.as_str(), observations: &error.observations };
    let error = Error { code: error.kind.code(), message: &error.message, data };
    serde_json::to_value(&error).unwrap_or_default()
}

/// A message that nobody asked for and nobody answers.
pub fn notification<T: Serialize>(method: &str, params: &T) -> Vec<u8> {
    line(&Notification { jsonrpc: "2.0", method, params })
}

/// The first line of each session.
pub fn hello(version: &str) -> Vec<u8> {
    notification("hello", &Hello { product: "datum", version, protocol: PROTOCOL })
}

fn line<T: Serialize>(message: &T) -> Vec<u8> {
    // Only maps with other keys than texts cannot be written, and no result has one.
    let mut line = serde_json::to_vec(message).unwrap_or_else(|_| UNWRITABLE.into());
    line.push(b'\n');
    line
}

const UNWRITABLE: &str = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"the result could not be written as JSON; please report this","data":{"kind":"internal","observations":[]}}}"#;

#[cfg(test)]
mod tests {
    use super::super::error::ErrorKind;
    use super::*;

    #[test]
    fn lines_as_the_contract_has_them() {
        assert_eq!(
            hello("0.1.0"),
            br#"{"jsonrpc":"2.0","method":"hello","params":{"product":"datum","version":"0.1.0","protocol":1}}
"#
        );
        let failed =
            ErrorObject::new(ErrorKind::NotFound, "no volume \"x\"; see volume.list").observed("reading x");
        assert_eq!(
            error(&Id::Unsigned(7), &failed),
            br#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"no volume \"x\"; see volume.list","data":{"kind":"not_found","observations":["reading x"]}}}
"#
        );
        assert_eq!(
            response(&Id::Null, &u64::MAX),
            b"{\"jsonrpc\":\"2.0\",\"id\":null,\"result\":18446744073709551615}\n"
        );
    }

    #[test]
    fn the_fallback_is_json() {
        assert!(serde_json::from_str::<serde_json::Value>(UNWRITABLE).is_ok());
    }
}
