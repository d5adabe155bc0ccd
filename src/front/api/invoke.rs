//! `/invoke/NAME`: from a request to a call, and from an outcome to a response.

use std::sync::Arc;

use crate::call::{CallReply, CallRequest, InvocationId, InvokeError, Slot};
use crate::http::{HeaderName, HeaderValue, Problem, Request, Response};
use crate::limits::CALLER_TIMEOUT_MS;
use crate::metrics::CallStats;
use crate::scheduler::CallTerms;
use crate::values::{cut, units};
use crate::wire::{self, RequestParts};

use super::super::clients::{ClientId, Waiting};
use super::super::Front;

const INSTANCE: HeaderName<'static> = HeaderName::from_static("x-faas-instance");
const COLD_START: HeaderName<'static> = HeaderName::from_static("x-faas-cold-start");
const DURATION_MS: HeaderName<'static> = HeaderName::from_static("x-faas-duration-ms");

/// The header with which a caller says how long it waits, in lower case.
const TIMEOUT: &str = "x-faas-timeout";

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
            let missing = self.what_is_missing(&live.function);
            Problem::unavailable(missing.code(), missing.to_string())
        })?;
        let Request { head, body } = request;
        let timeout_ns = callers_timeout_ns(head.headers_named(TIMEOUT))?;
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
        let terms = CallTerms { exclusive: !wire::fits_one_message(body.len()), timeout_ns };
        let function = Arc::clone(&live.function);
        let now_ns = self.now_ns();
        let invocation = match self.scheduler.submit(version, terms, now_ns, &mut self.actions) {
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

/// What the caller says of its patience, spelled as settings spell a time. Beyond the function's own timeout it says
/// nothing.
fn callers_timeout_ns<'a>(mut fields: impl Iterator<Item = &'a [u8]>) -> Result<Option<u64>, Problem> {
    let Some(value) = fields.next() else { return Ok(None) };
    let ms = std::str::from_utf8(value).ok().and_then(units::parse_duration_ms);
    let shown = |value: &[u8]| format!("{:?}", cut(&String::from_utf8_lossy(value)));
    let given = match (ms.filter(|ms| CALLER_TIMEOUT_MS.contains(ms)), fields.next()) {
        (Some(ms), None) => return Ok(Some(ms.saturating_mul(1_000_000))),
        (_, None) => shown(value),
        (_, Some(second)) => format!("{} and {}, and only one is allowed", shown(value), shown(second)),
    };
    let (least, most) = (CALLER_TIMEOUT_MS.start(), CALLER_TIMEOUT_MS.end());
    let (least, most) = (units::format_duration(*least), units::format_duration(*most));
    let allowed = format!("{least} to {most}, as a number of seconds or with a unit (500ms, 30s, 5m, 1h)");
    Err(Problem::invalid("invalid_header", format!("X-Faas-Timeout: got {given}; expected {allowed}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_timeout_is_one_time_as_settings_spell_it() {
        let read = |fields: &[&'static str]| callers_timeout_ns(fields.iter().map(|field| field.as_bytes()));
        assert_eq!(read(&[]), Ok(None));
        for (text, ms) in [("1.5", 1500), ("250ms", 250), ("2m", 120_000), ("1000000h", 3_600_000_000_000)] {
            assert_eq!(read(&[text]), Ok(Some(ms * 1_000_000)), "{text}");
        }
        for wrong in [
            &[""][..],
            &["0"],
            &["0.1ms"],
            &["-1"],
            &["1 s"],
            &["soon"],
            &["1, 2"],
            &["1", "2"],
            &["9e9"],
            &["1000001h"],
        ] {
            let problem = read(wrong).unwrap_err();
            assert_eq!((problem.status(), problem.code()), (400, "invalid_header"), "{wrong:?}");
            assert!(problem.detail().starts_with(&format!("X-Faas-Timeout: got {:?}", wrong[0])), "{problem:?}");
            assert!(problem.detail().contains("expected 1ms to 1000000h, as a number of seconds"), "{problem:?}");
            let says_one = problem.detail().contains("\"1\" and \"2\", and only one is allowed");
            assert_eq!(says_one, wrong.len() == 2, "{problem:?}");
        }
        let long = Box::leak("x".repeat(10_000).into_boxed_str());
        assert!(read(&[long]).unwrap_err().detail().len() < 300, "what is shown is cut");
        assert!(callers_timeout_ns([b"\xff".as_slice()].into_iter()).is_err());
    }
}
