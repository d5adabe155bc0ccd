//! What the connections of a server share: the date, and the source of request ids.
//!
//! It is passed to those calls that may write a response, so that no connection keeps a clock or a generator.

use std::time::SystemTime;

use super::date::HttpDate;
use super::request_id::RequestIds;

/// What every answer is stamped with.
#[derive(Debug)]
pub struct Stamp {
    /// The date of every answer. The event loop refreshes it whenever it wakes.
    pub date: HttpDate,
    /// Makes the ids of requests that bring none.
    pub ids: RequestIds,
}

impl Stamp {
    /// A stamp with the date of `time`.
    pub fn new(time: SystemTime, ids: RequestIds) -> Stamp {
        Stamp { date: HttpDate::new(time), ids }
    }
}
