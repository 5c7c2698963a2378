//! Help, made from the command table.

use super::grammar::{find, option_name, unknown};
use crate::control::{COMMANDS, CommandSpec, ErrorObject, Kind, ParameterSpec};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// How a command is written: `volume create NAME SIZE`.
pub fn synopsis(spec: &CommandSpec) -> String {
    let mut text = String::from(spec.words);
    for parameter in spec.parameters {
        let form = form(parameter);
        text.push_str(&if parameter.required { format!(" {form}") } else { format!(" [{form}]") });
    }
    text
}

fn form(parameter: &ParameterSpec) -> String {
    match parameter.kind {
        _ if parameter.positional => parameter.name.to_uppercase(),
        Kind::Flag => option_name(parameter),
        kind => format!("{} {}", option_name(parameter), kind.placeholder()),
    }
}

/// The text of `help` and of `help WORDS`.
pub(super) fn topic(words: &[&str]) -> Result<String, ErrorObject> {
    if words.is_empty() {
        let footer = "\nhelp COMMAND   shows one command with an example.\n\
            --json         behind any command shows its result as JSON.\n\
            Sizes are bytes or take a unit: 4096, 64K, 20G, 1T.\n";
        return Ok(format!("{}{footer}", list(COMMANDS.iter())));
    }
    if let Ok((spec, _)) = find(words) {
        return Ok(command(spec));
    }
    let noun = words.first().copied().unwrap_or_default();
    let of_noun = COMMANDS.iter().filter(|spec| spec.words.split(' ').next() == Some(noun));
    let text = list(of_noun);
    if text.is_empty() || words.len() > 1 { Err(unknown(words)) } else { Ok(text) }
}

fn list(specs: impl Iterator<Item = &'static CommandSpec> + Clone) -> String {
    let width = specs.clone().map(|spec| spec.words.len()).max().unwrap_or_default();
    let mut text = String::new();
    let mut group = "";
    for spec in specs {
        let noun = spec.words.split(' ').next().unwrap_or_default();
        if !group.is_empty() && group != noun {
            text.push('\n');
        }
        group = noun;
        text.push_str(&format!("{:width$}   {}\n", spec.words, spec.summary));
    }
    text
}

/// The help of one command.
pub(super) fn command(spec: &CommandSpec) -> String {
    let mut text = format!("{}\n\n  {}\n", spec.summary, synopsis(spec));
    let forms: Vec<String> = spec.parameters.iter().map(form).collect();
    let width = forms.iter().map(String::len).max().unwrap_or_default();
    if width > 0 {
        text.push('\n');
    }
    for (parameter, form) in spec.parameters.iter().zip(&forms) {
        text.push_str(&format!("  {form:width$}   {}\n", parameter.help));
    }
    text.push_str(&format!("\nExample: {}\nOn the control port: {}\n", spec.example, spec.method));
    text
}
