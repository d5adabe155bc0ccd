//! What is asked of the engine for a container that has been delivered, and its removal.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::backend::docker::api::containers;
use crate::backend::docker::client::{CallId, News};
use crate::call::{ExitReason, Slot, WorkerJob};
use crate::limits::{
    CONTAINER_EXIT_LOOKS_MAX, CONTAINER_EXIT_WAIT, CONTAINER_REMOVALS_MAX, CONTAINER_REMOVAL_RETRY,
    CONTAINER_REMOVAL_RETRY_MAX,
};

use super::container::Container;
use super::questions::Question;
use super::Supervisor;

/// What a question about one container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Matter {
    Limits { memory_bytes: u64 },
    Kill,
    End,
    Exit,
    Removal,
}

/// How far the removal of a container has come.
#[derive(Debug, Default)]
pub(super) struct Removal {
    /// It has ended, or never came, and is to go.
    pub(super) is_wanted: bool,
    is_asked: bool,
    retry_at: Option<Instant>,
    failures: u32,
    /// Its creation has been asked for and not been answered: a removal could overtake that, and find nothing.
    pub(super) awaits_creation: bool,
}

impl Supervisor {
    pub(super) fn set_limits(&mut self, slot: Slot, memory_bytes: u64, cpu_millis: u32) {
        let Some((key, name)) = self.delivered(slot) else {
            return self.tell_limits(slot, Err("the container is gone".to_owned()));
        };
        let spec = &mut self.containers[key].spec;
        spec.memory_bytes = memory_bytes;
        let request = containers::update(spec.engine, &name, memory_bytes, cpu_millis);
        self.ask(request, Question::Container { key, slot, matter: Matter::Limits { memory_bytes } });
    }

    pub(super) fn kill(&mut self, slot: Slot) {
        let Some((key, name)) = self.delivered(slot) else { return };
        // Once: who wants it ended asks every second, and an engine that hangs hears all of that at last.
        if std::mem::replace(&mut self.containers[key].is_kill_asked, true) {
            return;
        }
        self.ask(containers::kill(&name), Question::Container { key, slot, matter: Matter::Kill });
    }

    pub(super) fn ask_exit(&mut self, slot: Slot, answer: Arc<OnceLock<ExitReason>>) {
        let Some((key, name)) = self.delivered(slot) else {
            return self.tell_end(slot, &answer, ExitReason::Unknown);
        };
        self.containers[key].exit = Some((answer, Instant::now() + CONTAINER_EXIT_WAIT));
        // The kernel says sooner than the engine that it has ended.
        let request = containers::wait(&name, CONTAINER_EXIT_WAIT);
        self.ask(request, Question::Container { key, slot, matter: Matter::End });
    }

    pub(super) fn bury(&mut self, slot: Slot) {
        if let Some(&key) = self.by_slot.get(&slot) {
            self.bury_key(key);
        }
    }

    pub(super) fn bury_key(&mut self, key: usize) {
        let Some(container) = self.containers.get_mut(key) else { return };
        container.removal.is_wanted = true;
        // At the end of the server this is asked for again and again.
        if !container.removal.is_due(Instant::now())
            || !self.engine.is_up()
            || self.removals() >= CONTAINER_REMOVALS_MAX
        {
            return;
        }
        let container = &mut self.containers[key];
        container.removal.is_asked = true;
        // Whatever still runs in it is killed.
        let request = containers::remove(&container.name);
        let slot = container.slot;
        self.ask(request, Question::Container { key, slot, matter: Matter::Removal });
    }

