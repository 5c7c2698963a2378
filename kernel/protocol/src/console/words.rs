//! Splits a console line into words. Quotes keep spaces together, a backslash takes the next character as it is.

use crate::limits::CONSOLE_WORDS_MAX;
use alloc::string::String;
use alloc::vec::Vec;

/// Why a line has no words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WordsError {
    /// A quote was opened and not closed.
    OpenQuote(char),
    /// More words than any command takes.
    TooMany,
}

/// The words of a line.
pub(super) fn split(line: &str) -> Result<Vec<String>, WordsError> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            (mark, Some(open)) if mark == open => quote = None,
            ('\'' | '"', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(characters.next()),
            (space, None) if space.is_whitespace() => words.extend(word.take()),
            (plain, _) => word.get_or_insert_default().push(plain),
        }
        if words.len() > CONSOLE_WORDS_MAX {
            return Err(WordsError::TooMany);
        }
    }
    words.extend(word);
    quote.map_or(Ok(words), |mark| Err(WordsError::OpenQuote(mark)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_spaces() {
        assert_eq!(
            split("  a  b\t'c d' \"e \\\" f\" g\\ h \"\"").unwrap(),
            ["a", "b", "c d", "e \" f", "g h", ""]
        );
        assert_eq!(split("a'b'c").unwrap(), ["abc"]);
        assert_eq!(split("").unwrap(), [""; 0]);
        assert_eq!(split("a 'b"), Err(WordsError::OpenQuote('\'')));
        assert_eq!(split(&"a ".repeat(2000)), Err(WordsError::TooMany));
        assert_eq!(split("a\\").unwrap(), ["a"]);
    }
}
