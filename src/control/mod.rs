//! The control threads: everything the API does that may wait for a disk, a sandbox or another thread.
//!
//! Jobs come from the front over one bounded queue, answers go back as [`FrontEvent::Control`]. Changes of functions
//! are committed under the store's lock and reported to the front before the lock is released, so that the front
//! learns of them in the order in which they became durable. Changes pass a [`Gate`] first, which is held while another
//! server takes over.

mod catch_up;
mod claims;
mod declared;
mod deploy;
mod gate;
mod images;
mod preparations;
mod queries;
mod reload;
mod scan;
mod verdicts;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{bounded, never, select, Receiver, Sender};
use serde_json::Value;

use crate::backend::check::Checker;
use crate::backend::runtimes::AllRuntimes;
use crate::call::{FrontEvent, Slot, TakeoverNews};
use crate::config::ImageScan;
use crate::doorbell::Line;
use crate::http::problem::Problem;
use crate::limits::{CONTROL_QUEUE_MAX, CONTROL_THREADS};
use crate::logs::{LogSink, Since};
use crate::registry::function::{ExecutionMode, FunctionVersion};
use crate::registry::settings::FunctionSettings;
use crate::registry::store::Store;
use crate::reload::Reloader;
use crate::sandbox::cgroup::FigureSource;
use crate::watchdog::{Pulse, Watchdog};

pub use claims::{Attendance, Presence};
use claims::{Claims, Waited};
pub use declared::Vetted;
pub use gate::Gate;
pub use images::{ImageError, ImageSource, Pulled};
use preparations::{Preparations, Resumed};
use reload::Reloads;
use verdicts::Verdicts;

/// Names the client that waits for an answer; the front's own business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(pub u64);

impl Ticket {
    /// Nobody waits: the job was asked for by a signal, or reports what came of another, or what the server did by
    /// itself.
    pub const NOBODY: Ticket = Ticket(u64::MAX);
}

/// A job of the API.
#[derive(Debug)]
pub struct ControlJob {
    /// Who waits.
    pub ticket: Ticket,
    /// Whether he waits still.
    pub client: Presence,
    /// What is to be done.
    pub work: Work,
}

/// What is to be done.
#[derive(Debug)]
pub enum Work {
    /// `POST /functions` with this body.
    Create(Vec<u8>),
    /// `PUT /functions/NAME` with this body.
    Update(String, Vec<u8>),
    /// `DELETE /functions/NAME`.
    Delete(String),
    /// `GET /functions/NAME/logs`.
    Logs {
        /// Whose.
        function: String,
        /// At most so many entries.
        limit: usize,
        /// Only entries after this.
        since: Option<Since>,
    },
    /// `GET /functions/NAME/sandbox`.
    Sandbox(Arc<FunctionVersion>),
    /// `POST /admin/reload`, or SIGHUP.
    Reload,
    /// Add what the kernel counts of each instance to its object in the document's array, and answer with the document.
    Figures {
        /// The document.
        document: Value,
        /// The field of the document that holds the array.
        array: &'static str,
        /// The instances in the order of the array.
        instances: Vec<Slot>,
    },
    /// Add the memory of all these instances together to the document as `memory_bytes`, and answer with it.
    MemorySum {
        /// The document.
        document: Value,
        /// The instances; of those that are containers their process, too.
        instances: Vec<(Slot, Option<u32>)>,
    },
}

impl Work {
    /// What it keeps of a request's body.
    fn body_bytes(&self) -> usize {
        match self {
            Work::Create(body) | Work::Update(_, body) => body.len(),
            _ => 0,
        }
    }
}

/// The code of the problem of a change that could not be stored.
pub const NOT_STORED: &str = "not_stored";

/// What a control thread answers.
#[derive(Debug)]
pub struct ControlReply {
    /// Who waits.
    pub ticket: Ticket,
    /// What came of it.
    pub result: Result<Done, Problem>,
    /// How the image of what was deployed came, if it was not here before.
    pub pulled: Option<Arc<Pulled>>,
}

/// A job that was done.
#[derive(Debug, Clone)]
pub enum Done {
    /// The function was created, durably.
    Created(Arc<FunctionVersion>),
    /// The function has a new version, durably.
    Updated(Arc<FunctionVersion>),
    /// What was asked for is what was there.
    Unchanged(Arc<FunctionVersion>),
    /// The function is deleted, durably.
    Deleted(String),
    /// The answer is this document.
    Document(Value),
}

/// What the control threads need of the configuration.
#[derive(Debug)]
pub struct ControlSettings {
    /// `system.default_mode`.
    pub default_mode: ExecutionMode,
    /// Defaults of functions by name.
    pub declared: HashMap<String, FunctionSettings>,
    /// `limits.max_functions`.
    pub functions_max: usize,
    /// `system.base_image`.
    pub base_image: String,
    /// `system.image_scan`.
    pub image_scan: Option<ImageScan>,
    /// `system.image_scan_timeout`.
    pub image_scan_timeout: Duration,
    /// `system.image_scan_max_age`.
    pub image_scan_max_age: Duration,
    /// `system.max_concurrent_functions`, as it was at the start.
    pub slots_max: usize,
}

