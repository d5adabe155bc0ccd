//! The thread that connects for one instance: takes its waiting calls, looks, judges, connects, answers.
//!
//! It has one instance and no more, because two things that it does take as long as the instance lets them: reading
//! its memory, and putting a descriptor into a thread of it that may be kept from running. Whoever delays his broker
//! waits for himself.
//!
//! Invariants: what is connected to is what was judged, one value; whatever was read of a caller is dropped if the call
//! does not wait any more when it has been read; no call is ever handed on to the kernel.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits::{
    EGRESS_CONNECTS_MAX, EGRESS_CONNECTS_PER_INSTANCE_MAX, EGRESS_CONNECTS_RESERVED, EGRESS_SWEEP_INTERVAL,
};
use crate::sys::io::{wait_all, Awaited};
use crate::sys::seccomp_notify::{duplicate_of, read_memory, Listener, WaitingCall};
use crate::sys::{route, tcp};

use super::attempt::{Attempt, Step};
use super::pace::Pace;
use super::{address, caller, policy, resolver, Egress};

/// Longest address that the kernel takes from a program: `struct sockaddr_storage`.
const SOCKADDR_BYTES_MAX: i32 = 128;

/// See the module's documentation.
pub(super) struct Broker {
    egress: Arc<Egress>,
    listener: Listener,
    under_way: Vec<Connection>,
    pace: Pace,
}

/// A connection that is being made.
struct Connection {
    wish: Wish,
    attempt: Attempt,
    socket: TcpStream,
    place: Place,
}

/// What a caller asked for, judged.
struct Wish {
    call: u64,
    /// The caller's descriptor, whose place the socket takes.
    descriptor: u32,
    blocking: bool,
    target: Target,
}

/// Where it may go.
enum Target {
    /// To this address; to this machine only if an exception says so.
    Address { address: SocketAddr, may_be_home: bool },
    /// To the host's name servers.
    NameServers,
}

impl Broker {
    pub(super) fn new(egress: Arc<Egress>, listener: Listener) -> Self {
        Broker { egress, listener, under_way: Vec::new(), pace: Pace::new(Instant::now()) }
    }

    /// Works until every process of the instance is gone.
    ///
    /// # Errors
    /// When the kernel refuses to wait or to give out calls.
    pub(super) fn serve(mut self) -> io::Result<()> {
        loop {
            let sockets = self.under_way.iter().map(|connection| (connection.socket.as_fd(), Awaited::Output));
            let now = Instant::now();
            // One that has had its share is only watched for its end.
            let pause = self.pace.pause(now);
            let calls = if pause.is_some() { Awaited::End } else { Awaited::Input };
            let watched: Vec<_> = std::iter::once((self.listener.as_fd(), calls)).chain(sockets).collect();
            let timeout = [self.timeout(now), pause].into_iter().flatten().min();
            let readiness = wait_all(&watched, timeout)?;
            let (calls, connected) = readiness.split_first().ok_or(io::ErrorKind::InvalidInput)?;
            if calls.over {
                return Ok(());
            }
            let is_ready: Vec<bool> = connected.iter().map(|socket| socket.ready).collect();
            self.advance(&is_ready);
            if calls.ready {
                self.pace.count(now);
                if let Some(call) = self.listener.receive()? {
                    self.begin(&call);
                }
            }
        }
    }

