//! HTTP/1.1 as a client of a container engine speaks it: a request to bytes, bytes to the events of its answer.
//!
//! Owns every rule of RFC 9112 that an engine's answers are held to. Does not own sockets, clocks or retries: bytes are
//! arguments. What it leaves out, because no call of ours needs it: pipelining, content codings, and connections that are
//! upgraded (`101`, "hijacked" in the engine's words), which are refused as garbage.
//!
//! | module | what it knows |
//! |---|---|
//! | [`request`] | what is asked, and its bytes |
//! | [`response`] | the head of an answer, what comes before it, and what follows it |
//! | [`body`] | where a body ends: after so many bytes, after the last chunk, or with the connection |
//!
//! Invariants: the verdict on an answer depends on its bytes and not on how they were cut; nothing is held but an
//! incomplete head, which is bounded.

pub mod body;
pub mod request;
pub mod response;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;

pub use request::{ApiVersion, Method, ReplyKind, Request};
pub use response::{ResponseDecoder, ResponseError, ResponseEvent};
