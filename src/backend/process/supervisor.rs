//! The supervisor thread: keeps one zygote per interpreter (`zygotes`), makes blanks (`blanks`), buries the dead
//! (`burials`).
//!
//! Here are its loop and its state. Owns the zygotes and every cgroup. Does not decide how many blanks there are (the
//! scheduler does) and does not talk to instances (workers do).
//!
//! Invariants:
//! - Every [`SupervisorJob::Make`] ends in exactly one answer: for a worker, one `Adopt` to it or one `BlankFailed` to
//!   the front.
//! - A zygote that dies takes no instance with it. It is started again at once, and with growing pauses if it keeps
//!   dying.

mod blanks;
mod burials;
mod zygotes;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Token};

use crate::backend::recipients::Recipients;
use crate::backend::runtimes::network_of;
use crate::backend::Wish;
use crate::call::{FrontEvent, WorkerJob};
use crate::doorbell::{Desk, Line, DOORBELL_TOKEN};
use crate::egress::Egress;
use crate::limits::WIRE_MESSAGE_BYTES_MAX;
use crate::sandbox::cgroup::{Cgroup, CgroupRoot, OomWatch};
use crate::scheduler::RuntimeId;
use crate::vital::Vital;
use crate::watchdog::Pulse;

pub use super::job::SupervisorJob;

use super::networks::Networks;
use super::nursery::{Nursery, Order};
use super::runtimes::{zygote_of, Runtimes};
use super::strays::Strays;

/// What the supervisor needs to know.
pub struct SupervisorSettings {
    /// Interpreters, and the plans for their sandboxes.
    pub runtimes: Arc<Runtimes>,
    /// Parent of every instance's cgroup; `None` when this host gives none and the isolation level allows that.
    pub cgroups: Option<CgroupRoot>,
    /// Connects for instances with outbound network.
    pub egress: Arc<Egress>,
    /// Slots that the scheduler uses; checkers use those from here on.
    pub slots_max: u32,
    /// By which the watchdog sees that the thread turns.
    pub pulse: Pulse,
}

/// Events of slots are told from those of zygotes by their tokens: they begin here.
const OOM_TOKENS: usize = 1 << 32;

struct Supervisor {
    desk: Desk<SupervisorJob>,
    own_line: Line<SupervisorJob>,
    settings: SupervisorSettings,
    recipients: Recipients,
    nurseries: HashMap<RuntimeId, Nursery>,
    next_blank: u64,
    /// Cgroups whose last process is still leaving.
    graves: Vec<Cgroup>,
    networks: Networks,
    /// By slot, where the kernel tells of memory that has run out.
    oom_watches: HashMap<usize, Weak<OomWatch>>,
    strays: Strays,
    buffer: Box<[u8]>,
}

/// Starts the supervisor on a queue that was made before, so that workers can be given a line to it.
///
/// # Errors
/// When the kernel refuses the thread.
pub fn start(
    own_line: Line<SupervisorJob>,
    desk: Desk<SupervisorJob>,
    settings: SupervisorSettings,
    workers: Vec<Line<WorkerJob>>,
    front: Line<FrontEvent>,
) -> io::Result<JoinHandle<()>> {
    let supervisor = Supervisor {
        desk,
        own_line,
        recipients: Recipients::new(workers, front, settings.slots_max),
        settings,
        nurseries: HashMap::new(),
        next_blank: 1,
        graves: Vec::new(),
        networks: Networks::default(),
        oom_watches: HashMap::new(),
        strays: Strays::default(),
        buffer: vec![0; WIRE_MESSAGE_BYTES_MAX + 1].into_boxed_slice(),
    };
    std::thread::Builder::new().name("faas-supervisor".to_owned()).spawn(move || {
        let _vital = Vital;
        supervisor.settings.pulse.begin();
        supervisor.run();
    })
}

