//! Errors as clients see them: RFC 9457 problem bodies with a stable `code`.
//!
//! This is the one place that turns a failure into a status. Codes are a promise: they may be added to, never renamed.
//! A detail names the limit or the thing at fault; it never shows paths, addresses or anything of the server's inside.

use std::borrow::Cow;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{json, Value};

use super::body::BodyError;
use super::parse::HeadError;
use super::request_id::RequestId;
use super::response::{HeaderName, HeaderValue, Response};
use crate::call::{ExitReason, InvokeError, Shortage, TimeoutSource};

const CONTENT_TYPE: HeaderName<'static> = HeaderName::from_static("content-type");
const PROBLEM_JSON: HeaderValue<'static> = HeaderValue::from_static("application/problem+json");
const RETRY_AFTER: HeaderName<'static> = HeaderName::from_static("retry-after");
const ALLOW: HeaderName<'static> = HeaderName::from_static("allow");
const WWW_AUTHENTICATE: HeaderName<'static> = HeaderName::from_static("www-authenticate");
const BEARER: HeaderValue<'static> = HeaderValue::from_static("Bearer realm=\"faas\"");

/// One failure, ready to be told to a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    status: u16,
    code: &'static str,
    title: &'static str,
    detail: Cow<'static, str>,
    /// Members beside the standard ones, such as `line`.
    extra: Vec<(&'static str, Value)>,
    retry_after_s: Option<u64>,
    allow: Option<&'static str>,
}

/// The problems that the API itself meets.
impl Problem {
    /// 401: no key, or none that is known.
    pub fn unauthorized(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(401, "unauthorized", "Authentication required", detail)
    }

    /// 403: the key is known, and its scopes do not suffice.
    pub fn forbidden(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(403, "forbidden", "Not allowed with this key", detail)
    }

    /// 404.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(404, "not_found", "Not found", detail)
    }

    /// 405; `allow` lists the methods that the resource has, as in `GET, POST`.
    pub fn method_not_allowed(allow: &'static str) -> Problem {
        let detail = format!("the methods of this resource are {allow}");
        Problem { allow: Some(allow), ..Problem::new(405, "method_not_allowed", "Method not allowed", detail) }
    }

    /// 404 for a function that does not exist.
    pub fn no_function(name: &str) -> Problem {
        Problem::not_found(format!("there is no function {name}"))
    }

    /// 409: it exists already, or is not in the state that the request needs.
    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(409, "conflict", "Conflict", detail)
    }

    /// 400: the request is well-formed HTTP, and what it says is wrong. `code` says which rule it breaks.
    pub fn invalid(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(400, code, "Invalid request", detail)
    }

    /// 408: the client was too slow.
    pub fn timeout(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(408, "request_timeout", "Request timeout", detail)
    }

    /// 413.
    pub fn payload_too_large(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(413, "payload_too_large", "Request body too large", detail)
    }

    /// 414.
    pub fn uri_too_long(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(414, "uri_too_long", "Request target too long", detail)
    }

    /// 429: this client asks too often.
    pub fn rate_limited(retry_after_s: u64, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(429, "rate_limited", "Too many requests", detail).retry_after(retry_after_s)
    }

    /// 431.
    pub fn headers_too_large(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(431, "headers_too_large", "Request header fields too large", detail)
    }

    /// 500: a fault of this server. The detail is for the client: say nothing of the inside.
    pub fn internal(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(500, "internal", "Internal error", detail)
    }

    /// 503: not now.
    pub fn unavailable(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(503, code, "Service unavailable", detail).retry_after(1)
    }

    /// 400: not HTTP as RFC 9112 has it.
    pub(super) fn malformed(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(400, "bad_request", "Malformed request", detail)
    }

    fn new(status: u16, code: &'static str, title: &'static str, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem { status, code, title, detail: detail.into(), extra: Vec::new(), retry_after_s: None, allow: None }
    }

    /// Adds a member to the body. The standard members' names are taken.
    pub fn with(mut self, member: &'static str, value: impl Into<Value>) -> Problem {
        debug_assert!(!["type", "title", "status", "detail", "code", "request_id"].contains(&member), "{member}");
        self.extra.push((member, value.into()));
        self
    }

    /// Tells the client to come back after so many seconds.
    pub fn retry_after(self, seconds: u64) -> Problem {
        Problem { retry_after_s: Some(seconds), ..self }
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What is at fault.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// A member beside the standard ones.
    pub fn member(&self, name: &str) -> Option<&Value> {
        self.extra.iter().find(|(member, _)| *member == name).map(|(_, value)| value)
    }

    /// The response that tells it.
    pub fn into_response(self, request_id: &RequestId) -> Response {
        let mut response = Response::new(self.status).with(CONTENT_TYPE, PROBLEM_JSON);
        if let Some(seconds) = self.retry_after_s {
            response.add_number(RETRY_AFTER, seconds);
        }
        if let Some(methods) = self.allow {
            response.add(ALLOW, HeaderValue::from_static(methods));
        }
        if self.status == 401 {
            response.add(WWW_AUTHENTICATE, BEARER);
        }
        // Strings and JSON values always serialise, so the default is never taken.
        let body = serde_json::to_vec(&Body { problem: &self, request_id }).unwrap_or_default();
        response.with_body(body)
    }
}

