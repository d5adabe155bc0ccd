//! Images: which one a name means, and getting one that is not here.
//!
//! One pull at a time for a name, however many wait for it, and a bounded number of them: an engine's streams are few, and
//! that of its events must have one. A pull that takes too long is given up, which the engine is told by the end of its
//! connection.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::backend::docker::api::images::{self, Image, PullProgress};
use crate::backend::docker::client::{CallId, News};
use crate::backend::docker::health::Pull;
use crate::backend::docker::images::{ImageError, PulledImage};
use crate::backend::docker::registry_auth::RegistryAuth;
use crate::backend::docker::EngineError;
use crate::control::Pulled;
use crate::limits::{IMAGE_PULLS_MAX, IMAGE_PULL_TIMEOUT};
use crate::registry::image::Reference;

use super::questions::Question;
use super::Supervisor;

/// How often the log tells of a pull that goes on.
const TELL: Duration = Duration::from_secs(5);

/// Who waits for the image that a name means, if it is here.
pub(super) type Finder = Sender<Result<Option<Image>, ImageError>>;
/// Who waits for one that is pulled.
pub(super) type Puller = Sender<Result<PulledImage, ImageError>>;

/// A pull, and the look at what came of it.
#[derive(Debug)]
struct Search {
    call: CallId,
    progress: PullProgress,
    began: Instant,
    told: Instant,
    /// The pull is over, and the engine is asked which image it was.
    pulled: Option<Pulled>,
    waiting: Vec<Puller>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    searches: HashMap<Reference, Search>,
    /// None is begun any more.
    are_over: bool,
}

impl Pulls {
    /// When the first of them has had its time.
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        self.searches.values().map(|search| search.began + IMAGE_PULL_TIMEOUT).min()
    }

    fn overdue(&self, now: Instant) -> Vec<(Reference, CallId)> {
        let overdue = self.searches.iter().filter(|(_, search)| now >= search.began + IMAGE_PULL_TIMEOUT);
        overdue.map(|(reference, search)| (reference.clone(), search.call)).collect()
    }
}

impl Supervisor {
    pub(super) fn find_image(&mut self, reference: &Reference, answer: Finder) {
        match self.engine.refusal() {
            Some(reason) => drop(answer.send(Err(ImageError::NoEngine { reason }))),
            None => drop(self.ask(images::inspect(reference), Question::Find { answer })),
        }
    }

    pub(super) fn hear_of_image(&mut self, call: CallId, news: News) {
        let Some(Question::Find { answer }) = self.answered(call) else { return };
        let found = match news {
            News::Reply { status, body, .. } => images::inspected(status, &body),
            News::Failed { error, .. } => Err(error),
            News::Head { .. } | News::Chunk { .. } | News::End { .. } => return,
        };
        // Who asked may have ended with its server.
        let _ = answer.send(found.map_err(|error| no_engine(&error)));
    }

    pub(super) fn pull_image(&mut self, reference: Reference, auth: Option<RegistryAuth>, answer: Puller) {
        if let Some(reason) = self.engine.refusal() {
            let _ = answer.send(Err(ImageError::NoEngine { reason }));
            return;
        }
        if self.pulls.are_over {
            let _ = answer.send(Err(ImageError::Succeeded));
            return;
        }
        if let Some(search) = self.pulls.searches.get_mut(&reference) {
            return search.waiting.push(answer);
        }
        if self.pulls.searches.len() >= IMAGE_PULLS_MAX {
            let _ = answer.send(Err(ImageError::Busy));
            return;
        }
        log::info!("image {reference} is not here, and is pulled");
        let now = Instant::now();
        let call = self.ask(images::pull(&reference, auth), Question::Pull { reference: reference.clone() });
        let progress = PullProgress::default();
        let waiting = vec![answer];
        self.pulls.searches.insert(reference, Search { call, progress, began: now, told: now, pulled: None, waiting });
        self.show_pulls();
    }

