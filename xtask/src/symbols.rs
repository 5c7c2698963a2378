//! Turns the addresses that a panic leaves in the serial log into functions and lines.
//!
//! The appliance prints `datum: backtrace 0x…` lines; the file with the line tables stays on the host. The first
//! address of a fault is the instruction that faulted. Every other one is a return address, so the instruction
//! before it is looked up: the call itself.

use std::fmt::Write as _;
use std::path::Path;

use addr2line::Loader;
use anyhow::{Result, anyhow};

/// What introduces addresses in the log. The kernel's panic handler prints it.
pub const BACKTRACE_MARK: &str = "datum: backtrace";

/// What introduces a fault, whose first address is exact.
const FAULT_MARK: &str = "datum: fault";

/// The line tables of one kernel.
pub struct Symbols {
    loader: Loader,
}

/// A function on the stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The function's demangled name.
    pub function: String,
    /// `file:line`, where known.
    pub location: Option<String>,
}

impl Symbols {
    /// Reads a program's symbols.
    pub fn open(program: &Path) -> Result<Symbols> {
        let loader = Loader::new(program).map_err(|error| anyhow!("{}: {error}", program.display()))?;
        Ok(Symbols { loader })
    }

    /// The functions at an address, innermost inlined one first; none where the program knows nothing.
    pub fn frames(&self, address: u64) -> Vec<Frame> {
        let mut frames = self.frames_from_lines(address);
        if frames.is_empty()
            && let Some(symbol) = self.loader.find_symbol(address)
        {
            let function = addr2line::demangle_auto(symbol.into(), None).into_owned();
            frames.push(Frame { function, location: None });
        }
        frames
    }

    fn frames_from_lines(&self, address: u64) -> Vec<Frame> {
        let mut frames = Vec::new();
        let Ok(mut found) = self.loader.find_frames(address) else { return frames };
        while let Ok(Some(frame)) = found.next() {
            let name =
                frame.function.as_ref().and_then(|name| name.demangle().ok().map(|name| name.into_owned()));
            let location = frame.location.and_then(|place| Some(format!("{}:{}", place.file?, place.line?)));
            // Without the full debug information a line has no function of its own: ask the symbol table.
            let name = name.or_else(|| {
                self.loader
                    .find_symbol(address)
                    .map(|symbol| addr2line::demangle_auto(symbol.into(), None).into_owned())
            });
            frames.push(Frame { function: name.unwrap_or_else(|| "unknown".into()), location });
        }
        frames
    }

    /// The log with the functions written below each line that carries addresses.
    pub fn annotate(&self, log: &str) -> String {
        let mut out = String::new();
        let mut exact = false;
        for line in log.lines() {
            out.push_str(line);
            out.push('\n');
            exact |= line.contains(FAULT_MARK);
            for address in addresses(line) {
                let instruction = if exact { address } else { address.saturating_sub(1) };
                exact = false;
                self.describe(address, instruction, &mut out);
            }
        }
        out
    }

    fn describe(&self, address: u64, instruction: u64, out: &mut String) {
        for frame in self.frames(instruction) {
            let place = frame.location.map(|place| format!(" at {place}")).unwrap_or_default();
            // Writing to a String cannot fail.
            let _ = writeln!(out, "    {address:#014x}  {}{place}", frame.function);
        }
    }
}

/// The addresses of a backtrace line; none of any other line.
pub fn addresses(line: &str) -> Vec<u64> {
    let Some((_, rest)) = line.split_once(BACKTRACE_MARK) else { return Vec::new() };
    rest.split(|c: char| c.is_whitespace() || c == ',')
        .filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_backtrace_lines_only() {
        assert_eq!(addresses("datum: backtrace 0x1000 0xffff, 0x20\r"), [0x1000, 0xffff, 0x20]);
        assert_eq!(addresses("[ 0.1] datum: backtrace 0x1f"), [0x1f]);
        assert!(addresses("datum: panicked at 0x1000").is_empty());
        assert!(addresses("datum: backtrace zero").is_empty());
    }

    #[inline(never)]
    fn a_function_to_be_found() -> u64 {
        std::hint::black_box(1)
    }

    /// Our own test program stands in for a kernel: its functions must be found at their addresses.
    #[test]
    fn functions_are_found_by_address() {
        assert_eq!(a_function_to_be_found(), 1);
        let program = std::env::current_exe().unwrap();
        let symbols = Symbols::open(&program).unwrap();
        let base = load_address(&program);
        let address = a_function_to_be_found as fn() -> u64 as usize as u64 - base;
        let frames = symbols.frames(address);
        assert!(frames.iter().any(|frame| frame.function.contains("a_function_to_be_found")), "{frames:?}");
        let log = symbols.annotate(&format!("datum: backtrace {:#x}\n", address + 1));
        assert!(log.contains("a_function_to_be_found") && log.contains("symbols.rs:"), "{log}");
        let fault = symbols.annotate(&format!("datum: fault 14\ndatum: backtrace {address:#x}\n"));
        assert!(fault.contains("a_function_to_be_found"), "{fault}");
    }

    fn load_address(program: &Path) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| line.ends_with(program.to_str().unwrap())).unwrap();
        u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap()
    }
}
