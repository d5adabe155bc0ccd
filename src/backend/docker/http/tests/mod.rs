//! The codec, tested by sending bytes. `framing` asks what is an answer, `random` what nobody thought of.

mod framing;
mod random;

use super::body::{BodyError, Framing};
use super::fuzzing::{hear, Ending, Heard};
use super::response::{ResponseError, ResponseHead};
use super::Method;
