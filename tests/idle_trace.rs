//! The promise of the adaptive idle time, on a small version of the trace of `make bench-trace`.

#[path = "../benches/trace/replay.rs"]
mod replay;
#[path = "../benches/trace/report.rs"]
mod report;
#[path = "../benches/trace/shapes.rs"]
mod shapes;

use report::{print, Costs, BASE, POLICIES};
use shapes::Trace;

#[test]
fn adaptive_instances_start_cold_half_as_often_as_ten_minutes_at_no_more_memory() {
    // Without the busy functions, since a build for tests sweeps the whole state again and again.
    let trace = Trace::new(400, 14, 1, 8640.0).without_busy(480);
    let measured = [POLICIES[BASE], POLICIES[POLICIES.len() - 1]];
    let costs = measured.map(|(name, ttl)| Costs::of(name, &trace, ttl));
    print(&trace, &costs, 0);
    let [fixed, adaptive] = costs;
    assert!((0.4..0.9).contains(&fixed.percentile(75)), "the trace is not what it should be");
    assert!(adaptive.percentile(75) * 2.0 <= fixed.percentile(75), "75th percentile");
    assert!(adaptive.idle_s() <= fixed.idle_s(), "memory");
    assert!(adaptive.cold() <= fixed.cold(), "cold starts in all");
}
