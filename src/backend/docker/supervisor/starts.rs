//! From the order of a blank to its delivery: a directory with a socket, a container that connects to it, and a look at
//! what the engine has made of the order.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Token};

use crate::backend::check::Throwaway;
use crate::backend::docker::api::system::EngineKind;
use crate::backend::docker::api::{containers, line, logs};
use crate::backend::docker::client::{CallId, News};
use crate::backend::docker::custody::ContainerCustody;
use crate::backend::docker::engine_error::EngineError;
use crate::backend::docker::files;
use crate::backend::docker::hardening::{self, ContainerSpec};
use crate::backend::docker::launch::{command, Rendezvous};
use crate::backend::docker::life::{Life, Next, Told};
use crate::backend::recipients::Recipient;
use crate::backend::runtimes::{index_of, network_of};
use crate::backend::{Instance, Wish};
use crate::call::{BlankFailure, ExitReason, Slot};
use crate::limits::{
    CONTAINER_STARTS_MAX, CONTAINER_START_TIMEOUT, FUNCTION_CPU_MILLIS_DEFAULT, FUNCTION_MEMORY_BYTES_DEFAULT,
};
use crate::registry::image::Reference;
use crate::sandbox::cgroup::{self, OomWatch};
use crate::sandbox::plan::Network;
use crate::scheduler::RuntimeId;
use crate::sys;

use super::Supervisor;

/// A blank that is wanted.
#[derive(Debug)]
pub(super) struct Order {
    slot: Slot,
    runtime: RuntimeId,
    recipient: Recipient,
    ordered: Instant,
}

/// What a question to the engine is about.
#[derive(Debug, Clone)]
pub(super) enum Question {
    /// The engine itself.
    Engine(super::engine::Inquiry),
    /// Which image a name means.
    Find { answer: super::pulls::Finder },
    /// One that is pulled.
    Pull { reference: Reference },
    /// A container that is on its way.
    Start { key: usize, slot: Slot, step: Step },
    /// One that was delivered, or is to go.
    Container { key: usize, slot: Slot, matter: super::ends::Matter },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Create,
    Start,
    Inspect,
    LastWords,
}

/// The lines of a container's own output that are told when it does not come.
const LAST_LINES: u32 = 5;

/// What a container has that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The socket that its process comes to.
    Listener,
    /// Its process.
    Process,
    /// Memory that runs out.
    Memory,
}

impl Source {
    const ALL: [Source; 3] = [Source::Listener, Source::Process, Source::Memory];

    fn token(self, key: usize) -> Token {
        Token(Source::ALL.len() * key + self as usize)
    }

    /// Whose it is, and what.
    pub(super) fn of(token: Token) -> (usize, Source) {
        (token.0 / Source::ALL.len(), Source::ALL[token.0 % Source::ALL.len()])
    }
}

/// One container, from its order until it is removed.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) slot: Slot,
    pub(super) name: String,
    pub(super) spec: ContainerSpec,
    pub(super) life: Life,
    /// Until when it has to be delivered.
    pub(super) deadline: Instant,
    recipient: Option<Recipient>,
    network: Network,
    /// Where its process comes for its channel; none when that has been.
    meeting: Option<Meeting>,
    /// Its process, from when it is known until the container is delivered.
    process: Option<OwnedFd>,
    /// By which the kernel tells that its memory has run out, where the engine does not and the kernel can.
    pub(super) memory: Option<OomWatch>,
    /// Its directory on the host goes with it.
    pub(super) rendezvous: Rendezvous,
    /// Removal has been asked for, or is to be asked for at this time.
    pub(super) removal: super::ends::Removal,
    /// It has been asked to be killed, and that was not answered.
    pub(super) is_kill_asked: bool,
    /// The engine or the kernel has told that a process of it was killed for want of memory.
    pub(super) is_starved: bool,
    /// How often its end was looked at without a reason for a SIGKILL.
    pub(super) exit_looks: u32,
    /// Where to put how it ended, and until when.
    pub(super) exit: Option<(Arc<OnceLock<ExitReason>>, Instant)>,
}

