//! Times as people read them: milliseconds since the Unix epoch to RFC 3339 in UTC, and back.
//!
//! Pure arithmetic on the proleptic Gregorian calendar, no clock and no time zone data. It stands here because the
//! three users (resources, function logs, the server's log) need just these two functions of a calendar.

/// Largest time that has a four-digit year: 9999-12-31T23:59:59.999Z, in milliseconds.
const LATEST_MS: u64 = 253_402_300_799_999;
const DAY_MS: u64 = 86_400_000;

/// `2026-11-23T06:18:33.042Z`. A time past the year 9999 is shown as its last millisecond.
pub fn format(unix_ms: u64) -> String {
    let unix_ms = unix_ms.min(LATEST_MS);
    let (year, month, day) = civil_from_days(unix_ms / DAY_MS);
    let of_day = unix_ms % DAY_MS;
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1000 % 60, of_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Reads an RFC 3339 time with any offset, in milliseconds since the Unix epoch.
///
/// Digits of the second beyond the third are cut off. A leap second counts as the second after it, as Unix time has
/// it. `None` for anything else, and for times before 1970.
pub fn parse(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let date_time = bytes.get(..19)?;
    for (position, separators) in [(4, "-"), (7, "-"), (10, "Tt "), (13, ":"), (16, ":")] {
        separators.as_bytes().contains(&date_time[position]).then_some(())?;
    }
    let (year, month, day) = (digits(&date_time[..4])?, digits(&date_time[5..7])?, digits(&date_time[8..10])?);
    let (hour, minute, second) = (digits(&date_time[11..13])?, digits(&date_time[14..16])?, digits(&date_time[17..])?);
    let in_range = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour <= 23
        && minute <= 59
        && second <= 60;
    in_range.then_some(())?;

    let (milli, zone) = fraction_ms(&bytes[19..])?;
    let offset_minutes = zone_minutes(zone)?;
    let days = days_from_civil(year, month, day);
    let local_ms = days * DAY_MS as i64 + (((hour * 60 + minute) * 60 + second) * 1000 + milli) as i64;
    u64::try_from(local_ms - offset_minutes * 60_000).ok()
}

/// Splits `.123456Z` into 123 and `Z`; `Z` alone into 0 and `Z`.
fn fraction_ms(rest: &[u8]) -> Option<(u64, &[u8])> {
    let Some(fraction) = rest.strip_prefix(b".") else { return Some((0, rest)) };
    let len = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if len == 0 {
        return None;
    }
    let kept = &fraction[..len.min(3)];
    Some((digits(kept)? * 10u64.pow(3 - kept.len() as u32), &fraction[len..]))
}

/// The offset from UTC in minutes of `Z`, `+hh:mm` or `-hh:mm`.
fn zone_minutes(zone: &[u8]) -> Option<i64> {
    match zone {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), hour @ .., b':', m1, m2] if hour.len() == 2 => {
            let (hour, minute) = (digits(hour)?, digits(&[*m1, *m2])?);
            (hour <= 23 && minute <= 59).then_some(())?;
            let minutes = (hour * 60 + minute) as i64;
            Some(if *sign == b'-' { -minutes } else { minutes })
        }
        _ => None,
    }
}

fn digits(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |value, byte| byte.is_ascii_digit().then(|| value * 10 + u64::from(byte - b'0')))
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

// Both conversions count from 1 March, so that the leap day is the last of its year, and in eras of 400 years, after
// which the calendar repeats. 719,468 days lie between 0000-03-01 and 1970-01-01.
const DAYS_TO_EPOCH: u64 = 719_468;
const ERA_DAYS: u64 = 146_097;

/// Year, month (1 to 12) and day of the month (1 to 31), from days since 1970-01-01.
pub(crate) fn civil_from_days(days_since_epoch: u64) -> (u64, u64, u64) {
    let days = days_since_epoch + DAYS_TO_EPOCH;
    let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on have 31, 30, 31, 30, 31 days, twice and a bit: 153 days in five months.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn days_from_civil(year: u64, month: u64, day: u64) -> i64 {
    // 400 years are added and taken away again: January of the year 0 lies before the first 1 March.
    let year = year + 400 - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * ERA_DAYS + day_of_era) as i64 - (ERA_DAYS + DAYS_TO_EPOCH) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times_are_written_as_the_calendar_has_them() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_763_878_713_042, "2025-11-23T06:18:33.042Z"),
            (LATEST_MS, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(format(ms), text);
            assert_eq!(parse(text), Some(ms), "{text}");
        }
        assert_eq!(format(u64::MAX), format(LATEST_MS));
    }

    #[test]
    fn offsets_fractions_and_leap_seconds_are_understood() {
        let noon = parse("2024-02-29T12:00:00Z");
        assert!(noon.is_some());
        for same in [
            "2024-02-29T14:00:00+02:00",
            "2024-02-29T06:30:00-05:30",
            "2024-02-29 12:00:00.0Z",
            "2024-02-29t12:00:00.0009z",
            "2024-02-29T11:59:60Z",
        ] {
            assert_eq!(parse(same), noon, "{same}");
        }
        assert_eq!(parse("1970-01-01T00:00:00.5Z"), Some(500));
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for bad in [
            "",
            "2024-02-29",
            "2024-02-29T12:00:00",
            "2023-02-29T12:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2024-01-00T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:61Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+0200",
            "2024-01-01T00:00:00+24:00",
            "2024-01-01T00:00:00Z ",
            "1969-12-31T23:59:59Z",
            "0000-01-01T00:00:00Z",
            "+024-01-01T00:00:00Z",
            "2024-01-01T00:00:00é",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_time_survives_the_way_to_text_and_back(ms in 0..=LATEST_MS) {
            prop_assert_eq!(parse(&format(ms)), Some(ms));
        }

        #[test]
        fn later_times_sort_later_as_text(a in 0..=LATEST_MS, b in 0..=LATEST_MS) {
            prop_assert_eq!(a.cmp(&b), format(a).cmp(&format(b)));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse(&text);
        }
    }
}
