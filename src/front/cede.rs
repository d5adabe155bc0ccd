//! The front of a server that another one takes over from: it answers who knocks, gives its place away, and sends every
//! connection after it when it owes that no answer.
//!
//! Owns what is said and done; the order is `takeover::incumbent`'s.
//!
//! Invariants: nothing here waits; from the moment the place is the successor's no request begins here any more, but
//! for those whose body is on its way.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::Interest;

use crate::call::{FrontEvent, TakeoverNews};
use crate::doorbell::Line;
use crate::logs::Decision;
use crate::registry::store::{SharedLock, SCHEMA};
use crate::sys;
use crate::takeover::incumbent::{Effect, Incumbent, Input, Stage};
use crate::takeover::message::{Introduction, Message};
use crate::takeover::{socket, successor};

use super::clients::Waiting;
use super::{Front, KNOCKING, SUCCESSOR};

/// What a server needs to give its place away.
pub struct Estate {
    /// The lock of the state directory.
    pub lock: SharedLock,
    /// Where a successor knocks.
    pub socket: Option<OwnedFd>,
    /// The front's own line, for those who work for it.
    pub line: Line<FrontEvent>,
}

/// A conversation with a successor.
pub(super) struct Talk {
    socket: OwnedFd,
    pid: u32,
    machine: Incumbent,
    inherits_listener: bool,
    /// Whether the function logs go on here.
    logs: Option<Decision>,
    /// Which conversation this is, so that news of an earlier one is not taken for its own.
    number: u64,
}

impl Front {
    /// Watches the socket on which successors knock.
    pub(super) fn listen_to_successors(&mut self, listener: OwnedFd) -> io::Result<()> {
        self.desk.registry().register(&mut SourceFd(&listener.as_raw_fd()), KNOCKING, Interest::READABLE)?;
        self.estate.socket = Some(listener);
        self.knocked();
        Ok(())
    }

