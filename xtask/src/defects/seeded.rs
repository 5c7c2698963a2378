//! With which seeded defect a process runs. This file is copied, with the defects, into the copies of the crates that
//! they are put into; the crates themselves have no switch. Their names are told apart here and in `patch.rs` alone.

use std::fs::File;
use std::io::{Read, Result};
use std::sync::OnceLock;

/// The environment variable that names the defect. Without it the code does what it did before.
const VARIABLE: &[u8] = b"DATUM_DEFECT=";
const NAME_BYTES_MAX: usize = 64;
const ENVIRONMENT_BYTES_MAX: usize = 1 << 16;

/// Whether the process runs with the defect of this name.
#[inline]
pub(crate) fn is(name: &str) -> bool {
    static CHOSEN: OnceLock<([u8; NAME_BYTES_MAX], usize)> = OnceLock::new();
    let (chosen, length) = CHOSEN.get_or_init(|| {
        let mut environment = [0; ENVIRONMENT_BYTES_MAX];
        let length = read(&mut environment).expect("the environment can be read");
        let (mut chosen, value) = ([0; NAME_BYTES_MAX], value(&environment[..length]));
        chosen[..value.len()].copy_from_slice(value);
        (chosen, value.len())
    });
    name.as_bytes() == &chosen[..*length]
}

/// The environment of this process. `std::env` would allocate, and there are tests that count allocations.
fn read(environment: &mut [u8]) -> Result<usize> {
    let (mut file, mut length) = (File::open("/proc/self/environ")?, 0);
    loop {
        match file.read(&mut environment[length..])? {
            0 => break,
            more => length += more,
        }
    }
    assert!(length < environment.len(), "the environment is too large");
    Ok(length)
}

fn value(environment: &[u8]) -> &[u8] {
    environment.split(|&byte| byte == 0).find_map(|entry| entry.strip_prefix(VARIABLE)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_one_defect_or_none() {
        assert_eq!(value(b"A=1\0DATUM_DEFECT=no-reserve\0B=2\0"), b"no-reserve");
        assert_eq!(value(b"NO_DATUM_DEFECT=x\0"), b"");
        let chosen = std::env::var("DATUM_DEFECT").unwrap_or_default();
        assert!(is(&chosen) && !is("another"));
    }
}
