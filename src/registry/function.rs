//! The function as everybody downstream knows it: validated, immutable, one value per version.

use std::collections::BTreeMap;

pub use crate::sandbox::plan::Network;

use super::image::ImageId;

/// One version of one function. Never changed after it is made; a new version is a new value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionVersion {
    /// `[A-Za-z0-9][A-Za-z0-9_-]{0,62}`.
    pub name: String,
    /// 1, 2, …, never reused for the same name while the function exists.
    pub version: u64,
    /// The source text.
    pub code: String,
    /// SHA-256 of `code`, 64 lower-case hexadecimal digits.
    pub code_sha256: String,
    /// Every setting, defaults filled in.
    pub config: FunctionConfig,
    /// What its image was when this version was deployed; `None` for a function that runs in no container. Found out by
    /// the server, never given.
    pub image_id: Option<ImageId>,
    /// When version 1 was created, milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// When this version was created, milliseconds since the Unix epoch.
    pub updated_at_ms: u64,
}

/// A function's settings after validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionConfig {
    /// `python3` (the default interpreter) or `python3.N`.
    pub runtime: String,
    /// Which backend runs it.
    pub execution_mode: ExecutionMode,
    /// The image of its containers, by its name; `None` is the server's `base_image`, and what a function has that runs
    /// in none.
    pub image: Option<String>,
    /// What it can reach.
    pub network: Network,
    /// Where a call enters the code.
    pub handler: Handler,
    /// A call may take this long from its acceptance to its answer, in milliseconds.
    pub timeout_ms: u64,
    /// Memory of one instance with all its processes, in bytes.
    pub memory_bytes: u64,
    /// CPU time of one instance, in thousandths of a core.
    pub cpu_millis: u32,
    /// Requirements, PEP 508.
    pub dependencies: Vec<String>,
    /// The function's environment variables.
    pub environment: BTreeMap<String, String>,
    /// Instances that are kept warm whatever the load.
    pub min_instances: u32,
    /// Instances that may run at once.
    pub max_instances: u32,
    /// Calls after which an instance is replaced by a fresh one.
    pub max_invocations_per_instance: InvocationsMax,
    /// How long an instance without a call is kept; `None` is as the server's configuration says.
    pub idle_ttl: Option<IdleTtl>,
}

/// How long an instance without a call is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleTtl {
    /// For so many milliseconds.
    AfterMs(u64),
    /// While a call is expected, as learnt from when calls came.
    Adaptive,
}

/// How many calls an instance is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InvocationsMax {
    /// As many as come.
    #[default]
    Unlimited,
    /// No more than so many, at least one.
    AtMost(u32),
}

/// Which backend runs a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExecutionMode {
    /// Forked from a zygote into namespaces.
    Process,
    /// In a Docker container.
    Container,
}

/// `name` or `module.name`: the module is the name under which the code is loaded, `main` when not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Module name, a Python identifier; `main` by default.
    pub module: String,
    /// Attribute of that module, a Python identifier; `handle` by default.
    pub name: String,
}
