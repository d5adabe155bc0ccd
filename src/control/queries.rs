//! Questions that need a file or another thread to answer.

use serde_json::{json, Map, Value};

use crate::backend::process::runtimes::RuntimeError;
use crate::backend::runtimes::with_network;
use crate::call::Slot;
use crate::http::problem::Problem;
use crate::logs::Since;
use crate::registry::function::{ExecutionMode, FunctionVersion};
use crate::sandbox::cgroup::Figures;

use super::{Done, Shared};

impl Shared {
    pub(super) fn read_logs(&self, function: &str, limit: usize, since: Option<Since>) -> Result<Done, Problem> {
        let entries = self.logs.query(function, limit, since).map_err(|error| {
            Problem::unavailable("logs_unavailable", format!("the log cannot be read now: {error}"))
        })?;
        let count = entries.len();
        Ok(Done::Document(json!({ "entries": entries, "count": count })))
    }

    /// An instance that has ended since it was listed has no figures: its fields are null.
    pub(super) fn add_figures(&self, mut document: Value, array: &str, instances: &[Slot]) -> Done {
        let objects = document.get_mut(array).and_then(Value::as_array_mut).into_iter().flatten();
        for (object, slot) in objects.filter_map(Value::as_object_mut).zip(instances) {
            let figures = match container_in(object) {
                Some(pid) => self.figures.of_process(pid).read(""),
                None => self.figures.read(&slot.to_string()),
            };
            add_to(object, &figures);
        }
        Done::Document(document)
    }

    pub(super) fn add_memory(&self, mut document: Value, instances: &[(Slot, Option<u32>)]) -> Done {
        let memory = |(slot, container): &(Slot, Option<u32>)| match container {
            Some(pid) => self.figures.of_process(*pid).memory_bytes(""),
            None => self.figures.memory_bytes(&slot.to_string()),
        };
        document["memory_bytes"] = instances.iter().filter_map(memory).sum::<u64>().into();
        Done::Document(document)
    }
}

impl Shared {
    /// What the function's instances are made with, to be read by people.
    pub(super) fn describe_sandbox(&self, function: &FunctionVersion) -> Result<Done, Problem> {
        if function.config.execution_mode == ExecutionMode::Container {
            return self.describe_container(function);
        }
        let runtimes = self.runtimes.process();
        let unavailable = |error: RuntimeError| Problem::unavailable("runtime_unavailable", error.to_string());
        let runtime = runtimes.resolve(&function.config.runtime).map_err(unavailable)?;
        let runtime = with_network(runtime, function.config.network);
        let sandbox = runtimes.description(runtime).map(|description| description.to_json()).unwrap_or_default();
        Ok(Done::Document(json!({
            "function": function.name,
            "version": function.version,
            "sandbox": sandbox,
        })))
    }

    /// The same of a function that runs in containers: of which image they are made.
    fn describe_container(&self, function: &FunctionVersion) -> Result<Done, Problem> {
        let runtime = self.runtimes.find(function);
        let runtime = runtime.map_err(|missing| Problem::unavailable(missing.code(), missing.to_string()))?;
        Ok(Done::Document(json!({
            "function": function.name,
            "version": function.version,
            "container": {
                "runtime": self.runtimes.name(runtime),
                "image": function.config.image,
                "image_id": function.image_id,
                "network": function.config.network.as_str(),
            },
        })))
    }
}

/// The process of an instance, if that is a container: its group is the engine's.
fn container_in(object: &Map<String, Value>) -> Option<u32> {
    let is_container = object.get("mode").is_some_and(|mode| mode == ExecutionMode::Container.as_str());
    let pid = object.get("pid").filter(|_| is_container)?.as_u64()?;
    u32::try_from(pid).ok()
}

fn add_to(object: &mut Map<String, Value>, figures: &Figures) {
    let seconds = |us: u64| us as f64 / 1e6;
    let fields = [
        ("memory_bytes", json!(figures.memory_bytes)),
        ("memory_peak_bytes", json!(figures.memory_peak_bytes)),
        ("memory_limit_bytes", json!(figures.memory_limit_bytes)),
        ("cpu_seconds", json!(figures.cpu_us.map(seconds))),
        ("cpu_throttled_seconds", json!(figures.cpu_throttled_us.map(seconds))),
        ("tasks", json!(figures.tasks)),
        ("tasks_limit", json!(figures.tasks_limit)),
    ];
    object.extend(fields.map(|(name, value)| (name.to_owned(), value)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_numbers_in_the_units_of_their_names_or_null() {
        let figures = Figures { memory_bytes: Some(4096), cpu_us: Some(1_500_000), ..Figures::default() };
        let mut object = Map::new();
        add_to(&mut object, &figures);
        let expected = json!({
            "memory_bytes": 4096, "memory_peak_bytes": null, "memory_limit_bytes": null, "cpu_seconds": 1.5,
            "cpu_throttled_seconds": null, "tasks": null, "tasks_limit": null,
        });
        assert_eq!(Value::Object(object), expected);
    }
}
