//! The job that takes a new configuration: reads it, has the server's parts take it, deploys its functions, and tells
//! what came of all that.
//!
//! Invariants: one reload runs at a time. Whoever asks while one runs waits for the next, which begins after they asked
//! and is the same for all of them: so they do not take the control threads away from others.
//!
//! The configuration is taken whole or not at all. Its functions are deployed one by one afterwards, as at the start:
//! one whose code does not compile is named in the answer and stays as it is stored, and holds up nobody.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{json, Value};

use crate::config::{Changes, DeclaredFunction, Settings};
use crate::http::problem::Problem;
use crate::reload::{control_settings, ReloadError, Reloader};

use super::declared::{Deployed, Front, Vetted};
use super::deploy::taken_over;
use super::{failed, Done, Shared, Ticket};

/// The reloader, and who waits for it.
pub(super) struct Reloads {
    reloader: Mutex<Reloader>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    is_running: bool,
    waiting: Vec<Ticket>,
}

impl Reloads {
    pub(super) fn new(reloader: Reloader) -> Self {
        Reloads { reloader: Mutex::new(reloader), queue: Mutex::default() }
    }

    /// Whether the caller is to reload now, for all who wait; otherwise the one that runs will do it for this ticket.
    fn begin(&self, ticket: Ticket) -> bool {
        let mut queue = self.queue();
        queue.waiting.push(ticket);
        !std::mem::replace(&mut queue.is_running, true)
    }

    /// Who waits for the reload that begins now; when nobody does, none runs any more.
    fn next(&self) -> Vec<Ticket> {
        let mut queue = self.queue();
        let waiting = std::mem::take(&mut queue.waiting);
        queue.is_running = !waiting.is_empty();
        waiting
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    pub(super) fn reload(&self, ticket: Ticket) {
        if !self.reloads.begin(ticket) {
            return;
        }
        loop {
            let waiting = self.reloads.next();
            if waiting.is_empty() {
                return;
            }
            // A panic here must not leave those who wait without an answer, and those who come with nobody to wait for.
            let outcome = catch_unwind(AssertUnwindSafe(|| self.reload_once()));
            let outcome = outcome.unwrap_or_else(|_| {
                log::error!("the reload panicked; what it was about is on standard error");
                Err(failed())
            });
            for ticket in waiting {
                self.answer(ticket, outcome.clone().map(Done::Document));
            }
        }
    }

    /// Takes what the configuration says now, for a server that has just taken over: its predecessor may have taken and
    /// acknowledged it since this one was started. Gives the functions that it declares, to be deployed by the caller;
    /// none when it cannot be read, and what was read at the start goes on to rule.
    pub fn read_again(&self) -> Option<Vec<DeclaredFunction>> {
        let mut reloader = self.reloads.reloader.lock().unwrap_or_else(PoisonError::into_inner);
        match reloader.reload() {
            Ok(changes) => {
                self.rule_by(&changes.settings);
                log_changes(&changes);
                Some(changes.settings.functions)
            }
            Err(error) => {
                log::error!("the configuration has changed since this server was started, and is not taken: {error}");
                None
            }
        }
    }

    fn rule_by(&self, settings: &Settings) {
        let settings = Arc::new(control_settings(settings));
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    fn reload_once(&self) -> Result<Value, Problem> {
        let mut reloader = self.reloads.reloader.lock().unwrap_or_else(PoisonError::into_inner);
        if self.gate.is_closed() {
            return Err(taken_over());
        }
        let mut told = reloader.announce();
        let changes = reloader.reload().map_err(|error| {
            log::error!("the configuration is not taken, and nothing is changed: {error}");
            told.refused(&error);
            refusal(&error)
        })?;
        self.rule_by(&changes.settings);
        let functions = self.declare_all(&changes.settings.functions, Front::Runs, &Vetted::default());
        log_changes(&changes);
        // The successor read the configuration when it had the place: perhaps before this did. Nothing is acknowledged
        // that may not be in force there.
        if self.gate.is_closed() {
            return Err(taken_over());
        }
        Ok(document(&changes, &functions))
    }
}

fn log_changes(changes: &Changes) {
    match changes.changed.as_slice() {
        [] => log::info!("the configuration is read again; nothing in it has changed"),
        changed => log::info!("the configuration is read again; changed: {}", changed.join(", ")),
    }
    if !changes.restart_needed.is_empty() {
        log::warn!("to take effect, a restart is needed for {}", changes.restart_needed.join(", "));
    }
}

fn document(changes: &Changes, functions: &Deployed) -> Value {
    let deployed = functions.deployed.iter().map(|it| json!({ "name": it.name, "version": it.version }));
    let refused = functions.refused.iter().map(|(name, problem)| {
        let mut refused = json!({ "name": name, "code": problem.code(), "detail": problem.detail() });
        if let Some(report) = problem.member("report") {
            refused["report"] = report.clone();
        }
        refused
    });
    json!({
        "changed": changes.changed,
        "restart_needed": changes.restart_needed,
        "deployed": deployed.collect::<Vec<_>>(),
        "not_deployed": refused.collect::<Vec<_>>(),
    })
}

/// The file's own mistake, told to who administers the server: it names places and never a secret.
fn refusal(error: &ReloadError) -> Problem {
    let mut problem = Problem::invalid("configuration_refused", error.to_string());
    if let ReloadError::Config(error) = error {
        let members = [
            ("file", error.file().map(|path| path.display().to_string().into())),
            ("line", error.line().map(Value::from)),
            ("key", error.key().map(Value::from)),
        ];
        for (member, value) in members {
            if let Some(value) = value {
                problem = problem.with(member, value);
            }
        }
    }
    problem
}
