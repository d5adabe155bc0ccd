//! From a container that the engine is asked for to the delivery of a blank: a process that comes for its channel, and
//! a look at what the engine has made of the order.

use std::os::fd::AsFd;

use crate::backend::check::Throwaway;
use crate::backend::docker::api::{containers, line, logs};
use crate::backend::docker::client::{CallId, News};
use crate::backend::docker::custody::ContainerCustody;
use crate::backend::docker::engine_error::EngineError;
use crate::backend::docker::hardening;
use crate::backend::docker::life::{Next, Told};
use crate::backend::Instance;
use crate::limits::CONTAINER_START_TIMEOUT;
use crate::sys;

use super::container::Meeting;
use super::questions::{Question, Step};
use super::Supervisor;

/// The lines of a container's own output that are told when it does not come.
const LAST_LINES: u32 = 5;

impl Supervisor {
    /// The engine has answered a question about a container that is on its way.
    pub(super) fn hear_of_start(&mut self, call: CallId, news: News) {
        let Some(Question::Start { key, slot, step }) = self.answered(call) else { return };
        if self.containers.get(key).is_none_or(|container| container.slot != slot) {
            return;
        }
        if step == Step::Create {
            self.containers[key].removal.awaits_creation = false;
        }
        // Nobody watches the process of one that was given up meanwhile.
        if step == Step::Inspect && !self.containers[key].life.is_coming() {
            return;
        }
        let told = match news {
            // Who deploys a function is told of it, too.
            News::Failed { error, .. } => Told::Failed(error.in_short()),
            News::Reply { status, body, .. } => match self.read_start(key, step, status, &body) {
                Some(told) => told,
                None => return self.miss(key),
            },
            News::Head { .. } | News::Chunk { .. } | News::End { .. } => return,
        };
        self.proceed(key, told);
    }

    /// What an answer says of a container on its way; nothing, when that has ended and what it said is to be asked for.
    fn read_start(&mut self, key: usize, step: Step, status: u16, body: &[u8]) -> Option<Told> {
        let read = match step {
            Step::Create => made(containers::created(status, body)),
            Step::Start => containers::started(status, body).map(|()| Told::Started),
            Step::LastWords => logs::text(status, body).map(|text| Told::Failed(ended(&text))),
            Step::Inspect => match containers::inspected(status, body) {
                Ok(inspect) => match (hardening::verify(&self.containers[key].spec, &inspect), inspect.pid) {
                    (Err(ignored), _) => Ok(Told::Failed(ignored.to_string())),
                    (Ok(()), None) if inspect.error.is_empty() => return None,
                    (Ok(()), None) => Ok(Told::Failed(inspect.error)),
                    (Ok(()), Some(pid)) => Ok(match self.watch(key, &inspect.id, pid) {
                        Ok(()) => Told::Verified(pid),
                        Err(error) => Told::Failed(format!("its process {pid} cannot be watched: {error}")),
                    }),
                },
                Err(error) => Err(error),
            },
        };
        Some(read.unwrap_or_else(|error| Told::Failed(self.containers[key].spec.explain(&error.to_string()))))
    }

    /// The process of a container that is on its way has ended. Why, it may have said on its own output.
    pub(super) fn miss(&mut self, key: usize) {
        let Some(container) = self.containers.get_mut(key) else { return };
        if !container.life.is_coming() {
            return;
        }
        let slot = container.slot;
        self.unwatch(key);
        let request = logs::last(&self.containers[key].name, LAST_LINES);
        self.ask(request, Question::Start { key, slot, step: Step::LastWords });
    }

    /// Carries out what follows from what is known now.
    pub(super) fn proceed(&mut self, key: usize, told: Told) {
        let Some(container) = self.containers.get_mut(key) else { return };
        let slot = container.slot;
        match container.life.hear(told) {
            Next::Nothing => {}
            Next::Start => {
                let request = containers::start(&container.name);
                self.ask(request, Question::Start { key, slot, step: Step::Start });
            }
            Next::Inspect => {
                let request = containers::inspect(&container.name);
                self.ask(request, Question::Start { key, slot, step: Step::Inspect });
            }
            Next::Deliver { pid } => self.deliver(key, pid),
            Next::GiveUp { reason } => {
                let recipient = container.recipient.take();
                // An engine that has lost it would not end it.
                if let Some(process) = self.unwatch(key) {
                    let _ = sys::process::pidfd_kill(&process);
                }
                if let Some(recipient) = recipient {
                    self.refuse(slot, recipient, reason.into());
                }
                self.bury_key(key);
            }
        }
    }

    /// Somebody has come to the socket of a container.
    pub(super) fn meet(&mut self, key: usize) {
        let Some(container) = self.containers.get_mut(key) else { return };
        let Some(meeting) = &mut container.meeting else { return };
        let Some(writer) = &meeting.output_writer else { return };
        let met = match container.rendezvous.meet(container.network, &[meeting.instance_end.as_fd(), writer.as_fd()]) {
            Ok(None) => return,
            Ok(Some(met)) => met,
            Err(error) => {
                return self.proceed(key, Told::Failed(format!("its channel cannot be handed over: {error}")))
            }
        };
        // Its end of the output is the instance's alone from here on, so that its close can be seen.
        meeting.output_writer = None;
        if let Some(Err(error)) = met.handover.map(|handover| self.settings.egress.adopt(container.slot, handover)) {
            return self.proceed(key, Told::Failed(format!("there is no thread to connect for it: {error}")));
        }
        self.proceed(key, Told::Met);
    }

    fn deliver(&mut self, key: usize, pid: u32) {
        let container = &mut self.containers[key];
        let slot = container.slot;
        let (Some(recipient), Some(meeting)) = (container.recipient.take(), container.meeting.take()) else { return };
        let walls = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| error.to_string()).and_then(
            |status| hardening::verify_process(&container.spec, &status).map_err(|ignored| ignored.to_string()),
        );
        let (Some(process), Ok(())) = (self.unwatch(key), &walls) else {
            let reason = walls.err().unwrap_or_else(|| "it has ended".to_owned());
            self.refuse(slot, recipient, format!("its process {pid}: {reason}").into());
            return self.bury_key(key);
        };
        let Meeting { channel, instance_end, output, .. } = meeting;
        let custody = Box::new(ContainerCustody::new(slot, process, self.own_line.clone()));
        let instance = Instance { slot, pid, channel, instance_end, output, custody };
        // Not dropped here if nobody receives it: that would wait for its end.
        if let Some(instance) = self.recipients.deliver(recipient, instance).and_then(Throwaway::into_instance) {
            instance.custody.kill();
            self.bury_key(key);
        }
    }

    /// Gives up a container that has had its time and has not come.
    pub(super) fn give_up_late(&mut self, key: usize) {
        let reason = format!("the container was not ready within {CONTAINER_START_TIMEOUT:?}");
        self.proceed(key, Told::Failed(reason));
    }
}

/// Who has the name already is the container itself, of which the answer was lost: no other server takes such a name.
fn made(answer: Result<containers::Created, EngineError>) -> Result<Told, EngineError> {
    match answer {
        Ok(_) | Err(EngineError::Refused { status: 409, .. }) => Ok(Told::Created),
        Err(error) => Err(error),
    }
}

/// Why there is no blank, from what the container wrote.
fn ended(output: &str) -> String {
    match line(output).as_str() {
        "" => "its process ended before it was a blank, without a word".to_owned(),
        words => format!("its process ended before it was a blank: {words}"),
    }
}
