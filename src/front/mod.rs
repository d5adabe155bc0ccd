//! The front thread: the HTTP server, the API, and the scheduler's surroundings. It never blocks but in its poll.
//!
//! `serve` drives connections, `routes` says what a request asks for, `api` answers it; `events` hears what the other
//! threads report; `actions` carries out what the scheduler decides; `stop` ends it all without losing a request;
//! `cede` gives the place of this server to a successor, `succeed` takes that of a predecessor.
//!
//! Invariants:
//! - Every accepted call is in `calls` until its one outcome is given to its client or its client is gone.
//! - A connection waits for at most one thing.
//! - Time is read once per turn of the loop.

mod actions;
mod api;
mod calls;
mod cede;
mod clients;
mod events;
mod functions;
mod reload;
mod routes;
mod serve;
mod stop;
mod succeed;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;
use mio::net::TcpListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Token};

use crate::auth::KeyRing;
use crate::backend::docker::health::Health;
use crate::backend::docker::job::ContainerJob;
use crate::backend::process::supervisor::SupervisorJob;
use crate::backend::runtimes::AllRuntimes;
use crate::call::{BlankFailure, FrontEvent, Slot, WorkerJob};
use crate::clock::Monotonic;
use crate::control::{ControlJob, Gate};
use crate::doorbell::{Desk, Line, DOORBELL_TOKEN};
use crate::http::request_id::RequestIds;
use crate::http::{HttpLimits, Stamp};
use crate::limits::{
    FRONT_EVENTS_PER_STEP_MAX, FRONT_REQUESTS_PER_TURN_MAX, FRONT_SOCKETS_PER_STEP_MAX, FRONT_SOCKETS_PER_TURN_MAX,
    HTTP_SWEEP_INTERVAL,
};
use crate::logs::LogSink;
use crate::registry::function::FunctionVersion;
use crate::scheduler::{Action, Scheduler, SchedulerLimits};
use crate::sys::listener::watch_for_the_lost;
use crate::systemd::Notifier;
use crate::upgrade::Launcher;
use crate::watchdog::Pulse;

pub use cede::Estate;
pub use reload::FrontUpdate;
pub use succeed::{Readiness, Threshold};

pub(crate) use events::scheduled_idle_ttl;

use calls::Calls;
use cede::Talk;
use clients::{ClientId, Clients};
use functions::Functions;
use stop::Stop;
use succeed::Entry;

const LISTENER: Token = Token(usize::MAX - 1);
const SIGNALS: Token = Token(usize::MAX - 2);
const KNOCKING: Token = Token(usize::MAX - 3);
const SUCCESSOR: Token = Token(usize::MAX - 4);
const PREDECESSOR: Token = Token(usize::MAX - 5);

/// What the front needs to know.
#[derive(Debug)]
pub struct FrontSettings {
    /// `limits.max_connections`.
    pub connections_max: usize,
    /// `limits.max_request_body`, in bytes.
    pub request_body_bytes_max: usize,
    /// The scheduler's limits.
    pub scheduler: SchedulerLimits,
    /// `system.shutdown_grace`.
    pub shutdown_grace: Duration,
    /// What `/health` says of process mode besides its state: the isolation level.
    pub isolation: String,
}

/// What reaches the front from outside.
pub struct Door {
    /// Bound already.
    pub listener: TcpListener,
    /// Who may come in.
    pub keys: KeyRing,
    /// SIGTERM, SIGINT, SIGHUP and SIGUSR2.
    pub signals: nix::sys::signalfd::SignalFd,
    /// What a successor is given.
    pub estate: Estate,
    /// How to start one.
    pub launcher: Launcher,
}

/// The lines to the other threads.
pub struct Lines {
    /// One to each worker; a slot's worker is its index modulo their number.
    pub workers: Vec<Line<WorkerJob>>,
    /// To the supervisor.
    pub supervisor: Line<SupervisorJob>,
    /// To the thread of the containers, if there can be any.
    pub containers: Option<Line<ContainerJob>>,
    /// What is known of the container engine.
    pub engine: Arc<Health>,
    /// To the control threads.
    pub control: Sender<ControlJob>,
    /// To the function logs.
    pub logs: LogSink,
    /// To who watches over this process.
    pub notifier: Arc<Notifier>,
    /// Where changes of functions can be held up.
    pub changes: Arc<Gate>,
}

