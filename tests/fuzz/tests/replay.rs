//! Every input of every corpus, without libFuzzer: what was found once stays found, on any toolchain.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

#[test]
fn the_corpora_do_no_harm() {
    for (name, target) in datum_fuzz::TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let entries = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        let mut inputs: Vec<_> = entries.map(|entry| entry.expect("a readable directory").path()).collect();
        assert!(!inputs.is_empty(), "{name} has no corpus");
        inputs.sort();
        for input in inputs {
            // Shown where the test fails.
            println!("{}", input.display());
            target(&fs::read(&input).expect("a readable input"));
        }
    }
}
