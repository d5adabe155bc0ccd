//! The crowd: functions with more callers than a full server has slots, under a seed, with everything working.
//!
//! Unlike the storm, time is a calendar of events, so that waits can be measured: blanks, loads, calls and ends take
//! what they take, and every caller calls again when it has its answer. Checked all the time: a function that waits for
//! an instance and has none gets one within what the calls of the others, their turn and a start take; one that has
//! two less than another gets its next one likewise. Checked at the end: the slots are shared as evenly as the wishes
//! allow, and nobody takes any more from anybody.
//!
//! `FAAS_CROWD_SEED=n` runs one seed.

use std::collections::{BTreeMap, HashMap};

use super::sim::{seeds, Dice};
use super::{MS, SECOND};
use crate::call::{ExitReason, InvocationId, Slot, VersionKey};
use crate::scheduler::{Action, CallTerms, FunctionPolicy, KillReason, RuntimeId, Scheduler, SchedulerLimits};

const BLANK_NS: u64 = 2 * MS;
const LOAD_NS: u64 = 3 * MS;
const EXIT_NS: u64 = MS;
const QUANTUM_NS: u64 = 300 * MS;

#[derive(Debug, Clone, Copy)]
enum Event {
    BlankReady(Slot),
    Loaded(Slot),
    Completed(Slot, InvocationId),
    Exited(Slot),
    Call(usize),
}

struct Function {
    key: VersionKey,
    callers: u32,
    service_ns: u64,
    most: u32,
    /// Since when it waits with no instance; and with two less than another.
    none_since: Option<u64>,
    less_since: Option<u64>,
}

struct Crowd {
    dice: Dice,
    scheduler: Scheduler,
    now: u64,
    out: Vec<Action>,
    /// By time and order.
    calendar: BTreeMap<(u64, u64), Event>,
    numbers: u64,
    functions: Vec<Function>,
    of_slot: HashMap<Slot, usize>,
    pipes: HashMap<Slot, Vec<InvocationId>>,
    of_call: HashMap<InvocationId, usize>,
    slots_max: u32,
    /// The latest times at which an instance yielded or was evicted.
    taken: Vec<u64>,
}

