//! The workers of the storm: they carry out actions, let tenants live and die, and send news.

use super::{News, Storm, Tenant};
use crate::call::{ExitReason, InvocationId, Slot};
use crate::scheduler::tests::{load_error, MS};
use crate::scheduler::Action;

impl Storm {
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

    pub(super) fn do_job(&mut self) {
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
            Action::Assign { slot, version } => {
                if let Some(tenant) = self.tenants.get_mut(&slot) {
                    assert_eq!(tenant.assigned.replace(version), None, "{slot} is assigned twice");
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
        } else {
            // The job that should have made it was forgotten.
            self.gone.insert(slot);
            self.tell(News::BlankFailed(slot));
        }
    }

    /// Some tenant does something. In good weather, nothing goes wrong.
    pub(super) fn live(&mut self, good: bool) {
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
        if tenant.assigned.is_some() && !tenant.loaded {
            tenant.loaded = !load_fails;
            self.tell(News::Loaded(slot, !load_fails));
        } else if tenant.loaded && tenant.begun.is_none() {
            tenant.begun = tenant.pipe.pop_front();
            if let Some(call) = tenant.begun {
                assert!(self.begun_ever.insert(call), "{call:?} is run twice");
                tenant.begun_so_far += 1;
                let most = tenant.assigned.and_then(|version| self.invocations_max.get(&version).copied());
                assert!(most >= Some(tenant.begun_so_far), "{slot} has begun more calls than {most:?}");
            }
        } else if let (Some(call), true) = (tenant.begun, finishes) {
            tenant.begun = None;
            self.tell(News::Completed(slot, call, service_ns));
        }
    }

    pub(super) fn deliver(&mut self) {
        let Some(news) = self.news.pop_front() else { return };
        if self.loud {
            eprintln!("{:>12} {news:?}", self.now);
        }
        let (it, now, out) = (&mut self.scheduler, self.now, &mut self.out);
        if matches!(news, News::TakenBack(..) | News::Exited(..)) {
            self.disturbed_ns = now;
        }
        match news {
            News::BlankReady(slot) => it.blank_ready(slot, now, out),
            News::BlankFailed(slot) => it.blank_failed(slot, "bad luck".into(), now, out),
            News::Loaded(slot, true) => it.loaded(slot, Ok(()), now, out),
            News::Loaded(slot, false) => it.loaded(slot, Err(load_error()), now, out),
            News::TakenBack(slot, calls) => {
                let alive = it.slots.find(slot).is_some();
                self.seen.insert(format!("TakenBackFrom{}", if alive { "Living" } else { "Dead" }));
                it.taken_back(slot, &calls, now, out);
            }
            News::Exited(slot, begun, returned) => {
                it.exited(slot, &ExitReason::Unknown, begun.as_slice(), &returned, now, out);
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
    pub(super) fn forge(&mut self) {
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
}
