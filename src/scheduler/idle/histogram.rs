//! How long something was idle: a histogram that forgets, of fixed size.
//!
//! It owns the counts and what can be read from them. It knows no clock and no unit but its bins: who owns it says how
//! long a bin is (a minute) and when to forget.
//!
//! Invariants: `inside` is the sum of all bins and `squares` the sum of their squares, so that the spread of the counts
//! is known without looking at them. Counting a time costs the same whatever the number of bins.

use crate::limits::IDLE_BINS;

/// What one idle time weighs when it is new. Forgetting halves weights, so that even a single one is remembered for a
/// few halvings.
const WEIGHT: u16 = 16;

/// Parts of a hundred of all idle times that are shorter than the head, and not longer than the tail.
const HEAD_PERCENT: u64 = 5;
const TAIL_PERCENT: u64 = 99;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Histogram {
    bins: [u16; IDLE_BINS],
    inside: u64,
    squares: u64,
    /// Weight of the times that are longer than all bins, and what these times are together, in weighted bins.
    outside: u64,
    outside_bins: u64,
}

impl Histogram {
    pub(super) const EMPTY: Histogram =
        Histogram { bins: [0; IDLE_BINS], inside: 0, squares: 0, outside: 0, outside_bins: 0 };

    /// Counts one idle time, of so many whole bins.
    pub(super) fn record(&mut self, idle: u64) {
        let weight = u64::from(WEIGHT);
        match usize::try_from(idle) {
            Ok(bin) if bin < IDLE_BINS => {
                if self.bins[bin] > u16::MAX - WEIGHT {
                    self.forget_half();
                }
                self.squares += weight * (2 * u64::from(self.bins[bin]) + weight);
                self.bins[bin] += WEIGHT;
                self.inside += weight;
            }
            _ => {
                self.outside += weight;
                self.outside_bins += weight.saturating_mul(idle);
            }
        }
    }

    /// Halves every weight.
    pub(super) fn forget_half(&mut self) {
        self.outside /= 2;
        self.outside_bins /= 2;
        (self.inside, self.squares) = (0, 0);
        for bin in &mut self.bins {
            *bin /= 2;
            self.inside += u64::from(*bin);
            self.squares += u64::from(*bin) * u64::from(*bin);
        }
    }

    /// About how many idle times it remembers, those that weigh little after a while included.
    pub(super) fn remembered(&self) -> u64 {
        (self.inside + self.outside).div_ceil(WEIGHT.into())
    }

    /// Whether more idle times are longer than all bins than are not.
    pub(super) fn is_out_of_bounds(&self) -> bool {
        self.outside > self.inside
    }

    /// Whether the counts say something: whether some bins stand out, by a coefficient of variation of all bins of at
    /// least 2. The square of that is `n * squares / inside² - 1`.
    pub(super) fn is_representative(&self) -> bool {
        self.inside > 0 && IDLE_BINS as u64 * self.squares >= 5 * self.inside * self.inside
    }

    /// The window that is worth most among those that begin at the head and end by the tail.
    pub(super) fn best(&self) -> Option<Span> {
        let (head, tail) = self.head_and_tail()?;
        let ends = (head..tail).zip(self.worth(head));
        let (last, worth) = ends.max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(Span { from: head as u64, until: last as u64 + 1, worth })
    }

    /// What it is worth to keep an instance for so many bins.
    pub(super) fn worth_of_keeping(&self, bins: u64) -> f64 {
        self.worth(0).take(bins as usize).last().unwrap_or(0.0)
    }

    /// What a window from the begin of bin `from` on is worth, for each bin with which it may end: the share of calls
    /// that come in it, less the share of time that it takes. In a window that is worth nothing a call is no more
    /// likely than at any other time, however long the window is made.
    fn worth(&self, from: usize) -> impl Iterator<Item = f64> + '_ {
        let calls = (self.inside + self.outside) as f64;
        let halves = self.bins.iter().zip(0u64..).map(|(&weight, at)| u64::from(weight) * (2 * at + 1));
        let time = halves.sum::<u64>() as f64 / 2.0 + self.outside_bins as f64;
        let before = self.bins[..from].iter().map(|&weight| f64::from(weight)).sum::<f64>();
        let (mut waiting, mut come, mut spent) = (calls - before, 0.0, 0.0);
        self.bins[from..].iter().map(move |&weight| {
            let weight = f64::from(weight);
            spent += waiting - weight / 2.0;
            waiting -= weight;
            come += weight;
            come / calls - spent / time
        })
    }

    /// In which bin the head is, and behind which the tail. Nothing when all times were longer than all bins.
    fn head_and_tail(&self) -> Option<(usize, usize)> {
        let (mut seen, mut head) = (0, None);
        for (bin, &weight) in self.bins.iter().enumerate() {
            seen += u64::from(weight);
            if head.is_none() && seen * 100 > self.inside * HEAD_PERCENT {
                head = Some(bin);
            }
            if seen > 0 && seen * 100 >= self.inside * TAIL_PERCENT {
                return head.map(|head| (head, bin + 1));
            }
        }
        None
    }
}

