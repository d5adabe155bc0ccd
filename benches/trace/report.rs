//! What a policy costs a whole trace, and the table of that.

use faas::scheduler::IdleTtl;

use super::replay::{replay, Cost};
use super::shapes::{Trace, SHAPES};

const MINUTE_NS: u64 = 60_000_000_000;

/// The policies that are compared, and which of them all others are measured against: a fixed time of ten minutes.
pub(crate) const POLICIES: [(&str, IdleTtl); 7] = [
    ("fixed 5 min", IdleTtl::AfterNs(5 * MINUTE_NS)),
    ("fixed 10 min", IdleTtl::AfterNs(10 * MINUTE_NS)),
    ("fixed 20 min", IdleTtl::AfterNs(20 * MINUTE_NS)),
    ("fixed 1 h", IdleTtl::AfterNs(60 * MINUTE_NS)),
    ("fixed 2 h", IdleTtl::AfterNs(120 * MINUTE_NS)),
    ("fixed 4 h", IdleTtl::AfterNs(240 * MINUTE_NS)),
    ("adaptive", IdleTtl::Adaptive),
];
pub(crate) const BASE: usize = 1;

/// What one policy costs.
pub(crate) struct Costs {
    pub(crate) name: &'static str,
    of: Vec<Cost>,
    /// Share of cold starts of each function that was called or left out, in order.
    rates: Vec<f64>,
}

impl Costs {
    pub(crate) fn of(name: &'static str, trace: &Trace, ttl: IdleTtl) -> Costs {
        let of = replay(trace, ttl);
        let called = of.iter().filter(|cost| cost.calls > 0);
        let mut rates: Vec<f64> = called.map(|cost| cost.cold as f64 / cost.calls as f64).collect();
        rates.extend(std::iter::repeat_n(0.0, trace.left_out));
        rates.sort_by(f64::total_cmp);
        Costs { name, of, rates }
    }

    /// The share of calls with a cold start of the function at this percentile.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.rates.len() * percent).div_ceil(100).max(1);
        self.rates[rank - 1]
    }

    pub(crate) fn cold(&self) -> u64 {
        self.of.iter().map(|cost| cost.cold).sum()
    }

    /// Seconds that instances were there and ran nothing: what the paper calls wasted memory time.
    pub(crate) fn idle_s(&self) -> f64 {
        self.of.iter().map(|cost| cost.instance_s - cost.busy_s).sum()
    }
}

/// One line for each policy, ratios to the one at `base`; then the adaptive one by shape.
pub(crate) fn print(trace: &Trace, costs: &[Costs], base: usize) {
    println!("cold starts of the function at the 50th, 75th, 90th percentile, and of all; instance-hours");
    let ratio = |ours: f64, base: f64| if ours > 0.0 { base / ours } else { f64::INFINITY };
    let base = &costs[base];
    for it in costs {
        let [p50, p75, p90] = [50, 75, 90].map(|percent| 100.0 * it.percentile(percent));
        let wasted: u64 = it.of.iter().map(|cost| cost.wasted).sum();
        let prewarmed: u64 = it.of.iter().map(|cost| cost.prewarmed).sum();
        println!(
            "{:13} {p50:6.2} % {p75:6.2} % {p90:6.2} %  {:8} cold  {:9.1} h  | 75th {:5.2} times fewer, all {:5.2}, \
             memory {:5.3} | prewarmed {prewarmed}, wasted {wasted}",
            it.name,
            it.cold(),
            it.idle_s() / 3600.0,
            ratio(it.percentile(75), base.percentile(75)),
            ratio(it.cold() as f64, base.cold() as f64),
            it.idle_s() / base.idle_s(),
        );
    }
    let ours = &costs[costs.len() - 1];
    println!("by shape: functions, calls, cold starts and instance-hours of {} and of {}", base.name, ours.name);
    for shape in SHAPES {
        let at = |of: &[Cost]| {
            let its = trace.functions.iter().zip(of).filter(|(function, _)| function.shape == shape);
            its.fold((0, 0, 0, 0.0), |sum, (_, cost)| {
                (sum.0 + 1, sum.1 + cost.calls, sum.2 + cost.cold, sum.3 + (cost.instance_s - cost.busy_s) / 3600.0)
            })
        };
        let ((functions, calls, cold, hours), (_, _, our_cold, our_hours)) = (at(&base.of), at(&ours.of));
        println!(
            "{:8} {functions:4} {calls:8}  {cold:7} {hours:9.1} h  {our_cold:7} {our_hours:9.1} h",
            format!("{shape:?}")
        );
    }
}
