//! Sees a thread that does not turn any more, and ends the server, so that whoever watches over the process starts
//! another: a server whose worker hangs says that it is well and answers nobody.
//!
//! Every vital thread (the front, the workers, the supervisor) counts its turns. Once in [`WATCHDOG_INTERVAL`] the thread
//! `faas-watchdog` looks at the counts and rings every doorbell, so that an idle thread turns, too. One that has not
//! finished a turn in [`WATCHDOG_TIMEOUT`] hangs. Control threads may wait long, for a disk or for code to be looked at:
//! one that is at the same job for [`CONTROL_JOB_SLOW`] is named in the log, and nothing is ended.
//!
//! Invariants:
//! - Time is counted in the watchdog's own ticks and not in a clock's: while the process is stopped or the machine
//!   suspended it does not tick, and what did not run then is no false alarm.
//! - A turn costs its thread one relaxed store to a cache line of its own.
//! - The alarm needs no lock that a hanging thread may hold; should it still get stuck, a signal ends the process.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{bounded, Receiver, RecvTimeoutError, Sender};
use nix::unistd::{alarm, gettid};

use crate::doorbell::Bell;
use crate::limits::{CONTROL_JOB_SLOW, WATCHDOG_INTERVAL, WATCHDOG_LAST_WORDS, WATCHDOG_TIMEOUT};
use crate::sys::process::exit_at_once;
use crate::systemd::Notifier;
use crate::vital::EXIT_BROKEN;

/// What a thread and the watchdog share. Alone on its cache line: it is written at every turn.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Beat {
    turns: AtomicU64,
    /// The thread's id, once it runs.
    tid: AtomicI32,
    is_over: AtomicBool,
}

/// Held by a thread that is watched, for as long as it runs.
#[derive(Debug, Default)]
pub struct Pulse {
    beat: Arc<Beat>,
    turns: u64,
}

impl Pulse {
    /// Of a thread that nobody watches: for tests, and for a look at the host.
    pub fn unwatched() -> Self {
        Self::default()
    }

    /// One, and what the watchdog is to be given of it.
    pub fn watched() -> (Self, Arc<Beat>) {
        let pulse = Self::default();
        let beat = Arc::clone(&pulse.beat);
        (pulse, beat)
    }

    /// Says which thread it is. To be called by the thread itself, first.
    pub fn begin(&self) {
        self.beat.tid.store(gettid().as_raw(), Ordering::Relaxed);
    }

    /// One more turn is finished. A control thread calls it when it takes a job, too: its count is odd while it has one.
    pub fn turn(&mut self) {
        self.turns += 1;
        self.beat.turns.store(self.turns, Ordering::Relaxed);
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.beat.is_over.store(true, Ordering::Relaxed);
    }
}

/// No thread has turned so often: the first look finds another count.
const UNSEEN: u64 = u64::MAX;

/// A thread as the watchdog sees it.
struct Watched {
    name: String,
    beat: Arc<Beat>,
    /// Wakes it; a thread without one is not vital.
    bell: Option<Bell>,
    turns_seen: u64,
    /// Looks in a row that found the same count.
    still: u32,
}

impl Watched {
    /// Looks at the count; rings, so that there is a turn to be seen at the next look.
    fn look(&mut self) {
        let turns = self.beat.turns.load(Ordering::Relaxed);
        let rests = self.bell.is_none() && turns % 2 == 0;
        self.still = if turns != self.turns_seen || rests { 0 } else { self.still + 1 };
        self.turns_seen = turns;
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }

    fn describe(&self) -> String {
        let tid = self.beat.tid.load(Ordering::Relaxed);
        format!("{} (tid {tid}){}", self.name, kernel_state(tid))
    }
}

/// The threads to be watched, until [`Watchdog::start`].
#[derive(Default)]
pub struct Watchdog {
    watched: Vec<Watched>,
}

impl Watchdog {
    /// Nothing is watched yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches a thread that the server cannot do without, which this bell wakes.
    pub fn watch(&mut self, name: impl Into<String>, beat: Arc<Beat>, bell: Bell) {
        self.add(name.into(), beat, Some(bell));
    }

    /// Watches a thread that has jobs and may be long about them.
    pub fn watch_patiently(&mut self, name: impl Into<String>, beat: Arc<Beat>) {
        self.add(name.into(), beat, None);
    }

    fn add(&mut self, name: String, beat: Arc<Beat>, bell: Option<Bell>) {
        self.watched.push(Watched { name, beat, bell, turns_seen: UNSEEN, still: 0 });
    }

    /// Begins to look, and to tell the supervisor of the process that all is well, if it wants to know. Threads may take
    /// what time they like before that. The watch ends when the result is dropped.
    ///
    /// # Errors
    /// When the kernel refuses the thread, or standard error cannot be duplicated.
    pub fn start(self, notifier: Arc<Notifier>) -> io::Result<Watch> {
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let (stop, stopped) = bounded(0);
        let pace = Pace::new(notifier.watchdog());
        let look = Look { watched: self.watched, pace, notifier, ticks: 0, new_for: pace.tell.unwrap_or(0) };
        std::thread::Builder::new().name("faas-watchdog".to_owned()).spawn(move || look.run(&stopped, stderr))?;
        Ok(Watch { _stop: stop })
    }
}

