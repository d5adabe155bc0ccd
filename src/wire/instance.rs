//! Everything said on an instance's channel besides requests and answers: what a blank becomes, what it reports, what
//! the function prints, how it fails.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::WireError;
use super::frame::{push_frame, Frame, Kind, FRAME_HEADER_BYTES};
use crate::call::InvokeError;
use crate::limits::{ERROR_KIND_BYTES_MAX, ERROR_MESSAGE_BYTES_MAX, WIRE_BODY_PIECE_BYTES_MAX, WIRE_MESSAGE_BYTES_MAX};

/// Turns a blank into an instance: the JSON of an `Assign` frame.
#[derive(Debug, Clone, Serialize)]
pub struct AssignHead<'a> {
    /// Name of the function.
    pub function: &'a str,
    /// Its version.
    pub version: u64,
    /// Name under which the code is loaded.
    pub module: &'a str,
    /// Attribute of that module to call.
    pub handler: &'a str,
    /// The function's environment variables.
    pub environment: &'a BTreeMap<String, String>,
    /// The instance id that users see.
    pub instance: &'a str,
    /// Bytes of log that one invocation may write.
    pub log_bytes_max: usize,
    /// Largest body of an answer, in bytes.
    pub response_bytes_max: usize,
}

/// Asks a blank to compile code and look for a handler: the JSON of a `Check` frame.
#[derive(Debug, Clone, Serialize)]
pub struct CheckHead<'a> {
    /// Name under which the code would be loaded.
    pub module: &'a str,
    /// Attribute that must exist.
    pub handler: &'a str,
}

/// The datagrams of one `Assign` or `Check`, in order.
///
/// An environment can make the JSON of an `Assign` longer than a datagram: it then travels as several `Assign` frames,
/// which the instance joins until the first `Body`. The code follows as `Body` frames, the last with `END`; there is
/// always at least one, also when the code is empty.
#[derive(Debug)]
pub struct CodeMessages(std::vec::IntoIter<Vec<u8>>);

impl CodeMessages {
    /// The datagrams that assign a function.
    ///
    /// # Errors
    /// [`WireError::BadJson`] when the head cannot be serialised, which no value of this type brings about.
    pub fn assign(head: &AssignHead<'_>, code: &str) -> Result<Self, WireError> {
        let json = serde_json::to_vec(head).map_err(|source| WireError::BadJson { kind: Kind::Assign, source })?;
        Ok(Self::new(Kind::Assign, &json, code))
    }

    /// The datagrams that have code checked.
    ///
    /// # Errors
    /// [`WireError::BadJson`] when the head cannot be serialised, which no value of this type brings about.
    pub fn check(head: &CheckHead<'_>, code: &str) -> Result<Self, WireError> {
        let json = serde_json::to_vec(head).map_err(|source| WireError::BadJson { kind: Kind::Check, source })?;
        Ok(Self::new(Kind::Check, &json, code))
    }

    fn new(kind: Kind, json: &[u8], code: &str) -> Self {
        let mut messages = Vec::new();
        let mut out = Vec::new();
        for piece in json.chunks(WIRE_BODY_PIECE_BYTES_MAX) {
            if !out.is_empty() {
                messages.push(std::mem::take(&mut out));
            }
            push_frame(&mut out, kind, false, 0, 0, piece);
        }
        // What is left of the last head's datagram takes the first piece of the code; small functions need only one.
        let room = WIRE_MESSAGE_BYTES_MAX.saturating_sub(out.len() + FRAME_HEADER_BYTES).min(WIRE_BODY_PIECE_BYTES_MAX);
        let (first, rest) = code.as_bytes().split_at_checked(room).unwrap_or((code.as_bytes(), &[]));
        push_frame(&mut out, Kind::Body, rest.is_empty(), 0, 0, first);
        messages.push(out);
        let mut pieces = rest.chunks(WIRE_BODY_PIECE_BYTES_MAX).peekable();
        while let Some(piece) = pieces.next() {
            let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + piece.len());
            push_frame(&mut out, Kind::Body, pieces.peek().is_none(), 0, 0, piece);
            messages.push(out);
        }
        Self(messages.into_iter())
    }
}

impl Iterator for CodeMessages {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        self.0.next()
    }
}

/// The datagram that asks an instance to end by itself.
pub fn encode_stop() -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_HEADER_BYTES);
    push_frame(&mut out, Kind::Stop, false, 0, 0, &[]);
    out
}

/// Decodes a `Hello`: the version of the interpreter.
///
/// # Errors
/// [`WireError::UnexpectedFrame`] for another kind, [`WireError::BadJson`] for another payload.
pub fn decode_hello(frame: &Frame<'_>) -> Result<String, WireError> {
    #[derive(Deserialize)]
    struct Hello {
        python: String,
    }
    Ok(decode_json::<Hello>(frame, Kind::Hello)?.python)
}

/// What a `Check` found.
pub type CheckResult = Result<(), CheckProblem>;

