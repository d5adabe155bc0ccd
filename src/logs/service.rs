//! The thread that owns all function logs.
//!
//! What it holds in memory is a cache of the files' ends: a function's part is read when it is first needed, and given
//! up, least recently used first, when all together exceed
//! `LOG_MEMORY_BYTES_MAX`.

use std::collections::hash_map::{Entry, HashMap};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam_channel::Receiver;

use super::elsewhere::Elsewhere;
use super::file::LogFile;
use super::ring::Ring;
use super::{LogEntry, LogStream, LoggedEntry, Message, Pressure, Since};
use crate::limits::{LOG_BATCH_PAUSE, LOG_QUEUE_MAX};

/// What a function without entries takes in memory, about: the bound must hold for many silent functions, too.
const FUNCTION_BYTES: usize = 512;

pub(super) struct Service {
    dir: PathBuf,
    messages: Receiver<Message>,
    pressure: Arc<Pressure>,
    functions: HashMap<Arc<str>, FunctionLog>,
    /// Functions with lines that are not written yet; a name may be there twice.
    unwritten: Vec<Arc<str>>,
    memory_bytes: usize,
    memory_bytes_max: usize,
    entries_max: usize,
    /// Counts batches: the clock by which functions are recently used or not.
    batch: u64,
    /// Whether writing fails at present, so that a full disk is one line in the server's log and not thousands.
    disk_failing: bool,
    /// The process that writes the files, when it is another one. Nothing is kept in memory then but what a question
    /// reads, since the files change behind our back.
    elsewhere: Option<Elsewhere>,
}

struct FunctionLog {
    ring: Ring,
    file: LogFile,
    used_in_batch: u64,
}

impl Service {
    pub(super) fn new(
        dir: PathBuf,
        messages: Receiver<Message>,
        pressure: Arc<Pressure>,
        memory_bytes_max: usize,
        entries_max: usize,
    ) -> Self {
        Service {
            dir,
            messages,
            pressure,
            functions: HashMap::new(),
            unwritten: Vec::new(),
            memory_bytes: 0,
            memory_bytes_max,
            entries_max,
            batch: 0,
            disk_failing: false,
            elsewhere: None,
        }
    }

    /// Works until it is told to stop or nobody is left who could tell it anything.
    pub(super) fn run(mut self) {
        while let Ok(first) = self.messages.recv() {
            if matches!(first, Message::Append { .. }) {
                // Not a wait for something, but a decision not to be woken for every line. Somebody who asks waits for
                // the rest of the pause at most.
                thread::sleep(LOG_BATCH_PAUSE);
            }
            let mut flow = self.handle(first);
            // Bounded, so that a flood does not keep lines from the disk and memory from its bound.
            for _ in 1..LOG_QUEUE_MAX {
                if flow.is_break() {
                    break;
                }
                let Ok(message) = self.messages.try_recv() else { break };
                flow = self.handle(message);
            }
            self.end_batch();
            if flow.is_break() {
                return;
            }
        }
    }

    /// What is done once for many messages.
    pub(super) fn end_batch(&mut self) {
        for function in self.pressure.take_forgotten() {
            self.forget(&function);
        }
        self.note_dropped();
        self.write_all();
        self.give_up_memory();
        self.batch += 1;
    }

