//! A function's settings as they are given, before defaults: in the configuration file, in a posted function, in an
//! update of one.
//!
//! Owns the fields' names, ranges and defaults, and the JSON form of a resolved configuration. Does not own where the
//! settings come from, nor whether this server can honour them: a function that needs a container or dependencies is
//! described here and refused where it is deployed.
//!
//! Invariants: [`FunctionSettings::from_json`] refuses every unknown field; `to_json(true)`, read again and resolved,
//! is the same configuration.

use std::collections::BTreeMap;

use serde_json::{json, Map, Value};

use super::function::{ExecutionMode, FunctionConfig, Handler, IdleTtl, InvocationsMax, Network};
use super::image::{is_reference, REFERENCE_FORM};
use crate::limits;
use crate::values::{cut, units, Entry, KeyPath, Table};

/// Why a function's setting was not taken.
pub use crate::values::ValueError as SettingError;

/// Names of all fields.
pub const SETTING_KEYS: &[&str] = &[
    "runtime",
    "execution_mode",
    "image",
    "network",
    "handler",
    "timeout",
    "memory",
    "cpu_limit",
    "dependencies",
    "environment",
    "min_instances",
    "max_instances",
    "max_invocations_per_instance",
    "idle_ttl",
];

/// The interpreter of a function that names none.
pub const RUNTIME_DEFAULT: &str = "python3";

/// What `max_invocations_per_instance` says when there is no end: a word, so that an update can take a number back,
/// for which `null` would not do ("not given").
const UNLIMITED: &str = "unlimited";

/// What `idle_ttl` and `image` say when the server's configuration decides: a word for the same reason. An image of that
/// name is `default:latest`.
const SYSTEM_DEFAULT: &str = "default";

/// What `idle_ttl` and `system.warm_instance_ttl` say when it is learnt.
const ADAPTIVE: &str = "adaptive";

/// Variables that the server sets in every instance, over whatever `environment` says: it may not name them.
const OWN_VARIABLES: &[&str] = &["FAAS_FUNCTION", "FAAS_VERSION", "FAAS_INSTANCE"];

/// Oldest Python that the shim runs on: 3.8.
const RUNTIME_MINOR_MIN: u32 = 8;

/// The words that Python keeps for itself, in every version from 3.8.
const PYTHON_KEYWORDS: &[&str] = &[
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del",
    "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal",
    "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
];

/// A function's settings; `None` is "not given". Each value that is given is in its range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FunctionSettings {
    /// See [`FunctionConfig::runtime`].
    pub runtime: Option<String>,
    /// See [`FunctionConfig::execution_mode`].
    pub execution_mode: Option<ExecutionMode>,
    /// See [`FunctionConfig::image`]; `Some(None)` leaves it to the server.
    pub image: Option<Option<String>>,
    /// See [`FunctionConfig::network`].
    pub network: Option<Network>,
    /// See [`FunctionConfig::handler`].
    pub handler: Option<Handler>,
    /// See [`FunctionConfig::timeout_ms`].
    pub timeout_ms: Option<u64>,
    /// See [`FunctionConfig::memory_bytes`].
    pub memory_bytes: Option<u64>,
    /// See [`FunctionConfig::cpu_millis`].
    pub cpu_millis: Option<u32>,
    /// See [`FunctionConfig::dependencies`].
    pub dependencies: Option<Vec<String>>,
    /// See [`FunctionConfig::environment`].
    pub environment: Option<BTreeMap<String, String>>,
    /// See [`FunctionConfig::min_instances`].
    pub min_instances: Option<u32>,
    /// See [`FunctionConfig::max_instances`].
    pub max_instances: Option<u32>,
    /// See [`FunctionConfig::max_invocations_per_instance`].
    pub max_invocations_per_instance: Option<InvocationsMax>,
    /// See [`FunctionConfig::idle_ttl`]; `Some(None)` leaves it to the server.
    pub idle_ttl: Option<Option<IdleTtl>>,
}

