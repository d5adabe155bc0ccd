//! Deployments that wait for an image: it has to be pulled, or looked at.
//!
//! Either may take minutes, and a control thread has other things to do. So a job that meets such an image is put aside
//! here, a thread of its own gets the image, and then the job is handed to the control threads once more, with what came
//! of it. Jobs that need the same image share that.
//!
//! Whether a job may still be done by then is not decided here: see `claims`.
//!
//! Invariants:
//! - A job that was put aside is handed on once, or answered once, whatever becomes of the image.
//! - Nothing waits here when the store is another process's: what does then is answered at once, and pulled no more.
//! - At most [`IMAGE_PREPARATIONS_MAX`] such threads get images, and at most [`CONTROL_QUEUE_MAX`] jobs wait for them, with
//!   bodies of [`PREPARATION_BYTES_MAX`] together. Who comes beyond that is refused.

use std::collections::HashMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{bounded, Receiver, Sender};

use crate::config::ImageScan;
use crate::http::problem::Problem;
use crate::limits::{CONTROL_QUEUE_MAX, IMAGE_PREPARATIONS_MAX, PREPARATION_BYTES_MAX};
use crate::registry::image::{ImageId, Reference};

use super::claims::{Claim, Waited};
use super::deploy::taken_over;
use super::images::Pulled;
use super::{failed, ControlJob, Shared};

/// What has to be got ready.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Need {
    pub(super) reference: Reference,
    /// The command that has to take the image.
    pub(super) scan: Option<ImageScan>,
}

/// An image of which functions may be made.
#[derive(Debug, Clone)]
pub(super) struct Ready {
    pub(super) id: ImageId,
    /// How it came, if it was not here before.
    pub(super) pulled: Option<Arc<Pulled>>,
}

/// What came of a need.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    pub(super) need: Need,
    pub(super) outcome: Result<Ready, Problem>,
}

/// Why a function cannot be deployed now.
#[derive(Debug)]
pub(super) enum Unready {
    /// Nor later, as it is.
    Refused(Problem),
    /// Its image has to be got ready first, which takes a while.
    Needs(Need),
}

impl From<Problem> for Unready {
    fn from(problem: Problem) -> Self {
        Unready::Refused(problem)
    }
}

/// Why a deployment is put aside.
#[derive(Debug)]
pub(super) struct Aside {
    pub(super) need: Need,
    pub(super) claim: Claim,
}

/// A job that goes on, and what it comes back with.
pub(super) type Resumed = (ControlJob, Waited);

#[derive(Debug, Default)]
struct Inside {
    waiting: HashMap<Need, Vec<(ControlJob, Claim)>>,
    is_closed: bool,
}

/// See the module's documentation.
pub(super) struct Preparations {
    inside: Mutex<Inside>,
    resume: Sender<Resumed>,
    /// Where control threads find the jobs that go on.
    pub(super) resumed: Receiver<Resumed>,
}

impl Default for Preparations {
    fn default() -> Self {
        let (resume, resumed) = bounded(CONTROL_QUEUE_MAX);
        Preparations { inside: Mutex::default(), resume, resumed }
    }
}

/// What comes of a job that is to wait.
#[derive(Debug)]
enum Joined {
    /// Somebody gets what it needs.
    Waits,
    /// Nobody did: that is to begin now.
    Begins,
    /// There are too many already.
    Refused(ControlJob),
    /// It would be in vain.
    Closed(ControlJob),
}

impl Preparations {
    fn join(&self, need: &Need, job: ControlJob, claim: Claim) -> Joined {
        let mut inside = self.lock();
        if inside.is_closed {
            return Joined::Closed(job);
        }
        let waiting = &mut inside.waiting;
        let jobs = || waiting.values().flatten().map(|(job, _)| job);
        let bytes: usize = jobs().chain(std::iter::once(&job)).map(|job| job.work.body_bytes()).sum();
        let is_full = jobs().count() >= CONTROL_QUEUE_MAX || bytes > PREPARATION_BYTES_MAX;
        let is_new = !waiting.contains_key(need);
        if is_full || (is_new && waiting.len() >= IMAGE_PREPARATIONS_MAX) {
            return Joined::Refused(job);
        }
        waiting.entry(need.clone()).or_default().push((job, claim));
        match is_new {
            true => Joined::Begins,
            false => Joined::Waits,
        }
    }

    /// Who waits for it. Whoever comes from now on begins anew.
    fn leave(&self, need: &Need) -> Vec<(ControlJob, Claim)> {
        self.lock().waiting.remove(need).unwrap_or_default()
    }

    /// Lets nobody wait any more. Who did?
    fn close(&self) -> Vec<ControlJob> {
        let mut inside = self.lock();
        inside.is_closed = true;
        let waiting = std::mem::take(&mut inside.waiting);
        waiting.into_values().flatten().map(|(job, _)| job).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Changed by single calls.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Puts a job aside until what it needs is there, or cannot be had.
    pub(super) fn put_aside(self: &Arc<Self>, job: ControlJob, Aside { need, claim }: Aside) {
        match self.preparations.join(&need, job, claim) {
            Joined::Waits => {}
            Joined::Closed(job) => self.answer(job.ticket, Err(taken_over())),
            Joined::Refused(job) => {
                let detail = format!(
                    "config.image: {} is not ready, and as many images as can be at once are pulled or scanned already",
                    need.reference
                );
                self.answer(job.ticket, Err(Problem::unavailable("images_busy", detail).retry_after(10)));
            }
            Joined::Begins => {
                let shared = Arc::clone(self);
                let wanted = need.clone();
                let thread = std::thread::Builder::new().name("faas-image".to_owned());
                if let Err(error) = thread.spawn(move || shared.prepare(wanted)) {
                    log::error!("there is no thread to get image {}: {error}", need.reference);
                    let problem = Problem::unavailable("images_busy", "config.image: it cannot be got ready now");
                    for (job, _) in self.preparations.leave(&need) {
                        self.answer(job.ticket, Err(problem.clone()));
                    }
                }
            }
        }
    }

    /// The store is another process's. What waits would be refused when its image is there: its client is told now, and
    /// finds the other process when it comes again. Done more than once it does nothing more.
    pub(super) fn prepare_no_more(&self) {
        for job in self.preparations.close() {
            self.answer(job.ticket, Err(taken_over()));
        }
        if let Some(images) = &self.images {
            images.pull_no_more();
        }
        self.verdicts.end_scans();
    }

    /// Gets what is needed, then lets the jobs go on that wait for it.
    fn prepare(&self, need: Need) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.fetch(&need))).unwrap_or_else(|_| {
            log::error!("getting image {} panicked; what it was about is on standard error", need.reference);
            Err(failed())
        });
        for (job, claim) in self.preparations.leave(&need) {
            let fetched = Fetched { need: need.clone(), outcome: outcome.clone() };
            let waited = Waited { fetched, claim, client: job.client.clone() };
            if let Err(unsent) = self.preparations.resume.send((job, waited)) {
                self.answer(unsent.into_inner().0.ticket, Err(failed()));
            }
        }
    }
}
