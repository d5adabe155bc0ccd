//! The way of a server that takes over, from being ready to serving: the thread `faas-takeover`.
//!
//! Owns the order: hold changes, read what has changed, ask for the place, open the function logs, deploy what the
//! configuration declares, let the front serve. Afterwards it writes what is still logged in the predecessor, and
//! removes what that leaves behind if it does not end well.
//!
//! Invariant: nothing is written to the state before the predecessor has given it up, or is dead. Dead is who has hung
//! up and no longer holds its side.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::call::{FrontEvent, TakeoverNews};
use crate::config::DeclaredFunction;
use crate::control::Shared;
use crate::doorbell::Line;
use crate::front::{Readiness, Threshold};
use crate::limits::{TAKEOVER_DEATH_TIMEOUT, TAKEOVER_READY_TIMEOUT};
use crate::logs::{LogSink, Opening};
use crate::sandbox::cgroup::CgroupRoot;
use crate::takeover::message::Message;
use crate::takeover::successor::Answer;
use crate::takeover::{socket, Predecessor, Side, TakeoverError};
use crate::vital::Vital;

/// What the thread works with.
pub(super) struct Succession {
    pub(super) predecessor: Predecessor,
    pub(super) state: PathBuf,
    pub(super) side: Arc<Side>,
    /// Where the predecessor's sandboxes are.
    pub(super) other_groups: CgroupRoot,
    pub(super) shared: Arc<Shared>,
    pub(super) declared: Vec<DeclaredFunction>,
    pub(super) opening: Opening,
    pub(super) logs: LogSink,
    pub(super) front: Line<FrontEvent>,
    /// Where the front says whether it could serve.
    pub(super) readiness: Receiver<Readiness>,
    /// Behind which there is no way back.
    pub(super) threshold: Arc<Threshold>,
}

/// How this server has come by the place.
enum Place {
    /// The predecessor gave it away, and finishes what it has begun.
    Given {
        /// On which it sends what is still logged, if a descriptor could be had for that.
        logged: Option<OwnedFd>,
    },
    /// The predecessor is dead.
    Deserted,
}

/// What a predecessor that finishes what it has begun still sends, and on what.
struct Sockets {
    connections: OwnedFd,
    /// Function logs.
    logged: Option<OwnedFd>,
}

impl Succession {
    pub(super) fn start(self) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("faas-takeover".to_owned()).spawn(move || {
            // The front would wait for its word for ever.
            let _vital = Vital;
            self.run();
        })
    }

    fn run(self) {
        let front = self.front.clone();
        let (state, side, groups, logs) =
            (self.state.clone(), Arc::clone(&self.side), self.other_groups.clone(), self.logs.clone());
        match self.take_over() {
            Err(error) => {
                let _ = front.send(FrontEvent::Takeover(Box::new(TakeoverNews::Failed(error))));
            }
            Ok(sockets) => {
                let (connections, logged) = match sockets {
                    Some(Sockets { connections, logged }) => (Some(connections), logged),
                    None => (None, None),
                };
                let bound = socket::listen_in(&state);
                if let Err(error) = &bound {
                    log::error!("this server cannot be taken over from: {}: {error}", socket::path(&state).display());
                }
                let news = TakeoverNews::Open { connections, socket: bound.ok() };
                let _ = front.send(FrontEvent::Takeover(Box::new(news)));
                if let Some(logged) = logged {
                    write_what_is_logged(&logged, &logs);
                }
                bury(&side, &groups);
            }
        }
    }

    /// Everything until this server may serve. Of a predecessor that is dead there are no sockets.
    fn take_over(mut self) -> Result<Option<Sockets>, TakeoverError> {
        // While nothing is held up: what is slow.
        let vetted = self.shared.vet_declared(&self.declared);
        self.await_readiness()?;
        // Once now, so that there is little left to read when changes wait for it.
        self.catch_up()?;
        let held = Instant::now();
        let sockets = match self.ask()? {
            Place::Given { logged } => Some(Sockets { connections: self.predecessor.into_socket(), logged }),
            Place::Deserted => None,
        };
        self.shared.note_owner();
        let shared = &self.shared;
        if let Err(error) = self.opening.open(|name| shared.knows(name)) {
            log::error!("{error}");
        }
        let declared = self.shared.read_again().unwrap_or(self.declared);
        self.shared.deploy_declared_live(&declared, &vetted);
        log::info!("changes of functions have waited for {:.1} ms", held.elapsed().as_secs_f64() * 1e3);
        Ok(sockets)
    }

    fn await_readiness(&self) -> Result<(), TakeoverError> {
        let reason = match self.readiness.recv_timeout(TAKEOVER_READY_TIMEOUT + Duration::from_secs(5)) {
            Ok(Readiness::Ready) => return Ok(()),
            Ok(Readiness::Late) => {
                log::warn!(
                    "not every instance and blank is ready after {TAKEOVER_READY_TIMEOUT:?}; taking over as it is"
                );
                return Ok(());
            }
            Ok(Readiness::Impossible(reason)) => reason,
            Err(_) => return Err(TakeoverError::Stopped),
        };
        Err(TakeoverError::NotReady { reason })
    }

    /// Asks for the place.
    fn ask(&mut self) -> Result<Place, TakeoverError> {
        if let Answer::Given(()) = self.predecessor.freeze()? {
            self.catch_up()?;
            self.cross()?;
            if let Answer::Given(logged) = self.predecessor.go()? {
                return Ok(Place::Given { logged });
            }
        }
        let pid = self.predecessor.pid();
        match self.side.await_other(TAKEOVER_DEATH_TIMEOUT) {
            Ok(_free) => {
                log::warn!("process {pid} has died before it was taken over from; starting as after a crash");
                self.catch_up()?;
                self.cross()?;
                Ok(Place::Deserted)
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(TakeoverError::BrokenOff { pid }),
            Err(source) => Err(TakeoverError::System { action: "look for the server that served", source }),
        }
    }

    /// Where a signal to stop ends this server no more, but has it serve first.
    fn cross(&self) -> Result<(), TakeoverError> {
        if self.threshold.cross() {
            return Ok(());
        }
        Err(TakeoverError::Stopped)
    }

    fn catch_up(&self) -> Result<(), TakeoverError> {
        let changed = self.shared.catch_up().map_err(TakeoverError::Store)?;
        log::debug!("{changed} functions have changed since this server began to prepare itself");
        Ok(())
    }
}

/// Until the predecessor has ended, or nothing of it can log any more.
fn write_what_is_logged(logged: &OwnedFd, logs: &LogSink) {
    let mut buffer = socket::buffer();
    let mut strange = false;
    loop {
        // It may live as long as its longest call.
        match socket::receive_by(logged, &mut buffer, Instant::now() + Duration::from_secs(3600)) {
            Ok(None) => return,
            Ok(Some((Ok(Message::Log(line)), _))) => logs.append(line.function, line.entry),
            Ok(Some(_)) => {
                if !std::mem::replace(&mut strange, true) {
                    log::warn!("the server that served sends something else than log entries");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            Err(error) => return log::warn!("what is logged in the server that served is not read on: {error}"),
        }
    }
}

/// Waits for the predecessor's end, and removes the control groups that one that was killed has left.
fn bury(side: &Side, groups: &CgroupRoot) {
    let free = loop {
        match side.await_other(Duration::from_secs(3600)) {
            Ok(free) => break free,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            Err(error) => return log::warn!("the end of the server that served cannot be seen: {error}"),
        }
    };
    super::sweep_other(groups);
    drop(free);
    log::info!("the server that served has ended");
}