    pub(super) fn hear_of_pull(&mut self, call: CallId, news: News) {
        let Some(Question::Pull { reference }) = self.questions.get(&call).map(|asked| asked.question.clone()) else {
            return;
        };
        if !matches!(news, News::Head { .. } | News::Chunk { .. }) {
            self.questions.remove(&call);
        }
        let Some(search) = self.pulls.searches.get_mut(&reference) else { return };
        let missing = |message: String| ImageError::Missing { reference: reference.to_string(), message };
        match news {
            News::Failed { error, .. } => self.end_pull(&reference, &Err(no_engine(&error))),
            News::Reply { status, body, .. } => {
                let outcome = match search.pulled.take() {
                    Some(pulled) => match images::inspected(status, &body) {
                        Ok(Some(image)) => Ok(PulledImage { image, pulled }),
                        Ok(None) => Err(missing("it was pulled, and is not there".to_owned())),
                        Err(error) => Err(no_engine(&error)),
                    },
                    None if status >= 500 => Err(ImageError::NoEngine { reason: super::super::api::refusal(&body) }),
                    None => Err(missing(super::super::api::refusal(&body))),
                };
                self.end_pull(&reference, &outcome);
            }
            News::Chunk { bytes, .. } => {
                search.progress.push(&bytes);
                if search.told.elapsed() >= TELL {
                    search.told = Instant::now();
                    log::info!("pulling {reference}: {}", search.progress);
                }
                // Each time, since the next piece may be long in coming.
                self.show_pulls();
            }
            News::End { .. } => match search.progress.failure().map(str::to_owned) {
                Some(message) => self.end_pull(&reference, &Err(missing(message))),
                None => {
                    let pulled = pulled(&reference, search);
                    log::info!("pulled {reference}: {}, in {:.1?}", search.progress, pulled.took);
                    search.pulled = Some(pulled);
                    let request = images::inspect(&reference);
                    let call = self.ask(request, Question::Pull { reference: reference.clone() });
                    if let Some(search) = self.pulls.searches.get_mut(&reference) {
                        search.call = call;
                    }
                }
            },
            News::Head { .. } => {}
        }
    }

    /// Gives up pulls that take too long, however busily they go on.
    pub(super) fn expire_pulls(&mut self, now: Instant) {
        for (reference, call) in self.pulls.overdue(now) {
            let timed_out = ImageError::TimedOut { reference: reference.to_string() };
            self.give_up_pull(&reference, call, timed_out);
        }
    }

    /// Gives all of them up, and begins none any more.
    pub(super) fn stop_pulls(&mut self) {
        self.pulls.are_over = true;
        let calls = self.pulls.searches.iter().map(|(reference, search)| (reference.clone(), search.call));
        for (reference, call) in calls.collect::<Vec<_>>() {
            self.give_up_pull(&reference, call, ImageError::Succeeded);
        }
    }

    fn give_up_pull(&mut self, reference: &Reference, call: CallId, why: ImageError) {
        self.client.cancel(self.desk.registry(), call);
        self.questions.remove(&call);
        self.end_pull(reference, &Err(why));
    }

    fn end_pull(&mut self, reference: &Reference, outcome: &Result<PulledImage, ImageError>) {
        let Some(search) = self.pulls.searches.remove(reference) else { return };
        self.show_pulls();
        if let Err(error) = outcome {
            log::warn!("image {reference} is not here: {error}");
        }
        for waiting in search.waiting {
            let _ = waiting.send(outcome.clone());
        }
    }

    fn show_pulls(&self) {
        let mut pulls: Vec<Pull> =
            self.pulls.searches.iter().map(|(reference, search)| shown(reference, search)).collect();
        pulls.sort_by_key(|pull| pull.began);
        self.settings.health.set_pulls(pulls);
    }
}

fn pulled(reference: &Reference, search: &Search) -> Pulled {
    Pulled {
        image: reference.to_string(),
        digest: search.progress.digest().map(str::to_owned),
        took: search.began.elapsed(),
        layers: search.progress.layers(),
        bytes: search.progress.bytes(),
    }
}

fn shown(reference: &Reference, search: &Search) -> Pull {
    Pull {
        image: reference.to_string(),
        began: search.began,
        layers: search.progress.layers(),
        layers_complete: search.progress.layers_complete(),
        bytes: search.progress.bytes(),
        percent: search.progress.percent(),
    }
}

fn no_engine(error: &EngineError) -> ImageError {
    log::warn!("the container engine cannot be asked about an image: {error}");
    ImageError::NoEngine { reason: error.in_short() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::docker::client::Client;

    #[test]
    fn a_pull_has_an_end_of_its_own_whatever_the_engine_says_meanwhile() {
        let poll = mio::Poll::new().unwrap();
        let mut client = Client::new("/no/engine".into(), 0);
        let mut pulls = Pulls::default();
        let began = Instant::now();
        for (name, after) in [("a", Duration::ZERO), ("b", Duration::from_secs(1))] {
            let reference = Reference::parse(name).unwrap();
            let call = client.submit(poll.registry(), images::pull(&reference, None), began);
            let mut progress = PullProgress::default();
            progress.push(b"{\"status\":\"Downloading\",\"id\":\"aa11\"}\n");
            let told = began + IMAGE_PULL_TIMEOUT;
            let search = Search { call, progress, began: began + after, told, pulled: None, waiting: Vec::new() };
            pulls.searches.insert(reference, search);
        }
        assert_eq!(pulls.next_overdue(), Some(began + IMAGE_PULL_TIMEOUT));
        let overdue = |now| pulls.overdue(now).into_iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
        assert!(overdue(began + IMAGE_PULL_TIMEOUT - Duration::from_millis(1)).is_empty());
        assert_eq!(overdue(began + IMAGE_PULL_TIMEOUT), ["a:latest"]);
        assert_eq!(overdue(began + IMAGE_PULL_TIMEOUT + Duration::from_secs(1)).len(), 2);
    }
}
