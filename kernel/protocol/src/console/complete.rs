//! What could stand where the cursor is.

use super::grammar::{find, option_name, verbs};
use crate::control::{COMMANDS, CommandSpec, Kind, ParameterSpec};
use alloc::string::String;
use alloc::vec::Vec;

/// Names that the service knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objects {
    /// Volumes.
    Volumes,
    /// Checkpoints of a volume.
    Checkpoints(String),
    /// Reference points of a volume.
    Refpoints(String),
    /// Both of a volume.
    Points(String),
    /// Disks.
    Devices,
    /// Jobs.
    Jobs,
}

/// What to offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The part of the word written so far.
    pub typed: String,
    /// Words and options that fit.
    pub candidates: Vec<String>,
    /// Names to add to them.
    pub objects: Option<Objects>,
}

/// Looks at what stands before the cursor.
pub fn complete(before: &str) -> Completion {
    let start = before.rfind([' ', ',']).map_or(0, |space| space + 1);
    let (done, typed) = before.split_at(start);
    let words: Vec<&str> = done.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let (mut candidates, objects) = match find(&words) {
        Ok((spec, rest)) => arguments(spec, rest, typed),
        Err(_) => (beginnings(&words), None),
    };
    candidates.retain(|candidate| candidate.starts_with(typed));
    Completion { typed: typed.into(), candidates, objects }
}

/// Nouns, or the verbs of the noun that is there.
fn beginnings(words: &[&str]) -> Vec<String> {
    let words = match words {
        ["help", rest @ ..] | rest => rest,
    };
    match words {
        [] => {
            let mut nouns: Vec<String> =
                COMMANDS.iter().filter_map(|spec| spec.words.split(' ').next()).map(String::from).collect();
            nouns.dedup();
            nouns.push("help".into());
            nouns
        }
        [noun] => verbs(noun).map(String::from).collect(),
        _ => Vec::new(),
    }
}

fn arguments(spec: &'static CommandSpec, rest: &[&str], typed: &str) -> (Vec<String>, Option<Objects>) {
    let parameters = spec.parameters;
    let open_option = rest.last().and_then(|word| parameters.iter().find(|p| option_name(p) == *word));
    if let Some(parameter) = open_option.filter(|parameter| parameter.kind != Kind::Flag) {
        return (Vec::new(), objects(spec, parameter, rest));
    }
    if typed.starts_with('-') {
        let options = parameters.iter().filter(|parameter| !parameter.positional).map(option_name);
        return (options.chain(["--json".into()]).collect(), None);
    }
    let plain = plain_words(spec, rest);
    let mut positional = parameters.iter().filter(|parameter| parameter.positional);
    let parameter = match parameters.first() {
        // A list in front takes any number of words; which one is last cannot be known yet.
        Some(first) if first.positional && first.kind == Kind::List => Some(first),
        _ => positional.nth(plain.len()),
    };
    (Vec::new(), parameter.and_then(|parameter| objects(spec, parameter, rest)))
}

/// The words that are neither options nor their values.
fn plain_words<'a>(spec: &CommandSpec, rest: &[&'a str]) -> Vec<&'a str> {
    let mut plain = Vec::new();
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        match spec.parameters.iter().find(|parameter| option_name(parameter) == *word) {
            Some(parameter) if parameter.kind != Kind::Flag => _ = words.next(),
            None if !word.starts_with("--") => plain.push(*word),
            _ => {}
        }
    }
    plain
}

/// What a parameter names, if that exists already.
fn objects(spec: &CommandSpec, parameter: &ParameterSpec, rest: &[&str]) -> Option<Objects> {
    let volume = || plain_words(spec, rest).first().map(|word| String::from(*word));
    let creates =
        matches!(spec.method, "volume.create" | "volume.clone" | "checkpoint.create" | "refpoint.create");
    match (parameter.name, spec.method.split('.').next()) {
        ("volume" | "volumes", _) => Some(Objects::Volumes),
        ("checkpoint" | "until", _) => volume().map(Objects::Checkpoints),
        ("since", _) => volume().map(Objects::Points),
        ("devices", _) => Some(Objects::Devices),
        ("job", _) => Some(Objects::Jobs),
        ("name", _) if creates => None,
        ("name", Some("volume")) => Some(Objects::Volumes),
        ("name", Some("checkpoint")) => volume().map(Objects::Checkpoints),
        ("name", Some("refpoint")) => volume().map(Objects::Refpoints),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_options_and_names() {
        assert_eq!(complete("vol").candidates, ["volume"]);
        assert_eq!(complete("volume res").candidates, ["resize", "resume"]);
        assert_eq!(complete("help volume cr").candidates, ["create"]);
        assert_eq!(complete("volume delete --f").candidates, ["--force"]);
        let names = |before: &str| complete(before).objects;
        assert_eq!(names("volume show d"), Some(Objects::Volumes));
        assert_eq!(names("volume create d"), None);
        assert_eq!(names("checkpoint convert db n"), Some(Objects::Checkpoints("db".into())));
        assert_eq!(names("refpoint token db "), Some(Objects::Refpoints("db".into())));
        assert_eq!(names("changes db --since "), Some(Objects::Points("db".into())));
        assert_eq!(names("changes --since x "), Some(Objects::Volumes));
        assert_eq!(names("checkpoint create a,b"), Some(Objects::Volumes));
        assert_eq!(complete("checkpoint create a,b").typed, "b");
        assert_eq!(names("pool create vd0 "), Some(Objects::Devices));
        assert_eq!(names("job show "), Some(Objects::Jobs));
        assert_eq!(names("volume delete db --force x"), None);
        assert!(complete("bogus ").candidates.is_empty());
    }
}
