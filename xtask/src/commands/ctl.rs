//! `cargo xtask ctl`: one request on a control port, the first that is free.
//!
//! The result goes to stdout as JSON, everything else to stderr. Exit codes: 0 done, 1 the appliance refused
//! or a job failed, 3 no appliance could be reached, 4 a check or scrub found damage.

use std::io::{self, ErrorKind, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Map, Value};

use super::Location;
use crate::control::{Client, ControlError};
use crate::qemu::Port;
use crate::{greeting, size};

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
    /// Where the answer names a job, wait for it and add its result; exit code 4 where that counts errors.
    #[arg(long)]
    follow: bool,
    /// Take one page of a list, not all of them. So does `limit=`.
    #[arg(long)]
    page: bool,
    /// How many seconds to wait for the greeting and for each answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
}

/// Parameters that are lists.
const LISTS: [&str; 2] = ["devices", "volumes"];

/// Parameters that are texts by contract, also where they look like a number or `true`.
const TEXTS: [&str; 9] =
    ["after", "checkpoint", "job", "name", "new_name", "refpoint", "since", "until", "volume"];

/// Parameters that are counts of bytes.
const SIZES: [&str; 2] = ["size", "offset"];

/// A job may well take days; the user ends the wait.
const JOB_PATIENCE: Duration = Duration::from_secs(366 * 24 * 3600);

const EXIT_REFUSED: u8 = 1;
const EXIT_UNREACHED: u8 = 3;
const EXIT_DAMAGED: u8 = 4;

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self.call() {
            Ok(result) => {
                println!("{}", serde_json::to_string_pretty(&result)?);
                let damaged = result["result"]["errors"].as_u64().is_some_and(|errors| errors > 0);
                Ok(if damaged { ExitCode::from(EXIT_DAMAGED) } else { ExitCode::SUCCESS })
            }
            Err(error) => {
                eprintln!("error: {error}");
                if matches!(&error, ControlError::Socket(cause) if cause.kind() != ErrorKind::TimedOut) {
                    eprintln!(
                        "start an appliance with `cargo xtask run`, or say where one is with --directory"
                    );
                }
                let refused = matches!(error, ControlError::Refused(_) | ControlError::Job(_));
                Ok(ExitCode::from(if refused { EXIT_REFUSED } else { EXIT_UNREACHED }))
            }
        }
    }

    fn call(self) -> Result<Value, ControlError> {
        let patience = Duration::from_secs(self.patience);
        // A socket without a listener will not get one; the patience is for the greeting.
        let deadline = Instant::now() + patience;
        let stream = greeting::first(&self.location.sockets(Port::Control), patience)?;
        let mut client = Client::greet(stream, deadline)?;
        let parameters = self.parameters.into_iter().collect::<Map<_, _>>();
        let one_page = self.page || parameters.contains_key("limit");
        let mut ask = |parameters: &Map<_, _>| {
            client.call_within(&self.method, Value::Object(parameters.clone()), patience)
        };
        let answer = match one_page {
            true => ask(&parameters)?,
            false => all_pages(parameters, ask)?,
        };
        if let Some(rest) = CONTINUATIONS.iter().find(|(next, _)| answer.get(next).is_some()) {
            eprintln!("this is one page of several: go on with {}={}", rest.1, text_of(&answer[rest.0]));
        }
        match answer["job"].as_str().map(str::to_owned) {
            Some(job) if self.follow => follow(&mut client, &job, answer),
            _ => Ok(answer),
        }
    }
}

/// What tells that there is another page, and the parameter that asks for it.
const CONTINUATIONS: [(&str, &str); 2] = [("next", "after"), ("next_offset", "offset")];

/// Asks for page after page, and makes one answer of them.
fn all_pages(
    mut parameters: Map<String, Value>,
    mut ask: impl FnMut(&Map<String, Value>) -> Result<Value, ControlError>,
) -> Result<Value, ControlError> {
    let mut whole = ask(&parameters)?;
    while let Some((next, parameter)) = continuation(&mut whole) {
        parameters.insert(parameter.into(), next);
        append(&mut whole, ask(&parameters)?);
    }
    Ok(whole)
}

fn continuation(answer: &mut Value) -> Option<(Value, &'static str)> {
    let object = answer.as_object_mut()?;
    CONTINUATIONS.iter().find_map(|(next, parameter)| Some((object.remove(*next)?, *parameter)))
}

