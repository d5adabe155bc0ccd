//! `/stats`.

use serde_json::{json, Value};

use crate::control::{MemoryFile, Work};
use crate::http::RequestId;

use super::super::clients::ClientId;
use super::super::Front;
use super::functions::no_function;
use super::instances::state_name;
use super::Answer;

impl Front {
    pub(super) fn stats(&mut self, client: ClientId, request_id: RequestId) {
        let mut queued = 0;
        let mut running = 0;
        for live in self.functions.registry.iter() {
            let key = self.functions.get(&live.name).and_then(|live| live.key);
            if let Some(stats) = key.and_then(|key| self.scheduler.stats_of_version(key)) {
                queued += stats.queued;
                running += stats.running;
            }
        }
        let mut by_state = std::collections::BTreeMap::<&str, u64>::new();
        let mut files = Vec::new();
        for stats in self.scheduler.instance_stats() {
            *by_state.entry(state_name(&stats)).or_default() += 1;
            files.extend(self.memory_file(stats.slot).map(MemoryFile::summed));
        }
        let mut document = self.functions.total.to_json();
        document["uptime_seconds"] = (self.now_ns() / 1_000_000_000).into();
        document["functions"] = self.functions.registry.len().into();
        document["connections"] = self.clients.len().into();
        document["queued"] = queued.into();
        document["running"] = running.into();
        document["instances"] = json!(by_state);
        document["blanks"] = self.scheduler.pool_stats().map(|pool| pool.ready).sum::<usize>().into();
        document["memory_bytes"] = Value::Null;
        self.ask_control(client, request_id, Work::Memory { document, files, total: Some("/memory_bytes".to_owned()) });
    }

    pub(super) fn function_stats(&mut self, client: ClientId, request_id: RequestId, name: &str) -> Answer {
        let live = self.functions.get(name).ok_or_else(|| no_function(name))?;
        let stats = live.key.and_then(|key| self.scheduler.stats_of_version(key));
        let calls = self.functions.stats(name).cloned().unwrap_or_default();
        let mut document = calls.to_json();
        document["name"] = name.into();
        document["version"] = live.function.version.into();
        document["queued"] = stats.as_ref().map_or(0, |stats| stats.queued).into();
        document["running"] = stats.as_ref().map_or(0, |stats| stats.running).into();
        document["instances"] = self.instance_counts(name);
        document["memory_bytes"] = Value::Null;
        let key = live.key;
        let mut files = Vec::new();
        for instance in self.scheduler.instance_stats().filter(|instance| Some(instance.version) == key) {
            files.extend(self.memory_file(instance.slot).map(MemoryFile::summed));
        }
        self.ask_control(client, request_id, Work::Memory { document, files, total: Some("/memory_bytes".to_owned()) });
        Ok(None)
    }
}
