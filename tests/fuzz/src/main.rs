//! One target under libFuzzer, or on the files that are named: `DATUM_FUZZ=image fuzz …`.
//!
//! One program holds all targets, so that one build serves all. Without libFuzzer it only replays.

#![cfg_attr(fuzzing, no_main)]

fn chosen() -> datum_fuzz::Target {
    let name = std::env::var("DATUM_FUZZ").unwrap_or_default();
    datum_fuzz::target(&name).unwrap_or_else(|| panic!("DATUM_FUZZ={name} names no target"))
}

#[cfg(fuzzing)]
mod under_libfuzzer {
    use std::sync::LazyLock;

    static TARGET: LazyLock<datum_fuzz::Target> = LazyLock::new(super::chosen);

    libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET(bytes));
}

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    let target = chosen();
    for path in std::env::args_os().skip(1) {
        eprintln!("{}", path.display());
        target(&std::fs::read(path)?);
    }
    Ok(())
}
