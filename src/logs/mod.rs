//! What functions print: kept per function in memory and on disk, within bounds, and read by the API.
//!
//! Workers append through a [`LogSink`], which never waits; one thread, `faas-logs`, owns all state and all files.
//! Control threads ask it over the same queue, so that a question is answered with everything that was appended before.
//!
//! While one server takes over from another, one of them writes the files: the successor's service begins when it is
//! told to ([`Opening`]), after the predecessor's has written out what it held, and has then turned into one that sends
//! what is still appended to the successor ([`LogSink::close`]).
//!
//! Does not own how output becomes entries (`worker`, the shim), nor the server's own log (`server_log`).
//!
//! Invariants:
//! - Queue, memory and files are bounded; what does not fit is dropped, and an entry of stream `system` says how much.
//! - The sequence numbers of one function's entries grow by one, also over a restart. An entry that a query has shown
//!   is in the file, if the disk takes it, so that its number is not given to another after a kill -9.

mod elsewhere;
mod entry;
mod file;
mod ring;
mod service;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{bounded, Receiver, RecvTimeoutError, SendTimeoutError, Sender, TrySendError};

use crate::limits::{LOG_MEMORY_BYTES_MAX, LOG_QUERY_TIMEOUT, LOG_QUEUE_BYTES_MAX, LOG_QUEUE_MAX};
use elsewhere::Closing;
pub use elsewhere::Decision;
pub use entry::{LogEntry, LogStream, LoggedEntry, Since, SinceError};
use service::Service;

/// Why the logs could not be opened or asked.
#[derive(Debug)]
pub enum LogsError {
    /// A file operation failed.
    Files {
        /// What was tried, as a verb phrase: `create directory`.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The thread could not be started.
    Thread {
        /// What the system said.
        source: io::Error,
    },
    /// The thread did not answer within [`LOG_QUERY_TIMEOUT`].
    Busy,
    /// The thread has ended.
    Stopped,
}

impl fmt::Display for LogsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogsError::Files { action, path, source } => write!(f, "cannot {action} {}: {source}", path.display()),
            LogsError::Thread { source } => write!(f, "cannot start the thread faas-logs: {source}"),
            LogsError::Busy => write!(f, "the function logs did not answer within {LOG_QUERY_TIMEOUT:?}"),
            LogsError::Stopped => f.write_str("the function logs are closed"),
        }
    }
}

impl std::error::Error for LogsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LogsError::Files { source, .. } | LogsError::Thread { source } => Some(source),
            LogsError::Busy | LogsError::Stopped => None,
        }
    }
}

/// The running service. Dropping it writes what was appended and ends the thread.
#[derive(Debug)]
pub struct FunctionLogs {
    sink: LogSink,
    thread: Option<JoinHandle<()>>,
}

impl FunctionLogs {
    /// Starts the service on `dir/logs`, which is made if it is missing. `entries_max` is what memory holds of one
    /// function.
    ///
    /// Files of functions that `is_known` denies are removed: the server may have been killed between the deletion of a
    /// function and that of its log.
    pub fn start(dir: &Path, entries_max: usize, is_known: impl Fn(&str) -> bool) -> Result<FunctionLogs, LogsError> {
        let (logs, opening) = FunctionLogs::start_closed(dir, entries_max)?;
        opening.open(is_known)?;
        Ok(logs)
    }

