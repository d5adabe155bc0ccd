//! How many calls of one instance are looked at: so many in each second.
//!
//! Pure: time is an argument.

use std::time::{Duration, Instant};

use crate::limits::EGRESS_CALLS_PER_SECOND_MAX;

const WINDOW: Duration = Duration::from_secs(1);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Pace {
    window_began: Instant,
    calls: u32,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Pace { window_began: now, calls: 0 }
    }

    /// A call has been taken.
    pub(super) fn count(&mut self) {
        self.calls = self.calls.saturating_add(1);
    }

    /// How long no call is to be taken.
    pub(super) fn pause(&mut self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.window_began);
        if passed >= WINDOW {
            *self = Pace::new(now);
            return None;
        }
        (self.calls >= EGRESS_CALLS_PER_SECOND_MAX).then(|| WINDOW - passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_has_had_its_share_waits_for_the_next_second() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..EGRESS_CALLS_PER_SECOND_MAX {
            assert_eq!(pace.pause(now), None);
            pace.count();
        }
        let later = now + WINDOW / 4;
        assert_eq!(pace.pause(later), Some(WINDOW - WINDOW / 4));
        assert_eq!(pace.pause(now + WINDOW), None);
        pace.count();
        assert_eq!(pace.pause(now + WINDOW), None, "a new share");
    }
}
