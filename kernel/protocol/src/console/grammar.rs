//! From a console line to a command: noun and verb, positional words, `--options`.
//!
//! Everything here follows from the command table. Words become the values that JSON would carry and then take the
//! control port's own path, so both surfaces accept and refuse the same.

use super::help::{self, synopsis};
use super::words::{self, WordsError};
use crate::control::{
    COMMANDS, Command, CommandSpec, ErrorKind, ErrorObject, Kind, ParameterSpec, Value, nearest, quoted,
};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// What a line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// The line was empty or a comment.
    Nothing,
    /// Show this text.
    Help(String),
    /// Carry this out.
    Run {
        /// The command.
        command: Command,
        /// Show the result as JSON.
        json: bool,
    },
}

/// Parses a line.
pub fn parse(line: &str) -> Result<Entry, ErrorObject> {
    let words = words::split(line).map_err(|error| match error {
        WordsError::OpenQuote(mark) => invalid(format!("a quote is open; close it with {mark}")),
        WordsError::TooMany => invalid("the line has too many words".into()),
    })?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.split_first() {
        None => Ok(Entry::Nothing),
        Some((first, _)) if first.starts_with('#') => Ok(Entry::Nothing),
        Some((&"help" | &"?", topic)) => help::topic(topic).map(Entry::Help),
        Some(_) => run(&words),
    }
}

fn run(words: &[&str]) -> Result<Entry, ErrorObject> {
    let (spec, rest) = find(words)?;
    if rest.contains(&"--help") {
        return Ok(Entry::Help(help::command(spec)));
    }
    let json = rest.contains(&"--json");
    let rest: Vec<&str> = rest.iter().copied().filter(|word| *word != "--json").collect();
    let mut line = Line { spec, named: Vec::new(), plain: Vec::new() };
    line.sort(&rest)?;
    let arguments = line.arguments()?;
    Ok(Entry::Run { command: Command::from_arguments(spec.method, arguments)?, json })
}

/// The row whose words begin the line, and the rest of the line.
pub(super) fn find<'a, 'b>(
    words: &'a [&'b str],
) -> Result<(&'static CommandSpec, &'a [&'b str]), ErrorObject> {
    for spec in COMMANDS {
        let count = spec.words.split(' ').count();
        if let Some((begin, rest)) = words.split_at_checked(count)
            && spec.words.split(' ').eq(begin.iter().copied())
        {
            return Ok((spec, rest));
        }
    }
    Err(unknown(words))
}

/// Says what could have been meant.
pub(super) fn unknown(words: &[&str]) -> ErrorObject {
    let noun = words.first().copied().unwrap_or_default();
    let verbs: Vec<&str> = verbs(noun).collect();
    let message = match words.get(1) {
        _ if verbs.is_empty() => {
            let nouns = COMMANDS.iter().filter_map(|spec| spec.words.split(' ').next());
            let near = nearest(noun, nouns.chain(["help"])).map(|near| format!("did you mean `{near}`? "));
            let hint = near.unwrap_or_default();
            format!("unknown command {}; {hint}`help` lists the commands", quoted(noun))
        }
        Some(verb) => {
            let near =
                nearest(verb, verbs.iter().copied()).map(|near| format!("did you mean `{noun} {near}`? "));
            let hint = near.unwrap_or_default();
            format!("{noun} cannot {}; {hint}it takes {}", quoted(verb), verbs.join(", "))
        }
        None => format!("{noun} needs a verb: {}", verbs.join(", ")),
    };
    ErrorObject::new(ErrorKind::UnknownMethod, message)
}

/// The verbs of a noun.
pub(super) fn verbs(noun: &str) -> impl Iterator<Item = &'static str> {
    COMMANDS
        .iter()
        .filter_map(move |spec| spec.words.split_once(' ').filter(|(n, _)| *n == noun).map(|(_, v)| v))
}