    /// The same for a server whose predecessor still writes the files: what is appended waits in the queue.
    pub fn start_closed(dir: &Path, entries_max: usize) -> Result<(FunctionLogs, Opening), LogsError> {
        let dir = dir.join("logs");
        let failed = |source| LogsError::Files { action: "create directory", path: dir.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;

        let (queue, messages) = bounded(LOG_QUEUE_MAX);
        let (begin, begun) = bounded(1);
        let pressure = Arc::new(Pressure::default());
        let service = Service::new(dir.clone(), messages, Arc::clone(&pressure), LOG_MEMORY_BYTES_MAX, entries_max);
        let thread = thread::Builder::new().name("faas-logs".to_string());
        let run = move || {
            // A server that never came to serve has nothing to write.
            if begun.recv().is_ok() {
                service.run();
            }
        };
        let thread = thread.spawn(run).map_err(|source| LogsError::Thread { source })?;
        let logs = FunctionLogs { sink: LogSink { queue, pressure }, thread: Some(thread) };
        Ok((logs, Opening { dir, begin }))
    }

    /// A handle for those who append and ask.
    pub fn sink(&self) -> LogSink {
        self.sink.clone()
    }
}

impl Drop for FunctionLogs {
    fn drop(&mut self) {
        // A disk that hangs must not keep the server from ending: joined is only a thread that takes the message.
        if self.sink.queue.send_timeout(Message::Stop, LOG_QUERY_TIMEOUT).is_ok() {
            if let Some(thread) = self.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

/// The right to the files, which is still another server's. Dropped unused, nothing is ever written.
#[derive(Debug)]
pub struct Opening {
    dir: PathBuf,
    begin: Sender<()>,
}

impl Opening {
    /// The files are ours: those of functions that `is_known` denies are removed, and the service begins.
    ///
    /// # Errors
    /// When the directory cannot be tidied; the service begins all the same.
    pub fn open(self, is_known: impl Fn(&str) -> bool) -> Result<(), LogsError> {
        let tidied = remove_orphans(&self.dir, is_known);
        // The thread waits for it, and there is room for one.
        let _ = self.begin.send(());
        tidied.map_err(|source| LogsError::Files { action: "tidy up", path: self.dir, source })
    }
}

fn remove_orphans(dir: &Path, is_known: impl Fn(&str) -> bool) -> io::Result<()> {
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        let function = path.file_name().and_then(|name| name.to_str()).and_then(file::function_of);
        if function.is_some_and(|function| !is_known(function)) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// The way to the service. Cheap to clone; every thread has its own.
#[derive(Debug, Clone)]
pub struct LogSink {
    queue: Sender<Message>,
    pressure: Arc<Pressure>,
}

impl LogSink {
    /// Adds an entry to the log of `function`, whose name is valid. Never waits: without room, the entry is dropped and
    /// counted. After the service has ended it is dropped silently.
    pub fn append(&self, function: impl Into<Arc<str>>, mut entry: LogEntry) {
        entry.cut();
        let (function, bytes) = (function.into(), entry.bytes());
        // Added first and taken back if there is no room, so that two threads cannot both take the last bytes.
        let queued = self.pressure.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if queued.saturating_add(bytes) <= LOG_QUEUE_BYTES_MAX {
            let message = Message::Append { function: Arc::clone(&function), entry };
            if self.queue.try_send(message).is_ok() {
                return;
            }
        }
        self.pressure.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.pressure.count_dropped(function);
    }

    /// Removes the log of `function` from memory and disk, in its turn behind what was appended before. Never waits:
    /// when the queue is full it happens at the end of what is in it. An entry that comes later begins a new log.
    pub fn forget(&self, function: impl Into<Arc<str>>) {
        let message = Message::Forget { function: function.into() };
        if let Err(TrySendError::Full(Message::Forget { function })) = self.queue.try_send(message) {
            self.pressure.forget_late(function);
        }
    }

    /// Keeps so many entries of each function in memory from now on. When the service does not take the message in time,
    /// it keeps as many as before. Blocks: for control threads.
    ///
    /// # Errors
    /// When the service is busy or has ended.
    pub fn bound(&self, entries_max: usize) -> Result<(), LogsError> {
        let (reply, done) = bounded(1);
        self.ask(Message::Bound { entries_max, reply }, &done)
    }

    /// Entries of `function`, oldest first, at most `limit`: the newest, or with `since` the first from there on.
    ///
    /// So who asks again with the last sequence number it saw gets every entry once, as long as it asks more often than
    /// the ring turns over. A function without a log has no entries. Blocks: for control threads.
    pub fn query(
        &self,
        function: impl Into<Arc<str>>,
        limit: usize,
        since: Option<Since>,
    ) -> Result<Vec<LoggedEntry>, LogsError> {
        let (reply, answer) = bounded(1);
        self.ask(Message::Query { function: function.into(), limit, since, reply }, &answer)
    }

    /// Has everything that was appended so far written to the files, and then leaves them alone until the decision whose
    /// other end is returned. `done` is called when that is so. Never waits.
    ///
    /// # Errors
    /// When the queue is full.
    pub fn close(&self, done: impl FnOnce() + Send + 'static) -> Result<Decision, LogsError> {
        let (decision, closing) = elsewhere::closing(Box::new(done));
        self.queue.try_send(Message::Close(closing)).map_err(|error| match error {
            TrySendError::Full(_) => LogsError::Busy,
            TrySendError::Disconnected(_) => LogsError::Stopped,
        })?;
        Ok(decision)
    }

    fn ask<T>(&self, message: Message, answer: &Receiver<T>) -> Result<T, LogsError> {
        self.queue.send_timeout(message, LOG_QUERY_TIMEOUT).map_err(|error| match error {
            SendTimeoutError::Timeout(_) => LogsError::Busy,
            SendTimeoutError::Disconnected(_) => LogsError::Stopped,
        })?;
        answer.recv_timeout(LOG_QUERY_TIMEOUT).map_err(|error| match error {
            RecvTimeoutError::Timeout => LogsError::Busy,
            RecvTimeoutError::Disconnected => LogsError::Stopped,
        })
    }
}

/// A sink without a service.
#[cfg(any(test, fuzzing))]
impl LogSink {
    /// One that keeps nothing and counts: see [`LogSink::lost`].
    pub(crate) fn to_nobody() -> LogSink {
        LogSink { queue: bounded(0).0, pressure: Arc::default() }
    }

    /// Entries that were appended and kept nowhere.
    pub(crate) fn lost(&self) -> u64 {
        self.pressure.take_dropped().values().sum()
    }
}

/// What the service is asked for.
enum Message {
    Append { function: Arc<str>, entry: LogEntry },
    Forget { function: Arc<str> },
    Query { function: Arc<str>, limit: usize, since: Option<Since>, reply: Sender<Vec<LoggedEntry>> },
    Close(Closing),
    Bound { entries_max: usize, reply: Sender<()> },
    Stop,
}

/// What the two sides of the queue know of its filling.
#[derive(Debug, Default)]
struct Pressure {
    queued_bytes: AtomicUsize,
    /// Entries dropped since the service last looked. Touched only when the queue is full, so that the lock is not on
    /// the way of an entry.
    dropped: Mutex<BTreeMap<Arc<str>, u64>>,
    /// Whether `dropped` holds anything: spares the service the lock.
    dropped_functions: AtomicUsize,
    /// Functions to forget for which the queue had no room, and whether there are any.
    forgotten: Mutex<BTreeSet<Arc<str>>>,
    any_forgotten: AtomicBool,
}

impl Pressure {
    fn forget_late(&self, function: Arc<str>) {
        let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        forgotten.insert(function);
        self.any_forgotten.store(true, Ordering::Relaxed);
    }

    fn take_forgotten(&self) -> BTreeSet<Arc<str>> {
        if !self.any_forgotten.load(Ordering::Relaxed) {
            return BTreeSet::new();
        }
        let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        self.any_forgotten.store(false, Ordering::Relaxed);
        std::mem::take(&mut forgotten)
    }

    fn count_dropped(&self, function: Arc<str>) {
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        *dropped.entry(function).or_insert(0) += 1;
        self.dropped_functions.store(dropped.len(), Ordering::Relaxed);
    }

    fn take_dropped(&self) -> BTreeMap<Arc<str>, u64> {
        if self.dropped_functions.load(Ordering::Relaxed) == 0 {
            return BTreeMap::new();
        }
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        self.dropped_functions.store(0, Ordering::Relaxed);
        std::mem::take(&mut dropped)
    }
}
