//! Replays a synthetic trace against the scheduler, with fixed idle times and with the adaptive one, and prints what
//! each costs: cold starts and instance-seconds. `make bench-trace`; `tests/idle_trace.rs` holds the figure promised.
//!
//! Time is virtual and everything is seeded, so that the same seed prints the same table anywhere. Arguments: functions
//! (400), days (14), seed (1), the most calls a day of a function (8640).

mod replay;
mod report;
mod shapes;

use report::{print, Costs, BASE, POLICIES};
use shapes::Trace;

fn main() {
    let given: Vec<u64> = std::env::args().filter_map(|it| it.parse().ok()).collect();
    let given = |at: usize, default: u64| given.get(at).copied().unwrap_or(default);
    let (functions, days, seed, most) = (given(0, 400), given(1, 14), given(2, 1), given(3, 8640));
    let trace = Trace::new(functions as usize, days, seed, most as f64);
    println!("{functions} functions, {days} days, seed {seed}: {} calls", trace.calls());
    let costs: Vec<Costs> = POLICIES.iter().map(|&(name, ttl)| Costs::of(name, &trace, ttl)).collect();
    print(&trace, &costs, BASE);
}