    pub(super) fn hear_of_container(&mut self, call: CallId, news: News) {
        let Some(Question::Container { key, slot, matter }) = self.answered(call) else { return };
        if self.containers.get(key).is_none_or(|container| container.slot != slot) {
            return;
        }
        let reply = match news {
            News::Reply { status, body, .. } => Ok((status, body)),
            News::Failed { error, .. } => Err(error),
            News::Head { .. } | News::Chunk { .. } | News::End { .. } => return,
        };
        match matter {
            Matter::Limits { .. } => {
                let engine = self.containers[key].spec.engine;
                let set = reply.and_then(|(status, body)| containers::updated(engine, status, &body));
                self.tell_limits(slot, set.map_err(|error| error.to_string()));
            }
            Matter::Kill => {
                self.containers[key].is_kill_asked = false;
                if let Err(error) = reply.and_then(|(status, body)| containers::killed(status, &body)) {
                    log::error!("{slot}: cannot be killed: {error}");
                }
            }
            Matter::End => {
                // Whatever that says: how it ended is in its description.
                let request = containers::inspect(&self.containers[key].name);
                self.ask(request, Question::Container { key, slot, matter: Matter::Exit });
            }
            Matter::Exit => {
                let state = reply.and_then(|(status, body)| containers::inspected(status, &body));
                let container = &mut self.containers[key];
                let reason = match state {
                    Ok(inspect) if container.is_starved => exit_reason(&inspect.starved(), container.spec.memory_bytes),
                    Ok(inspect) if inspect.may_be_starved() && container.exit_looks < CONTAINER_EXIT_LOOKS_MAX => {
                        // The engine hears of the end, and of memory that has run out, by different ways.
                        container.exit_looks += 1;
                        let request = containers::inspect(&container.name);
                        let question = Question::Container { key, slot, matter: Matter::Exit };
                        return self.ask_later(request, question);
                    }
                    Ok(inspect) => exit_reason(&inspect, container.spec.memory_bytes),
                    Err(error) => {
                        log::warn!("{slot}: how it ended cannot be told: {error}");
                        ExitReason::Unknown
                    }
                };
                self.exited(key, reason);
            }
            Matter::Removal => match reply.and_then(|(status, body)| containers::removed(status, &body)) {
                Ok(()) => self.forget(key),
                Err(error) => {
                    let removal = &mut self.containers[key].removal;
                    removal.failed(Instant::now());
                    // Podman is not there yet, now and then, when a container has ended this moment.
                    let level = if removal.failures > 1 { log::Level::Warn } else { log::Level::Debug };
                    log::log!(level, "{slot}: its container cannot be removed yet: {error}");
                }
            },
        }
    }

    /// Containers whose removal has been asked for and not been answered.
    fn removals(&self) -> usize {
        self.containers.iter().filter(|(_, container)| container.removal.is_asked).count()
    }

    /// When the first container has had its time: to come, or until its removal is tried again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let may_remove = self.engine.is_up() && self.removals() < CONTAINER_REMOVALS_MAX;
        let now = Instant::now();
        self.containers.iter().filter_map(|(_, container)| container.due(may_remove, now)).min()
    }

    /// Gives up and removes what is due.
    pub(super) fn expire(&mut self, now: Instant) {
        let mut room = match self.engine.is_up() {
            true => CONTAINER_REMOVALS_MAX.saturating_sub(self.removals()),
            false => 0,
        };
        let (mut late, mut untold, mut removable) = (Vec::new(), Vec::new(), Vec::new());
        for (key, container) in &self.containers {
            if container.due(room > 0, now).is_none_or(|at| now < at) {
                continue;
            }
            if container.life.is_coming() {
                late.push(key);
            } else if container.exit.is_some() {
                untold.push(key);
            } else {
                removable.push(key);
                room -= 1;
            }
        }
        late.into_iter().for_each(|key| self.give_up_late(key));
        untold.into_iter().for_each(|key| self.exited(key, ExitReason::Unknown));
        removable.into_iter().for_each(|key| self.bury_key(key));
    }

    /// The engine has nothing of it any more.
    fn forget(&mut self, key: usize) {
        // The heir has it open as well, so that its end here is none to the poll.
        self.unwatch(key);
        let container = self.containers.remove(key);
        self.by_slot.remove(&container.slot);
        self.recipients.give_back(container.slot);
        if let Some((answer, _)) = &container.exit {
            self.tell_end(container.slot, answer, ExitReason::Unknown);
        }
        container.rendezvous.remove();
    }

    fn delivered(&self, slot: Slot) -> Option<(usize, String)> {
        let key = *self.by_slot.get(&slot)?;
        Some((key, self.containers[key].name.clone()))
    }

    /// It is known, or given up, how a container ended.
    fn exited(&mut self, key: usize, reason: ExitReason) {
        let container = &mut self.containers[key];
        if let Some((answer, _)) = container.exit.take() {
            let slot = container.slot;
            self.tell_end(slot, &answer, reason);
        }
    }

    fn tell_end(&self, slot: Slot, answer: &OnceLock<ExitReason>, reason: ExitReason) {
        let _ = answer.set(reason);
        // A checker looks for itself.
        if slot.index < self.settings.slots_max {
            let _ = self.recipients.worker_of(slot).send(WorkerJob::EndKnown { slot });
        }
    }

    fn tell_limits(&self, slot: Slot, result: Result<(), String>) {
        let _ = self.recipients.worker_of(slot).send(WorkerJob::LimitsSet { slot, result });
    }
}

