//! The operator's own look at an image (`system.image_scan`): a command that is run with the image's id, and refuses it
//! with an exit status other than 0.
//!
//! The command is the operator's and trusted to be what it is, but neither to end nor to say little: it has a time, after
//! which its process group is killed, and of what it says the end is kept.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;

use crate::config::ImageScan;
use crate::limits::{IMAGE_SCAN_OUTPUT_BYTES_MAX, WORKER_OUTPUT_READ_BYTES};
use crate::registry::image::ImageId;
use crate::sys::io::{output_pipe, wait_either, wait_readable, Woken};
use crate::sys::process::pidfd_open;

/// Why an image did not pass.
#[derive(Debug)]
pub(super) enum ScanError {
    /// The command says so.
    Refused {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote, as [`readable`] has it.
        output: String,
    },
    /// It was killed, by the kernel for want of memory or by a person: that says nothing of the image.
    Killed {
        /// By which signal.
        status: ExitStatus,
    },
    /// It did not end in time.
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// It could not be run, or not be waited for.
    CannotRun {
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScanError::Refused { status, .. } | ScanError::Killed { status } => write!(f, "it ended with {status}"),
            ScanError::TimedOut { limit } => write!(f, "it has not ended within {limit:?} (system.image_scan_timeout)"),
            ScanError::CannotRun { source } => write!(f, "it cannot be run: {source}"),
        }
    }
}

impl std::error::Error for ScanError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ScanError::CannotRun { source } => Some(source),
            ScanError::Refused { .. } | ScanError::Killed { .. } | ScanError::TimedOut { .. } => None,
        }
    }
}

/// The commands that run, so that none outlives the server, which is what holds it to its time.
#[derive(Debug, Default)]
pub(super) struct Scans(Mutex<Groups>);

#[derive(Debug, Default)]
struct Groups {
    /// Their leaders, none of which has been waited for: a number is that of a command's group and of nothing else.
    leaders: Vec<u32>,
    is_over: bool,
}

impl Scans {
    /// Ends them with all that they started, and any that begins from now on.
    pub(super) fn end(&self) {
        let mut groups = self.lock();
        groups.is_over = true;
        groups.leaders.iter().copied().for_each(end_group);
    }

    fn enter(&self, leader: u32) {
        let mut groups = self.lock();
        groups.leaders.push(leader);
        if groups.is_over {
            end_group(leader);
        }
    }

