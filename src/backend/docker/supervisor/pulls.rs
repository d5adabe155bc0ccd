//! Images: whether one is here and which one a name means, and getting one that is not.
//!
//! One pull at a time for a name, however many wait for it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::backend::docker::api::images::{self, ImageRef, PullProgress};
use crate::backend::docker::client::{CallId, News};
use crate::backend::docker::images::{ImageError, Prepared, Pulled};
use crate::backend::docker::EngineError;

use super::starts::Question;
use super::Supervisor;

/// How often the log tells of a pull that goes on.
const TELL: Duration = Duration::from_secs(5);

/// Where a search for an image is.
#[derive(Debug)]
enum Stage {
    /// The engine is asked which image has this name.
    Looking { pulled: Option<Pulled> },
    /// It gets it.
    Pulling { progress: PullProgress, began: Instant, told: Instant },
}

#[derive(Debug)]
struct Search {
    image: ImageRef,
    stage: Stage,
    waiting: Vec<Sender<Result<Prepared, ImageError>>>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Pulls(HashMap<String, Search>);

impl Supervisor {
    pub(super) fn prepare_image(&mut self, reference: String, answer: Sender<Result<Prepared, ImageError>>) {
        if let Some(reason) = self.engine.refusal() {
            let _ = answer.send(Err(ImageError::NoEngine { reason }));
            return;
        }
        if let Some(search) = self.pulls.0.get_mut(&reference) {
            return search.waiting.push(answer);
        }
        let Some(image) = ImageRef::parse(&reference) else {
            let message = "that is no name of an image".to_owned();
            let _ = answer.send(Err(ImageError::Missing { reference, message }));
            return;
        };
        let request = images::inspect(&image);
        let search = Search { image, stage: Stage::Looking { pulled: None }, waiting: vec![answer] };
        self.pulls.0.insert(reference.clone(), search);
        self.ask(request, Question::Image { reference });
    }

    pub(super) fn hear_of_pull(&mut self, call: CallId, news: News) {
        let Some(Question::Image { reference }) = self.questions.get(&call).map(|asked| asked.question.clone()) else {
            return;
        };
        if !matches!(news, News::Head { .. } | News::Chunk { .. }) {
            self.questions.remove(&call);
        }
        let Some(search) = self.pulls.0.get_mut(&reference) else { return };
        match (news, &mut search.stage) {
            (News::Failed { error, .. }, _) => self.image_failed(&reference, &error),
            (News::Reply { status, body, .. }, Stage::Looking { pulled }) => {
                let was_pulled = pulled.take();
                match images::inspected(status, &body) {
                    Ok(Some(image)) => {
                        let prepared = Prepared { id: image.id, pulled: was_pulled };
                        self.end_search(&reference, &Ok(prepared));
                    }
                    Ok(None) if was_pulled.is_none() => self.pull(&reference),
                    Ok(None) => {
                        let message = "it was pulled, and is not there".to_owned();
                        self.end_search(
                            &reference,
                            &Err(ImageError::Missing { reference: reference.clone(), message }),
                        );
                    }
                    Err(error) => self.image_failed(&reference, &error),
                }
            }
            (News::Reply { status: 500.., body, .. }, Stage::Pulling { .. }) => {
                let reason = crate::backend::docker::api::refusal(&body);
                self.end_search(&reference, &Err(ImageError::NoEngine { reason }));
            }
            (News::Reply { body, .. }, Stage::Pulling { .. }) => {
                let message = crate::backend::docker::api::refusal(&body);
                self.end_search(&reference, &Err(ImageError::Missing { reference: reference.clone(), message }));
            }
            (News::Chunk { bytes, .. }, Stage::Pulling { progress, told, .. }) => {
                progress.push(&bytes);
                if told.elapsed() >= TELL {
                    *told = Instant::now();
                    log::info!("pulling {reference}: {progress}");
                }
            }
            (News::End { .. }, Stage::Pulling { progress, began, .. }) => {
                let pulled = Pulled { took: began.elapsed(), layers: progress.layers(), bytes: progress.bytes() };
                match progress.failure() {
                    Some(message) => {
                        let error = ImageError::Missing { reference: reference.clone(), message: message.to_owned() };
                        self.end_search(&reference, &Err(error));
                    }
                    None => {
                        log::info!("pulled {reference}: {progress}, in {:.1?}", pulled.took);
                        search.stage = Stage::Looking { pulled: Some(pulled) };
                        let request = images::inspect(&search.image);
                        self.ask(request, Question::Image { reference });
                    }
                }
            }
            (News::Head { .. } | News::Chunk { .. } | News::End { .. }, _) => {}
        }
    }

    fn pull(&mut self, reference: &str) {
        let now = Instant::now();
        log::info!("image {reference} is not here, and is pulled");
        let Some(search) = self.pulls.0.get_mut(reference) else { return };
        search.stage = Stage::Pulling { progress: PullProgress::default(), began: now, told: now };
        let request = images::pull(&search.image);
        self.ask(request, Question::Image { reference: reference.to_owned() });
    }

    fn image_failed(&mut self, reference: &str, error: &EngineError) {
        self.end_search(reference, &Err(ImageError::NoEngine { reason: error.to_string() }));
    }

    fn end_search(&mut self, reference: &str, outcome: &Result<Prepared, ImageError>) {
        let Some(search) = self.pulls.0.remove(reference) else { return };
        for waiting in search.waiting {
            let _ = waiting.send(outcome.clone());
        }
    }
}