/// Adds a page to those before it: lists go on, bytes add up, and an extent that a page's end cut in two is whole again.
fn append(whole: &mut Value, page: Value) {
    let (Some(whole), Value::Object(page)) = (whole.as_object_mut(), page) else { return };
    for (key, value) in page {
        match (whole.get_mut(&key), value) {
            (Some(Value::Array(items)), Value::Array(more)) => more.into_iter().for_each(|item| {
                if !items.last_mut().is_some_and(|last| joined(last, &item)) {
                    items.push(item);
                }
            }),
            (Some(sum), Value::Number(more)) if key.ends_with("_bytes") => {
                *sum = Value::from(sum.as_u64().unwrap_or(0) + more.as_u64().unwrap_or(0));
            }
            (_, value) => drop(whole.insert(key, value)),
        }
    }
}

/// Lengthens an extent by one of its kind that follows at once; false where it does not.
fn joined(last: &mut Value, item: &Value) -> bool {
    let number = |value: &Value, key: &str| value[key].as_u64();
    let (Some(offset), Some(length)) = (number(last, "offset"), number(last, "length")) else { return false };
    if number(item, "offset") != Some(offset + length) || item["kind"] != last["kind"] {
        return false;
    }
    last["length"] = Value::from(length + number(item, "length").unwrap_or(0));
    true
}

/// A value as it is written on the command line.
fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Waits for a job; its result joins the answer that named it, as `result`.
fn follow(client: &mut Client, job: &str, mut answer: Value) -> Result<Value, ControlError> {
    let watched = io::stderr().is_terminal();
    let ended = client.wait_for_job(job, JOB_PATIENCE, |part| {
        if watched {
            eprint!("\rjob {job}: {:3.0} % ", part * 100.0);
        }
    });
    if watched {
        eprintln!();
    }
    answer["result"] = ended?;
    Ok(answer)
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
    let json = serde_json::from_str(text).ok();
    if let Some(value) = json.filter(|value: &Value| value.is_string() || !TEXTS.contains(&key)) {
        return Ok(if LISTS.contains(&key) && !value.is_array() { list(text) } else { value });
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
            ("job=7", json!("7")),
            ("volume=true", json!("true")),
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

    /// A list of 5,000 volumes looked whole: 100 items and a `next` among them.
    #[test]
    fn pages_become_one_answer() {
        let pages = [
            json!({ "items": [{ "name": "a" }, { "name": "b" }], "next": "b" }),
            json!({ "items": [{ "name": "c" }], "next": "c" }),
            json!({ "items": [{ "name": "d" }] }),
        ];
        let mut asked = Vec::new();
        let whole = all_pages(Map::new(), |parameters| {
            asked.push(parameters.get("after").cloned());
            Ok(pages[asked.len() - 1].clone())
        });
        assert_eq!(asked, [None, Some(json!("b")), Some(json!("c"))]);
        let names =
            [json!({ "name": "a" }), json!({ "name": "b" }), json!({ "name": "c" }), json!({ "name": "d" })];
        assert_eq!(whole.unwrap(), json!({ "items": names }));
    }

    #[test]
    fn extents_that_a_page_cut_are_whole() {
        let extent = |offset: u64, length: u64, kind: &str| json!({ "offset": offset, "length": length, "kind": kind });
        let mut whole = json!({ "extents": [extent(0, 4, "data")], "changed_bytes": 4, "next_offset": 4 });
        assert_eq!(continuation(&mut whole), Some((json!(4), "offset")));
        append(
            &mut whole,
            json!({ "extents": [extent(4, 8, "data"), extent(12, 4, "zero")], "changed_bytes": 12 }),
        );
        append(&mut whole, json!({ "extents": [extent(20, 4, "zero")], "changed_bytes": 4 }));
        let extents = [extent(0, 12, "data"), extent(12, 4, "zero"), extent(20, 4, "zero")];
        assert_eq!(whole, json!({ "extents": extents, "changed_bytes": 20 }));
    }

    #[test]
    fn what_is_no_parameter_is_refused() {
        for text in ["name", "=x", "size=huge"] {
            assert!(parameter(text).is_err(), "{text}");
        }
    }
}