/// What the control threads work with.
pub struct Tools {
    /// Where the kernel's figures of instances are.
    pub figures: FigureSource,
    /// Looks at code in a sandbox.
    pub checker: Checker,
    /// The numbers of runtimes.
    pub runtimes: Arc<AllRuntimes>,
    /// Who knows images; nobody where there are no containers.
    pub images: Option<Box<dyn ImageSource>>,
    /// Where it is kept what scans have said of images.
    pub verdicts: PathBuf,
    /// Function logs.
    pub logs: LogSink,
    /// Where answers go.
    pub front: Line<FrontEvent>,
    /// Reads the configuration again.
    pub reloader: Reloader,
}

/// What the control threads share.
pub struct Shared {
    /// The truth about functions: the store, and what it holds.
    pub(crate) state: Mutex<State>,
    gate: Arc<Gate>,
    /// Replaced whole at a reload.
    settings: Mutex<Arc<ControlSettings>>,
    figures: FigureSource,
    checker: Checker,
    runtimes: Arc<AllRuntimes>,
    images: Option<Box<dyn ImageSource>>,
    preparations: Preparations,
    verdicts: Verdicts,
    logs: LogSink,
    front: Line<FrontEvent>,
    reloads: Reloads,
}

/// The store and its content.
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) functions: HashMap<String, Arc<FunctionVersion>>,
    claims: Claims,
}

impl Shared {
    /// Puts the parts together. `functions` is what the store holds.
    pub fn new(store: Store, functions: &[Arc<FunctionVersion>], settings: ControlSettings, tools: Tools) -> Self {
        let functions = functions.iter().map(|function| (function.name.clone(), Arc::clone(function))).collect();
        let Tools { figures, checker, runtimes, images, verdicts, logs, front, reloader } = tools;
        let told = front.clone();
        let gate = Gate::new(move || drop(told.send(FrontEvent::Takeover(Box::new(TakeoverNews::Settled)))));
        Shared {
            state: Mutex::new(State { store, functions, claims: Claims::default() }),
            gate: Arc::new(gate),
            settings: Mutex::new(Arc::new(settings)),
            figures,
            checker,
            runtimes,
            images,
            preparations: Preparations::default(),
            verdicts: Verdicts::open(verdicts),
            logs,
            front,
            reloads: Reloads::new(reloader),
        }
    }

    /// Where changes can be held up.
    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// Whether there is a function of this name, served or damaged. In doubt there is one.
    pub fn knows(&self, name: &str) -> bool {
        let state = self.lock();
        state.functions.contains_key(name) || state.store.holds(name).unwrap_or(true)
    }

    /// Names this process as the owner of the state to whoever is refused.
    pub fn note_owner(&self) {
        self.lock().store.note_owner();
    }

