//! `faas --check-system`: what this host offers, layer by layer, and a sandbox built to prove it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::backend::check::Checker;
use crate::backend::docker::probe;
use crate::backend::process::runtimes::Runtimes;
use crate::backend::process::supervisor::{self, SupervisorJob, SupervisorSettings};
use crate::call::FrontEvent;
use crate::cli;
use crate::config::{engine_socket, environment, Settings};
use crate::doorbell::line;
use crate::egress::Egress;
use crate::limits::SUPERVISOR_QUEUE_MAX;
use crate::registry::function::ExecutionMode;
use crate::registry::settings::FunctionSettings;
use crate::sandbox::cgroup::CgroupRoot;
use crate::sandbox::host::{HostFacts, Report, Status};
use crate::server;
use crate::watchdog::Pulse;

/// Prints the report, and with `verbose` the sandbox in every detail. Must run in a process with one thread. `true` when
/// process mode can run.
pub fn check(settings: &Settings, verbose: bool) -> bool {
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
    let staging = match Staging::make() {
        Ok(staging) => staging,
        Err(error) => {
            let place = std::env::temp_dir();
            cli::say(&format!("failed    sandbox  cannot make a directory in {}: {error}\n", place.display()));
            let _ = cgroups.remove();
            return false;
        }
    };
    let mut details = Vec::new();
    match server::runtimes(settings, settings.sandbox_uid_base, &facts, &cgroups, staging.0.clone()) {
        Ok(runtimes) => {
            let id = runtimes.known(crate::registry::settings::RUNTIME_DEFAULT);
            report.ok("interpreter", id.map(|id| runtimes.name(id)).unwrap_or_default());
            let description = id.filter(|_| verbose).and_then(|id| runtimes.description(id));
            details.extend(description.iter().flat_map(|description| description.lines()));
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
    drop(staging);
    container(settings, &mut report);
    cli::say(&report.render());
    if !details.is_empty() {
        cli::say(&(details.join("\n") + "\n"));
    }
    report.worst() != Status::Failed
}

/// An empty directory to build the sandbox on, removed afterwards. Not in the state directory: looking makes nothing
/// there, with rights that a server would not have given it, and works whoever the state belongs to.
struct Staging(PathBuf);

impl Staging {
    fn make() -> io::Result<Self> {
        Ok(Self(nix::unistd::mkdtemp(&std::env::temp_dir().canonicalize()?.join("faas-check-XXXXXX"))?))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Builds a sandbox the way a function gets one, and has it compile a line.
fn try_sandbox(runtimes: Arc<Runtimes>, cgroups: CgroupRoot, report: &mut Report) {
    let outcome = (|| {
        let (front, _events) = line::<FrontEvent>(16).map_err(|error| error.to_string())?;
        let (supervisor, desk) = line(SUPERVISOR_QUEUE_MAX).map_err(|error| error.to_string())?;
        let settings = SupervisorSettings {
            runtimes: Arc::clone(&runtimes),
            cgroups: Some(cgroups),
            // Nothing connects while a line is compiled.
            egress: Egress::new(0, Vec::new()),
            slots_max: 0,
            pulse: Pulse::unwatched(),
        };
        let thread = supervisor::start(supervisor.clone(), desk, settings, Vec::new(), front)
            .map_err(|error| error.to_string())?;
        let config = FunctionSettings::default().resolve(ExecutionMode::Process).map_err(|error| error.to_string())?;
        let checker = Checker::new(runtimes, supervisor.clone(), None);
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
    const NOT_NEEDED: &str = "not needed for process mode";
    let (detail, mend) = match engine_socket(settings, nix::unistd::geteuid().is_root(), &environment) {
        Ok(None) => ("switched off by the configuration".to_owned(), "set system.container_runtime: docker"),
        Ok(Some(socket)) => match probe::version(socket) {
            Ok(version) => return report.ok("container mode", format!("{} (API {})", version.name, version.api)),
            Err(error) => (error.to_string(), NOT_NEEDED),
        },
        Err(error) => (error.to_string(), NOT_NEEDED),
    };
    report.bad(Status::Degraded, "container mode", detail, mend);
}