impl Crowd {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        dice.roll(2);
        let slots_max = 1 + dice.roll(12) as u32;
        let limits = SchedulerLimits {
            slots_max: slots_max as usize,
            pool_size: dice.roll(3) as usize,
            container_pool_size: dice.roll(2) as usize,
            share_quantum_ns: QUANTUM_NS,
            queue_wait_max_ns: 3600 * SECOND,
            ..SchedulerLimits::default()
        };
        let mut crowd = Crowd {
            scheduler: Scheduler::new(limits),
            dice,
            now: 0,
            out: Vec::new(),
            calendar: BTreeMap::new(),
            numbers: 0,
            functions: Vec::new(),
            of_slot: HashMap::new(),
            pipes: HashMap::new(),
            of_call: HashMap::new(),
            slots_max,
            taken: Vec::new(),
        };
        // The storms sweep after every step; here are many more.
        crowd.scheduler.sweep_every = 101;
        for n in 0..2 + crowd.dice.roll(5) as usize {
            // Always enough callers to want every slot: who stops wanting and begins again makes instances come and go.
            let callers = 2 * slots_max + crowd.dice.roll(30) as u32;
            let service_ns = [5, 20, 40, 100][crowd.dice.roll(4) as usize] * MS;
            // One that is fast enough for pipes makes most of the events.
            let service_ns = if crowd.dice.one_in(12) { MS / 4 } else { service_ns };
            let most = if crowd.dice.one_in(3) { 1 + crowd.dice.roll(3) as u32 } else { 100 };
            let key = VersionKey(n as u64 + 1);
            let policy = FunctionPolicy {
                runtime: [RuntimeId(0), RuntimeId(1), RuntimeId::container(0)][crowd.dice.roll(3) as usize],
                timeout_ns: 3600 * SECOND,
                min_instances: 0,
                max_instances: most,
                invocations_max: if crowd.dice.one_in(4) { 20 } else { u64::MAX },
                idle_ttl: None,
            };
            crowd.functions.push(Function { key, callers, service_ns, most, none_since: None, less_since: None });
            crowd.scheduler.deploy(key, policy, None, 0, &mut crowd.out);
        }
        crowd.scheduler.tick(0, &mut crowd.out);
        crowd.obey();
        for n in 0..crowd.functions.len() {
            // The first has the server to itself for a while.
            let begin_ns = if n == 0 { 0 } else { crowd.dice.roll(500) * MS };
            (0..crowd.functions[n].callers).for_each(|_| crowd.at(begin_ns, Event::Call(n)));
        }
        crowd
    }

    fn at(&mut self, due_ns: u64, event: Event) {
        self.numbers += 1;
        self.calendar.insert((due_ns, self.numbers), event);
    }

    fn obey(&mut self) {
        for action in std::mem::take(&mut self.out) {
            match action {
                Action::MakeBlank { slot, .. } => self.at(self.now + BLANK_NS, Event::BlankReady(slot)),
                Action::Assign { slot, version } => {
                    let n = self.functions.iter().position(|it| it.key == version).unwrap();
                    self.of_slot.insert(slot, n);
                    self.at(self.now + LOAD_NS, Event::Loaded(slot));
                }
                Action::Dispatch { slot, invocation, cold } => {
                    self.pipes.entry(slot).or_default().push(invocation);
                    if !cold && self.pipes[&slot].len() == 1 {
                        self.begin(slot);
                    }
                }
                Action::TakeBack { slot } => {
                    let back =
                        self.pipes.get_mut(&slot).map(|pipe| pipe.split_off(1.min(pipe.len()))).unwrap_or_default();
                    self.scheduler.taken_back(slot, &back, self.now, &mut self.out);
                    return self.obey();
                }
                Action::Kill { slot, why } => {
                    if matches!(why, KillReason::Yielded | KillReason::Evicted) {
                        self.taken.push(self.now);
                    }
                    self.at(self.now + EXIT_NS, Event::Exited(slot));
                }
                Action::Fail { invocation, error } => panic!("{invocation:?} fails: {error:?}"),
                Action::Drained { .. } => {}
            }
        }
    }

    fn begin(&mut self, slot: Slot) {
        let call = self.pipes[&slot][0];
        let mean_ns = self.functions[self.of_slot[&slot]].service_ns;
        let service_ns = mean_ns / 2 + self.dice.roll(mean_ns);
        self.at(self.now + service_ns, Event::Completed(slot, call));
    }

    fn happen(&mut self, event: Event) {
        let (it, now, out) = (&mut self.scheduler, self.now, &mut self.out);
        match event {
            Event::BlankReady(slot) => it.blank_ready(slot, now, out),
            Event::Loaded(slot) => {
                it.loaded(slot, Ok(()), now, out);
                if self.pipes.get(&slot).is_some_and(|pipe| !pipe.is_empty()) {
                    self.begin(slot);
                }
            }
            Event::Completed(slot, call) => {
                self.pipes.get_mut(&slot).unwrap().remove(0);
                let n = self.of_slot[&slot];
                let service_ns = self.functions[n].service_ns;
                let had_next = !self.pipes[&slot].is_empty();
                assert!(it.completed(slot, call, service_ns, false, now, out));
                if had_next {
                    self.begin(slot);
                }
                self.at(now + MS / 10, Event::Call(n));
            }
            Event::Exited(slot) => it.exited(slot, &ExitReason::Status(0), &[], &[], now, out),
            Event::Call(n) => {
                let call = it.submit(self.functions[n].key, CallTerms::default(), now, out).unwrap();
                self.of_call.insert(call, n);
            }
        }
        self.obey();
    }

    /// An instance that serves or will.
    fn live(&self, n: usize) -> u32 {
        let v = self.scheduler.versions.find(self.functions[n].key).unwrap();
        self.scheduler.versions.items[v as usize].tally.live()
    }

    fn check(&mut self) {
        let live: Vec<u32> = (0..self.functions.len()).map(|n| self.live(n)).collect();
        let most = live.iter().copied().max().unwrap_or(0);
        let slowest_ns = self.functions.iter().map(|it| it.service_ns * 3 / 2).max().unwrap_or(0);
        // The call of another must end, its process too, and a blank be made; several functions may wait for that.
        let turn_ns = slowest_ns + EXIT_NS + BLANK_NS + LOAD_NS + 3 * MS;
        let crowd = self.functions.len() as u64;
        for (n, &own) in live.iter().enumerate() {
            let stats = self.scheduler.stats_of_version(self.functions[n].key).unwrap();
            let waits = stats.queued > 0;
            let (now, function) = (self.now, &mut self.functions[n]);
            let has_none = waits && own == 0;
            let has_less = waits && own + 2 <= most && own + stats.instances.ending < function.most;
            function.none_since = has_none.then(|| function.none_since.unwrap_or(now));
            function.less_since = has_less.then(|| function.less_since.unwrap_or(now));
            let limit_ns = crowd * (QUANTUM_NS + turn_ns);
            let waited_ns = function.none_since.map_or(0, |since| now - since);
            assert!(waited_ns <= limit_ns, "function {n} has none for {waited_ns} ns: {live:?}");
            let waited_ns = function.less_since.map_or(0, |since| now - since);
            assert!(waited_ns <= crowd * turn_ns, "function {n} has too little for {waited_ns} ns: {live:?}");
        }
    }

    fn run(seed: u64) {
        let mut crowd = Crowd::new(seed);
        let recycles = crowd.scheduler.versions.items.iter().any(|version| version.policy.invocations_max < u64::MAX);
        while crowd.now < 4 * SECOND {
            let tick_ns = crowd.scheduler.next_deadline_ns().unwrap_or(u64::MAX);
            match crowd.calendar.first_entry() {
                Some(entry) if entry.key().0 <= tick_ns => {
                    let ((due_ns, _), event) = entry.remove_entry();
                    crowd.now = due_ns;
                    crowd.happen(event);
                }
                _ => {
                    crowd.now = crowd.now.max(tick_ns);
                    crowd.scheduler.tick(crowd.now, &mut crowd.out);
                    crowd.obey();
                }
            }
            crowd.check();
        }
        let live: Vec<u32> = (0..crowd.functions.len()).map(|n| crowd.live(n)).collect();
        let wishes = crowd.functions.iter().filter(|it| it.most == 100).count() as u32;
        let late = crowd.taken.iter().filter(|&&at| at > 2 * SECOND).count() as u32;
        // In two seconds each slot may change hands once in a quantum.
        let turns = if (crowd.functions.len() as u32) > crowd.slots_max { 7 * crowd.slots_max } else { 0 };
        assert!(recycles || late <= turns, "{late} instances were taken although all was settled: {live:?}");
        let free = live.iter().zip(&crowd.functions).filter(|(_, it)| it.most == 100).map(|(&live, _)| live);
        let (least, most) = (free.clone().min().unwrap_or(0), free.max().unwrap_or(0));
        assert!(recycles || wishes < 2 || most <= least + 1, "shares are not even: {live:?}");
    }
}

#[test]
fn whoever_has_less_than_his_share_of_a_full_server_gets_it_in_bounded_time() {
    for seed in seeds("FAAS_CROWD_SEED", 30) {
        eprintln!("FAAS_CROWD_SEED={seed} cargo test --lib in_bounded_time");
        Crowd::run(seed);
    }
}
