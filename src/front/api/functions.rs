//! `/functions` and what is below it.

use serde_json::{json, Value};

use crate::control::Work;
use crate::http::{Problem, RequestId};
use crate::limits::{API_PAGE_DEFAULT, API_PAGE_MAX};
use crate::logs::Since;
use crate::registry::function::FunctionVersion;
use crate::registry::resource::FunctionResource;

use super::super::clients::ClientId;
use super::super::Front;
use super::{query_number, query_text, Answer};

impl Front {
    /// A function as the API shows it.
    pub(crate) fn resource<'a>(
        &self,
        function: &'a FunctionVersion,
        with_code: bool,
        with_environment: bool,
    ) -> FunctionResource<'a> {
        let config = function.config.to_json(with_environment);
        let resource = FunctionResource::new(function, config, self.instance_counts(&function.name));
        if with_code {
            resource
        } else {
            resource.without_code()
        }
    }

    pub(super) fn instance_counts(&self, name: &str) -> Value {
        let stats =
            self.functions.get(name).and_then(|live| live.key).and_then(|key| self.scheduler.stats_of_version(key));
        match stats {
            Some(stats) => json!({
                "starting": stats.instances.loading + stats.wanted,
                "idle": stats.instances.idle,
                "busy": stats.instances.busy,
                "stopping": stats.instances.ending,
            }),
            None => json!({ "starting": 0, "idle": 0, "busy": 0, "stopping": 0 }),
        }
    }

    /// Why the function gets no instances, or few: how the last start failed, how often in a row, and until when there
    /// is a pause. `null` when all is well.
    pub(super) fn trouble_of(&self, name: &str) -> Value {
        let key = self.functions.get(name).and_then(|live| live.key);
        let Some(trouble) = key.and_then(|key| self.scheduler.trouble_of_version(key)) else { return Value::Null };
        let problem = Problem::from(trouble.error);
        json!({
            "code": problem.code(),
            "detail": problem.detail(),
            "failed_starts_in_a_row": trouble.start_failures,
            "crashes_in_a_row": trouble.crashes,
            "backoff_until": trouble.backoff_until_ns.map(|until_ns| self.wall_time(until_ns)),
        })
    }

    pub(super) fn functions_list(&self, query: Option<&str>, manages: bool) -> Answer {
        let limit = query_number(query, "limit", API_PAGE_DEFAULT, API_PAGE_MAX)?;
        let cursor = query_text(query, "cursor")?;
        let (page, next) = self.functions.registry.page(cursor.as_deref(), limit);
        let functions: Vec<_> = page.iter().map(|function| self.resource(function, false, manages)).collect();
        let mut document = json!({ "functions": functions, "count": functions.len() });
        document["total"] = self.functions.registry.len().into();
        document["next_cursor"] = next.into();
        Ok(Some(super::json(200, &document)))
    }

    /// With its instances one by one, those of older versions that still finish their calls included. What the kernel
    /// counts of them is read by a control thread.
    pub(super) fn function_get(
        &mut self,
        client: ClientId,
        request_id: RequestId,
        name: &str,
        manages: bool,
    ) -> Answer {
        let live = self.functions.get(name).ok_or_else(|| Problem::no_function(name))?;
        let mut document = json!(self.resource(&live.function, true, manages));
        let is_of_it = |version| self.functions.version(version).is_some_and(|function| function.name == name);
        let (details, instances) = self.instances_of(is_of_it);
        document["instance_details"] = details.into();
        document["trouble"] = self.trouble_of(name);
        self.ask_control(client, request_id, Work::Figures { document, array: "instance_details", instances });
        Ok(None)
    }

    pub(super) fn function_create(&mut self, client: ClientId, request_id: RequestId, body: Vec<u8>) {
        self.ask_control(client, request_id, Work::Create(body));
    }

    pub(super) fn function_update(
        &mut self,
        client: ClientId,
        request_id: RequestId,
        name: String,
        body: Vec<u8>,
    ) -> Answer {
        self.functions.get(&name).ok_or_else(|| Problem::no_function(&name))?;
        self.ask_control(client, request_id, Work::Update(name, body));
        Ok(None)
    }

    /// Asks the store even for a name that is not served: it may hold a function that was refused for its damage, and
    /// this is the way to be rid of it.
    pub(super) fn function_delete(&mut self, client: ClientId, request_id: RequestId, name: String) {
        self.ask_control(client, request_id, Work::Delete(name));
    }

    pub(super) fn function_sandbox(&mut self, client: ClientId, request_id: RequestId, name: &str) -> Answer {
        let live = self.functions.get(name).ok_or_else(|| Problem::no_function(name))?;
        let function = std::sync::Arc::clone(&live.function);
        self.ask_control(client, request_id, Work::Sandbox(function));
        Ok(None)
    }

    pub(super) fn function_logs(
        &mut self,
        client: ClientId,
        request_id: RequestId,
        function: String,
        query: Option<&str>,
    ) -> Answer {
        self.functions.get(&function).ok_or_else(|| Problem::no_function(&function))?;
        let limit = query_number(query, "limit", API_PAGE_DEFAULT, API_PAGE_MAX)?;
        let since = match query_text(query, "since")? {
            None => None,
            Some(text) => Some(
                text.parse::<Since>().map_err(|error| Problem::invalid("invalid_query", format!("since: {error}")))?,
            ),
        };
        self.ask_control(client, request_id, Work::Logs { function, limit, since });
        Ok(None)
    }
}
