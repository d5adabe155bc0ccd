//! `/invoke/NAME`: from a request to a call, and from an outcome to a response.

use std::sync::Arc;

use crate::call::{CallReply, CallRequest, InvocationId, InvokeError, Slot};
use crate::http::{HeaderName, HeaderValue, Problem, Request, Response};
use crate::metrics::CallStats;
use crate::wire::{self, RequestParts};

use super::super::clients::{ClientId, Waiting};
use super::super::Front;

const INSTANCE: HeaderName<'static> = HeaderName::from_static("x-faas-instance");
const COLD_START: HeaderName<'static> = HeaderName::from_static("x-faas-cold-start");
const DURATION_MS: HeaderName<'static> = HeaderName::from_static("x-faas-duration-ms");

impl Front {
    pub(super) fn invoke(&mut self, client: ClientId, name: &str, path: &str, request: Request) {
        let request_id = *request.head.request_id();
        if let Err(problem) = self.begin_call(client, name, path, request) {
            self.respond(client.key(), problem.into_response(&request_id));
        }
    }

    fn begin_call(&mut self, client: ClientId, name: &str, path: &str, request: Request) -> Result<(), Problem> {
        let live = self.functions.get(name).ok_or_else(|| Problem::no_function(name))?;
        let version = live.key.ok_or_else(|| {
            let runtime = &live.function.config.runtime;
            Problem::unavailable("runtime_unavailable", format!("there is no runtime {runtime} on this host"))
        })?;
        let Request { head, body } = request;
        let request_id = *head.request_id();
        let parts = RequestParts {
            method: head.method().as_bytes(),
            path: path.as_bytes(),
            query: head.query().unwrap_or_default().as_bytes(),
            request_id: head.request_id().as_bytes(),
            body_len: body.len() as u64,
        };
        let headers = head.forwarded_headers().map(|(name, value)| (name.as_bytes(), value));
        let head = wire::encode_request_head(&parts, headers)
            .map_err(|error| Problem::headers_too_large(format!("the request cannot be passed on: {error}")))?;
        let exclusive = !wire::fits_one_message(body.len());
        let function = Arc::clone(&live.function);
        let now_ns = self.now_ns();
        let invocation = match self.scheduler.submit(version, exclusive, now_ns, &mut self.actions) {
            Ok(invocation) => invocation,
            Err(refusal) => {
                self.functions.count(name, |stats: &mut CallStats| stats.refused += 1);
                if let InvokeError::NoInstances(failure) = &refusal {
                    log::error!("function {name} cannot be called: {}", failure.reason);
                }
                return Err(Problem::from(&refusal));
            }
        };
        self.calls.accept(invocation, client, request_id, function, CallRequest { head, body }, now_ns);
        self.functions.count(name, |stats: &mut CallStats| stats.invocations += 1);
        if let Some(client) = self.clients.get(client) {
            client.waiting = Waiting::Call(invocation);
        }
        Ok(())
    }

    /// The one outcome of a call that its instance answered.
    pub(crate) fn complete(
        &mut self,
        slot: Slot,
        invocation: InvocationId,
        service_ns: u64,
        result: Result<CallReply, InvokeError>,
    ) {
        let reply = match result {
            Ok(reply) => reply,
            Err(error) => return self.fail(invocation, &error, Some(service_ns)),
        };
        let Some(call) = self.calls.finish(invocation) else { return };
        let elapsed_ns = self.now_ns().saturating_sub(call.accepted_ns);
        let failed = reply.status >= 500;
        self.functions.count(&call.function.name, |stats: &mut CallStats| {
            stats.record_latency(elapsed_ns, call.cold);
            if failed {
                stats.failed += 1;
            } else {
                stats.succeeded += 1;
            }
        });
        if self.clients.get(call.client).is_none() {
            return;
        }
        let mut response = Response::from_reply(reply);
        stamp(&mut response, slot, call.cold, Some(service_ns));
        self.respond(call.client.key(), response);
        self.drive(call.client.key());
    }
}

/// Says which instance answered, whether it was started for this call, and how long it took.
pub(crate) fn stamp(response: &mut Response, slot: Slot, cold: bool, service_ns: Option<u64>) {
    use std::fmt::Write;
    let mut text = String::with_capacity(32);
    let _ = write!(text, "{slot}");
    if let Ok(value) = HeaderValue::new(&text) {
        response.add(INSTANCE, value);
    }
    response.add(COLD_START, HeaderValue::from_static(if cold { "true" } else { "false" }));
    if let Some(ns) = service_ns {
        text.clear();
        let us = ns / 1000;
        let _ = write!(text, "{}.{:03}", us / 1000, us % 1000);
        if let Ok(value) = HeaderValue::new(&text) {
            response.add(DURATION_MS, value);
        }
    }
}
