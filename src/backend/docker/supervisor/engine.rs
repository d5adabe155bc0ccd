//! The engine: whether it is there, what it speaks, and what a killed server has left with it.
//!
//! It is asked at the start, from time to time while it is well, and at once when an answer did not come. While it is
//! away every order is refused at once with the reason, and it is asked again after a pause.

use std::sync::Arc;
use std::time::Instant;

use crate::backend::docker::api::events::{self, Event, Events, Happening};
use crate::backend::docker::api::system::EngineKind;
use crate::backend::docker::api::{containers, system};
use crate::backend::docker::client::{CallId, News};
use crate::backend::docker::health::EngineState;
use crate::backend::docker::http::Request;
use crate::backend::docker::EngineError;
use crate::limits::{
    CONTAINER_REMOVALS_MAX, ENGINE_ASK_AGAIN, ENGINE_FAILURES_MAX, ENGINE_HELLO_TIMEOUT, ENGINE_LOOK,
    ENGINE_LOOK_TIMEOUT, ENGINE_RETRY, ENGINE_SWEEP,
};

use super::questions::Question;
use super::Supervisor;

/// What the engine is asked about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Inquiry {
    Version,
    /// Whether it is there still, of one whose version is known.
    Ping,
    /// Which containers of this server it has.
    Leftovers,
    /// What befalls them, as it does.
    Events,
    /// One of them, removed.
    Removal {
        id: String,
    },
}

#[derive(Debug, Default)]
enum State {
    /// Nothing has been asked yet, or it is to be asked anew.
    #[default]
    Unknown,
    Asking,
    /// `failures` in a row to answer how it is: a connection may be cut, and one that is started again needs a moment.
    Up {
        kind: EngineKind,
        look_at: Instant,
        is_asked: bool,
        failures: u32,
    },
    Down {
        /// For whoever deploys functions.
        reason: String,
        retry_at: Instant,
    },
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Engine {
    state: State,
    /// When it is looked for containers that nobody knows.
    sweep_at: Option<Instant>,
    /// The stream of what befalls containers, and what has come of it.
    events: Option<(CallId, Events)>,
    /// What it told of containers and could not be read.
    unreadable: u64,
    /// An answer did not come: it is asked at once how it is.
    is_doubted: bool,
}

impl Engine {
    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Who it is, while it is up.
    pub(super) fn kind(&self) -> Option<EngineKind> {
        match self.state {
            State::Up { kind, .. } => Some(kind),
            _ => None,
        }
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(self.state, State::Down { .. })
    }

    /// Why nothing can be ordered, if that is so.
    pub(super) fn refusal(&self) -> Option<String> {
        match &self.state {
            State::Down { reason, .. } => Some(reason.clone()),
            _ => None,
        }
    }

    /// An answer did not come or was none.
    pub(super) fn doubt(&mut self, error: &EngineError) {
        self.is_doubted |= error.is_about_engine();
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        match self.state {
            State::Unknown => Some(Instant::now()),
            State::Asking => None,
            State::Up { look_at, is_asked, .. } => {
                [(!is_asked).then_some(look_at), self.sweep_at].into_iter().flatten().min()
            }
            State::Down { retry_at, .. } => Some(retry_at),
        }
    }
}

impl Supervisor {
    /// Asks the engine how it is, when that is due.
    pub(super) fn tend_engine(&mut self, now: Instant) {
        let is_doubted = std::mem::take(&mut self.engine.is_doubted);
        if self.engine.is_up() && self.engine.sweep_at.is_some_and(|at| now >= at) {
            self.engine.sweep_at = Some(now + ENGINE_SWEEP);
            self.ask(containers::list(&self.settings.server), Question::Engine(Inquiry::Leftovers));
            self.listen();
        }
        // Podman on Debian asks the package manager, each time, of what packages it is made. After a cut it may be another.
        let is_podman = self.engine.kind() == Some(EngineKind::Podman);
        let knows_all = is_podman && matches!(self.engine.state, State::Up { failures: 0, .. });
        match &mut self.engine.state {
            State::Unknown => self.engine.state = State::Asking,
            // The answer, or that there is none, says when it is asked again.
            State::Down { retry_at, .. } if now >= *retry_at => *retry_at = now + ENGINE_HELLO_TIMEOUT + ENGINE_RETRY,
            State::Up { look_at, is_asked, failures, .. }
                if !*is_asked && ((is_doubted && *failures == 0) || now >= *look_at) =>
            {
                *is_asked = true;
            }
            _ => return,
        }
        let (request, inquiry) =
            if knows_all { (system::ping(), Inquiry::Ping) } else { (system::version(), Inquiry::Version) };
        // One that is well answers at once, whatever else it does. One that is met may have to look its version up.
        let timeout = if self.engine.is_up() { ENGINE_LOOK_TIMEOUT } else { ENGINE_HELLO_TIMEOUT };
        self.ask(Request { timeout, ..request }, Question::Engine(inquiry));
    }

