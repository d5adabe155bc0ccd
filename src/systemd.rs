//! What a supervisor that speaks systemd's notify protocol is told: ready, reloading, stopping, alive.
//!
//! A message is one datagram of `KEY=value` lines to the socket that `NOTIFY_SOCKET` names. Without that variable
//! nothing is said to anybody, and everything else is the same. Owns the messages; who sends which when is said at each.
//!
//! Invariants: nobody waits longer than [`NOTIFY_TIMEOUT`] for the supervisor, and the front not at all; after
//! `STOPPING=1` no `READY=1` follows; after `MAINPID=` nothing follows, since what this process says is no word about that
//! one.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::time::{clock_gettime, ClockId};

use crate::limits::NOTIFY_TIMEOUT;

/// The supervisor of this process, if it has one that listens.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<SocketAddr>,
    watchdog: Option<Duration>,
    /// What the server says of itself while it serves.
    serving: OnceLock<String>,
    stopping: AtomicBool,
    /// Another process speaks for the service.
    replaced: AtomicBool,
}

impl Notifier {
    /// As the environment of this process says.
    pub fn from_environment() -> Self {
        Self::new(&|name| std::env::var(name).ok(), std::process::id())
    }

    fn new(environment: &dyn Fn(&str) -> Option<String>, own_pid: u32) -> Self {
        let socket = environment("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let socket = socket.and_then(|name| {
            let address = address(&name);
            if address.is_none() {
                log::warn!("NOTIFY_SOCKET is {name:?}, which is no address of a Unix socket; nobody is notified");
            }
            address
        });
        // The variables are inherited: a process that was started by the supervised one must not speak for it.
        let is_meant = environment("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(own_pid));
        let every_us = environment("WATCHDOG_USEC").and_then(|us| us.parse().ok()).filter(|us| *us > 0 && is_meant);
        let watchdog = every_us.filter(|_| socket.is_some()).map(Duration::from_micros);
        Notifier {
            socket,
            watchdog,
            serving: OnceLock::new(),
            stopping: AtomicBool::new(false),
            replaced: AtomicBool::new(false),
        }
    }

    /// The server answers from now on.
    pub fn ready(&self, address: std::net::SocketAddr) {
        let serving = self.serving.get_or_init(|| format!("Serving on http://{address}"));
        self.say(&format!("READY=1\nSTATUS={serving}"));
    }

    /// The configuration is read again until the guard is dropped. A supervisor that sent the signal itself waits for
    /// both messages, and tells by the time that this answers its signal and not an earlier one.
    pub fn reloading(self: &Arc<Self>) -> Reloading {
        if !self.stopping.load(Ordering::Relaxed) {
            self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=Reading the configuration", monotonic_us()));
        }
        Reloading { notifier: Arc::clone(self), refused: None }
    }

    /// The server takes nothing more. For the front: does not wait, and may be lost when the supervisor is busy, which
    /// then learns it from the end of the process.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = self.send("STOPPING=1\nSTATUS=Finishing what was accepted", None);
    }

    /// Every vital thread is at work. For the watchdog's thread alone.
    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    /// How long the supervisor waits between two [`alive`](Self::alive) before it ends this process, if it does so.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The process to supervise is another one from now on: for a server that is taken over. Who starts that process
    /// leaves `WATCHDOG_PID` out of its environment, since it names this one.
    pub fn main_pid(&self, pid: u32) {
        self.say(&format!("MAINPID={pid}"));
        self.replaced.store(true, Ordering::Relaxed);
    }

    fn say(&self, message: &str) {
        if let Err(error) = self.send(message, Some(NOTIFY_TIMEOUT)) {
            let first = message.lines().next().unwrap_or_default();
            log::warn!("the supervisor was not told {first}: {error}");
        }
    }

    /// A socket for each message: they are rare, and a supervisor may have another socket by then under the old name.
    fn send(&self, message: &str, timeout: Option<Duration>) -> io::Result<()> {
        let Some(address) = self.socket.as_ref().filter(|_| !self.replaced.load(Ordering::Relaxed)) else {
            return Ok(());
        };
        let socket = UnixDatagram::unbound()?;
        match timeout {
            Some(_) => socket.set_write_timeout(timeout)?,
            None => socket.set_nonblocking(true)?,
        }
        socket.send_to_addr(message.as_bytes(), address).map(drop)
    }
}

/// A reload under way, as the supervisor sees it.
#[derive(Debug)]
pub struct Reloading {
    notifier: Arc<Notifier>,
    refused: Option<String>,
}

impl Reloading {
    /// The configuration is not taken, for this reason.
    pub fn refused(&mut self, reason: &dyn std::fmt::Display) {
        // A message's lines are its fields.
        self.refused = Some(reason.to_string().replace(char::is_control, " "));
    }
}

