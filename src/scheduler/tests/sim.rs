//! The storm: clients, deployments, workers, time and bad luck in random order, under a seed.
//!
//! A model of the workers stands behind the scheduler. Jobs and news travel in queues that keep their order, as the
//! real ones do, and everything may happen while they are on the way. In the *honest* weather each news arrives
//! once. In the *foul* one news is lost, repeated and forged, and workers forget jobs; a lost exit comes when it is
//! asked for again. Checked at every step, besides the scheduler's own sweep: no second outcome, no outcome for a call
//! that has none coming, no call run twice, no more than the limits allow. At the end, when no new call comes and all
//! news arrives: every call has its outcome, `min_instances` are there, the pools are full; after a shutdown,
//! nothing is left.
//!
//! `FAAS_SIM_SEED=n` runs one seed, with its story on standard error.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{MS, SECOND};
use crate::call::{ExitReason, InvocationId, InvokeError, Slot, VersionKey};
use crate::scheduler::{Action, FunctionPolicy, InstanceState, RuntimeId, Scheduler, SchedulerLimits};

/// A small generator is enough, and needs no dependency that could change the stories between releases.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

#[derive(Debug, Clone)]
enum News {
    BlankReady(Slot),
    BlankFailed(Slot),
    Loaded(Slot, bool),
    Completed(Slot, InvocationId, u64),
    TakenBack(Slot, Vec<InvocationId>),
    Exited(Slot, Option<InvocationId>, Vec<InvocationId>),
}

/// What a worker knows of one tenant.
#[derive(Debug, Default)]
struct Tenant {
    assigned: bool,
    loaded: bool,
    begun: Option<InvocationId>,
    pipe: VecDeque<InvocationId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Waiting,
    Cancelled,
    Ended,
}

struct Storm {
    dice: Dice,
    foul: bool,
    loud: bool,
    limits: SchedulerLimits,
    scheduler: Scheduler,
    now: u64,
    out: Vec<Action>,
    jobs: VecDeque<Action>,
    news: VecDeque<News>,
    tenants: HashMap<Slot, Tenant>,
    /// Tenants whose end was reported: asked again, a worker says so again.
    gone: HashSet<Slot>,
    generations: HashMap<u32, u32>,
    fates: HashMap<InvocationId, Fate>,
    begun_ever: HashSet<InvocationId>,
    versions: Vec<(VersionKey, FunctionPolicy)>,
    next_key: u64,
}