impl Supervisor {
    fn run(mut self) {
        let mut events = Events::with_capacity(32);
        loop {
            let timeout = self.next_wake();
            if let Err(error) = self.desk.wait(&mut events, timeout) {
                log::error!("supervisor poll failed: {error}");
                std::thread::sleep(Duration::from_millis(10));
            }
            for event in &events {
                match event.token() {
                    DOORBELL_TOKEN => {}
                    Token(slot) if slot >= OOM_TOKENS => self.end_for_memory(slot - OOM_TOKENS),
                    Token(runtime) => self.hear(RuntimeId(runtime as u32)),
                }
            }
            while let Some(job) = self.desk.try_recv() {
                if matches!(job, SupervisorJob::Shutdown) {
                    self.shut_down();
                    return;
                }
                self.take(job);
                // A turn for the watchdog, since thousands of instances may end at once.
                self.settings.pulse.turn();
            }
            self.tend();
            self.settings.pulse.turn();
        }
    }

    /// Sleeps at most until a zygote may be started again, a blank is overdue, or a grave should be tried again.
    fn next_wake(&self) -> Option<Duration> {
        let now = Instant::now();
        if self.may_refill_networks() {
            return Some(Duration::ZERO);
        }
        let wake = (!self.graves.is_empty()).then(|| now + Duration::from_millis(5));
        let others = self.nurseries.values().map(Nursery::next_wake).chain([self.strays.next_look()]);
        others.flatten().chain(wake).min().map(|at| at.saturating_duration_since(now))
    }

    fn take(&mut self, job: SupervisorJob) {
        match job {
            SupervisorJob::Make(wish) => self.order(wish),
            SupervisorJob::Bury { slot, pid, is_reaped, cgroup, network } => {
                self.strays.released(pid, is_reaped);
                // One that nobody has waited for may still be in there.
                if let Some(network) = network.filter(|_| is_reaped) {
                    self.networks.give_back(network);
                }
                self.recipients.give_back(slot);
                if let Some(cgroup) = cgroup {
                    self.bury(cgroup);
                }
            }
            SupervisorJob::Shutdown => unreachable!("taken out by the loop"),
        }
    }

    fn order(&mut self, wish: Wish) {
        let (slot, runtime, recipient) = self.recipients.place(wish);
        let network = network_of(runtime);
        let order = Order { slot, recipient, network, ordered: Instant::now(), tries: 0, cgroup: None };
        self.nurseries.entry(zygote_of(runtime)).or_default().orders.push_back(order);
    }

    /// Starts zygotes that are wanted and works on orders; replaces what is stuck; tries graves again.
    fn tend(&mut self) {
        for cgroup in std::mem::take(&mut self.graves) {
            self.bury(cgroup);
            self.settings.pulse.turn();
        }
        let runtimes: Vec<RuntimeId> = self.nurseries.keys().copied().collect();
        for runtime in runtimes {
            self.expire(runtime);
            self.ensure_zygote(runtime);
            self.work_on_orders(runtime);
        }
        if self.nurseries.values().all(|nursery| nursery.pending.is_empty()) {
            self.strays.look(Instant::now());
        }
        if self.may_refill_networks() {
            self.networks.refill();
        }
    }

    /// Whether network namespaces are to be made and no blank is waited for.
    fn may_refill_networks(&self) -> bool {
        let mut nurseries = self.nurseries.values();
        let wanted = self.settings.runtimes.joins_network() && !self.networks.is_full();
        wanted && nurseries.all(|nursery| nursery.pending.is_empty() && nursery.orders.is_empty())
    }

    fn shut_down(&mut self) {
        let runtimes: Vec<RuntimeId> = self.nurseries.keys().copied().collect();
        for runtime in runtimes {
            self.retire_zygote(runtime);
            if let Some(nursery) = self.nurseries.remove(&runtime) {
                self.graves.extend(nursery.pending.into_values().filter_map(|pending| pending.cgroup));
                self.graves.extend(nursery.orders.into_iter().filter_map(|order| order.cgroup));
            }
        }
        while let Some(job) = self.desk.try_recv() {
            if let SupervisorJob::Bury { cgroup: Some(cgroup), .. } = job {
                self.graves.push(cgroup);
            }
        }
        let limit = Instant::now() + crate::limits::KILL_WAIT;
        while !self.graves.is_empty() && Instant::now() < limit {
            for cgroup in std::mem::take(&mut self.graves) {
                self.bury(cgroup);
                self.settings.pulse.turn();
            }
            if !self.graves.is_empty() {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        if let Some(root) = self.settings.cgroups.take() {
            if let Err(error) = root.remove() {
                log::warn!("the server's cgroups are left behind: {error}");
            }
        }
    }
}