impl Drop for Reloading {
    fn drop(&mut self) {
        if self.notifier.stopping.load(Ordering::Relaxed) {
            return;
        }
        let serving = self.notifier.serving.get().map_or("Serving", String::as_str);
        let refused = self.refused.take().map(|reason| format!("; the last reload changed nothing: {reason}"));
        self.notifier.say(&format!("READY=1\nSTATUS={serving}{}", refused.unwrap_or_default()));
    }
}

/// An absolute path, or a name in the abstract namespace behind `@`.
fn address(name: &str) -> Option<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name).ok(),
        None if name.starts_with('/') => SocketAddr::from_pathname(name).ok(),
        None => None,
    }
}

fn monotonic_us() -> i64 {
    // The clock is always there.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.tv_sec() * 1_000_000 + time.tv_nsec() / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A notifier and the socket of its supervisor.
    fn supervised(name: &str) -> (Arc<Notifier>, UnixDatagram) {
        let socket = UnixDatagram::bind_addr(&address(name).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let environment = |variable: &str| (variable == "NOTIFY_SOCKET").then(|| name.to_owned());
        (Arc::new(Notifier::new(&environment, 1)), socket)
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn abstract_name(test: &str) -> String {
        format!("@faas-test-{}-{test}", std::process::id())
    }

    #[test]
    fn a_life_is_told_in_its_order_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in [dir.path().join("notify").display().to_string(), abstract_name("life")] {
            let (notifier, socket) = supervised(&name);
            notifier.ready("127.0.0.1:8000".parse().unwrap());
            assert_eq!(heard(&socket), "READY=1\nSTATUS=Serving on http://127.0.0.1:8000");
            let before = monotonic_us();
            let mut reloading = notifier.reloading();
            let message = heard(&socket);
            let time = message.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
            assert!(message.starts_with("RELOADING=1\n"), "{message}");
            assert!((before..=monotonic_us()).contains(&time.parse().unwrap()), "{message}");
            reloading.refused(&"line 3:\n\"x\"");
            drop(reloading);
            let status = "STATUS=Serving on http://127.0.0.1:8000; the last reload changed nothing: line 3: \"x\"";
            assert_eq!(heard(&socket), format!("READY=1\n{status}"));
            notifier.stopping();
            assert!(heard(&socket).starts_with("STOPPING=1\n"));
            drop(notifier.reloading());
            notifier.alive();
            assert_eq!(heard(&socket), "WATCHDOG=1", "who stops is not ready any more");
            notifier.main_pid(77);
            assert_eq!(heard(&socket), "MAINPID=77");
            notifier.alive();
            notifier.stopping();
            socket.set_nonblocking(true).unwrap();
            assert!(socket.recv(&mut [0; 64]).is_err(), "who is replaced says nothing more");
            socket.set_nonblocking(false).unwrap();
        }
    }

    #[test]
    fn the_watchdog_is_only_for_the_process_that_is_meant_and_that_can_be_heard() {
        let watchdog = |variables: &[(&str, &str)]| {
            let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
            Notifier::new(&find, 42).watchdog()
        };
        let (socket, period) = (("NOTIFY_SOCKET", "@x"), ("WATCHDOG_USEC", "3000000"));
        assert_eq!(watchdog(&[socket, period]), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(&[socket, period, ("WATCHDOG_PID", "42")]), Some(Duration::from_secs(3)));
        for variables in [
            &[socket, period, ("WATCHDOG_PID", "43")][..],
            &[socket, ("WATCHDOG_USEC", "0")],
            &[socket, ("WATCHDOG_USEC", "soon")],
            &[socket],
            &[period],
            &[("NOTIFY_SOCKET", "relative"), period],
        ] {
            assert_eq!(watchdog(variables), None, "{variables:?}");
        }
    }

    #[test]
    fn a_supervisor_that_does_not_listen_holds_nobody_up_for_long() {
        let (notifier, _deaf) = supervised(&abstract_name("deaf"));
        let begun = std::time::Instant::now();
        // The queue of a Unix datagram socket holds a few, or some hundred.
        let mut sent = 0;
        while notifier.send("STATUS=x", None).is_ok() {
            sent += 1;
            assert!(sent < 100_000, "the queue never fills");
        }
        assert!(begun.elapsed() < Duration::from_secs(5));
        let begun = std::time::Instant::now();
        notifier.alive();
        assert!(begun.elapsed() >= NOTIFY_TIMEOUT / 2 && begun.elapsed() < 5 * NOTIFY_TIMEOUT);
    }
}
