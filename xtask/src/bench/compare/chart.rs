//! A scenario as a picture: a bar for each peer, with its least and most.

use std::fmt::Write;

/// One bar.
pub(super) struct Bar<'a> {
    pub(super) name: &'a str,
    pub(super) ours: bool,
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

const ROW: usize = 26;
const TOP: usize = 34;
/// Where bars begin, and how long the longest is.
const LEFT: f64 = 150.0;
const LENGTH: f64 = 420.0;
const WIDTH: usize = 680;

/// The picture as SVG.
pub(super) fn svg(title: &str, bars: &[Bar<'_>]) -> String {
    let height = TOP + bars.len() * ROW + 10;
    let greatest = bars.iter().map(|bar| bar.most).fold(f64::MIN_POSITIVE, f64::max);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"21\" font-weight=\"bold\">{title}</text>\n"
    );
    for (row, bar) in bars.iter().enumerate() {
        one(&mut text, TOP + row * ROW, bar, LENGTH / greatest);
    }
    text + "</svg>\n"
}

fn one(text: &mut String, top: usize, bar: &Bar<'_>, scale: f64) {
    let colour = if bar.ours { "#2166ac" } else { "#b0b0b0" };
    let (middle, baseline) = (top + 9, top + 14);
    let (least, most) = (LEFT + bar.least * scale, LEFT + bar.most * scale);
    // A String takes all that is written to it.
    let _ = write!(
        text,
        "<text x=\"10\" y=\"{baseline}\">{}</text>\n\
         <rect x=\"{LEFT}\" y=\"{top}\" width=\"{:.1}\" height=\"18\" fill=\"{colour}\"/>\n\
         <line x1=\"{least:.1}\" y1=\"{middle}\" x2=\"{most:.1}\" y2=\"{middle}\" stroke=\"black\"/>\n\
         <text x=\"{:.1}\" y=\"{baseline}\">{:.0}</text>\n",
        bar.name,
        bar.median * scale,
        most + 6.0,
        bar.median,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fits_and_the_others_are_to_scale() {
        let bar = |name, median| Bar { name, ours: false, median, least: median, most: median };
        let text = svg("t", &[bar("a", 10.0), bar("b", 20.0)]);
        assert!(text.contains("width=\"420.0\"") && text.contains("width=\"210.0\""), "{text}");
    }
}
