//! The windows, without a scheduler.

use super::*;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// A pattern and its clock.
struct Life {
    pattern: IdlePattern,
    now_ns: u64,
}

impl Life {
    fn new() -> Self {
        Life { pattern: IdlePattern::new(IdleScale::default()), now_ns: HOUR }
    }

    /// So many work for a second after so long a pause.
    fn work(&mut self, count: u32, after_ns: u64) {
        self.now_ns += after_ns;
        self.pattern.set_in_use(count, self.now_ns);
        self.now_ns += SECOND;
        self.pattern.set_in_use(0, self.now_ns);
    }

    fn window(&self, level: usize) -> Window {
        self.pattern.levels[level].window
    }

    fn warm_after(&self, after_ns: u64) -> u32 {
        self.pattern.warm(self.now_ns + after_ns)
    }
}

#[test]
fn a_pattern_is_believed_from_its_fifth_idle_time_on() {
    let mut life = Life::new();
    for _ in 0..5 {
        life.work(1, 30 * MINUTE);
        assert_eq!(life.window(0).basis, IdleBasis::Unsure);
    }
    life.work(1, 30 * MINUTE);
    let window = life.window(0);
    assert_eq!(window.basis, IdleBasis::Histogram);
    assert!((27 * MINUTE..=30 * MINUTE).contains(&window.from_ns), "{window:?}");
    assert!((31 * MINUTE..=34 * MINUTE).contains(&window.until_ns), "{window:?}");
    assert_eq!((life.warm_after(MINUTE), life.pattern.expected(life.now_ns + MINUTE)), (0, 0));
    assert_eq!((life.warm_after(30 * MINUTE), life.pattern.expected(life.now_ns + 30 * MINUTE)), (1, 1));
    assert_eq!(life.warm_after(40 * MINUTE), 0);
}

#[test]
fn calls_before_the_window_open_it_at_once() {
    let mut life = Life::new();
    (0..20).for_each(|_| life.work(1, 30 * MINUTE));
    assert!(life.window(0).from_ns > 0);
    for _ in 0..3 {
        life.work(1, 10 * SECOND);
    }
    assert_eq!(life.window(0).from_ns, 0);
    assert_eq!(life.pattern.expected(life.now_ns + 30 * MINUTE), 0, "what is kept is not started ahead");
}

#[test]
fn sessions_keep_an_instance_no_longer_than_they_pay() {
    let mut life = Life::new();
    for _ in 0..10 {
        life.work(1, 3 * HOUR);
        (0..9).for_each(|_| life.work(1, 30 * SECOND));
    }
    let window = life.window(0);
    assert_eq!(window.from_ns, 0);
    assert_eq!(window.until_ns, 10 * MINUTE, "three hours are not worth it");
}

#[test]
fn each_level_has_a_pattern_of_its_own_and_needs_those_below() {
    let mut life = Life::new();
    for _ in 0..8 {
        life.work(3, 40 * MINUTE);
        life.work(1, 20 * MINUTE);
    }
    life.work(3, 40 * MINUTE);
    // The others' hour, but the first has not come in its time.
    assert_eq!(life.warm_after(60 * MINUTE), 0);
    // One is called after twenty or forty minutes, three together after an hour.
    assert!(life.window(0).from_ns < life.window(2).from_ns);
    assert_eq!(life.pattern.expected(life.now_ns + 20 * MINUTE), 1);
    life.work(1, 20 * MINUTE);
    assert_eq!(life.pattern.expected(life.now_ns + 40 * MINUTE), 3);
    // The first has not come; the others will not either.
    assert_eq!(life.warm_after(50 * MINUTE), 0);
}

#[test]
fn what_is_longer_than_the_histogram_is_foretold() {
    let mut life = Life::new();
    (0..4).for_each(|_| life.work(1, 24 * HOUR - SECOND));
    let window = life.window(0);
    assert_eq!(window.basis, IdleBasis::Forecast);
    assert!(window.from_ns >= 24 * HOUR - 5 * MINUTE && window.until_ns <= 24 * HOUR + 5 * MINUTE, "{window:?}");
    assert_eq!((life.warm_after(12 * HOUR), life.warm_after(24 * HOUR)), (0, 1));
    // At any time of the day: nothing is foretold.
    let mut life = Life::new();
    for hours in [9, 31, 14, 50, 22, 6] {
        life.work(1, hours * HOUR);
    }
    assert_eq!(life.window(0).basis, IdleBasis::Unsure);
}

#[test]
fn the_highest_level_stands_for_all_above() {
    let mut life = Life::new();
    life.work(40, MINUTE);
    assert_eq!(life.pattern.levels.len(), limits::IDLE_LEVELS_MAX);
    assert_eq!(life.warm_after(MINUTE), u32::MAX);
    assert_eq!(life.warm_after(HOUR), 0);
}

#[test]
fn changes_are_announced() {
    let mut life = Life::new();
    (0..10).for_each(|_| life.work(1, 30 * MINUTE));
    let mut now_ns = life.now_ns;
    let mut counts = vec![life.pattern.warm(now_ns)];
    while let Some(next_ns) = life.pattern.next_change_ns(now_ns) {
        assert_eq!(life.pattern.warm(next_ns - 1), counts[counts.len() - 1]);
        counts.push(life.pattern.warm(next_ns));
        now_ns = next_ns;
    }
    assert_eq!(counts, [0, 1, 0]);
}
