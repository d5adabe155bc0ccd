//! The server's own log: records of the `log` crate as lines on standard error, which never hold up who writes them.
//!
//! A record is made into a line by the thread that logs and put into a bounded queue; the thread `faas-log` writes.
//! When standard error does not take what it is given (a pipe that nobody reads), the queue fills, further lines are
//! dropped and counted, and a line says how many as soon as there is room again.
//!
//! Invariants: one record is one line, whatever a message contains. No logging thread waits for standard error: it is
//! written through a descriptor of our own, not through `std::io::Stderr`, whose lock a panic message would wait for.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{bounded, Receiver, Sender};
use log::{LevelFilter, Log, Metadata, Record, SetLoggerError};
use simplelog::{ConfigBuilder, LevelPadding, ThreadLogMode, WriteLogger};

use crate::limits::{LOG_FLUSH_TIMEOUT, LOG_QUEUE_MAX};
use crate::rfc3339;

/// Bytes that are put together for one write.
const BATCH_BYTES: usize = 64 * 1024;
/// Pause before another try when standard error is in non-blocking mode (another program set it so) and full.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// Why logging could not be started.
#[derive(Debug)]
pub enum LoggerError {
    /// Standard error could not be duplicated.
    Stderr {
        /// What the system said.
        source: io::Error,
    },
    /// The thread could not be started.
    Thread {
        /// What the system said.
        source: io::Error,
    },
    /// A logger is installed already.
    Installed {
        /// What `log` said.
        source: SetLoggerError,
    },
}

impl fmt::Display for LoggerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoggerError::Stderr { source } => write!(f, "cannot duplicate standard error: {source}"),
            LoggerError::Thread { source } => write!(f, "cannot start the thread faas-log: {source}"),
            LoggerError::Installed { source } => write!(f, "cannot install the logger: {source}"),
        }
    }
}

impl std::error::Error for LoggerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LoggerError::Stderr { source } | LoggerError::Thread { source } => Some(source),
            LoggerError::Installed { source } => Some(source),
        }
    }
}

/// Installs the logger for records up to `level`. What it returns is to be held until the process ends.
pub fn init(level: LevelFilter) -> Result<LoggerGuard, LoggerError> {
    let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(|source| LoggerError::Stderr { source })?;
    let (logger, guard) = start(File::from(stderr), LOG_QUEUE_MAX)?;
    log::set_boxed_logger(Box::new(logger)).map_err(|source| LoggerError::Installed { source })?;
    set_level(level);
    Ok(guard)
}

/// From now on records up to `level` are written.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Writes what is still in the queue when it is dropped, as far as standard error takes it.
#[derive(Debug)]
pub struct LoggerGuard {
    queue: Sender<Message>,
}

impl LoggerGuard {
    /// Waits until everything logged so far is written, but no longer than [`LOG_FLUSH_TIMEOUT`] for each of the two
    /// ways. Says whether it was.
    pub fn flush(&self) -> bool {
        let (done, written) = bounded(1);
        self.queue.send_timeout(Message::Flush(done), LOG_FLUSH_TIMEOUT).is_ok()
            && written.recv_timeout(LOG_FLUSH_TIMEOUT).is_ok()
    }
}

impl Drop for LoggerGuard {
    fn drop(&mut self) {
        // The thread is not joined: it may sit in a write that never returns.
        self.flush();
    }
}

enum Message {
    Line(Vec<u8>),
    Flush(Sender<()>),
}

/// A logger of records at every level: which of them come here is decided before they are made, by the macros of `log`.
fn start<W: Write + Send + 'static>(output: W, queue_max: usize) -> Result<(ServerLogger, LoggerGuard), LoggerError> {
    let (queue, lines) = bounded(queue_max);
    let dropped = Arc::new(AtomicU64::new(0));
    let writer = LineWriter { lines, output, dropped: Arc::clone(&dropped) };
    let thread = thread::Builder::new().name("faas-log".to_string());
    thread.spawn(move || writer.run()).map_err(|source| LoggerError::Thread { source })?;

    let config = ConfigBuilder::new()
        // The time is put before the line by `RecordWriter`, in the form that the API uses, milliseconds and UTC.
        .set_time_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Error)
        .set_location_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Debug)
        .set_thread_mode(ThreadLogMode::Names)
        .set_level_padding(LevelPadding::Right)
        .build();
    let records = RecordWriter { line: Vec::new(), queue: queue.clone(), dropped };
    Ok((ServerLogger { lines: WriteLogger::new(LevelFilter::Trace, config, records) }, LoggerGuard { queue }))
}

/// What `log` calls.
struct ServerLogger {
    lines: Box<WriteLogger<RecordWriter>>,
}

impl Log for ServerLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.lines.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // The message is made here for two reasons. A `Display` that panics must not do so under the logger's mutex. And
        // a message may repeat what a client sent: a line feed or an escape sequence in it must not make a second line
        // or steer a terminal.
        let message = one_line(record.args().to_string());
        let metadata = record.metadata().clone();
        self.lines.log(&Record::builder().metadata(metadata).args(format_args!("{message}")).build());
    }

    fn flush(&self) {
        // Would have to wait for standard error. Who wants that has the guard.
    }
}

