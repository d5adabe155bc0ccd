//! When a function's instances should be warm, learnt from its idle times.
//!
//! This is the hybrid histogram policy of "Serverless in the Wild" (Shahrad et al., USENIX ATC 2020). It owns what was
//! learnt about one function, whatever its version, and answers two questions: how many instances should be warm now,
//! and when that changes. It knows no slots, starts nothing and reads no clock.
//!
//! **What is idle when several instances are?** The scheduler gives a call to the idle instance that was used last, so
//! that the instances of a function are a stack: the k-th one works just when k do. *Level* k is therefore idle from
//! when fewer than k instances work until k do again, and each level is to itself what an application is in the paper.
//! A job that needs five instances every hour has five levels with a pattern of an hour; a second instance that is
//! needed once a day does not hide behind a first that never rests.
//!
//! **A level's window** is when it should be warm, after it was left:
//! 1. while fewer than [`IDLE_TIMES_MIN`] idle times are known, at once and for [`IDLE_UNSURE_TTL`];
//! 2. if most of them were longer than the histogram, around the [`forecast`], if that is worth something;
//! 3. if the histogram is representative, from its head less a tenth to its tail and a tenth; a head of less than a
//!    minute means at once;
//! 4. else as in 1.
//!
//! Two things differ from the paper, which keeps an unsure function for four hours and every other one to its tail, and
//! so buys its few cold starts with memory. The tail is cut where it stops to pay: where a call is no more likely than
//! at any other time. And what is not better than a fixed time by that measure is treated like one: a function whose
//! calls come at random is kept for as long as it would be anyway, and so is at least every level that is kept at all.
//!
//! The cost of a call is that of counting one number. Windows are computed again when a level has been idle for a bin
//! or more, or was called before its window, or its count has doubled: not more than once a minute, once for each cold
//! start, and a few times in between.
//!
//! [`IDLE_TIMES_MIN`]: crate::limits::IDLE_TIMES_MIN
//! [`IDLE_UNSURE_TTL`]: crate::limits::IDLE_UNSURE_TTL

mod forecast;
mod histogram;

use super::stats::IdleLevelStats;
use super::types::IdleScale;
use crate::limits;
use forecast::Forecast;
use histogram::Histogram;

/// By how much a window must be worth more than a fixed time, as a share of calls: below that it is noise.
const WORTH_MORE: f64 = 0.05;

/// What a window was computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleBasis {
    /// Too little is known, or it shows no pattern: a fixed time.
    Unsure,
    /// The histogram of idle times.
    Histogram,
    /// The last few idle times, which are longer than the histogram.
    Forecast,
}

/// When a level should be warm, from the moment at which it was left. Nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    /// Zero when the instance is kept; else it is ended, and another one started at this time.
    from_ns: u64,
    until_ns: u64,
    basis: IdleBasis,
}

impl Window {
    /// What a level gets that is not understood.
    fn unsure(scale: &IdleScale) -> Self {
        Window { from_ns: 0, until_ns: scale.unsure_ns, basis: IdleBasis::Unsure }
    }
}

#[derive(Debug)]
pub(super) struct Level {
    /// When it was last left; meaningless while it is in use.
    left_ns: u64,
    window: Window,
    /// Idle times since the first.
    counted: u64,
    histogram: Histogram,
    forecast: Forecast,
    forgot_ns: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct IdlePattern {
    scale: IdleScale,
    levels: Vec<Level>,
    in_use: usize,
}

impl IdlePattern {
    /// Nothing is known yet.
    pub(super) fn new(scale: IdleScale) -> Self {
        IdlePattern { scale, levels: Vec::new(), in_use: 0 }
    }

    /// By what it measures.
    pub(super) fn scale(&self) -> &IdleScale {
        &self.scale
    }

    /// How many instances work, up to the highest level.
    #[cfg(debug_assertions)]
    pub(super) fn in_use(&self) -> u32 {
        self.in_use as u32
    }

    /// So many instances work from now on. Returns when their number that should be warm may change because of that.
    pub(super) fn set_in_use(&mut self, count: u32, now_ns: u64) -> Option<u64> {
        let count = (count as usize).min(limits::IDLE_LEVELS_MAX);
        while self.in_use < count {
            match self.levels.get_mut(self.in_use) {
                Some(level) => level.called(now_ns, &self.scale),
                // Once for each level that a function ever reaches.
                None => self.levels.push(Level::new(now_ns, &self.scale)),
            }
            self.in_use += 1;
        }
        let mut due_ns: Option<u64> = None;
        while self.in_use > count {
            self.in_use -= 1;
            let level = &mut self.levels[self.in_use];
            level.left_ns = now_ns;
            let ends_ns = if level.window.from_ns > 0 { now_ns } else { level.closes_ns() };
            due_ns = Some(due_ns.map_or(ends_ns, |due_ns| due_ns.min(ends_ns)));
        }
        due_ns
    }

    /// How many instances should be warm, those that work included. `u32::MAX` is "as many as there are".
    pub(super) fn warm(&self, now_ns: u64) -> u32 {
        match self.in_use + self.open(now_ns).count() {
            // The highest level stands for all above it.
            limits::IDLE_LEVELS_MAX => u32::MAX,
            levels => levels as u32,
        }
    }