    /// What the configuration says now. A job that began before a reload may end by what was said before.
    fn settings(&self) -> Arc<ControlSettings> {
        Arc::clone(&self.settings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All functions as they are now, in no order.
    pub fn functions(&self) -> Vec<Arc<FunctionVersion>> {
        self.lock().functions.values().cloned().collect()
    }

    /// `waited` is what the job comes back with, if it was put aside.
    fn run(self: &Arc<Self>, job: ControlJob, waited: Option<&Waited>) {
        let ticket = job.ticket;
        let may_change = matches!(job.work, Work::Create(_) | Work::Update(..) | Work::Delete(_));
        let needed = match &job.work {
            Work::Create(body) => self.create(ticket, body, waited),
            Work::Update(name, body) => self.update(ticket, name, body, waited),
            _ => Ok(()),
        };
        if let Err(aside) = needed {
            return self.put_aside(job, aside);
        }
        match job.work {
            Work::Create(_) | Work::Update(..) => {}
            Work::Delete(name) => self.delete(ticket, &name),
            Work::Logs { function, limit, since } => self.answer(ticket, self.read_logs(&function, limit, since)),
            Work::Sandbox(function) => self.answer(ticket, self.describe_sandbox(&function)),
            Work::Reload => self.reload(ticket),
            Work::Figures { document, array, instances } => {
                self.answer(ticket, Ok(self.add_figures(document, array, &instances)));
            }
            Work::MemorySum { document, instances } => self.answer(ticket, Ok(self.add_memory(document, &instances))),
        }
        if may_change {
            self.empty_log();
        }
    }

    /// Empties the store's log behind the answer. Of several threads that come from a change, one does it for all.
    pub(crate) fn empty_log(&self) {
        match self.lock().store.empty_log() {
            Ok(true) => {}
            Ok(false) => log::debug!("the store's log is not emptied yet: somebody reads the database"),
            Err(error) => log::error!("the store's log cannot be emptied, and every change makes it longer: {error}"),
        }
    }

    pub(crate) fn answer(&self, ticket: Ticket, result: Result<Done, Problem>) {
        let reply = Box::new(ControlReply { ticket, result, pulled: None });
        if self.front.send(FrontEvent::Control(reply)).is_err() {
            log::debug!("the front has ended; an answer is dropped");
        }
    }
}

/// Starts the control threads.
///
/// # Errors
/// When the kernel refuses a thread.
pub fn start(shared: Arc<Shared>, watchdog: &mut Watchdog) -> io::Result<(Sender<ControlJob>, Vec<JoinHandle<()>>)> {
    let (sender, receiver): (_, Receiver<ControlJob>) = bounded(CONTROL_QUEUE_MAX);
    let threads = (0..CONTROL_THREADS)
        .map(|number| {
            let (receiver, shared) = (receiver.clone(), Arc::clone(&shared));
            let resumed = shared.preparations.resumed.clone();
            let name = format!("faas-control-{number}");
            let (pulse, beat) = Pulse::watched();
            watchdog.watch_patiently(&name, beat);
            std::thread::Builder::new().name(name).spawn(move || {
                pulse.begin();
                let run = |job, waited: Option<Waited>| shared.run(job, waited.as_ref());
                let give_up = |ticket| shared.answer(ticket, Err(failed()));
                work_off(&receiver, &resumed, shared.gate.closed(), pulse, run, give_up, || shared.prepare_no_more());
                // The server ends.
                shared.verdicts.end_scans();
            })
        })
        .collect::<io::Result<Vec<_>>>()?;
    Ok((sender, threads))
}

/// Takes jobs, and those that go on after they were put aside, until the front has dropped its sender. A job that
/// panics costs the client its answer, not the server a thread: `give_up` answers in its place. `cease` is called once,
/// when the gate is closed.
fn work_off(
    jobs: &Receiver<ControlJob>,
    resumed: &Receiver<Resumed>,
    mut closed: Receiver<Infallible>,
    mut pulse: Pulse,
    run: impl Fn(ControlJob, Option<Waited>),
    give_up: impl Fn(Ticket),
    cease: impl Fn(),
) {
    loop {
        let next = select! {
            recv(jobs) -> job => job.map(|job| (job, None)),
            recv(resumed) -> resumed => resumed.map(|(job, waited)| (job, Some(waited))),
            recv(closed) -> _ => {
                closed = never();
                cease();
                continue;
            }
        };
        let Ok((job, waited)) = next else { return };
        pulse.turn();
        let ticket = job.ticket;
        // What a job changes is behind a lock, whose holder leaves it whole at every moment (see `Shared::lock`).
        if catch_unwind(AssertUnwindSafe(|| run(job, waited))).is_err() {
            log::error!("a job of the API panicked; what it was about is on standard error");
            give_up(ticket);
        }
        pulse.turn();
    }
}

fn failed() -> Problem {
    Problem::internal("the server failed at this request; its log says where")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn a_job_that_panics_is_answered_and_the_next_one_is_done() {
        let (sender, receiver) = bounded(4);
        for number in 0..3 {
            let (ticket, work) = (Ticket(number), Work::Delete(number.to_string()));
            sender.send(ControlJob { ticket, client: Presence::NOBODY, work }).unwrap();
        }
        drop(sender);
        let (done, given_up) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let run = |job: ControlJob, _| match job.ticket {
            Ticket(1) => panic!("on purpose"),
            ticket => done.borrow_mut().push(ticket),
        };
        let (_resume, resumed) = bounded(1);
        let give_up = |ticket| given_up.borrow_mut().push(ticket);
        work_off(&receiver, &resumed, never(), Pulse::unwatched(), run, give_up, || panic!("nothing is closed"));
        assert_eq!(done.into_inner(), [Ticket(0), Ticket(2)]);
        assert_eq!(given_up.into_inner(), [Ticket(1)]);
    }

    #[test]
    fn a_thread_that_has_nothing_to_do_hears_once_that_the_gate_is_closed_and_works_on() {
        let gate = Gate::new(|| {});
        let (sender, receiver) = bounded::<ControlJob>(1);
        let (_resume, resumed) = bounded(1);
        let (tell, told) = bounded(8);
        std::thread::scope(|scope| {
            let closed = gate.closed();
            let cease = || tell.send(None).unwrap();
            let run = |job: ControlJob, _| tell.send(Some(job.ticket)).unwrap();
            scope.spawn(move || work_off(&receiver, &resumed, closed, Pulse::unwatched(), run, |_| (), cease));
            gate.close();
            let next = || told.recv_timeout(Duration::from_secs(60)).unwrap();
            assert_eq!(next(), None);
            let work = Work::Delete("f".to_owned());
            sender.send(ControlJob { ticket: Ticket(1), client: Presence::NOBODY, work }).unwrap();
            assert_eq!(next(), Some(Ticket(1)));
            drop(sender);
        });
        assert!(told.is_empty());
    }
}
