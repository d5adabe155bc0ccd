//! What must hold of a worker whose instance says anything.
//!
//! [`Play::expected`] says by itself, from the bytes that were sent, which outcomes may be believed, and knows nothing of
//! how the worker comes to its opinion.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::{LimitsFate, Play, Seen, ANSWER_BYTES_MAX};
use crate::call::{CallReply, FrontEvent, InvokeError};
use crate::fuzzing::assert_harmless;
use crate::limits::{ERROR_KIND_BYTES_MAX, ERROR_MESSAGE_BYTES_MAX, LOG_INVOCATION_ENTRIES_MAX};
use crate::sys;
use crate::wire::{self, Direction, Kind};

impl Play {
    /// The outcomes that a datagram holds for the calls in the pipe, in their order: id and body, as the bytes say.
    pub(super) fn expected(&mut self, datagram: &[u8]) -> VecDeque<(u64, Vec<u8>)> {
        let mut outcomes = VecDeque::new();
        let Ok(frames) = wire::decode_message(datagram, Direction::FromInstance) else { return outcomes };
        let mut pipe = self.pipe.iter();
        let mut running = pipe.next();
        for frame in frames {
            let is_answer = matches!(frame.kind, Kind::Response | Kind::Error | Kind::Body);
            let Some(&(id, _)) = running.filter(|&&call| is_answer && call == (frame.id, frame.nonce)) else {
                continue;
            };
            match frame.kind {
                Kind::Body => self.body.extend_from_slice(frame.payload),
                _ => self.body.clear(),
            }
            if frame.end {
                outcomes.push_back((id, std::mem::take(&mut self.body)));
                running = pipe.next();
            }
        }
        outcomes
    }

    /// The worker reads what the instance has sent.
    pub(super) fn hear_instance(&mut self, outcomes: &mut VecDeque<(u64, Vec<u8>)>) {
        let was_broken = self.is_broken();
        if was_broken {
            outcomes.clear();
        }
        self.worker.read_channel(self.key);
        self.hear_front(outcomes);
        if self.is_broken() {
            assert!(self.is_killed.load(Ordering::Relaxed), "it broke the protocol and lives");
            self.seen.violations += usize::from(!was_broken);
        } else {
            assert!(outcomes.is_empty(), "an answer was passed over: {outcomes:?}");
        }
        self.logged += self.worker.logs.lost();
        let most = self.shares * LOG_INVOCATION_ENTRIES_MAX as u64;
        assert!(self.logged <= most, "{} log entries for {} shares", self.logged, self.shares);
        assert!(self.worker.again.len() <= 1 && self.worker.ending.len() <= 1);
    }

    /// Nothing comes to it while the limits of its function are not in force.
    pub(super) fn assert_held_back(&self) {
        if matches!(self.limits, Some(LimitsFate::Awaited | LimitsFate::Refused)) {
            assert!(sys::io::recv(&self.channel, &mut [0; 1]).is_err(), "it was sent something without limits");
        }
    }

    fn is_broken(&self) -> bool {
        self.worker.tenants[self.key].broke_protocol
    }

    /// Every event must be one that the server's own deeds or `outcomes` allow.
    pub(super) fn hear_front(&mut self, outcomes: &mut VecDeque<(u64, Vec<u8>)>) {
        while let Some(event) = self.front.try_recv() {
            match event {
                FrontEvent::BlankReady { .. } => {
                    assert!(!std::mem::replace(&mut self.greeted, true), "it greeted twice");
                }
                FrontEvent::Loaded { result, .. } => {
                    assert!(self.assigned, "it loaded nothing");
                    assert!(self.limits != Some(LimitsFate::Awaited), "it loaded what it was not sent");
                    let for_limits = matches!(result, Err(InvokeError::NoInstances(_)));
                    assert_eq!(for_limits, self.limits == Some(LimitsFate::Refused), "{result:?}");
                    assert!(!std::mem::replace(&mut self.loaded, true), "it loaded twice");
                    self.shares += 1;
                }
                FrontEvent::Completed { invocation, result, .. } => {
                    let (id, body) = outcomes.pop_front().expect("an outcome that nobody sent");
                    assert!(self.loaded, "an answer before it had loaded");
                    assert_eq!(Some(invocation.0), self.pipe.pop_front().map(|call| call.0), "out of its turn");
                    assert_eq!(invocation.0, id, "another call's answer");
                    assert_believable(&result, &body);
                    self.end(id);
                    self.seen.completed += 1;
                }
                FrontEvent::TakenBack { calls, .. } => {
                    self.seen.taken_back += calls.len();
                    for (invocation, _) in calls {
                        self.pipe.retain(|call| call.0 != invocation.0);
                        self.end(invocation.0);
                    }
                }
                FrontEvent::Exited { begun, returned, .. } => {
                    let returned = returned.into_iter().map(|call| call.0);
                    begun.into_iter().chain(returned).for_each(|invocation| self.end(invocation.0));
                }
                FrontEvent::BlankFailed { .. } => assert!(!self.greeted, "a blank that was ready failed to become one"),
                FrontEvent::Control(_) | FrontEvent::Reload(_) | FrontEvent::Takeover(_) => {
                    unreachable!("there are no control threads")
                }
            }
        }
    }

    fn end(&mut self, id: u64) {
        *self.ends.get_mut(&id).expect("a call that was given to it") += 1;
    }

    /// The instance ends, and every call that it was given has had exactly one end.
    pub(super) fn finish(mut self) -> Seen {
        self.worker.bury(self.key);
        self.hear_front(&mut VecDeque::new());
        assert!(self.ends.values().all(|&ends| ends == 1), "calls and their ends: {:?}", self.ends);
        assert!(self.worker.tenants.is_empty() && self.worker.again.is_empty() && self.worker.ending.is_empty());
        self.seen
    }
}

fn assert_believable(result: &Result<CallReply, InvokeError>, body: &[u8]) {
    match result {
        Ok(reply) => {
            assert!((200..=599).contains(&reply.status), "status {}", reply.status);
            assert!(reply.body == body && reply.body.capacity() <= ANSWER_BYTES_MAX, "not the body that was sent");
            reply.headers.iter().for_each(|(name, value)| assert_harmless(name, value));
        }
        Err(InvokeError::Raised { kind, message }) => {
            assert!(kind.len() <= ERROR_KIND_BYTES_MAX && message.len() <= ERROR_MESSAGE_BYTES_MAX);
        }
        Err(InvokeError::BadAnswer { message }) => assert!(message.len() <= ERROR_MESSAGE_BYTES_MAX),
        Err(InvokeError::AnswerTooLarge { .. }) => {}
        Err(other) => panic!("no instance can say this of a call: {other:?}"),
    }
}