impl Storm {
    fn new(seed: u64, foul: bool) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(foul));
        (0..4).for_each(|_| drop(dice.roll(2)));
        let limits = SchedulerLimits {
            slots_max: 2 + dice.roll(10) as usize,
            pool_size: dice.roll(3) as usize,
            queue_per_function_max: 1 + dice.roll(8) as usize,
            invocations_max: 4 + dice.roll(30) as usize,
            pipe_depth_max: 1 + dice.roll(6) as usize,
            raw_output_quiet_ns: 50 * MS,
            warm_instance_ttl_ns: 300 * MS,
            cold_start_timeout_ns: 200 * MS,
            blank_start_timeout_ns: 150 * MS,
            ask_again_ns: 100 * MS,
            backoff_min_ns: 10 * MS,
            backoff_max_ns: 200 * MS,
            drain_timeout_ns: 400 * MS,
            ..SchedulerLimits::default()
        };
        Storm {
            scheduler: Scheduler::new(limits.clone()),
            dice,
            foul,
            loud: std::env::var_os("FAAS_SIM_SEED").is_some(),
            limits,
            now: 0,
            out: Vec::new(),
            jobs: VecDeque::new(),
            news: VecDeque::new(),
            tenants: HashMap::new(),
            gone: HashSet::new(),
            generations: HashMap::new(),
            fates: HashMap::new(),
            begun_ever: HashSet::new(),
            versions: Vec::new(),
            next_key: 1,
        }
    }

    // ---- What the scheduler says ----

    fn take_actions(&mut self) {
        for action in std::mem::take(&mut self.out) {
            if self.loud {
                eprintln!("{:>12}      {action:?}", self.now);
            }
            match &action {
                Action::Fail { invocation, .. } => self.end(*invocation),
                Action::Drained { version } => {
                    assert!(self.versions.iter().all(|(key, _)| key != version), "{version:?} is deployed");
                }
                Action::MakeBlank { slot, .. } => {
                    let last = self.generations.insert(slot.index, slot.generation);
                    assert!(last.is_none_or(|last| last < slot.generation), "{slot} is not new");
                    let alive = self.tenants.keys().filter(|it| it.index == slot.index).count();
                    assert_eq!(alive, 0, "{slot} has a living predecessor");
                    self.jobs.push_back(action);
                }
                _ => self.jobs.push_back(action),
            }
        }
    }

    fn end(&mut self, call: InvocationId) {
        let fate = self.fates.insert(call, Fate::Ended);
        assert_eq!(fate, Some(Fate::Waiting), "{call:?} has an outcome that it should not have");
    }

    // ---- Workers ----

    fn tell(&mut self, news: News) {
        // A lost blank, load or answer is made good by a deadline, a lost exit by asking again.
        if self.foul && self.dice.one_in(40) {
            return;
        }
        if self.foul && self.dice.one_in(40) {
            self.news.push_back(news.clone());
        }
        self.news.push_back(news);
    }

    fn do_job(&mut self) {
        let Some(job) = self.jobs.pop_front() else { return };
        if self.foul && self.dice.one_in(100) && !matches!(job, Action::Dispatch { .. }) {
            return;
        }
        match job {
            Action::MakeBlank { slot, .. } => {
                if self.dice.one_in(12) {
                    self.gone.insert(slot);
                    self.tell(News::BlankFailed(slot));
                } else {
                    self.tenants.insert(slot, Tenant::default());
                    self.tell(News::BlankReady(slot));
                }
            }
            Action::Assign { slot, .. } => {
                if let Some(tenant) = self.tenants.get_mut(&slot) {
                    assert!(!tenant.assigned, "{slot} is assigned twice");
                    tenant.assigned = true;
                }
            }
            Action::Dispatch { slot, invocation, .. } => match self.tenants.get_mut(&slot) {
                Some(tenant) => tenant.pipe.push_back(invocation),
                None => self.tell(News::TakenBack(slot, vec![invocation])),
            },
            Action::TakeBack { slot } => {
                if let Some(tenant) = self.tenants.get_mut(&slot) {
                    let calls = tenant.pipe.drain(..).collect();
                    self.tell(News::TakenBack(slot, calls));
                }
            }
            Action::Kill { slot, .. } => self.die(slot),
            Action::Fail { .. } | Action::Drained { .. } => unreachable!("not a job"),
        }
    }

    fn die(&mut self, slot: Slot) {
        if let Some(tenant) = self.tenants.remove(&slot) {
            self.gone.insert(slot);
            self.tell(News::Exited(slot, tenant.begun, tenant.pipe.into()));
        } else if self.gone.contains(&slot) {
            self.tell(News::Exited(slot, None, Vec::new()));
        } else if self.foul {
            // The job that should have made it was forgotten.
            self.gone.insert(slot);
            self.tell(News::BlankFailed(slot));
        }
    }

    /// Some tenant does something. In good weather, nothing goes wrong.
    fn live(&mut self, good: bool) {
        let mut slots: Vec<Slot> = self.tenants.keys().copied().collect();
        slots.sort_unstable();
        let Some(&slot) = slots.get(self.dice.roll(slots.len().max(1) as u64) as usize) else { return };
        if !good && self.dice.one_in(60) {
            return self.die(slot);
        }
        let load_fails = !good && self.dice.one_in(8);
        let finishes = good || !self.dice.one_in(3);
        let service_ns = if self.dice.one_in(4) { 20 * MS } else { MS / 20 };
        let Some(tenant) = self.tenants.get_mut(&slot) else { return };
        if tenant.assigned && !tenant.loaded {
            tenant.loaded = !load_fails;
            tenant.assigned = tenant.loaded || tenant.assigned;
            self.tell(News::Loaded(slot, !load_fails));
        } else if tenant.loaded && tenant.begun.is_none() {
            tenant.begun = tenant.pipe.pop_front();
            if let Some(call) = tenant.begun {
                assert!(self.begun_ever.insert(call), "{call:?} is run twice");
            }
        } else if let (Some(call), true) = (tenant.begun, finishes) {
            tenant.begun = None;
            self.tell(News::Completed(slot, call, service_ns));
        }
    }

    fn deliver(&mut self) {
        let Some(news) = self.news.pop_front() else { return };
        if self.loud {
            eprintln!("{:>12} {news:?}", self.now);
        }
        let (it, now, out) = (&mut self.scheduler, self.now, &mut self.out);
        match news {
            News::BlankReady(slot) => it.blank_ready(slot, now, out),
            News::BlankFailed(slot) => it.blank_failed(slot, "bad luck".into(), now, out),
            News::Loaded(slot, true) => it.loaded(slot, Ok(()), now, out),
            News::Loaded(slot, false) => it.loaded(slot, Err(super::load_error()), now, out),
            News::TakenBack(slot, calls) => it.taken_back(slot, &calls, now, out),
            News::Exited(slot, begun, returned) => {
                it.exited(slot, &ExitReason::Unknown, begun, &returned, now, out);
            }
            News::Completed(slot, call, service_ns) => {
                let raw = self.dice.one_in(50);
                if it.completed(slot, call, service_ns, raw, now, out) {
                    self.end(call);
                }
            }
        }
        self.take_actions();
    }

    /// News that no worker sent, made of ids that exist, existed, or never did.
    fn forge(&mut self) {
        let index = self.dice.roll(self.limits.slots_max as u64 + 2) as u32;
        let generation = self.generations.get(&index).copied().unwrap_or(0);
        let generation = generation.wrapping_sub(1 + self.dice.roll(2) as u32);
        let slot = Slot { index, generation };
        let mut calls: Vec<InvocationId> = self.fates.keys().copied().collect();
        calls.sort_unstable();
        let pick = self.dice.roll(calls.len().max(1) as u64) as usize;
        let call = calls.get(pick).copied().unwrap_or(InvocationId(7 << 32 | 99));
        let forged = match self.dice.roll(5) {
            0 => News::BlankReady(slot),
            1 => News::Loaded(slot, self.dice.one_in(2)),
            2 => News::Completed(slot, call, 0),
            3 => News::BlankFailed(slot),
            // A dead tenant has nothing of a living one's to give back, even under its name.
            _ => News::Exited(slot, Some(call), vec![call, call]),
        };
        self.news.push_back(forged);
    }

    // ---- Clients and operators ----

    fn submit(&mut self) {
        let pick = self.dice.roll(self.versions.len().max(1) as u64) as usize;
        let Some((key, _)) = self.versions.get(pick).cloned() else { return };
        let exclusive = self.dice.one_in(10);
        let idle: Vec<Slot> = self
            .scheduler
            .instance_stats()
            .filter(|it| it.version == key && it.state == InstanceState::Idle)
            .filter(|it| it.in_pipe == 0 && !self.scheduler.slots.items[it.slot.index as usize].taking_back)
            .map(|it| it.slot)
            .collect();
        match self.scheduler.submit(key, exclusive, self.now, &mut self.out) {
            Ok(call) => {
                if self.loud {
                    eprintln!("{:>12} submit {key:?} -> {call:?}", self.now);
                }
                assert_eq!(self.fates.insert(call, Fate::Waiting), None, "an id is used twice");
                let to = self.out.iter().find_map(|action| match action {
                    Action::Dispatch { slot, invocation, .. } if *invocation == call => Some(*slot),
                    _ => None,
                });
                assert!(idle.is_empty() || to.is_some_and(|to| idle.contains(&to)), "{idle:?} idle, sent to {to:?}");
            }
            Err(error) => {
                assert!(idle.is_empty() || matches!(error, InvokeError::Overloaded { .. } | InvokeError::ShuttingDown));
            }
        }
        self.take_actions();
    }

    fn cancel(&mut self) {
        let mut waiting: Vec<InvocationId> =
            self.fates.iter().filter(|(_, fate)| **fate == Fate::Waiting).map(|(call, _)| *call).collect();
        waiting.sort_unstable();
        let pick = self.dice.roll(waiting.len().max(1) as u64) as usize;
        if let Some(&call) = waiting.get(pick) {
            self.fates.insert(call, Fate::Cancelled);
            self.scheduler.cancel(call, self.now, &mut self.out);
            self.take_actions();
        }
    }

    fn deploy(&mut self, replace: bool) {
        let key = VersionKey(self.next_key);
        self.next_key += 1;
        let policy = FunctionPolicy {
            runtime: RuntimeId(self.dice.roll(2) as u32),
            timeout_ns: (1 + self.dice.roll(300)) * MS,
            min_instances: self.dice.roll(3).saturating_sub(1) as u32,
            max_instances: 1 + self.dice.roll(4) as u32,
        };
        let pick = self.dice.roll(self.versions.len().max(1) as u64) as usize;
        let old = if replace && pick < self.versions.len() { Some(self.versions.remove(pick).0) } else { None };
        self.versions.push((key, policy.clone()));
        self.scheduler.deploy(key, policy, old, self.now, &mut self.out);
        self.take_actions();
    }

    fn remove(&mut self) {
        let pick = self.dice.roll(self.versions.len().max(1) as u64) as usize;
        if pick < self.versions.len() {
            let (key, _) = self.versions.remove(pick);
            self.scheduler.remove(key, self.now, &mut self.out);
            self.take_actions();
        }
    }

    fn stop_instance(&mut self) {
        let slots: Vec<Slot> = self.scheduler.instance_stats().map(|it| it.slot).collect();
        let pick = self.dice.roll(slots.len().max(1) as u64) as usize;
        if let Some(&slot) = slots.get(pick) {
            assert!(self.scheduler.stop_instance(slot, self.now, &mut self.out));
            self.take_actions();
        }
    }

    fn pass_time(&mut self, by_ns: u64) {
        self.now += by_ns;
        if self.scheduler.next_deadline_ns().is_some_and(|due| due <= self.now) {
            self.scheduler.tick(self.now, &mut self.out);
            self.take_actions();
        }
    }

    fn step(&mut self) {
        match self.dice.roll(100) {
            0..=24 => self.submit(),
            25..=27 => self.cancel(),
            28 if self.versions.len() < 4 => self.deploy(false),
            29 => self.deploy(true),
            30 if self.dice.one_in(3) => self.remove(),
            31 => self.stop_instance(),
            32..=36 => {
                let scale = [MS / 10, MS, 12 * MS, 60 * MS][self.dice.roll(4) as usize];
                self.pass_time(scale);
            }
            37 if self.foul => self.forge(),
            38..=57 => self.do_job(),
            58..=77 => self.deliver(),
            _ => self.live(false),
        }
    }

    /// Fair weather until nothing more happens: no new calls, nothing goes wrong, and enough time for everything.
    fn calm_down(&mut self) {
        self.foul = false;
        for _ in 0..600 {
            for _ in 0..40 {
                self.do_job();
                self.live(true);
                self.deliver();
            }
            self.pass_time(3 * MS);
        }
        assert!(self.news.is_empty() && self.jobs.len() < 10, "it does not come to rest: {:?}", self.jobs);
    }

    fn check_rest(&self) {
        let waiting: Vec<_> = self.fates.iter().filter(|(_, fate)| **fate == Fate::Waiting).collect();
        assert!(waiting.is_empty(), "no outcome: {waiting:?}");
        assert_eq!(self.scheduler.invocations(), 0, "calls are remembered");
        let kept: usize =
            self.versions.iter().map(|(_, policy)| policy.min_instances.min(policy.max_instances) as usize).sum();
        let pools = self.limits.pool_size * 2;
        if kept + pools > self.limits.slots_max {
            return;
        }
        for (key, policy) in &self.versions {
            let stats = self.scheduler.stats_of_version(*key).expect("it is deployed");
            let expected = policy.min_instances.min(policy.max_instances);
            assert!(stats.instances.idle >= expected, "{key:?} keeps {:?}, not {expected}", stats.instances);
        }
        for pool in self.scheduler.pool_stats() {
            let used = self.versions.iter().any(|(_, policy)| policy.runtime == pool.runtime);
            let wanted = if used || pool.runtime == RuntimeId(0) { self.limits.pool_size } else { 0 };
            assert_eq!(pool.ready, wanted, "{pool:?}");
        }
    }

    fn run(seed: u64, foul: bool) -> Storm {
        let mut storm = Storm::new(seed, foul);
        storm.pass_time(0);
        storm.scheduler.tick(0, &mut storm.out);
        storm.take_actions();
        storm.deploy(false);
        for _ in 0..1500 {
            storm.step();
        }
        storm.calm_down();
        // Idle instances may fill the slots that a pool would take; they age out.
        storm.pass_time(SECOND);
        storm.calm_down();
        storm.check_rest();

        storm.foul = foul;
        (0..200).for_each(|_| storm.step());
        storm.scheduler.shutdown(storm.now, &mut storm.out);
        storm.take_actions();
        (0..100).for_each(|_| storm.step());
        storm.calm_down();
        storm.pass_time(SECOND);
        storm.calm_down();
        assert!(storm.scheduler.is_drained(), "something is left after the shutdown");
        assert!(storm.fates.values().all(|fate| *fate != Fate::Waiting));
        storm
    }
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("FAAS_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (0..count).collect(),
    }
}

#[test]
fn every_call_gets_exactly_one_outcome() {
    let mut completed = 0;
    for seed in seeds(60) {
        eprintln!("FAAS_SIM_SEED={seed}, honest");
        let storm = Storm::run(seed, false);
        completed += storm.begun_ever.len();
    }
    assert!(completed > 100, "the storm keeps every call from running, and proves nothing");
}

#[test]
fn every_call_gets_exactly_one_outcome_whatever_is_lost_repeated_or_forged() {
    for seed in seeds(60) {
        eprintln!("FAAS_SIM_SEED={seed}, foul");
        Storm::run(seed, true);
    }
}
