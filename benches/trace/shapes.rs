//! A synthetic trace with the shapes of the public Azure Functions traces.
//!
//! The proportions are those that "Serverless in the Wild" (Shahrad et al., USENIX ATC 2020) reports, from which the
//! policy under test comes as well. The shapes, and the size of bursts, were settled while the costs of fixed idle times
//! and of the policy were both in view: take the table as a comparison on one plausible load, not as a prediction.
//!
//! * How often functions are called: 45 % on average at most once an hour, 81 % at most once a minute, over many orders
//!   of magnitude. The busiest are cut off, since every policy keeps them warm.
//! * Timers are 16 % of the functions; another tenth is as regular without one; 40 % have inter-arrival times with a
//!   coefficient of variation above 1: bursts, and the day and the week of people.
//! * Execution times are log-normal with a log mean of -0.38 and a sigma of 2.36, cut off at 10 s, which three
//!   functions of four never exceed, so that no function needs instances by the dozen.
//! * With a fixed idle time of ten minutes the 75th-percentile function starts cold for 62 to 88 % of its calls, by the
//!   seed; with one of an hour for 20 to 32 %.

const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;
const DAY: f64 = 86_400.0;

/// Seeded random numbers: SplitMix64, so that a trace is the same in every release.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // Through the generator itself once, or neighbouring seeds would be the same numbers one place further.
        Dice(Dice(seed).next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Log-normal with this median.
    pub(crate) fn lognormal(&mut self, median: f64, sigma: f64) -> f64 {
        median * (sigma * self.normal()).exp()
    }

    fn choice<T: Copy>(&mut self, weighted: &[(T, f64)]) -> T {
        let mut left = self.unit() * weighted.iter().map(|(_, weight)| weight).sum::<f64>();
        for &(value, weight) in weighted {
            left -= weight;
            if left < 0.0 {
                return value;
            }
        }
        weighted[weighted.len() - 1].0
    }
}

/// In which way a function is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    /// By a clock, to the second.
    Timer,
    /// At regular intervals that vary: devices, pollers.
    Regular,
    /// At any time, always as likely.
    Steady,
    /// At any time, but as people live: days, nights and weekends.
    Diurnal,
    /// In sessions of several calls.
    Bursty,
    /// A few times in all.
    Rare,
}

pub(crate) const SHAPES: [Shape; 6] =
    [Shape::Timer, Shape::Regular, Shape::Steady, Shape::Diurnal, Shape::Bursty, Shape::Rare];

/// One function of the trace.
pub(crate) struct Function {
    pub(crate) shape: Shape,
    /// When it is called, in seconds, in order.
    pub(crate) calls: Vec<f64>,
    /// Median of its execution times, in seconds.
    pub(crate) service_s: f64,
    /// How long its top-level code takes, in seconds.
    pub(crate) load_s: f64,
}

/// See the module's documentation.
pub(crate) struct Trace {
    pub(crate) functions: Vec<Function>,
    pub(crate) days: u64,
    pub(crate) seed: u64,
    /// Functions that are not replayed, since they are hardly ever cold.
    pub(crate) left_out: usize,
}

impl Trace {
    /// `most` is the number of calls a day at which the busiest functions are cut off.
    pub(crate) fn new(functions: usize, days: u64, seed: u64, most: f64) -> Trace {
        let mut dice = Dice::new(seed);
        let make = |at: usize| function(&mut dice, (at as f64 + 0.5) / functions as f64, days as f64 * DAY, most);
        Trace { functions: (0..functions).map(make).collect(), days, seed, left_out: 0 }
    }

    /// Leaves out the functions that are called more often than this, on average. They are nearly all of the calls, and
    /// far from the 75th percentile: there they count as never cold, and in memory not at all.
    #[allow(dead_code)] // The benchmark replays everything.
    pub(crate) fn without_busy(mut self, calls_a_day: u64) -> Trace {
        let before = self.functions.len();
        let most = (calls_a_day * self.days) as usize;
        self.functions.retain(|function| function.calls.len() <= most);
        self.left_out = before - self.functions.len();
        self
    }

    pub(crate) fn calls(&self) -> usize {
        self.functions.iter().map(|function| function.calls.len()).sum()
    }
}