/// What waits for the container's process.
#[derive(Debug)]
struct Meeting {
    channel: OwnedFd,
    instance_end: OwnedFd,
    output: OwnedFd,
    output_writer: Option<OwnedFd>,
}

impl Supervisor {
    pub(super) fn order(&mut self, wish: Wish) {
        let (slot, runtime, recipient) = self.recipients.place(wish);
        self.orders.push_back(Order { slot, runtime, recipient, ordered: Instant::now() });
    }

    /// Starts what is ordered, as far as the engine is there and not busy with as many as it should be at once.
    pub(super) fn place_orders(&mut self, now: Instant) {
        if let Some(reason) = self.engine.refusal() {
            let orders = std::mem::take(&mut self.orders);
            for order in orders {
                self.turn_down(order.slot, order.recipient, reason.clone());
            }
            return;
        }
        // Whoever ordered them has given them up by now.
        let is_late = |order: &Order| now >= order.ordered + CONTAINER_START_TIMEOUT;
        while self.orders.front().is_some_and(is_late) {
            let Some(order) = self.orders.pop_front() else { return };
            self.turn_down(order.slot, order.recipient, "the container engine was too slow".to_owned());
        }
        let Some(kind) = self.engine.kind() else { return };
        if self.orders.is_empty() {
            return;
        }
        let mut starting = self.containers.iter().filter(|(_, container)| container.life.is_starting()).count();
        while starting < CONTAINER_STARTS_MAX {
            let Some(order) = self.orders.pop_front() else { return };
            self.place(order, kind, now);
            starting += 1;
        }
    }

