//! What comes after idle times that are too long for a histogram: a forecast from the last few of them.
//!
//! It is the seasonal naive forecast: the next idle time is the one `lag` times ago, with the lag of 1 to 7 that would
//! have foretold the last ones best. A daily job has lag 1, one at nine and at five has lag 2, one on working days lag
//! 5, the time over the weekend included. An ARIMA model, which "Serverless in the Wild" fits for such functions, needs
//! an order and coefficients to be searched after every call, and averages such patterns away when it has as few
//! values as these functions give; this needs sixteen numbers and no arithmetic but differences.
//!
//! It owns the last idle times and knows no clock.

use crate::limits::{IDLE_FORECAST_LAG_MAX, IDLE_FORECAST_TIMES};

/// How many of its own past values a lag must have foretold.
const PROVEN: usize = 2;

/// The last few idle times, the newest last. Their unit is their owner's.
#[derive(Debug, Default)]
pub(super) struct Forecast {
    times: [u32; IDLE_FORECAST_TIMES],
    len: usize,
}

impl Forecast {
    /// Adds one idle time.
    pub(super) fn record(&mut self, idle: u64) {
        if self.len == IDLE_FORECAST_TIMES {
            self.times.copy_within(1.., 0);
            self.len -= 1;
        }
        self.times[self.len] = u32::try_from(idle).unwrap_or(u32::MAX);
        self.len += 1;
    }

    /// The next idle time and by how much the forecast was wrong at worst; nothing while no lag has proven itself.
    pub(super) fn next(&self) -> Option<(u64, u64)> {
        let times = &self.times[..self.len];
        let error = |lag: usize| {
            let errors = || times.iter().skip(lag).zip(times).map(|(&later, &earlier)| later.abs_diff(earlier));
            let worst = errors().max().filter(|_| errors().count() >= PROVEN)?;
            Some((u64::from(worst), lag))
        };
        let (worst, lag) = (1..=IDLE_FORECAST_LAG_MAX).filter_map(error).min()?;
        Some((u64::from(times[self.len - lag]), worst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn after(times: &[u64]) -> Option<(u64, u64)> {
        let mut forecast = Forecast::default();
        times.iter().for_each(|&time| forecast.record(time));
        forecast.next()
    }

    #[test]
    fn nothing_is_foretold_from_too_little() {
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[24 * HOUR, 24 * HOUR]), None);
        assert_eq!(after(&[24 * HOUR, 24 * HOUR, 24 * HOUR]), Some((24 * HOUR, 0)));
    }

    #[test]
    fn a_period_is_found_with_its_error() {
        assert_eq!(after(&[24 * HOUR, 24 * HOUR + 30, 24 * HOUR - 10]), Some((24 * HOUR - 10, 40)));
        let nine_to_five: Vec<u64> = [8 * HOUR, 16 * HOUR].repeat(3);
        assert_eq!(after(&nine_to_five), Some((8 * HOUR, 0)));
        let working_days = [[24 * HOUR; 4].as_slice(), &[72 * HOUR]].concat().repeat(3);
        assert_eq!(after(&working_days[..14]), Some((72 * HOUR, 0)));
        assert_eq!(after(&working_days), Some((24 * HOUR, 0)));
    }

    #[test]
    fn noise_is_foretold_with_a_large_error() {
        let (_, error) = after(&[5 * HOUR, 31 * HOUR, 9 * HOUR, 60 * HOUR, 14 * HOUR, 7 * HOUR]).unwrap();
        assert!(error > 2 * HOUR);
    }
}