/// The watch; it ends with this value.
#[derive(Debug)]
pub struct Watch {
    _stop: Sender<()>,
}

/// How often to look, and what follows from how many looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    tick: Duration,
    /// Ticks without a turn after which a thread hangs.
    hangs: u32,
    /// Ticks at one job after which a control thread is slow.
    slow: u32,
    /// Ticks between two messages to the supervisor.
    tell: Option<u32>,
}

impl Pace {
    /// The supervisor is told twice in its period, and the tick is short enough that one that is missed can be made up.
    fn new(period: Option<Duration>) -> Self {
        let tick = period.map_or(WATCHDOG_INTERVAL, |period| WATCHDOG_INTERVAL.min(period / 4));
        let tick = tick.max(Duration::from_millis(1));
        let ticks = |time: Duration| u32::try_from(time.as_nanos() / tick.as_nanos()).unwrap_or(u32::MAX).max(1);
        let tell = period.map(|period| ticks(period / 2));
        Pace { tick, hangs: ticks(WATCHDOG_TIMEOUT), slow: ticks(CONTROL_JOB_SLOW), tell }
    }
}

struct Look {
    watched: Vec<Watched>,
    pace: Pace,
    notifier: Arc<Notifier>,
    /// Since the supervisor was told last.
    ticks: u32,
    /// Looks left at which it is told each time: it counts on from what it heard of this server's predecessor, if there
    /// was one, and does not hear this one until it knows that it is another process.
    new_for: u32,
}

impl Look {
    fn run(mut self, stopped: &Receiver<()>, mut stderr: File) {
        self.tick();
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(self.pace.tick) {
            self.tick();
            let hanging: Vec<&Watched> = self.hanging().collect();
            if !hanging.is_empty() {
                end(&hanging, &mut stderr);
            }
            self.tell_slow();
            if self.is_time_to_tell() {
                self.notifier.alive();
            }
        }
    }

    fn tick(&mut self) {
        self.watched.retain(|watched| !watched.beat.is_over.load(Ordering::Relaxed));
        self.watched.iter_mut().for_each(Watched::look);
    }

    fn vital(&self) -> impl Iterator<Item = &Watched> {
        self.watched.iter().filter(|watched| watched.bell.is_some())
    }

    fn hanging(&self) -> impl Iterator<Item = &Watched> {
        self.vital().filter(|watched| watched.still >= self.pace.hangs)
    }

    fn tell_slow(&self) {
        for slow in self.watched.iter().filter(|watched| watched.bell.is_none() && watched.still == self.pace.slow) {
            log::warn!("a thread is at one job for {CONTROL_JOB_SLOW:?}: {}", slow.describe());
        }
    }

    /// Not while any vital thread is behind: then at the first tick at which none is.
    fn is_time_to_tell(&mut self) -> bool {
        let Some(every) = self.pace.tell else { return false };
        self.ticks = self.ticks.saturating_add(1);
        let is_new = self.new_for > 0;
        self.new_for = self.new_for.saturating_sub(1);
        let is_time = (is_new || self.ticks >= every) && self.vital().all(|watched| watched.still == 0);
        if is_time {
            self.ticks = 0;
        }
        is_time
    }
}

/// Says which threads hang and where, and ends the process.
fn end(hanging: &[&Watched], stderr: &mut File) {
    // A thread that hangs may hold any lock, that of the allocator too, and standard error may take nothing: then this
    // ends the process, and its supervisor starts another all the same.
    alarm::set(WATCHDOG_LAST_WORDS.as_secs() as u32);
    for watched in hanging {
        let text = format!(
            "faas: a thread has not turned for {WATCHDOG_TIMEOUT:?}, and the server ends: {}\n",
            watched.describe()
        );
        // Not through the log, whose lock may be among those.
        let _ = stderr.write_all(text.as_bytes());
    }
    exit_at_once(EXIT_BROKEN);
}