    pub(super) fn hear_of_engine(&mut self, call: CallId, news: News) {
        if self.engine.events.as_ref().is_some_and(|(events, _)| *events == call) {
            return self.hear_events(call, news);
        }
        let Some(Question::Engine(inquiry)) = self.answered(call) else { return };
        let reply = match news {
            News::Reply { status, body, .. } => Ok((status, body)),
            News::Failed { error, .. } => Err(error),
            News::Head { .. } | News::Chunk { .. } | News::End { .. } => return,
        };
        match inquiry {
            Inquiry::Version => match reply.and_then(|(status, body)| system::negotiated(status, &body)) {
                Ok(version) => self.engine_is_up(&version),
                Err(error) => self.engine_is_down(&error),
            },
            Inquiry::Ping => match reply.and_then(|(status, body)| system::pinged(status, &body)) {
                Ok(()) => self.engine_is_well(),
                Err(error) => self.engine_is_down(&error),
            },
            Inquiry::Events => {}
            Inquiry::Leftovers => {
                match reply.and_then(|(status, body)| containers::listed(&self.settings.server, status, &body)) {
                    Ok(listed) => self.sweep(listed),
                    Err(error) => log::warn!("containers that nobody knows cannot be looked for: {error}"),
                }
            }
            Inquiry::Removal { id } => match reply.and_then(|(status, body)| containers::removed(status, &body)) {
                Ok(()) => log::info!("removed container {}, which nobody knew", &id[..12]),
                Err(error) => log::warn!("container {}, which nobody knows, is left: {error}", &id[..12]),
            },
        }
    }

    fn engine_is_up(&mut self, version: &system::Version) {
        if !self.engine.is_up() {
            let api = version.api.to_string();
            log::info!("containers are run by {} (API {api})", version.name);
            self.engine.sweep_at = Some(Instant::now());
            self.settings.health.set(EngineState::Up { name: version.name.clone(), api });
        }
        self.client.set_version(version.api);
        self.engine.state =
            State::Up { kind: version.kind, look_at: Instant::now() + ENGINE_LOOK, is_asked: false, failures: 0 };
    }

    /// It has been up and answers still.
    fn engine_is_well(&mut self) {
        if let State::Up { look_at, is_asked, failures, .. } = &mut self.engine.state {
            (*look_at, *is_asked, *failures) = (Instant::now() + ENGINE_LOOK, false, 0);
        }
    }

    fn engine_is_down(&mut self, error: &EngineError) {
        if let State::Up { look_at, is_asked, failures, .. } = &mut self.engine.state {
            // That so many calls wait is no fault of the engine's.
            let is_busy = matches!(error, EngineError::Busy { .. });
            *failures += u32::from(!is_busy);
            if is_busy || (error.is_a_cut() && *failures < ENGINE_FAILURES_MAX) {
                (*look_at, *is_asked) = (Instant::now() + ENGINE_ASK_AGAIN, false);
                // This failure is one of those that are counted, and no reason to ask at once.
                self.engine.is_doubted = false;
                return;
            }
        }
        match self.engine.state {
            State::Up { .. } => log::error!("containers cannot be had any more: {error}"),
            // Most servers have none, and need none.
            State::Unknown | State::Asking => log::info!("there are no containers: {error}"),
            State::Down { .. } => {}
        }
        let reason = error.in_short();
        self.settings.health.set(EngineState::Down { reason: reason.clone() });
        self.engine.state = State::Down { reason, retry_at: Instant::now() + ENGINE_RETRY };
    }