impl FunctionSettings {
    /// Reads the `config` object of the API. A field that is `null` is not given.
    pub fn from_json(fields: &Map<String, Value>) -> Result<Self, SettingError> {
        Self::from_table(&Table::new(KeyPath::root(), fields, SETTING_KEYS)?)
    }

    /// Reads the fields of a table that may have other known keys beside them.
    pub(crate) fn from_table(table: &Table<'_>) -> Result<Self, SettingError> {
        let instances_max = u64::from(limits::FUNCTION_INSTANCES_MAX);
        Ok(Self {
            runtime: table.read("runtime", |entry| read_runtime(&entry))?,
            execution_mode: table.read("execution_mode", |entry| entry.one_of(&ExecutionMode::NAMES))?,
            image: table.read("image", |entry| read_function_image(&entry))?,
            network: table.read("network", |entry| entry.one_of(&Network::NAMES))?,
            handler: table.read("handler", |entry| read_handler(&entry))?,
            timeout_ms: table.read("timeout", |entry| {
                entry.duration_ms(limits::FUNCTION_TIMEOUT_MS_MIN..=limits::FUNCTION_TIMEOUT_MS_MAX)
            })?,
            memory_bytes: table.read("memory", |entry| {
                entry.bytes(limits::FUNCTION_MEMORY_BYTES_MIN..=limits::FUNCTION_MEMORY_BYTES_MAX)
            })?,
            cpu_millis: table.read("cpu_limit", |entry| {
                let range = limits::FUNCTION_CPU_MILLIS_MIN.into()..=limits::FUNCTION_CPU_MILLIS_MAX.into();
                Ok(entry.cpu_millis(range)? as u32)
            })?,
            dependencies: table.read("dependencies", |entry| read_dependencies(&entry))?,
            environment: table.read("environment", |entry| read_environment(&entry))?,
            min_instances: table.read("min_instances", |entry| Ok(entry.integer(0..=instances_max)? as u32))?,
            max_instances: table.read("max_instances", |entry| Ok(entry.integer(1..=instances_max)? as u32))?,
            max_invocations_per_instance: table
                .read("max_invocations_per_instance", |entry| read_invocations_max(&entry))?,
            idle_ttl: table.read("idle_ttl", |entry| read_function_idle_ttl(&entry))?,
        })
    }

    /// These settings with those given in `over` put over them. A list or map is replaced whole.
    pub fn merge(self, over: FunctionSettings) -> FunctionSettings {
        FunctionSettings {
            runtime: over.runtime.or(self.runtime),
            execution_mode: over.execution_mode.or(self.execution_mode),
            image: over.image.or(self.image),
            network: over.network.or(self.network),
            handler: over.handler.or(self.handler),
            timeout_ms: over.timeout_ms.or(self.timeout_ms),
            memory_bytes: over.memory_bytes.or(self.memory_bytes),
            cpu_millis: over.cpu_millis.or(self.cpu_millis),
            dependencies: over.dependencies.or(self.dependencies),
            environment: over.environment.or(self.environment),
            min_instances: over.min_instances.or(self.min_instances),
            max_instances: over.max_instances.or(self.max_instances),
            max_invocations_per_instance: over.max_invocations_per_instance.or(self.max_invocations_per_instance),
            idle_ttl: over.idle_ttl.or(self.idle_ttl),
        }
    }