struct Body<'a> {
    problem: &'a Problem,
    request_id: &'a RequestId,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let problem = self.problem;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &format_args!("urn:faas:problem:{}", problem.code))?;
        map.serialize_entry("title", problem.title)?;
        map.serialize_entry("status", &problem.status)?;
        map.serialize_entry("detail", &problem.detail)?;
        map.serialize_entry("code", problem.code)?;
        map.serialize_entry("request_id", self.request_id.as_str())?;
        for (member, value) in &problem.extra {
            map.serialize_entry(member, value)?;
        }
        map.end()
    }
}

/// The table of everything that can become of an accepted call but the function's own answer.
impl From<&InvokeError> for Problem {
    fn from(error: &InvokeError) -> Problem {
        match error {
            InvokeError::Raised { kind, message } => {
                Problem::new(500, "function_error", "The function raised an exception", format!("{kind}: {message}"))
                    .with("error", json!({"type": kind, "message": message}))
            }
            InvokeError::LoadFailed { kind, message } => Problem::new(
                500,
                "function_load_error",
                "The function could not be loaded",
                format!("{kind}: {message}"),
            )
            .with("error", json!({"type": kind, "message": message})),
            InvokeError::BadAnswer { message } => {
                Problem::new(502, "invalid_response", "The function's answer has no defined form", message.clone())
            }
            InvokeError::AnswerTooLarge { limit_bytes } => Problem::new(
                502,
                "response_too_large",
                "The function's answer is too large",
                format!("the answer exceeds limits.max_response_body, {limit_bytes} bytes"),
            ),
            InvokeError::Crashed { exit } => crashed(exit),
            InvokeError::TimedOut { limit_ms, set_by } => Problem::new(
                504,
                "function_timeout",
                "The function took too long",
                format!("{} of {limit_ms} ms passed while the function ran", timeout_name(*set_by)),
            ),
            InvokeError::QueueTimedOut { limit_ms, set_by } => Problem::new(
                503,
                "queue_timeout",
                "The function was busy for too long",
                format!("{} of {limit_ms} ms passed before an instance was free", timeout_name(*set_by)),
            )
            .retry_after(1),
            InvokeError::ColdStartTimedOut { limit_ms } => Problem::new(
                503,
                "cold_start_timeout",
                "No instance started in time",
                format!("no instance was ready within system.cold_start_timeout, {limit_ms} ms"),
            )
            .retry_after(1),
            InvokeError::WaitedTooLong { limit_ms, shortage, retry_after_s } => {
                waited_too_long(*limit_ms, *shortage).retry_after(*retry_after_s)
            }
            InvokeError::QueueFull { limit, retry_after_s } => Problem::new(
                429,
                "queue_full",
                "The function's queue is full",
                format!("{limit} calls of this function wait already, which is limits.max_queue_per_function"),
            )
            .retry_after(*retry_after_s),
            InvokeError::Overloaded { limit, retry_after_s } => {
                let detail = format!("the server holds {limit} calls already, which is limits.max_invocations");
                Problem::unavailable("overloaded", detail).retry_after(*retry_after_s)
            }
            InvokeError::ShareExceeded { held, limit, retry_after_s } => Problem::new(
                429,
                "share_exceeded",
                "The function has its share of the server",
                format!(
                    "{held} calls of this function are among the {limit} of limits.max_invocations; the rest is kept for \
                     other functions"
                ),
            )
            .retry_after(*retry_after_s),
            // The reason is the backend's own and stays in the server's log; the name of a step is nobody's secret.
            InvokeError::NoInstances(failure) => {
                let refused =
                    failure.refused_step.map(|step| format!(": this host refuses a step of the sandbox, {step}"));
                let detail = format!("no instance can be started at present{}", refused.unwrap_or_default());
                Problem::unavailable("no_instances", detail)
            }
            InvokeError::Deleted => Problem::new(
                404,
                "function_deleted",
                "The function was deleted",
                "the function was deleted while the call waited",
            ),
            InvokeError::InstanceStopped { limit_ms } => Problem::unavailable(
                "instance_stopped",
                format!("the instance was asked to stop, and system.drain_timeout, {limit_ms} ms, passed while the call ran"),
            ),
            InvokeError::ShuttingDown => Problem::unavailable("shutting_down", "the server is stopping"),
            InvokeError::CutShort { limit_ms } => Problem::unavailable(
                "shutting_down",
                format!("the server is stopping, and system.shutdown_grace, {limit_ms} ms, passed before the call ended"),
            ),
        }
    }
}

