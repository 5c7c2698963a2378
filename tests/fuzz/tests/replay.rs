//! Every input of every corpus, without libFuzzer: what was found once stays found, on any toolchain.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::path::Path;

#[test]
fn the_corpora_do_no_harm() {
    for (name, target) in datum_fuzz::TARGETS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name).with_extension("tar");
        let archive = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut count = 0;
        for input in tar::Archive::new(archive).entries().expect("a readable archive") {
            let mut input = input.expect("a readable entry");
            // Shown where the test fails.
            println!("{name}: {}", input.path().expect("a path").display());
            let mut bytes = Vec::new();
            input.read_to_end(&mut bytes).expect("a readable input");
            target(&bytes);
            count += 1;
        }
        assert!(count > 0, "{name} has no corpus");
    }
}
