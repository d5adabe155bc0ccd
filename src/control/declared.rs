//! The functions of the configuration file, deployed before the server answers anybody and again at a reload.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::unbounded;

use crate::clock::unix_ms;
use crate::config::DeclaredFunction;
use crate::http::problem::Problem;
use crate::limits::CONTROL_THREADS;
use crate::registry::function::{FunctionConfig, FunctionVersion};
use crate::registry::image::ImageId;
use crate::registry::store::NewFunction;

use super::deploy::{invalid_setting, taken_over};
use super::{Done, Shared, Ticket};

/// Whether the front runs and is told of what was deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Front {
    /// It is given [`Shared::functions`] when it starts.
    NotYet,
    /// It hears of every version as of those that the API makes.
    Runs,
}

/// What came of the declared functions, each in the order of the names. Those that were as declared already are in
/// neither list.
#[derive(Debug, Default)]
pub(super) struct Deployed {
    /// The new versions.
    pub(super) deployed: Vec<Arc<FunctionVersion>>,
    /// The functions that could not be deployed. What is stored under their names stays.
    pub(super) refused: Vec<(String, Problem)>,
}

impl Shared {
    /// Creates or updates every function with code that differs from what is stored. One that cannot be deployed is
    /// logged, and the others are not touched by it; what is stored under its name stays.
    ///
    /// The front must not run yet: it is not told, but given [`Shared::functions`] when it starts.
    pub fn deploy_declared(&self, functions: &[DeclaredFunction]) {
        self.declare_all(functions, Front::NotYet, &Vetted::default());
    }

    /// The same when the front runs and is told, for a server that takes over.
    pub fn deploy_declared_live(&self, functions: &[DeclaredFunction], vetted: &Vetted) {
        self.declare_all(functions, Front::Runs, vetted);
    }

    /// Looks at the code of each function that will have to be deployed, so that this need not be done when it is. What
    /// is wrong with one will be said then.
    pub fn vet_declared(&self, functions: &[DeclaredFunction]) -> Vetted {
        let sound = Mutex::new(BTreeMap::new());
        let mode = self.settings().default_mode;
        for_each(functions, |declared| {
            let (Some(code), Ok(config)) = (&declared.code, declared.settings.resolve(mode)) else { return };
            let stored = self.lock().functions.get(&declared.name).cloned();
            let image_id = match stored.filter(|stored| is_stored(stored, code, &config)) {
                Some(stored) => Ok(stored.image_id.clone()),
                None => self.vet_patiently(code, &config),
            };
            if let Ok(image_id) = image_id {
                let mut sound = sound.lock().unwrap_or_else(PoisonError::into_inner);
                sound.insert(declared.name.clone(), Sound { code: code.clone(), config, image_id });
            }
        });
        Vetted(sound.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn declare_all(&self, functions: &[DeclaredFunction], front: Front, vetted: &Vetted) -> Deployed {
        let outcomes = Mutex::new(Deployed::default());
        for_each(functions, |function| {
            let outcome = self.declare(function, front, vetted);
            log_outcome(&function.name, &outcome);
            let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok(Some(Done::Created(version) | Done::Updated(version))) => outcomes.deployed.push(version),
                Ok(_) => {}
                Err(problem) => outcomes.refused.push((function.name.clone(), problem)),
            }
        });
        // Of what was declared, and of what a server that was killed has left there.
        self.empty_log();
        let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcomes.deployed.sort_by(|one, other| one.name.cmp(&other.name));
        outcomes.refused.sort_by(|one, other| one.0.cmp(&other.0));
        outcomes
    }

    fn declare(&self, declared: &DeclaredFunction, front: Front, vetted: &Vetted) -> Result<Option<Done>, Problem> {
        let Some(code) = &declared.code else { return Ok(None) };
        let resolved = declared.settings.resolve(self.settings().default_mode);
        let config = resolved.map_err(|error| invalid_setting("config", &error))?;
        loop {
            let stored = self.lock().functions.get(&declared.name).cloned();
            // What is stored was looked at when it was stored: an unchanged function costs no sandbox, and keeps its
            // image, whatever the image's name stands for by now.
            let image_id = match (&stored, vetted.find(&declared.name, code, &config)) {
                (Some(stored), _) if is_stored(stored, code, &config) => stored.image_id.clone(),
                (_, Some(sound)) => sound.image_id.clone(),
                _ => self.vet_patiently(code, &config)?,
            };
            let _pass = self.gate.enter().map_err(|_| taken_over())?;
            let mut state = self.lock();
            let is_same = match (&stored, state.functions.get(&declared.name)) {
                (Some(stored), Some(current)) => Arc::ptr_eq(stored, current),
                (None, None) => true,
                _ => false,
            };
            if !is_same {
                // The API has changed it while its code was looked at.
                continue;
            }
            let done = match stored {
                Some(base) => state.update(&base, code, &config, image_id),
                None => state.create(&NewFunction {
                    name: declared.name.clone(),
                    code: code.clone(),
                    config: config.clone(),
                    image_id,
                    now_ms: unix_ms(),
                }),
            }?;
            if let (Front::Runs, Done::Created(version) | Done::Updated(version)) = (front, &done) {
                // To the front a version is a version, whether it is the first.
                self.report(Ticket::NOBODY, &state, Ok(Done::Updated(Arc::clone(version))), None);
            }
            return Ok(Some(done));
        }
    }
}

/// Functions of the configuration whose code was looked at: by name, and as it was then.
#[derive(Debug, Default)]
pub struct Vetted(BTreeMap<String, Sound>);

/// What was found to be deployable.
#[derive(Debug)]
struct Sound {
    code: String,
    config: FunctionConfig,
    image_id: Option<ImageId>,
}

impl Vetted {
    fn find(&self, name: &str, code: &str, config: &FunctionConfig) -> Option<&Sound> {
        self.0.get(name).filter(|sound| sound.code == code && sound.config == *config)
    }
}

fn is_stored(stored: &FunctionVersion, code: &str, config: &FunctionConfig) -> bool {
    stored.code == code && stored.config == *config
}

/// Runs `work` for each of them, on a few threads.
fn for_each(functions: &[DeclaredFunction], work: impl Fn(&DeclaredFunction) + Sync) {
    let (sender, receiver) = unbounded();
    for function in functions {
        // The receiver is alive.
        let _ = sender.send(function);
    }
    drop(sender);
    std::thread::scope(|scope| {
        for _ in 0..CONTROL_THREADS.min(functions.len()) {
            scope.spawn(|| {
                for function in &receiver {
                    work(function);
                }
            });
        }
    });
}

fn log_outcome(name: &str, outcome: &Result<Option<Done>, Problem>) {
    match outcome {
        Ok(None) => {}
        Ok(Some(Done::Created(function) | Done::Updated(function))) => {
            log::info!("function {name} of the configuration is deployed as version {}", function.version);
        }
        Ok(Some(_)) => log::debug!("function {name} of the configuration is unchanged"),
        Err(problem) => log::error!("function {name} of the configuration is not deployed: {}", problem.detail()),
    }
}
