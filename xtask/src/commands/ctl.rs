//! `cargo xtask ctl`: one request on the control port.
//!
//! The result goes to stdout as JSON, everything else to stderr. Exit codes: 0 done, 1 the appliance refused
//! or a job failed, 3 no appliance could be reached.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Map, Value};

use super::Location;
use crate::control::{Client, ControlError};
use crate::qemu::Port;
use crate::size;

/// Call a method on a running appliance's control port, as in `ctl volume.create name=db size=20G`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The method, such as volume.list.
    method: String,
    /// `key=value`: JSON where it is JSON, else text; `volumes=a,b` makes a list, sizes may be written 20G.
    #[arg(value_parser = parameter)]
    parameters: Vec<(String, Value)>,
    #[command(flatten)]
    location: Location,
    /// Where the answer names a job, wait for its result.
    #[arg(long)]
    follow: bool,
    /// How many seconds to wait for the greeting and for each answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
}

/// Parameters that are lists.
const LISTS: [&str; 2] = ["devices", "volumes"];

/// Parameters that are counts of bytes.
const SIZES: [&str; 2] = ["size", "offset"];

const EXIT_REFUSED: u8 = 1;
const EXIT_UNREACHED: u8 = 3;

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self.call() {
            Ok(result) => {
                println!("{}", serde_json::to_string_pretty(&result)?);
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => {
                eprintln!("error: {error}");
                let refused = matches!(error, ControlError::Refused(_) | ControlError::Job(_));
                Ok(ExitCode::from(if refused { EXIT_REFUSED } else { EXIT_UNREACHED }))
            }
        }
    }

    fn call(self) -> Result<Value, ControlError> {
        let patience = Duration::from_secs(self.patience);
        let socket = self.location.socket(Port::Control);
        if !socket.exists() {
            eprintln!("no appliance offers {}: start one with `cargo xtask run`", socket.display());
        }
        // A socket that is there is connected at once; the patience is for the greeting.
        let mut client = Client::connect(&socket, if socket.exists() { patience } else { Duration::ZERO })?;
        let parameters = self.parameters.into_iter().collect::<Map<_, _>>();
        let result = client.call_within(&self.method, Value::Object(parameters), patience)?;
        match result["job"].as_str() {
            Some(job) if self.follow => {
                let shown = |part: f64| eprint!("\rjob {job}: {:3.0} %", part * 100.0);
                let ended = client.wait_for_job(job, Duration::MAX / 4, shown);
                eprintln!("\rjob {job}: {}", if ended.is_ok() { "done " } else { "ended" });
                ended
            }
            _ => Ok(result),
        }
    }
}

/// Reads one `key=value`.
fn parameter(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is no key=value"))?;
    if key.is_empty() {
        return Err(format!("`{text}` names no key"));
    }
    Ok((key.to_owned(), value_of(key, value)?))
}

fn value_of(key: &str, text: &str) -> Result<Value, String> {
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(if LISTS.contains(&key) && !Value::is_array(&value) { list(text) } else { value });
    }
    if LISTS.contains(&key) {
        return Ok(list(text));
    }
    if SIZES.contains(&key) {
        return size::parse(text).map(Value::from);
    }
    Ok(Value::from(text))
}

fn list(text: &str) -> Value {
    text.split(',').filter(|name| !name.is_empty()).map(Value::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_json_where_they_are_json() {
        for (text, expected) in [
            ("name=db", json!("db")),
            ("force=true", json!(true)),
            ("limit=10", json!(10)),
            ("since=datum:1:a=b", json!("datum:1:a=b")),
            ("filter={\"a\":[1]}", json!({ "a": [1] })),
            ("name=\"7\"", json!("7")),
            ("name=", json!("")),
            ("size=20G", json!(20u64 << 30)),
            ("size=4096", json!(4096)),
            ("devices=vd0,vd1", json!(["vd0", "vd1"])),
            ("volumes=7", json!(["7"])),
            ("volumes=[\"a\"]", json!(["a"])),
        ] {
            let (key, _) = text.split_once('=').unwrap();
            assert_eq!(parameter(text), Ok((key.to_owned(), expected)), "{text}");
        }
    }

    #[test]
    fn what_is_no_parameter_is_refused() {
        for text in ["name", "=x", "size=huge"] {
            assert!(parameter(text).is_err(), "{text}");
        }
    }
}