    /// Removes what a killed server on the same state has left: of this side, and of the other if nobody holds that (the
    /// list is older than this look, so whoever made what is in it is dead). And what this one had given up while the engine hung, which then made it all the same.
    fn sweep(&mut self, listed: Vec<containers::Listed>) {
        let sides = Arc::clone(&self.settings.sides);
        // It cannot be taken meanwhile.
        let other_side = sides.other_if_free().ok().flatten();
        let is_nobodys = |container: &containers::Listed| {
            let is_own = self.containers.iter().any(|(_, own)| own.name == container.name);
            let is_dead = container.side == self.settings.side || other_side.is_some();
            !container.name.is_empty() && !is_own && is_dead
        };
        let mut unknown: Vec<String> = listed.into_iter().filter(is_nobodys).map(|container| container.id).collect();
        if unknown.len() > CONTAINER_REMOVALS_MAX {
            // The rest soon: an engine does not remove many at once, and has other things to do.
            unknown.truncate(CONTAINER_REMOVALS_MAX);
            self.engine.sweep_at = Some(Instant::now() + ENGINE_RETRY);
        }
        for id in unknown {
            let request = containers::remove(&id);
            self.ask(request, Question::Engine(Inquiry::Removal { id }));
        }
    }

    /// Has the engine tell what befalls containers, if it does not.
    fn listen(&mut self) {
        if let (None, Some(kind)) = (&self.engine.events, self.engine.kind()) {
            let labels = containers::labels(&self.settings.server, self.settings.side);
            let call = self.ask(events::subscribe(kind, &labels), Question::Engine(Inquiry::Events));
            self.engine.events = Some((call, Events::default()));
        }
    }

    fn hear_events(&mut self, call: CallId, news: News) {
        let Some((_, events)) = &mut self.engine.events else { return };
        let News::Chunk { bytes, .. } = news else {
            if !matches!(news, News::Head { .. }) {
                // It ended. The next look for unknown containers asks for it again: soon, as nobody is told of memory now.
                self.questions.remove(&call);
                self.engine.events = None;
                self.engine.sweep_at = Some(Instant::now() + ENGINE_RETRY);
            }
            return;
        };
        match events.push(&bytes) {
            Ok(happened) => happened.into_iter().for_each(|event| self.hear_event(event)),
            Err(error) => {
                log::warn!("what befalls containers is not told as it should be: {error}");
                self.client.cancel(self.desk.registry(), call);
                self.questions.remove(&call);
                self.engine.events = None;
                self.engine.sweep_at = Some(Instant::now() + ENGINE_RETRY);
            }
        }
    }

    fn hear_event(&mut self, event: Result<Event, EngineError>) {
        match event {
            Ok(mut event) if event.happening == Happening::OutOfMemory => {
                self.end_for_memory(&event.attributes.remove("name").unwrap_or_default());
            }
            Ok(_) => {}
            Err(error) => {
                self.engine.unreadable += 1;
                // An engine may say a thousand of them a second.
                if self.engine.unreadable.is_power_of_two() {
                    let count = self.engine.unreadable;
                    log::warn!("what befalls a container cannot be read, the {count}. time by now: {error}");
                }
            }
        }
    }

    /// A process of a container was killed for want of memory, as the engine tells. The rest of it goes too: what waits for
    /// that process would wait for ever.
    fn end_for_memory(&mut self, name: &str) {
        let found = self.containers.iter_mut().find(|(_, container)| container.name == name);
        if let Some((_, container)) = found {
            container.is_starved = true;
            let slot = container.slot;
            log::debug!("{slot}: a process of it was killed for want of memory");
            self.kill(slot);
        }
    }
}