impl Removal {
    /// Of a container whose creation is asked for, or could not be.
    pub(super) fn of_one_that_is_made(awaits_creation: bool) -> Removal {
        Removal { awaits_creation, ..Removal::default() }
    }

    /// When it is to be asked for, which may have been: not before the pause after a failure is over. It is not as long
    /// as nobody wants it, or an answer is to come first.
    fn due(&self, now: Instant) -> Option<Instant> {
        let may_be_asked = self.is_wanted && !self.is_asked && !self.awaits_creation;
        may_be_asked.then(|| self.retry_at.unwrap_or(now))
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due(now).is_some_and(|at| at <= now)
    }

    /// It was asked for in vain, and is again after a pause, which grows.
    fn failed(&mut self, now: Instant) {
        self.is_asked = false;
        self.failures = self.failures.saturating_add(1);
        let pause = CONTAINER_REMOVAL_RETRY * 2u32.saturating_pow(self.failures.min(10) - 1);
        self.retry_at = Some(now + pause.min(CONTAINER_REMOVAL_RETRY_MAX));
    }
}

impl Container {
    /// When something is to be done about it.
    fn due(&self, may_remove: bool, now: Instant) -> Option<Instant> {
        if self.life.is_coming() {
            return Some(self.deadline);
        }
        // It is removed when it was told how it ended.
        if let Some((_, until)) = self.exit {
            return Some(until);
        }
        self.removal.due(now).filter(|_| may_remove)
    }
}

/// How a container ended, from what the engine says of it. An init or a shell gives a signal as 128 and its number.
fn exit_reason(inspect: &containers::Inspect, limit_bytes: u64) -> ExitReason {
    match inspect.exit_code {
        _ if inspect.is_running => ExitReason::Unknown,
        _ if inspect.is_out_of_memory => ExitReason::OutOfMemory { limit_bytes },
        code @ 129..=192 => ExitReason::Signal(code - 128),
        code => ExitReason::Status(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_removal_is_due_when_it_is_wanted_and_nothing_is_awaited_and_after_a_failure_when_its_pause_is_over() {
        let now = Instant::now();
        let mut removal = Removal::of_one_that_is_made(true);
        assert!(!removal.is_due(now), "nobody wants it");
        removal.is_wanted = true;
        assert!(!removal.is_due(now), "it could overtake the creation");
        removal.awaits_creation = false;
        assert!(removal.is_due(now));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            removal.is_asked = true;
            assert_eq!(removal.due(now), None);
            removal.failed(now);
            let due = removal.due(now).unwrap();
            assert!(!removal.is_due(due - Duration::from_millis(1)) && removal.is_due(due));
            pauses.push(due - now);
        }
        assert_eq!(pauses[..2], [CONTAINER_REMOVAL_RETRY, CONTAINER_REMOVAL_RETRY * 2]);
        assert!(pauses.is_sorted() && pauses[11] == CONTAINER_REMOVAL_RETRY_MAX, "{pauses:?}");
    }
}
