//! Raw output: what a function, or a process it started, wrote to descriptors 1 and 2 itself.

use nix::errno::Errno;

use crate::limits::LOG_ENTRY_BYTES_MAX;
use crate::logs::{LogEntry, LogStream};
use crate::wire;

use super::tenant::Tenant;
use super::Worker;

/// Reads of one pipe before the worker turns to the others; the pipe's own size bounds what a writer can have ahead.
const READS_PER_TURN: usize = 16;

impl Worker {
    /// Drains the pipe into the log of the running call. Always drains, also beyond what is logged: a function must
    /// never block because it wrote too much.
    pub(super) fn read_output(&mut self, key: usize) {
        for _ in 0..READS_PER_TURN {
            let tenant = &mut self.tenants[key];
            match nix::unistd::read(&tenant.instance.output, &mut self.buffer) {
                Ok(0) => return,
                Ok(length) => {
                    (tenant.raw_seen, tenant.raw_writer) = (true, true);
                    self.log_raw(key, length);
                }
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                Err(error) => {
                    log::debug!("{}: cannot read its output: {error}", tenant.instance.slot);
                    return;
                }
            }
        }
        // The poll is edge-triggered and there may be more: it is read at the next turn.
        self.read_again(key);
    }

    fn log_raw(&mut self, key: usize, length: usize) {
        let tenant = &mut self.tenants[key];
        let kept = length.min(tenant.raw_budget);
        let cut = kept < length && tenant.raw_budget > 0;
        tenant.raw_budget -= kept;
        let text = String::from_utf8_lossy(&self.buffer[..kept]).into_owned();
        for line in text.split_terminator('\n') {
            let mut rest = line;
            loop {
                let piece = &rest[..boundary(rest, LOG_ENTRY_BYTES_MAX)];
                rest = &rest[piece.len()..];
                self.log(key, LogStream::Output, piece.to_owned());
                if rest.is_empty() {
                    break;
                }
            }
        }
        if cut {
            let limit = crate::limits::LOG_INVOCATION_BYTES_MAX;
            self.log(key, LogStream::System, format!("[raw output cut at {limit} bytes for this call]"));
        }
    }

    /// Adds a line to the log of the tenant's function, under the id of the call that runs.
    pub(super) fn log(&self, key: usize, stream: LogStream, message: String) {
        self.append_log(key, running_request_id(&self.tenants[key]), stream, message);
    }

    /// Adds a line that belongs to no call: written while the function was loaded, or by a thread that a call left.
    pub(super) fn log_outside(&self, key: usize, stream: LogStream, message: String) {
        self.append_log(key, String::new(), stream, message);
    }

    fn append_log(&self, key: usize, request_id: String, stream: LogStream, message: String) {
        let tenant = &self.tenants[key];
        let Some(function) = &tenant.function else {
            log::debug!("{}: a blank wrote: {message}", tenant.instance.slot);
            return;
        };
        self.logs.append(
            function.name.as_str(),
            LogEntry {
                time_ms: crate::clock::unix_ms(),
                request_id,
                instance: tenant.instance.slot.to_string(),
                version: function.version,
                stream,
                message,
            },
        );
    }
}

/// The request id of the call that runs, empty while the function loads or nothing runs.
fn running_request_id(tenant: &Tenant) -> String {
    let Some(call) = tenant.pipe.front() else { return String::new() };
    wire::decode_request_head(&call.request.head)
        .map(|head| String::from_utf8_lossy(head.request_id).into_owned())
        .unwrap_or_default()
}

/// The largest length up to `max` that does not split a character.
fn boundary(text: &str, max: usize) -> usize {
    if text.len() <= max {
        return text.len();
    }
    // A character has at most four bytes, and 0 is a boundary of every text.
    (0..=max).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}
