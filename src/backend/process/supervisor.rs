//! The supervisor thread: keeps one zygote per runtime, makes blanks, buries the dead.
//!
//! Owns the zygotes and every cgroup. Does not decide how many blanks there are (the scheduler does) and does not
//! talk to instances (workers do).
//!
//! Invariants:
//! - Every [`SupervisorJob::MakeBlank`] ends in exactly one `Adopt` to the slot's worker or one `BlankFailed` to the
//!   front; every [`SupervisorJob::MakeChecker`] in exactly one answer.
//! - A zygote that dies takes no instance with it. It is started again at once, and with growing pauses if it keeps
//!   dying.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Token};

use crate::backend::Instance;
use crate::call::{BlankFailure, FrontEvent, Slot, WorkerJob};
use crate::doorbell::{Desk, Line, DOORBELL_TOKEN};
use crate::limits::{
    BLANK_START_TIMEOUT, FUNCTION_CPU_MILLIS_DEFAULT, FUNCTION_MEMORY_BYTES_DEFAULT, INSTANCE_TASKS_MAX,
    WIRE_MESSAGE_BYTES_MAX, ZYGOTE_FORKS_MAX, ZYGOTE_SPAWNS_AT_ONCE_MAX,
};
use crate::sandbox::cgroup::{Cgroup, CgroupError, CgroupRoot, Limits};
use crate::scheduler::RuntimeId;
use crate::sys::{self, executor};
use crate::vital::Vital;
use crate::wire::{SpawnFailure, SpawnStage};

pub use super::job::SupervisorJob;

use super::check::Throwaway;
use super::custody::ProcessCustody;
use super::networks::Networks;
use super::nursery::{Client, Nursery, Order, Pending};
use super::runtimes::Runtimes;
use super::strays::Strays;
use super::zygote::{News, Zygote};

/// What the supervisor needs to know.
pub struct SupervisorSettings {
    /// Interpreters, and the plans for their sandboxes.
    pub runtimes: Arc<Runtimes>,
    /// Parent of every instance's cgroup; `None` when this host gives none and the isolation level allows that.
    pub cgroups: Option<CgroupRoot>,
    /// Slots that the scheduler uses; checkers use those from here on.
    pub slots_max: u32,
}

/// Zygotes that may die over one blank before it counts as failed: the blank may be what kills them.
const BLANK_TRIES_MAX: u32 = 3;

/// What a blank is made with.
struct Parts {
    channel: OwnedFd,
    instance_end: OwnedFd,
    output: OwnedFd,
    output_writer: OwnedFd,
    cgroup: Option<Cgroup>,
    join_fds: Vec<OwnedFd>,
    network: Option<OwnedFd>,
}

