//! Container mode as the server has it: whether there can be containers, and the thread that makes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::backend::docker::files;
use crate::backend::docker::hardening::SecurityLabel;
use crate::backend::docker::health::{EngineState, Health};
use crate::backend::docker::job::ContainerJob;
use crate::backend::docker::profiles::Profiles;
use crate::backend::docker::supervisor::{self, ContainerSettings};
use crate::backend::runtimes::Images;
use crate::call::WorkerJob;
use crate::config::{engine_socket, environment, Settings};
use crate::doorbell::{line, Line};
use crate::limits::CONTAINERS_QUEUE_MAX;
use crate::reload::Parts;
use crate::takeover::Side;
use crate::watchdog::{Pulse, Watchdog};

use super::error::{system, StartError};

/// What container mode needs of this host, found out before the first thread.
pub(super) struct Prospect {
    socket: PathBuf,
    directory: PathBuf,
    profiles: Profiles,
}

/// The thread, and the line to it.
pub(super) struct Containers {
    pub(super) line: Line<ContainerJob>,
    thread: JoinHandle<()>,
}

/// Whether there can be containers, or why not, in words that anybody may read. The engine is not asked: it may come later.
pub(super) fn prospect(settings: &Settings, side: &Side) -> Result<Prospect, String> {
    let is_root = nix::unistd::geteuid().is_root();
    let socket = match engine_socket(settings, is_root, &environment) {
        Ok(Some(socket)) => socket,
        Ok(None) => return Err("container mode is switched off on this server".to_owned()),
        Err(error) => {
            log::warn!("there are no containers: {error}");
            return Err("this server has no container engine".to_owned());
        }
    };
    let directory = directory(&settings.storage_path, side.number());
    let prepared = files::prepare(&directory).and_then(|()| Profiles::prepare(&directory));
    match prepared {
        Ok(profiles) => Ok(Prospect { socket, directory, profiles }),
        Err(error) => {
            log::error!("there are no containers: {} cannot be prepared: {error}", directory.display());
            Err("this server cannot prepare containers; its log says why".to_owned())
        }
    }
}

/// Two servers that share a state directory for a moment have one each.
fn directory(state: &Path, side: u32) -> PathBuf {
    state.join(format!("containers.{side}"))
}

/// What is known of the engine before it has been asked.
pub(super) fn first_health(prospect: &Result<Prospect, String>) -> Arc<Health> {
    Arc::new(Health::new(match prospect {
        Ok(_) => EngineState::Unknown,
        Err(reason) => EngineState::Disabled { reason: reason.clone() },
    }))
}

impl Containers {
    /// Starts the thread.
    pub(super) fn start(
        prospect: Prospect,
        settings: &Settings,
        parts: &Parts,
        images: Arc<Images>,
        watchdog: &mut Watchdog,
        workers: Vec<Line<WorkerJob>>,
        of: &Owner<'_>,
    ) -> Result<Containers, StartError> {
        let (own, desk) = line(CONTAINERS_QUEUE_MAX).map_err(system("make a queue"))?;
        let (pulse, beat) = Pulse::watched();
        watchdog.watch("faas-containers", beat, own.bell());
        let container_settings = ContainerSettings {
            socket: prospect.socket,
            images,
            egress: Arc::clone(&parts.egress),
            slots_max: settings.slots_max as u32,
            uid_base: of.side.first_uid(),
            server: of.state_id.to_owned(),
            side: of.side.number(),
            incarnation: format!("{:x}", crate::clock::unix_ms()),
            sides: Arc::clone(of.side),
            directory: prospect.directory,
            profiles: prospect.profiles,
            security_label: settings.container_security_label.as_deref().map(security_label),
            health: Arc::clone(&parts.engine),
            pulse,
        };
        let thread = supervisor::start(own.clone(), desk, container_settings, workers, parts.front.clone())
            .map_err(system("start the thread of the containers"))?;
        Ok(Containers { line: own, thread })
    }

    /// Removes every container. The workers have ended by then.
    pub(super) fn end(self) {
        let _ = self.line.send(ContainerJob::Shutdown);
        let _ = self.thread.join();
    }
}

/// Whose containers they are.
pub(super) struct Owner<'a> {
    pub(super) side: &'a Arc<Side>,
    pub(super) state_id: &'a str,
}

/// As engines spell it: `label=type:NAME` for SELinux, otherwise the name of an AppArmor profile.
fn security_label(text: &str) -> SecurityLabel {
    match text.strip_prefix("label=type:").or_else(|| text.strip_prefix("label:type:")) {
        Some(name) => SecurityLabel::SelinuxType(name.to_owned()),
        None => SecurityLabel::AppArmor(text.strip_prefix("apparmor=").unwrap_or(text).to_owned()),
    }
}
