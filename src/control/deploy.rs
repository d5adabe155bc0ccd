//! Creating, updating and deleting functions: validate, look at the code in a sandbox, commit, tell the front.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::backend::check::CheckError;
use crate::backend::process::runtimes::NetworkError;
use crate::call::FrontEvent;
use crate::clock::unix_ms;
use crate::http::problem::Problem;
use crate::limits::FUNCTION_CODE_BYTES_MAX;
use crate::registry::function::{ExecutionMode, FunctionConfig, FunctionVersion};
use crate::registry::image::ImageId;
use crate::registry::settings::{validate_name, FunctionSettings, SettingError};
use crate::registry::store::{NewFunction, StoreError};
use crate::values::json::{self, JsonError};
use crate::values::nearest::nearest;
use crate::values::KeyPath;

use super::claims::{Claim, Waited};
use super::images::Pulled;
use super::preparations::{Aside, Fetched, Ready, Unready};
use super::{ControlReply, Done, Shared, State, Ticket};

/// What a body of `POST` or `PUT` gives.
struct Given {
    name: Option<String>,
    code: Option<String>,
    settings: FunctionSettings,
}

impl Shared {
    /// Answers, or says what has to be got ready first.
    pub(super) fn create(&self, ticket: Ticket, body: &[u8], waited: Option<&Waited>) -> Result<(), Aside> {
        let (name, given) = match named(body) {
            Ok(named) => named,
            Err(problem) => {
                self.answer(ticket, Err(problem));
                return Ok(());
            }
        };
        let claim = self.claim(&name, waited);
        match self.prepare_new(name, given, waited) {
            // Others may have taken the last place while the code was looked at.
            Ok((new, pulled)) => self.commit(ticket, pulled, |state| {
                waited.map_or(Ok(()), |waited| waited.may_be_made(&new.name))?;
                self.room_in(state)?;
                state.create(&new)
            }),
            Err(Unready::Refused(problem)) => self.answer(ticket, Err(problem)),
            Err(Unready::Needs(need)) => return Err(Aside { need, claim }),
        }
        Ok(())
    }

    /// That of a deployment that begins, or has waited.
    fn claim(&self, function: &str, waited: Option<&Waited>) -> Claim {
        match waited {
            Some(waited) => waited.claim.clone(),
            None => self.lock().claims.stake(function),
        }
    }

    /// Everything that can be said about a new function before it is stored.
    fn prepare_new(
        &self,
        name: String,
        given: Given,
        waited: Option<&Waited>,
    ) -> Result<(NewFunction, Option<Arc<Pulled>>), Unready> {
        waited.map_or(Ok(()), |waited| waited.is_waited_for(&name))?;
        let code = given.code.ok_or_else(|| missing("code"))?;
        let rules = self.settings();
        let settings = rules.declared.get(&name).cloned().unwrap_or_default().merge(given.settings);
        {
            let state = self.lock();
            if state.functions.contains_key(&name) {
                return Err(exists(&name).into());
            }
            self.room_in(&state)?;
        }
        let config = settings.resolve(rules.default_mode).map_err(|error| invalid_setting("config", &error))?;
        let image = self.vet(&code, &config, waited.map(|waited| &waited.fetched))?;
        let (image_id, pulled) = image.map_or((None, None), |image| (Some(image.id), image.pulled));
        Ok((NewFunction { name, code, config, image_id, now_ms: unix_ms() }, pulled))
    }

    fn room_in(&self, state: &State) -> Result<(), Problem> {
        let limit = self.settings().functions_max;
        if state.functions.len() < limit {
            return Ok(());
        }
        let detail = format!("this server holds at most {limit} functions (limits.max_functions)");
        Err(Problem::unavailable("too_many_functions", detail))
    }

    /// Answers, or says what has to be got ready first.
    pub(super) fn update(&self, ticket: Ticket, name: &str, body: &[u8], waited: Option<&Waited>) -> Result<(), Aside> {
        let claim = self.claim(name, waited);
        match self.try_update(ticket, name, body, waited) {
            Ok(()) => Ok(()),
            Err(Unready::Needs(need)) => Err(Aside { need, claim }),
            Err(Unready::Refused(problem)) => {
                self.answer(ticket, Err(problem));
                Ok(())
            }
        }
    }