    fn leave(&self, leader: u32) {
        self.lock().leaders.retain(|known| *known != leader);
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        // Changed by single calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the image looked at. Blocks until the command has ended, its time is over, or all are ended.
///
/// # Errors
/// Why the image must not be used.
pub(super) fn scan(scans: &Scans, command: &ImageScan, image: &ImageId, limit: Duration) -> Result<(), ScanError> {
    let cannot_run = |source| ScanError::CannotRun { source };
    let deadline = Instant::now() + limit;
    let (output, write) = output_pipe().map_err(cannot_run)?;
    let mut child = spawn(command, image, write).map_err(cannot_run)?;
    scans.enter(child.id());
    let mut tail = Vec::new();
    let ended = pidfd_open(child.id()).and_then(|ended| listen(&output, &ended, deadline, &mut tail));
    // Also when it has ended well: what it left behind is of no more use, and nobody would wait for it. The child is not
    // waited for yet, so that its number is still that of its group.
    end_group(child.id());
    scans.leave(child.id());
    let status = child.wait().map_err(cannot_run)?;
    match ended {
        Ok(()) if status.success() => Ok(()),
        Ok(()) if status.code().is_none() => Err(ScanError::Killed { status }),
        Ok(()) => Err(ScanError::Refused { status, output: readable(&tail) }),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(ScanError::TimedOut { limit }),
        Err(source) => Err(cannot_run(source)),
    }
}

/// The write end of the pipe is the command's alone afterwards.
fn spawn(command: &ImageScan, image: &ImageId, output: OwnedFd) -> io::Result<Child> {
    let arguments = command.arguments.iter().map(|argument| argument.replace(ImageScan::IMAGE, image.as_str()));
    let (stdout, stderr) = (output.try_clone()?, output);
    // A group of its own, so that all of it can be ended.
    let mut process = Command::new(&command.program);
    process.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0).spawn()
}

/// Takes in what the command says until it has ended. What it leaves running may hold the pipe open and go on writing, so
/// that only the pidfd tells, and the time is looked at whatever there is to read.
fn listen(output: &OwnedFd, ended: &OwnedFd, deadline: Instant, tail: &mut Vec<u8>) -> io::Result<()> {
    let mut pipe = File::from(output.try_clone()?);
    loop {
        let woken = wait_either(ended, output, deadline)?;
        let goes_on = take(&mut pipe, tail)?;
        match woken {
            Woken::First => return Ok(()),
            Woken::Second if !goes_on => return wait_readable(ended, deadline),
            Woken::Second if Instant::now() >= deadline => return Err(io::ErrorKind::TimedOut.into()),
            Woken::Second => {}
        }
    }
}

/// Takes what is in the pipe at once, and keeps the end of all that was said. Whether more may come.
fn take(pipe: &mut File, tail: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0u8; WORKER_OUTPUT_READ_BYTES];
    match pipe.read(&mut piece) {
        Ok(0) => Ok(false),
        Ok(length) => {
            tail.extend(piece.iter().take(length));
            tail.drain(..tail.len().saturating_sub(IMAGE_SCAN_OUTPUT_BYTES_MAX));
            Ok(true)
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(true),
        Err(error) => Err(error),
    }
}

/// What a command wrote, for people who read it wherever they are: lines of text, nothing that moves a cursor, colours the
/// rest or turns its direction, and at most [`IMAGE_SCAN_OUTPUT_BYTES_MAX`] bytes of it.
pub(super) fn readable(output: &[u8]) -> String {
    // The end may begin within a character.
    let begun = output.iter().take(3).take_while(|byte| matches!(byte, 0x80..=0xbf)).count();
    let text = String::from_utf8_lossy(output.get(begun..).unwrap_or_default());
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\n' | '\t' => shown.push(character),
            // A sequence for a terminal: parameters, and the letter that ends them.
            '\u{1b}' if characters.next_if_eq(&'[').is_some() => {
                while characters.next_if(|next| (' '..='?').contains(next)).is_some() {}
                characters.next_if(|next| ('@'..='~').contains(next));
            }
            '\r' if characters.peek() == Some(&'\n') => {}
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            character if character.is_control() => shown.push(' '),
            character => shown.push(character),
        }
    }
    // What was no character became a longer one.
    let excess = shown.len().saturating_sub(IMAGE_SCAN_OUTPUT_BYTES_MAX);
    let start = (excess..=shown.len()).find(|at| shown.is_char_boundary(*at)).unwrap_or(shown.len());
    shown.split_off(start)
}

