//! The front of a server that takes over: it runs without a client until it may serve, and then takes the connections
//! that its predecessor sends.
//!
//! Owns when it counts as ready, and the way of a connection in. The conversation is on the thread `faas-takeover`.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use mio::unix::SourceFd;
use mio::{Events, Interest};

use crate::limits::{FRONT_SOCKETS_PER_TURN_MAX, TAKEOVER_CONNECTIONS_PER_TURN_MAX, TAKEOVER_READY_TIMEOUT};
use crate::takeover::message::Message;
use crate::takeover::{socket, TakeoverError};
use crate::watchdog::Pulse;

use super::{Front, LISTENER, PREDECESSOR};

/// Whether a server that takes over could serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The pools are full, and every function has its `min_instances`.
    Ready,
    /// Not so in time, but functions can be called.
    Late,
    /// Nothing could be called.
    Impossible(String),
}

/// Which came first: the moment in which the thread that takes over asks for the place, or a signal to stop.
///
/// One that is to stop must not ask any more: the predecessor would give its place to nobody. And one that has asked must
/// not just end: the place may be its own by now, and with it the clients.
#[derive(Debug, Default)]
pub struct Threshold(AtomicU8);

impl Threshold {
    const CROSSED: u8 = 1;
    const BARRED: u8 = 2;

    /// Whether the place may be asked for. From then on it cannot be barred.
    pub fn cross(&self) -> bool {
        self.settle(Self::CROSSED)
    }

    /// Whether it will never be asked for.
    pub(super) fn bar(&self) -> bool {
        self.settle(Self::BARRED)
    }

    fn settle(&self, wanted: u8) -> bool {
        match self.0.compare_exchange(0, wanted, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => true,
            Err(settled) => settled == wanted,
        }
    }
}

/// How far a front is on its way to serving.
pub(super) enum Entry {
    /// It serves.
    Open,
    /// It prepares, and tells this when it is ready.
    Preparing { tell: Option<Sender<Readiness>>, until: Instant, threshold: Arc<Threshold>, is_to_stop: bool },
    /// It will not.
    Refused(TakeoverError),
}

impl Front {
    /// Runs without clients until the thread that takes over says that it may serve.
    ///
    /// # Errors
    /// When it may not, or a signal came first.
    pub fn prepare(
        &mut self,
        tell: Sender<Readiness>,
        threshold: Arc<Threshold>,
        pulse: &mut Pulse,
    ) -> Result<(), TakeoverError> {
        pulse.begin();
        let until = self.now + TAKEOVER_READY_TIMEOUT;
        self.entry = Entry::Preparing { tell: Some(tell), until, threshold, is_to_stop: false };
        let mut events = Events::with_capacity(FRONT_SOCKETS_PER_TURN_MAX);
        while self.is_preparing() {
            self.turn(&mut events);
            self.look_whether_ready();
            pulse.turn();
        }
        match std::mem::replace(&mut self.entry, Entry::Open) {
            Entry::Open | Entry::Preparing { .. } => Ok(()),
            Entry::Refused(error) => Err(error),
        }
    }

    /// Whether this server does not serve yet. The state and the listener may be another one's: neither is touched.
    pub(super) fn is_preparing(&self) -> bool {
        matches!(self.entry, Entry::Preparing { .. })
    }

    /// A signal to stop has come while this server prepares: it ends at once if it has not asked for the place, and when
    /// it has, it stops as one that serves as soon as it does. A second one ends it at any rate.
    pub(super) fn call_off(&mut self) {
        let Entry::Preparing { threshold, is_to_stop, .. } = &mut self.entry else { return };
        if threshold.bar() || std::mem::replace(is_to_stop, true) {
            self.refuse_to_serve(TakeoverError::Stopped);
        }
    }