    /// Stores and answers, if nothing is wrong.
    fn try_update(&self, ticket: Ticket, name: &str, body: &[u8], waited: Option<&Waited>) -> Result<(), Unready> {
        waited.map_or(Ok(()), |waited| waited.is_waited_for(name))?;
        let given = parse(body)?;
        if given.name.as_deref().is_some_and(|given| given != name) {
            let detail = format!("name: a function cannot be renamed; leave it out or give {name:?}");
            return Err(Problem::invalid("invalid_request", detail).into());
        }
        // Another update may be committed while this one's code is looked at; then the merge starts again from that.
        loop {
            let base = self.lock().functions.get(name).cloned().ok_or_else(|| Problem::no_function(name))?;
            let settings = base.config.to_settings().merge(given.settings.clone());
            let code = given.code.as_deref().unwrap_or(&base.code);
            let resolved = settings.resolve(self.settings().default_mode);
            let config = resolved.map_err(|error| invalid_setting("config", &error))?;
            let image = self.vet(code, &config, waited.map(|waited| &waited.fetched))?;
            let (image_id, pulled) = image.map_or((None, None), |image| (Some(image.id), image.pulled));
            let _pass = self.gate.enter().map_err(|_| taken_over())?;
            let mut state = self.lock();
            match state.functions.get(name) {
                // The same, and not one of the same number that was made after a deletion.
                Some(current) if Arc::ptr_eq(current, &base) => {
                    // What is there already may be acknowledged, whoever made it so.
                    let may_be_made = match waited {
                        Some(waited) if !is_same(&base, code, &config, &image_id) => waited.may_be_made(name),
                        _ => Ok(()),
                    };
                    let result = may_be_made.and_then(|()| state.update(&base, code, &config, image_id));
                    // That it stays as it is was acknowledged, too. Others that wait for the same are told so as well.
                    if matches!(result, Ok(Done::Unchanged(_))) {
                        state.claims.overtake(name);
                    }
                    self.report(ticket, &state, result, pulled);
                    return Ok(());
                }
                Some(_) => continue,
                None => return Err(Problem::no_function(name).into()),
            }
        }
    }

    pub(super) fn delete(&self, ticket: Ticket, name: &str) {
        self.commit(ticket, None, |state| {
            let was_there = state.store.delete(name).map_err(|error| not_stored(&error))?;
            state.functions.remove(name);
            if was_there {
                state.claims.overtake(name);
                Ok(Done::Deleted(name.to_owned()))
            } else {
                Err(Problem::no_function(name))
            }
        });
    }

    /// As [`Shared::vet`], and waits for whatever has to be got ready: for who has nothing else to do.
    pub(super) fn vet_patiently(&self, code: &str, config: &FunctionConfig) -> Result<Option<ImageId>, Problem> {
        let mut fetched = None;
        loop {
            match self.vet(code, config, fetched.as_ref()) {
                Ok(image) => return Ok(image.map(|image| image.id)),
                Err(Unready::Refused(problem)) => return Err(problem),
                Err(Unready::Needs(need)) => fetched = Some(Fetched { outcome: self.fetch(&need), need }),
            }
        }
    }

    /// Refuses what cannot run here, and code that does not compile or lacks its handler. Gives what its image is, if it
    /// runs in containers; `fetched` is what has been got ready for it.
    pub(super) fn vet(
        &self,
        code: &str,
        config: &FunctionConfig,
        fetched: Option<&Fetched>,
    ) -> Result<Option<Ready>, Unready> {
        self.permit(code, config)?;
        match config.execution_mode {
            ExecutionMode::Process => Ok(verdict(self.checker.check(code, config)).map(|()| None)?),
            ExecutionMode::Container => self.vet_in_image(code, config, fetched).map(Some),
        }
    }

