//! The supervisor's zygotes: when one is started, what it says, and what becomes of its orders when it is lost.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Token};

use crate::backend::process::nursery::{Order, Pending};
use crate::backend::process::zygote::{News, Zygote};
use crate::call::BlankFailure;
use crate::limits::{BLANK_START_TIMEOUT, ZYGOTE_FORKS_MAX};
use crate::scheduler::RuntimeId;
use crate::sys::executor;
use crate::wire::{SpawnFailure, SpawnStage};

use super::Supervisor;

/// Zygotes that may die over one blank before it counts as failed: the blank may be what kills them.
const BLANK_TRIES_MAX: u32 = 3;

impl Supervisor {
    /// A zygote that has not answered in time is stuck: it is replaced, and what it owed has failed.
    pub(super) fn expire(&mut self, runtime: RuntimeId) {
        if self.nurseries.get(&runtime).is_some_and(|nursery| nursery.is_stuck(Instant::now())) {
            self.lose_zygote(runtime, format!("it did not answer within {BLANK_START_TIMEOUT:?}"));
        }
    }

    pub(super) fn ensure_zygote(&mut self, runtime: RuntimeId) {
        let Some(nursery) = self.nurseries.get_mut(&runtime) else { return };
        if nursery.zygote.as_ref().is_some_and(|zygote| zygote.forks >= ZYGOTE_FORKS_MAX && nursery.pending.is_empty())
        {
            log::debug!("the zygote of runtime {} has forked {ZYGOTE_FORKS_MAX} times and is replaced", runtime.0);
            self.retire_zygote(runtime);
        }
        let Some(nursery) = self.nurseries.get_mut(&runtime) else { return };
        if !nursery.wants_zygote() || nursery.retry_at.is_some_and(|at| Instant::now() < at) {
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

    pub(super) fn hear(&mut self, runtime: RuntimeId) {
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
                        let order = pending.order;
                        let is_given_one = pending.network.is_some();
                        let runtimes = &self.settings.runtimes;
                        let (outer, _) = runtimes.instance_plans(order.slot.index, order.network, is_given_one);
                        self.fail(order, refused("the sandbox of a blank", &outer, failure));
                    }
                }
                Some(News::Gone { reason }) => return self.lose_zygote(runtime, reason),
            }
        }
    }

    /// The zygote is gone or useless. One that has worked is replaced at once, and its successor makes what it owed.
    /// One that never did would keep its orders waiting for nothing: they have failed.
    pub(super) fn lose_zygote(&mut self, runtime: RuntimeId, failure: impl Into<BlankFailure>) {
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

    pub(super) fn retire_zygote(&mut self, runtime: RuntimeId) {
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
