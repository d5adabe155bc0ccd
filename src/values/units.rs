//! Units as people write them in settings, to and from whole numbers: times (`500ms`, `30s`), sizes (`256Mi`, `64M`),
//! shares of a processor (`100m`, `1.5`).
//!
//! Text without a unit means what the bare number means. Every parser takes decimal digits with at most one point and
//! nothing else: no sign, no exponent, no white space. Every formatter's text parses back to the same number, as long
//! as that is below 2^53.

/// Units of time and their milliseconds, largest first. No unit means seconds.
const DURATION_UNITS: &[(&str, u64)] = &[("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Units of size and their bytes. No unit means bytes.
const BYTE_UNITS: &[(&str, u64)] = &[
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("K", 1000),
    ("k", 1000),
];

/// The binary units that [`format_bytes`] writes are the first of [`BYTE_UNITS`].
const BINARY_UNITS: usize = 4;

/// Longest number that is read: more digits than any setting has.
const NUMBER_BYTES_MAX: usize = 24;

/// `1.5s`, `500ms`, `5m`, `1h`, `30` (seconds) in milliseconds, to the nearest; `None` if it is not a time.
pub fn parse_duration_ms(text: &str) -> Option<u64> {
    parse(text, DURATION_UNITS, 1000)
}

/// `256Mi`, `1.5Gi`, `64M`, `1024` in bytes, to the nearest; `None` if it is not a size.
pub fn parse_bytes(text: &str) -> Option<u64> {
    parse(text, BYTE_UNITS, 1)
}

/// `100m`, `1.5`, `2` in thousandths of a core, to the nearest; `None` if it is not a share.
pub fn parse_cpu_millis(text: &str) -> Option<u64> {
    parse(text, &[("m", 1)], 1000)
}

/// The largest unit that needs no fraction: `90s`, `15m`, `500ms`.
pub fn format_duration(ms: u64) -> String {
    format(ms, DURATION_UNITS, "ms")
}

/// The largest binary unit that needs no fraction, else plain bytes: `256Mi`, `1000`.
pub fn format_bytes(bytes: u64) -> String {
    format(bytes, &BYTE_UNITS[..BINARY_UNITS], "")
}

/// Thousandths of a core: `1000m`.
pub fn format_cpu_millis(millis: u64) -> String {
    format!("{millis}m")
}

/// The nearest whole number; `None` for a negative, infinite or huge one.
pub fn round(number: f64) -> Option<u64> {
    /// Up to here every whole number has its own `f64`.
    const EXACT_MAX: f64 = (1_u64 << 53) as f64;
    (0.0..=EXACT_MAX).contains(&number).then(|| number.round() as u64)
}

fn parse(text: &str, units: &[(&str, u64)], without_unit: u64) -> Option<u64> {
    let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" => without_unit,
        _ => units.iter().find(|(name, _)| *name == unit)?.1,
    };
    if number.len() > NUMBER_BYTES_MAX || number.starts_with('.') || number.ends_with('.') {
        return None;
    }
    round(number.parse::<f64>().ok()? * factor as f64)
}

fn format(number: u64, units: &[(&str, u64)], smallest: &str) -> String {
    match units.iter().find(|(_, factor)| number != 0 && number % factor == 0) {
        Some((unit, factor)) => format!("{}{unit}", number / factor),
        None => format!("{number}{smallest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times() {
        let cases =
            [("500ms", 500), ("30s", 30_000), ("1.5s", 1500), ("5m", 300_000), ("1h", 3_600_000), ("30", 30_000)];
        for (text, ms) in cases {
            assert_eq!(parse_duration_ms(text), Some(ms), "{text}");
        }
        assert_eq!(format_duration(90_000), "90s");
        assert_eq!(format_duration(0), "0ms");
    }

    #[test]
    fn sizes() {
        let cases = [("256Mi", 268_435_456), ("1Gi", 1 << 30), ("64M", 64_000_000), ("1.5Gi", 3 << 29), ("1024", 1024)];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        assert_eq!(format_bytes(268_435_456), "256Mi");
        assert_eq!(format_bytes(64_000_001), "64000001");
    }

    #[test]
    fn shares() {
        for (text, millis) in [("100m", 100), ("1.5", 1500), ("2", 2000), ("0.25", 250)] {
            assert_eq!(parse_cpu_millis(text), Some(millis), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_with_a_unit_is_nothing() {
        let long = "1".repeat(NUMBER_BYTES_MAX + 1);
        for text in
            ["", "s", ".", ".5s", "5.s", "1.2.3s", "-1s", "+1s", "1e3", "inf", "NaN", "1 s", " 1s", "1S", "1d", &long]
        {
            assert_eq!(parse_duration_ms(text), None, "{text:?}");
        }
        for text in ["256MB", "256m", "Mi", "1Pi", "99999999999Ti"] {
            assert_eq!(parse_bytes(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(number in 0_u64..1 << 53) {
            prop_assert_eq!(parse_duration_ms(&format_duration(number)), Some(number));
            prop_assert_eq!(parse_bytes(&format_bytes(number)), Some(number));
            prop_assert_eq!(parse_cpu_millis(&format_cpu_millis(number)), Some(number));
        }
    }
}
