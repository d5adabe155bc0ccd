//! What the other threads report.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::runtimes::Missing;
use crate::call::{CallRequest, FrontEvent, InvocationId};
use crate::control::{Attendance, ControlJob, ControlReply, Done, Pulled, Ticket, Work, NOT_STORED};
use crate::http::{HeaderName, HeaderValue, Problem, RequestId, Response};
use crate::registry::function::{FunctionVersion, IdleTtl, InvocationsMax};
use crate::scheduler::{self, FunctionPolicy};

use super::api;
use super::clients::{ClientId, Waiting};
use super::Front;

/// An idle time as the scheduler knows it.
pub(crate) fn scheduled_idle_ttl(ttl: IdleTtl) -> scheduler::IdleTtl {
    match ttl {
        IdleTtl::AfterMs(ms) => scheduler::IdleTtl::AfterNs(Duration::from_millis(ms).as_nanos() as u64),
        IdleTtl::Adaptive => scheduler::IdleTtl::Adaptive,
    }
}

impl Front {
    /// Takes in what another thread reports, and does what follows from it.
    pub(super) fn hear(&mut self, event: FrontEvent) {
        self.take_in(event);
        self.act();
    }

    /// Takes it in only: what follows is left in `actions`, behind what is there, since their order matters.
    pub(super) fn take_in(&mut self, event: FrontEvent) {
        let now_ns = self.now_ns();
        match event {
            FrontEvent::BlankReady { slot, pid } => {
                if !self.scheduler.is_for_container(slot) {
                    self.blank_trouble = None;
                }
                self.pids.insert(slot, pid);
                self.scheduler.blank_ready(slot, now_ns, &mut self.actions);
            }
            FrontEvent::BlankFailed { slot, failure } => {
                // What ails the container engine is told of by the thread that asks it, and is no trouble of the server's.
                if !self.scheduler.is_for_container(slot) {
                    if self.blank_trouble.is_none() && self.stop.is_none() {
                        log::error!("a blank cannot be made: {}", failure.reason);
                    }
                    self.blank_trouble = Some(failure.clone());
                }
                self.scheduler.blank_failed(slot, failure, now_ns, &mut self.actions);
            }
            FrontEvent::Loaded { slot, result } => self.scheduler.loaded(slot, result, now_ns, &mut self.actions),
            FrontEvent::Completed { slot, invocation, service_ns, raw_output, result } => {
                if self.scheduler.completed(slot, invocation, service_ns, raw_output, now_ns, &mut self.actions) {
                    self.complete(slot, invocation, service_ns, result);
                }
            }
            FrontEvent::TakenBack { slot, calls } => {
                let ids = self.restore(calls);
                self.scheduler.taken_back(slot, &ids, now_ns, &mut self.actions);
            }
            FrontEvent::Exited { slot, exit, begun, returned } => {
                log::debug!("instance {slot} has ended: {exit:?}");
                let ids = self.restore(returned);
                self.pids.remove(&slot);
                self.scheduler.exited(slot, &exit, &begun, &ids, now_ns, &mut self.actions);
            }
            FrontEvent::Control(reply) => self.hear_control(*reply),
            FrontEvent::Takeover(news) => self.hear_takeover(*news),
            FrontEvent::Reload(update) => self.reconfigure(*update),
        }
    }

    /// Requests that come back are the front's again until they are dispatched anew.
    fn restore(&mut self, calls: Vec<(InvocationId, CallRequest)>) -> Vec<InvocationId> {
        let restored = calls.into_iter().map(|(invocation, request)| {
            // A call whose client is gone is not there any more; the scheduler knows.
            if let Some(call) = self.calls.get_mut(invocation) {
                call.request = Some(request);
            }
            invocation
        });
        restored.collect()
    }

    fn hear_control(&mut self, reply: ControlReply) {
        match &reply.result {
            Ok(Done::Created(_) | Done::Updated(_) | Done::Deleted(_)) => self.store_trouble = None,
            Err(problem) if problem.code() == NOT_STORED => self.store_trouble = Some(self.now),
            Ok(Done::Unchanged(_) | Done::Document(_)) | Err(_) => {}
        }
        let response = match &reply.result {
            Ok(Done::Created(function) | Done::Updated(function)) => {
                self.deploy(Arc::clone(function));
                self.act();
                None
            }
            Ok(Done::Deleted(name)) => {
                self.undeploy(name);
                self.act();
                None
            }
            Ok(Done::Unchanged(_) | Done::Document(_)) => None,
            Err(problem) => Some(problem.clone()),
        };
        let client_id = ClientId(reply.ticket.0);
        let Some(client) = self.clients.get(client_id) else { return };
        let Waiting::Control(request_id) = client.waiting else { return };
        let response = match (response, reply.result) {
            (Some(problem), _) | (None, Err(problem)) => problem.into_response(&request_id),
            (None, Ok(done)) => self.done(done, reply.pulled.as_deref()),
        };
        self.respond(client_id.key(), response);
        self.drive(client_id.key());
    }

