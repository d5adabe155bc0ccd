//! The server's configuration: from flags, environment and file to one validated [`Settings`].
//!
//! Each later source is put over the earlier one: defaults, file, environment, flags. Owns the keys of the file, their
//! ranges and defaults, and the messages about them; the meaning of a function's settings is `registry::settings`.
//!
//! Invariants: `Settings` holds only checked values, and nothing downstream checks them again; an error about the file
//! names the file, the line and the key; no message shows a secret.

mod api_keys;
mod changes;
mod engine;
mod error;
mod functions;
mod sources;
mod system;
mod tree;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use serde_json::Value;

pub use api_keys::{ApiKeySetting, ApiScope};
pub use changes::Changes;
pub use engine::{engine_socket, ContainerRuntime, EngineSocketError};
pub use error::ConfigError;
pub use functions::DeclaredFunction;
pub use sources::{environment, Sources};

use crate::egress::policy::Exception;
use crate::limits;
use crate::registry::function::{ExecutionMode, IdleTtl, Network};
pub use crate::sandbox::host::IsolationLevel;
use crate::sandbox::layer::Layers;
use crate::values::{Entry, KeyPath, ValueError};
use functions::{read_bounded, read_functions, DeclarationError};
use system::{read_limits, read_log_level, read_mode, read_port, read_system, LIMIT_KEYS, SYSTEM_KEYS};
use tree::TreeError;

/// The commented sample, as `--create-config` writes it.
pub const SAMPLE: &str = include_str!("../../faas_config.yaml");

/// The file that is read when none is named and it is there.
pub const CONFIG_FILE_DEFAULT: &str = "faas_config.yaml";

const TOP_KEYS: &[&str] = &["system", "limits", "functions"];

/// Everything that can be configured, validated, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The file that was read, if any.
    pub config_file: Option<PathBuf>,
    /// How a function runs that does not say.
    pub default_mode: ExecutionMode,
    /// Address to listen on. Never open to others with the well-known keys enabled, unless that was insisted on.
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Instances and blanks that may exist at once (`max_concurrent_functions`).
    pub slots_max: usize,
    /// A call may wait this long for an instance to start.
    pub cold_start_timeout: Duration,
    /// How long an idle instance is kept whose function does not say so itself.
    pub warm_instance_ttl: IdleTtl,
    /// An instance that was asked to stop is given this long.
    pub drain_timeout: Duration,
    /// A stopping server is given this long.
    pub shutdown_grace: Duration,
    /// Directory of the database, logs and packages.
    pub storage_path: PathBuf,
    /// What runs containers.
    pub container_runtime: ContainerRuntime,
    /// Image of a function that runs in a container and names none.
    pub base_image: String,
    /// What looks at an image before a function is deployed with it, if anything does.
    pub image_scan: Option<ImageScan>,
    /// A file in the form of Docker's `config.json`, with what registries are told that want a password.
    pub registry_auth: Option<PathBuf>,
    /// It must have said what it thinks after this long.
    pub image_scan_timeout: Duration,
    /// What it thinks of an image is believed for so long without asking it again.
    pub image_scan_max_age: Duration,
    /// Containers that wait for a function, of each image with each network that is in use; at most `slots_max`.
    pub container_pool_size: usize,
    /// AppArmor profile or SELinux label of containers, as the engine spells it; `None` leaves it to the engine.
    pub container_security_label: Option<String>,
    /// What happens when a layer of the sandbox is missing on this host.
    pub isolation: IsolationLevel,
    /// Layers of the sandbox that are left out, for experiments at level `none`.
    pub sandbox_without: Layers,
    /// Least important lines that the server's log takes.
    pub log_level: LevelFilter,
    /// Worker threads.
    pub workers: usize,
    /// Whether each worker thread is bound to one processor.
    pub pin_workers: bool,
    /// Blanks that wait for a function; at most `slots_max`.
    pub pool_size: usize,
    /// Host uid and gid of the instance in slot 0; the others follow.
    pub sandbox_uid_base: u32,
    /// Interpreter of the runtime `python3`: a path, or a bare name to look up in `PATH`.
    pub python: PathBuf,
    /// Interpreters of the runtimes `python3.N`, in the same form.
    pub runtimes: BTreeMap<String, PathBuf>,
    /// Networks that functions may have.
    pub allowed_networks: Vec<Network>,
    /// What functions with outbound network may reach although the rules refuse it.
    pub outbound_allow: Vec<Exception>,
    /// Whether `demo-key` and `admin-key` are valid.
    pub well_known_keys: bool,
    /// Whether they are even on an address that others reach.
    pub allow_well_known_keys_anywhere: bool,
    /// The other keys.
    pub api_keys: Vec<ApiKeySetting>,
    /// What an operator may bound.
    pub limits: ServerLimits,
    /// Functions of the file, in the order of their names.
    pub functions: Vec<DeclaredFunction>,
}

