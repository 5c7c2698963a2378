//! The kernel command line: `key=value` options in any order. What is not understood is reported and ignored.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use datum_boot::PanicAction;
use datum_service::{PoolOption, Takeover};

/// What the operator asked for.
#[derive(Debug)]
pub(crate) struct Options {
    /// `pool=`: what to do about a pool.
    pub(crate) pool: PoolOption,
    /// `takeover=`: what to do about a pool that was not closed.
    pub(crate) takeover: Takeover,
    /// `panic=`: what to do after a panic or a fault.
    pub(crate) panic: PanicAction,
    /// `selftest=`: the fault to provoke, for tests.
    pub(crate) selftest: Option<&'static str>,
    /// What was not understood, each as a sentence for the boot log.
    pub(crate) complaints: Vec<String>,
}

impl Options {
    /// Reads a command line. Of an option given twice the last counts.
    pub(crate) fn parse(line: &'static str) -> Self {
        let mut options = Self {
            pool: PoolOption::Open,
            takeover: Takeover::Wait,
            panic: PanicAction::Reset,
            selftest: None,
            complaints: Vec::new(),
        };
        for word in line.split_ascii_whitespace() {
            if let Err(complaint) = options.take(word) {
                options.complaints.push(complaint);
            }
        }
        options
    }

    fn take(&mut self, word: &'static str) -> Result<(), String> {
        let Some((key, value)) = word.split_once('=') else {
            return Err(format!("option '{word}' is ignored: options are written key=value"));
        };
        match key {
            "pool" => {
                self.pool = PoolOption::parse(value).ok_or_else(|| wrong(word, "open, auto or none"))?
            }
            "takeover" => self.takeover = Takeover::parse(value).ok_or_else(|| wrong(word, "wait or now"))?,
            "panic" => self.panic = panic_action(value).ok_or_else(|| wrong(word, "reset, halt or exit"))?,
            "selftest" => self.selftest = Some(value),
            _ => return Err(format!("option '{word}' is ignored: there is no '{key}'")),
        }
        Ok(())
    }
}

fn wrong(word: &str, choices: &str) -> String {
    format!("option '{word}' is ignored: it must be one of {choices}")
}

fn panic_action(value: &str) -> Option<PanicAction> {
    match value {
        "reset" => Some(PanicAction::Reset),
        "halt" => Some(PanicAction::Halt),
        "exit" => Some(PanicAction::Exit),
        _ => None,
    }
}
