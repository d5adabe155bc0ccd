//! Questions that need a file or another thread to answer.

use serde_json::Value;

use crate::backend::process::runtimes::{with_network, RuntimeError};
use crate::http::problem::Problem;
use crate::logs::Since;
use crate::registry::function::FunctionVersion;

use super::{Done, MemoryFile, Shared};

impl Shared {
    pub(super) fn read_logs(&self, function: &str, limit: usize, since: Option<Since>) -> Result<Done, Problem> {
        let entries = self.logs.query(function, limit, since).map_err(|error| {
            Problem::unavailable("logs_unavailable", format!("the log cannot be read now: {error}"))
        })?;
        let count = entries.len();
        Ok(Done::Document(serde_json::json!({ "entries": entries, "count": count })))
    }
}

impl Shared {
    /// What the function's instances are made with, to be read by people.
    pub(super) fn describe_sandbox(&self, function: &FunctionVersion) -> Result<Done, Problem> {
        let runtimes = self.checker.runtimes();
        let unavailable = |error: RuntimeError| Problem::unavailable("runtime_unavailable", error.to_string());
        let runtime = runtimes.resolve(&function.config.runtime).map_err(unavailable)?;
        let runtime = with_network(runtime, function.config.network);
        let sandbox = runtimes.description(runtime).map(|description| description.to_json()).unwrap_or_default();
        Ok(Done::Document(serde_json::json!({
            "function": function.name,
            "version": function.version,
            "sandbox": sandbox,
        })))
    }
}

/// Puts the figure of each file at its pointer, null where it cannot be read, and their sum at `total`.
pub(super) fn fill_memory(mut document: Value, files: &[MemoryFile], total: Option<&str>) -> Value {
    let mut sum = 0;
    for file in files {
        // The instance may have ended since: then there is no such file and no such figure.
        let bytes = std::fs::read_to_string(&file.path).ok().and_then(|text| text.trim().parse::<u64>().ok());
        sum += bytes.unwrap_or(0);
        if let Some(place) = file.pointer.as_ref().and_then(|pointer| document.pointer_mut(pointer)) {
            *place = bytes.map_or(Value::Null, Value::from);
        }
    }
    if let Some(place) = total.and_then(|pointer| document.pointer_mut(pointer)) {
        *place = Value::from(sum);
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn memory_is_filled_in_where_it_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("memory.current");
        std::fs::write(&file, "4096\n").unwrap();
        let at = |pointer: &str, path| MemoryFile { path, pointer: Some(pointer.to_owned()) };
        let files = vec![
            at("/instances/0/memory_bytes", file.clone()),
            at("/instances/1/memory_bytes", directory.path().join("gone")),
            MemoryFile::summed(file),
        ];
        let document = json!({"instances": [{"memory_bytes": null}, {"memory_bytes": null}], "memory_bytes": 0});
        assert_eq!(
            fill_memory(document, &files, Some("/memory_bytes")),
            json!({"instances": [{"memory_bytes": 4096}, {"memory_bytes": null}], "memory_bytes": 8192})
        );
    }
}
