//! The functions of the configuration file, deployed before the server answers anybody.

use crossbeam_channel::unbounded;

use crate::clock::unix_ms;
use crate::config::DeclaredFunction;
use crate::http::problem::Problem;
use crate::limits::CONTROL_THREADS;
use crate::registry::store::NewFunction;

use super::deploy::invalid_setting;
use super::{Done, Shared};

impl Shared {
    /// Creates or updates every function with code that differs from what is stored. One that cannot be deployed is
    /// logged, and the others are not touched by it; what is stored under its name stays.
    ///
    /// The front must not run yet: it is not told, but given [`Shared::functions`] when it starts.
    pub fn deploy_declared(&self, functions: &[DeclaredFunction]) {
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
                        self.log_declared(function);
                    }
                });
            }
        });
        // Of what was declared, and of what a server that was killed has left there.
        self.empty_log();
    }

    fn log_declared(&self, declared: &DeclaredFunction) {
        let name = &declared.name;
        match self.declare(declared) {
            Ok(None) => {}
            Ok(Some(Done::Created(function) | Done::Updated(function))) => {
                log::info!("function {name} of the configuration is deployed as version {}", function.version);
            }
            Ok(Some(_)) => log::debug!("function {name} of the configuration is unchanged"),
            Err(problem) => log::error!("function {name} of the configuration is not deployed: {}", problem.detail()),
        }
    }

    fn declare(&self, declared: &DeclaredFunction) -> Result<Option<Done>, Problem> {
        let Some(code) = &declared.code else { return Ok(None) };
        let resolved = declared.settings.resolve(self.settings.default_mode);
        let config = resolved.map_err(|error| invalid_setting("config", &error))?;
        let stored = self.lock().functions.get(&declared.name).cloned();
        // What is stored was looked at when it was stored: an unchanged function costs no sandbox.
        if stored.as_ref().is_none_or(|stored| stored.code != *code || stored.config != config) {
            self.vet(code, &config)?;
        }
        let mut state = self.lock();
        let done = match stored {
            Some(base) => state.update(&base, code, &config),
            None => state.create(&NewFunction {
                name: declared.name.clone(),
                code: code.clone(),
                config,
                now_ms: unix_ms(),
            }),
        };
        done.map(Some)
    }
}