    fn place(&mut self, order: Order, engine: EngineKind, now: Instant) {
        let Order { slot, runtime, recipient, .. } = order;
        let Some(image) = self.settings.images.get(index_of(runtime)) else {
            return self.turn_down(slot, recipient, format!("runtime {} is no image", runtime.0));
        };
        let network = network_of(runtime);
        let name = format!("faas-{}-{}-{slot}", self.settings.server, self.settings.incarnation);
        let uid = self.settings.uid_base.saturating_add(slot.index);
        let prepared = Rendezvous::prepare(&self.settings.directory, &slot.to_string(), Some(uid))
            .and_then(|rendezvous| Ok((rendezvous, Meeting::prepare()?)));
        let (rendezvous, meeting) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return self.turn_down(slot, recipient, format!("its socket cannot be made: {error}")),
        };
        let spec = ContainerSpec {
            engine,
            image: image.id.to_string(),
            command: command(network),
            labels: containers::labels(&self.settings.server, self.settings.side),
            uid,
            // Those that most functions have: with others a container is told when a function moves in.
            memory_bytes: FUNCTION_MEMORY_BYTES_DEFAULT,
            cpu_millis: FUNCTION_CPU_MILLIS_DEFAULT,
            network,
            seccomp: self.settings.profiles.of(engine, network),
            label: self.settings.security_label.clone(),
            run_directory: rendezvous.directory().to_owned(),
            shim_directory: files::shim_directory(&self.settings.directory),
            resolver: (network == Network::Outbound).then(|| files::resolv_conf(&self.settings.directory)),
        };
        let entry = self.containers.vacant_entry();
        let key = entry.key();
        let watched = rendezvous.watch(self.desk.registry(), Source::Listener.token(key));
        let request = containers::create(&name, &spec);
        entry.insert(Container {
            slot,
            name,
            spec,
            life: Life::new(),
            deadline: now + CONTAINER_START_TIMEOUT,
            recipient: Some(recipient),
            network,
            meeting: Some(meeting),
            process: None,
            memory: None,
            rendezvous,
            removal: super::ends::Removal::of_one_that_is_made(watched.is_ok()),
            is_kill_asked: false,
            is_starved: false,
            exit_looks: 0,
            exit: None,
        });
        self.by_slot.insert(slot, key);
        match watched {
            Ok(()) => drop(self.ask(request, Question::Start { key, slot, step: Step::Create })),
            Err(error) => self.proceed(key, Told::Failed(format!("its socket cannot be watched: {error}"))),
        }
    }

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
        Some(read.unwrap_or_else(|error| Told::Failed(error.to_string())))
    }

    /// Watches the container's first process until it is a worker's, once the kernel has said that it is that.
    fn watch(&mut self, key: usize, id: &str, pid: u32) -> io::Result<()> {
        let container = &mut self.containers[key];
        let process = sys::process::pidfd_open(pid)?;
        // From here on the number is this process's, or nothing is read by it.
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        if !hardening::is_in_group_of(&groups, id) {
            return Err(io::Error::other("it is not in the container's control group"));
        }
        // Before anything of a function is in it.
        self.heir.take(process.as_fd())?;
        let descriptor = process.as_raw_fd();
        self.desk.registry().register(&mut SourceFd(&descriptor), Source::Process.token(key), Interest::READABLE)?;
        container.process = Some(process);
        if container.spec.engine == EngineKind::Podman {
            // No event of its tells of that.
            self.watch_memory(key, pid, &groups);
        }
        Ok(())
    }

    /// Has the kernel end the container as one, or tell, when its memory runs out. Where the server may not, a part of it is
    /// killed as the kernel chooses.
    fn watch_memory(&mut self, key: usize, pid: u32, groups: &str) {
        let container = &mut self.containers[key];
        let watched = cgroup::end_as_one(pid, groups).map_err(io::Error::other).and_then(|watch| {
            if let Some(watch) = &watch {
                let event = watch.event().as_raw_fd();
                self.desk.registry().register(&mut SourceFd(&event), Source::Memory.token(key), Interest::READABLE)?;
            }
            container.memory = watch;
            Ok(())
        });
        if let Err(error) = watched {
            log::debug!("{}: nobody tells when its memory runs out: {error}", container.slot);
        }
    }

    /// The kernel says that memory has run out, in the container or above.
    pub(super) fn starve(&mut self, key: usize) {
        let Some(container) = self.containers.get_mut(key) else { return };
        let Some(watch) = &container.memory else { return };
        if let Err(error) = watch.respond() {
            log::warn!("{}: out of memory, and cannot be killed: {error}", container.slot);
        }
        container.is_starved |= watch.seen();
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

    pub(super) fn unwatch(&mut self, key: usize) -> Option<OwnedFd> {
        let process = self.containers.get_mut(key)?.process.take()?;
        let descriptor = process.as_raw_fd();
        let _ = self.desk.registry().deregister(&mut SourceFd(&descriptor));
        Some(process)
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

    /// At the end of the server: nothing is begun any more, and what has begun is given up.
    pub(super) fn give_up_all(&mut self) {
        const REASON: &str = "the server is stopping";
        for order in std::mem::take(&mut self.orders) {
            self.turn_down(order.slot, order.recipient, REASON.to_owned());
        }
        let keys: Vec<usize> = self.containers.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.proceed(key, Told::Failed(REASON.to_owned()));
            self.bury_key(key);
        }
    }

    /// An order of which no container came to be.
    fn turn_down(&mut self, slot: Slot, recipient: Recipient, reason: String) {
        self.recipients.give_back(slot);
        self.refuse(slot, recipient, reason.into());
    }

    /// Tells who ordered a blank that there is none. A checker's slot stays its container's until that is removed.
    fn refuse(&self, slot: Slot, recipient: Recipient, failure: BlankFailure) {
        log::warn!("{slot}: no container: {}", failure.reason);
        self.recipients.refuse(slot, recipient, failure);
    }

    /// When the first order has waited for as long as a start may take.
    pub(super) fn next_late(&self) -> Option<Instant> {
        self.orders.front().map(|order| order.ordered + CONTAINER_START_TIMEOUT)
    }

    /// Gives up a container that has had its time and has not come.
    pub(super) fn give_up_late(&mut self, key: usize) {
        let reason = format!("the container was not ready within {CONTAINER_START_TIMEOUT:?}");
        self.proceed(key, Told::Failed(reason));
    }
}

impl Meeting {
    fn prepare() -> io::Result<Meeting> {
        let (channel, instance_end) = sys::io::seqpacket_pair()?;
        sys::io::refuse_descriptors(&channel);
        let (output, output_writer) = sys::io::output_pipe()?;
        Ok(Meeting { channel, instance_end, output, output_writer: Some(output_writer) })
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
