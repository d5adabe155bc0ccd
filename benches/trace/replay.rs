//! Runs a trace through the scheduler, with a model of the workers behind it, in virtual time.
//!
//! Blanks take 5 ms, loading and execution take what the function takes, an instance is gone 1 ms after it was ended.
//! Nothing fails and there is room for everybody: what is measured is idle times and nothing else.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use faas::call::{ExitReason, InvocationId, Slot, VersionKey};
use faas::scheduler::{Action, CallTerms, FunctionPolicy, IdleTtl, KillReason, RuntimeId, Scheduler, SchedulerLimits};

use super::shapes::{Dice, Trace};

const MS: u64 = 1_000_000;
const SECOND: f64 = 1e9;

/// What a trace cost one function.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    pub(crate) calls: u64,
    pub(crate) cold: u64,
    /// Seconds that its instances were there, whatever they did.
    pub(crate) instance_s: f64,
    /// Of these, the ones in which they ran calls.
    pub(crate) busy_s: f64,
    pub(crate) prewarmed: u64,
    pub(crate) wasted: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    BlankReady(u32, u32),
    Loaded(u32, u32),
    Done(u32, u32, u64),
    Gone(u32, u32),
}

#[derive(Default)]
struct Tenant {
    function: usize,
    assigned_ns: u64,
    loaded: bool,
    running: Option<InvocationId>,
    pipe: VecDeque<InvocationId>,
}

struct Replay<'a> {
    trace: &'a Trace,
    scheduler: Scheduler,
    dice: Dice,
    now_ns: u64,
    order: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    tenants: HashMap<Slot, Tenant>,
    out: Vec<Action>,
    costs: Vec<Cost>,
}

/// Replays the whole trace with this idle time for every function.
pub(crate) fn replay(trace: &Trace, ttl: IdleTtl) -> Vec<Cost> {
    let limits = SchedulerLimits {
        slots_max: 600,
        pool_size: 8,
        idle_ttl: ttl,
        cold_start_timeout_ns: 900_000 * MS,
        ..SchedulerLimits::default()
    };
    let mut replay = Replay {
        trace,
        scheduler: Scheduler::new(limits),
        dice: Dice::new(trace.seed ^ 0xFAA5),
        now_ns: 0,
        order: 0,
        events: BinaryHeap::new(),
        tenants: HashMap::new(),
        out: Vec::new(),
        costs: vec![Cost::default(); trace.functions.len()],
    };
    replay.run();
    replay.costs
}