    fn done(&self, done: Done, pulled: Option<&Pulled>) -> Response {
        let pulled = pulled.map(Pulled::to_json);
        match done {
            Done::Created(function) => {
                let location = format!("/functions/{}", function.name);
                let response = api::json(201, &self.resource(&function, true, true).with_pulled(pulled));
                match HeaderValue::new(&location) {
                    Ok(value) => response.with(HeaderName::from_static("location"), value),
                    // A function's name is a valid value by its own rules.
                    Err(_) => response,
                }
            }
            Done::Updated(function) | Done::Unchanged(function) => {
                api::json(200, &self.resource(&function, true, true).with_pulled(pulled))
            }
            Done::Deleted(_) => Response::new(204),
            Done::Document(document) => api::json(200, &document),
        }
    }

    /// Makes a version the one that is called from now on.
    pub(super) fn deploy(&mut self, function: Arc<FunctionVersion>) {
        let runtime = self.runtimes.find(&function);
        if let Err(missing) = &runtime {
            log::error!("function {} cannot be called: {missing}", function.name);
        }
        let policy = runtime.ok().map(|runtime| FunctionPolicy {
            runtime,
            timeout_ns: Duration::from_millis(function.config.timeout_ms).as_nanos() as u64,
            min_instances: function.config.min_instances,
            max_instances: function.config.max_instances,
            invocations_max: match function.config.max_invocations_per_instance {
                InvocationsMax::Unlimited => u64::MAX,
                InvocationsMax::AtMost(calls) => calls.into(),
            },
            idle_ttl: function.config.idle_ttl.map(scheduled_idle_ttl),
        });
        let (key, replaces) = self.functions.put(function, policy.is_some());
        let now_ns = self.now_ns();
        match (key, policy) {
            (Some(key), Some(policy)) => {
                let kept_before = self.scheduler.kept();
                self.scheduler.deploy(key, policy, replaces, now_ns, &mut self.actions);
                let slots_max = self.settings.scheduler.slots_max;
                if self.scheduler.kept() >= slots_max && kept_before < slots_max {
                    log::warn!(
                        "the min_instances of all functions together take the whole of \
                         system.max_concurrent_functions, {slots_max}: other functions get no instance"
                    );
                }
            }
            _ => {
                if let Some(replaced) = replaces {
                    self.scheduler.remove(replaced, now_ns, &mut self.actions);
                }
            }
        }
    }

    /// Why the scheduler does not know a function.
    pub(super) fn what_is_missing(&self, function: &FunctionVersion) -> Missing {
        match self.runtimes.find(function) {
            Err(missing) => missing,
            // It was when the function was deployed, and is there by now for another's sake.
            Ok(_) => Missing::Late,
        }
    }

    fn undeploy(&mut self, name: &str) {
        // Now, so that a function that takes the name at once does not find the log of this one. A function that was
        // stored and not served has a log, too.
        self.lines.logs.forget(name);
        let Some(live) = self.functions.remove(name) else { return };
        if let Some(key) = live.key {
            let now_ns = self.now_ns();
            self.scheduler.remove(key, now_ns, &mut self.actions);
        }
    }

    /// Hands a job to the control threads; answers 503 when they have too many.
    pub(super) fn ask_control(&mut self, client: ClientId, request_id: RequestId, work: Work) {
        let Some(client) = self.clients.get(client) else { return };
        let attendance = Attendance::default();
        let job = ControlJob { ticket: Ticket(client.id.0), client: attendance.presence(), work };
        if self.lines.control.try_send(job).is_ok() {
            client.waiting = Waiting::Control(request_id);
            client.attendance = Some(attendance);
            return;
        }
        let key = client.id.key();
        let problem = Problem::unavailable("control_busy", "too many changes are being made; try again");
        self.respond(key, problem.into_response(&request_id));
    }
}