fn one_line(message: String) -> String {
    if !message.contains(char::is_control) {
        return message;
    }
    let mut line = String::with_capacity(message.len() + 16);
    for character in message.chars() {
        match character {
            '\t' => line.push(character),
            _ if character.is_control() => line.extend(character.escape_default()),
            _ => line.push(character),
        }
    }
    line
}

/// Gathers the pieces that simplelog writes until the line feed that ends a record.
struct RecordWriter {
    line: Vec<u8>,
    queue: Sender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Write for RecordWriter {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.line.is_empty() {
            self.line.extend_from_slice(now().as_bytes());
            self.line.push(b' ');
        }
        self.line.extend_from_slice(piece);
        if piece.ends_with(b"\n") {
            let line = std::mem::take(&mut self.line);
            if self.queue.try_send(Message::Line(line)).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread's side of the queue.
struct LineWriter<W> {
    lines: Receiver<Message>,
    output: W,
    dropped: Arc<AtomicU64>,
}

impl<W: Write> LineWriter<W> {
    fn run(mut self) {
        while let Ok(first) = self.lines.recv() {
            let mut batch = Vec::new();
            let mut waiting = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Line(line) => batch.extend_from_slice(&line),
                    Message::Flush(done) => waiting.push(done),
                }
                next = if batch.len() < BATCH_BYTES { self.lines.try_recv().ok() } else { None };
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                let lines = if dropped == 1 { "line was" } else { "lines were" };
                let note = format!("{} [WARN ] {dropped} log {lines} dropped: the log queue was full\n", now());
                batch.extend_from_slice(note.as_bytes());
            }
            self.write(&batch);
            for done in waiting {
                // Who asked may have given up waiting.
                let _ = done.try_send(());
            }
        }
    }

    /// Writes all of `bytes`. A log that cannot be written has nowhere to complain, so errors end the attempt silently.
    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(0) => return,
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(FULL_PAUSE),
                Err(_) => return,
            }
        }
    }
}

fn now() -> String {
    // A clock before 1970 is shown as 1970: a log line must not fail on it.
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339::format(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;
    use std::sync::Mutex;
    use std::time::Instant;

    /// An output that takes nothing while its gate is held.
    #[derive(Clone, Default)]
    struct Gated {
        gate: Arc<Mutex<()>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Gated {
        fn text(&self) -> String {
            String::from_utf8(self.written.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.gate.lock().unwrap();
            // Short writes, as a pipe makes them.
            let part = &bytes[..bytes.len().min(1000)];
            self.written.lock().unwrap().extend_from_slice(part);
            Ok(part.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(logger: &ServerLogger, level: Level, message: &str) {
        logger.log(&Record::builder().level(level).target("faas::test").args(format_args!("{message}")).build());
    }

    #[test]
    fn a_record_is_a_line_with_time_level_and_target() {
        let output = Gated::default();
        let (logger, guard) = start(output.clone(), 8).unwrap();
        log(&logger, Level::Info, "hello");
        assert!(guard.flush());
        let text = output.text();
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(rfc3339::parse(time).is_some_and(|ms| ms > 0), "{text}");
        assert_eq!(rest, "[INFO ] faas::test: hello\n");
    }

    #[test]
    fn a_message_cannot_forge_a_line_or_steer_a_terminal() {
        let output = Gated::default();
        let (logger, guard) = start(output.clone(), 8).unwrap();
        log(&logger, Level::Info, "name\r\n2026 [ERROR] forged \u{1b}[2J é\t\u{85}\n");
        assert!(guard.flush());
        assert!(
            output.text().ends_with("name\\r\\n2026 [ERROR] forged \\u{1b}[2J é\t\\u{85}\\n\n"),
            "{}",
            output.text()
        );
    }

    #[test]
    fn a_stuck_output_holds_nobody_up_and_the_loss_is_told() {
        let output = Gated::default();
        let (logger, guard) = start(output.clone(), 4).unwrap();
        let stuck = output.gate.lock().unwrap();
        let begun = Instant::now();
        for number in 0..1000 {
            log(&logger, Level::Info, &format!("line {number}"));
        }
        assert!(begun.elapsed() < LOG_FLUSH_TIMEOUT, "logging waited for the output");
        drop(stuck);
        // The thread may sit before the note of an earlier batch: a second flush is after the last one.
        assert!(guard.flush() && guard.flush());
        let text = output.text();
        let kept = text.lines().filter(|line| line.contains(": line ")).count();
        let dropped: usize = text
            .lines()
            .filter_map(|line| line.split_once("[WARN ] ")?.1.split_once(" log line")?.0.parse::<usize>().ok())
            .sum();
        assert!(text.contains(": line 0\n") && dropped > 0, "{text}");
        assert_eq!(kept + dropped, 1000);
    }

    #[test]
    fn a_flush_gives_up_on_a_stuck_output() {
        let output = Gated::default();
        let (logger, guard) = start(output.clone(), 4).unwrap();
        let stuck = output.gate.lock().unwrap();
        log(&logger, Level::Info, "line");
        assert!(!guard.flush());
        drop(stuck);
        assert!(guard.flush());
    }
}