impl Replay<'_> {
    fn run(&mut self) {
        self.scheduler.tick(0, &mut self.out);
        for function in 0..self.trace.functions.len() {
            let policy = FunctionPolicy {
                runtime: RuntimeId(0),
                timeout_ns: 900_000 * MS,
                min_instances: 0,
                max_instances: 32,
                invocations_max: u64::MAX,
                idle_ttl: None,
            };
            self.scheduler.deploy(VersionKey(function as u64), policy, None, 0, &mut self.out);
        }
        self.act();
        let mut arrivals: Vec<(u64, usize)> = Vec::with_capacity(self.trace.calls());
        for (function, it) in self.trace.functions.iter().enumerate() {
            arrivals.extend(it.calls.iter().map(|&at| ((at * SECOND) as u64, function)));
        }
        arrivals.sort_unstable();
        for (at_ns, function) in arrivals {
            self.live_until(at_ns);
            self.costs[function].calls += 1;
            let accepted =
                self.scheduler.submit(VersionKey(function as u64), CallTerms::default(), at_ns, &mut self.out);
            assert!(accepted.is_ok(), "a call is refused: {accepted:?}");
            self.act();
        }
        self.live_until(self.trace.days * 86_400_000 * MS);
        for tenant in std::mem::take(&mut self.tenants).into_values() {
            self.charge(&tenant);
        }
        for (function, cost) in self.costs.iter_mut().enumerate() {
            let stats = self.scheduler.idle_stats(VersionKey(function as u64)).expect("it is deployed");
            (cost.prewarmed, cost.wasted) = (stats.prewarmed, stats.prewarmed_wasted);
        }
    }

    fn live_until(&mut self, end_ns: u64) {
        loop {
            let event_ns = self.events.peek().map_or(u64::MAX, |Reverse((at_ns, ..))| *at_ns);
            let due_ns = self.scheduler.next_deadline_ns().unwrap_or(u64::MAX);
            if event_ns.min(due_ns) > end_ns {
                self.now_ns = end_ns;
                return;
            }
            if due_ns < event_ns {
                self.now_ns = self.now_ns.max(due_ns);
                self.scheduler.tick(self.now_ns, &mut self.out);
            } else if let Some(Reverse((at_ns, _, event))) = self.events.pop() {
                self.now_ns = self.now_ns.max(at_ns);
                self.hear(event);
            }
            self.act();
        }
    }

    fn later(&mut self, by_ns: u64, event: Event) {
        self.order += 1;
        self.events.push(Reverse((self.now_ns + by_ns, self.order, event)));
    }

    fn hear(&mut self, event: Event) {
        let now_ns = self.now_ns;
        let slot = |index, generation| Slot { index, generation };
        match event {
            Event::BlankReady(index, generation) => {
                self.scheduler.blank_ready(slot(index, generation), now_ns, &mut self.out);
            }
            Event::Loaded(index, generation) => {
                let slot = slot(index, generation);
                let Some(tenant) = self.tenants.get_mut(&slot) else { return };
                tenant.loaded = true;
                self.scheduler.loaded(slot, Ok(()), now_ns, &mut self.out);
                self.begin(slot);
            }
            Event::Done(index, generation, service_ns) => {
                let slot = slot(index, generation);
                let Some(call) = self.tenants.get_mut(&slot).and_then(|tenant| tenant.running.take()) else { return };
                let delivered = self.scheduler.completed(slot, call, service_ns, false, now_ns, &mut self.out);
                assert!(delivered, "every call is waited for");
                self.begin(slot);
            }
            Event::Gone(index, generation) => {
                let slot = slot(index, generation);
                if let Some(tenant) = self.tenants.remove(&slot) {
                    assert!(tenant.running.is_none() && tenant.pipe.is_empty(), "an instance at work was ended");
                    self.charge(&tenant);
                }
                self.scheduler.exited(slot, &ExitReason::Unknown, &[], &[], now_ns, &mut self.out);
            }
        }
    }

    fn charge(&mut self, tenant: &Tenant) {
        let lived_ns = self.now_ns - tenant.assigned_ns;
        self.costs[tenant.function].instance_s += lived_ns as f64 / SECOND;
    }

    fn begin(&mut self, slot: Slot) {
        let Some(tenant) = self.tenants.get_mut(&slot) else { return };
        if !tenant.loaded || tenant.running.is_some() {
            return;
        }
        tenant.running = tenant.pipe.pop_front();
        if tenant.running.is_some() {
            let median_s = self.trace.functions[tenant.function].service_s;
            let service_s = self.dice.lognormal(median_s, 0.5);
            let service_ns = (service_s * SECOND) as u64;
            self.costs[tenant.function].busy_s += service_s;
            self.later(service_ns, Event::Done(slot.index, slot.generation, service_ns));
        }
    }

    fn act(&mut self) {
        while !self.out.is_empty() {
            for action in std::mem::take(&mut self.out) {
                self.carry_out(action);
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::MakeBlank { slot, .. } => self.later(5 * MS, Event::BlankReady(slot.index, slot.generation)),
            Action::Assign { slot, version } => {
                let function = version.0 as usize;
                self.tenants.insert(slot, Tenant { function, assigned_ns: self.now_ns, ..Tenant::default() });
                let load_ns = (self.trace.functions[function].load_s * SECOND) as u64;
                self.later(load_ns, Event::Loaded(slot.index, slot.generation));
            }
            Action::Dispatch { slot, invocation, cold } => {
                let Some(tenant) = self.tenants.get_mut(&slot) else { return };
                tenant.pipe.push_back(invocation);
                self.costs[tenant.function].cold += u64::from(cold);
                self.begin(slot);
            }
            Action::TakeBack { slot } => {
                let calls: Vec<InvocationId> =
                    self.tenants.get_mut(&slot).map(|tenant| tenant.pipe.drain(..).collect()).unwrap_or_default();
                self.scheduler.taken_back(slot, &calls, self.now_ns, &mut self.out);
            }
            Action::Kill { why: KillReason::Evicted, .. } => panic!("there is not room for everybody"),
            Action::Kill { slot, .. } => self.later(MS, Event::Gone(slot.index, slot.generation)),
            Action::Fail { error, .. } => panic!("a call failed: {error:?}"),
            Action::Drained { .. } => {}
        }
    }
}
