//! QEMU's own monitor: what the machine looks like from outside, and what befalls it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const PROMPT: &str = "(qemu) ";

/// What the monitor answers to a command.
pub fn ask_monitor(socket: &Path, command: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    until_prompt(&mut stream);
    writeln!(stream, "{command}").unwrap();
    until_prompt(&mut stream)
}

fn until_prompt(stream: &mut UnixStream) -> String {
    let (mut said, mut buffer) = (String::new(), [0; 4096]);
    while !said.ends_with(PROMPT) {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the monitor closed after {said}");
        said += &String::from_utf8_lossy(&buffer[..count]);
    }
    said
}
