//! How a row of the table is measured and written down: figures beside their bars, one line per row, and a failure when a
//! bar is missed. Rows take turns.
//!
//! With `FAAS_FAULTS=full` rows have their full size and the promised bars; otherwise a small size, and bars for times and
//! rates that a debug build on a busy machine can hold. What may be lost is the same in both. The line goes to standard
//! error, and to the end of the file that `FAAS_FAULTS_TABLE` names, if it does.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::common::{faults_in_full, is_root, skip, slowed};

/// How much longer things may take in the small size.
const SLACK: u32 = 5;
/// What part of a rate is enough in the small size, where other tests take their share of the machine, at one moment and
/// not at the next.
const SHARE: f64 = 0.3;

static TURN: Mutex<()> = Mutex::new(());

/// The one in the full size, the other in the small one.
pub(crate) fn sized<T>(full: T, small: T) -> T {
    if faults_in_full() {
        full
    } else {
        small
    }
}

/// The bar for a time: as promised in the full size, slackened in the small one.
pub(crate) fn slackened(bar: Duration) -> Duration {
    sized(bar, slowed(bar) * SLACK)
}

/// The bar for a rate or a share of it: as promised in the full size, slackened in the small one.
pub(crate) fn lessened(bar: f64) -> f64 {
    sized(bar, bar * SHARE)
}

/// A row that is being measured.
pub(crate) struct Row {
    fault: &'static str,
    figures: Vec<Figure>,
    said: bool,
    _turn: MutexGuard<'static, ()>,
}

struct Figure {
    text: String,
    holds: bool,
}

impl Row {
    /// Begins a row, when those that are being measured are over; `None` after saying why it cannot be measured here.
    pub(crate) fn of(fault: &'static str) -> Option<Row> {
        if !is_root() {
            skip("process mode at level strict needs root");
            return None;
        }
        // A row that failed leaves nothing behind that the next could trip over.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Row { fault, figures: Vec::new(), said: false, _turn: turn })
    }

    /// A count that has a most.
    pub(crate) fn at_most(&mut self, what: &str, measured: u64, bar: u64) {
        self.figure(format!("{what}: {measured} (at most {bar})"), measured <= bar);
    }

    /// A count that must be just this.
    pub(crate) fn exactly(&mut self, what: &str, measured: u64, bar: u64) {
        self.figure(format!("{what}: {measured} (just {bar})"), measured == bar);
    }

    /// A time, with its bar as promised: it is slackened here.
    pub(crate) fn within(&mut self, what: &str, measured: Duration, bar: Duration) {
        let bar = slackened(bar);
        self.figure(format!("{what}: {} (at most {})", time(measured), time(bar)), measured <= bar);
    }

    /// A time that may not have come at all.
    pub(crate) fn within_or_never(&mut self, what: &str, measured: Option<Duration>, bar: Duration) {
        match measured {
            Some(measured) => self.within(what, measured, bar),
            None => self.figure(format!("{what}: never (at most {})", time(slackened(bar))), false),
        }
    }

    /// A percentage that has a most, with its bar as it is to be judged.
    pub(crate) fn percent_at_most(&mut self, what: &str, measured: f64, bar: f64) {
        self.figure(format!("{what}: {measured:.1} % (at most {bar:.1} %)"), measured <= bar);
    }

    /// A percentage that has a least, with its bar as it is to be judged.
    pub(crate) fn percent_at_least(&mut self, what: &str, measured: f64, bar: f64) {
        self.figure(format!("{what}: {measured:.1} % (at least {bar:.1} %)"), measured >= bar);
    }

    /// Something that is so or is not.
    pub(crate) fn holds(&mut self, what: &str, holds: bool) {
        self.figure(format!("{what}: {}", if holds { "yes" } else { "no" }), holds);
    }

    /// A figure without a bar, to understand the others by.
    pub(crate) fn note(&mut self, what: impl Into<String>) {
        self.figure(what.into(), true);
    }

    fn figure(&mut self, mut text: String, holds: bool) {
        if !holds {
            text.push_str(" MISSED");
        }
        self.figures.push(Figure { text, holds });
    }

    /// Writes the row down; panics when a bar was missed.
    pub(crate) fn end(mut self) {
        assert!(!self.figures.is_empty(), "a row without figures holds nothing");
        let holds = self.figures.iter().all(|figure| figure.holds);
        let line = self.say(if holds { "ok" } else { "FAILED" });
        assert!(holds, "{line}");
    }

    fn say(&mut self, verdict: &str) -> String {
        self.said = true;
        let mut line = format!("| {} | ", self.fault);
        for (index, figure) in self.figures.iter().enumerate() {
            let _ = write!(line, "{}{}", if index > 0 { "; " } else { "" }, figure.text);
        }
        let _ = write!(line, " | {verdict} |");
        // The harness has begun a line of its own.
        eprintln!("\n{line}");
        if let Some(path) = std::env::var_os("FAAS_FAULTS_TABLE") {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            writeln!(file.unwrap(), "{line}").unwrap();
        }
        line
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        // Something broke before all figures were there: the row is in the table all the same.
        if !self.said && std::thread::panicking() {
            self.say("FAILED");
        }
    }
}

/// A time as people read it: three digits.
pub(crate) fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds >= 100.0 => format!("{seconds:.0} s"),
        seconds if seconds >= 1.0 => format!("{seconds:.2} s"),
        seconds if seconds >= 0.1 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{:.1} ms", seconds * 1e3),
    }
}
