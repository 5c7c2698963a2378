//! Times as the appliance tells them, back into numbers.

use serde_json::Value;

/// Nanoseconds since 1970 of a time such as `2026-11-21T06:35:07.123Z`.
pub fn nanoseconds(text: &Value) -> u64 {
    let text = text.as_str().expect("a time is a text");
    let numbers: Vec<u64> =
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect();
    let [year, month, day, hour, minute, second, millisecond] = numbers[..] else {
        panic!("{text} is no time")
    };
    let seconds = ((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    (seconds * 1000 + millisecond) * 1_000_000
}

/// Whole years and months are counted day by day: simple, and quick enough here.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let years: u64 = (1970..year).map(|year| 365 + u64::from(leap(year))).sum();
    let february = 28 + u64::from(leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    years + months[..month as usize - 1].iter().sum::<u64>() + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        assert_eq!(nanoseconds(&"1970-01-01T00:00:00.001Z".into()), 1_000_000);
        assert_eq!(nanoseconds(&"2000-02-29T23:59:59.000Z".into()), 951_868_799_000_000_000);
        assert_eq!(nanoseconds(&"2100-03-01T00:00:00.000Z".into()), 4_107_542_400_000_000_000);
    }
}
