//! `faas --check-system`: what this host offers, layer by layer, and a sandbox built to prove it.

use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Instant;

use crate::backend::process::check::Checker;
use crate::backend::process::runtimes::Runtimes;
use crate::backend::process::supervisor::{self, SupervisorJob, SupervisorSettings};
use crate::call::FrontEvent;
use crate::cli;
use crate::config::{ContainerRuntime, Settings};
use crate::doorbell::line;
use crate::limits::SUPERVISOR_QUEUE_MAX;
use crate::registry::function::ExecutionMode;
use crate::registry::settings::FunctionSettings;
use crate::sandbox::cgroup::CgroupRoot;
use crate::sandbox::host::{HostFacts, Report, Status};
use crate::server::{self, StartError};

/// The system's socket of the Docker daemon.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// Prints the report. Must run in a process with one thread. `true` when process mode can run.
pub fn check(settings: &Settings) -> bool {
    // A name of its own, so that a server on the same state is not disturbed.
    let name = format!("check-{}", std::process::id());
    let cgroups = match CgroupRoot::prepare(&name) {
        Ok(cgroups) => cgroups,
        Err(error) => {
            cli::say(&format!("failed    cgroups  {error}\n"));
            return false;
        }
    };
    let facts = HostFacts::probe(&cgroups);
    let mut report = facts.report(settings.isolation);
    let _ = crate::sys::process::adopt_orphans();
    // A directory of its own: a look at the host makes no state.
    let staging = std::env::temp_dir().join(format!("faas-{name}"));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&staging);
    let made = made.map_err(|source| StartError::System { action: "make a temporary directory", source });
    match made.and_then(|()| server::runtimes(settings, &cgroups, staging.clone())) {
        Ok(runtimes) => {
            let id = runtimes.known(crate::registry::settings::RUNTIME_DEFAULT);
            report.ok("interpreter", id.map(|id| runtimes.name(id)).unwrap_or_default());
            try_sandbox(runtimes, cgroups, &mut report);
        }
        Err(error) => {
            report.bad(
                Status::Failed,
                "interpreter",
                error.to_string(),
                "install Python 3.8 or newer, or set system.python",
            );
            let _ = cgroups.remove();
        }
    }
    let _ = std::fs::remove_dir(&staging);
    container(settings, &mut report);
    cli::say(&report.render());
    report.worst() != Status::Failed
}

/// Builds a sandbox the way a function gets one, and has it compile a line.
fn try_sandbox(runtimes: Arc<Runtimes>, cgroups: CgroupRoot, report: &mut Report) {
    let outcome = (|| {
        let (front, _events) = line::<FrontEvent>(16).map_err(|error| error.to_string())?;
        let (supervisor, desk) = line(SUPERVISOR_QUEUE_MAX).map_err(|error| error.to_string())?;
        let settings = SupervisorSettings { runtimes: Arc::clone(&runtimes), cgroups: Some(cgroups), slots_max: 0 };
        let thread = supervisor::start(supervisor.clone(), desk, settings, Vec::new(), front)
            .map_err(|error| error.to_string())?;
        let config = FunctionSettings::default().resolve(ExecutionMode::Process).map_err(|error| error.to_string())?;
        let checker = Checker::new(runtimes, supervisor.clone());
        let first = checker.check("def handle(request): pass", &config).map_err(|error| error.to_string());
        let started = Instant::now();
        let outcome = first.and_then(|()| {
            checker.check("def handle(request): pass", &config).map_err(|error| error.to_string())?;
            Ok(started.elapsed())
        });
        let _ = supervisor.send(SupervisorJob::Shutdown);
        let _ = thread.join();
        outcome
    })();
    match outcome {
        Ok(elapsed) => {
            let ms = elapsed.as_secs_f64() * 1e3;
            report.ok("sandbox", format!("built, used and removed in {ms:.1} ms"));
        }
        Err(error) => {
            report.bad(Status::Failed, "sandbox", error, "mend the lines above; the server's log has the details");
        }
    }
}

fn container(settings: &Settings, report: &mut Report) {
    let (detail, mend) = match settings.container_runtime {
        ContainerRuntime::Disabled => ("switched off by the configuration", "set system.container_runtime: docker"),
        ContainerRuntime::Docker if !std::path::Path::new(DOCKER_SOCKET).exists() => {
            ("no Docker daemon on this host, and not part of this version", "not needed for process mode")
        }
        ContainerRuntime::Docker => ("not part of this version", "use process mode"),
    };
    report.bad(Status::Degraded, "container mode", detail, mend);
}