    fn look_whether_ready(&mut self) {
        let Entry::Preparing { tell: Some(_), until, .. } = &self.entry else { return };
        let is_late = *until <= self.now;
        let is_full = self.scheduler.pool_stats().all(|pool| pool.making == 0 && pool.wanted == 0);
        let is_warm = self.scheduler.version_stats().all(|version| {
            let least = self.functions.version(version.version).map_or(0, |function| function.config.min_instances);
            // What cannot be loaded is no better in the predecessor.
            version.instances.idle >= least || version.start_failures > 0
        });
        let readiness = match (is_full && is_warm && self.blank_trouble.is_none(), is_late) {
            (true, _) => Readiness::Ready,
            (false, false) => return,
            (false, true) => match &self.blank_trouble {
                Some(failure) if !self.scheduler.pool_stats().any(|pool| pool.ready > 0) => {
                    Readiness::Impossible(failure.reason.clone())
                }
                _ => Readiness::Late,
            },
        };
        if let Entry::Preparing { tell, .. } = &mut self.entry {
            if let Some(tell) = tell.take() {
                let _ = tell.send(readiness);
            }
        }
    }

    /// Begins to serve.
    pub(super) fn open(&mut self, connections: Option<OwnedFd>, socket: Option<OwnedFd>) {
        let is_to_stop = matches!(self.entry, Entry::Preparing { is_to_stop: true, .. });
        self.entry = Entry::Open;
        if let Err(error) = self.try_to_open(connections, socket) {
            // There is no way back, and without a listener no way on.
            return self.refuse_to_serve(TakeoverError::System { action: "watch the listener", source: error });
        }
        if is_to_stop {
            self.begin_stop();
        }
    }

    fn try_to_open(&mut self, connections: Option<OwnedFd>, socket: Option<OwnedFd>) -> io::Result<()> {
        self.watch_listener()?;
        if let Some(connections) = connections {
            let mut source = SourceFd(&connections.as_raw_fd());
            self.desk.registry().register(&mut source, PREDECESSOR, Interest::READABLE)?;
            self.predecessor = Some(connections);
            self.take_connections();
        }
        if let Some(socket) = socket {
            self.listen_to_successors(socket)?;
        }
        self.accept();
        Ok(())
    }

    /// Starts to watch the listener.
    pub(super) fn watch_listener(&mut self) -> io::Result<()> {
        match &mut self.listener {
            Some(listener) => self.desk.registry().register(listener, LISTENER, Interest::READABLE),
            None => Ok(()),
        }
    }

    /// It will not serve.
    pub(super) fn refuse_to_serve(&mut self, error: TakeoverError) {
        self.entry = Entry::Refused(error);
    }

    /// Takes the connections that the predecessor sends.
    pub(super) fn take_connections(&mut self) {
        self.take_more = false;
        for _ in 0..TAKEOVER_CONNECTIONS_PER_TURN_MAX {
            let Some(predecessor) = &self.predecessor else { return };
            // The kernel drops a descriptor for which there is no room, and the connection with it.
            if let Err(error) = predecessor.try_clone() {
                if !std::mem::replace(&mut self.out_of_descriptors, true) {
                    log::error!("no connection of the predecessor can be taken: {error}; tried again all the time");
                }
                return;
            }
            match socket::receive(predecessor, &mut self.takeover_buffer) {
                Ok(Some((Ok(Message::Connection(unread)), mut descriptors))) => match descriptors.pop() {
                    Some(stream) => {
                        let stream = std::net::TcpStream::from(stream);
                        self.welcome(mio::net::TcpStream::from_std(stream), &unread);
                    }
                    None => log::error!("a connection of the predecessor is lost: no descriptor came with it"),
                },
                Ok(Some((message, _))) => {
                    log::warn!(
                        "the predecessor sends something else than connections: {:?}",
                        message.map(|it| it.name())
                    );
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Somebody else took the last descriptor in between: the others wait still.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    log::error!("a connection of the predecessor is lost: no descriptor could be had for it");
                }
                Ok(None) | Err(_) => {
                    if let Some(predecessor) = self.predecessor.take() {
                        let _ = self.desk.registry().deregister(&mut SourceFd(&predecessor.as_raw_fd()));
                    }
                    return;
                }
            }
        }
        self.take_more = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_crossed_or_barred_and_stays_so() {
        let crossed = Threshold::default();
        assert!(crossed.cross() && !crossed.bar() && crossed.cross());
        let barred = Threshold::default();
        assert!(barred.bar() && !barred.cross() && barred.bar());
    }
}
