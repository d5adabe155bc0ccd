//! The `Date` header's value, computed at most once a second.
//!
//! Owns the form of the header; the calendar is that of `rfc3339`. Reads no clock: the event loop passes the time in.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::rfc3339::civil_from_days;

const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
/// The last second of the year 9999: later ones do not fit the four digits and are written as this one.
const LAST_SECOND: u64 = 253_402_300_799;

/// An instant as RFC 9110 writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
#[derive(Debug, Clone)]
pub struct HttpDate {
    second: u64,
    text: [u8; 29],
}

impl HttpDate {
    /// The date of `time`; a clock before 1970 counts as 1970.
    pub fn new(time: SystemTime) -> HttpDate {
        let second = whole_seconds(time);
        HttpDate { second, text: render(second) }
    }

    /// Moves the date on to `time`. Free while the second has not changed.
    pub fn refresh(&mut self, time: SystemTime) {
        let second = whole_seconds(time);
        if second != self.second {
            *self = HttpDate { second, text: render(second) };
        }
    }

    /// The 29 bytes of the date.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }
}

fn whole_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).min(LAST_SECOND)
}

fn render(second: u64) -> [u8; 29] {
    let (days, in_day) = (second / 86_400, second % 86_400);
    let (year, month, day) = civil_from_days(days);
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    text[..3].copy_from_slice(DAYS[(days % 7) as usize]);
    two_digits(&mut text[5..7], day);
    text[8..11].copy_from_slice(MONTHS[(month - 1) as usize]);
    two_digits(&mut text[12..14], year / 100);
    two_digits(&mut text[14..16], year % 100);
    two_digits(&mut text[17..19], in_day / 3600);
    two_digits(&mut text[20..22], in_day / 60 % 60);
    two_digits(&mut text[23..25], in_day % 60);
    text
}

fn two_digits(place: &mut [u8], value: u64) {
    place[0] = b'0' + (value / 10 % 10) as u8;
    place[1] = b'0' + (value % 10) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(second: u64) -> String {
        let date = HttpDate::new(UNIX_EPOCH + Duration::from_secs(second));
        String::from_utf8(date.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn dates_that_others_computed() {
        for (second, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
            (1_709_251_200, "Fri, 01 Mar 2024 00:00:00 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (LAST_SECOND, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (LAST_SECOND + 1, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(at(second), text);
        }
    }

    #[test]
    fn a_clock_before_1970_does_no_harm() {
        let date = HttpDate::new(UNIX_EPOCH - Duration::from_secs(5));
        assert_eq!(date.as_bytes(), b"Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut before = civil_from_days(0);
        for days in 1..80_000 {
            let today = civil_from_days(days);
            let next_day = today.0 == before.0 && today.1 == before.1 && today.2 == before.2 + 1;
            let next_month = today.0 == before.0 && today.1 == before.1 + 1 && today.2 == 1 && before.2 >= 28;
            let next_year = today == (before.0 + 1, 1, 1) && (before.1, before.2) == (12, 31);
            assert!(next_day || next_month || next_year, "{before:?} then {today:?}");
            before = today;
        }
    }

    #[test]
    fn refresh_follows_the_clock() {
        let mut date = HttpDate::new(UNIX_EPOCH);
        date.refresh(UNIX_EPOCH + Duration::from_millis(1999));
        assert_eq!(&date.as_bytes()[17..25], b"00:00:01");
    }
}