    fn handle(&mut self, message: Message) -> ControlFlow<()> {
        match message {
            Message::Append { function, entry } => {
                self.pressure.queued_bytes.fetch_sub(entry.bytes(), Ordering::Relaxed);
                self.append(function, entry);
            }
            Message::Forget { function } => self.forget(&function),
            // Whoever asked may have given up waiting, hence the ignored result.
            Message::Query { function, limit, since, reply } => {
                let _ = reply.try_send(self.query(function, limit, since));
            }
            Message::Close(closing) => {
                self.note_dropped();
                self.write_all();
                self.forget_memory();
                self.elsewhere = closing.settle();
            }
            Message::Bound { entries_max, reply } => {
                self.bound(entries_max);
                let _ = reply.try_send(());
            }
            Message::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Keeps so many entries of each function. What a larger bound has room for is in the files: everything is given up
    /// and read again when it is asked for, unless the files do not have it all.
    pub(super) fn bound(&mut self, entries_max: usize) {
        let grows = entries_max > self.entries_max;
        self.entries_max = entries_max;
        self.write_all();
        if grows && !self.disk_failing {
            self.functions.clear();
            self.memory_bytes = 0;
            return;
        }
        for log in self.functions.values_mut() {
            let before = log.ring.bytes();
            log.ring.bound(entries_max);
            self.memory_bytes -= before - log.ring.bytes();
        }
    }

    pub(super) fn append(&mut self, function: Arc<str>, entry: LogEntry) {
        if let Some(elsewhere) = &self.elsewhere {
            match elsewhere.append(&function, entry.clone()) {
                Ok(()) => return,
                Err(error) => {
                    log::warn!("the successor takes no log entries any more ({error}); they are written here again");
                    self.elsewhere = None;
                }
            }
        }
        let log = self.log_of(&function);
        let before = log.ring.bytes();
        let result = log.file.append(log.ring.push(entry));
        let after = log.ring.bytes();
        self.memory_bytes = self.memory_bytes + after - before;
        self.report(result);
        self.unwritten.push(function);
    }

    pub(super) fn query(&mut self, function: Arc<str>, limit: usize, since: Option<Since>) -> Vec<LoggedEntry> {
        let log = self.log_of(&function);
        // Before they are shown, so that after a kill -9 no other entry gets the number of one that was seen.
        let result = log.file.flush();
        let entries = log.ring.query(limit, since);
        self.report(result);
        if self.elsewhere.is_some() {
            self.forget_memory();
        }
        entries
    }

    /// Gives up what is read from the files, which hold all of it.
    fn forget_memory(&mut self) {
        self.functions.clear();
        self.memory_bytes = 0;
    }

    pub(super) fn forget(&mut self, function: &Arc<str>) {
        // A function of this name may be the successor's by now. It removes what belongs to none when it starts.
        if self.elsewhere.is_some() {
            return;
        }
        let file = match self.functions.remove(function) {
            Some(log) => {
                self.memory_bytes -= log.ring.bytes() + FUNCTION_BYTES;
                log.file
            }
            None => LogFile::new(&self.dir, function),
        };
        if let Err((path, error)) = file.remove() {
            log::warn!("the log of function {function} is left behind, {}: {error}", path.display());
        }
    }

    /// The function's log, read from its files if it is not in memory.
    fn log_of(&mut self, function: &Arc<str>) -> &mut FunctionLog {
        let log = match self.functions.entry(Arc::clone(function)) {
            Entry::Occupied(log) => log.into_mut(),
            Entry::Vacant(place) => {
                let mut log = FunctionLog {
                    ring: Ring::new(self.entries_max),
                    file: LogFile::new(&self.dir, function),
                    used_in_batch: 0,
                };
                if let Err(error) = log.file.load(|logged| log.ring.restore(logged)) {
                    log::warn!("cannot read the log of function {function}: {error}");
                }
                self.memory_bytes += log.ring.bytes() + FUNCTION_BYTES;
                place.insert(log)
            }
        };
        log.used_in_batch = self.batch;
        log
    }

    /// Says in the log of each function how many of its entries found no room in the queue.
    fn note_dropped(&mut self) {
        for (function, count) in self.pressure.take_dropped() {
            let entries = if count == 1 { "entry was" } else { "entries were" };
            let entry = LogEntry {
                time_ms: now_ms(),
                request_id: String::new(),
                instance: String::new(),
                version: 0,
                stream: LogStream::System,
                message: format!("{count} log {entries} dropped: the log queue was full"),
            };
            self.append(function, entry);
        }
    }

    fn write_all(&mut self) {
        for function in std::mem::take(&mut self.unwritten) {
            // It may have been removed meanwhile; that it stands here twice costs nothing, nothing is left to write.
            if let Some(log) = self.functions.get_mut(&function) {
                let result = log.file.flush();
                self.report(result);
            }
        }
    }

    fn give_up_memory(&mut self) {
        if self.memory_bytes <= self.memory_bytes_max {
            return;
        }
        let mut by_use: Vec<_> =
            self.functions.iter().map(|(function, log)| (log.used_in_batch, Arc::clone(function))).collect();
        by_use.sort_unstable();
        for (_, function) in by_use {
            // Further than to the bound, so that the next entry does not begin this anew.
            if self.memory_bytes <= self.memory_bytes_max / 4 * 3 {
                break;
            }
            if let Some(log) = self.functions.remove(&function) {
                self.memory_bytes -= log.ring.bytes() + FUNCTION_BYTES;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Takes note of a write of so many bytes, or of none.
    fn report(&mut self, written: io::Result<u64>) {
        match written {
            Err(error) if !self.disk_failing => {
                self.disk_failing = true;
                log::error!("cannot write function logs in {}: {error}", self.dir.display());
            }
            Err(_) | Ok(0) => {}
            Ok(_) => self.disk_failing = false,
        }
    }
}

fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
