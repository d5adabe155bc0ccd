//! The frame codec of the channels to instances and zygotes. `runtime-shim/wire.py` is its twin, and both are held to
//! `tests/wire_vectors/`. ARCHITECTURE.md, "The channel and its frames", has the format.
//!
//! Owns: the layout of datagrams, frames, heads and their payloads, and what counts as a violation of it.
//! Does not own: sockets, clocks, which call an instance runs, or what happens to an instance that breaks the rules.
//!
//! Invariants:
//! - Bytes from an instance never panic and never allocate more than they declare *and* are allowed.
//! - A [`Frame`] exists only if the whole datagram it came in is valid for its direction.
//! - What is encoded here decodes here to the same meaning, in one datagram of at most
//!   [`WIRE_MESSAGE_BYTES_MAX`](crate::limits::WIRE_MESSAGE_BYTES_MAX) each.

mod error;
mod frame;
mod instance;
mod reply;
mod request;
mod zygote;

#[cfg(test)]
mod tests;

pub use error::WireError;
pub use frame::{decode_message, push_frame, Direction, Frame, Frames, Kind, FRAME_HEADER_BYTES};
pub use instance::{
    decode_check_result, decode_error, decode_hello, decode_log, encode_stop, AssignHead, CheckHead, CheckProblem,
    CheckResult, CodeMessages, ErrorPhase, ErrorReport, LogEntry, LogStream,
};
pub use reply::{decode_response_head, ReplyAssembler, ReplyLimits, ResponseHead};
pub use request::{
    decode_request_head, encode_request_head, fits_one_message, RequestHead, RequestMessages, RequestParts,
};
pub use zygote::{
    decode_spawn, decode_spawn_failed, decode_spawned, decode_zygote_ready, encode_spawn, encode_spawn_failed,
    SpawnFailure, SpawnStage, ZygoteInfo,
};
