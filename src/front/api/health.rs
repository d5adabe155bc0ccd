//! `GET /health`.

use serde_json::json;

use crate::http::Response;
use crate::sandbox::layer::Layer;

use super::super::Front;

impl Front {
    /// 200 when a function can be called, 503 when not, with the reason either way. A blank that failed is no reason
    /// while others are ready: one interpreter of several may be broken, or one fork have had bad luck.
    pub(crate) fn health(&self) -> Option<Response> {
        let draining = self.stop.is_some();
        let any_ready = self.scheduler.pool_stats().any(|pool| pool.ready > 0);
        let trouble = self.blank_trouble.as_ref().filter(|_| !any_ready);
        let mut process = json!({
            "status": if trouble.is_some() { "unavailable" } else { "available" },
            "isolation": self.settings.isolation,
            "missing": self.runtimes.absent().iter().map(Layer::name).collect::<Vec<_>>(),
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
            "modes": { "process": process, "container": { "status": "unavailable", "detail": self.settings.container } },
        });
        Some(super::json(if healthy { 200 } else { 503 }, &document))
    }
}
