//! The newest entries of one function, in memory. Pure.
//!
//! Invariants: at most `limits.max_log_entries` entries and about [`LOG_RING_BYTES_MAX`] bytes; sequence numbers grow
//! from front to back, and `next_seq` is greater than all of them.

use std::collections::VecDeque;

use super::{LogEntry, LoggedEntry, Since};
use crate::limits::LOG_RING_BYTES_MAX;

/// A number from here on was never given: readers of JSON may hold numbers as floating point, exact up to 2^53.
const SEQ_END: u64 = 1 << 53;

/// The ring. `push` and `restore` are the only ways in.
#[derive(Debug)]
pub(super) struct Ring {
    entries: VecDeque<LoggedEntry>,
    entries_max: usize,
    bytes: usize,
    next_seq: u64,
}

impl Ring {
    pub(super) fn new(entries_max: usize) -> Self {
        Ring { entries: VecDeque::new(), entries_max, bytes: 0, next_seq: 1 }
    }

    /// Keeps no more entries than this from now on.
    pub(super) fn bound(&mut self, entries_max: usize) {
        self.entries_max = entries_max;
        self.make_room();
    }

    /// Memory that the entries take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives `entry` the next number and keeps it; the oldest make room.
    pub(super) fn push(&mut self, entry: LogEntry) -> &LoggedEntry {
        self.keep(LoggedEntry { seq: self.next_seq, entry });
        // Just put there, and the last one stays whatever its size.
        &self.entries[self.entries.len() - 1]
    }

    /// Keeps an entry that was read from a file. One that is out of order is no entry of ours and is ignored.
    pub(super) fn restore(&mut self, logged: LoggedEntry) {
        if (self.next_seq..SEQ_END).contains(&logged.seq) {
            self.keep(logged);
        }
    }

    fn keep(&mut self, logged: LoggedEntry) {
        self.next_seq = logged.seq + 1;
        self.bytes += logged.entry.bytes();
        self.entries.push_back(logged);
        self.make_room();
    }

    fn make_room(&mut self) {
        while self.entries.len() > self.entries_max || (self.bytes > LOG_RING_BYTES_MAX && self.entries.len() > 1) {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.entry.bytes();
        }
    }

    /// See `LogSink::query`.
    pub(super) fn query(&self, limit: usize, since: Option<Since>) -> Vec<LoggedEntry> {
        match since {
            None => self.entries.iter().skip(self.entries.len().saturating_sub(limit)).cloned().collect(),
            // Times need not be in order (two instances, a clock set back), so every entry is looked at.
            Some(since) => self.entries.iter().filter(|logged| since.admits(logged)).take(limit).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::entry;
    use super::*;

    const ENTRIES_MAX: usize = 1000;

    fn seqs(entries: &[LoggedEntry]) -> Vec<u64> {
        entries.iter().map(|logged| logged.seq).collect()
    }

    #[test]
    fn a_query_takes_the_newest_or_the_first_after_a_point() {
        let mut ring = Ring::new(ENTRIES_MAX);
        for message in ["a", "b", "c", "d"] {
            ring.push(entry(message));
        }
        ring.entries[1].entry.time_ms = 5000;
        ring.entries[3].entry.time_ms = 6000;
        assert_eq!(seqs(&ring.query(2, None)), [3, 4]);
        assert_eq!(seqs(&ring.query(9, None)), [1, 2, 3, 4]);
        assert_eq!(seqs(&ring.query(2, Some(Since::Sequence(1)))), [2, 3]);
        assert_eq!(seqs(&ring.query(9, Some(Since::Sequence(4)))), [0u64; 0]);
        assert_eq!(seqs(&ring.query(9, Some(Since::Time(5000)))), [2, 4]);
        assert_eq!(seqs(&ring.query(0, None)), [0u64; 0]);
    }

    #[test]
    fn entries_and_bytes_are_bounded() {
        let mut ring = Ring::new(ENTRIES_MAX);
        for _ in 0..ENTRIES_MAX + 5 {
            ring.push(entry("small"));
        }
        assert_eq!((ring.entries.len(), ring.entries[0].seq), (ENTRIES_MAX, 6));
        for _ in 0..ENTRIES_MAX {
            ring.push(entry(&"x".repeat(16 * 1024)));
            assert!(ring.bytes <= LOG_RING_BYTES_MAX);
        }
        assert_eq!(ring.bytes, ring.entries.iter().map(|logged| logged.entry.bytes()).sum::<usize>());
        assert!(ring.entries.len() > 50);
    }

    #[test]
    fn numbers_out_of_order_are_ignored() {
        let mut ring = Ring::new(ENTRIES_MAX);
        for seq in [3, 2, 3, 7, SEQ_END, u64::MAX, 8] {
            ring.restore(LoggedEntry { seq, entry: entry("") });
        }
        assert_eq!(seqs(&ring.query(9, None)), [3, 7, 8]);
        assert_eq!(ring.push(entry("")).seq, 9);
    }
}
