//! `/stats`.

use serde_json::{json, Value};

use crate::backend::docker::health::Pull;
use crate::call::VersionKey;
use crate::control::Work;
use crate::http::{Problem, RequestId};
use crate::scheduler::{IdleBasis, IdleLevelStats, IdleStats, IdleTtl};

use super::super::clients::ClientId;
use super::super::Front;
use super::instances::state_name;
use super::Answer;

impl Front {
    pub(super) fn stats(&mut self, client: ClientId, request_id: RequestId) {
        let (queued, running) = self.waiting_and_running(|_| true);
        let mut by_state = std::collections::BTreeMap::<&str, u64>::new();
        let mut instances = Vec::new();
        for stats in self.scheduler.instance_stats() {
            *by_state.entry(state_name(&stats)).or_default() += 1;
            instances.push(self.with_container(stats.slot));
        }
        let mut document = self.functions.total.to_json();
        document["uptime_seconds"] = (self.now_ns() / 1_000_000_000).into();
        document["functions"] = self.functions.registry.len().into();
        document["connections"] = self.clients.len().into();
        document["queued"] = queued.into();
        document["running"] = running.into();
        document["instances"] = json!(by_state);
        document["pulls"] = self.lines.engine.pulls().iter().map(pull_document).collect();
        document["blanks"] = self.scheduler.pool_stats().map(|pool| pool.ready).sum::<usize>().into();
        self.ask_control(client, request_id, Work::MemorySum { document, instances });
    }

    pub(super) fn function_stats(&mut self, client: ClientId, request_id: RequestId, name: &str) -> Answer {
        let live = self.functions.get(name).ok_or_else(|| Problem::no_function(name))?;
        let is_of_it = |version| self.functions.version(version).is_some_and(|function| function.name == name);
        let (queued, running) = self.waiting_and_running(is_of_it);
        let calls = self.functions.stats(name).cloned().unwrap_or_default();
        let mut document = calls.to_json();
        document["name"] = name.into();
        document["version"] = live.function.version.into();
        document["queued"] = queued.into();
        document["running"] = running.into();
        document["instances"] = self.instance_counts(name);
        let idle = live.key.and_then(|key| self.scheduler.idle_stats(key));
        document["idle"] = idle.as_ref().map_or(Value::Null, idle_document);
        document["trouble"] = self.trouble_of(name);
        let its = self.scheduler.instance_stats().filter(|instance| is_of_it(instance.version));
        let instances = its.map(|instance| self.with_container(instance.slot)).collect();
        self.ask_control(client, request_id, Work::MemorySum { document, instances });
        Ok(None)
    }

    /// Calls that wait, and calls that instances have, of these versions. Versions that were replaced or deleted are
    /// asked, too: they finish what they have.
    fn waiting_and_running(&self, includes: impl Fn(VersionKey) -> bool) -> (usize, usize) {
        let versions = self.scheduler.version_stats().filter(|stats| includes(stats.version));
        versions.fold((0, 0), |(queued, running), stats| (queued + stats.queued, running + stats.running))
    }
}

/// An image that is on its way.
fn pull_document(pull: &Pull) -> Value {
    json!({
        "image": pull.image,
        "layers": pull.layers,
        "layers_complete": pull.layers_complete,
        "bytes": pull.bytes,
        "percent": (pull.percent * 10.0).round() / 10.0,
        "seconds": pull.began.elapsed().as_millis() as f64 / 1e3,
    })
}

/// How long the function's instances stay idle, and what was learnt for that.
fn idle_document(stats: &IdleStats) -> Value {
    let seconds = |ns: u64| (ns / 1_000_000) as f64 / 1e3;
    let level = |level: &IdleLevelStats| {
        json!({
            "warm_from_seconds": seconds(level.warm_from_ns),
            "warm_until_seconds": seconds(level.warm_until_ns),
            "because": match level.basis {
                IdleBasis::Unsure => "unsure",
                IdleBasis::Histogram => "histogram",
                IdleBasis::Forecast => "forecast",
            },
            "representative": level.representative,
            "idle_times": level.idle_times,
        })
    };
    match stats.ttl {
        IdleTtl::AfterNs(ttl_ns) => json!({ "mode": "fixed", "ttl_seconds": seconds(ttl_ns) }),
        IdleTtl::Adaptive => json!({
            "mode": "adaptive",
            "levels": stats.levels.iter().map(level).collect::<Vec<_>>(),
            "prewarmed": stats.prewarmed,
            "prewarmed_used": stats.prewarmed_used,
            "prewarmed_wasted": stats.prewarmed_wasted,
        }),
    }
}
