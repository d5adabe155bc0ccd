//! The API: one file per resource. Each answers at once or hands a job to another thread.

pub(super) mod functions;
pub(super) mod health;
pub(super) mod instances;
pub(super) mod invoke;
pub(super) mod stats;

use serde::Serialize;

use crate::http::target::query_parameter;
use crate::http::{HeaderName, HeaderValue, Problem, Request, Response};

use crate::control::Work;

use super::clients::{Admitted, ClientId};
use super::routes::Route;
use super::Front;

impl Front {
    /// Handles one complete request: the client is answered, or waits for a call or a control thread.
    pub(super) fn handle(&mut self, client: ClientId, admitted: Admitted, request: Request) {
        let request_id = *request.head.request_id();
        let manages = admitted.manages;
        let answer = match admitted.route {
            Route::Invoke(name, path) => return self.invoke(client, &name, &path, request),
            Route::Health => Ok(self.health()),
            Route::Live => Ok(Some(health::live())),
            Route::Ready => Ok(Some(self.ready())),
            Route::FunctionsList => self.functions_list(request.head.query(), manages),
            Route::FunctionGet(name) => self.function_get(client, request_id, &name, manages),
            Route::FunctionCreate => return self.function_create(client, request_id, request.body),
            Route::FunctionUpdate(name) => self.function_update(client, request_id, name, request.body),
            Route::FunctionDelete(name) => return self.function_delete(client, request_id, name),
            Route::FunctionLogs(name) => self.function_logs(client, request_id, name, request.head.query()),
            Route::FunctionSandbox(name) => self.function_sandbox(client, request_id, &name),
            Route::Stats => return self.stats(client, request_id),
            Route::FunctionStats(name) => self.function_stats(client, request_id, &name),
            Route::Instances => return self.instances(client, request_id),
            Route::InstanceStop(slot) => self.instance_stop(slot),
            Route::Reload => return self.ask_control(client, request_id, Work::Reload),
            Route::Options(allow) => {
                Ok(Some(Response::new(204).with(HeaderName::from_static("allow"), HeaderValue::from_static(allow))))
            }
        };
        match answer {
            Ok(Some(response)) => self.respond(client.key(), response),
            Ok(None) => {}
            Err(problem) => self.respond(client.key(), problem.into_response(&request_id)),
        }
    }
}

/// What a handler gives: an answer, or nothing yet because another thread was asked.
pub(super) type Answer = Result<Option<Response>, Problem>;

/// A JSON answer.
pub(super) fn json(status: u16, document: &impl Serialize) -> Response {
    // Values and the API's own structures always serialise.
    Response::json(status, serde_json::to_vec(document).unwrap_or_default())
}

/// A number from the query, `default` when it is not there.
pub(super) fn query_number(query: Option<&str>, name: &str, default: usize, max: usize) -> Result<usize, Problem> {
    let Some(value) = query_text(query, name)? else { return Ok(default) };
    match value.parse::<usize>() {
        Ok(number) if (1..=max).contains(&number) => Ok(number),
        _ => Err(Problem::invalid("invalid_query", format!("{name}: must be a whole number from 1 to {max}"))),
    }
}

/// A text from the query.
pub(super) fn query_text(query: Option<&str>, name: &str) -> Result<Option<String>, Problem> {
    let found = query_parameter(query.unwrap_or_default(), name)
        .map_err(|error| Problem::invalid("invalid_query", format!("{name}: {error}")))?;
    Ok(found.map(std::borrow::Cow::into_owned))
}
