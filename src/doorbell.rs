//! A queue between two threads whose bell is rung only when the receiver sleeps.
//!
//! Waking a thread costs a system call and a context switch, more than anything else on the way of a request. So the
//! sender pushes a whole batch and then rings once, and the ring is a no-op while the receiver is awake: it looks at
//! the queue again before it sleeps.
//!
//! Invariant: a value sent is received without waiting for another event. The receiver declares that it is about to
//! sleep *before* it looks at the queue for the last time, and the sender looks at that declaration *after* it pushed;
//! with sequentially consistent order on both, one of them sees the other.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{bounded, Receiver, SendError, Sender, TrySendError};
use mio::{Events, Poll, Token, Waker};

/// The token under which a receiver's bell shows up in its poll. No other source may use it.
pub const DOORBELL_TOKEN: Token = Token(usize::MAX);

struct Clapper {
    asleep: AtomicBool,
    waker: Waker,
}

/// The bell of a receiver without its queue, for who has nothing to send.
#[derive(Clone)]
pub struct Bell(Arc<Clapper>);

impl Bell {
    /// Wakes the receiver if it sleeps.
    pub fn ring(&self) {
        if self.0.asleep.swap(false, Ordering::SeqCst) {
            // An eventfd write fails only when its counter is full, and then the receiver is being woken already.
            let _ = self.0.waker.wake();
        }
    }
}

/// The sending half; cheap to clone.
pub struct Line<T> {
    queue: Sender<T>,
    bell: Bell,
}

/// The receiving half, which owns the poll that its thread sleeps in.
pub struct Desk<T> {
    queue: Receiver<T>,
    bell: Bell,
    poll: Poll,
}

/// Makes a queue of `capacity` values and the poll that its receiver sleeps in.
///
/// # Errors
/// When the kernel has no descriptor left for the poll or the waker.
pub fn line<T>(capacity: usize) -> io::Result<(Line<T>, Desk<T>)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), DOORBELL_TOKEN)?;
    let bell = Bell(Arc::new(Clapper { asleep: AtomicBool::new(false), waker }));
    let (sender, receiver) = bounded(capacity);
    Ok((Line { queue: sender, bell: bell.clone() }, Desk { queue: receiver, bell, poll }))
}

impl<T> Clone for Line<T> {
    fn clone(&self) -> Self {
        Line { queue: self.queue.clone(), bell: self.bell.clone() }
    }
}

impl<T> fmt::Debug for Line<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("queued", &self.queue.len()).finish_non_exhaustive()
    }
}

impl<T> Line<T> {
    /// Queues a value without ringing; [`Line::ring`] must follow before the sender turns to something else.
    ///
    /// # Errors
    /// The value, when the queue is full or nobody receives any more.
    pub fn push(&self, value: T) -> Result<(), TrySendError<T>> {
        self.queue.try_send(value)
    }

    /// Queues a value and rings, waiting for room when the queue is full. Not for the front thread.
    ///
    /// # Errors
    /// The value, when nobody receives any more.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        if let Err(full) = self.queue.try_send(value) {
            self.ring();
            self.queue.send(full.into_inner())?;
        }
        self.ring();
        Ok(())
    }

    /// Wakes the receiver if it sleeps.
    pub fn ring(&self) {
        self.bell.ring();
    }

    /// What rings it for somebody who sends nothing.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }
}

impl<T> Desk<T> {
    /// Where the receiver registers its other sources.
    pub fn registry(&self) -> &mio::Registry {
        self.poll.registry()
    }

    /// The next value, if one is queued.
    pub fn try_recv(&self) -> Option<T> {
        self.queue.try_recv().ok()
    }

    /// Sleeps until a source is ready, the bell rings or the time is up; does not sleep when a value is queued.
    ///
    /// # Errors
    /// What `epoll_wait` says, except an interruption, which counts as waking up.
    pub fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        self.bell.0.asleep.store(true, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
        let timeout = if self.queue.is_empty() { timeout } else { Some(Duration::ZERO) };
        let outcome = self.poll.poll(events, timeout);
        self.bell.0.asleep.store(false, Ordering::SeqCst);
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_sent_is_ever_slept_through() {
        let (line, mut desk) = line::<u32>(64).unwrap();
        let sender = std::thread::spawn(move || {
            for value in 0..20_000 {
                line.send(value).unwrap();
            }
        });
        let mut events = Events::with_capacity(4);
        let mut expected = 0;
        while expected < 20_000 {
            // A lost wake-up would make this wait run into its limit.
            let before = std::time::Instant::now();
            desk.wait(&mut events, Some(Duration::from_secs(20))).unwrap();
            assert!(before.elapsed() < Duration::from_secs(19), "slept through value {expected}");
            while let Some(value) = desk.try_recv() {
                assert_eq!(value, expected);
                expected += 1;
            }
        }
        sender.join().unwrap();
    }

    #[test]
    fn a_full_queue_gives_the_value_back() {
        let (line, _desk) = line::<u32>(1).unwrap();
        line.push(1).unwrap();
        assert_eq!(line.push(2).map_err(TrySendError::into_inner), Err(2));
    }
}
