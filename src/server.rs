//! The server as a whole: starts the parts in the order in which they need each other, and ends them in reverse.
//!
//! Order matters before the first thread is there: the store's lock comes first, because who holds it owns the state;
//! then a side of it (`takeover::side`), which names the cgroups and the users of sandboxes; then the address, so that a
//! server that cannot listen changes nothing; then what may only be asked of a process with one thread
//! (`HostFacts::probe`). Nobody is answered before the functions of the configuration file are deployed: who connects
//! earlier waits in the listener's queue.
//!
//! A server that takes over gets the lock and, unless it is to listen elsewhere, the listener from its predecessor, and
//! starts all the same; what it may not do while that one serves is in `succession`. What follows the first thread is in
//! `start`.

mod containers;
mod error;
mod start;
mod succession;
mod threads;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mio::net::TcpListener;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sha2::{Digest, Sha256};

use crate::backend::process::runtimes::{Runtimes, SandboxSettings};
use crate::call::FrontEvent;
use crate::config::{IsolationLevel, Settings, Sources};
use crate::doorbell::line;
use crate::front::{Door, Estate};
use crate::limits::{CONNECTIONS_WAITING_MAX, FRONT_QUEUE_MAX, TAKEOVER_SIDE_TIMEOUT};
use crate::registry::settings::RUNTIME_DEFAULT;
use crate::registry::store::{Store, StoreError};
use crate::reload::{key_ring, warn_of_missing_scopes};
use crate::sandbox::cgroup::CgroupRoot;
use crate::sandbox::host::HostFacts;
use crate::sandbox::plan::Privilege;
use crate::server_log;
use crate::sys;
use crate::takeover::{self, Predecessor, Side, TakeoverError};
use crate::upgrade::Launcher;

pub use error::StartError;

use error::system;
use start::Start;

/// Serves until the server is asked to stop. With `takeover` it takes the place of the server that runs on the same
/// state, if there is one. Calls `ready` with the address once it listens. `sources` is where the settings come from, and
/// where they are looked for again at a reload.
///
/// # Errors
/// When it cannot start; nothing of it is left then, and a server that runs goes on.
pub fn serve(
    settings: &Settings,
    sources: Sources,
    takeover: bool,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), StartError> {
    // Signals are read from a descriptor, so every thread must block them: this one first.
    let signals = block_signals().map_err(system("read signals"))?;
    let launcher = Launcher::capture().map_err(system("find the path of this program"))?;
    let keys = key_ring(settings).map_err(StartError::Keys)?;
    let mut predecessor = match takeover {
        true => Predecessor::greet(&settings.storage_path).map_err(StartError::Takeover)?,
        false => None,
    };
    let store = match predecessor.as_mut().and_then(Predecessor::take_lock) {
        Some(lock) => Store::open_beside(&settings.storage_path, lock),
        None => Store::open(&settings.storage_path),
    };
    let store = store.map_err(|error| match error {
        // To name --takeover as the way, as is done otherwise, would be of no help.
        StoreError::Locked { holder_pid, .. } if takeover => {
            StartError::Takeover(TakeoverError::Deaf { pid: holder_pid })
        }
        error => StartError::Store(error),
    })?;
    // Without a predecessor nobody can be in the way but one that was taken over from and then killed its successor.
    let side = claim_side(settings, predecessor.as_ref(), &signals).map_err(StartError::Takeover)?;
    let listener = listener(settings, predecessor.as_mut())?;
    let state_id = state_id(&settings.storage_path);
    let mut cgroups = CgroupRoot::prepare(&side.group_name(&state_id)).map_err(StartError::Cgroups)?;
    let facts = HostFacts::probe(&cgroups);
    let missing = facts.missing_for(settings.isolation);
    let fatal = settings.isolation == IsolationLevel::Strict || missing.iter().any(|missing| missing.essential);
    if fatal && !missing.is_empty() {
        let _ = cgroups.remove();
        return Err(StartError::Isolation { level: settings.isolation, missing });
    }
    let log_guard = server_log::init(settings.log_level).map_err(StartError::ServerLog)?;
    match &predecessor {
        Some(old) => log::info!("taking over from process {} (version {})", old.pid(), old.version()),
        None if takeover => log::info!("no server runs on this state directory: starting without taking over"),
        None => {}
    }
    report_isolation(settings, &facts);
    warn_of_missing_scopes(&keys);
    let swept = cgroups.sweep().map_err(StartError::Cgroups)?;
    if swept > 0 {
        log::warn!("removed {swept} cgroups that a killed server had left");
    }
    let other_groups = cgroups.beside(&side.other_group_name(&state_id));
    if let Some(_free) = side.other_if_free().map_err(system("lock a side of the state directory"))? {
        sweep_other(&other_groups);
    }
    cgroups.leave_out(settings.sandbox_without);
    sys::process::adopt_orphans().map_err(system("adopt orphaned processes"))?;
    let descriptors = sys::process::raise_open_files_limit().map_err(system("raise the limit of open files"))?;
    log::debug!("{descriptors} descriptors may be open");

    let (line, desk) = line::<FrontEvent>(FRONT_QUEUE_MAX).map_err(system("make a queue"))?;
    let socket = match predecessor {
        // Its own, until this server has taken its place.
        Some(_) => None,
        None => takeover::socket::listen_in(&settings.storage_path)
            .inspect_err(|error| log::error!("this server cannot be taken over from: {error}"))
            .ok(),
    };
    let lock = store.share_lock().map_err(system("share the lock of the state directory"))?;
    let estate = Estate { lock, socket, line: line.clone() };
    let start = Start {
        store,
        cgroups,
        side: Arc::new(side),
        state_id,
        line,
        desk,
        door: Door { listener, keys, signals, estate, launcher },
        predecessor,
        other_groups,
    };
    let result = start.run(settings, sources, &facts, ready);
    log_guard.flush();
    result
}