/// Where a thread is in the kernel, as far as that tells: each on a line of its own.
fn kernel_state(tid: i32) -> String {
    let directory = PathBuf::from(format!("/proc/self/task/{tid}"));
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
    let mut text = String::new();
    let status = read("status");
    let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or_default();
    for (name, value) in [("state", state), ("wchan", &read("wchan")), ("syscall", &read("syscall"))] {
        let _ = write!(text, "\n  {name}: {}", value.trim());
    }
    for frame in read("stack").lines() {
        let _ = write!(text, "\n  stack: {}", frame.trim());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doorbell::line;

    fn look(watchdog: Watchdog, period: Option<Duration>) -> Look {
        let notifier = Arc::new(Notifier::from_environment());
        Look { watched: watchdog.watched, pace: Pace::new(period), notifier, ticks: 0, new_for: 0 }
    }

    fn watched(watchdog: &mut Watchdog, name: &str) -> Pulse {
        let (pulse, beat) = Pulse::watched();
        watchdog.watch(name, beat, line::<()>(1).unwrap().0.bell());
        pulse
    }

    fn names<'a>(threads: impl Iterator<Item = &'a Watched>) -> Vec<&'a str> {
        threads.map(|watched| watched.name.as_str()).collect()
    }

    #[test]
    fn a_thread_hangs_when_it_has_not_turned_for_the_whole_limit_and_not_before() {
        let mut watchdog = Watchdog::new();
        let mut lively = watched(&mut watchdog, "lively");
        let _lazy = watched(&mut watchdog, "lazy");
        drop(watched(&mut watchdog, "gone"));
        let mut look = look(watchdog, None);
        look.tick();
        let ticks = (WATCHDOG_TIMEOUT.as_millis() / WATCHDOG_INTERVAL.as_millis()) as u32;
        for tick in 1..=ticks + 3 {
            lively.turn();
            look.tick();
            let expected: &[&str] = if tick >= ticks { &["lazy"] } else { &[] };
            assert_eq!(names(look.hanging()), expected, "tick {tick} of {ticks}");
        }
    }

    #[test]
    fn a_turn_at_the_last_moment_is_enough() {
        let mut watchdog = Watchdog::new();
        let mut pulse = watched(&mut watchdog, "slow");
        let mut look = look(watchdog, None);
        for tick in 0..100 {
            if tick % look.pace.hangs == 0 {
                pulse.turn();
            }
            look.tick();
            assert_eq!(look.hanging().count(), 0);
        }
    }

    #[test]
    fn a_control_thread_is_slow_at_a_job_and_not_at_waiting_for_one() {
        let mut watchdog = Watchdog::new();
        let ((mut at_work, beat), (_waiting, other)) = (Pulse::watched(), Pulse::watched());
        watchdog.watch_patiently("at work", beat);
        watchdog.watch_patiently("waiting", other);
        at_work.turn();
        let mut look = look(watchdog, None);
        look.tick();
        for _ in 0..look.pace.slow {
            look.tick();
        }
        assert_eq!(look.watched.iter().map(|it| it.still).collect::<Vec<_>>(), [look.pace.slow, 0]);
        assert_eq!(look.hanging().count(), 0, "that ends nothing");
        at_work.turn();
        look.tick();
        look.tick();
        assert_eq!(look.watched[0].still, 0);
    }

    #[test]
    fn the_supervisor_hears_twice_in_its_period_and_only_while_all_turn() {
        let mut watchdog = Watchdog::new();
        let mut pulse = watched(&mut watchdog, "thread");
        for (period_ms, tick_ms, tell) in [(20_000, 1000, 10), (4000, 1000, 2), (3000, 750, 2), (200, 50, 2)] {
            let pace = Pace::new(Some(Duration::from_millis(period_ms)));
            assert_eq!((pace.tick, pace.tell), (Duration::from_millis(tick_ms), Some(tell)), "{period_ms}");
            assert_eq!(pace.tick * pace.hangs, WATCHDOG_TIMEOUT.min(pace.tick * pace.hangs));
        }
        let mut look = look(watchdog, Some(Duration::from_secs(4)));
        let mut told = |turns: bool| {
            if turns {
                pulse.turn();
            }
            look.tick();
            look.is_time_to_tell()
        };
        assert_eq!([true, true, true, true].map(&mut told), [false, true, false, true]);
        assert_eq!([true, false, false, true, true, true].map(&mut told), [false, false, false, true, false, true]);
    }

    #[test]
    fn a_supervisor_that_waits_since_the_predecessors_last_word_hears_of_the_successor_at_every_look_at_first() {
        let mut watchdog = Watchdog::new();
        let mut pulse = watched(&mut watchdog, "thread");
        let mut look = look(watchdog, Some(Duration::from_secs(6)));
        look.new_for = look.pace.tell.unwrap();
        let told = [(); 7].map(|()| {
            pulse.turn();
            look.tick();
            look.is_time_to_tell()
        });
        assert_eq!(told, [true, true, true, false, false, true, false]);
    }

    #[test]
    fn the_kernels_state_of_a_thread_is_told() {
        let (send_tid, tid) = bounded(1);
        let (release, held) = bounded::<()>(0);
        let thread = std::thread::spawn(move || {
            send_tid.send(gettid().as_raw()).unwrap();
            let _ = held.recv();
        });
        let tid = tid.recv().unwrap();
        let is_asleep = || kernel_state(tid).starts_with("\n  state: S (sleeping)\n  wchan: ");
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !is_asleep() {
            assert!(std::time::Instant::now() < deadline, "{}", kernel_state(tid));
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(release);
        thread.join().unwrap();
    }
}
