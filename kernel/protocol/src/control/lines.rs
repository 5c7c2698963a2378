//! Cuts the bytes of the control port into lines.
//!
//! A line ends at LF; a CR before it and empty lines are dropped. Longer lines than the limit are reported once and
//! skipped to their end. A 0xFF byte, which UTF-8 never contains, drops whatever came before it on the line: a client
//! that does not know what its predecessor left sends one and begins afresh.

use crate::limits::CONTROL_LINE_BYTES_MAX;
use alloc::vec::Vec;
use core::mem;

const RESYNCHRONISE: u8 = 0xff;

/// What came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A line without its end.
    Line(Vec<u8>),
    /// A line passed the limit; it is being skipped. Answer once.
    TooLong,
    /// There is no memory for a line; it is being skipped. Answer once.
    NoMemory,
}

/// The framing of one session.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Vec<u8>,
    skipping: bool,
}

impl Lines {
    /// Starts at the beginning of a line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes up to the next frame; says how many it took. Call again with the rest.
    pub fn receive(&mut self, input: &[u8]) -> (usize, Option<Frame>) {
        let mut taken = 0;
        while let Some(rest) = input.get(taken..).filter(|rest| !rest.is_empty()) {
            let end = rest.iter().position(|byte| matches!(*byte, b'\n' | RESYNCHRONISE));
            let piece = &rest[..end.unwrap_or(rest.len())];
            taken += piece.len() + usize::from(end.is_some());
            if let Err(unkept) = self.keep(piece) {
                // The end that was seen still has to be acted on, so it is left for the next call.
                return (taken - usize::from(end.is_some()), Some(unkept));
            }
            match end.and_then(|end| rest.get(end)) {
                Some(&RESYNCHRONISE) => self.restart(),
                Some(_) => {
                    if let Some(line) = self.finish() {
                        return (taken, Some(Frame::Line(line)));
                    }
                }
                None => {}
            }
        }
        (taken, None)
    }

    /// Adds to the line; an error where it cannot be kept for the first time.
    fn keep(&mut self, piece: &[u8]) -> Result<(), Frame> {
        if self.skipping {
            return Ok(());
        }
        let unkept = match self.buffer.len() + piece.len() {
            bytes if bytes > CONTROL_LINE_BYTES_MAX => Frame::TooLong,
            _ if self.buffer.try_reserve(piece.len()).is_err() => Frame::NoMemory,
            _ => {
                self.buffer.extend_from_slice(piece);
                return Ok(());
            }
        };
        self.restart();
        self.skipping = true;
        Err(unkept)
    }

    fn restart(&mut self) {
        self.buffer = Vec::new();
        self.skipping = false;
    }

    fn finish(&mut self) -> Option<Vec<u8>> {
        let mut line = mem::take(&mut self.buffer);
        if mem::take(&mut self.skipping) {
            return None;
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        (!line.is_empty()).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn frames(input: &[u8], piece: usize) -> Vec<Frame> {
        let (mut lines, mut frames) = (Lines::new(), Vec::new());
        for mut part in input.chunks(piece) {
            while !part.is_empty() {
                let (taken, frame) = lines.receive(part);
                assert!(taken > 0 || frame.is_some());
                frames.extend(frame);
                part = &part[taken..];
            }
        }
        frames
    }

    fn line(text: &str) -> Frame {
        Frame::Line(text.into())
    }

    #[test]
    fn lines_end_at_newlines() {
        for piece in [1, 2, 100] {
            assert_eq!(frames(b"a\r\n\n\r\nb\nc", piece), [line("a"), line("b")]);
            assert_eq!(frames(b"half\xffwhole\n\xff\xff\n", piece), [line("whole")]);
        }
    }

    #[test]
    fn long_lines_are_reported_once_and_skipped() {
        let mut input = vec![b'x'; 3 * CONTROL_LINE_BYTES_MAX];
        input.extend_from_slice(b"\nnext\n");
        for piece in [1, 1000, usize::MAX] {
            assert_eq!(frames(&input, piece), [Frame::TooLong, line("next")]);
        }
        let mut resynchronised = vec![b'x'; CONTROL_LINE_BYTES_MAX + 1];
        resynchronised.extend_from_slice(b"\xffnext\n");
        assert_eq!(frames(&resynchronised, usize::MAX), [Frame::TooLong, line("next")]);
        let mut exact = vec![b'x'; CONTROL_LINE_BYTES_MAX];
        exact.push(b'\n');
        assert!(matches!(&frames(&exact, 4096)[..], [Frame::Line(_)]));
    }
}
