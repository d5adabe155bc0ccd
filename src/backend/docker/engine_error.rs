//! What can go wrong between the server and a container engine: which call it was, and what came of it.
//!
//! Invariant: no variant is the server's own fault to panic about. An engine that hangs, lies or ends costs container mode
//! its calls and nothing else, so each of these is a value that somebody reports.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::api::system::API_OLDEST;
use super::http::request::ApiVersion;

/// Why a call to the engine has no result. `what` is the call as people know it: `POST /containers/create`.
#[derive(Debug)]
pub enum EngineError {
    /// There is no connection to the engine's socket.
    Unreachable {
        /// Where it should be.
        socket: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The answer was not there in time, or a stream was silent for too long.
    TimedOut {
        /// The call.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// What came is no HTTP/1.1, or its body is not what this call is answered with.
    Garbage {
        /// The call.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The engine closed the connection before the answer was complete.
    Closed {
        /// The call.
        what: String,
    },
    /// The engine understood, and says no.
    Refused {
        /// The call.
        what: String,
        /// The status of its answer.
        status: u16,
        /// The message in its answer.
        message: String,
    },
    /// The answer is longer than this call's answers may be.
    TooLarge {
        /// The call.
        what: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// So many calls wait for the engine that no more are taken.
    Busy {
        /// The limit.
        limit: usize,
    },
    /// The engine speaks only versions of its API that are older than what is needed.
    TooOld {
        /// The newest that it speaks.
        version: ApiVersion,
    },
    /// The engine did, without an error, something else than it was asked to.
    Unexpected {
        /// The call.
        what: String,
        /// The part of the answer that is at fault.
        field: String,
        /// What is in it.
        found: String,
    },
}

impl EngineError {
    /// Whether only the connection failed: what was asked can be asked again, if twice is as good as once.
    pub fn is_a_cut(&self) -> bool {
        matches!(self, EngineError::Unreachable { .. } | EngineError::Closed { .. })
    }

    /// Whether it gives reason to doubt that the engine is well, and not only that it would do this.
    pub fn is_about_engine(&self) -> bool {
        match self {
            EngineError::Unreachable { .. }
            | EngineError::TimedOut { .. }
            | EngineError::Garbage { .. }
            | EngineError::Closed { .. }
            | EngineError::TooOld { .. } => true,
            EngineError::Refused { status, .. } => *status >= 500,
            EngineError::TooLarge { .. } | EngineError::Busy { .. } | EngineError::Unexpected { .. } => false,
        }
    }

    /// For whoever uses the API. The whole, which names the engine's socket, is for the server's log.
    pub fn in_short(&self) -> String {
        let EngineError::Unreachable { source, .. } = self else { return self.to_string() };
        let how = match source.kind() {
            io::ErrorKind::NotFound => "is absent",
            io::ErrorKind::ConnectionRefused => "refuses connections",
            io::ErrorKind::PermissionDenied => "may not be spoken to by this server",
            _ => "cannot be reached",
        };
        format!("the container engine {how}; the server's log says more")
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineError::Unreachable { socket, source } => {
                write!(f, "the container engine at {} cannot be reached: {source}", socket.display())
            }
            EngineError::TimedOut { what, after } => {
                write!(f, "{what}: the container engine did not answer within {after:?}")
            }
            EngineError::Garbage { what, detail } => {
                write!(f, "{what}: the container engine's answer is not valid: {detail}")
            }
            EngineError::Closed { what } => {
                write!(f, "{what}: the container engine closed the connection before its answer was complete")
            }
            EngineError::Refused { what, status, message } => {
                write!(f, "{what}: the container engine answers {status}: {message}")
            }
            EngineError::TooLarge { what, limit } => {
                write!(f, "{what}: the container engine's answer exceeds {limit} bytes")
            }
            EngineError::Busy { limit } => write!(f, "{limit} calls wait for the container engine already"),
            EngineError::TooOld { version } => {
                write!(
                    f,
                    "the container engine's API has version {version}, and {API_OLDEST} is the oldest of use here"
                )
            }
            EngineError::Unexpected { what, field, found } => {
                write!(f, "{what}: the container engine did something else: {field} is {found}")
            }
        }
    }
}

impl std::error::Error for EngineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            EngineError::Unreachable { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_short_it_is_said_how_the_engine_is_and_never_where() {
        for (kind, how) in [
            (io::ErrorKind::NotFound, "is absent;"),
            (io::ErrorKind::ConnectionRefused, "refuses connections;"),
            (io::ErrorKind::PermissionDenied, "may not be spoken to"),
            (io::ErrorKind::WouldBlock, "cannot be reached;"),
        ] {
            let error = EngineError::Unreachable { socket: "/run/engine.sock".into(), source: kind.into() };
            assert!(error.to_string().contains("/run/engine.sock"), "the log has it: {error}");
            let short = error.in_short();
            assert!(short.starts_with(&format!("the container engine {how}")) && !short.contains('/'), "{short}");
        }
        let hangs = EngineError::TimedOut { what: "GET /version".to_owned(), after: Duration::from_secs(5) };
        assert_eq!(hangs.in_short(), "GET /version: the container engine did not answer within 5s");
    }
}
