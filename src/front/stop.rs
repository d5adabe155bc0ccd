//! The stop of the server, so that no request that was sent to it is lost.
//!
//! - *Lingering*, from the signal on: all is served as before, but the kernel lets nobody in who was not on his way,
//!   and the answer behind which no request has come says `Connection: close`.
//! - *Draining*, after `SHUTDOWN_LINGER`: the listener and the idle connections are closed, the scheduler keeps nothing
//!   warm; requests that had begun to come are answered.
//! - *Given up*, `shutdown_grace` after the signal: calls get 503 (the scheduler does that), and so do requests that
//!   have not come whole.
//!
//! It is over when everything was answered, soon after the grace at the latest, and at once after a second signal.
//!
//! A request may be on its way when its server is told to stop: in the queue of the listener, in a socket's buffer, or
//! on the wire of a connection that is kept alive. Nothing on this side tells; hence the linger.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::http::Problem;
use crate::limits::{SHUTDOWN_ANSWERS_TIMEOUT, SHUTDOWN_LINGER};
use crate::sys::listener::take_no_more;
use crate::takeover::incumbent::Input;

use super::clients::{Read1, Waiting};
use super::Front;

/// A stop under way.
#[derive(Debug)]
pub(super) struct Stop {
    since: Instant,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Lingering,
    Draining,
    GivenUp,
    /// A second signal.
    Aborted,
}

impl Front {
    pub(super) fn signalled(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGHUP as u32 {
                self.signalled_to_reload();
                continue;
            }
            if signal.ssi_signo == Signal::SIGUSR2 as u32 {
                self.signalled_to_launch();
                continue;
            }
            if self.is_preparing() {
                log::info!("a signal to stop has come before this server serves");
                self.call_off();
                continue;
            }
            if let Some(stop) = &mut self.stop {
                log::warn!("a second signal: stopping at once");
                stop.stage = Stage::Aborted;
                continue;
            }
            let name = Signal::try_from(signal.ssi_signo as i32).map_or("a signal", Signal::as_str);
            log::info!("{name}: finishing what was sent, at most {:?}", self.settings.shutdown_grace);
            self.begin_stop();
        }
    }

    fn signalled_to_reload(&mut self) {
        if self.has_ceded() {
            log::warn!("SIGHUP: this server has given its place away; its configuration is not read again");
        } else if self.is_preparing() {
            log::info!("SIGHUP: the configuration will be read again when this server serves");
            self.ask_reload();
        } else {
            log::info!("SIGHUP: reading the configuration again");
            self.ask_reload();
        }
    }

    /// Whoever is started now would find nobody to take over from, and serve all the same, or wait for this one's end.
    fn signalled_to_launch(&mut self) {
        if self.stop.is_some() || self.has_ceded() {
            log::warn!("SIGUSR2: this server ends; no successor is started");
        } else if self.is_preparing() {
            log::warn!("SIGUSR2: this server is itself taking over; no successor is started");
        } else {
            self.launcher.launch();
        }
    }

    /// Begins to stop. A listener that another process goes on with must have been given away by now.
    pub(super) fn begin_stop(&mut self) {
        if self.stop.is_some() {
            return;
        }
        self.stop = Some(Stop { since: self.now, stage: Stage::Lingering });
        self.advance(Input::Stopping);
        if !self.has_ceded() {
            // Otherwise the service goes on in another process.
            self.lines.notifier.stopping();
        }
        if let Some(listener) = &self.listener {
            if let Err(error) = take_no_more(listener) {
                // Some kernels let only root, or who has CAP_NET_ADMIN, do that. Then whoever connects between the last
                // look into the queue and the close, microseconds, is reset.
                log::info!("the listener takes no filter ({error}): who connects in its very last moment is cut off");
            }
        }
        for key in self.clients.keys() {
            if let Some(client) = self.clients.at(key) {
                client.conn.announce_stop();
            }
        }
    }

    fn linger(&self) -> Duration {
        SHUTDOWN_LINGER.min(self.settings.shutdown_grace)
    }

    /// When [`Front::go_on_stopping`] has something to do, if nothing happens before.
    pub(super) fn next_step_of_stop(&self) -> Option<Instant> {
        let stop = self.stop.as_ref()?;
        let grace = self.settings.shutdown_grace;
        Some(match stop.stage {
            Stage::Lingering => stop.since + self.linger(),
            Stage::Draining => stop.since + grace,
            Stage::GivenUp => stop.since + grace + SHUTDOWN_ANSWERS_TIMEOUT,
            Stage::Aborted => self.now,
        })
    }

    /// Goes to the next stage when its time has come.
    pub(super) fn go_on_stopping(&mut self) {
        while self.next_step_of_stop().is_some_and(|due| due <= self.now) {
            let Some(stop) = &mut self.stop else { return };
            match stop.stage {
                Stage::Lingering => {
                    stop.stage = Stage::Draining;
                    self.drain();
                }
                Stage::Draining => {
                    stop.stage = Stage::GivenUp;
                    self.give_up();
                }
                Stage::GivenUp | Stage::Aborted => return,
            }
        }
    }

    fn drain(&mut self) {
        while self.accept() {}
        if let Some(mut listener) = self.listener.take() {
            let _ = self.desk.registry().deregister(&mut listener);
        }
        let left = self.settings.shutdown_grace - self.linger();
        let left_ns = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
        self.scheduler.shutdown(left_ns, self.now_ns(), &mut self.actions);
        for key in self.clients.keys() {
            let Some(client) = self.clients.at(key) else { continue };
            // What came in this very turn came in time.
            if client.read(&mut self.buffer, true) == Read1::Closed {
                client.conn.peer_closed();
            }
            client.conn.stop();
            self.drive(key);
        }
    }

    fn give_up(&mut self) {
        let (waiting, running) = (self.clients.len(), self.scheduler.invocations());
        if waiting > 0 || running > 0 {
            log::warn!("shutdown_grace is over with {waiting} connections and {running} calls left");
        }
        for key in self.clients.keys() {
            let Some(client) = self.clients.at(key) else { continue };
            client.conn.give_up(self.now, &mut self.stamp);
            if let Waiting::Control(request_id) = client.waiting {
                let detail = "the server stops; whether the change is made is not known";
                self.respond(key, Problem::unavailable("shutting_down", detail).into_response(&request_id));
            }
            self.drive(key);
        }
    }

    /// Whether the server may end.
    pub(super) fn is_over(&self) -> bool {
        let is_done = self.scheduler.is_drained() && self.clients.len() == 0;
        let Some(stop) = &self.stop else { return is_done && self.has_ceded() };
        match stop.stage {
            Stage::Lingering => false,
            Stage::Draining => is_done,
            Stage::GivenUp => {
                let is_overdue = self.next_step_of_stop().is_some_and(|due| due <= self.now);
                is_overdue || is_done
            }
            Stage::Aborted => true,
        }
    }
}
