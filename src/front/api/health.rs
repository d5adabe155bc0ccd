//! `GET /health`, `/livez` and `/readyz`: for people, for what restarts the server, and for what sends it requests.

use std::time::Instant;

use serde_json::{json, Value};

use crate::backend::docker::health::EngineState;
use crate::call::BlankFailure;
use crate::http::Response;
use crate::limits::STORE_TROUBLE_TOLD;
use crate::sandbox::layer::Layer;

use super::super::Front;

impl Front {
    /// Why there are no sandboxes in stock, if that is so. A blank that failed is no reason while others are ready: one
    /// interpreter of several may be broken, or one fork have had bad luck.
    fn sandbox_trouble(&self) -> Option<&BlankFailure> {
        let mut pools = self.scheduler.pool_stats().filter(|pool| !pool.runtime.is_container());
        let any_ready = pools.any(|pool| pool.ready > 0);
        self.blank_trouble.as_ref().filter(|_| !any_ready)
    }

    /// 200 when requests should be sent here, 503 with every reason why not. The first one is there in any server that
    /// stops; nobody is answered before it can serve.
    pub(crate) fn ready(&self) -> Response {
        let is_fresh = |at: Instant| self.now.saturating_duration_since(at) < STORE_TROUBLE_TOLD;
        let reasons: Vec<&str> = [
            ("draining", self.stop.is_some()),
            ("no_sandboxes", self.sandbox_trouble().is_some()),
            ("not_stored", self.store_trouble.is_some_and(is_fresh)),
        ]
        .into_iter()
        .filter_map(|(reason, is_so)| is_so.then_some(reason))
        .collect();
        if reasons.is_empty() {
            return super::json(200, &json!({ "status": "ready" }));
        }
        super::json(503, &json!({ "status": "not ready", "reasons": reasons }))
    }

    /// How container mode is. It is no part of the server's own health: an engine may be away where nobody needs it.
    fn container_mode(&self) -> Value {
        match self.lines.engine.state() {
            EngineState::Disabled { reason } => json!({ "status": "disabled", "detail": reason }),
            EngineState::Unknown => {
                json!({ "status": "unknown", "detail": "the container engine has not answered yet" })
            }
            EngineState::Up { name, api } => json!({ "status": "available", "engine": name, "api": api }),
            // The reason is for the server's log: it may name paths.
            EngineState::Down { .. } => {
                let detail = "the container engine does not answer as it should; the server's log says why";
                json!({ "status": "unavailable", "detail": detail })
            }
        }
    }

    /// 200 when a function can be called, 503 when not, with the reason either way.
    pub(crate) fn health(&self) -> Option<Response> {
        let draining = self.stop.is_some();
        let trouble = self.sandbox_trouble();
        let mut process = json!({
            "status": if trouble.is_some() { "unavailable" } else { "available" },
            "isolation": self.settings.isolation,
            "missing": self.runtimes.process().absent().iter().map(Layer::name).collect::<Vec<_>>(),
        });
        if let Some(failure) = trouble {
            // The reason is for the server's log: it may name paths.
            let refused = failure.refused_step.map(|step| format!(" (this host refuses a step of it, {step})"));
            let refused = refused.unwrap_or_default();
            process["detail"] = format!("no sandbox can be made at present{refused}; the server's log says why").into();
        }
        let healthy = !draining && trouble.is_none();
        let status = match (draining, healthy) {
            (true, _) => "draining",
            (false, true) => "healthy",
            (false, false) => "unhealthy",
        };
        let document = json!({
            "status": status,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.now_ns() / 1_000_000_000,
            "functions": self.functions.registry.len(),
            "modes": { "process": process, "container": self.container_mode() },
        });
        Some(super::json(if healthy { 200 } else { 503 }, &document))
    }
}

/// 200, always: whoever reads it knows that the front thread turns. What ails the rest is no reason to end this process,
/// which would end what it runs.
pub(crate) fn live() -> Response {
    super::json(200, &json!({ "status": "live" }))
}
