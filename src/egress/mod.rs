//! Outbound connections of functions with `network: outbound`: a broker that connects in their place.
//!
//! Such an instance lives in the same empty network namespace as one without network. Its seccomp filter hands every
//! `connect` to a thread of the server (`broker`), which reads the address once, judges it (`policy`), makes a *new*
//! TCP socket in the host's network namespace, connects it, and puts it in the place of the caller's descriptor. Nothing
//! leaves the instance but through sockets that the server has connected, so when anything of this fails there is no
//! network. It needs no change of the host: no firewall, no bridge, no module.
//!
//! Owns what may be connected to and how. Does not own the filter (`sandbox::seccomp`, whose `brokered` table belongs to
//! the reasoning below) nor how the listener gets here (`sandbox::plan`, step `SeccompNotify`).
//!
//! # Why that holds
//!
//! The code of the function is hostile, and it is given sockets of the host's network namespace. So:
//!
//! - No call is ever handed on to the kernel (`SECCOMP_USER_NOTIF_FLAG_CONTINUE`), whatever its family: another thread
//!   can change the address between our look and the kernel's, and a socket that was disconnected could be pointed
//!   anywhere. UDP, Unix sockets and `AF_UNSPEC` get EACCES. `socketpair` needs no `connect` and works.
//! - The address is copied once; the copy is judged and connected to.
//! - `connect` on a socket that was given is a call like any other: EISCONN while it is connected; once it is not, the
//!   next one is judged again and gets a new socket. With AF_UNSPEC refused, none can be disconnected and kept.
//! - `bind` and `listen` are refused: no function takes connections on the host's addresses.
//! - What else connects: MSG_FASTOPEN with an address (refused, in the flags of the three calls that have them; `write`,
//!   `splice` and `sendfile` have none, and io_uring is absent), and TCP_FASTOPEN_CONNECT, which only puts off the work
//!   of `connect` (refused; and never copied to the new socket).
//! - What leads an established connection elsewhere: IP_OPTIONS and IPV6_RTHDR (source routes), SO_BINDTODEVICE,
//!   SO_BINDTOIFINDEX, SO_DONTROUTE, TCP_REPAIR, SO_MARK, TCP_ULP. `setsockopt` is an allow-list without them.
//! - What tells of the host: the SIOCGIF* questions (refused), IP_RECVERR with a small IP_TTL (refused). A function does
//!   learn the host's own address and port of a connection (`getsockname`), and the name server's (`getpeername`).
//! - SO_REUSEPORT lets others of the same user share a port; it is refused, though without `bind` it does little.
//! - Whoever is the last to close a socket with SO_LINGER waits for its peer, for ever if that is hostile too. That could
//!   be the broker, which holds duplicates, and its thread would outlive the instance. The option is refused.
//! - A `connect` costs the server more than its caller, and the host a port and an entry of its connection tracking for a
//!   while longer than it lasts: an instance gets so many a second, and its next one waits. Nor can instances that call
//!   where nobody answers take all connections under way: each has a few that are its own.
//! - What is looked at of a caller has a length that is ours: never an entry of /proc that a descriptor of his writes.
//! - Such a socket can be handed to children and through Unix sockets of the instance itself: all of one sandbox.
//! - The listener would let its holder answer for the broker. The instance sends it here before it runs code that is not
//!   ours, and has closed it by then. Without a listener the kernel answers ENOSYS.
//!
//! What it does not hold: the buffers of these sockets are charged to the server's control group, not to the
//! instance's (bounded by the kernel's `tcp_mem` and an instance's descriptors: those of each of its processes, some
//! 16,000 sockets), and traffic is not limited. An address of this machine that it does not know itself (a forwarded port
//! of a router before it) is a public address like any other.

mod address;
mod attempt;
mod broker;
mod caller;
mod pace;
pub mod policy;
pub(crate) mod resolver;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::limits::{BLANK_START_TIMEOUT, EGRESS_STACK_BYTES};
use crate::sys::io::{recv_descriptor, send, wait_readable};
use crate::sys::seccomp_notify::Listener;

use broker::Broker;
use policy::Exception;

/// What the brokers of all instances share.
#[derive(Debug)]
pub struct Egress {
    /// The port on which the server listens.
    server_port: u16,
    /// Replaced whole when the configuration is read again.
    exceptions: Mutex<Arc<[Exception]>>,
    /// Connections under way.
    connecting: AtomicUsize,
    /// Which name server is asked first.
    turn: AtomicUsize,
}

impl Egress {
    /// Nothing is started yet. `server_port` is closed to functions on every address of this machine.
    pub fn new(server_port: u16, exceptions: Vec<Exception>) -> Arc<Self> {
        let exceptions = Mutex::new(exceptions.into());
        Arc::new(Egress { server_port, exceptions, connecting: AtomicUsize::new(0), turn: AtomicUsize::new(0) })
    }

    /// From now on connections are judged by these exceptions. Those that are made already stay.
    pub fn except(&self, exceptions: Vec<Exception>) {
        *self.exceptions.lock().unwrap_or_else(PoisonError::into_inner) = exceptions.into();
    }

    fn exceptions(&self) -> Arc<[Exception]> {
        Arc::clone(&self.exceptions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts the broker of an instance that is being made and will send its listener over `handover`. The broker ends
    /// with the instance. If it does not come to work, the instance's plan fails, because its listener is not taken.
    ///
    /// # Errors
    /// When the kernel refuses the thread.
    pub fn adopt(self: &Arc<Self>, instance: impl fmt::Display, handover: OwnedFd) -> io::Result<()> {
        let (egress, instance) = (Arc::clone(self), instance.to_string());
        let thread = std::thread::Builder::new().name("faas-egress".to_owned()).stack_size(EGRESS_STACK_BYTES);
        thread.spawn(move || {
            let served = take_listener(handover).and_then(|listener| match listener {
                Some(listener) => Broker::new(egress, listener).serve(),
                None => Ok(()),
            });
            if let Err(error) = served {
                log::error!("{instance}: no connections can be made for it any more: {error}");
            }
        })?;
        Ok(())
    }
}

/// The listener that the instance sends; `None` when it has ended before. That it has come is confirmed, so that the
/// instance goes no further without a broker.
fn take_listener(handover: OwnedFd) -> io::Result<Option<Listener>> {
    wait_readable(&handover, Instant::now() + BLANK_START_TIMEOUT)?;
    match recv_descriptor(&handover, &mut [0; 8]) {
        Ok((0, _)) => Ok(None),
        Ok((_, Some(listener))) => {
            send(&handover, &[IoSlice::new(&[0])])?;
            Ok(Some(Listener::new(listener)))
        }
        // The kernel drops what does not fit the table of descriptors.
        Ok((_, None)) => Err(io::Error::other("its listener did not arrive; perhaps too many descriptors are open")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(error),
    }
}
