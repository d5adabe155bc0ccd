//! The functions of the configuration file, deployed before the server answers anybody.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::unbounded;

use crate::clock::unix_ms;
use crate::config::DeclaredFunction;
use crate::http::problem::Problem;
use crate::limits::CONTROL_THREADS;
use crate::registry::function::FunctionConfig;
use crate::registry::store::NewFunction;

use super::deploy::{invalid_setting, taken_over};
use super::{Done, Shared};

impl Shared {
    /// Creates or updates every function with code that differs from what is stored. One that cannot be deployed is
    /// logged, and the others are not touched by it; what is stored under its name stays.
    ///
    /// The front must not run yet: it is not told, but given [`Shared::functions`] when it starts.
    pub fn deploy_declared(&self, functions: &[DeclaredFunction]) {
        for_each(functions, |declared| self.log_declared(declared, &Vetted::default(), false));
    }

    /// The same when the front runs: it is told of each.
    pub fn deploy_declared_live(&self, functions: &[DeclaredFunction], vetted: &Vetted) {
        for_each(functions, |declared| self.log_declared(declared, vetted, true));
    }

    /// Looks at the code of each function that will have to be deployed, so that this need not be done when it is.
    pub fn vet_declared(&self, functions: &[DeclaredFunction]) -> Vetted {
        let sound = Mutex::new(BTreeSet::new());
        for_each(functions, |declared| {
            let (Some(code), Ok(config)) = (&declared.code, declared.settings.resolve(self.settings.default_mode))
            else {
                return;
            };
            if self.is_stored(&declared.name, code, &config) || self.vet(code, &config).is_ok() {
                sound.lock().unwrap_or_else(PoisonError::into_inner).insert(declared.name.clone());
            }
        });
        Vetted(sound.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_stored(&self, name: &str, code: &str, config: &FunctionConfig) -> bool {
        self.lock().functions.get(name).is_some_and(|stored| stored.code == code && stored.config == *config)
    }

    fn log_declared(&self, declared: &DeclaredFunction, vetted: &Vetted, tell_front: bool) {
        let name = &declared.name;
        match self.declare(declared, vetted, tell_front) {
            Ok(None) => {}
            Ok(Some(Done::Created(function) | Done::Updated(function))) => {
                log::info!("function {name} of the configuration is deployed as version {}", function.version);
            }
            Ok(Some(_)) => log::debug!("function {name} of the configuration is unchanged"),
            Err(problem) => log::error!("function {name} of the configuration is not deployed: {}", problem.detail()),
        }
    }

    fn declare(&self, declared: &DeclaredFunction, vetted: &Vetted, tell_front: bool) -> Result<Option<Done>, Problem> {
        let Some(code) = &declared.code else { return Ok(None) };
        let resolved = declared.settings.resolve(self.settings.default_mode);
        let config = resolved.map_err(|error| invalid_setting("config", &error))?;
        // What is stored was looked at when it was stored: an unchanged function costs no sandbox.
        if !vetted.0.contains(&declared.name) && !self.is_stored(&declared.name, code, &config) {
            self.vet(code, &config)?;
        }
        let _pass = self.gate.enter().map_err(|_| taken_over())?;
        let mut state = self.lock();
        let done = match state.functions.get(&declared.name).cloned() {
            Some(base) => state.update(&base, code, &config),
            None => state.create(&NewFunction {
                name: declared.name.clone(),
                code: code.clone(),
                config,
                now_ms: unix_ms(),
            }),
        }?;
        if tell_front {
            self.announce(done.clone());
        }
        Ok(Some(done))
    }
}

/// Functions of the configuration whose code was looked at, by name.
#[derive(Debug, Default)]
pub struct Vetted(BTreeSet<String>);

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
