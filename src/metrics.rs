//! Counters and latency histograms, owned by the front thread and therefore plain numbers.

/// Buckets of a histogram: eight per power of two would be finer than the noise, four are enough to tell 1.0 ms from
/// 1.3 ms. Bucket `i` holds values below `bound(i)`.
const BUCKETS: usize = 4 * 36;

/// A latency histogram with a relative error of at most 25 %: four buckets for each power of two from 1 us up.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; BUCKETS], total: 0, sum_ns: 0, max_ns: 0 }
    }
}

/// Index of the bucket for a value: the position of its leading bit, refined by the two bits that follow.
fn bucket(ns: u64) -> usize {
    let value = (ns >> 8).max(4);
    let exponent = 63 - value.leading_zeros();
    let refinement = (value >> (exponent - 2)) & 3;
    ((exponent as usize - 2) * 4 + refinement as usize).min(BUCKETS - 1)
}

/// What every value of a bucket is below, in nanoseconds.
fn bound(index: usize) -> u64 {
    let exponent = index / 4 + 2;
    let refinement = (index % 4) as u64;
    ((4 + refinement + 1) << (exponent - 2)) << 8
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.total += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The value that `quantile` (0..=1) of all values do not exceed, in nanoseconds; `None` without values.
    pub fn quantile_ns(&self, quantile: f64) -> Option<u64> {
        if self.total == 0 {
            return None;
        }
        let rank = ((self.total as f64 * quantile).ceil() as u64).clamp(1, self.total);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(bound(index).min(self.max_ns));
            }
        }
        Some(self.max_ns)
    }

    /// The mean, in nanoseconds; `None` without values.
    pub fn mean_ns(&self) -> Option<u64> {
        self.sum_ns.checked_div(self.total)
    }

    /// `{"count","mean_ms","p50_ms","p95_ms","p99_ms","max_ms"}`, the figures null without values.
    pub fn to_json(&self) -> serde_json::Value {
        let ms = |ns: Option<u64>| ns.map(|ns| (ns as f64 / 1e3).round() / 1e3);
        serde_json::json!({
            "count": self.total,
            "mean_ms": ms(self.mean_ns()),
            "p50_ms": ms(self.quantile_ns(0.50)),
            "p95_ms": ms(self.quantile_ns(0.95)),
            "p99_ms": ms(self.quantile_ns(0.99)),
            "max_ms": ms((self.total > 0).then_some(self.max_ns)),
        })
    }
}

/// What happened to the calls of one function, or of the whole server.
#[derive(Debug, Clone, Default)]
pub struct CallStats {
    /// Calls accepted.
    pub invocations: u64,
    /// Calls answered by the function with a status below 500.
    pub succeeded: u64,
    /// Calls that ended in an error, the function's own 5xx answers included.
    pub failed: u64,
    /// Of the failed, those that ran into the function's timeout.
    pub timed_out: u64,
    /// Of the failed, those whose instance crashed.
    pub crashed: u64,
    /// Calls refused before they were accepted (queue full, overload).
    pub refused: u64,
    /// Calls whose client went away before the answer. With the succeeded, the failed, and those that run or wait,
    /// they make up all invocations.
    pub abandoned: u64,
    /// Calls for which an instance had to be started, whatever became of them.
    pub cold_starts: u64,
    /// From acceptance to answer.
    pub latency: Histogram,
    /// The same, cold starts only.
    pub cold_latency: Histogram,
}

impl CallStats {
    /// Counts how long a call took that was answered, well or not.
    pub fn record_latency(&mut self, elapsed_ns: u64, is_cold: bool) {
        self.latency.record(elapsed_ns);
        if is_cold {
            self.cold_starts += 1;
            self.cold_latency.record(elapsed_ns);
        }
    }

    /// The counters and latencies as the API shows them.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "invocations": self.invocations,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "timed_out": self.timed_out,
            "crashed": self.crashed,
            "refused": self.refused,
            "abandoned": self.abandoned,
            "cold_starts": self.cold_starts,
            "warm_starts": self.latency.count().saturating_sub(self.cold_starts),
            "latency": self.latency.to_json(),
            "cold_start_latency": self.cold_latency.to_json(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        let mut previous = 0;
        for exponent in 0..40 {
            for offset in [0, 1, 3] {
                let ns = (1u64 << exponent) + offset * (1u64 << exponent) / 4;
                let index = bucket(ns);
                assert!(index >= previous, "buckets grow with the value");
                previous = index;
                assert!(ns < bound(index) || index == BUCKETS - 1, "{ns} under {}", bound(index));
                assert!(index == 0 || ns >= bound(index - 1) || ns < 1024 + 256, "{ns} over {}", bound(index - 1));
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_within_a_quarter() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_ns(0.5), None);
        for us in 1..=10_000u64 {
            histogram.record(us * 1000);
        }
        for (quantile, exact) in [(0.5, 5_000_000.0), (0.95, 9_500_000.0), (0.99, 9_900_000.0)] {
            let got = histogram.quantile_ns(quantile).unwrap() as f64;
            assert!((got / exact - 1.0).abs() <= 0.25, "p{quantile}: {got} against {exact}");
        }
        assert_eq!(histogram.quantile_ns(1.0), Some(10_000_000));
    }
}