    /// Fills in the defaults and checks the fields against each other.
    pub fn resolve(&self, default_mode: ExecutionMode) -> Result<FunctionConfig, SettingError> {
        let config = FunctionConfig {
            runtime: self.runtime.clone().unwrap_or_else(|| RUNTIME_DEFAULT.to_owned()),
            execution_mode: self.execution_mode.unwrap_or(default_mode),
            image: self.image.clone().flatten(),
            network: self.network.unwrap_or(Network::None),
            handler: self.handler.clone().unwrap_or_default(),
            timeout_ms: self.timeout_ms.unwrap_or(limits::FUNCTION_TIMEOUT_MS_DEFAULT),
            memory_bytes: self.memory_bytes.unwrap_or(limits::FUNCTION_MEMORY_BYTES_DEFAULT),
            cpu_millis: self.cpu_millis.unwrap_or(limits::FUNCTION_CPU_MILLIS_DEFAULT),
            dependencies: self.dependencies.clone().unwrap_or_default(),
            environment: self.environment.clone().unwrap_or_default(),
            min_instances: self.min_instances.unwrap_or(0),
            max_instances: self.max_instances.unwrap_or(limits::FUNCTION_INSTANCES_DEFAULT),
            max_invocations_per_instance: self.max_invocations_per_instance.unwrap_or_default(),
            idle_ttl: self.idle_ttl.flatten(),
        };
        if config.min_instances > config.max_instances {
            return Err(SettingError::Exceeds {
                path: KeyPath::root().key("min_instances"),
                given: config.min_instances.into(),
                bound: "max_instances",
                bound_value: config.max_instances.into(),
            });
        }
        if let (Some(image), ExecutionMode::Process) = (&config.image, config.execution_mode) {
            return Err(SettingError::NotAllowed {
                path: KeyPath::root().key("image"),
                given: format!("{:?}", cut(image)),
                allowed: format!("{SYSTEM_DEFAULT}, unless execution_mode is container"),
            });
        }
        Ok(config)
    }
}

impl FunctionConfig {
    /// The `config` object of the API. Without `with_environment_values` the variables are named and their values
    /// `null`.
    pub fn to_json(&self, with_environment_values: bool) -> Value {
        let shown = |value: &String| if with_environment_values { json!(value) } else { Value::Null };
        let environment: Map<String, Value> =
            self.environment.iter().map(|(name, value)| (name.clone(), shown(value))).collect();
        json!({
            "runtime": self.runtime,
            "execution_mode": self.execution_mode.as_str(),
            "image": self.image.as_deref().unwrap_or(SYSTEM_DEFAULT),
            "network": self.network.as_str(),
            "handler": self.handler.to_string(),
            "timeout": seconds(self.timeout_ms),
            "memory": units::format_bytes(self.memory_bytes),
            "cpu_limit": units::format_cpu_millis(self.cpu_millis.into()),
            "dependencies": self.dependencies,
            "environment": environment,
            "min_instances": self.min_instances,
            "max_instances": self.max_instances,
            "max_invocations_per_instance": match self.max_invocations_per_instance {
                InvocationsMax::Unlimited => json!(UNLIMITED),
                InvocationsMax::AtMost(calls) => json!(calls),
            },
            "idle_ttl": match self.idle_ttl {
                None => json!(SYSTEM_DEFAULT),
                Some(IdleTtl::Adaptive) => json!(ADAPTIVE),
                Some(IdleTtl::AfterMs(ms)) => seconds(ms),
            },
        })
    }

    /// Every field as given: what an update is merged over.
    pub fn to_settings(&self) -> FunctionSettings {
        FunctionSettings {
            runtime: Some(self.runtime.clone()),
            execution_mode: Some(self.execution_mode),
            image: Some(self.image.clone()),
            network: Some(self.network),
            handler: Some(self.handler.clone()),
            timeout_ms: Some(self.timeout_ms),
            memory_bytes: Some(self.memory_bytes),
            cpu_millis: Some(self.cpu_millis),
            dependencies: Some(self.dependencies.clone()),
            environment: Some(self.environment.clone()),
            min_instances: Some(self.min_instances),
            max_instances: Some(self.max_instances),
            max_invocations_per_instance: Some(self.max_invocations_per_instance),
            idle_ttl: Some(self.idle_ttl),
        }
    }
}

impl ExecutionMode {
    /// The modes by the names that settings use.
    pub(crate) const NAMES: [(&'static str, ExecutionMode); 2] =
        [("process", ExecutionMode::Process), ("container", ExecutionMode::Container)];

    /// The name that settings use.
    pub fn as_str(self) -> &'static str {
        match self {
            ExecutionMode::Process => "process",
            ExecutionMode::Container => "container",
        }
    }
}

impl Handler {
    /// The module under which code is loaded when the handler names none.
    const MODULE_DEFAULT: &'static str = "main";

