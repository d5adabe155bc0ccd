//! `/instances`.

use serde_json::{json, Value};

use crate::call::{Slot, VersionKey};
use crate::control::Work;
use crate::http::{Problem, RequestId};
use crate::rfc3339;
use crate::scheduler::{InstanceState, InstanceStats};

use super::super::clients::ClientId;
use super::super::Front;
use super::Answer;

impl Front {
    /// What the kernel counts of them is read from files, so a control thread completes the answer.
    pub(super) fn instances(&mut self, client: ClientId, request_id: RequestId) {
        let (instances, slots) = self.instances_of(|_| true);
        let document = json!({ "count": instances.len(), "instances": instances });
        self.ask_control(client, request_id, Work::Figures { document, array: "instances", instances: slots });
    }

    /// The instances of these versions as the API shows them, without the kernel's figures; and their slots.
    pub(super) fn instances_of(&self, includes: impl Fn(VersionKey) -> bool) -> (Vec<Value>, Vec<Slot>) {
        let its = self.scheduler.instance_stats().filter(|stats| includes(stats.version));
        its.map(|stats| (self.instance(&stats), stats.slot)).unzip()
    }

    /// A slot, and the process that lives there if that is a container.
    pub(super) fn with_container(&self, slot: Slot) -> (Slot, Option<u32>) {
        let pid = self.pids.get(&slot).copied().filter(|_| self.scheduler.is_for_container(slot));
        (slot, pid)
    }

    fn instance(&self, stats: &InstanceStats) -> Value {
        let function = self.functions.version(stats.version);
        json!({
            "id": stats.slot.to_string(),
            "function": function.map(|function| &function.name),
            "version": function.map(|function| function.version),
            "mode": if self.scheduler.is_for_container(stats.slot) { "container" } else { "process" },
            "state": state_name(stats),
            "pid": self.pids.get(&stats.slot),
            "started_at": self.wall_time(stats.started_ns),
            "last_used_at": self.wall_time(stats.last_used_ns),
            "invocations": stats.invocations,
        })
    }

    /// A moment of the server's clock, past or to come, as people read it. Exact while nobody sets the host's clock: both clocks are read
    /// here, one right after the other, and cut to milliseconds at the end, or the same moment would be told differently
    /// from one answer to the next.
    pub(super) fn wall_time(&self, at_ns: u64) -> String {
        let now_ns = self.clock.ns(std::time::Instant::now());
        let unix_ns = crate::clock::unix_ns().saturating_add(at_ns.saturating_sub(now_ns));
        rfc3339::format(unix_ns.saturating_sub(now_ns.saturating_sub(at_ns)) / 1_000_000)
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
