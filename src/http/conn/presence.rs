//! Whether a client that sends no more still waits for its answer.
//!
//! To TCP a client that has closed its side alone and waits for the answer (as `nc -N` does) looks like one that is
//! gone: both have sent a FIN. They differ in what they do with bytes: the one takes them, the kernel of the other
//! answers with a reset, and the front then drops the request. So the connection sends some while the request is worked
//! on: an interim response, which every client must be able to take and may ignore (RFC 9110, 15.2).
//!
//! It is `100 Continue`, since that is what clients bear best: Python's `http.client`, and so `requests`, skips this
//! one and takes any other, as `102 Processing`, for the answer. HTTP/1.0 knows none: its clients are believed to wait.
//! One that is there all the time sees it only if it has half closed and its request takes its time.

use std::time::Instant;

use super::super::parse::Version;
use super::super::phase::Phase;
use super::super::timer::Timer;
use super::{Conn, CONTINUE};
use crate::limits::HTTP_PRESENCE_PAUSE_GROWTH;

impl Conn {
    /// Begins to watch for a client that has closed its side while its request is worked on.
    pub(super) fn watch_presence(&mut self, now: Instant) {
        let Phase::Answering(exchange) = &self.phase else { return };
        if self.is_eof && exchange.version == Version::Http11 && self.timer == Timer::Off {
            self.timer = Timer::Presence { until: now + self.limits.presence_pause, asked: 0 };
        }
    }

    /// The pause is over. Not while an earlier answer is still being taken: that shows as much, and has a deadline.
    pub(super) fn ask_for_presence(&mut self, asked: u32, now: Instant) {
        let mut asked = asked;
        if self.output.is_empty() {
            self.output.end().extend_from_slice(CONTINUE);
            self.expect_write(now);
            asked += 1;
        }
        let until = now + self.limits.presence_pause * HTTP_PRESENCE_PAUSE_GROWTH.saturating_pow(asked);
        self.timer = Timer::Presence { until, asked };
    }
}
