//! Running other programs. Every program that changes something is announced on stderr first.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup;

/// What tells rustup's programs which toolchain to be.
pub const TOOLCHAIN: &str = "RUSTUP_TOOLCHAIN";

/// Tells the user what is being done, on stderr.
pub fn say(text: impl AsRef<str>) {
    eprintln!("» {}", text.as_ref());
}

/// The command as a user would type it: the program by its name, wherever it lies.
pub fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let words = std::iter::once(program.file_name().unwrap_or(program.as_os_str())).chain(command.get_args());
    words.map(|word| quote(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// Quotes a word for a shell where it needs it.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Announces a command, runs it on our own standard streams, and fails unless it succeeds.
pub fn run(command: &mut Command) -> Result<()> {
    say(describe(command));
    run_quietly(command)
}

/// As [`run`], without the announcement.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", describe(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", describe(command));
    }
    Ok(())
}

/// What a command prints on its standard output. Its standard error goes to ours.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", describe(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", describe(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no UTF-8", describe(command)))
}

/// Where a program lies: in `PATH`, or where Debian keeps what only root has in its `PATH`, or among what is unpacked
/// where it cannot be installed.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .or_else(|| setup::QEMU_OLDEST.program(name))
}

/// A command of the program that [`find_program`] finds; where there is none, its start will fail with the name.
pub fn program(name: &str) -> Command {
    Command::new(find_program(name).unwrap_or_else(|| name.into()))
}

/// The `cargo` that started us, or the one in `PATH`.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::workspace::root());
    command
}

/// The `cargo` of another toolchain, by rustup.
pub fn cargo_of(toolchain: &str) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(crate::workspace::root()).env(TOOLCHAIN, toolchain).env_remove("CARGO");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_where_a_shell_needs_it() {
        assert_eq!(quote("nbdinfo"), "nbdinfo");
        assert_eq!(quote("nbd+unix:///v?socket=/s"), "'nbd+unix:///v?socket=/s'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn a_failing_command_is_an_error_that_names_it() {
        let error = run_quietly(&mut Command::new("false")).unwrap_err();
        assert!(error.to_string().contains("false ended with"), "{error}");
        assert!(output(&mut Command::new("/no/such/program")).is_err());
    }
}
