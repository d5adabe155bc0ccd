//! From the first thread to the last: what is stored, the threads that run functions, those of the API, the front, and
//! the place in which that serves.
//!
//! Owns the order in which they are started, each after those that it is given a line to, and in which they are ended.
//! What has to be made while the process has one thread is made before, in [`serve`](super::serve).

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::Arc;

use crate::backend::check::Checker;
use crate::backend::docker::images::ImagesOf;
use crate::backend::runtimes::{AllRuntimes, Images};
use crate::call::FrontEvent;
use crate::config::{Settings, Sources};
use crate::control::{self, ImageSource, Tools};
use crate::doorbell::{Desk, Line};
use crate::egress::Egress;
use crate::front::{Door, Front, Lines, Threshold};
use crate::logs::{FunctionLogs, Opening};
use crate::registry::function::FunctionVersion;
use crate::registry::store::Store;
use crate::reload::{control_settings, front_settings, Parts, Reloader};
use crate::sandbox::cgroup::{CgroupRoot, FigureSource};
use crate::sandbox::host::HostFacts;
use crate::systemd::Notifier;
use crate::takeover::{self, Predecessor, Side};
use crate::watchdog::{Pulse, Watchdog};

use super::containers::{self, Owner};
use super::error::{system, StartError};
use super::succession::Succession;
use super::threads::Threads;

/// What has been made before the first thread.
pub(super) struct Start {
    pub(super) store: Store,
    pub(super) cgroups: CgroupRoot,
    pub(super) side: Arc<Side>,
    pub(super) state_id: String,
    pub(super) line: Line<FrontEvent>,
    pub(super) desk: Desk<FrontEvent>,
    pub(super) door: Door,
    pub(super) predecessor: Option<Predecessor>,
    pub(super) other_groups: CgroupRoot,
}

impl Start {
    /// Everything from the first thread to the last.
    pub(super) fn run(
        self,
        settings: &Settings,
        sources: Sources,
        facts: &HostFacts,
        ready: impl FnOnce(SocketAddr),
    ) -> Result<(), StartError> {
        let Start { store, cgroups, side, state_id, line: front_line, desk, door, predecessor, other_groups } = self;
        let staging = super::staging(&settings.storage_path)
            .map_err(system("make the directory on which sandboxes are built"))?;
        let runtimes = super::runtimes(settings, side.first_uid(), facts, &cgroups, staging)?;
        let stored = Stored::load(&store)?;
        let prospect = containers::prospect(settings, &side);
        let engine = containers::first_health(&prospect);
        let images = Arc::new(Images::default());
        let lack = prospect.as_ref().err().cloned();
        let all_runtimes = Arc::new(AllRuntimes::new(Arc::clone(&runtimes), Arc::clone(&images), lack));
        all_runtimes.learn_all(stored.functions.iter().map(Arc::as_ref));
        let (logs, opening) = stored.open_logs(settings, predecessor.is_some())?;

        let figures = cgroups.figures();
        let address = door.listener.local_addr().map_err(system("ask for the port"))?;
        let notifier = Arc::new(Notifier::from_environment());
        let parts = Parts {
            runtimes: Arc::clone(&runtimes),
            egress: Egress::new(address.port(), settings.outbound_allow.clone()),
            logs: logs.sink(),
            response_bytes_max: Arc::new(AtomicUsize::new(settings.limits.max_response_body_bytes)),
            front: front_line.clone(),
            notifier: Arc::clone(&notifier),
            engine: Arc::clone(&engine),
        };
        let mut watchdog = Watchdog::new();
        let owner = Owner { side: &side, state_id: &state_id };
        let containers = prospect.ok().map(|prospect| (prospect, images));
        let threads = Threads::start(settings, &parts, cgroups, containers, &owner, &mut watchdog)?;

        let tools = tools(&threads, settings, sources, parts, Arc::clone(&all_runtimes), figures);
        let shared = Arc::new(control::Shared::new(store, &stored.functions, control_settings(settings), tools));
        if predecessor.is_none() {
            shared.deploy_declared(&settings.functions);
        }
        let functions = shared.functions();
        let (control, _control_threads) =
            control::start(Arc::clone(&shared), &mut watchdog).map_err(system("start a control thread"))?;

        let lines = Lines {
            workers: threads.workers.clone(),
            supervisor: threads.supervisor.clone(),
            containers: threads.containers(),
            engine,
            control,
            logs: logs.sink(),
            notifier: Arc::clone(&notifier),
            changes: shared.gate(),
        };
        let mut front = Front::new(desk, front_settings(settings), lines, door, all_runtimes, &functions)
            .map_err(system("make the front"))?;
        // Before anything is taken from a predecessor, as is all that may fail.
        let (mut pulse, beat) = Pulse::watched();
        watchdog.watch("front", beat, front_line.bell());
        let watch = watchdog.start(Arc::clone(&notifier)).map_err(system("start the watchdog"))?;
        let entered = match (predecessor, opening) {
            (Some(predecessor), Some(opening)) => {
                let (tell, readiness) = crossbeam_channel::bounded(1);
                let threshold = Arc::new(Threshold::default());
                let succession = Succession {
                    predecessor,
                    state: settings.storage_path.clone(),
                    side: Arc::clone(&side),
                    other_groups,
                    shared: Arc::clone(&shared),
                    declared: settings.functions.clone(),
                    opening,
                    logs: logs.sink(),
                    front: front_line,
                    readiness,
                    threshold: Arc::clone(&threshold),
                };
                let started = succession.start().map_err(system("start the thread that takes over"));
                started.and_then(|_thread| front.prepare(tell, threshold, &mut pulse).map_err(StartError::Takeover))
            }
            _ => front.listen().map_err(system("watch the listener")),
        };
        let result = entered.map(|()| {
            ready(address);
            notifier.ready(address);
            serve(&mut front, pulse, settings);
        });
        threads.end();
        // The end of the threads was watched, too.
        drop(watch);
        result
    }
}