/// The function's own limit is the caller's to wait for, 429; everything else is the server's, 503.
fn waited_too_long(limit_ms: u64, shortage: Shortage) -> Problem {
    let (status, cause) = match shortage {
        Shortage::OfFunction { max_instances } => {
            (429, format!("the {max_instances} that the function's max_instances allows were busy"))
        }
        Shortage::OfServer { max_instances, kept } => {
            let kept = match kept {
                0 => String::new(),
                kept => format!(", {kept} of them kept for the min_instances of functions"),
            };
            (503, format!("the {max_instances} of system.max_concurrent_functions were taken{kept}"))
        }
        Shortage::OfStarts => (503, "none was free or could be started in that time".to_owned()),
    };
    let detail = format!("the call waited for an instance for limits.max_queue_wait, {limit_ms} ms: {cause}");
    Problem::new(status, "queue_wait_exceeded", "The call waited too long for an instance", detail)
}

/// What can be changed about a timeout, by the name that it has where it can be changed.
fn timeout_name(set_by: TimeoutSource) -> &'static str {
    match set_by {
        TimeoutSource::Function => "the function's timeout",
        TimeoutSource::Caller => "the X-Faas-Timeout",
    }
}

fn crashed(exit: &ExitReason) -> Problem {
    let detail = match exit {
        ExitReason::OutOfMemory { limit_bytes } => {
            return Problem::new(
                502,
                "function_out_of_memory",
                "The function ran out of memory",
                format!("the function exceeded its memory, {limit_bytes} bytes"),
            );
        }
        ExitReason::ProtocolViolation => {
            return Problem::new(
                502,
                "protocol_violation",
                "The function's process broke the protocol",
                "the function's process sent what is not an answer and was ended",
            );
        }
        ExitReason::Status(status) => format!("the function's process exited with status {status}"),
        ExitReason::Signal(signal) => format!("the function's process was ended by signal {signal}"),
        ExitReason::Unknown => "the function's process ended".to_string(),
    };
    Problem::new(502, "function_crashed", "The function's process ended during the call", detail)
}

