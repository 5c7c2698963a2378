//! Times as people and JSON see them: RFC 3339 in UTC. The service's clock counts nanoseconds since 1970.

use alloc::format;
use alloc::string::String;

const SECONDS_PER_DAY: u64 = 86_400;

/// `2026-11-21T06:35:07.123Z`, cut to milliseconds.
pub(crate) fn rfc3339(unix_nanoseconds: u64) -> String {
    let milliseconds = unix_nanoseconds / 1_000_000;
    let (seconds, fraction) = (milliseconds / 1000, milliseconds % 1000);
    let (year, month, day) = date(seconds / SECONDS_PER_DAY);
    let of_day = seconds % SECONDS_PER_DAY;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:03}Z")
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. Counts from March of the
/// year 0 in eras of 400 years, so that the leap day is the last of its year (H. Hinnant, "chrono-compatible
/// low-level date algorithms").
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    let days = days_since_1970 + 719_468;
    let (era, of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn known_moments() {
        let at = |seconds: u64| rfc3339(seconds * 1_000_000_000);
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(951_868_799), "2000-02-29T23:59:59.000Z");
        assert_eq!(at(951_868_800), "2000-03-01T00:00:00.000Z");
        assert_eq!(at(1_763_706_907), "2025-11-21T06:35:07.000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_999_999), "1970-01-01T00:00:00.001Z");
    }

    #[test]
    fn the_last_moment_of_the_clock_is_a_date() {
        assert_eq!(rfc3339(u64::MAX), "2554-07-21T23:34:33.709Z");
    }
}
