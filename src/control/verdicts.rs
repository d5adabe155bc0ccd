//! What the operator's scan has said of images: kept by the image's digest and the command, for a while and across
//! restarts, so that a deployment of an image that was looked at costs no other look.
//!
//! Owns the verdicts, and that nobody scans what another thread scans already, or has failed to scan a moment ago: an
//! image may have many names, and each is a deployment's own. Does not own the scan itself (`scan`) nor the form of the
//! file (`file`). Databases of vulnerabilities move on, so that a verdict has an age beyond which it is none
//! (`system.image_scan_max_age`). A scan that failed is no verdict. But many commands end with the same status when they
//! fail by themselves as when they refuse, so that a refusal is not believed for long.
//!
//! Two servers that share a state directory for a moment may lose each other's verdicts.

mod file;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::unix_ms;
use crate::config::ImageScan;
use crate::limits::{IMAGE_REFUSAL_MAX_AGE, IMAGE_SCAN_FAILURE_MAX_AGE, IMAGE_VERDICTS_MAX};
use crate::registry::image::ImageId;

use super::scan::{scan, ScanError, Scans};

/// The command refuses an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refusal {
    /// How it ended.
    pub(super) status: String,
    /// The end of what it said, harmless for whoever reads it.
    pub(super) report: String,
}

/// Of which image, by the digest of which command.
type Subject = (ImageId, String);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    at_ms: u64,
    said: Result<(), Refusal>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    inside: Mutex<Inside>,
    /// A scan has ended.
    ended: Condvar,
    /// Those that run.
    scans: Scans,
    /// None: they end with this process.
    file: Option<PathBuf>,
}

/// What was said of images, by subject.
type ByImage = BTreeMap<Subject, Verdict>;

/// Hexadecimal digits of a command's digest.
const COMMAND_DIGITS: usize = 64;

/// What a scan has come to: what the command says, or why it says nothing.
type Outcome = Result<Result<(), Refusal>, Arc<ScanError>>;

#[derive(Debug, Default)]
struct Inside {
    verdicts: ByImage,
    /// What is being scanned, and where its outcome will be.
    scanning: HashMap<Subject, Arc<OnceLock<Outcome>>>,
    /// What could not be scanned a moment ago.
    failures: HashMap<Subject, Failure>,
}

#[derive(Debug)]
struct Failure {
    error: Arc<ScanError>,
    at: Instant,
    /// The time that it had been given.
    limit: Duration,
}

impl Verdicts {
    /// Those of this file.
    pub(super) fn open(file: PathBuf) -> Verdicts {
        let inside = Inside { verdicts: file::read(&file), ..Inside::default() };
        Verdicts { inside: Mutex::new(inside), file: Some(file), ..Verdicts::default() }
    }

    /// What the command said of this image, if that is not older than this.
    pub(super) fn known(&self, command: &ImageScan, image: &ImageId, max_age: Duration) -> Option<Result<(), Refusal>> {
        self.lock().find(&subject(command, image), max_age)
    }

    /// The same, and has it looked at if it is not known. Blocks for as long as that takes. Who asks while it is looked
    /// at gets what comes of that.
    ///
    /// # Errors
    /// Why it could not be looked at, now or within the last [`IMAGE_SCAN_FAILURE_MAX_AGE`].
    pub(super) fn scan(&self, command: &ImageScan, image: &ImageId, limit: Duration, max_age: Duration) -> Outcome {
        let subject = subject(command, image);
        let mut inside = self.lock();
        while let Some(outcome) = inside.scanning.get(&subject).map(Arc::clone) {
            inside = self.ended.wait(inside).unwrap_or_else(PoisonError::into_inner);
            if let Some(outcome) = outcome.get() {
                return outcome.clone();
            }
        }
        if let Some(said) = inside.find(&subject, max_age) {
            return Ok(said);
        }
        if let Some(error) = inside.failure(&subject, limit, Instant::now()) {
            return Err(error);
        }
        let outcome = Arc::new(OnceLock::new());
        inside.scanning.insert(subject.clone(), Arc::clone(&outcome));
        drop(inside);
        let _scanning = Scanning { verdicts: self, subject: &subject };
        let said = match scan(&self.scans, command, image, limit) {
            Ok(()) => Ok(Ok(())),
            Err(ScanError::Refused { status, output }) => {
                Ok(Err(Refusal { status: status.to_string(), report: output }))
            }
            Err(error) => Err(Arc::new(error)),
        };
        match &said {
            Ok(said) => self.keep(subject.clone(), Verdict { at_ms: unix_ms(), said: said.clone() }),
            Err(error) => {
                self.lock().fail(subject.clone(), Failure { error: Arc::clone(error), at: Instant::now(), limit })
            }
        }
        // Nobody else sets it.
        let _ = outcome.set(said.clone());
        said
    }

    /// Nothing is scanned any more, and what is has no verdict.
    pub(super) fn end_scans(&self) {
        self.scans.end();
    }

