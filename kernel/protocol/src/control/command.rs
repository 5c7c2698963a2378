//! What a command is to control, console and help, and how arguments become one.
//!
//! `commands` holds the table itself; here are the rules that all of its rows share: unknown parameters are refused
//! by name, missing ones are named, and near misses are suggested.

use super::argument::{Argument, Kind};
use super::commands::COMMANDS;
use super::error::{ErrorKind, ErrorObject};
use super::value::Value;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::iter;

/// One parameter of a command.
#[derive(Clone, Copy, Debug)]
pub struct ParameterSpec {
    /// Its name on control; `--name` on the console, with '-' for '_'.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Whether it must be given.
    pub required: bool,
    /// On the console it may stand without its name, in the table's order.
    pub positional: bool,
    /// What it means.
    pub help: &'static str,
}

/// One command.
#[derive(Clone, Copy, Debug)]
pub struct CommandSpec {
    /// Its method on control, such as `volume.create`.
    pub method: &'static str,
    /// Its words on the console, such as `volume create`.
    pub words: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// A console line that works.
    pub example: &'static str,
    /// Its parameters; the positional ones in their order.
    pub parameters: &'static [ParameterSpec],
}

impl CommandSpec {
    /// The parameter of this name.
    pub fn parameter(&self, name: &str) -> Option<&'static ParameterSpec> {
        self.parameters.iter().find(|parameter| parameter.name == name)
    }

    fn error(&self, message: &str) -> ErrorObject {
        ErrorObject::new(ErrorKind::InvalidParams, format!("{}: {message}", self.method))
    }

    fn parameter_names(&self) -> String {
        match self.parameters {
            [] => "it takes none".into(),
            parameters => {
                let names: Vec<_> = parameters.iter().map(|parameter| parameter.name).collect();
                format!("it takes {}", names.join(", "))
            }
        }
    }

    fn unknown(&self, name: &str) -> ErrorObject {
        let near = nearest(name, self.parameters.iter().map(|parameter| parameter.name));
        let hint = near.map(|near| format!("did you mean \"{near}\"? ")).unwrap_or_default();
        self.error(&format!("unknown parameter {}; {hint}{}", quoted(name), self.parameter_names()))
    }
}

/// The row of a method.
pub fn find(method: &str) -> Result<&'static CommandSpec, ErrorObject> {
    COMMANDS.iter().find(|spec| spec.method == method).ok_or_else(|| {
        let near = nearest(method, COMMANDS.iter().map(|spec| spec.method));
        let hint = near.map_or("see docs/PROTOCOL.md or `help` on the console".into(), |near| {
            format!("did you mean \"{near}\"?")
        });
        ErrorObject::new(ErrorKind::UnknownMethod, format!("unknown method {}; {hint}", quoted(method)))
    })
}

/// The arguments of one command while they are taken.
pub(super) struct Arguments {
    spec: &'static CommandSpec,
    values: Vec<(String, Value)>,
}

impl Arguments {
    /// Refuses what the command does not take.
    pub(super) fn new(spec: &'static CommandSpec, values: Vec<(String, Value)>) -> Result<Self, ErrorObject> {
        for (index, (name, _)) in values.iter().enumerate() {
            if spec.parameter(name).is_none() {
                return Err(spec.unknown(name));
            }
            if values.iter().take(index).any(|(earlier, _)| earlier == name) {
                return Err(spec.error(&format!("parameter \"{name}\" is given twice")));
            }
        }
        Ok(Self { spec, values })
    }

    /// Takes one parameter by its name.
    pub(super) fn take<T: Argument>(&mut self, name: &str) -> Result<T, ErrorObject> {
        match self.values.iter().position(|(given, _)| given == name) {
            Some(index) => {
                let (_, value) = self.values.swap_remove(index);
                T::from_value(value)
                    .map_err(|problem| self.spec.error(&format!("parameter \"{name}\" {problem}")))
            }
            None => T::absent().ok_or_else(|| {
                let expected = T::KIND.expected();
                self.spec.error(&format!("parameter \"{name}\" is missing; give {expected}"))
            }),
        }
    }
}

/// The candidate nearest to what was written, if one is near enough to be meant.
pub(crate) fn nearest<'a>(written: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let written: Vec<char> = written.chars().take(64).collect();
    candidates
        .map(|candidate| (distance(&written, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 5)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, one row at a time.
fn distance(written: &[char], candidate: &str) -> usize {
    let mut row: Vec<usize> = (0..=written.len()).collect();
    for (line, wanted) in candidate.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        let next = iter::once(left).chain(written.iter().zip(row.windows(2)).map(|(have, above)| {
            let substituted = diagonal + usize::from(*have != wanted);
            diagonal = above[1];
            left = substituted.min(left + 1).min(above[1] + 1);
            left
        }));
        row = next.collect();
    }
    row.last().copied().unwrap_or_default()
}

/// What a client wrote, in quotes, without control characters and not longer than a line.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(64).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let of = |a: &str, b| distance(&a.chars().collect::<Vec<_>>(), b);
        assert_eq!(of("kitten", "sitting"), 3);
        assert_eq!(of("", "abc"), 3);
        assert_eq!(of("abc", ""), 3);
        assert_eq!(of("volume.lst", "volume.list"), 1);
        assert_eq!(nearest("volum.create", COMMANDS.iter().map(|c| c.method)), Some("volume.create"));
        assert_eq!(nearest("xyzzy", COMMANDS.iter().map(|c| c.method)), None);
    }
}