fn end_group(leader: u32) {
    if let Ok(pid) = i32::try_from(leader) {
        // It may have ended with all that it started.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::image_id;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str, limit: Duration) -> Result<(), ScanError> {
        let arguments = ["-c", script, "scanner", "{image}", "x={image}"].map(str::to_owned).to_vec();
        scan(&Scans::default(), &ImageScan { program: "sh".into(), arguments }, &image_id('c'), limit)
    }

    #[test]
    fn the_command_is_given_the_images_id_wherever_it_asks_for_it() {
        let id = image_id('c');
        shell(&format!("test \"$1\" = {id} && test \"$2\" = x={id}"), LONG).unwrap();
    }

    #[test]
    fn a_status_other_than_0_refuses_and_the_end_of_what_was_said_is_kept() {
        let error = shell("seq 100000; echo bad >&2; exit 3", LONG).unwrap_err();
        let ScanError::Refused { status, output } = error else { panic!("{error}") };
        assert_eq!(status.code(), Some(3));
        assert!(output.ends_with("99999\n100000\nbad\n"), "{output}");
        assert_eq!(output.len(), IMAGE_SCAN_OUTPUT_BYTES_MAX);
        assert!(matches!(shell("kill -9 $$", LONG), Err(ScanError::Killed { .. })), "which is no verdict");
    }

    #[test]
    fn what_a_command_says_is_text_that_does_nothing_to_who_reads_it() {
        for (said, shown) in [
            (&b"bad\r\n\tworse\n"[..], "bad\n\tworse\n"),
            (b"\x1b[1;31mCVE\x1b[0m \x1b]0;title\x07 \x1b", "CVE  ]0;title   "),
            (b"a\rb\0c\x08d\x7fe\xc2\x9bf", "a b c d e f"),
            ("\u{202e}abc\u{2066}d".as_bytes(), "abcd"),
            (b"\xa9\xc3\xa9\xff!", "\u{e9}\u{fffd}!"),
            (b"\x1b[", ""),
            (b"", ""),
        ] {
            assert_eq!(readable(said), shown);
            assert_eq!(readable(shown.as_bytes()), shown, "what was kept is as it was when it is read");
        }
        let invalid = readable(&[0xff; IMAGE_SCAN_OUTPUT_BYTES_MAX]);
        assert!(invalid.len() <= IMAGE_SCAN_OUTPUT_BYTES_MAX && invalid.len() > IMAGE_SCAN_OUTPUT_BYTES_MAX - 3);
        assert!(invalid.chars().all(|character| character == '\u{fffd}'));
    }

    #[test]
    fn a_command_that_does_not_end_is_ended_with_all_that_it_started() {
        let pid_file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("sleep 1000 & echo $! > {}; wait", pid_file.path().display());
        let begun = Instant::now();
        assert!(matches!(shell(&script, Duration::from_millis(500)), Err(ScanError::TimedOut { .. })));
        assert!(begun.elapsed() < LONG);
        assert_gone(&pid_file);
        // One that ends well takes with it what it has left running.
        shell(&format!("sleep 1000 & echo $! > {}", pid_file.path().display()), LONG).unwrap();
        assert_gone(&pid_file);
    }

    #[test]
    fn a_command_ends_with_the_server_and_with_all_that_it_started() {
        let pid_file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("sleep 1000 & echo $! > {}; wait", pid_file.path().display());
        let command = ImageScan { program: "sh".into(), arguments: vec!["-c".into(), script] };
        let scans = Scans::default();
        std::thread::scope(|scope| {
            let running = scope.spawn(|| scan(&scans, &command, &image_id('c'), LONG));
            let deadline = Instant::now() + LONG;
            while !std::fs::read_to_string(pid_file.path()).unwrap().ends_with('\n') {
                assert!(Instant::now() < deadline);
                std::thread::sleep(Duration::from_millis(5));
            }
            scans.end();
            assert!(matches!(running.join().unwrap(), Err(ScanError::Killed { .. })), "which is no verdict");
        });
        assert_gone(&pid_file);
        assert!(matches!(scan(&scans, &command, &image_id('c'), LONG), Err(ScanError::Killed { .. })));
        assert!(scans.lock().leaders.is_empty());
    }

    fn assert_gone(pid_file: &tempfile::NamedTempFile) {
        let pid = std::fs::read_to_string(pid_file.path()).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        let deadline = Instant::now() + LONG;
        // A zombie is gone: who adopts it buries it.
        while !state().is_empty() && !state().contains(") Z") {
            assert!(Instant::now() < deadline, "process {pid} lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_command_that_writes_without_end_has_an_end_all_the_same() {
        assert!(matches!(shell("exec yes", Duration::from_millis(500)), Err(ScanError::TimedOut { .. })));
        // Nor is it waited for what goes on writing when the command itself has ended.
        shell("yes & exit 0", LONG).unwrap();
    }

    #[test]
    fn a_command_that_is_not_there_takes_no_image() {
        let command = ImageScan { program: "/no/such/scanner".into(), arguments: vec!["{image}".into()] };
        let error = scan(&Scans::default(), &command, &image_id('c'), LONG).unwrap_err();
        assert!(error.to_string().starts_with("it cannot be run: "), "{error}");
    }
}