    /// Refuses what can be told without a look at the code.
    fn permit(&self, code: &str, config: &FunctionConfig) -> Result<(), Problem> {
        if code.len() > FUNCTION_CODE_BYTES_MAX {
            return Err(Problem::payload_too_large(format!(
                "code: {} bytes, the limit is {FUNCTION_CODE_BYTES_MAX}",
                code.len()
            )));
        }
        self.permit_mode(config)?;
        if !config.dependencies.is_empty() {
            return Err(Problem::invalid(
                "dependencies_unavailable",
                "config.dependencies: packages cannot be installed in this version, and the function would not run \
                 without them; leave the field out or empty",
            ));
        }
        let slots_max = self.settings().slots_max as u64;
        if u64::from(config.min_instances) > slots_max {
            let error = SettingError::Exceeds {
                path: KeyPath::root().key("min_instances"),
                given: config.min_instances.into(),
                bound: "system.max_concurrent_functions",
                bound_value: slots_max,
            };
            return Err(invalid_setting("config", &error));
        }
        self.checker.permit(config.network).map_err(|error| {
            let code = match error {
                NetworkError::NotAllowed { .. } => "invalid_config",
                NetworkError::Unavailable { .. } => "network_unavailable",
            };
            Problem::invalid(code, format!("config.network: {error}"))
        })
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A thread that panicked while it held the lock left either the old or the new state behind: the map is
        // changed after the store, by single inserts.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn commit(
        &self,
        ticket: Ticket,
        pulled: Option<Arc<Pulled>>,
        change: impl FnOnce(&mut State) -> Result<Done, Problem>,
    ) {
        let Ok(_pass) = self.gate.enter() else { return self.answer(ticket, Err(taken_over())) };
        let mut state = self.lock();
        let result = change(&mut state);
        self.report(ticket, &state, result, pulled);
    }

    /// Tells the front while the lock is still held, so that it hears of changes in the order of their commits.
    pub(super) fn report(
        &self,
        ticket: Ticket,
        _held: &State,
        result: Result<Done, Problem>,
        pulled: Option<Arc<Pulled>>,
    ) {
        if self.front.send(FrontEvent::Control(Box::new(ControlReply { ticket, result, pulled }))).is_err() {
            log::debug!("the front has ended; an answer is dropped");
        }
    }
}

/// What a look at code means for a client.
pub(super) fn verdict(looked: Result<(), CheckError>) -> Result<(), Problem> {
    looked.map_err(|error| match error {
        CheckError::Rejected { reason, line, column, message } => {
            let mut detail = format!("code: {message}");
            if let Some(line) = line {
                detail = format!("code, line {line}: {message}");
            }
            let mut problem = Problem::invalid(reason.code(), detail);
            for (member, place) in [("line", line), ("column", column)] {
                if let Some(place) = place {
                    problem = problem.with(member, place);
                }
            }
            problem
        }
        CheckError::Runtime(error) => Problem::invalid("runtime_unavailable", format!("config.runtime: {error}")),
        other => Problem::unavailable("check_failed", format!("the code could not be checked: {other}")),
    })
}

impl State {
    pub(super) fn create(&mut self, new: &NewFunction) -> Result<Done, Problem> {
        match self.store.create(new.clone()) {
            Ok(function) => Ok(Done::Created(self.remember(function))),
            Err(StoreError::Exists { .. }) if self.functions.contains_key(&new.name) => Err(exists(&new.name)),
            Err(StoreError::Exists { .. }) => Err(damaged(&new.name)),
            Err(error) => Err(not_stored(&error)),
        }
    }

    /// Makes the next version of `base`, or says that it would be the same.
    pub(super) fn update(
        &mut self,
        base: &Arc<FunctionVersion>,
        code: &str,
        config: &FunctionConfig,
        image_id: Option<ImageId>,
    ) -> Result<Done, Problem> {
        if is_same(base, code, config, &image_id) {
            return Ok(Done::Unchanged(Arc::clone(base)));
        }
        match self.store.update(&base.name, base.version, code.to_owned(), config.clone(), image_id, unix_ms()) {
            Ok(function) => Ok(Done::Updated(self.remember(function))),
            Err(error) => Err(not_stored(&error)),
        }
    }