/// Takes a side of the state directory. While it waits for one, it says so, and a signal to stop ends it.
fn claim_side(
    settings: &Settings,
    predecessor: Option<&Predecessor>,
    signals: &SignalFd,
) -> Result<Side, TakeoverError> {
    let mut has_said = false;
    let mut go_on = |pid: Option<u32>| {
        if !std::mem::replace(&mut has_said, true) {
            let process = pid.map(|pid| format!(", process {pid},")).unwrap_or_default();
            // There is no log yet: its thread would be in the way of what follows.
            crate::cli::complain(&format_args!(
                "the server before the one that serves{process} still finishes its calls; waiting for it, \
                 {TAKEOVER_SIDE_TIMEOUT:?} at most"
            ));
        }
        let ends = |number: u32| [Signal::SIGTERM, Signal::SIGINT].iter().any(|&signal| signal as u32 == number);
        !matches!(signals.read_signal(), Ok(Some(signal)) if ends(signal.ssi_signo))
    };
    let serving = predecessor.map(Predecessor::pid);
    Side::claim(&settings.storage_path, settings.sandbox_uid_base, TAKEOVER_SIDE_TIMEOUT, serving, &mut go_on)
}

/// Removes what a server that was killed has left on the other side.
fn sweep_other(groups: &CgroupRoot) {
    match groups.sweep_all() {
        Ok(0) => {}
        Ok(swept) => log::warn!("removed {swept} cgroups that a killed server had left"),
        Err(error) => log::warn!("cgroups of a killed server are left behind: {error}"),
    }
}

/// What this server listens on: the socket of its predecessor, or one of its own.
fn listener(settings: &Settings, predecessor: Option<&mut Predecessor>) -> Result<TcpListener, StartError> {
    let address = SocketAddr::new(settings.host, settings.port);
    let inherited = predecessor.map_or(Ok(None), |predecessor| predecessor.take_listener(address));
    match inherited.map_err(system("listen on the socket of the server that serves"))? {
        Some(listener) => Ok(TcpListener::from_std(listener)),
        None => listen(address).map_err(|source| StartError::Bind { address, source }),
    }
}

/// Interpreters and sandbox plans as this host and configuration give them; the default interpreter is resolved.
/// `first_uid` is the host user of slot 0. `staging` is an empty directory: each sandbox builds its tree on it, where
/// nobody outside sees it.
pub(crate) fn runtimes(
    settings: &Settings,
    first_uid: u32,
    facts: &HostFacts,
    cgroups: &CgroupRoot,
    staging: PathBuf,
) -> Result<Arc<Runtimes>, StartError> {
    let sandbox = SandboxSettings {
        privilege: privilege(),
        required: facts.required_layers(settings.isolation),
        without: settings.sandbox_without,
        missing: facts.missing_layers(),
        uid_base: first_uid,
        cgroup_fds: cgroups.hierarchies() as u32,
        staging,
        allowed_networks: settings.allowed_networks.clone(),
        outbound_lacks: facts.outbound_lacks(settings.sandbox_without),
    };
    let mut configured = settings.runtimes.clone();
    configured.insert(RUNTIME_DEFAULT.to_owned(), settings.python.clone());
    let runtimes = Arc::new(Runtimes::new(sandbox, configured));
    let id = runtimes.resolve(RUNTIME_DEFAULT).map_err(StartError::Runtime)?;
    log::info!("functions run on {}", runtimes.name(id));
    Ok(runtimes)
}

fn privilege() -> Privilege {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if uid.is_root() {
        Privilege::Root
    } else {
        Privilege::Unprivileged { uid: uid.as_raw(), gid: gid.as_raw() }
    }
}

fn staging(storage: &Path) -> std::io::Result<PathBuf> {
    let staging = storage.join("tree");
    std::fs::create_dir_all(&staging)?;
    staging.canonicalize()
}

fn report_isolation(settings: &Settings, facts: &HostFacts) {
    match settings.isolation {
        IsolationLevel::Strict if facts.missing_layers().is_empty() => {
            log::debug!("isolation strict: every layer is there");
        }
        IsolationLevel::Strict => log::info!("isolation strict, without {}", facts.missing_layers()),
        level => {
            for missing in facts.missing_for(IsolationLevel::Strict) {
                log::warn!("isolation {level}: running without {missing}");
            }
        }
    }
    if !settings.sandbox_without.is_empty() {
        log::warn!("sandbox_without: running without {}", settings.sandbox_without);
    }
    if settings.isolation == IsolationLevel::None {
        log::warn!("process_isolation_level is none: functions are NOT isolated from this host; for development only");
    }
}

/// Names the state directory in the names of cgroups, so that a server finds what its predecessor left.
pub(crate) fn state_id(storage: &Path) -> String {
    let path = storage.canonicalize().unwrap_or_else(|_| storage.to_owned());
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// Binds the address, with a queue for a burst of connections: the 128 of the standard library are soon full, and the
/// kernel drops what comes beyond, so that the client tries again only after a second.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // Said again of a socket that listens, it changes the length of its queue.
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(CONNECTIONS_WAITING_MAX)?)?;
    Ok(listener)
}

fn block_signals() -> std::io::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.add(Signal::SIGUSR2);
    set.add(Signal::SIGHUP);
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}