    /// Until something is due; not for long while a caller may have died.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        let due = self.under_way.iter().map(|connection| connection.attempt.deadline()).min()?;
        Some(due.saturating_duration_since(now).min(EGRESS_SWEEP_INTERVAL))
    }

    /// Goes on with every connection: `is_ready` says of each, in order, whether the kernel has finished with it.
    fn advance(&mut self, is_ready: &[bool]) {
        let now = Instant::now();
        for (mut connection, is_ready) in std::mem::take(&mut self.under_way).into_iter().zip(is_ready) {
            if !self.listener.waits(connection.wish.call) {
                continue;
            }
            let step = if *is_ready {
                let outcome = match tcp::take_error(&connection.socket) {
                    Ok(None) => Ok(()),
                    Ok(Some(errno)) => Err(errno),
                    Err(error) => Err(errno_of(&error)),
                };
                connection.attempt.finished(outcome, now)
            } else {
                connection.attempt.passed(now)
            };
            self.follow(connection, step, now);
        }
    }

    /// Does what the attempt says, until there is something to wait for or the caller has its answer.
    fn follow(&mut self, mut connection: Connection, mut step: Step, now: Instant) {
        loop {
            match step {
                Step::Wait => return self.under_way.push(connection),
                Step::Hand(outcome) => return self.hand(connection, outcome),
                Step::Fail(errno) => return self.fail(connection.wish.call, connection.place, errno),
                Step::Try(address) => {
                    // The one before does not answer: others need not find that out for themselves.
                    self.egress.turn.fetch_add(1, Ordering::Relaxed);
                    match tcp::open(&address) {
                        Ok(socket) => connection.socket = socket,
                        Err(error) => return self.fail(connection.wish.call, connection.place, errno_of(&error)),
                    }
                    let outcome = tcp::begin_connect(&connection.socket, &address).map_err(|error| errno_of(&error));
                    step = connection.attempt.began(outcome, now);
                }
            }
        }
    }

    fn begin(&mut self, call: &WaitingCall) {
        let looked = self.look(call);
        // Whatever was seen is another's if the caller has died meanwhile.
        if !self.listener.waits(call.id) {
            return;
        }
        match looked {
            Ok((wish, own)) => self.connect(wish, &own),
            Err(errno) => self.answer(call.id, Err(errno)),
        }
    }

    /// Looks at the caller and judges: what it wishes, and a duplicate of its socket; or the error for it.
    fn look(&self, call: &WaitingCall) -> Result<(Wish, OwnedFd), i32> {
        let [descriptor, address, length, ..] = call.arguments;
        // The kernel takes both for an int.
        let (descriptor, length) = (descriptor as u32, length as u32 as i32);
        let own =
            duplicate_of(call.thread, || caller::leader(call.thread), descriptor).map_err(|error| {
                match errno_of(&error) {
                    libc::EBADF => libc::EBADF,
                    _ => libc::EACCES,
                }
            })?;
        let kind = tcp::kind_of(&own).map_err(|error| errno_of(&error))?;
        if !(0..=SOCKADDR_BYTES_MAX).contains(&length) {
            return Err(libc::EINVAL);
        }
        let mut bytes = [0; address::BYTES_MAX];
        let bytes = &mut bytes[..address::BYTES_MAX.min(length as usize)];
        read_memory(call.thread, address, bytes).map_err(|_| libc::EFAULT)?;
        let address = address::parse(bytes, kind)?;
        if !self.listener.waits(call.id) {
            // Nobody is there to hear this; it only keeps what follows from another's socket.
            return Err(libc::EACCES);
        }
        match tcp::state_of(&own).map_err(|error| errno_of(&error))? {
            tcp::TcpState::Connected => return Err(libc::EISCONN),
            tcp::TcpState::Connecting => return Err(libc::EALREADY),
            tcp::TcpState::Unconnected => {}
        }
        // How an earlier attempt ended is told by the next call, once.
        if let Some(errno) = tcp::take_error(&own).map_err(|error| errno_of(&error))? {
            return Err(errno);
        }
        let blocking = !tcp::is_nonblocking(&own).map_err(|error| errno_of(&error))?;
        let target = self.judge(address)?;
        Ok((Wish { call: call.id, descriptor, blocking, target }, own))
    }

    fn judge(&self, address: SocketAddr) -> Result<Target, i32> {
        if (address.ip().to_canonical(), address.port()) == (resolver::STUB.ip(), resolver::STUB.port()) {
            return Ok(Target::NameServers);
        }
        let home = std::cell::Cell::new(false);
        let is_own = |ip| {
            // What the kernel does not answer counts as the worse.
            let own = !route::leads_elsewhere(ip).unwrap_or(false);
            home.set(home.get() || own);
            own
        };
        policy::judge(address, self.egress.server_port, &self.egress.exceptions(), is_own).map_err(|refusal| {
            log::debug!("a function may not connect to {address}: {refusal:?}");
            libc::EACCES
        })?;
        Ok(Target::Address { address, may_be_home: home.get() })
    }

    fn connect(&mut self, wish: Wish, own: &OwnedFd) {
        let Some(place) = self.egress.place(self.under_way.len()) else {
            return self.answer(wish.call, Err(libc::EAGAIN));
        };
        let mut targets: VecDeque<SocketAddr> = match &wish.target {
            Target::Address { address, .. } => VecDeque::from([*address]),
            Target::NameServers => resolver::name_servers(self.egress.turn.load(Ordering::Relaxed)).into(),
        };
        let Some(first) = targets.pop_front() else { return self.fail(wish.call, place, libc::ENETUNREACH) };
        let socket = match tcp::open(&first) {
            Ok(socket) => socket,
            Err(error) => return self.fail(wish.call, place, errno_of(&error)),
        };
        if matches!(wish.target, Target::Address { .. }) {
            tcp::copy_options(own, &socket);
        }
        let now = Instant::now();
        let patience = tcp::send_timeout(own).filter(|_| wish.blocking);
        let mut attempt = Attempt::new(targets, wish.blocking, patience, now);
        let outcome = tcp::begin_connect(&socket, &first).map_err(|error| errno_of(&error));
        let step = attempt.began(outcome, now);
        self.follow(Connection { wish, attempt, socket, place }, step, now);
    }

    /// Puts the socket in the place of the caller's own, and answers.
    fn hand(&self, connection: Connection, outcome: Result<(), i32>) {
        let Connection { wish, socket, place, .. } = connection;
        drop(place);
        let is_home = match &wish.target {
            Target::Address { address, may_be_home: false } => tcp::leads_home(&socket, address),
            Target::Address { .. } | Target::NameServers => false,
        };
        if is_home {
            // The routes have changed since the address was judged.
            return self.answer(wish.call, Err(libc::EACCES));
        }
        let placed = socket.set_nonblocking(!wish.blocking).and_then(|()| {
            // Only then: the number means nothing once the caller is gone.
            if !self.listener.waits(wish.call) {
                return Err(io::ErrorKind::NotFound.into());
            }
            self.listener.place(wish.call, &socket, wish.descriptor)
        });
        match placed {
            Ok(()) => self.answer(wish.call, outcome),
            Err(error) => self.answer(wish.call, Err(errno_of(&error))),
        }
    }

    /// Answers a connection that is not made.
    fn fail(&self, call: u64, place: Place, errno: i32) {
        drop(place);
        self.answer(call, Err(errno));
    }

    fn answer(&self, call: u64, outcome: Result<(), i32>) {
        if let Err(error) = self.listener.answer(call, outcome) {
            // Its caller has died, or was interrupted and asks again.
            log::trace!("a call that waited for a connection is gone: {error}");
        }
    }
}

/// One of the connections that may be under way at once. Given back before its caller is answered, who may have started
/// another one, or be counted, before this thread runs again.
pub(super) struct Place(Arc<Egress>);

impl Egress {
    /// For an instance with so many under way. Its first few take nobody's place: else a few instances that call where
    /// nobody answers would keep all others from connecting.
    fn place(self: &Arc<Self>, under_way: usize) -> Option<Place> {
        let taken = self.connecting.fetch_add(1, Ordering::Relaxed);
        // Made first, so that it is given back either way.
        let place = Place(Arc::clone(self));
        let is_granted = under_way < EGRESS_CONNECTS_RESERVED
            || (under_way < EGRESS_CONNECTS_PER_INSTANCE_MAX && taken < EGRESS_CONNECTS_MAX);
        is_granted.then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connecting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EACCES)
}
