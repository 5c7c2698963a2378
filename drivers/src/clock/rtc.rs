//! The CMOS clock, in whole seconds. QEMU keeps it in UTC unless told otherwise.

use crate::cmos::read;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0A;
const STATUS_B: u8 = 0x0B;
const CENTURY: u8 = 0x32;

const UPDATING: u8 = 0x80;
const TWENTY_FOUR_HOURS: u8 = 0x02;
const BINARY: u8 = 0x04;
const AFTERNOON: u8 = 0x80;
/// Readings before the last is taken as it is.
const TRIES_MAX: u32 = 100;

/// The registers in the order seconds, minutes, hours, day, month, year, century.
type Reading = [u8; 7];

/// Seconds since 1970, read twice alike so that no update fell in between.
pub(super) fn read_unix_seconds() -> u64 {
    let mut last = read_all();
    for _ in 0..TRIES_MAX {
        let next = read_all();
        if next == last {
            break;
        }
        last = next;
    }
    unix_seconds(last, read(STATUS_B))
}

fn read_all() -> Reading {
    for _ in 0..1_000_000 {
        if read(STATUS_A) & UPDATING == 0 {
            break;
        }
    }
    [SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR, CENTURY].map(read)
}

fn unix_seconds(reading: Reading, status: u8) -> u64 {
    let number = |value: u8| match status & BINARY {
        0 => u64::from(value >> 4) * 10 + u64::from(value & 0xF),
        _ => u64::from(value),
    };
    let [second, minute, raw_hour, day, month, year, century] = reading;
    let hour = match status & TWENTY_FOUR_HOURS {
        0 => number(raw_hour & !AFTERNOON) % 12 + if raw_hour & AFTERNOON != 0 { 12 } else { 0 },
        _ => number(raw_hour),
    };
    let century = match number(century) {
        century @ 19..=29 => century,
        _ => 20,
    };
    let days = days_since_1970(century * 100 + number(year), number(month), number(day));
    ((days * 24 + hour) * 60 + number(minute)) * 60 + number(second)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar; years begin in March, so that the leap day is last.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.saturating_sub(1), month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    days.saturating_sub(719_469)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_codings_and_both_day_halves() {
        // 2024-02-29T23:59:58Z
        assert_eq!(unix_seconds([0x58, 0x59, 0x23, 0x29, 0x02, 0x24, 0x20], 0x02), 1_709_251_198);
        assert_eq!(unix_seconds([58, 59, 23, 29, 2, 24, 20], 0x06), 1_709_251_198);
        assert_eq!(unix_seconds([0x58, 0x59, 0x91, 0x29, 0x02, 0x24, 0x20], 0x00), 1_709_251_198);
        assert_eq!(unix_seconds([0, 0, 0, 1, 1, 70, 19], 0x06), 0);
    }
}
