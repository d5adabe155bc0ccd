//! What became of the requests of a load: each is in the account once, with its times and its fate, so that a row can say
//! how many failed, how slowly, and when the throughput was back.

use std::collections::BTreeMap;
use std::time::Duration;

/// The width of a step of the timeline.
pub(crate) const STEP: Duration = Duration::from_millis(100);
/// Steps over which a throughput is averaged before it is called back: fewer would follow the noise of the machine.
const STEADY: usize = 5;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// With an answer of this status.
    Answered(u16),
    /// The connection was reset (ECONNRESET, EPIPE) before a whole answer.
    Reset,
    /// The connection was closed in order before a whole answer.
    Closed,
    /// Nothing had come when the load was over and patience with it.
    Unanswered,
}

/// A request that was sent. Times count from the beginning of the load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub(crate) sent: Duration,
    pub(crate) ended: Duration,
    pub(crate) fate: Fate,
}

impl Record {
    pub(crate) fn latency(&self) -> Duration {
        self.ended - self.sent
    }

    pub(crate) fn is_good(&self) -> bool {
        self.fate == Fate::Answered(200)
    }
}

/// All requests of a load, in the order in which they ended.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) records: Vec<Record>,
    /// Answers that are not 200, by status and `code`.
    pub(crate) problems: BTreeMap<(u16, String), u64>,
    /// 429 and 503 that did not say when to try again.
    pub(crate) without_retry_after: u64,
    /// Connections that could not be made.
    pub(crate) refused: u64,
    /// Requests that were due and that no connection was free for.
    pub(crate) unsent: u64,
    /// From the beginning to the moment when nothing more was sent.
    pub(crate) lasted: Duration,
}

impl Account {
    pub(crate) fn sent(&self) -> u64 {
        self.records.len() as u64
    }

    pub(crate) fn count(&self, which: impl Fn(&Record) -> bool) -> u64 {
        self.records.iter().filter(|record| which(record)).count() as u64
    }

    pub(crate) fn good(&self) -> u64 {
        self.count(Record::is_good)
    }

    pub(crate) fn answered(&self, status: u16) -> u64 {
        self.count(|record| record.fate == Fate::Answered(status))
    }

    /// Requests that ended in no answer at all.
    pub(crate) fn lost(&self) -> u64 {
        self.count(|record| !matches!(record.fate, Fate::Answered(_)))
    }

    /// Requests that were not answered with 200.
    pub(crate) fn failed(&self) -> u64 {
        self.sent() - self.good()
    }

    /// The longest time that one of these took.
    pub(crate) fn slowest(&self, which: impl Fn(&Record) -> bool) -> Duration {
        self.records.iter().filter(|record| which(record)).map(Record::latency).max().unwrap_or_default()
    }

    /// The time that this share of these took at most.
    pub(crate) fn quantile(&self, share: f64, which: impl Fn(&Record) -> bool) -> Duration {
        let mut times: Vec<_> = self.records.iter().filter(|record| which(record)).map(Record::latency).collect();
        times.sort_unstable();
        let index = (times.len() as f64 * share) as usize;
        times.get(index.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// Good answers a second between two moments.
    pub(crate) fn throughput(&self, from: Duration, to: Duration) -> f64 {
        self.count(|record| record.is_good() && record.ended >= from && record.ended < to) as f64
            / (to - from).as_secs_f64()
    }

    /// Good answers in each step from a moment on, while requests were sent.
    pub(crate) fn timeline(&self, from: Duration) -> Vec<u64> {
        let steps = (self.lasted.saturating_sub(from).as_nanos() / STEP.as_nanos()) as usize;
        let mut timeline = vec![0; steps];
        for record in self.records.iter().filter(|record| record.is_good() && record.ended >= from) {
            let step = ((record.ended - from).as_nanos() / STEP.as_nanos()) as usize;
            if let Some(count) = timeline.get_mut(step) {
                *count += 1;
            }
        }
        timeline
    }

    /// How long after a moment the throughput was this again (answers a second), on the average of half a second; `None`
    /// when it was not while the load lasted.
    pub(crate) fn back_within(&self, fault: Duration, per_second: f64) -> Option<Duration> {
        let wanted = per_second * (STEP * STEADY as u32).as_secs_f64();
        let timeline = self.timeline(fault);
        let step = timeline.windows(STEADY).position(|steps| steps.iter().sum::<u64>() as f64 >= wanted)?;
        Some(STEP * step as u32)
    }

    /// The longest time without a good answer from one moment to another.
    pub(crate) fn longest_pause(&self, from: Duration, to: Duration) -> Duration {
        let good = self.records.iter().filter(|record| record.is_good()).map(|record| record.ended);
        let mut last = from;
        let mut longest = Duration::ZERO;
        for ended in good.filter(|ended| (from..to).contains(ended)).chain([to]) {
            longest = longest.max(ended.saturating_sub(last));
            last = ended;
        }
        longest
    }

    /// What came that was not wanted, in words.
    pub(crate) fn troubles(&self) -> String {
        let mut words: Vec<String> =
            self.problems.iter().map(|((status, code), count)| format!("{count} times {status} {code}")).collect();
        for (fate, name) in [(Fate::Reset, "reset"), (Fate::Closed, "closed"), (Fate::Unanswered, "unanswered")] {
            let count = self.count(|record| record.fate == fate);
            if count > 0 {
                words.push(format!("{count} {name}"));
            }
        }
        for (count, name) in [(self.refused, "connections refused"), (self.unsent, "not sent")] {
            if count > 0 {
                words.push(format!("{count} {name}"));
            }
        }
        if words.is_empty() {
            words.push("none".to_owned());
        }
        words.join(", ")
    }
}
