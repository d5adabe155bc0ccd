//! How many calls of one instance are looked at: a stock of them at once, and then so many in each second.
//!
//! Pure: time is an argument.

use std::time::{Duration, Instant};

use crate::limits::{EGRESS_CALLS_BURST_MAX, EGRESS_CALLS_PER_SECOND_MAX};

/// What one call takes to be earned again.
const INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / EGRESS_CALLS_PER_SECOND_MAX as u64);
/// What a whole stock takes.
const STOCK: Duration = INTERVAL.saturating_mul(EGRESS_CALLS_BURST_MAX);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the stock is whole again, if no more calls come. Never more than [`STOCK`] ahead.
    whole_at: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Pace { whole_at: now }
    }

    /// A call has been taken.
    pub(super) fn count(&mut self, now: Instant) {
        self.whole_at = self.whole_at.max(now) + INTERVAL;
    }

    /// How long no call is to be taken.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let owed = self.whole_at.saturating_duration_since(now) + INTERVAL;
        owed.checked_sub(STOCK).filter(|pause| !pause.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_has_had_its_share_waits_until_it_has_earned_another() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..EGRESS_CALLS_BURST_MAX {
            assert_eq!(pace.pause(now), None);
            pace.count(now);
        }
        assert_eq!(pace.pause(now), Some(INTERVAL));
        let later = now + INTERVAL / 4;
        assert_eq!(pace.pause(later), Some(INTERVAL - INTERVAL / 4));
        assert_eq!(pace.pause(now + INTERVAL), None);
        pace.count(now + INTERVAL);
        assert_eq!(pace.pause(now + INTERVAL), Some(INTERVAL), "one was earned");
    }

    #[test]
    fn no_more_is_earned_in_a_second_than_is_allowed_and_no_more_in_an_hour_than_a_stock() {
        let begun = Instant::now();
        let calls_until = |pace: &mut Pace, from: Instant, time: Duration| {
            let mut now = from;
            let mut calls = 0;
            while now < from + time {
                match pace.pause(now) {
                    Some(pause) => now += pause,
                    None => {
                        pace.count(now);
                        calls += 1;
                    }
                }
            }
            calls
        };
        let mut pace = Pace::new(begun);
        let first = calls_until(&mut pace, begun, Duration::from_secs(10));
        assert_eq!(first, EGRESS_CALLS_BURST_MAX + 10 * EGRESS_CALLS_PER_SECOND_MAX - 1);
        let hour = begun + Duration::from_secs(3600);
        assert_eq!(calls_until(&mut pace, hour, INTERVAL / 2), EGRESS_CALLS_BURST_MAX);
    }
}