/// Limits of the server that an operator may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerLimits {
    /// Open connections.
    pub max_connections: usize,
    /// Largest body of a request, in bytes.
    pub max_request_body_bytes: usize,
    /// Largest body of a function's answer, in bytes.
    pub max_response_body_bytes: usize,
    /// Invocations that the server holds, waiting and running.
    pub max_invocations: usize,
    /// Invocations of one function that may wait.
    pub max_queue_per_function: usize,
    /// An invocation that has waited this long for an instance is given up.
    pub max_queue_wait: Duration,
    /// Functions that the server holds.
    pub max_functions: usize,
    /// Log entries of one function that are kept in memory.
    pub max_log_entries: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_connections: limits::HTTP_CONNECTIONS_MAX,
            max_request_body_bytes: limits::HTTP_BODY_BYTES_MAX,
            max_response_body_bytes: limits::RESPONSE_BODY_BYTES_MAX,
            max_invocations: limits::INVOCATIONS_MAX,
            max_queue_per_function: limits::QUEUE_PER_FUNCTION_MAX,
            max_queue_wait: limits::QUEUE_WAIT_MAX,
            max_functions: limits::FUNCTIONS_MAX,
            max_log_entries: limits::LOG_RING_ENTRIES_MAX,
        }
    }
}

/// What flags say about the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CliOptions {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// Address to listen on.
    pub host: Option<IpAddr>,
    /// Port to listen on.
    pub port: Option<u16>,
    /// Log at the level DEBUG.
    pub debug: bool,
}

/// A command that looks at an image, and takes or refuses it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageScan {
    /// A path, or a bare name to look up in `PATH`.
    pub program: PathBuf,
    /// Its arguments, in which [`ImageScan::IMAGE`] stands for the image's id.
    pub arguments: Vec<String>,
}

impl ImageScan {
    /// What stands for the image's id.
    pub const IMAGE: &'static str = "{image}";
}

/// Reads the configuration: flags over environment over file over defaults.
pub fn load(cli: &CliOptions, env: &dyn Fn(&str) -> Option<String>) -> Result<Settings, ConfigError> {
    // A variable that is set to nothing is as good as not set: `FAAS_API_PORT= faas`.
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let named = cli.config.clone().or_else(|| env("FAAS_CONFIG_FILE").map(PathBuf::from));
    let path = named.clone().unwrap_or_else(|| PathBuf::from(CONFIG_FILE_DEFAULT));
    let file = match ConfigFile::read(&path) {
        Ok(file) => Some(file),
        Err(ConfigError::Unreadable { source, .. }) if named.is_none() && source.kind() == io::ErrorKind::NotFound => {
            None
        }
        Err(error) => return Err(error),
    };
    resolve(file.as_ref(), cli, &env)
}