/// Why code cannot become a function.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", tag = "reason")]
pub enum CheckProblem {
    /// The code does not compile.
    Syntax {
        /// Line, counted from 1.
        line: Option<u32>,
        /// Column, counted from 1.
        column: Option<u32>,
        /// What the compiler says.
        message: String,
    },
    /// The code never binds the handler's name.
    Handler {
        /// What was looked for and what is there.
        message: String,
    },
    /// The code is beyond what the compiler can take: nested too deep, too large for the memory.
    Limit {
        /// What was exhausted.
        message: String,
    },
}

/// Decodes a `CheckResult`.
///
/// # Errors
/// [`WireError::UnexpectedFrame`] for another kind, [`WireError::BadJson`] for another payload.
pub fn decode_check_result(frame: &Frame<'_>) -> Result<CheckResult, WireError> {
    #[derive(Deserialize)]
    struct Verdict {
        ok: bool,
    }
    if decode_json::<Verdict>(frame, Kind::CheckResult)?.ok {
        return Ok(Ok(()));
    }
    let mut problem = decode_json::<CheckProblem>(frame, Kind::CheckResult)?;
    match &mut problem {
        CheckProblem::Syntax { message, .. } | CheckProblem::Handler { message } | CheckProblem::Limit { message } => {
            cut(message, ERROR_MESSAGE_BYTES_MAX);
        }
    }
    Ok(Err(problem))
}

/// Where something printed came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// `sys.stdout`.
    Stdout,
    /// `sys.stderr`, which `logging` uses.
    Stderr,
    /// The traceback of an exception that left the handler.
    Traceback,
}

/// Something the function printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry<'a> {
    /// Where it came from.
    pub stream: LogStream,
    /// The text without its last line end; what was not UTF-8 is replaced.
    pub text: Cow<'a, str>,
}

/// Decodes a `Log`. Its invocation is the frame's id, 0 when it was written outside a call.
///
/// # Errors
/// [`WireError::UnexpectedFrame`] for another kind, [`WireError::BadCode`] for an undefined stream.
pub fn decode_log<'a>(frame: &Frame<'a>) -> Result<LogEntry<'a>, WireError> {
    if frame.kind != Kind::Log {
        return Err(WireError::UnexpectedFrame { kind: frame.kind });
    }
    let (code, text) = frame.payload.split_first().ok_or(WireError::BadPayloadLength { kind: Kind::Log, len: 0 })?;
    let stream = match code {
        0 => LogStream::Stdout,
        1 => LogStream::Stderr,
        2 => LogStream::Traceback,
        _ => return Err(WireError::BadCode { kind: Kind::Log, code: *code }),
    };
    Ok(LogEntry { stream, text: String::from_utf8_lossy(text) })
}

/// At what an instance failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorPhase {
    /// The inner plan of its sandbox, before `Hello`. The message names the step.
    Sandbox,
    /// The function's top-level code, or a handler that is missing or not callable.
    Load,
    /// The handler raised.
    Call,
    /// The handler's answer has no defined form, or is too large.
    Answer,
}

/// The payload of an `Error` frame, cut to its bounds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ErrorReport {
    /// At what the instance failed.
    pub phase: ErrorPhase,
    /// Name of the exception's class; `too_large` or `bad_answer` in phase `answer`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The message, in the function's words.
    pub message: String,
}

impl ErrorReport {
    /// The outcome that callers see. `response_bytes_max` is the limit that the instance was given.
    pub fn into_invoke_error(self, response_bytes_max: usize) -> InvokeError {
        match self.phase {
            ErrorPhase::Call => InvokeError::Raised { kind: self.kind, message: self.message },
            ErrorPhase::Load => InvokeError::LoadFailed { kind: self.kind, message: self.message },
            ErrorPhase::Answer if self.kind == "too_large" => {
                InvokeError::AnswerTooLarge { limit_bytes: response_bytes_max as u64 }
            }
            ErrorPhase::Answer => InvokeError::BadAnswer { message: self.message },
            ErrorPhase::Sandbox => InvokeError::NoInstances(self.message.into()),
        }
    }
}

/// Decodes an `Error`.
///
/// # Errors
/// [`WireError::UnexpectedFrame`] for another kind, [`WireError::BadJson`] for another payload.
pub fn decode_error(frame: &Frame<'_>) -> Result<ErrorReport, WireError> {
    let mut report: ErrorReport = decode_json(frame, Kind::Error)?;
    cut(&mut report.kind, ERROR_KIND_BYTES_MAX);
    cut(&mut report.message, ERROR_MESSAGE_BYTES_MAX);
    Ok(report)
}

pub(super) fn decode_json<'a, T: Deserialize<'a>>(frame: &Frame<'a>, kind: Kind) -> Result<T, WireError> {
    if frame.kind != kind {
        return Err(WireError::UnexpectedFrame { kind: frame.kind });
    }
    serde_json::from_slice(frame.payload).map_err(|source| WireError::BadJson { kind, source })
}

/// Shortens `text` to at most `max` bytes without splitting a character.
fn cut(text: &mut String, max: usize) {
    if text.len() > max {
        let end = (0..=max).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
    }
}