/// Serves until the front ends.
fn serve(front: &mut Front, pulse: Pulse, settings: &Settings) {
    front.run(pulse);
    if front.has_ceded() {
        log::info!("everything is answered that was begun here");
    } else {
        takeover::socket::remove(&settings.storage_path);
    }
    log::info!("stopped");
}

/// The functions that the store has.
struct Stored {
    functions: Vec<Arc<FunctionVersion>>,
    /// Names of those that are not served.
    refused: Vec<String>,
}

impl Stored {
    fn load(store: &Store) -> Result<Stored, StartError> {
        let loaded = store.load_all().map_err(StartError::Store)?;
        for refused in &loaded.refused {
            log::error!("function {} is not served: {}", refused.name, refused.reason);
        }
        Ok(Stored {
            functions: loaded.functions.into_iter().map(Arc::new).collect(),
            refused: loaded.refused.into_iter().map(|refused| refused.name).collect(),
        })
    }

    fn has(&self, name: &str) -> bool {
        self.functions.iter().any(|function| function.name == name)
            || self.refused.iter().any(|refused| refused == name)
    }

    /// Starts the thread of function logs. Where a predecessor still writes their files, these are left to be opened later.
    fn open_logs(
        &self,
        settings: &Settings,
        is_successor: bool,
    ) -> Result<(FunctionLogs, Option<Opening>), StartError> {
        let (logs, opening) = FunctionLogs::start_closed(&settings.storage_path, settings.limits.max_log_entries)
            .map_err(StartError::Logs)?;
        if is_successor {
            return Ok((logs, Some(opening)));
        }
        opening.open(|name| self.has(name)).map_err(StartError::Logs)?;
        Ok((logs, None))
    }
}

/// What control threads work with.
fn tools(
    threads: &Threads,
    settings: &Settings,
    sources: Sources,
    parts: Parts,
    runtimes: Arc<AllRuntimes>,
    figures: FigureSource,
) -> Tools {
    let checker = Checker::new(Arc::clone(&parts.runtimes), threads.supervisor.clone(), threads.containers());
    let images = threads.containers().map(|containers| {
        let registry_auth = settings.registry_auth.clone();
        let images: Box<dyn ImageSource> = Box::new(ImagesOf { containers, checker: checker.clone(), registry_auth });
        images
    });
    let verdicts = settings.storage_path.join("image_scans.json");
    let (logs, front) = (parts.logs.clone(), parts.front.clone());
    let reloader = Reloader::new(sources, settings.clone(), parts);
    Tools { figures, checker, runtimes, images, verdicts, logs, front, reloader }
}