/// The front thread's state.
pub struct Front {
    desk: Desk<FrontEvent>,
    listener: Option<TcpListener>,
    /// The listener had more to accept than descriptors were left; it is tried again at the next sweep.
    accept_again: bool,
    /// It is tried again in this turn, since a connection was closed or the sweep has come.
    may_accept: bool,
    /// Since a connection could not be accepted, not all that waited have been: it is said once.
    out_of_descriptors: bool,
    /// A reload was asked for by a signal, and the control threads had no room for the job.
    reload_again: bool,
    /// More wait to be connected than one turn allows.
    accept_on: bool,
    /// Connections that had more requests than one turn allows, who waits longest first.
    again: VecDeque<ClientId>,
    /// Requests that this turn still allows to connections that have several.
    requests_left: usize,
    signals: nix::sys::signalfd::SignalFd,
    settings: FrontSettings,
    lines: Lines,
    /// Workers that were given jobs in this turn.
    rung: Vec<bool>,
    keys: KeyRing,
    runtimes: Arc<AllRuntimes>,
    clients: Clients,
    calls: Calls,
    /// Process ids of blanks and instances, as the host sees them.
    pids: HashMap<Slot, u32>,
    functions: Functions,
    scheduler: Scheduler,
    actions: Vec<Action>,
    stamp: Stamp,
    http_limits: HttpLimits,
    clock: Monotonic,
    /// The time of this turn.
    now: Instant,
    next_sweep: Instant,
    /// Why the last blank could not be made, if none has been made since.
    blank_trouble: Option<BlankFailure>,
    /// When a change could not be stored, if none has been stored since.
    store_trouble: Option<Instant>,
    /// How far the server's stop has come, if it was asked to.
    stop: Option<Stop>,
    buffer: Vec<u8>,
    entry: Entry,
    estate: Estate,
    launcher: Launcher,
    /// The conversation with a successor; stays when the place is its own.
    talk: Option<Talk>,
    /// A connection could not be sent on, because the successor had many to take.
    someone_stayed: bool,
    /// Conversations so far.
    talks: u64,
    /// Tells who watches over this process that it is another one from now on.
    messenger: Option<JoinHandle<()>>,
    /// Where a predecessor sends its connections, and whether it had more than one turn allows.
    predecessor: Option<OwnedFd>,
    take_more: bool,
    takeover_buffer: Vec<u8>,
}

impl Front {
    /// Takes over what the other parts have prepared. `functions` is what the store holds.
    ///
    /// # Errors
    /// When a descriptor cannot be had or watched.
    pub fn new(
        desk: Desk<FrontEvent>,
        settings: FrontSettings,
        lines: Lines,
        door: Door,
        runtimes: Arc<AllRuntimes>,
        functions: &[Arc<FunctionVersion>],
    ) -> io::Result<Front> {
        let Door { listener, keys, signals, estate, launcher } = door;
        watch_for_the_lost(&listener)?;
        let signal_fd = std::os::fd::AsRawFd::as_raw_fd(&signals);
        desk.registry().register(&mut SourceFd(&signal_fd), SIGNALS, Interest::READABLE)?;
        let ids = RequestIds::from_kernel().map_err(|error| io::Error::other(error.to_string()))?;
        let now = Instant::now();
        let mut front = Front {
            desk,
            listener: Some(listener),
            accept_again: false,
            may_accept: false,
            out_of_descriptors: false,
            reload_again: false,
            accept_on: false,
            again: VecDeque::new(),
            requests_left: 0,
            signals,
            scheduler: Scheduler::new(settings.scheduler.clone()),
            rung: vec![false; lines.workers.len()],
            settings,
            lines,
            keys,
            runtimes,
            clients: Clients::new(),
            calls: Calls::new(),
            pids: HashMap::new(),
            functions: Functions::default(),
            actions: Vec::new(),
            stamp: Stamp::new(SystemTime::now(), ids),
            http_limits: HttpLimits::default(),
            clock: Monotonic::start(),
            now,
            next_sweep: now + HTTP_SWEEP_INTERVAL,
            blank_trouble: None,
            store_trouble: None,
            stop: None,
            buffer: vec![0; 64 * 1024],
            entry: Entry::Open,
            estate,
            launcher,
            talk: None,
            someone_stayed: false,
            talks: 0,
            messenger: None,
            predecessor: None,
            take_more: false,
            takeover_buffer: crate::takeover::socket::buffer(),
        };
        for function in functions {
            front.deploy(Arc::clone(function));
        }
        front.scheduler.tick(front.now_ns(), &mut front.actions);
        front.act();
        Ok(front)
    }

    /// Begins to serve: for a server that takes over from nobody.
    ///
    /// # Errors
    /// When the listener cannot be watched.
    pub fn listen(&mut self) -> io::Result<()> {
        self.watch_listener()?;
        if let Some(socket) = self.estate.socket.take() {
            self.listen_to_successors(socket)?;
        }
        Ok(())
    }

