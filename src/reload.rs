//! From the configuration to what the parts of the server take of it: at the start, and again when it is read anew.
//!
//! Owns which part is told what. Does not own which keys may change while the server runs (`config::Changes`), nor the
//! job that asks for a reload (`control::reload`).
//!
//! Invariant: everything that can be refused is found out before the first part is told anything.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::auth::{well_known_keys, KeyEntry, KeyRing, KeyRingError, Scope};
use crate::backend::docker::health::Health;
use crate::backend::process::runtimes::Runtimes;
use crate::call::FrontEvent;
use crate::config::{ApiScope, Changes, ConfigError, Settings, Sources};
use crate::control::ControlSettings;
use crate::doorbell::Line;
use crate::egress::Egress;
use crate::front::{scheduled_idle_ttl, FrontSettings, FrontUpdate};
use crate::limits::RELOAD_FRONT_TIMEOUT;
use crate::logs::LogSink;
use crate::scheduler::SchedulerLimits;
use crate::server_log;
use crate::systemd::{Notifier, Reloading};

/// Why a configuration was not taken. Nothing has changed then.
#[derive(Debug)]
pub enum ReloadError {
    /// It cannot be read, or says what cannot be.
    Config(ConfigError),
    /// Two API keys are the same.
    Keys(KeyRingError),
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::Config(error) => error.fmt(f),
            ReloadError::Keys(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReloadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReloadError::Config(error) => Some(error),
            ReloadError::Keys(error) => Some(error),
        }
    }
}

/// The parts that take new settings while they run.
pub struct Parts {
    /// Which networks functions may have.
    pub runtimes: Arc<Runtimes>,
    /// What they may reach in them.
    pub egress: Arc<Egress>,
    /// How much of function logs is kept in memory.
    pub logs: LogSink,
    /// Largest answer of a function, for instances that start from now on.
    pub response_bytes_max: Arc<AtomicUsize>,
    /// Keys, connections, and the scheduler.
    pub front: Line<FrontEvent>,
    /// What is known of the container engine.
    pub engine: Arc<Health>,
    /// Who watches over this process, and is told of reloads.
    pub notifier: Arc<Notifier>,
}

/// Reads the configuration again, and has the parts take it.
pub struct Reloader {
    sources: Sources,
    /// What rules now.
    settings: Settings,
    parts: Parts,
}

impl Reloader {
    /// For a server that was started with these settings from these sources.
    pub fn new(sources: Sources, settings: Settings, parts: Parts) -> Self {
        Reloader { sources, settings, parts }
    }

    /// Tells who watches over this process that a reload begins, and when the result is dropped that it is over.
    pub fn announce(&self) -> Reloading {
        self.parts.notifier.reloading()
    }

    /// Takes what the configuration says now, all but its functions, which are the caller's to deploy. Blocks.
    ///
    /// # Errors
    /// Why the configuration is refused; then nothing is changed.
    pub fn reload(&mut self) -> Result<Changes, ReloadError> {
        let wanted = self.sources.load().map_err(ReloadError::Config)?;
        let changes = self.settings.reloaded(wanted).map_err(ReloadError::Config)?;
        let keys = key_ring(&changes.settings).map_err(ReloadError::Keys)?;
        // From here on nothing is refused.
        warn_of_missing_scopes(&keys);
        self.tell(&changes.settings, keys);
        self.settings = changes.settings.clone();
        Ok(changes)
    }