/// Everything after the file was read.
fn resolve(
    file: Option<&ConfigFile>,
    cli: &CliOptions,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, ConfigError> {
    let mut settings = Settings::builtin(state_directory(env));
    if let Some(file) = file {
        settings.config_file = Some(file.path.clone());
        file.put_over(&mut settings)?;
    }
    put_environment_over(&mut settings, env)?;
    settings.host = cli.host.unwrap_or(settings.host);
    settings.port = cli.port.unwrap_or(settings.port);
    if cli.debug {
        settings.log_level = LevelFilter::Debug;
    }
    // The functions come last: the mode in which they run by default may come from the environment.
    if let Some(file) = file {
        settings.functions = file.functions(settings.default_mode)?;
    }
    settings.checked()
}

impl Settings {
    /// What holds when nothing is said.
    fn builtin(storage_path: PathBuf) -> Self {
        Self {
            config_file: None,
            default_mode: ExecutionMode::Process,
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: limits::PORT_DEFAULT,
            slots_max: limits::SLOTS_DEFAULT,
            cold_start_timeout: limits::COLD_START_TIMEOUT_DEFAULT,
            warm_instance_ttl: IdleTtl::AfterMs(limits::WARM_INSTANCE_TTL_DEFAULT.as_millis() as u64),
            drain_timeout: limits::DRAIN_TIMEOUT_DEFAULT,
            shutdown_grace: limits::SHUTDOWN_GRACE_DEFAULT,
            storage_path,
            container_runtime: ContainerRuntime::Docker,
            base_image: "python:3.11-slim".to_owned(),
            image_scan: None,
            registry_auth: None,
            image_scan_timeout: limits::IMAGE_SCAN_TIMEOUT_DEFAULT,
            image_scan_max_age: limits::IMAGE_SCAN_MAX_AGE_DEFAULT,
            container_pool_size: limits::CONTAINER_POOL_SIZE_DEFAULT,
            container_security_label: None,
            isolation: IsolationLevel::Strict,
            sandbox_without: Layers::NONE,
            log_level: LevelFilter::Info,
            workers: default_workers(),
            pin_workers: true,
            pool_size: limits::POOL_SIZE_DEFAULT,
            sandbox_uid_base: limits::SANDBOX_UID_BASE_DEFAULT,
            python: PathBuf::from("python3"),
            runtimes: BTreeMap::new(),
            allowed_networks: vec![Network::None, Network::Outbound],
            outbound_allow: Vec::new(),
            well_known_keys: true,
            allow_well_known_keys_anywhere: false,
            api_keys: Vec::new(),
            limits: ServerLimits::default(),
            functions: Vec::new(),
        }
    }

    /// What only shows when every source has spoken.
    fn checked(self) -> Result<Self, ConfigError> {
        if self.storage_path.as_os_str().is_empty() {
            return Err(ConfigError::NoStateDirectory);
        }
        // `::ffff:127.0.0.1` is a loopback address as well.
        let exposed = !self.host.to_canonical().is_loopback();
        if exposed && self.well_known_keys && !self.allow_well_known_keys_anywhere {
            return Err(ConfigError::WellKnownKeysExposed { host: self.host });
        }
        if self.default_mode == ExecutionMode::Container && self.container_runtime == ContainerRuntime::Disabled {
            return Err(ConfigError::DefaultModeDisabled);
        }
        Ok(self)
    }
}

/// A file that was read and is a tree; its keys are not checked yet.
struct ConfigFile {
    path: PathBuf,
    text: String,
    tree: Value,
}

impl ConfigFile {
    fn read(path: &Path) -> Result<Self, ConfigError> {
        let path = path.to_path_buf();
        match read_bounded(&path, limits::CONFIG_FILE_BYTES_MAX) {
            Ok(Some(bytes)) => Self::parse(path, bytes),
            Ok(None) => Err(ConfigError::TooLarge { path }),
            Err(source) => Err(ConfigError::Unreadable { path, source }),
        }
    }

    fn parse(path: PathBuf, bytes: Vec<u8>) -> Result<Self, ConfigError> {
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = Some(1 + before.iter().filter(|byte| **byte == b'\n').count());
                return Err(ConfigError::Syntax { path, line, message: "a byte that is not UTF-8".to_owned() });
            }
        };
        match tree::parse(&text) {
            Ok(tree) => Ok(Self { path, text, tree }),
            Err(TreeError::Syntax { line, message }) => Err(ConfigError::Syntax { path, line, message }),
            Err(TreeError::Value { line, error }) => Err(ConfigError::Value { path, line, error }),
        }
    }

    fn put_over(&self, settings: &mut Settings) -> Result<(), ConfigError> {
        let put = |settings: &mut Settings| {
            let top = Entry::new(KeyPath::root(), &self.tree).table(TOP_KEYS)?;
            read_system(settings, &top.table("system", SYSTEM_KEYS)?, self.directory())?;
            read_limits(&mut settings.limits, &top.table("limits", LIMIT_KEYS)?)
        };
        put(settings).map_err(|error| self.value_error(error))
    }

    fn functions(&self, default_mode: ExecutionMode) -> Result<Vec<DeclaredFunction>, ConfigError> {
        let entry = || Entry::new(KeyPath::root(), &self.tree).table(TOP_KEYS).map(|top| top.get("functions"));
        let entry = entry().map_err(|error| self.value_error(error))?;
        read_functions(entry, self.directory(), default_mode).map_err(|error| match error {
            DeclarationError::Value(error) => self.value_error(error),
            DeclarationError::Source { key, function, source_path, source } => ConfigError::Source {
                path: self.path.clone(),
                line: tree::line_of(&self.text, &key),
                function,
                source_path,
                source,
            },
        })
    }

    /// The directory that relative paths in the file start from.
    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    fn value_error(&self, error: ValueError) -> ConfigError {
        ConfigError::Value { path: self.path.clone(), line: tree::line_of(&self.text, error.path()), error }
    }
}