/// The function at this quantile of how often functions are called.
fn function(dice: &mut Dice, quantile: f64, end: f64, most: f64) -> Function {
    let rate = calls_a_day(quantile, most);
    let seldom = [
        (Shape::Timer, 15.0),
        (Shape::Regular, 5.0),
        (Shape::Steady, 4.0),
        (Shape::Diurnal, 5.0),
        (Shape::Bursty, 66.0),
        (Shape::Rare, 5.0),
    ];
    let often = [
        (Shape::Timer, 17.0),
        (Shape::Regular, 13.0),
        (Shape::Steady, 24.0),
        (Shape::Diurnal, 17.0),
        (Shape::Bursty, 29.0),
    ];
    let shape = if quantile < 0.45 { dice.choice(&seldom) } else { dice.choice(&often) };
    let every = DAY / rate;
    let mut calls = match shape {
        Shape::Timer => timer(dice, every, end),
        Shape::Regular => regular(dice, every, end),
        Shape::Steady => modulated(dice, every, end, |_| 1.0),
        Shape::Diurnal => modulated(dice, every, end, activity),
        Shape::Bursty => bursty(dice, every, end),
        Shape::Rare => rare(dice, end),
    };
    calls.retain(|&at| at < end);
    calls.sort_by(f64::total_cmp);
    Function {
        shape,
        calls,
        service_s: dice.lognormal((-0.38f64).exp(), 2.36).clamp(0.001, 10.0),
        load_s: dice.lognormal(0.3, 1.0).clamp(0.01, 10.0),
    }
}

/// Straight lines in the logarithm through what is reported.
fn calls_a_day(quantile: f64, most: f64) -> f64 {
    let points = [(0.0, 1.0 / 14.0), (0.45, 24.0), (0.81, 1440.0), (1.0, most.max(1440.0))];
    let segment = points.windows(2).find(|pair| quantile <= pair[1].0).unwrap_or(&points[2..]);
    let ((q0, r0), (q1, r1)): ((f64, f64), (f64, f64)) = (segment[0], segment[1]);
    (r0.ln() + (r1 / r0).ln() * (quantile - q0) / (q1 - q0)).exp()
}

/// The usual period that is nearest, at a phase of its own; a few start several calls at once.
fn timer(dice: &mut Dice, every: f64, end: f64) -> Vec<f64> {
    const MINUTES: [f64; 13] = [1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 240.0, 360.0, 720.0, 1440.0];
    let distance = |minutes: f64| (minutes * MINUTE / every).ln().abs();
    let period = MINUTE * MINUTES.into_iter().min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap_or(60.0);
    let working_days = period == DAY && dice.unit() < 0.3;
    let width = if dice.unit() < 0.15 { dice.between(2.0, 9.0) as usize } else { 1 };
    let jitter = dice.lognormal(0.5, 1.5).min(20.0);
    let phase = dice.unit() * period;
    let mut calls = Vec::new();
    let mut at = phase;
    while at < end {
        if !(working_days && weekday(at) >= 5) {
            calls.extend((0..width).map(|_| at + dice.unit() * jitter));
        }
        at += period;
    }
    calls
}

fn regular(dice: &mut Dice, every: f64, end: f64) -> Vec<f64> {
    let variation = dice.between(0.05, 0.4);
    let mut at = dice.unit() * every;
    let mut calls = Vec::new();
    while at < end {
        calls.push(at);
        at += every * (1.0 + variation * dice.normal()).max(0.05);
    }
    calls
}

/// A Poisson process whose rate follows `activity`, which is at most 2 and on average about 1.
fn modulated(dice: &mut Dice, every: f64, end: f64, activity: impl Fn(f64) -> f64) -> Vec<f64> {
    let mut calls = Vec::new();
    let mut at = 0.0;
    loop {
        at += dice.exponential(every / 2.0);
        if at >= end {
            return calls;
        }
        if dice.unit() * 2.0 < activity(at) {
            calls.push(at);
        }
    }
}

/// Sessions, which come as people do or at any time, of a number of calls and with gaps that are the function's own.
fn bursty(dice: &mut Dice, every: f64, end: f64) -> Vec<f64> {
    let size = dice.lognormal(12.0, 1.0).clamp(1.5, 200.0);
    let gap = dice.lognormal(45.0, 1.2).clamp(2.0, 20.0 * MINUTE);
    let human = dice.unit() < 0.6;
    let starts = modulated(dice, every * size, end, |at| if human { activity(at) } else { 1.0 });
    let mut calls = Vec::new();
    for start in starts {
        let mut at = start;
        loop {
            calls.push(at);
            if dice.unit() * size < 1.0 {
                break;
            }
            at += dice.lognormal(gap, 0.8);
        }
    }
    calls
}

fn rare(dice: &mut Dice, end: f64) -> Vec<f64> {
    let calls = 1 + dice.between(0.0, 6.0) as usize;
    (0..calls).map(|_| dice.unit() * end).collect()
}

fn weekday(at: f64) -> u64 {
    (at / DAY) as u64 % 7
}

/// Half of the calls do not follow the day; the others do, and are few at the weekend.
fn activity(at: f64) -> f64 {
    let day = (std::f64::consts::TAU * (at % DAY - 15.0 * HOUR) / DAY).cos();
    let workday = if weekday(at) < 5 { 1.15 } else { 0.6 };
    (workday * (1.0 + 0.75 * day)).clamp(0.0, 2.0)
}
