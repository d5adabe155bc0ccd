//! A sandbox as people read it: its layers, its plans step by step, its system calls, the filter as it is loaded.
//!
//! Pure. `--check-system --verbose` prints it, `GET /functions/NAME/sandbox` answers with it, and a golden test holds it,
//! so that no change of the sandbox goes unseen.

use serde_json::{json, Value};

use super::layer::{Layer, Layers};
use super::plan::{Plan, Planned, Step};
use super::seccomp::{self, listing::listing, Arch, Sockets};

/// What one function's instances are made with.
#[derive(Debug, Clone)]
pub struct Description {
    /// Layers that must be there.
    pub required: Layers,
    /// Layers that are left out.
    pub without: Layers,
    /// Layers that this host does not give.
    pub missing: Layers,
    /// From the helper to the zygote.
    pub zygote: Plan,
    /// From the zygote to the process that forks the instance.
    pub outer: Plan,
    /// From that fork to the instance.
    pub inner: Plan,
    /// The architecture of the filter.
    pub arch: Option<Arch>,
    /// Which of the two filters it is.
    pub sockets: Sockets,
}

impl Description {
    /// The whole as text.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut section = |title: String, body: Vec<String>| {
            lines.extend([String::new(), title]);
            lines.extend(body.into_iter().map(|line| format!("  {line}")));
        };
        let layers = Layer::ALL.iter();
        let layer = |layer: &Layer| format!("{:<9} {:<17}  {}", self.state(*layer), layer.name(), layer.purpose());
        section("layers".to_owned(), layers.map(layer).collect());
        for (title, plan) in self.plans() {
            section(title.to_owned(), plan.describe());
        }
        section("system calls".to_owned(), self.system_calls());
        let filter = self.filter();
        section(format!("filter of system calls, {} instructions", filter.len()), filter);
        lines
    }

    /// The whole as the API shows it.
    pub fn to_json(&self) -> Value {
        let layer =
            |layer: &Layer| json!({ "name": layer.name(), "state": self.state(*layer), "purpose": layer.purpose() });
        let plans = self.plans().map(|(title, plan)| json!({ "of": title, "steps": plan.describe() }));
        json!({
            "layers": Layer::ALL.iter().map(layer).collect::<Vec<_>>(),
            "plans": plans,
            "system_calls": self.system_calls(),
            "filter": self.filter(),
        })
    }

    fn plans(&self) -> [(&'static str, &Plan); 3] {
        [
            ("the zygote", &self.zygote),
            ("an instance, before its process is made", &self.outer),
            ("an instance, in its process", &self.inner),
        ]
    }

    fn state(&self, layer: Layer) -> &'static str {
        match layer {
            _ if self.without.contains(layer) => "left out",
            _ if self.missing.contains(layer) => "missing",
            _ if self.required.contains(layer) => "required",
            _ => "tried",
        }
    }

    fn system_calls(&self) -> Vec<String> {
        self.arch.map(|arch| seccomp::describe(arch, self.sockets)).unwrap_or_default()
    }

    fn filter(&self) -> Vec<String> {
        let filter = |planned: &Planned| match &planned.step {
            Step::Seccomp(filter) | Step::SeccompNotify { filter, .. } => Some(listing(filter)),
            _ => None,
        };
        self.inner.steps().iter().find_map(filter).unwrap_or_default()
    }
}
