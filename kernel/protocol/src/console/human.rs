//! Numbers as people read them.

use alloc::format;
use alloc::string::String;

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Bytes with a binary unit: exact where the unit divides them (`20 GiB`), else with two decimals, rounded down.
pub fn size_text(bytes: u64) -> String {
    let power = (bytes.max(1).ilog2() / 10).min(6) as usize;
    let Some(unit) = power.checked_sub(1).and_then(|index| UNITS.get(index)) else {
        return format!("{bytes} B");
    };
    let one = 1u64 << (10 * power);
    let (whole, rest) = (bytes / one, bytes % one);
    if rest == 0 {
        return format!("{whole} {unit}");
    }
    let hundredths = u128::from(rest) * 100 / u128::from(one);
    format!("{whole}.{hundredths:02} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.50 KiB"),
            (20 << 30, "20 GiB"),
            ((1 << 40) - 1, "1023.99 GiB"),
            (u64::MAX, "15.99 EiB"),
        ] {
            assert_eq!(size_text(bytes), text);
        }
    }
}