    fn parse(text: &str) -> Option<Self> {
        let (module, name) = text.split_once('.').unwrap_or((Self::MODULE_DEFAULT, text));
        let fits = text.len() <= limits::FUNCTION_HANDLER_BYTES_MAX && is_identifier(module) && is_identifier(name);
        fits.then(|| Self { module: module.to_owned(), name: name.to_owned() })
    }
}

impl Default for Handler {
    fn default() -> Self {
        Self { module: Self::MODULE_DEFAULT.to_owned(), name: "handle".to_owned() }
    }
}

impl std::fmt::Display for Handler {
    /// `name`, or `module.name` when the module is not the default.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.module != Self::MODULE_DEFAULT {
            write!(f, "{}.", self.module)?;
        }
        f.write_str(&self.name)
    }
}

/// Checks the name of a function: `[A-Za-z0-9][A-Za-z0-9_-]{0,62}`.
pub fn validate_name(name: &str) -> Result<(), SettingError> {
    let value = Value::from(name);
    check_name(&Entry::new(KeyPath::root().key("name"), &value))
}

/// Checks the text of `entry` as the name of a function.
pub(crate) fn check_name(entry: &Entry<'_>) -> Result<(), SettingError> {
    let allowed = format!(
        "1 to {} letters, digits, '-' or '_', of which the first is a letter or digit",
        limits::FUNCTION_NAME_BYTES_MAX
    );
    entry.text_where(&allowed, |name| {
        name.len() <= limits::FUNCTION_NAME_BYTES_MAX
            && name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    })?;
    Ok(())
}

/// Whether this is `python3.N` for a Python that the shim runs on.
pub(crate) fn is_versioned_runtime(text: &str) -> bool {
    let Some(minor) = text.strip_prefix("python3.") else { return false };
    let canonical = minor.len() <= 2 && minor.bytes().all(|byte| byte.is_ascii_digit()) && !minor.starts_with('0');
    canonical && minor.parse::<u32>().is_ok_and(|minor| minor >= RUNTIME_MINOR_MIN)
}

fn read_runtime(entry: &Entry<'_>) -> Result<String, SettingError> {
    let allowed = format!("{RUNTIME_DEFAULT} or python3.N with N from {RUNTIME_MINOR_MIN}");
    let text = entry.text_where(&allowed, |text| text == RUNTIME_DEFAULT || is_versioned_runtime(text))?;
    Ok(text.to_owned())
}

fn read_handler(entry: &Entry<'_>) -> Result<Handler, SettingError> {
    const ALLOWED: &str = "name or module.name, each a Python identifier in ASCII and no keyword";
    Handler::parse(entry.text_where(ALLOWED, |_| true)?).ok_or_else(|| entry.not_allowed(ALLOWED))
}

fn read_function_image(entry: &Entry<'_>) -> Result<Option<String>, SettingError> {
    match entry.text() {
        Ok(text) if text.eq_ignore_ascii_case(SYSTEM_DEFAULT) => Ok(None),
        _ => read_image(entry).map(Some),
    }
}

/// The name of an image.
pub(crate) fn read_image(entry: &Entry<'_>) -> Result<String, SettingError> {
    Ok(entry.text_where(REFERENCE_FORM, is_reference)?.to_owned())
}

fn read_invocations_max(entry: &Entry<'_>) -> Result<InvocationsMax, SettingError> {
    let most = limits::FUNCTION_INVOCATIONS_PER_INSTANCE_MAX;
    if entry.text().is_ok_and(|text| text.eq_ignore_ascii_case(UNLIMITED)) {
        return Ok(InvocationsMax::Unlimited);
    }
    match entry.integer(1..=most.into()) {
        Ok(calls) => Ok(InvocationsMax::AtMost(calls as u32)),
        Err(_) => Err(entry.not_allowed(&format!("a whole number from 1 to {most}, or {UNLIMITED}"))),
    }
}

fn read_function_idle_ttl(entry: &Entry<'_>) -> Result<Option<IdleTtl>, SettingError> {
    match entry.text() {
        Ok(text) if text.eq_ignore_ascii_case(SYSTEM_DEFAULT) => Ok(None),
        _ => read_idle_ttl_or(entry, &[ADAPTIVE, SYSTEM_DEFAULT]).map(Some),
    }
}