impl From<HeadError> for Problem {
    fn from(error: HeadError) -> Problem {
        let detail = error.to_string();
        match error {
            HeadError::TargetTooLong => Problem::uri_too_long(detail),
            HeadError::TooLarge | HeadError::TooManyFields => Problem::headers_too_large(detail),
            HeadError::ExpectationUnknown => {
                Problem::new(417, "expectation_failed", "Expectation not supported", detail)
            }
            HeadError::MethodConnect => Problem::new(501, "not_implemented", "Method not implemented", detail),
            HeadError::VersionUnsupported => {
                Problem::new(505, "version_not_supported", "HTTP version not supported", detail)
            }
            _ => Problem::malformed(detail),
        }
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Problem {
        match error {
            BodyError::TooLarge(_) => Problem::payload_too_large(error.to_string()),
            BodyError::TrailersTooLarge => Problem::headers_too_large(error.to_string()),
            _ => Problem::malformed(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::BlankFailure;
    use crate::call::TimeoutSource::{Caller, Function};
    use crate::http::request_id::RequestIds;

    #[test]
    fn the_table_of_invocation_failures() {
        let words = || ("KeyError".to_string(), "'a'".to_string());
        let (kind, message) = words();
        let crash = |exit| InvokeError::Crashed { exit };
        let of_server = |kept| Shortage::OfServer { max_instances: 8, kept };
        let waited = |shortage| InvokeError::WaitedTooLong { limit_ms: 66, shortage, retry_after_s: 3 };
        let queue_full = InvokeError::QueueFull { limit: 1024, retry_after_s: 3 };
        let share_exceeded = InvokeError::ShareExceeded { held: 12, limit: 16, retry_after_s: 3 };
        let overloaded = InvokeError::Overloaded { limit: 16, retry_after_s: 3 };
        let timed_out = |set_by| InvokeError::TimedOut { limit_ms: 30_000, set_by };
        let queue_timed_out = |set_by| InvokeError::QueueTimedOut { limit_ms: 9, set_by };
        for (error, status, code, detail, retry) in [
            (InvokeError::Raised { kind, message }, 500, "function_error", "KeyError: 'a'", false),
            (InvokeError::LoadFailed { kind: words().0, message: words().1 }, 500, "function_load_error", "Key", false),
            (InvokeError::BadAnswer { message: "a set".into() }, 502, "invalid_response", "a set", false),
            (
                InvokeError::AnswerTooLarge { limit_bytes: 77 },
                502,
                "response_too_large",
                "max_response_body, 77 bytes",
                false,
            ),
            (crash(ExitReason::Status(3)), 502, "function_crashed", "status 3", false),
            (crash(ExitReason::Signal(9)), 502, "function_crashed", "signal 9", false),
            (crash(ExitReason::Unknown), 502, "function_crashed", "ended", false),
            (
                crash(ExitReason::OutOfMemory { limit_bytes: 5 }),
                502,
                "function_out_of_memory",
                "its memory, 5 bytes",
                false,
            ),
            (crash(ExitReason::ProtocolViolation), 502, "protocol_violation", "", false),
            (timed_out(Function), 504, "function_timeout", "the function's timeout of 30000 ms passed while", false),
            (timed_out(Caller), 504, "function_timeout", "the X-Faas-Timeout of 30000 ms passed while", false),
            (queue_timed_out(Function), 503, "queue_timeout", "function's timeout of 9 ms passed before", true),
            (queue_timed_out(Caller), 503, "queue_timeout", "X-Faas-Timeout of 9 ms passed before", true),
            (InvokeError::ColdStartTimedOut { limit_ms: 8 }, 503, "cold_start_timeout", "8 ms", true),
            (waited(Shortage::OfFunction { max_instances: 7 }), 429, "queue_wait_exceeded", "the 7 that", true),
            (waited(Shortage::OfFunction { max_instances: 7 }), 429, "queue_wait_exceeded", "max_instances", true),
            (
                waited(of_server(0)),
                503,
                "queue_wait_exceeded",
                "the 8 of system.max_concurrent_functions were taken",
                true,
            ),
            (waited(of_server(5)), 503, "queue_wait_exceeded", "taken, 5 of them kept for the min_instances of", true),
            (waited(Shortage::OfStarts), 503, "queue_wait_exceeded", "max_queue_wait, 66 ms", true),
            (queue_full, 429, "queue_full", "1024 calls of this function wait already, which is limits.max_", true),
            (share_exceeded, 429, "share_exceeded", "12 calls of this function are among the 16", true),
            (overloaded, 503, "overloaded", "16 calls already, which is limits.max_invocations", true),
            (InvokeError::Deleted, 404, "function_deleted", "deleted", false),
            (InvokeError::InstanceStopped { limit_ms: 5 }, 503, "instance_stopped", "drain_timeout, 5 ms", true),
            (InvokeError::ShuttingDown, 503, "shutting_down", "stopping", true),
            (InvokeError::CutShort { limit_ms: 6 }, 503, "shutting_down", "system.shutdown_grace, 6 ms", true),
        ] {
            let problem = Problem::from(&error);
            assert_eq!((problem.status(), problem.code()), (status, code), "{error:?}");
            assert!(problem.detail().contains(detail), "{error:?}: {}", problem.detail());
            assert_eq!(problem.retry_after_s.is_some(), retry, "{error:?}");
        }
    }

    #[test]
    fn what_the_backend_said_is_not_told() {
        let failure = BlankFailure { reason: "/run/secret: EIO".into(), refused_step: Some("mount proc") };
        let problem = Problem::from(&InvokeError::NoInstances(failure));
        assert_eq!((problem.status(), problem.code()), (503, "no_instances"));
        let detail = "no instance can be started at present: this host refuses a step of the sandbox, mount proc";
        assert_eq!(problem.detail(), detail);
    }

    #[test]
    fn a_problem_on_the_wire() {
        let id = RequestIds::from_seed([7; 4]).make();
        let response = Problem::invalid("invalid_code", "line 3: \"x\"").with("line", 3).into_response(&id);
        assert_eq!(response.header("content-type"), Some("application/problem+json"));
        let expected = format!(
            r#"{{"type":"urn:faas:problem:invalid_code","title":"Invalid request","status":400,"detail":"line 3: \"x\"","code":"invalid_code","request_id":"{id}","line":3}}"#
        );
        assert_eq!(std::str::from_utf8(response.body()).unwrap(), expected);
    }

    #[test]
    fn an_exception_is_told_in_parts_too() {
        let id = RequestIds::from_seed([7; 4]).make();
        let raised = InvokeError::Raised { kind: "E".into(), message: "m".into() };
        let response = Problem::from(&raised).into_response(&id);
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["error"], json!({"type": "E", "message": "m"}));
    }

    #[test]
    fn some_statuses_oblige_to_a_field() {
        let id = RequestIds::from_seed([7; 4]).make();
        let allow = Problem::method_not_allowed("GET, POST").into_response(&id);
        assert_eq!(allow.header("allow"), Some("GET, POST"));
        let challenge = Problem::unauthorized("no key").into_response(&id);
        assert_eq!(challenge.header("www-authenticate"), Some("Bearer realm=\"faas\""));
        let later = Problem::rate_limited(3, "slow down").into_response(&id);
        assert_eq!(later.header("retry-after"), Some("3"));
    }
}
