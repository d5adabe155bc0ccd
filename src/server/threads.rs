//! The threads that run functions: workers, supervisor and the containers' thread, started together and ended in their
//! order.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::backend::docker::job::ContainerJob;
use crate::backend::process::supervisor::{self, SupervisorJob, SupervisorSettings};
use crate::backend::runtimes::Images;
use crate::call::WorkerJob;
use crate::config::Settings;
use crate::doorbell::{line, Line};
use crate::limits::SUPERVISOR_QUEUE_MAX;
use crate::reload::Parts;
use crate::sandbox::cgroup::CgroupRoot;
use crate::watchdog::{Pulse, Watchdog};
use crate::worker::{self, WorkerSettings};

use super::containers::{Containers, Owner, Prospect};
use super::error::{system, StartError};

/// Workers, supervisor and the containers' thread, and the lines to them.
pub(super) struct Threads {
    pub(super) workers: Vec<Line<WorkerJob>>,
    pub(super) supervisor: Line<SupervisorJob>,
    containers: Option<Containers>,
    worker_threads: Vec<JoinHandle<()>>,
    supervisor_thread: JoinHandle<()>,
}

impl Threads {
    pub(super) fn start(
        settings: &Settings,
        parts: &Parts,
        cgroups: CgroupRoot,
        containers: Option<(Prospect, Arc<Images>)>,
        owner: &Owner<'_>,
        watchdog: &mut Watchdog,
    ) -> Result<Threads, StartError> {
        let cpus = allowed_cpus();
        let mut workers = Vec::new();
        let mut worker_threads = Vec::new();
        for number in 0..settings.workers {
            // Counted from the end, since interrupts and everybody else's threads gather on the first.
            let cpu = cpus.iter().rev().cycle().nth(number).copied().filter(|_| settings.pin_workers);
            let (pulse, beat) = Pulse::watched();
            let response_bytes_max = Arc::clone(&parts.response_bytes_max);
            let worker_settings = WorkerSettings { cpu, response_bytes_max, pulse };
            let (jobs, thread) = worker::start(number, worker_settings, parts.front.clone(), parts.logs.clone())
                .map_err(system("start a worker thread"))?;
            watchdog.watch(format!("faas-worker-{number}"), beat, jobs.bell());
            workers.push(jobs);
            worker_threads.push(thread);
        }
        let (supervisor, desk) = line(SUPERVISOR_QUEUE_MAX).map_err(system("make a queue"))?;
        let (pulse, beat) = Pulse::watched();
        watchdog.watch("faas-supervisor", beat, supervisor.bell());
        let supervisor_settings = SupervisorSettings {
            runtimes: Arc::clone(&parts.runtimes),
            cgroups: Some(cgroups),
            egress: Arc::clone(&parts.egress),
            slots_max: settings.slots_max as u32,
            pulse,
        };
        let supervisor_thread =
            supervisor::start(supervisor.clone(), desk, supervisor_settings, workers.clone(), parts.front.clone())
                .map_err(system("start the supervisor thread"))?;
        let containers = containers
            .map(|(prospect, images)| {
                Containers::start(prospect, settings, parts, images, watchdog, workers.clone(), owner)
            })
            .transpose()?;
        Ok(Threads { workers, supervisor, containers, worker_threads, supervisor_thread })
    }

    /// The line to the containers' thread, where there is one.
    pub(super) fn containers(&self) -> Option<Line<ContainerJob>> {
        self.containers.as_ref().map(|containers| containers.line.clone())
    }

    /// Ends every instance, then what is left of containers and the zygotes, then the threads.
    pub(super) fn end(self) {
        for worker in &self.workers {
            let _ = worker.send(WorkerJob::Shutdown);
        }
        for thread in self.worker_threads {
            let _ = thread.join();
        }
        if let Some(containers) = self.containers {
            containers.end();
        }
        let _ = self.supervisor.send(SupervisorJob::Shutdown);
        let _ = self.supervisor_thread.join();
    }
}

fn allowed_cpus() -> Vec<usize> {
    let this_thread = nix::unistd::Pid::from_raw(0);
    let Ok(set) = nix::sched::sched_getaffinity(this_thread) else { return vec![0] };
    (0..nix::sched::CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()
}