    /// Serves until the server is asked to stop and has drained.
    pub fn run(&mut self, mut pulse: Pulse) {
        pulse.begin();
        let mut events = Events::with_capacity(FRONT_SOCKETS_PER_TURN_MAX);
        while !self.is_over() {
            self.turn(&mut events);
            pulse.turn();
        }
        // What follows may wait.
        drop(pulse);
        if let Some(messenger) = self.messenger.take() {
            let _ = messenger.join();
        }
    }

    /// Waits for something to happen, and does what follows from it.
    fn turn(&mut self, events: &mut Events) {
        let timeout = self.timeout();
        if let Err(error) = self.desk.wait(events, Some(timeout)) {
            log::error!("the front's poll failed: {error}");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.now = Instant::now();
        self.stamp.date.refresh(SystemTime::now());
        self.requests_left = FRONT_REQUESTS_PER_TURN_MAX;
        let mut somebody_connects = false;
        for (number, event) in events.iter().enumerate() {
            if number % FRONT_SOCKETS_PER_STEP_MAX == 0 {
                self.attend();
            }
            match event.token() {
                DOORBELL_TOKEN => {}
                LISTENER => somebody_connects = true,
                SIGNALS => self.signalled(),
                KNOCKING => self.knocked(),
                SUCCESSOR => {
                    self.hear_successor();
                    if self.someone_stayed && event.is_writable() {
                        self.send_clients_on();
                    }
                }
                PREDECESSOR => self.take_more = true,
                // Nothing can be read or written any more: the client was reset, or both sides are shut.
                Token(key) if event.is_error() || event.is_write_closed() => self.close(key),
                Token(key) => {
                    if event.is_writable() {
                        self.writable(key);
                    }
                    if event.is_readable() {
                        self.readable(key, event.is_read_closed());
                    }
                }
            }
        }
        // Behind the others: a new connection may get the place of one that has been closed in this turn, and what the
        // poll has to tell of that one must not be taken for news of the new one.
        if somebody_connects || self.accept_on {
            self.accept();
        }
        if self.take_more {
            self.take_connections();
        }
        self.drive_again();
        self.keep_time();
        self.attend();
    }

    /// Hears the other threads, carries out what follows and what is pending besides, and rings.
    ///
    /// Bounded, so that sockets get their turn under any load; what is left makes the next wait return at once.
    fn attend(&mut self) {
        for _ in 0..FRONT_EVENTS_PER_STEP_MAX {
            let Some(event) = self.desk.try_recv() else { break };
            self.hear(event);
        }
        self.act();
        self.ring_workers();
    }

    fn now_ns(&self) -> u64 {
        self.clock.ns(self.now)
    }

    fn timeout(&self) -> Duration {
        if !self.again.is_empty() || self.take_more || self.accept_on {
            return Duration::ZERO;
        }
        // Read anew: carrying out a turn may have taken long.
        let now = Instant::now();
        let mut sweep = self.next_sweep.saturating_duration_since(now);
        if let Some(due) = self.next_step_of_stop() {
            sweep = sweep.min(due.saturating_duration_since(now));
        }
        let now_ns = self.clock.ns(now);
        match self.scheduler.next_deadline_ns() {
            // epoll counts in milliseconds and mio rounds up, so a deadline is never waited for in a busy loop.
            Some(deadline_ns) => sweep.min(Duration::from_nanos(deadline_ns.saturating_sub(now_ns))),
            None => sweep,
        }
    }

    /// Everything that happens because time passes.
    fn keep_time(&mut self) {
        let now_ns = self.now_ns();
        if self.scheduler.next_deadline_ns().is_some_and(|deadline_ns| deadline_ns <= now_ns) {
            self.scheduler.tick(now_ns, &mut self.actions);
        }
        if self.now >= self.next_sweep {
            self.next_sweep = self.now + HTTP_SWEEP_INTERVAL;
            for key in self.clients.expired(self.now) {
                self.expire(key);
            }
            self.may_accept = true;
            // It may have stopped for want of descriptors, of which the poll tells nothing.
            self.take_more = self.predecessor.is_some();
            self.time_talk();
            if self.someone_stayed {
                self.send_clients_on();
            }
            if self.reload_again {
                self.ask_reload();
            }
        }
        if std::mem::take(&mut self.may_accept) && std::mem::take(&mut self.accept_again) {
            self.accept();
        }
        self.go_on_stopping();
    }
}