fn invalid(message: String) -> ErrorObject {
    ErrorObject::new(ErrorKind::InvalidParams, message)
}

/// The name of a parameter as an option.
pub(super) fn option_name(parameter: &ParameterSpec) -> String {
    format!("--{}", parameter.name.replace('_', "-"))
}

/// The words behind the verb while they are given to parameters.
struct Line<'a> {
    spec: &'static CommandSpec,
    named: Vec<(&'static ParameterSpec, Value)>,
    plain: Vec<&'a str>,
}

impl<'a> Line<'a> {
    /// Tells options from plain words.
    fn sort(&mut self, words: &[&'a str]) -> Result<(), ErrorObject> {
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if !word.starts_with("--") {
                self.plain.push(word);
                continue;
            }
            let (name, attached) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (*word, None),
            };
            let parameter = self.option(name)?;
            let value = match (attached, parameter.kind) {
                (None, Kind::Flag) => Value::Bool(true),
                (Some(value), _) => self.value(parameter, value)?,
                (None, _) => match words.next() {
                    Some(value) => self.value(parameter, value)?,
                    None => return Err(self.wrong(&format!("{name} needs a value"))),
                },
            };
            self.named.push((parameter, value));
        }
        Ok(())
    }

    fn option(&self, name: &str) -> Result<&'static ParameterSpec, ErrorObject> {
        let parameters = self.spec.parameters;
        parameters.iter().find(|parameter| option_name(parameter) == name).ok_or_else(|| {
            let names: Vec<String> = parameters.iter().map(option_name).collect();
            let known = names.iter().map(String::as_str).chain(["--json", "--help"]);
            let hint = nearest(name, known).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            self.wrong(&format!("unknown option {}{hint}", quoted(name)))
        })
    }

    /// Gives plain words to the positional parameters that no option set. A list takes what is left over.
    fn arguments(mut self) -> Result<Vec<(String, Value)>, ErrorObject> {
        let given: Vec<&str> = self.named.iter().map(|(parameter, _)| parameter.name).collect();
        let open: Vec<&'static ParameterSpec> = self
            .spec
            .parameters
            .iter()
            .filter(|parameter| parameter.positional && !given.contains(&parameter.name))
            .collect();
        let surplus = self.plain.len().saturating_sub(open.len());
        let plain = core::mem::take(&mut self.plain);
        let mut plain = plain.iter();
        for parameter in open {
            let count = if parameter.kind == Kind::List { 1 + surplus } else { 1 };
            let words: Vec<&str> = plain.by_ref().take(count).copied().collect();
            if !words.is_empty() {
                let value = self.value(parameter, &words.join(","))?;
                self.named.push((parameter, value));
            }
        }
        if let Some(word) = plain.next() {
            return Err(self.wrong(&format!("{} is one word too many", quoted(word))));
        }
        self.nothing_missing()?;
        Ok(self.named.into_iter().map(|(parameter, value)| (parameter.name.into(), value)).collect())
    }

    fn nothing_missing(&self) -> Result<(), ErrorObject> {
        let missing = self.spec.parameters.iter().find(|parameter| {
            parameter.required && !self.named.iter().any(|(given, _)| given.name == parameter.name)
        });
        match missing {
            None => Ok(()),
            Some(parameter) if parameter.positional => {
                Err(self.wrong(&format!("{} is missing: {}", parameter.name.to_uppercase(), parameter.help)))
            }
            Some(parameter) => {
                Err(self.wrong(&format!("{} is missing: {}", option_name(parameter), parameter.help)))
            }
        }
    }

    fn value(&self, parameter: &ParameterSpec, word: &str) -> Result<Value, ErrorObject> {
        parameter.kind.value_from_word(word).map_err(|problem| self.wrong(&problem))
    }

    fn wrong(&self, problem: &str) -> ErrorObject {
        invalid(format!("{problem}; write `{}`, for example `{}`", synopsis(self.spec), self.spec.example))
    }
}
