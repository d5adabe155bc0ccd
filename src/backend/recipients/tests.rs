use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use crossbeam_channel::bounded;

use super::*;
use crate::backend::{Custody, End, Limits};
use crate::call::ExitReason;
use crate::doorbell::{line, Desk};
use crate::registry::function::FunctionConfig;
use crate::sys;

const SLOTS: u32 = 8;
const RUNTIME: RuntimeId = RuntimeId(0);

/// Knows only whether it was ended.
#[derive(Debug)]
struct Watched {
    process: OwnedFd,
    is_killed: Arc<AtomicBool>,
}

impl Custody for Watched {
    fn set_limits(&mut self, _config: &FunctionConfig) -> io::Result<Limits> {
        Ok(Limits::InForce)
    }

    fn ended(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    fn kill(&self) {
        self.is_killed.store(true, Ordering::Relaxed);
    }

    fn end(&mut self) -> End {
        self.is_killed.load(Ordering::Relaxed).then_some(ExitReason::Unknown).map_or(End::NotYet, End::Was)
    }

    fn bury(self: Box<Self>) {}
}

fn instance(slot: Slot) -> (Instance, Arc<AtomicBool>) {
    let is_killed = Arc::new(AtomicBool::new(false));
    let (channel, instance_end) = sys::io::seqpacket_pair().unwrap();
    let (output, writer) = sys::io::output_pipe().unwrap();
    // The pipe's other end is closed, as that of a process that has ended.
    drop(writer);
    let process = output.try_clone().unwrap();
    let custody = Box::new(Watched { process, is_killed: Arc::clone(&is_killed) });
    (Instance { slot, pid: 1, channel, instance_end, output, custody }, is_killed)
}

fn recipients() -> (Recipients, Vec<Desk<WorkerJob>>, Desk<FrontEvent>) {
    let (front, events) = line(4).unwrap();
    let (workers, desks) = (0..2).map(|_| line(4).unwrap()).unzip();
    (Recipients::new(workers, front, SLOTS), desks, events)
}

fn checker(recipients: &mut Recipients) -> (Slot, Recipient, crossbeam_channel::Receiver<Result<Throwaway, String>>) {
    let (answer, sandbox) = bounded(1);
    let (slot, _, recipient) = recipients.place(Wish::ForChecker { runtime: RUNTIME, answer });
    (slot, recipient, sandbox)
}

#[test]
fn a_checkers_slot_is_behind_the_schedulers_and_nobody_elses_until_it_is_given_back() {
    let (mut recipients, ..) = recipients();
    let (first, ..) = checker(&mut recipients);
    let (second, ..) = checker(&mut recipients);
    assert_eq!((first.index, second.index), (SLOTS, SLOTS + 1));
    recipients.give_back(first);
    let (again, ..) = checker(&mut recipients);
    assert_eq!(again.index, first.index);
    assert_ne!(again.generation, first.generation);
    assert_eq!(checker(&mut recipients).0.index, SLOTS + 2);
}

#[test]
fn a_slot_of_the_scheduler_is_never_a_checkers() {
    let (mut recipients, ..) = recipients();
    recipients.give_back(Slot { index: SLOTS - 1, generation: 3 });
    assert_eq!(checker(&mut recipients).0.index, SLOTS);
}

#[test]
fn a_blank_goes_to_the_worker_of_its_slot() {
    let (mut recipients, workers, _events) = recipients();
    let slot = Slot { index: 3, generation: 1 };
    let (placed, runtime, recipient) = recipients.place(Wish::ForWorker { slot, runtime: RuntimeId(7) });
    assert_eq!((placed, runtime), (slot, RuntimeId(7)));
    assert!(recipients.deliver(recipient, instance(slot).0).is_none());
    assert!(matches!(workers[1].try_recv(), Some(WorkerJob::Adopt(instance)) if instance.slot == slot));
    assert!(workers[0].try_recv().is_none());
}

#[test]
fn a_blank_that_nobody_receives_comes_back_alive() {
    let (mut recipients, workers, _events) = recipients();
    drop(workers);
    let slot = Slot { index: 3, generation: 1 };
    let (unread, is_killed) = instance(slot);
    let returned = recipients.deliver(Recipient::Worker, unread).and_then(Throwaway::into_instance);
    assert_eq!(returned.map(|instance| instance.slot), Some(slot));
    assert!(!is_killed.load(Ordering::Relaxed));

    let (slot, recipient, sandbox) = checker(&mut recipients);
    drop(sandbox);
    let (unread, is_killed) = instance(slot);
    let returned = recipients.deliver(recipient, unread);
    assert!(!is_killed.load(Ordering::Relaxed));
    drop(returned.unwrap());
    assert!(is_killed.load(Ordering::Relaxed), "to drop it ends it");
}

#[test]
fn who_gets_no_blank_is_told_why() {
    let (mut recipients, _workers, events) = recipients();
    let slot = Slot { index: 3, generation: 1 };
    recipients.refuse(slot, Recipient::Worker, "no room".into());
    assert!(
        matches!(events.try_recv(), Some(FrontEvent::BlankFailed { slot: of, failure }) if of == slot && failure.reason == "no room")
    );
    let (slot, recipient, sandbox) = checker(&mut recipients);
    recipients.refuse(slot, recipient, "no room".into());
    assert_eq!(sandbox.try_recv().unwrap().unwrap_err(), "no room");
    assert!(events.try_recv().is_none());
}
