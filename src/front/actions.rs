//! Carrying out what the scheduler decides.

use crate::backend::docker::job::ContainerJob;
use crate::backend::process::supervisor::SupervisorJob;
use crate::backend::Wish;
use crate::call::{FrontEvent, InvocationId, InvokeError, Slot, WorkerJob};
use crate::http::Problem;
use crate::logs::{LogEntry, LogStream};
use crate::metrics::CallStats;
use crate::scheduler::{Action, KillReason, RuntimeId};

use super::calls::Call;
use super::Front;

impl Front {
    /// Carries out every pending action. What carrying one out leads to is carried out too.
    pub(super) fn act(&mut self) {
        while !self.actions.is_empty() {
            let mut actions = std::mem::take(&mut self.actions);
            for action in actions.drain(..) {
                self.carry_out(action);
            }
            if self.actions.is_empty() {
                // Keeps the allocation for the next turn.
                self.actions = actions;
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::MakeBlank { slot, runtime } => {
                if !self.order(slot, runtime) {
                    let failure = "those who make sandboxes are too busy".into();
                    self.take_in(FrontEvent::BlankFailed { slot, failure });
                }
            }
            Action::Assign { slot, version } => match self.functions.version(version) {
                Some(function) => {
                    let function = std::sync::Arc::clone(function);
                    self.tell_worker(slot, WorkerJob::Assign { slot, function });
                }
                None => log::error!("{slot} was assigned a version that is gone"),
            },
            Action::Dispatch { slot, invocation, cold } => self.dispatch(slot, invocation, cold),
            Action::TakeBack { slot } => self.tell_worker(slot, WorkerJob::TakeBack { slot }),
            Action::Kill { slot, why } => self.end_instance(slot, why),
            Action::Fail { invocation, error } => self.fail(invocation, &error, None),
            Action::Drained { version } => {
                if let Some(function) = self.functions.drained(version) {
                    // Again, for what its last calls wrote since it was deleted.
                    self.lines.logs.forget(function.name.as_str());
                }
            }
        }
    }

    /// Asks whoever makes sandboxes of this kind for one; whether that could be done.
    fn order(&self, slot: Slot, runtime: RuntimeId) -> bool {
        let wish = Wish::ForWorker { slot, runtime };
        if !runtime.is_container() {
            let is_ordered = self.lines.supervisor.push(SupervisorJob::Make(wish)).is_ok();
            self.lines.supervisor.ring();
            return is_ordered;
        }
        // No function has such a runtime where nobody makes containers.
        let Some(containers) = &self.lines.containers else { return false };
        let is_ordered = containers.push(ContainerJob::Make(wish)).is_ok();
        containers.ring();
        is_ordered
    }

    fn dispatch(&mut self, slot: Slot, invocation: InvocationId, cold: bool) {
        let Some(call) = self.calls.get_mut(invocation) else { return };
        let Some(request) = call.request.take() else {
            log::error!("call {:#x} was dispatched twice", invocation.0);
            return;
        };
        call.slot = Some(slot);
        call.cold |= cold;
        let nonce = call.nonce;
        self.tell_worker(slot, WorkerJob::Call { slot, invocation, nonce, request });
    }

    fn end_instance(&mut self, slot: Slot, why: KillReason) {
        if !why.is_idle() && !matches!(why, KillReason::Surplus | KillReason::Shutdown) {
            match self.function_in(slot) {
                Some(name) => log::info!("instance {slot} of function {name} is ended: {why:?}"),
                None => log::info!("instance {slot} is ended: {why:?}"),
            }
        } else {
            log::debug!("instance {slot} is ended: {why:?}");
        }
        let job = if why.is_idle() { WorkerJob::Stop { slot } } else { WorkerJob::Kill { slot } };
        self.tell_worker(slot, job);
    }

    /// The name of the function whose instance has this slot.
    fn function_in(&self, slot: Slot) -> Option<&str> {
        let version = self.scheduler.stats_of_instance(slot)?.version;
        self.functions.version(version).map(|function| function.name.as_str())
    }

    fn tell_worker(&mut self, slot: Slot, job: WorkerJob) {
        let worker = slot.index as usize % self.lines.workers.len();
        self.rung[worker] = true;
        let Err(refused) = self.lines.workers[worker].push(job) else { return };
        // The queue holds more than can be under way, so this is a worker that has ended. Nothing may be lost for it.
        log::error!("worker {worker} takes no job");
        if let WorkerJob::Call { slot, invocation, request, .. } = refused.into_inner() {
            self.take_in(FrontEvent::TakenBack { slot, calls: vec![(invocation, request)] });
        }
    }

    /// Rings once for each worker that got jobs in this turn.
    pub(super) fn ring_workers(&mut self) {
        for (worker, rung) in self.rung.iter_mut().enumerate() {
            if std::mem::take(rung) {
                self.lines.workers[worker].ring();
            }
        }
    }

    /// The one outcome of a call that has no answer of its function. `service_ns` is how long the function ran, if it
    /// came to its end.
    pub(super) fn fail(&mut self, invocation: InvocationId, error: &InvokeError, service_ns: Option<u64>) {
        let Some(call) = self.calls.finish(invocation) else { return };
        if let InvokeError::NoInstances(failure) = error {
            log::error!("no instance for a call: {}", failure.reason);
        }
        let elapsed_ns = self.now_ns().saturating_sub(call.accepted_ns);
        self.functions.count(&call.function.name, |stats: &mut CallStats| {
            stats.failed += 1;
            stats.record_latency(elapsed_ns, call.cold);
            match error {
                InvokeError::TimedOut { .. } | InvokeError::QueueTimedOut { .. } => stats.timed_out += 1,
                InvokeError::Crashed { .. } => stats.crashed += 1,
                _ => {}
            }
        });
        let problem = Problem::from(error);
        let was_killed = match error {
            InvokeError::TimedOut { .. } | InvokeError::Crashed { .. } => true,
            // These may befall a call that still waited, which the function knows nothing of.
            InvokeError::InstanceStopped { .. } | InvokeError::CutShort { .. } => {
                call.slot.is_some() && call.request.is_none()
            }
            _ => false,
        };
        if was_killed {
            self.log_end(&call, problem.detail());
        }
        let key = call.client.key();
        if self.clients.get(call.client).is_none() {
            return;
        }
        let mut response = problem.into_response(&call.request_id);
        if let Some(slot) = call.slot {
            super::api::invoke::stamp(&mut response, slot, call.cold, service_ns);
        }
        self.respond(key, response);
        self.drive(key);
    }

    /// Says in the function's log how a call ended that could not say it itself.
    fn log_end(&self, call: &Call, detail: &str) {
        let entry = LogEntry {
            time_ms: crate::clock::unix_ms(),
            request_id: call.request_id.as_str().to_owned(),
            instance: call.slot.map(|slot| slot.to_string()).unwrap_or_default(),
            version: call.function.version,
            stream: LogStream::System,
            message: detail.to_owned(),
        };
        self.lines.logs.append(call.function.name.as_str(), entry);
    }
}
