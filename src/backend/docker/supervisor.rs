//! The containers' thread: takes orders (`orders`), makes blanks of them as containers (`starts`), ends these (`ends`),
//! sees to images (`pulls`), and knows how the engine is (`engine`).
//!
//! Here are its loop and its state; what it asks the engine is in `questions`, what else its poll waits for in `watch`.
//! It alone talks to the engine, and waits for nothing: every question is sent and its answer heard as it comes. Does
//! not decide how many blanks there are (the scheduler does) and does not talk to instances (workers do).
//!
//! Invariants:
//! - Every [`ContainerJob::Make`] ends in exactly one answer: for a worker, one `Adopt` to it or one `BlankFailed` to the
//!   front. So do every [`ContainerJob::FindImage`] and [`ContainerJob::PullImage`].
//! - A container that was asked for is removed, however the order went: by name, since an answer that never came may
//!   have been a success. What cannot be removed is tried again for as long as the server lives, and found by its labels
//!   by the next one.
//! - An engine that is away or hangs costs containers alone.

mod container;
mod ends;
mod engine;
mod orders;
mod pulls;
mod questions;
mod starts;
mod watch;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::Events;
use slab::Slab;

use crate::backend::recipients::Recipients;
use crate::backend::runtimes::Images;
use crate::call::{FrontEvent, Slot, WorkerJob};
use crate::doorbell::{Desk, Line, DOORBELL_TOKEN};
use crate::egress::Egress;
use crate::limits::CONTAINERS_STOP_WAIT;
use crate::takeover::Side;
use crate::vital::Vital;
use crate::watchdog::Pulse;

use super::client::{CallId, Client, News};
use super::hardening::SecurityLabel;
use super::health::Health;
use super::heir::Heir;
use super::job::ContainerJob;
use super::profiles::Profiles;

use container::Container;
use engine::Engine;
use orders::Order;
use pulls::Pulls;
use questions::{Asked, Question};
use watch::Source;

/// What the thread needs to know.
pub struct ContainerSettings {
    /// The engine's socket.
    pub socket: PathBuf,
    /// Images by number, and networks.
    pub images: Arc<Images>,
    /// Connects for instances with outbound network.
    pub egress: Arc<Egress>,
    /// Slots that the scheduler uses; checkers use those from here on.
    pub slots_max: u32,
    /// User of slot 0; the others follow.
    pub uid_base: u32,
    /// What tells this server's containers from others': its state directory, and the side of it.
    pub server: String,
    /// The number of the side.
    pub side: u32,
    /// The side itself, which knows whether anybody has the other one.
    pub sides: Arc<Side>,
    /// What tells the names of this process's containers from those of the processes before it.
    pub incarnation: String,
    /// Where the directories of containers are made: see `files`.
    pub directory: PathBuf,
    /// What containers may call.
    pub profiles: Profiles,
    /// A profile of the host's security module, if the configuration names one.
    pub security_label: Option<SecurityLabel>,
    /// Where others read how the engine is.
    pub health: Arc<Health>,
    /// By which the watchdog sees that the thread turns.
    pub pulse: Pulse,
}

/// Events of the engine's connections have the tokens from here on. Below are those of containers: see [`Source`].
const CLIENT_TOKENS: usize = 1 << 32;

struct Supervisor {
    desk: Desk<ContainerJob>,
    own_line: Line<ContainerJob>,
    settings: ContainerSettings,
    recipients: Recipients,
    client: Client,
    engine: Engine,
    /// What each question to the engine is about.
    questions: HashMap<CallId, Asked>,
    /// What is to be asked again, since the connection was cut, and when.
    again: Vec<(Instant, Asked)>,
    /// Those that have been asked for and are not removed.
    containers: Slab<Container>,
    by_slot: HashMap<Slot, usize>,
    /// Blanks that wait until the engine is known to be there, or has less to do.
    orders: VecDeque<Order>,
    pulls: Pulls,
    /// Ends the containers' processes when this one has died.
    heir: Heir,
}

/// Starts the thread on a queue that was made before.
///
/// # Errors
/// When the kernel refuses the thread.
pub fn start(
    own_line: Line<ContainerJob>,
    desk: Desk<ContainerJob>,
    settings: ContainerSettings,
    workers: Vec<Line<WorkerJob>>,
    front: Line<FrontEvent>,
) -> io::Result<JoinHandle<()>> {
    let supervisor = Supervisor {
        client: Client::new(settings.socket.clone(), CLIENT_TOKENS),
        engine: Engine::default(),
        recipients: Recipients::new(workers, front, settings.slots_max),
        desk,
        own_line,
        settings,
        questions: HashMap::new(),
        again: Vec::new(),
        containers: Slab::new(),
        by_slot: HashMap::new(),
        orders: VecDeque::new(),
        pulls: Pulls::default(),
        heir: Heir::default(),
    };
    std::thread::Builder::new().name("faas-containers".to_owned()).spawn(move || {
        let _vital = Vital;
        supervisor.settings.pulse.begin();
        supervisor.run();
    })
}

