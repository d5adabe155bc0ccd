//! What an instance says: its datagrams, one by one, each checked before anything is believed.

use std::io;
use std::time::Instant;

use crate::call::{CallReply, FrontEvent, InvokeError};
use crate::limits::WORKER_READS_PER_TURN_MAX;
use crate::logs;
use crate::sys;
use crate::wire::{self, Direction, ErrorPhase, Frame, Kind, LogStream, ReplyAssembler, ReplyLimits, WireError};

use super::tenant::Phase;
use super::Worker;

impl Worker {
    /// Reads what the instance has sent, up to a bound; `true` when there may be more.
    pub(super) fn read_channel(&mut self, key: usize) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut more = true;
        for _ in 0..WORKER_READS_PER_TURN_MAX {
            match sys::io::recv(&self.tenants[key].instance.channel, &mut buffer) {
                // End of file: the instance closed its only channel, so it can neither be given a call nor answer one.
                Ok((0, _)) => {
                    self.tenants[key].instance.custody.kill();
                    more = false;
                }
                Ok((length, false)) => {
                    if let Err(error) = self.hear(key, &buffer[..length]) {
                        self.punish(key, &error);
                        more = false;
                    }
                }
                Ok((length, true)) => {
                    self.punish(key, &WireError::MessageTooLong { len: length });
                    more = false;
                }
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        log::debug!("{}: channel: {error}", self.tenants[key].instance.slot);
                    }
                    more = false;
                }
            }
            if !more {
                break;
            }
        }
        self.buffer = buffer;
        if more {
            self.read_again(key);
        }
        more
    }

    /// The instance broke the protocol: it is ended, and the call it had begun fails with it. No other is touched.
    fn punish(&mut self, key: usize, error: &WireError) {
        let tenant = &mut self.tenants[key];
        if !tenant.broke_protocol {
            log::warn!("{}: ended because it broke the frame protocol: {error}", tenant.instance.slot);
        }
        tenant.broke_protocol = true;
        tenant.instance.custody.kill();
    }

    fn hear(&mut self, key: usize, datagram: &[u8]) -> Result<(), WireError> {
        if self.tenants[key].broke_protocol {
            return Ok(());
        }
        for frame in wire::decode_message(datagram, Direction::FromInstance)? {
            match frame.kind {
                Kind::Log => self.log_frame(key, &frame)?,
                Kind::Hello => self.greeted(key, &frame)?,
                Kind::Loaded => self.loaded(key, Ok(()))?,
                Kind::Error if self.tenants[key].reply.is_none() && frame.id == 0 => self.failed_early(key, &frame)?,
                Kind::Response | Kind::Error | Kind::Body => self.answered(key, &frame)?,
                kind => return Err(WireError::UnexpectedFrame { kind }),
            }
        }
        Ok(())
    }

    fn greeted(&mut self, key: usize, frame: &Frame<'_>) -> Result<(), WireError> {
        let tenant = &mut self.tenants[key];
        if tenant.phase != Phase::Hatching {
            return Err(WireError::UnexpectedFrame { kind: Kind::Hello });
        }
        wire::decode_hello(frame)?;
        tenant.phase = Phase::Blank;
        let (slot, pid) = (tenant.instance.slot, tenant.instance.pid);
        self.tell(FrontEvent::BlankReady { slot, pid });
        Ok(())
    }

    /// An error that belongs to no call: the sandbox could not be completed, or the function's top level failed.
    fn failed_early(&mut self, key: usize, frame: &Frame<'_>) -> Result<(), WireError> {
        let report = wire::decode_error(frame)?;
        let tenant = &mut self.tenants[key];
        match (tenant.phase, report.phase) {
            (Phase::Hatching, ErrorPhase::Sandbox) => {
                tenant.last_words = Some(report.message);
                Ok(())
            }
            (Phase::Loading, ErrorPhase::Load) => {
                let error = report.into_invoke_error(tenant.response_bytes_max);
                self.loaded(key, Err(error))
            }
            _ => Err(WireError::UnexpectedFrame { kind: Kind::Error }),
        }
    }

    fn loaded(&mut self, key: usize, result: Result<(), InvokeError>) -> Result<(), WireError> {
        let tenant = &mut self.tenants[key];
        if tenant.phase != Phase::Loading {
            return Err(WireError::UnexpectedFrame { kind: Kind::Loaded });
        }
        let slot = tenant.instance.slot;
        match result {
            Ok(()) => {
                tenant.phase = Phase::Serving;
                tenant.start_clock();
            }
            // Said once: every repetition would be an event that the front has to hear.
            Err(_) => tenant.phase = Phase::Failed,
        }
        self.tell(FrontEvent::Loaded { slot, result });
        Ok(())
    }

    fn answered(&mut self, key: usize, frame: &Frame<'_>) -> Result<(), WireError> {
        let tenant = &mut self.tenants[key];
        let limits = ReplyLimits { body_bytes_max: tenant.response_bytes_max, ..ReplyLimits::default() };
        let running = tenant.pipe.front().filter(|_| tenant.phase == Phase::Serving);
        let Some(call) = running else {
            return Err(WireError::ForeignCall { id: frame.id });
        };
        // The shim reads a call to its end before it runs it. Whoever answers earlier would leave datagrams of a call
        // that is over in the way of the next.
        if !tenant.first_is_sent() {
            return Err(WireError::EarlyAnswer { id: frame.id });
        }
        let reply = tenant.reply.get_or_insert_with(|| ReplyAssembler::new(call.invocation, call.nonce, limits));
        if let Some(outcome) = reply.push(frame)? {
            self.complete(key, outcome);
        }
        Ok(())
    }

    /// The call that ran has its answer; the next in the pipe runs now.
    fn complete(&mut self, key: usize, result: Result<CallReply, InvokeError>) {
        // Raw output that the call wrote is in the pipe by now, since it was written before the answer was; that it was
        // read at the beginning of this turn proves nothing, since the answer may be younger than that. Reading it costs
        // a system call, which calls in a row are spared: a function is piped to only while it is not known to write.
        let tenant = &self.tenants[key];
        if tenant.raw.ever || tenant.pipe.len() == 1 {
            self.read_output(key);
        }
        self.finish_output_line(key);
        let tenant = &mut self.tenants[key];
        tenant.reply = None;
        let Some(call) = tenant.pipe.pop_front() else { return };
        let service_ns = Instant::now().saturating_duration_since(tenant.running_since).as_nanos() as u64;
        let (slot, raw_output) = (tenant.instance.slot, tenant.raw.in_call);
        tenant.begin_first();
        self.tell(FrontEvent::Completed { slot, invocation: call.invocation, service_ns, raw_output, result });
    }

    fn log_frame(&mut self, key: usize, frame: &Frame<'_>) -> Result<(), WireError> {
        let entry = wire::decode_log(frame)?;
        let stream = match entry.stream {
            LogStream::Stdout => logs::LogStream::Stdout,
            LogStream::Stderr => logs::LogStream::Stderr,
            LogStream::Traceback => logs::LogStream::Traceback,
        };
        let text = entry.text.into_owned();
        // The shim keeps to its cap; whoever speaks in its place is held to it here.
        let tenant = &mut self.tenants[key];
        // As in the shim, an empty line counts too: an endless row of them is not free.
        let budget = tenant.log_budget.checked_sub(text.len().max(1));
        let Some(left) = budget else { return Err(WireError::TooManyFrames) };
        tenant.log_budget = left;
        let of_running_call = tenant.pipe.front().is_some_and(|call| call.invocation.0 == frame.id);
        if of_running_call {
            self.log(key, stream, text);
        } else {
            self.log_outside(key, stream, text);
        }
        Ok(())
    }
}