fn put_environment_over(settings: &mut Settings, env: &dyn Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    const SWITCH: &[(&str, bool)] = &[
        ("1", true),
        ("true", true),
        ("yes", true),
        ("on", true),
        ("0", false),
        ("false", false),
        ("no", false),
        ("off", false),
    ];
    let text_value = |text: &str| Value::from(text);
    settings.default_mode =
        from_environment(env, "FAAS_DEFAULT_MODE", text_value, read_mode)?.unwrap_or(settings.default_mode);
    settings.log_level =
        from_environment(env, "FAAS_LOG_LEVEL", text_value, read_log_level)?.unwrap_or(settings.log_level);
    settings.port = from_environment(env, "FAAS_API_PORT", number_value, read_port)?.unwrap_or(settings.port);
    if from_environment(env, "FAAS_DISABLE_CONTAINER", text_value, |entry| entry.one_of(SWITCH))? == Some(true) {
        settings.container_runtime = ContainerRuntime::Disabled;
    }
    Ok(())
}

fn from_environment<T>(
    env: &dyn Fn(&str) -> Option<String>,
    name: &str,
    to_value: fn(&str) -> Value,
    read: impl FnOnce(Entry<'_>) -> Result<T, ValueError>,
) -> Result<Option<T>, ConfigError> {
    let Some(text) = env(name) else { return Ok(None) };
    let value = to_value(&text);
    read(Entry::new(KeyPath::root().key(name), &value)).map(Some).map_err(ConfigError::Environment)
}

/// The number that the text is; text that is none stays text, for the message.
fn number_value(text: &str) -> Value {
    text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from)
}

/// `$XDG_STATE_HOME/faas`, else `$HOME/.local/state/faas`, else empty. It survives a reboot, unlike /tmp.
fn state_directory(env: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    // The base directory specification: a relative path is to be ignored.
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("faas")).unwrap_or_default()
}

/// Half the processors: the other half is for the front thread and the functions.
fn default_workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, limits::WORKERS_MAX)
}

#[cfg(test)]
mod sample_tests;
#[cfg(test)]
mod tests;
