//! The two files of one function's log: `NAME.jsonl`, and `NAME.jsonl.1` with what was there before.
//!
//! One entry is one line of JSON. Lines gather in memory and are written together; nothing is synced, since a log is
//! not worth the wait: a kill -9 of the server loses no written line, a power cut the last seconds.
//!
//! Invariant: neither file grows beyond [`LOG_FILE_BYTES_MAX`]. A file is opened for one write and closed, so that the
//! number of functions does not count against the limit of open files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::LoggedEntry;
use crate::limits::LOG_FILE_BYTES_MAX;

const SUFFIX: &str = ".jsonl";
const OLDER_SUFFIX: &str = ".jsonl.1";

/// The function whose log a file of this name is.
pub(super) fn function_of(file_name: &str) -> Option<&str> {
    file_name.strip_suffix(OLDER_SUFFIX).or_else(|| file_name.strip_suffix(SUFFIX))
}

#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    older_path: PathBuf,
    /// Bytes in `path`.
    bytes: u64,
    /// Whole lines that are not written yet.
    pending: Vec<u8>,
    /// Whether the file may end in the middle of a line: a write failed, or the server was killed in one.
    torn: bool,
}

impl LogFile {
    /// The log of `function`, a valid name, in `dir`; nothing is read or made yet.
    pub(super) fn new(dir: &Path, function: &str) -> Self {
        debug_assert!(!function.contains(['/', '.', '\0']), "function names are validated: {function:?}");
        LogFile {
            path: dir.join(format!("{function}{SUFFIX}")),
            older_path: dir.join(format!("{function}{OLDER_SUFFIX}")),
            bytes: 0,
            pending: Vec::new(),
            torn: false,
        }
    }

    /// Gives every entry of both files to `keep`, oldest first. Lines that are none (torn, not UTF-8) are skipped.
    pub(super) fn load(&mut self, mut keep: impl FnMut(LoggedEntry)) -> io::Result<()> {
        let mut read = |path: &Path| -> io::Result<(u64, bool)> {
            let Some((len, text)) = read_tail(path)? else { return Ok((0, false)) };
            let lines = text.split(|byte| *byte == b'\n');
            lines.filter_map(|line| serde_json::from_slice(line).ok()).for_each(&mut keep);
            Ok((len, !text.is_empty() && !text.ends_with(b"\n")))
        };
        read(&self.older_path)?;
        (self.bytes, self.torn) = read(&self.path)?;
        Ok(())
    }

    /// Adds a line to those to be written. Writes and rotates first when the file would grow too large. Says how many
    /// bytes were written.
    pub(super) fn append(&mut self, logged: &LoggedEntry) -> io::Result<u64> {
        let start = self.pending.len();
        // Into memory, of a type without fallible parts: it cannot fail, and if it does the line is not there.
        if serde_json::to_writer(&mut self.pending, logged).is_err() {
            self.pending.truncate(start);
            return Ok(0);
        }
        self.pending.push(b'\n');
        if self.bytes + u64::from(self.torn) + self.pending.len() as u64 <= LOG_FILE_BYTES_MAX {
            return Ok(0);
        }
        let line = self.pending.split_off(start);
        let written = self.flush();
        let rotated = self.rotate();
        self.pending = line;
        rotated.and(written)
    }

    /// Writes the gathered lines and says how many bytes that were. If it fails they are given up: memory must not grow
    /// because a disk is full.
    pub(super) fn flush(&mut self) -> io::Result<u64> {
        if self.pending.is_empty() {
            return Ok(0);
        }
        let mut lines = std::mem::take(&mut self.pending);
        if self.torn {
            // Ends the torn line, which a reader then skips.
            lines.insert(0, b'\n');
        }
        let written = self.write(&lines).map(|()| lines.len() as u64);
        self.torn = written.is_err();
        // Kept for its capacity.
        lines.clear();
        self.pending = lines;
        written
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        let written = file.write_all(lines);
        // What counts is what is there: part of the lines after an error, nothing more if somebody emptied the file.
        self.bytes = file.metadata()?.len();
        written
    }

    /// Sets the file aside, in the place of the one that was set aside before.
    fn rotate(&mut self) -> io::Result<()> {
        let renamed = match fs::rename(&self.path, &self.older_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // If it cannot be set aside it is given up: the bound holds whatever happens.
                fs::remove_file(&self.path)?;
                Err(error)
            }
            _ => Ok(()),
        };
        (self.bytes, self.torn) = (0, false);
        renamed
    }

    /// Removes both files; says which one could not be.
    pub(super) fn remove(self) -> Result<(), (PathBuf, io::Error)> {
        for path in [self.path, self.older_path] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((path, error)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The length of a file and its last [`LOG_FILE_BYTES_MAX`] bytes; `None` if there is no such file.
fn read_tail(path: &Path) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LOG_FILE_BYTES_MAX)))?;
    let mut text = Vec::new();
    file.take(LOG_FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(Some((len, text)))
}