/// A time, or the word that it is learnt.
pub(crate) fn read_idle_ttl(entry: &Entry<'_>) -> Result<IdleTtl, SettingError> {
    read_idle_ttl_or(entry, &[ADAPTIVE])
}

/// The same, for a setting that may have these words, which the error tells.
fn read_idle_ttl_or(entry: &Entry<'_>, words: &[&str]) -> Result<IdleTtl, SettingError> {
    const MS_PER_DAY: u64 = 24 * 60 * 60 * 1000;
    if entry.text().is_ok_and(|text| text.eq_ignore_ascii_case(ADAPTIVE)) {
        return Ok(IdleTtl::Adaptive);
    }
    let range = limits::WARM_INSTANCE_TTL_MS;
    let (least, most) = (units::format_duration(*range.start()), units::format_duration(*range.end()));
    let days = range.end() / MS_PER_DAY;
    entry.duration_ms(range).map(IdleTtl::AfterMs).map_err(|_| {
        entry.not_allowed(&format!(
            "{}, or {least} to {most} ({days} days), as a number of seconds or with a unit (500ms, 30s, 5m, 1h)",
            words.join(", ")
        ))
    })
}

/// A time in seconds, whole if it can be.
fn seconds(ms: u64) -> Value {
    match ms % 1000 {
        0 => json!(ms / 1000),
        _ => json!(ms as f64 / 1000.0),
    }
}

fn read_dependencies(entry: &Entry<'_>) -> Result<Vec<String>, SettingError> {
    let requirements = entry.list()?;
    if requirements.len() > limits::FUNCTION_DEPENDENCIES_MAX {
        return Err(entry.not_allowed(&format!("at most {} requirements", limits::FUNCTION_DEPENDENCIES_MAX)));
    }
    let allowed =
        format!("a requirement such as requests==2.28.0, up to {} bytes", limits::FUNCTION_DEPENDENCY_BYTES_MAX);
    let read = |requirement: &Entry<'_>| {
        let text = requirement.text_where(&allowed, |text| {
            let fits = text.len() <= limits::FUNCTION_DEPENDENCY_BYTES_MAX && !text.trim().is_empty();
            fits && !text.chars().any(char::is_control)
        })?;
        Ok(text.to_owned())
    };
    requirements.iter().map(read).collect()
}

fn read_environment(entry: &Entry<'_>) -> Result<BTreeMap<String, String>, SettingError> {
    let variables = entry.map()?;
    let bytes: usize = variables.iter().map(|(name, value)| name.len() + value.text().map_or(0, str::len)).sum();
    if variables.len() > limits::FUNCTION_ENVIRONMENT_MAX || bytes > limits::FUNCTION_ENVIRONMENT_BYTES_MAX {
        let (variables, bytes) = (limits::FUNCTION_ENVIRONMENT_MAX, limits::FUNCTION_ENVIRONMENT_BYTES_MAX);
        return Err(entry.not_allowed(&format!("at most {variables} variables of together {bytes} bytes")));
    }
    variables.into_iter().map(|(name, value)| Ok((name.to_owned(), read_variable(name, &value)?))).collect()
}

/// A variable's value may be a secret: no message shows it.
fn read_variable(name: &str, value: &Entry<'_>) -> Result<String, SettingError> {
    if !is_variable_name(name) {
        return Err(value.secret_not_allowed("a name of letters, digits and '_' that does not start with a digit"));
    }
    if OWN_VARIABLES.contains(&name) {
        return Err(value.secret_not_allowed("another name: the server itself sets this variable"));
    }
    match value.text() {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        Ok(_) => Err(value.secret_not_allowed("text without the character NUL")),
        Err(_) => Err(value.secret_not_allowed("text; put the value in quotes")),
    }
}

fn is_variable_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_identifier(text: &str) -> bool {
    is_variable_name(text) && !PYTHON_KEYWORDS.contains(&text)
}

#[cfg(test)]
mod tests;
