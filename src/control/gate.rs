//! Whether functions may be changed: always, but while another server takes over.
//!
//! Owns the count of changes under way and who waits. A change passes the gate before it takes the store's lock, and
//! has told the front of its outcome when it leaves. The front holds the gate and is told when nobody is inside.
//!
//! Invariant: between the news that nobody is inside and [`Gate::resume`] nothing is written to the store.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{bounded, Receiver, Sender};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// Who comes waits.
    Held,
    /// The store is another process's.
    Closed,
}

struct Inside {
    mode: Mode,
    changes: usize,
    /// Dropped when the gate is closed: so those learn of it who wait for something else.
    closing: Option<Sender<Infallible>>,
}

/// See the module's documentation.
pub struct Gate {
    inside: Mutex<Inside>,
    changed: Condvar,
    /// Called when the gate is held and the last change under way has left.
    settled: Box<dyn Fn() + Send + Sync>,
    closed: Receiver<Infallible>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

/// The store is another process's now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// The right to change something, until it is dropped.
#[derive(Debug)]
pub struct Pass<'a> {
    gate: &'a Gate,
}

impl Gate {
    /// An open one. `settled` is called from the thread whose change was the last to end after [`Gate::hold`].
    pub fn new(settled: impl Fn() + Send + Sync + 'static) -> Gate {
        let (closing, closed) = bounded(0);
        let inside = Mutex::new(Inside { mode: Mode::Open, changes: 0, closing: Some(closing) });
        Gate { inside, changed: Condvar::new(), settled: Box::new(settled), closed }
    }

    /// Goes in, and waits while the gate is held: for control threads.
    ///
    /// # Errors
    /// When it is closed.
    pub fn enter(&self) -> Result<Pass<'_>, Closed> {
        let mut inside = self.lock();
        loop {
            match inside.mode {
                Mode::Open => {
                    inside.changes += 1;
                    return Ok(Pass { gate: self });
                }
                Mode::Held => inside = self.changed.wait(inside).unwrap_or_else(PoisonError::into_inner),
                Mode::Closed => return Err(Closed),
            }
        }
    }

    /// Lets nobody in any more. Whether nobody is inside; otherwise `settled` will be called.
    pub fn hold(&self) -> bool {
        let mut inside = self.lock();
        inside.mode = Mode::Held;
        inside.changes == 0
    }

    /// Lets those in who wait.
    pub fn resume(&self) {
        self.set(Mode::Open);
    }

    /// Sends those away who wait, and all others.
    pub fn close(&self) {
        self.set(Mode::Closed);
        self.lock().closing = None;
    }

    /// Is disconnected from the moment on in which the gate is closed.
    pub fn closed(&self) -> Receiver<Infallible> {
        self.closed.clone()
    }

    /// Whether the store is another process's.
    pub fn is_closed(&self) -> bool {
        self.lock().mode == Mode::Closed
    }

    fn set(&self, mode: Mode) {
        self.lock().mode = mode;
        self.changed.notify_all();
    }

    /// It is only held for a moment, also by the front.
    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Nobody panics while he holds it.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut inside = self.gate.lock();
        inside.changes -= 1;
        let is_settled = inside.mode == Mode::Held && inside.changes == 0;
        drop(inside);
        if is_settled {
            (self.gate.settled)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::Arc;
    use std::time::Duration;

    fn gate() -> (Gate, Arc<AtomicU32>) {
        let settled = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&settled);
        let tell = move || {
            count.fetch_add(1, Ordering::SeqCst);
        };
        (Gate::new(tell), settled)
    }

    #[test]
    fn the_last_change_under_way_says_that_nobody_is_inside() {
        let (gate, settled) = gate();
        let (first, second) = (gate.enter().unwrap(), gate.enter().unwrap());
        assert!(!gate.hold());
        drop(first);
        assert_eq!(settled.load(Ordering::SeqCst), 0);
        drop(second);
        assert_eq!(settled.load(Ordering::SeqCst), 1);
        gate.resume();
        drop(gate.enter().unwrap());
        assert_eq!(settled.load(Ordering::SeqCst), 1, "an open gate has nothing to say");
        assert!(gate.hold(), "nobody was inside");
    }

    #[test]
    fn who_comes_to_a_held_gate_waits_until_it_is_open_or_closed() {
        for close in [false, true] {
            let (gate, _) = gate();
            assert!(gate.hold());
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| gate.enter().map(drop));
                std::thread::sleep(Duration::from_millis(30));
                assert!(!waiting.is_finished());
                if close {
                    gate.close();
                } else {
                    gate.resume();
                }
                assert_eq!(waiting.join().unwrap(), if close { Err(Closed) } else { Ok(()) });
            });
            assert_eq!(gate.enter().is_err(), close);
            assert_eq!(gate.closed().try_recv().is_err_and(|error| error.is_disconnected()), close);
        }
    }
}