    fn keep(&self, subject: Subject, verdict: Verdict) {
        let mut inside = self.lock();
        inside.verdicts.insert(subject, verdict);
        while inside.verdicts.len() > IMAGE_VERDICTS_MAX {
            let oldest = inside.verdicts.iter().min_by_key(|(_, verdict)| verdict.at_ms);
            let Some(oldest) = oldest.map(|(subject, _)| subject.clone()) else { break };
            inside.verdicts.remove(&oldest);
        }
        let Some(file) = &self.file else { return };
        // Under the lock, so that an older state never replaces a newer one.
        if let Err(error) = file::write(file, &inside.verdicts) {
            log::warn!(
                "{} cannot be written, and the scan is forgotten at the end of the server: {error}",
                file.display()
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Changed by single calls.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn find(&self, subject: &Subject, max_age: Duration) -> Option<Result<(), Refusal>> {
        let verdict = self.verdicts.get(subject)?;
        // One from the future was made by another clock.
        let age = unix_ms().checked_sub(verdict.at_ms)?;
        let max_age = if verdict.said.is_ok() { max_age } else { max_age.min(IMAGE_REFUSAL_MAX_AGE) };
        (Duration::from_millis(age) < max_age).then(|| verdict.said.clone())
    }

    /// Why it could not be scanned a moment ago, within the same time as now.
    fn failure(&self, subject: &Subject, limit: Duration, now: Instant) -> Option<Arc<ScanError>> {
        let failure = self.failures.get(subject).filter(|failure| failure.is_fresh(now) && failure.limit == limit)?;
        Some(Arc::clone(&failure.error))
    }

    fn fail(&mut self, subject: Subject, failure: Failure) {
        self.failures.retain(|_, old| old.is_fresh(failure.at));
        // Beyond that each is on its own: a command that fails so often at once fails by itself.
        if self.failures.len() < IMAGE_VERDICTS_MAX {
            self.failures.insert(subject, failure);
        }
    }
}

impl Failure {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < IMAGE_SCAN_FAILURE_MAX_AGE
    }
}

/// While a scan runs, however it ends.
struct Scanning<'a> {
    verdicts: &'a Verdicts,
    subject: &'a Subject,
}

impl Drop for Scanning<'_> {
    fn drop(&mut self) {
        self.verdicts.lock().scanning.remove(self.subject);
        self.verdicts.ended.notify_all();
    }
}