/// When calls come after an idle time, in bins: from the begin of one, until the end of another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    pub(super) from: u64,
    pub(super) until: u64,
    /// From -1 to 1: see [`Histogram::worth`].
    pub(super) worth: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(minutes: &[u64]) -> Histogram {
        let mut histogram = Histogram::EMPTY;
        minutes.iter().for_each(|&minute| histogram.record(minute));
        histogram
    }

    #[test]
    fn head_and_tail_are_the_edges_of_the_outermost_bins_of_few_times() {
        assert_eq!(of(&[30, 31, 33]).head_and_tail(), Some((30, 34)));
        assert_eq!(of(&[]).head_and_tail(), None);
        assert_eq!(of(&[1000]).head_and_tail(), None);
    }

    #[test]
    fn one_time_in_a_hundred_does_not_move_the_tail_nor_five_the_head() {
        let mut times = vec![50; 94];
        times.extend([0; 5]);
        times.push(200);
        assert_eq!(of(&times).head_and_tail(), Some((50, 51)));
        times.extend([0, 200]);
        assert_eq!(of(&times).head_and_tail(), Some((0, 201)));
    }

    #[test]
    fn a_pattern_stands_out_and_noise_does_not() {
        assert!(of(&[60; 20]).is_representative());
        let noise: Vec<u64> = (0..240).chain(0..240).collect();
        assert!(!of(&noise).is_representative() && !of(&[]).is_representative());
        assert!(of(&[500, 500, 60]).is_out_of_bounds() && !of(&[500, 60]).is_out_of_bounds());
    }

    #[test]
    fn a_window_is_cut_where_a_call_is_no_more_likely_than_at_any_time() {
        // Sessions: calls after a minute or two, and every tenth after three hours.
        let sessions: Vec<u64> = [[1; 5].as_slice(), &[2; 4], &[180]].concat().repeat(20);
        let best = of(&sessions).best().unwrap();
        assert_eq!((best.from, best.until), (1, 3));
        assert!(best.worth > 0.7 && best.worth > of(&sessions).worth_of_keeping(10) + 0.05);
        // Every hour: all calls for a sixtieth of the time.
        let best = of(&[60; 20]).best().unwrap();
        assert_eq!((best.from, best.until), (60, 61));
        assert!(best.worth > 0.98);
        // Without memory: every second call of those that are left comes in the next bin.
        let memoryless: Vec<u64> = (0..10u32).flat_map(|bin| vec![u64::from(bin); 1 << (10 - bin)]).collect();
        assert!(of(&memoryless).best().unwrap().worth.abs() < 0.2);
    }

    #[test]
    fn what_is_new_outweighs_what_is_old() {
        let mut histogram = of(&[30; 100]);
        (0..6).for_each(|_| histogram.forget_half());
        (0..100).for_each(|_| histogram.record(90));
        assert_eq!(histogram.head_and_tail(), Some((90, 91)));
        assert_eq!(of(&[30]).remembered(), 1);
    }

    proptest! {
        #[test]
        fn sums_are_those_of_the_bins(times in proptest::collection::vec(0u64..300, 0..400), halvings in 0usize..3) {
            let mut histogram = of(&times);
            (0..halvings).for_each(|_| histogram.forget_half());
            // More than one bin can hold, so that it must forget by itself.
            (0..5000).for_each(|_| histogram.record(0));
            let bins = || histogram.bins.iter().map(|&weight| u64::from(weight));
            prop_assert_eq!(histogram.inside, bins().sum::<u64>());
            prop_assert_eq!(histogram.squares, bins().map(|weight| weight * weight).sum::<u64>());
        }
    }
}