impl Supervisor {
    fn run(mut self) {
        let mut events = Events::with_capacity(64);
        while !self.turn(&mut events, None) {}
        // The workers have ended every instance by now; what is left are containers to remove, as long as that goes on.
        self.give_up_all();
        let (mut left, mut until) = (self.containers.len(), Instant::now() + CONTAINERS_STOP_WAIT);
        while !self.containers.is_empty() && Instant::now() < until && !self.engine.is_down() {
            self.turn(&mut events, Some(until));
            self.give_up_all();
            if self.containers.len() < left {
                (left, until) = (self.containers.len(), Instant::now() + CONTAINERS_STOP_WAIT);
            }
        }
        if !self.containers.is_empty() {
            log::warn!("{} containers are left for the next start to remove", self.containers.len());
        }
    }

    /// One turn of the loop; whether the thread is to end.
    fn turn(&mut self, events: &mut Events, until: Option<Instant>) -> bool {
        let now = Instant::now();
        let again = self.again.iter().map(|(at, _)| *at).min();
        let wakes = [self.client.next_wake(), self.engine.next_wake(), self.next_due(), self.next_late(), again, until];
        let timeout = wakes
            .into_iter()
            .flatten()
            .chain(self.pulls.next_overdue())
            .min()
            .map(|at| at.saturating_duration_since(now));
        if let Err(error) = self.desk.wait(events, timeout) {
            log::error!("the poll of the containers' thread failed: {error}");
            std::thread::sleep(Duration::from_millis(10));
        }
        let now = Instant::now();
        for event in events.iter() {
            match event.token() {
                DOORBELL_TOKEN => {}
                token if self.client.owns(token) => self.client.ready(self.desk.registry(), event, now),
                token => match Source::of(token) {
                    (key, Source::Listener) => self.meet(key),
                    (key, Source::Process) => self.miss(key),
                    (key, Source::Memory) => self.starve(key),
                },
            }
        }
        self.client.expire(self.desk.registry(), now);
        self.hear_engine();
        let mut ends = false;
        while let Some(job) = self.desk.try_recv() {
            ends |= matches!(job, ContainerJob::Shutdown);
            self.take(job);
            self.settings.pulse.turn();
        }
        self.expire(now);
        self.expire_pulls(now);
        self.ask_again(now);
        self.tend_engine(now);
        self.place_orders(now);
        // What was answered or refused at once while the above was asked.
        self.hear_engine();
        self.settings.pulse.turn();
        ends
    }

    fn take(&mut self, job: ContainerJob) {
        match job {
            ContainerJob::Make(wish) => self.order(wish),
            ContainerJob::SetLimits { slot, memory_bytes, cpu_millis } => {
                self.set_limits(slot, memory_bytes, cpu_millis);
            }
            ContainerJob::Kill { slot } => self.kill(slot),
            ContainerJob::AskExit { slot, answer } => self.ask_exit(slot, answer),
            ContainerJob::Bury { slot } => self.bury(slot),
            ContainerJob::FindImage { reference, answer } => self.find_image(&reference, answer),
            ContainerJob::PullImage { reference, auth, answer } => self.pull_image(reference, auth, answer),
            ContainerJob::StopPulls => self.stop_pulls(),
            ContainerJob::Shutdown => {}
        }
    }

    fn hear_engine(&mut self) {
        while let Some(news) = self.client.take_news() {
            let call = news.call();
            if let News::Failed { error, .. } = &news {
                self.engine.doubt(error);
                if error.is_a_cut() && self.defer(call) {
                    continue;
                }
            }
            match self.questions.get(&call).map(|asked| &asked.question) {
                Some(Question::Engine(_)) => self.hear_of_engine(call, news),
                Some(Question::Find { .. }) => self.hear_of_image(call, news),
                Some(Question::Pull { .. }) => self.hear_of_pull(call, news),
                Some(Question::Start { .. }) => self.hear_of_start(call, news),
                Some(Question::Container { .. }) => self.hear_of_container(call, news),
                None => {}
            }
        }
    }
}