fn subject(command: &ImageScan, image: &ImageId) -> Subject {
    let mut digest = Sha256::new();
    let program = command.program.as_os_str().as_encoded_bytes();
    for word in std::iter::once(program).chain(command.arguments.iter().map(String::as_bytes)) {
        digest.update((word.len() as u64).to_le_bytes());
        digest.update(word);
    }
    let digits: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    (image.clone(), digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::image_id;
    use std::fs;
    use std::path::Path;
    use std::sync::Barrier;

    const LONG: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// A command that counts how often it ran, in a file; and what it does then.
    fn counting(count: &Path, then: &str) -> ImageScan {
        let script = format!("echo >> {}; {then}", count.display());
        ImageScan { program: "sh".into(), arguments: ["-c", &script, "{image}"].map(str::to_owned).to_vec() }
    }

    fn runs(count: &Path) -> usize {
        fs::read_to_string(count).unwrap_or_default().lines().count()
    }

    #[test]
    fn an_image_is_scanned_once_by_a_command_and_again_by_another_or_when_the_verdict_is_old() {
        let directory = tempfile::tempdir().unwrap();
        let (file, count) = (directory.path().join("verdicts.json"), directory.path().join("count"));
        let (takes, refuses) = (counting(&count, "exit 0"), counting(&count, "echo bad; exit 3"));
        let verdicts = Verdicts::open(file.clone());
        assert_eq!(verdicts.known(&takes, &image_id('a'), DAY), None);
        for _ in 0..2 {
            verdicts.scan(&takes, &image_id('a'), LONG, DAY).unwrap().unwrap();
        }
        assert_eq!(runs(&count), 1);
        for _ in 0..2 {
            let refusal = verdicts.scan(&refuses, &image_id('a'), LONG, DAY).unwrap().unwrap_err();
            assert_eq!(refusal, Refusal { status: "exit status: 3".to_owned(), report: "bad\n".to_owned() });
        }
        verdicts.scan(&takes, &image_id('b'), LONG, DAY).unwrap().unwrap();
        assert_eq!(runs(&count), 3, "another command, another image");
        verdicts.scan(&takes, &image_id('a'), LONG, Duration::ZERO).unwrap().unwrap();
        assert_eq!(runs(&count), 4, "an age of 0 keeps nothing");

        let again = Verdicts::open(file.clone());
        assert_eq!(again.known(&takes, &image_id('a'), DAY), Some(Ok(())));
        assert!(again.scan(&refuses, &image_id('a'), LONG, DAY).unwrap().is_err());
        assert_eq!(runs(&count), 4, "what was found out outlives the server");
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_scan_that_failed_or_a_verdict_of_the_future_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let count = directory.path().join("count");
        let verdicts = Verdicts::open(directory.path().join("verdicts.json"));
        let slow = counting(&count, "sleep 60");
        let late = verdicts.scan(&slow, &image_id('a'), Duration::from_millis(300), DAY).unwrap_err();
        assert!(matches!(*late, ScanError::TimedOut { .. }), "{late:?}");
        assert_eq!(verdicts.known(&slow, &image_id('a'), DAY), None);
        let quick = counting(&count, "exit 0");
        let future = Verdict { at_ms: unix_ms() + 60_000, said: Ok(()) };
        verdicts.keep(subject(&quick, &image_id('a')), future);
        assert_eq!(verdicts.known(&quick, &image_id('a'), DAY), None);
    }

    #[test]
    fn a_scan_that_failed_is_not_repeated_for_another_name_of_the_image_but_a_moment_later() {
        let directory = tempfile::tempdir().unwrap();
        let count = directory.path().join("count");
        let verdicts = Verdicts::default();
        let dies = counting(&count, "kill -9 $$");
        let scan = |digit, limit| verdicts.scan(&dies, &image_id(digit), limit, DAY).unwrap_err();
        for _ in 0..3 {
            assert!(matches!(*scan('a', LONG), ScanError::Killed { .. }));
        }
        assert_eq!(runs(&count), 1, "another name of the same image");
        scan('b', LONG);
        assert_eq!(runs(&count), 2, "another image");
        scan('a', LONG * 2);
        assert_eq!(runs(&count), 3, "it is given more time");
        let inside = verdicts.lock();
        let failure = &inside.failures[&subject(&dies, &image_id('b'))];
        let old = failure.at + IMAGE_SCAN_FAILURE_MAX_AGE;
        assert!(inside.failure(&subject(&dies, &image_id('b')), LONG, old - Duration::from_millis(1)).is_some());
        assert!(inside.failure(&subject(&dies, &image_id('b')), LONG, old).is_none(), "it is over");
    }

    #[test]
    fn a_refusal_is_not_believed_for_as_long_as_an_acceptance() {
        let verdicts = Verdicts::default();
        let command = ImageScan { program: "x".into(), arguments: Vec::new() };
        let at = |age: Duration| unix_ms() - u64::try_from(age.as_millis()).unwrap();
        let refusal = Refusal { status: "exit status: 1".to_owned(), report: "no database".to_owned() };
        for (said, age, is_known) in [
            (Ok(()), IMAGE_REFUSAL_MAX_AGE, true),
            (Err(refusal.clone()), IMAGE_REFUSAL_MAX_AGE / 2, true),
            (Err(refusal), IMAGE_REFUSAL_MAX_AGE, false),
        ] {
            verdicts.keep(subject(&command, &image_id('a')), Verdict { at_ms: at(age), said });
            assert_eq!(verdicts.known(&command, &image_id('a'), DAY).is_some(), is_known, "{age:?}");
        }
    }

    #[test]
    fn what_is_scanned_already_is_waited_for_and_not_scanned_twice() {
        let directory = tempfile::tempdir().unwrap();
        // Neither an outcome that is not kept nor one that is none is a reason to look once for each who waits.
        for (then, limit, max_age) in [
            ("sleep 0.5; exit 1", LONG, DAY),
            ("sleep 0.5; exit 0", LONG, Duration::ZERO),
            ("sleep 60", Duration::from_millis(500), DAY),
            ("sleep 0.5; kill -9 $$", LONG, Duration::ZERO),
        ] {
            let count = directory.path().join("count");
            let verdicts = Verdicts::default();
            let command = counting(&count, then);
            let barrier = Barrier::new(4);
            let scan = || {
                barrier.wait();
                match verdicts.scan(&command, &image_id('a'), limit, max_age) {
                    Ok(said) => format!("{said:?}"),
                    Err(error) => error.to_string(),
                }
            };
            let said: Vec<String> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(scan)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(said.iter().all(|outcome| *outcome == said[0]), "{said:?}");
            assert_eq!(runs(&count), 1, "{then}");
            fs::remove_file(&count).unwrap();
        }
    }

    #[test]
    fn the_oldest_verdict_makes_room_for_the_newest() {
        let verdicts = Verdicts::default();
        let command = |number: usize| ImageScan { program: "x".into(), arguments: vec![number.to_string()] };
        for number in 0..=IMAGE_VERDICTS_MAX {
            let verdict = Verdict { at_ms: unix_ms() - (IMAGE_VERDICTS_MAX - number) as u64, said: Ok(()) };
            verdicts.keep(subject(&command(number), &image_id('a')), verdict);
        }
        let is_known = |number| verdicts.known(&command(number), &image_id('a'), DAY).is_some();
        assert!(!is_known(0) && is_known(1) && is_known(IMAGE_VERDICTS_MAX));
        assert_eq!(verdicts.lock().verdicts.len(), IMAGE_VERDICTS_MAX);
    }
}
