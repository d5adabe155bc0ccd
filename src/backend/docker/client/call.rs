//! A call to the engine, and until when it is waited for.

use std::time::{Duration, Instant};

use super::super::engine_error::EngineError;
use super::super::http::Request;
use super::{CallId, News};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) id: CallId,
    pub(super) request: Request,
    /// When it has failed. `None`: never, which only streams may ask for.
    pub(super) deadline: Option<Instant>,
    /// What the deadline was made of.
    patience: Duration,
    /// A kept connection was closed under it, so it must have a new one.
    pub(super) is_second_try: bool,
}

impl Call {
    pub(super) fn new(id: CallId, request: Request, now: Instant) -> Call {
        let patience = request.timeout;
        // A time beyond what the clock can say does not come.
        Call { id, request, deadline: now.checked_add(patience), patience, is_second_try: false }
    }

    /// Whether it changes nothing.
    pub(super) fn is_safe(&self) -> bool {
        self.request.method.is_safe()
    }

    /// Its stream has begun, or gone on: from now on only its silence is limited.
    pub(super) fn extend(&mut self, now: Instant) {
        self.patience = self.request.idle_timeout.unwrap_or(Duration::MAX);
        self.deadline = now.checked_add(self.patience);
    }

    /// Its end, when the deadline has passed.
    pub(super) fn timed_out(self) -> News {
        let error = EngineError::TimedOut { what: self.request.what(), after: self.patience };
        News::Failed { call: self.id, error }
    }
}