    fn tell(&self, settings: &Settings, keys: KeyRing) {
        let parts = &self.parts;
        server_log::set_level(settings.log_level);
        parts.response_bytes_max.store(settings.limits.max_response_body_bytes, Ordering::Relaxed);
        parts.egress.except(settings.outbound_allow.clone());
        if settings.limits.max_log_entries != self.settings.limits.max_log_entries {
            if let Err(error) = parts.logs.bound(settings.limits.max_log_entries) {
                log::error!("limits.max_log_entries does not take effect: {error}");
            }
        }
        // Before the front, which looks at it for each of its functions.
        parts.runtimes.allow(settings.allowed_networks.clone());
        let (applied, is_applied) = bounded(1);
        let update = Box::new(FrontUpdate { settings: front_settings(settings), keys, applied });
        if parts.front.send(FrontEvent::Reload(update)).is_err() {
            log::debug!("the front has ended; it takes no new settings");
            return;
        }
        // So that who was told of the reload finds it in force: a key that went is not taken any more.
        if is_applied.recv_timeout(RELOAD_FRONT_TIMEOUT).is_err() {
            log::warn!("the front has not taken the new settings within {RELOAD_FRONT_TIMEOUT:?}");
        }
    }
}

/// What the front is to know.
pub(crate) fn front_settings(settings: &Settings) -> FrontSettings {
    FrontSettings {
        connections_max: settings.limits.max_connections,
        request_body_bytes_max: settings.limits.max_request_body_bytes,
        scheduler: scheduler_limits(settings),
        shutdown_grace: settings.shutdown_grace,
        isolation: settings.isolation.to_string(),
    }
}

/// What the control threads are to know.
pub(crate) fn control_settings(settings: &Settings) -> ControlSettings {
    let declared = settings.functions.iter().map(|declared| (declared.name.clone(), declared.settings.clone()));
    ControlSettings {
        default_mode: settings.default_mode,
        declared: declared.collect(),
        functions_max: settings.limits.max_functions,
        base_image: settings.base_image.clone(),
        image_scan: settings.image_scan.clone(),
        image_scan_timeout: settings.image_scan_timeout,
        image_scan_max_age: settings.image_scan_max_age,
        slots_max: settings.slots_max,
    }
}

/// Who may call.
pub(crate) fn key_ring(settings: &Settings) -> Result<KeyRing, KeyRingError> {
    let mut entries = if settings.well_known_keys { well_known_keys() } else { Vec::new() };
    entries.extend(settings.api_keys.iter().map(|key| {
        KeyEntry {
            name: key.name.clone(),
            sha256: key.sha256,
            scopes: key
                .scopes
                .iter()
                .map(|scope| match scope {
                    ApiScope::Invoke => Scope::Invoke,
                    ApiScope::Manage => Scope::Manage,
                    ApiScope::Admin => Scope::Admin,
                })
                .collect(),
        }
    }));
    KeyRing::new(entries)
}

/// Says in the log what nobody can do for want of a key: that is allowed, and rarely meant.
pub(crate) fn warn_of_missing_scopes(keys: &KeyRing) {
    let missing = keys.scopes_of_nobody();
    if missing.len() == Scope::ALL.len() {
        log::warn!(
            "there is no API key: nobody can call a function or anything else that needs a key; system.api_keys \
                    makes some"
        );
        return;
    }
    for scope in missing {
        let what = match scope {
            Scope::Invoke => "call functions",
            Scope::Manage => "see or change functions over the API",
            Scope::Admin => "reload the configuration over the API (SIGHUP does it)",
        };
        log::warn!("no key of system.api_keys has the scope {}: nobody can {what}", scope.as_str());
    }
}

fn scheduler_limits(settings: &Settings) -> SchedulerLimits {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    SchedulerLimits {
        slots_max: settings.slots_max,
        pool_size: settings.pool_size,
        container_pool_size: settings.container_pool_size,
        queue_per_function_max: settings.limits.max_queue_per_function,
        queue_wait_max_ns: ns(settings.limits.max_queue_wait),
        invocations_max: settings.limits.max_invocations,
        idle_ttl: scheduled_idle_ttl(settings.warm_instance_ttl),
        cold_start_timeout_ns: ns(settings.cold_start_timeout),
        drain_timeout_ns: ns(settings.drain_timeout),
        shutdown_grace_ns: ns(settings.shutdown_grace),
        ..SchedulerLimits::default()
    }
}
