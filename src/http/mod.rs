//! HTTP/1.1 as a server speaks it: bytes in, requests out, responses in, bytes out.
//!
//! Owns every rule of RFC 9110 and 9112 that the server holds clients to, and the form of every error it answers with.
//! Does not own sockets, threads or clocks: bytes and the time are arguments, so that the tests can send any bytes,
//! cut anywhere, at any moment. Routes, keys and limits per route come in through the `admit` argument of
//! [`Conn::poll`].
//!
//! | module | what it knows |
//! |---|---|
//! | [`parse`] | the bytes of a head, and what each of them must be |
//! | `fields` | the header fields that steer the server: Host, lengths, codings, Connection, Expect |
//! | [`body`] | where a body ends, with or without chunks |
//! | [`target`] | the request target: its forms, its path's segments, its query's parameters |
//! | [`conn`] | one connection: what happens after what, with its `phase` and its `buffer`s |
//! | `timer` | until when each wait lasts |
//! | [`response`], [`problem`] | what is answered, and with which headers |
//! | [`Stamp`], [`date`], [`request_id`] | what every answer is stamped with |

pub mod body;
mod buffer;
pub mod conn;
pub mod date;
mod fields;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod parse;
mod phase;
pub mod problem;
pub mod request_id;
pub mod response;
mod stamp;
pub mod target;
mod timer;

pub use conn::{Conn, Poll, Request};
pub use parse::RequestHead;
pub use problem::Problem;
pub use request_id::RequestId;
pub use response::{HeaderName, HeaderValue, Response};
pub use stamp::Stamp;
pub use timer::HttpLimits;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