    /// How many instances should be there because calls are expected that are not yet there: zero, or more than work.
    /// A level that is merely kept warm expects nothing.
    pub(super) fn expected(&self, now_ns: u64) -> u32 {
        let expecting = self.open(now_ns).enumerate().filter(|(_, level)| level.window.from_ns > 0);
        expecting.last().map_or(0, |(last, _)| (self.in_use + last + 1) as u32)
    }

    /// The levels above those in use that should be warm. A level is needed only together with all below it, so that
    /// none counts above one that is not expected.
    fn open(&self, now_ns: u64) -> impl Iterator<Item = &Level> {
        self.levels[self.in_use..].iter().take_while(move |level| level.is_open(now_ns))
    }

    /// When the answers above change next, if nothing happens before.
    pub(super) fn next_change_ns(&self, now_ns: u64) -> Option<u64> {
        let edges = self.levels[self.in_use..].iter().flat_map(|level| [level.opens_ns(), level.closes_ns()]);
        edges.filter(|&edge_ns| edge_ns > now_ns).min()
    }

    /// Its levels: what each instance of the stack is expected to do.
    pub(super) fn levels(&self) -> &[Level] {
        &self.levels
    }
}

impl Level {
    fn new(now_ns: u64, scale: &IdleScale) -> Self {
        Level {
            left_ns: 0,
            window: Window::unsure(scale),
            counted: 0,
            histogram: Histogram::EMPTY,
            forecast: Forecast::default(),
            forgot_ns: now_ns,
        }
    }

    fn opens_ns(&self) -> u64 {
        self.left_ns.saturating_add(self.window.from_ns)
    }

    fn closes_ns(&self) -> u64 {
        self.left_ns.saturating_add(self.window.until_ns)
    }

    fn is_open(&self, now_ns: u64) -> bool {
        (self.opens_ns()..self.closes_ns()).contains(&now_ns)
    }

    pub(super) fn stats(&self) -> IdleLevelStats {
        IdleLevelStats {
            warm_from_ns: self.window.from_ns,
            warm_until_ns: self.window.until_ns,
            basis: self.window.basis,
            representative: self.is_representative(),
            idle_times: self.counted,
        }
    }

    /// Whether the histogram shows a pattern.
    fn is_representative(&self) -> bool {
        self.histogram.remembered() >= limits::IDLE_TIMES_MIN && self.histogram.is_representative()
    }

    /// Its idle time has ended.
    fn called(&mut self, now_ns: u64, scale: &IdleScale) {
        let idle_ns = now_ns.saturating_sub(self.left_ns);
        self.counted += 1;
        self.histogram.record(idle_ns / scale.bin_ns);
        if idle_ns >= scale.bin_ns {
            self.forecast.record(idle_ns / forecast_unit_ns(scale));
        }
        if now_ns.saturating_sub(self.forgot_ns) >= scale.half_life_ns {
            self.forgot_ns = now_ns;
            self.histogram.forget_half();
        }
        if idle_ns >= scale.bin_ns || idle_ns < self.window.from_ns || self.counted.is_power_of_two() {
            let window = if self.histogram.is_out_of_bounds() { self.foretold(scale) } else { self.learnt(scale) };
            self.window = window.unwrap_or(Window::unsure(scale));
        }
    }

    /// What the histogram says, if that is worth more than a fixed time. The margin is a tenth, but no wider than what
    /// was seen: a timer of an hour that is never a minute late needs no six minutes.
    fn learnt(&self, scale: &IdleScale) -> Option<Window> {
        let span = self.histogram.best().filter(|_| self.is_representative())?;
        let fixed = self.histogram.worth_of_keeping(scale.unsure_ns / scale.bin_ns);
        if span.worth < fixed + WORTH_MORE {
            return None;
        }
        let (head_ns, tail_ns) = (span.from * scale.bin_ns, span.until * scale.bin_ns);
        let margin_ns = |edge_ns: u64| (edge_ns / 10).min(tail_ns - head_ns);
        let (from_ns, until_ns) = (head_ns - margin_ns(head_ns), tail_ns + margin_ns(tail_ns));
        let until_ns = if from_ns == 0 { until_ns.max(scale.unsure_ns) } else { until_ns };
        Some(Window { from_ns, until_ns, basis: IdleBasis::Histogram })
    }

    /// Around the forecast, twice as wide as that was ever wrong and a bin more; nothing if that is wider than 15 % to
    /// each side, the paper's margin.
    fn foretold(&self, scale: &IdleScale) -> Option<Window> {
        let (next, wrong) = self.forecast.next()?;
        let unit_ns = forecast_unit_ns(scale);
        let next_ns = next.saturating_mul(unit_ns);
        let margin_ns = wrong.saturating_mul(2 * unit_ns).saturating_add(scale.bin_ns);
        let (from_ns, until_ns) = (next_ns.checked_sub(margin_ns)?, next_ns.saturating_add(margin_ns));
        let narrow = margin_ns <= next_ns / 100 * 15;
        narrow.then_some(Window { from_ns, until_ns, basis: IdleBasis::Forecast })
    }
}

/// A sixtieth of a bin: a second.
fn forecast_unit_ns(scale: &IdleScale) -> u64 {
    (scale.bin_ns / 60).max(1)
}

#[cfg(test)]
mod tests;
