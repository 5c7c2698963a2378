//! Text within a terminal's width.

use alloc::string::String;

/// The gap between a word that is explained and its explanation.
const GAP: &str = "   ";

/// Folds lines that are wider at spaces. What goes on in a new row stands below the explanation, where the line has a word
/// and one, or else as far in as the line itself. A word wider than a row is left to the terminal.
pub fn fold(text: &str, width: usize) -> String {
    let mut folded = String::with_capacity(text.len());
    for line in text.lines() {
        fold_line(line, width, &mut folded);
    }
    folded
}

fn fold_line(line: &str, width: usize, folded: &mut String) {
    let begin = line.len() - line.trim_start().len();
    let explained = line.trim_start().find(GAP).map(|at| {
        let gap = line.get(begin + at..).unwrap_or_default();
        begin + at + gap.len() - gap.trim_start().len()
    });
    let columns = |text: &str| text.chars().count();
    let indent = explained.and_then(|at| line.get(..at)).map_or(begin, columns);
    // An explanation in a strip too narrow to read goes as far left as its word.
    let indent = if 2 * indent > width { begin + 2 } else { indent };
    let (mut row, mut rest) = (0, line);
    while !rest.is_empty() {
        let word_end = rest
            .trim_start_matches(' ')
            .find(' ')
            .map_or(rest.len(), |at| rest.len() - rest.trim_start_matches(' ').len() + at);
        let (word, after) = rest.split_at(word_end);
        if row > 0 && row + columns(word) > width {
            folded.push('\n');
            folded.extend(core::iter::repeat_n(' ', indent));
            folded.push_str(word.trim_start_matches(' '));
            row = indent + columns(word.trim_start_matches(' '));
        } else {
            folded.push_str(word);
            row += columns(word);
        }
        rest = after;
    }
    folded.push('\n');
}

#[cfg(test)]
mod tests {
    use super::fold;

    #[test]
    fn lines_are_folded_at_spaces() {
        assert_eq!(fold("one two three\n\nfour\n", 8), "one two\nthree\n\nfour\n");
        assert_eq!(fold("  one two three\n", 9), "  one two\n  three\n");
        assert_eq!(fold("abcdefghijk lm\n", 8), "abcdefghijk\nlm\n");
        assert_eq!(fold("one two three\n", 13), "one two three\n");
    }

    #[test]
    fn explanations_stay_in_their_column() {
        let line = "  SIZE    its size in bytes or with a unit\n";
        assert_eq!(fold(line, 30), "  SIZE    its size in bytes or\n          with a unit\n");
        assert_eq!(fold("a long command   what it does\n", 20), "a long command\n  what it does\n");
    }
}
