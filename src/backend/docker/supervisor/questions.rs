//! Questions to the engine: what each is about, and those that are asked again since their connection was cut.

use std::time::Instant;

use crate::backend::docker::client::CallId;
use crate::backend::docker::http::Request;
use crate::call::Slot;
use crate::limits::{ENGINE_ASK_AGAIN, ENGINE_ASK_PATIENCE};
use crate::registry::image::Reference;

use super::engine::Inquiry;
use super::{ends, pulls, Supervisor};

/// What a question to the engine is about.
#[derive(Debug, Clone)]
pub(super) enum Question {
    /// The engine itself.
    Engine(Inquiry),
    /// Which image a name means.
    Find { answer: pulls::Finder },
    /// One that is pulled.
    Pull { reference: Reference },
    /// A container that is on its way.
    Start { key: usize, slot: Slot, step: Step },
    /// One that was delivered, or is to go.
    Container { key: usize, slot: Slot, matter: ends::Matter },
}

/// What is asked of a container on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Create,
    Start,
    Inspect,
    LastWords,
}

/// A question that was asked.
#[derive(Debug)]
pub(super) struct Asked {
    request: Request,
    pub(super) question: Question,
    /// Until when it is asked again, should the connection be cut.
    until: Instant,
}

impl Supervisor {
    /// Asks the engine. Everything but a pull may be asked twice: a container is made under a name that nobody else
    /// takes, and started, changed, ended and removed as well by the second word as by the first.
    pub(super) fn ask(&mut self, request: Request, question: Question) -> CallId {
        self.ask_until(Asked { request, question, until: Instant::now() + ENGINE_ASK_PATIENCE })
    }

    fn ask_until(&mut self, asked: Asked) -> CallId {
        let call = self.client.submit(self.desk.registry(), asked.request.clone(), Instant::now());
        self.questions.insert(call, asked);
        call
    }

    /// Asks in a moment.
    pub(super) fn ask_later(&mut self, request: Request, question: Question) {
        let now = Instant::now();
        self.again.push((now + ENGINE_ASK_AGAIN, Asked { request, question, until: now + ENGINE_ASK_PATIENCE }));
    }

    pub(super) fn answered(&mut self, call: CallId) -> Option<Question> {
        self.questions.remove(&call).map(|asked| asked.question)
    }

    /// Whether a question whose connection was cut will be asked again.
    pub(super) fn defer(&mut self, call: CallId) -> bool {
        let at = Instant::now() + ENGINE_ASK_AGAIN;
        let may_be = |asked: &Asked| {
            let is_engine = matches!(asked.question, Question::Engine(Inquiry::Version | Inquiry::Ping));
            !is_engine && !asked.request.is_stream() && at < asked.until
        };
        if !self.questions.get(&call).is_some_and(may_be) {
            return false;
        }
        self.again.extend(self.questions.remove(&call).map(|asked| (at, asked)));
        true
    }

    /// Asks again what is due.
    pub(super) fn ask_again(&mut self, now: Instant) {
        let (due, later) = std::mem::take(&mut self.again).into_iter().partition(|(at, _)| *at <= now);
        self.again = later;
        let due: Vec<(Instant, Asked)> = due;
        for (_, asked) in due {
            self.ask_until(asked);
        }
    }
}