    /// Somebody has connected.
    pub(super) fn knocked(&mut self) {
        loop {
            let Some(listener) = &self.estate.socket else { return };
            match socket::accept(listener) {
                Ok(None) => return,
                Ok(Some((stream, pid))) => self.begin_talk(stream, pid),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    log::warn!("hung up on somebody who wanted to take over: {error}");
                }
                Err(error) => return log::error!("a server that wants to take over cannot be heard: {error}"),
            }
        }
    }

    fn begin_talk(&mut self, stream: OwnedFd, pid: u32) {
        let refuse = |reason: &str| {
            let _ = socket::send(&stream, &Message::Refused(reason.to_owned()), &[]);
        };
        if self.stop.is_some() {
            return refuse("it is stopping");
        }
        if self.talk.is_some() {
            return refuse("another process is taking over already");
        }
        sys::io::refuse_descriptors(&stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.desk.registry().register(&mut SourceFd(&stream.as_raw_fd()), SUCCESSOR, interest) {
            log::error!("a server that wants to take over cannot be watched: {error}");
            return;
        }
        self.talks += 1;
        let machine = Incumbent::new(self.now);
        self.talk =
            Some(Talk { socket: stream, pid, machine, inherits_listener: false, logs: None, number: self.talks });
        self.hear_successor();
    }

    /// Takes in what the successor says.
    pub(super) fn hear_successor(&mut self) {
        loop {
            let Some(talk) = &mut self.talk else { return };
            let input = match socket::receive(&talk.socket, &mut self.takeover_buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) | Ok(None) => Input::Gone,
                Ok(Some((Ok(message), _))) => match message {
                    Message::Hello(who) => {
                        log::info!("process {} (version {}) wants to take over", talk.pid, who.version);
                        Input::Hello
                    }
                    Message::Freeze => Input::Freeze,
                    Message::Go { inherits_listener } => {
                        talk.inherits_listener = inherits_listener;
                        Input::Go
                    }
                    _ => Input::Violation,
                },
                Ok(Some((Err(error), _))) => {
                    log::warn!("process {}, which wants to take over, cannot be understood: {error}", talk.pid);
                    Input::Violation
                }
            };
            if self.has_ceded() {
                if input == Input::Gone {
                    return self.lose_successor();
                }
                continue;
            }
            self.advance(input);
        }
    }

    /// News of other threads.
    pub(super) fn hear_takeover(&mut self, news: TakeoverNews) {
        let stage = self.talk.as_ref().map(|talk| (talk.machine.stage(), talk.number));
        match news {
            TakeoverNews::Settled => {
                // Asked again, since the news may be of an earlier conversation.
                if matches!(stage, Some((Stage::Settling, _))) && self.lines.changes.hold() {
                    self.advance(Input::Settled);
                }
            }
            TakeoverNews::LogsWritten { talk } => {
                if stage == Some((Stage::Closing, talk)) {
                    self.advance(Input::LogsWritten);
                }
            }
            TakeoverNews::Open { connections, socket } => self.open(connections, socket),
            TakeoverNews::Failed(error) => self.refuse_to_serve(error),
        }
    }

    /// Whether the place is another process's.
    pub fn has_ceded(&self) -> bool {
        self.talk.as_ref().is_some_and(|talk| talk.machine.stage() == Stage::Ceded)
    }

    /// Tells the conversation, if there is one that is not over, and does what it says.
    pub(super) fn advance(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let Some(talk) = &mut self.talk else { return };
            // Read anew: what is late must not pass for what came in time.
            for effect in talk.machine.step(input, Instant::now()) {
                next = self.follow(effect).or(next);
            }
        }
    }

    /// Ends a conversation that lasts too long.
    pub(super) fn time_talk(&mut self) {
        let due = self.talk.as_ref().and_then(|talk| talk.machine.deadline()).is_some_and(|until| until <= self.now);
        if due {
            self.advance(Input::TimeUp);
        }
    }

    /// Does what the conversation wants, and says what came of it if that matters.
    fn follow(&mut self, effect: Effect) -> Option<Input> {
        let talk = self.talk.as_mut()?;
        match effect {
            Effect::Offer => {
                let who = Introduction { pid: std::process::id(), version: successor::version(), schema: SCHEMA };
                let Some(listener) = &self.listener else { return Some(Input::Stopping) };
                let descriptors = [self.estate.lock.give(), listener.as_fd()];
                socket::send(&talk.socket, &Message::Offer(who), &descriptors).err().map(|_| Input::Gone)
            }
            Effect::HoldChanges => self.lines.changes.hold().then_some(Input::Settled),
            Effect::SayFrozen => socket::send(&talk.socket, &Message::Frozen, &[]).err().map(|_| Input::Gone),
            Effect::CloseLogs => {
                let (line, number) = (self.estate.line.clone(), talk.number);
                let tell = move || {
                    let news = TakeoverNews::LogsWritten { talk: number };
                    let _ = line.send(FrontEvent::Takeover(Box::new(news)));
                };
                match self.lines.logs.close(tell) {
                    Ok(decision) => talk.logs = Some(decision),
                    Err(error) => {
                        log::warn!("the function logs cannot be handed over: {error}");
                        return Some(Input::TimeUp);
                    }
                }
                None
            }
            Effect::Cede => self.cede(),
            Effect::Resume => {
                talk.logs = None;
                self.lines.changes.resume();
                None
            }
            Effect::Refuse(reason) => {
                log::warn!("process {} does not take over: {reason}", talk.pid);
                let _ = socket::send(&talk.socket, &Message::Refused(reason.to_owned()), &[]);
                None
            }
            Effect::HangUp => {
                log::info!("process {} has not taken over; this server goes on", talk.pid);
                self.end_talk();
                None
            }
        }
    }

    fn end_talk(&mut self) {
        if let Some(talk) = self.talk.take() {
            let _ = self.desk.registry().deregister(&mut SourceFd(&talk.socket.as_raw_fd()));
        }
    }

    /// Gives the place away, and says why not if the successor cannot be told.
    fn cede(&mut self) -> Option<Input> {
        let talk = self.talk.as_mut()?;
        let Ok((ours, theirs)) = sys::io::seqpacket_pair() else { return Some(Input::TimeUp) };
        if socket::send(&talk.socket, &Message::Yours, &[theirs.as_fd()]).is_err() {
            return Some(Input::Gone);
        }
        if let Some(decision) = talk.logs.take() {
            decision.leave_to(ours);
        }
        log::info!("process {} serves from now on; finishing what was begun", talk.pid);
        let pid = talk.pid;
        // At once, since what follows asks whether it is.
        self.advance(Input::Ceded);
        self.lines.changes.close();
        let notifier = Arc::clone(&self.lines.notifier);
        // On a thread, since it may have to wait, and not lost, since a supervisor ends what it does not know.
        let messenger = std::thread::Builder::new().name("faas-messenger".to_owned());
        self.messenger = messenger.spawn(move || notifier.main_pid(pid)).ok();
        self.leave();
        None
    }

    /// Accepts no more, and sends after the successor whoever waits for nothing.
    fn leave(&mut self) {
        let inherits = self.talk.as_ref().is_some_and(|talk| talk.inherits_listener);
        if !inherits {
            // Nobody else will: who is in the queue of a listener that closes is reset.
            while self.accept() {}
        }
        // The open file lives on in the successor, and would go on telling this poll of it.
        if let Some(mut listener) = self.listener.take() {
            let _ = self.desk.registry().deregister(&mut listener);
        }
        self.estate.socket = None;
        self.scheduler.wind_down(self.now_ns(), &mut self.actions);
        self.send_clients_on();
    }

    /// Sends every connection after the successor that waits for nothing here.
    pub(super) fn send_clients_on(&mut self) {
        self.someone_stayed = false;
        for key in self.clients.keys() {
            self.drive(key);
        }
    }

    /// Whether a connection is not to be driven here any more: it is between two requests, and goes to the successor
    /// when its last answer is written.
    pub(super) fn leaves(&mut self, key: usize) -> bool {
        if !self.has_ceded() {
            return false;
        }
        let (Some(talk), Some(client)) = (&self.talk, self.clients.at(key)) else { return false };
        if client.waiting != Waiting::Nothing || !client.conn.is_between_requests() {
            return false;
        }
        if !client.write(self.now) {
            self.close(key);
            return true;
        }
        if client.has_output() {
            return true;
        }
        let message = Message::Connection(client.conn.unread().to_vec());
        match socket::send(&talk.socket, &message, &[client.stream.as_fd()]) {
            Ok(()) => self.close(key),
            // It has many to take already: again when it has taken some, or at the next sweep.
            Err(error) if error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                self.someone_stayed = true;
            }
            Err(error) => {
                log::error!("the successor takes no connection: {error}");
                self.lose_successor();
            }
        }
        true
    }

    /// The successor is dead. What was begun is finished, as when the server stops.
    fn lose_successor(&mut self) {
        log::error!("the successor has hung up; finishing what was begun");
        self.end_talk();
        self.begin_stop();
    }
}