struct Supervisor {
    desk: Desk<SupervisorJob>,
    own_line: Line<SupervisorJob>,
    settings: SupervisorSettings,
    workers: Vec<Line<WorkerJob>>,
    front: Line<FrontEvent>,
    nurseries: HashMap<RuntimeId, Nursery>,
    next_blank: u64,
    checker_slots: Vec<u32>,
    next_checker_slot: u32,
    next_checker_generation: u32,
    /// Cgroups whose last process is still leaving.
    graves: Vec<Cgroup>,
    networks: Networks,
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
    let first_checker = settings.slots_max;
    let supervisor = Supervisor {
        desk,
        own_line,
        settings,
        workers,
        front,
        nurseries: HashMap::new(),
        next_blank: 1,
        checker_slots: Vec::new(),
        next_checker_slot: first_checker,
        next_checker_generation: 0,
        graves: Vec::new(),
        networks: Networks::default(),
        strays: Strays::default(),
        buffer: vec![0; WIRE_MESSAGE_BYTES_MAX + 1].into_boxed_slice(),
    };
    std::thread::Builder::new().name("faas-supervisor".to_owned()).spawn(move || {
        let _vital = Vital;
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
                if event.token() != DOORBELL_TOKEN {
                    self.hear(RuntimeId(event.token().0 as u32));
                }
            }
            while let Some(job) = self.desk.try_recv() {
                if matches!(job, SupervisorJob::Shutdown) {
                    self.shut_down();
                    return;
                }
                self.take(job);
            }
            self.tend();
        }
    }

    /// Sleeps at most until a zygote may be started again, a blank is overdue, or a grave should be tried again.
    fn next_wake(&self) -> Option<Duration> {
        let now = Instant::now();
        if self.may_refill_networks() {
            return Some(Duration::ZERO);
        }
        let wake = (!self.graves.is_empty()).then(|| now + Duration::from_millis(5));
        let others = self.nurseries.values().map(Nursery::next_wake).chain([self.strays.next_look(now)]);
        others.flatten().chain(wake).min().map(|at| at.saturating_duration_since(now))
    }

    fn take(&mut self, job: SupervisorJob) {
        match job {
            SupervisorJob::MakeBlank { slot, runtime } => self.order(runtime, slot, Client::Worker),
            SupervisorJob::MakeChecker { runtime, answer } => {
                let index = self.checker_slots.pop().unwrap_or_else(|| {
                    self.next_checker_slot += 1;
                    self.next_checker_slot - 1
                });
                self.next_checker_generation = self.next_checker_generation.wrapping_add(1);
                let slot = Slot { index, generation: self.next_checker_generation };
                self.order(runtime, slot, Client::Checker(answer));
            }
            SupervisorJob::Bury { slot, pid, is_reaped, cgroup, network } => {
                self.strays.released(pid, is_reaped);
                // One that nobody has waited for may still be in there.
                if let Some(network) = network.filter(|_| is_reaped) {
                    self.networks.give_back(network);
                }
                if slot.index >= self.settings.slots_max {
                    self.checker_slots.push(slot.index);
                }
                if let Some(cgroup) = cgroup {
                    self.bury(cgroup);
                }
            }
            SupervisorJob::Shutdown => unreachable!("taken out by the loop"),
        }
    }

    fn order(&mut self, runtime: RuntimeId, slot: Slot, client: Client) {
        let order = Order { slot, client, ordered: Instant::now(), tries: 0, cgroup: None };
        self.nurseries.entry(runtime).or_default().orders.push_back(order);
    }

    /// Starts zygotes that are wanted and works on orders; replaces what is stuck; tries graves again.
    fn tend(&mut self) {
        for cgroup in std::mem::take(&mut self.graves) {
            self.bury(cgroup);
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

    /// A zygote that has not answered in time is stuck: it is replaced, and what it owed has failed.
    fn expire(&mut self, runtime: RuntimeId) {
        if self.nurseries.get(&runtime).is_some_and(|nursery| nursery.is_stuck(Instant::now())) {
            self.lose_zygote(runtime, format!("it did not answer within {BLANK_START_TIMEOUT:?}"));
        }
    }

    fn ensure_zygote(&mut self, runtime: RuntimeId) {
        let Some(nursery) = self.nurseries.get_mut(&runtime) else { return };
        if nursery.zygote.as_ref().is_some_and(|zygote| zygote.forks >= ZYGOTE_FORKS_MAX && nursery.pending.is_empty())
        {
            log::debug!("the zygote of runtime {} has forked {ZYGOTE_FORKS_MAX} times and is replaced", runtime.0);
            self.retire_zygote(runtime);
        }
        let Some(nursery) = self.nurseries.get_mut(&runtime) else { return };
        let wanted = !nursery.orders.is_empty() && nursery.zygote.is_none();
        if !wanted || nursery.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let started = self.settings.runtimes.zygote_plan(runtime).and_then(|plan| {
            let zygote = Zygote::start(&plan)?;
            let control = zygote.control().as_raw_fd();
            let token = Token(runtime.0 as usize);
            self.desk.registry().register(&mut SourceFd(&control), token, Interest::READABLE)?;
            Ok(zygote)
        });
        match started {
            Ok(zygote) => {
                log::debug!("zygote {} of {} started", zygote.pid(), self.settings.runtimes.name(runtime));
                nursery.zygote = Some(zygote);
                nursery.ready = false;
                nursery.started = Some(Instant::now());
            }
            Err(error) => self.lose_zygote(runtime, format!("it cannot be started: {error}")),
        }
    }

    fn work_on_orders(&mut self, runtime: RuntimeId) {
        loop {
            let Some(nursery) = self.nurseries.get_mut(&runtime) else { return };
            // One that has forked its share is given nothing more, so that it becomes free to be replaced.
            let worn = nursery.zygote.as_ref().is_some_and(|zygote| zygote.forks >= ZYGOTE_FORKS_MAX);
            if !nursery.ready || worn || nursery.pending.len() >= ZYGOTE_SPAWNS_AT_ONCE_MAX {
                return;
            }
            let Some(mut order) = nursery.orders.pop_front() else { return };
            if order.is_stale(Instant::now()) {
                self.fail(order, format!("its turn did not come within {BLANK_START_TIMEOUT:?}"));
                continue;
            }
            let parts = match self.prepare(&mut order) {
                Ok(parts) => parts,
                Err(error) => {
                    self.fail(order, format!("a blank cannot be made: {error}"));
                    continue;
                }
            };
            if let Err(error) = self.spawn(runtime, order, parts) {
                // The next one is started here, since nothing else may wake this thread.
                self.lose_zygote(runtime, format!("it cannot be asked for a blank: {error}"));
                self.ensure_zygote(runtime);
            }
        }
    }

    /// Makes everything of a blank that the zygote cannot make itself.
    fn prepare(&mut self, order: &mut Order) -> io::Result<Parts> {
        let (channel, instance_end) = sys::io::seqpacket_pair()?;
        sys::io::refuse_descriptors(&channel);
        let (output, output_writer) = sys::io::output_pipe()?;
        let network = self.settings.runtimes.joins_network().then(|| self.networks.take()).transpose()?;
        let cgroup = match order.cgroup.take() {
            Some(left) => Some(left),
            None => self.make_cgroup(order.slot)?,
        };
        match cgroup.as_ref().map_or(Ok(Vec::new()), Cgroup::join_fds) {
            Ok(join_fds) => Ok(Parts { channel, instance_end, output, output_writer, cgroup, join_fds, network }),
            Err(error) => {
                order.cgroup = cgroup;
                Err(io::Error::other(error))
            }
        }
    }

    /// Asks the zygote for a blank.
    fn spawn(&mut self, runtime: RuntimeId, order: Order, parts: Parts) -> io::Result<()> {
        let Parts { channel, instance_end, output, output_writer, cgroup, join_fds, network } = parts;
        let (outer, inner) = self.settings.runtimes.instance_plans(order.slot.index);
        let mut fds: Vec<BorrowedFd<'_>> = vec![instance_end.as_fd(), output_writer.as_fd()];
        fds.extend(join_fds.iter().chain(&network).map(AsFd::as_fd));
        let blank = self.next_blank;
        self.next_blank += 1;
        let nursery = self.nurseries.entry(runtime).or_default();
        let asked = match &mut nursery.zygote {
            Some(zygote) => zygote.spawn(blank, &outer, &inner, &fds),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        drop(fds);
        // Also if it could not be asked: it is then one of those that the lost zygote owes.
        let asked_at = Instant::now();
        let pending = Pending { order, asked: asked_at, channel, instance_end, output, cgroup, network };
        nursery.pending.insert(blank, pending);
        asked
    }

    fn make_cgroup(&self, slot: Slot) -> io::Result<Option<Cgroup>> {
        let Some(root) = &self.settings.cgroups else { return Ok(None) };
        let mut cgroup = root.create(&slot.to_string()).map_err(io::Error::other)?;
        let limits = Limits {
            memory_bytes: FUNCTION_MEMORY_BYTES_DEFAULT,
            cpu_millis: FUNCTION_CPU_MILLIS_DEFAULT,
            tasks: INSTANCE_TASKS_MAX,
        };
        match cgroup.set_limits(limits) {
            Ok(()) => Ok(Some(cgroup)),
            Err(error) => {
                let _ = cgroup.remove();
                Err(io::Error::other(error))
            }
        }
    }

    fn hear(&mut self, runtime: RuntimeId) {
        loop {
            let Some(nursery) = self.nurseries.get_mut(&runtime) else { return };
            let Some(zygote) = &nursery.zygote else { return };
            match zygote.hear(&mut self.buffer) {
                None => return,
                Some(News::Ready) => nursery.is_ready(),
                Some(News::Spawned { blank, pid }) => {
                    if let Some(pending) = nursery.pending.remove(&blank) {
                        self.deliver(pending, pid);
                    }
                }
                Some(News::Failed { blank: 0, failure }) => {
                    let plan = self.settings.runtimes.zygote_plan(runtime).unwrap_or_default();
                    return self.lose_zygote(runtime, refused("its own sandbox", &plan, failure));
                }
                Some(News::Failed { blank, failure }) => {
                    if let Some(pending) = nursery.pending.remove(&blank) {
                        self.graves.extend(pending.cgroup);
                        let (outer, _) = self.settings.runtimes.instance_plans(pending.order.slot.index);
                        self.fail(pending.order, refused("the sandbox of a blank", &outer, failure));
                    }
                }
                Some(News::Gone { reason }) => return self.lose_zygote(runtime, reason),
            }
        }
    }

    /// The blank has a process: from here on it belongs to who ordered it.
    fn deliver(&mut self, pending: Pending, pid: u32) {
        let Pending { order, channel, instance_end, output, cgroup, network, .. } = pending;
        // Its parent has exited or is about to, and then it is this process's child, which nobody else reaps: the pid
        // cannot have been given to another process.
        let process = match sys::process::pidfd_open(pid) {
            Ok(process) => process,
            Err(error) => {
                self.graves.extend(cgroup);
                return self.fail(order, format!("its process {pid} is gone: {error}"));
            }
        };
        self.strays.in_custody(pid);
        let custody = Box::new(ProcessCustody {
            slot: order.slot,
            pid,
            process,
            is_reaped: false,
            cgroup,
            network,
            supervisor: self.own_line.clone(),
            orphan_tries: 0,
            ended: None,
            memory_bytes: FUNCTION_MEMORY_BYTES_DEFAULT,
        });
        let instance = Instance { slot: order.slot, pid, channel, instance_end, output, custody };
        let refused = match order.client {
            Client::Worker => {
                let worker = &self.workers[order.slot.index as usize % self.workers.len()];
                match worker.send(WorkerJob::Adopt(Box::new(instance))) {
                    Ok(()) => None,
                    Err(error) => match error.into_inner() {
                        WorkerJob::Adopt(instance) => Some(*instance),
                        _ => None,
                    },
                }
            }
            Client::Checker(answer) => {
                // What nobody receives ends as it is dropped.
                let _ = answer.send(Ok(Throwaway::new(instance)));
                None
            }
        };
        if let Some(instance) = refused {
            instance.custody.kill();
            instance.custody.bury();
        }
    }

    fn fail(&mut self, order: Order, failure: impl Into<BlankFailure>) {
        let failure = failure.into();
        let Order { slot, client, cgroup, .. } = order;
        self.graves.extend(cgroup);
        if slot.index >= self.settings.slots_max {
            self.checker_slots.push(slot.index);
        }
        match client {
            Client::Worker => {
                let _ = self.front.send(FrontEvent::BlankFailed { slot, failure });
            }
            Client::Checker(answer) => {
                let _ = answer.send(Err(failure.reason));
            }
        }
    }

    /// The zygote is gone or useless. One that has worked is replaced at once, and its successor makes what it owed.
    /// One that never did would keep its orders waiting for nothing: they have failed.
    fn lose_zygote(&mut self, runtime: RuntimeId, failure: impl Into<BlankFailure>) {
        let BlankFailure { reason, refused_step } = failure.into();
        log::error!("the zygote of {} is lost: {reason}", self.settings.runtimes.name(runtime));
        let Some(nursery) = self.nurseries.get_mut(&runtime) else { return };
        let has_worked = nursery.ready;
        nursery.note_loss(Instant::now());
        let mut owed: Vec<(u64, Pending)> = nursery.pending.drain().collect();
        owed.sort_unstable_by_key(|(blank, _)| *blank);
        let orders = std::mem::take(&mut nursery.orders);
        self.retire_zygote(runtime);
        let owed = owed.into_iter().map(|(_, Pending { order, cgroup, .. })| {
            // What is left of the blank ends by itself, since the zygote's last word to it never comes.
            Order { tries: order.tries + 1, cgroup, ..order }
        });
        let mut kept = VecDeque::new();
        for order in owed.chain(orders) {
            if has_worked && order.tries < BLANK_TRIES_MAX {
                kept.push_back(order);
            } else {
                self.fail(order, BlankFailure { reason: format!("the zygote was lost: {reason}"), refused_step });
            }
        }
        if let Some(nursery) = self.nurseries.get_mut(&runtime) {
            nursery.orders = kept;
        }
    }

    fn retire_zygote(&mut self, runtime: RuntimeId) {
        let Some(nursery) = self.nurseries.get_mut(&runtime) else { return };
        nursery.ready = false;
        nursery.started = None;
        if let Some(zygote) = nursery.zygote.take() {
            let control = zygote.control().as_raw_fd();
            let _ = self.desk.registry().deregister(&mut SourceFd(&control));
            // Its death may leave a blank that it was making, and the process that was making it.
            self.strays.suspect();
        }
    }

    /// Removes a cgroup, or remembers it while its last process is leaving.
    fn bury(&mut self, cgroup: Cgroup) {
        match cgroup.remove() {
            Ok(()) => {}
            Err(CgroupError::Busy { .. }) => {
                // A blank whose zygote died between forking it and reporting it is still in there.
                if let Err(error) = cgroup.kill_all() {
                    log::warn!("what is left in a cgroup cannot be killed: {error}");
                }
                self.graves.push(cgroup);
            }
            Err(error) => log::error!("a cgroup is left behind: {error}"),
        }
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

/// What the failure of a plan means in words.
fn refused(whose: &str, plan: &[u8], failure: SpawnFailure) -> BlankFailure {
    let error = io::Error::from_raw_os_error(failure.errno);
    match failure.stage {
        SpawnStage::Fork => format!("fork: {error}").into(),
        SpawnStage::Outer | SpawnStage::Inner => {
            let name = executor::step_name(plan, failure.step);
            let reason = format!("{whose}, step {}: {name}: {error}", failure.step);
            BlankFailure { reason, refused_step: Some(name) }
        }
    }
}
