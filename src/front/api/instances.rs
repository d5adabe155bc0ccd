//! `/instances`.

use std::path::PathBuf;

use serde_json::{json, Value};

use crate::call::Slot;
use crate::control::{MemoryFile, Work};
use crate::http::{Problem, RequestId};
use crate::rfc3339;
use crate::scheduler::{InstanceState, InstanceStats};

use super::super::clients::ClientId;
use super::super::Front;
use super::Answer;

impl Front {
    /// Their memory is read from files, so a control thread completes the answer.
    pub(super) fn instances(&mut self, client: ClientId, request_id: RequestId) {
        let mut instances = Vec::new();
        let mut files = Vec::new();
        for stats in self.scheduler.instance_stats() {
            let pointer = format!("/instances/{}/memory_bytes", instances.len());
            files.extend(self.memory_file(stats.slot).map(|path| MemoryFile { path, pointer: Some(pointer) }));
            instances.push(self.instance(&stats));
        }
        let document = json!({ "count": instances.len(), "instances": instances });
        self.ask_control(client, request_id, Work::Memory { document, files, total: None });
    }

    /// An instance as the API shows it, its memory still to be filled in.
    pub(super) fn instance(&self, stats: &InstanceStats) -> Value {
        let function = self.functions.version(stats.version);
        json!({
            "id": stats.slot.to_string(),
            "function": function.map(|function| &function.name),
            "version": function.map(|function| function.version),
            "mode": "process",
            "state": state_name(stats),
            "pid": self.pids.get(&stats.slot),
            "started_at": self.wall_time(stats.started_ns),
            "last_used_at": self.wall_time(stats.last_used_ns),
            "invocations": stats.invocations,
            "memory_bytes": null,
        })
    }

    /// A moment of the server's clock as people read it. Exact while nobody sets the host's clock: both clocks are read
    /// here, one right after the other, and cut to milliseconds at the end, or the same moment would be told differently
    /// from one answer to the next.
    fn wall_time(&self, at_ns: u64) -> String {
        let ago_ns = self.clock.ns(std::time::Instant::now()).saturating_sub(at_ns);
        rfc3339::format(crate::clock::unix_ns().saturating_sub(ago_ns) / 1_000_000)
    }

    /// The file that tells how much memory an instance uses.
    pub(super) fn memory_file(&self, slot: Slot) -> Option<PathBuf> {
        self.settings.memory_files.as_ref().map(|files| files.of(&slot.to_string()))
    }

    pub(super) fn instance_stop(&mut self, slot: Slot) -> Answer {
        let now_ns = self.now_ns();
        if !self.scheduler.stop_instance(slot, now_ns, &mut self.actions) {
            return Err(Problem::not_found(format!("there is no instance {slot}")));
        }
        Ok(Some(super::json(202, &json!({ "id": slot.to_string(), "state": "stopping" }))))
    }
}

/// What an instance does, as the API says it.
pub(super) fn state_name(stats: &InstanceStats) -> &'static str {
    match stats.state {
        _ if stats.draining => "draining",
        InstanceState::Loading => "starting",
        InstanceState::Idle => "idle",
        InstanceState::Busy => "busy",
        _ => "stopping",
    }
}
