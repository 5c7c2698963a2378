//! Sizes as people write them: `4096`, `512K`, `20G`, `1.5GiB`. Units are powers of 1024.

const UNITS: [(&str, u32); 5] = [("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50)];

/// Reads a size in bytes.
pub fn parse(text: &str) -> Result<u64, String> {
    let explain = || format!("`{text}` is no size: write bytes, or a number with K, M, G, T or P");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = shift_of(unit).ok_or_else(explain)?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is more than 64 bits hold"));
    }
    let (whole, fraction) = number.split_once('.').ok_or_else(explain)?;
    let digits =
        u32::try_from(fraction.len()).ok().filter(|digits| (1..=6).contains(digits)).ok_or_else(explain)?;
    let scaled = format!("{whole}{fraction}").parse::<u128>().map_err(|_| explain())? << shift;
    let divisor = 10u128.pow(digits);
    if !scaled.is_multiple_of(divisor) {
        return Err(format!("`{text}` is no whole number of bytes"));
    }
    u64::try_from(scaled / divisor).map_err(|_| format!("`{text}` is more than 64 bits hold"))
}

fn shift_of(unit: &str) -> Option<u32> {
    let unit = unit.to_ascii_uppercase();
    let unit = unit.strip_suffix("IB").or_else(|| unit.strip_suffix('B')).unwrap_or(&unit);
    if unit.is_empty() {
        return Some(0);
    }
    UNITS.iter().find(|(name, _)| *name == unit).map(|(_, shift)| *shift)
}

/// A size for people, with one decimal: `1.5 GiB`.
pub fn format(bytes: u64) -> String {
    match UNITS.iter().rev().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{:.1} {unit}iB", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4k", 4096),
            ("20G", 20 << 30),
            ("20GiB", 20 << 30),
            ("1.5M", 3 << 19),
            ("64T", 64 << 40),
            ("512B", 512),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in ["", "G", "-1", "1X", "1 G", "1.", ".5.5G", "0.3K", "99999999P", "1e9", "iB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prints_one_decimal() {
        assert_eq!(format(12), "12 B");
        assert_eq!(format(1536), "1.5 KiB");
        assert_eq!(format(20 << 30), "20.0 GiB");
    }
}