    fn remember(&mut self, function: FunctionVersion) -> Arc<FunctionVersion> {
        let function = Arc::new(function);
        self.functions.insert(function.name.clone(), Arc::clone(&function));
        self.claims.overtake(&function.name);
        function
    }
}

/// Whether a version is what it is to become.
fn is_same(base: &FunctionVersion, code: &str, config: &FunctionConfig, image_id: &Option<ImageId>) -> bool {
    base.code == code && base.config == *config && base.image_id == *image_id
}

/// What a body of `POST` gives, and its name.
fn named(body: &[u8]) -> Result<(String, Given), Problem> {
    let mut given = parse(body)?;
    let name = given.name.take().ok_or_else(|| missing("name"))?;
    validate_name(&name).map_err(|error| invalid_setting("name", &error))?;
    Ok((name, given))
}

const FIELDS: [&str; 3] = ["name", "code", "config"];

fn parse(body: &[u8]) -> Result<Given, Problem> {
    let bad = |detail: String| Problem::invalid("invalid_request", detail);
    if body.is_empty() {
        return Err(bad("the body is empty; give a JSON object with name, code and config".to_owned()));
    }
    let value = json::parse(body).map_err(|error| match error {
        JsonError::Syntax(error) => bad(format!("the body is not JSON: {error}")),
        JsonError::Value(error) => bad(error.to_string()),
    })?;
    let Value::Object(mut fields) = value else {
        return Err(bad("the body must be a JSON object with name, code and config".to_owned()));
    };
    if let Some(unknown) = fields.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        let hint = match nearest(unknown, &FIELDS) {
            Some(right) => format!("did you mean {right}?"),
            None => format!("the fields are {}", FIELDS.join(", ")),
        };
        return Err(bad(format!("{}: unknown field; {hint}", unknown.escape_debug())));
    }
    let text = |fields: &mut Map<String, Value>, key: &str| match fields.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(bad(format!("{key}: must be a string"))),
    };
    let (name, code) = (text(&mut fields, "name")?, text(&mut fields, "code")?);
    let settings = match fields.remove("config") {
        None | Some(Value::Null) => FunctionSettings::default(),
        Some(Value::Object(config)) => {
            FunctionSettings::from_json(&config).map_err(|error| invalid_setting("config", &error))?
        }
        Some(_) => return Err(bad("config: must be an object".to_owned())),
    };
    Ok(Given { name, code, settings })
}

fn missing(field: &str) -> Problem {
    Problem::invalid("invalid_request", format!("{field}: required"))
}

pub(super) fn invalid_setting(place: &str, error: &SettingError) -> Problem {
    if place == "name" {
        Problem::invalid("invalid_name", error.to_string())
    } else {
        Problem::invalid("invalid_config", format!("{place}.{error}"))
    }
}

fn exists(name: &str) -> Problem {
    Problem::conflict(format!("there is a function {name} already; PUT /functions/{name} changes it"))
}

/// The store holds a function that was refused when the server started.
fn damaged(name: &str) -> Problem {
    Problem::conflict(format!(
        "there is a function {name} that is damaged and not served; DELETE /functions/{name} makes room for a new one"
    ))
}

/// The change was not made: another process has the store now, and this connection goes to it.
pub(super) fn taken_over() -> Problem {
    Problem::unavailable("taking_over", "another server process took over at this moment; try again")
}

fn not_stored(error: &StoreError) -> Problem {
    log::error!("the store refused a change: {error}");
    let detail = match error {
        StoreError::InDoubt { .. } => {
            "the change could not be stored and was not made, but if the server crashes now it may be made when it \
             starts again; its log says why"
        }
        _ => "the change could not be stored and was not made; the server's log says why",
    };
    Problem::unavailable(super::NOT_STORED, detail)
}
