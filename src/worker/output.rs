//! Raw output: what a function, or a process it started, wrote to descriptors 1 and 2 itself.

use nix::errno::Errno;

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
            match nix::unistd::read(&tenant.instance.output, &mut self.output_buffer) {
                Ok(0) => return,
                Ok(length) => {
                    for (stream, text) in tenant.raw.push(&self.output_buffer[..length]) {
                        self.log(key, stream, text);
                    }
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

    /// Logs the line that was begun: whatever is read next belongs to something else.
    pub(super) fn finish_output_line(&mut self, key: usize) {
        if let Some(line) = self.tenants[key].raw.finish_line() {
            self.log(key, LogStream::Output, line);
        }
    }

    /// Adds a line to the log of the tenant's function, under the id of the call that runs.
    pub(super) fn log(&mut self, key: usize, stream: LogStream, message: String) {
        self.count_and_append(key, true, stream, message);
    }

    /// Adds a line that belongs to no call: written while the function was loaded, or by a thread that a call left.
    pub(super) fn log_outside(&mut self, key: usize, stream: LogStream, message: String) {
        self.count_and_append(key, false, stream, message);
    }

    /// Drops what is beyond the number of entries that a call may make, and says so once.
    fn count_and_append(&mut self, key: usize, of_call: bool, stream: LogStream, message: String) {
        let Some(left) = self.tenants[key].log_entries_left.checked_sub(1) else { return };
        self.tenants[key].log_entries_left = left;
        let (stream, message) = match left {
            0 => {
                let limit = crate::limits::LOG_INVOCATION_ENTRIES_MAX;
                (LogStream::System, format!("[log cut at {limit} entries for this call]"))
            }
            _ => (stream, message),
        };
        let request_id = if of_call { running_request_id(&self.tenants[key]) } else { String::new() };
        self.append_log(key, request_id, stream, message);
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

/// The request id of the call that runs, empty when none does. The call that an instance is loaded for counts as running:
/// it begins as soon as the load ends, and the bytes in the pipe do not tell the one from the other.
fn running_request_id(tenant: &Tenant) -> String {
    let Some(call) = tenant.pipe.front() else { return String::new() };
    wire::decode_request_head(&call.request.head)
        .map(|head| String::from_utf8_lossy(head.request_id).into_owned())
        .unwrap_or_default()
}
