//! `system:` and `limits:` of the file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use super::api_keys::read_api_keys;
use super::engine::read_container_runtime;
use super::{ImageScan, IsolationLevel, ServerLimits, Settings};
use crate::egress::policy::{Exception, ExceptionError};
use crate::limits;
use crate::registry::function::{ExecutionMode, Network};
use crate::registry::settings::{is_versioned_runtime, read_idle_ttl, read_image, RUNTIME_DEFAULT};
use crate::sandbox::layer::{Layer, Layers};
use crate::values::{parse_host, Entry, Table, ValueError};

/// Keys of `system:`.
pub(super) const SYSTEM_KEYS: &[&str] = &[
    "default_mode",
    "max_concurrent_functions",
    "cold_start_timeout",
    "warm_instance_ttl",
    "drain_timeout",
    "shutdown_grace",
    "host",
    "api_gateway_port",
    "function_storage_path",
    "container_runtime",
    "base_image",
    "registry_auth",
    "image_scan",
    "image_scan_timeout",
    "image_scan_max_age",
    "container_pool_size",
    "container_security_label",
    "process_isolation_level",
    "sandbox_without",
    "logging_level",
    "workers",
    "pin_workers",
    "pool_size",
    "sandbox_uid_base",
    "python",
    "runtimes",
    "allowed_networks",
    "outbound_allow",
    "well_known_keys",
    "allow_well_known_keys_anywhere",
    "api_keys",
];

/// Keys of `limits:`.
pub(super) const LIMIT_KEYS: &[&str] = &[
    "max_connections",
    "max_request_body",
    "max_response_body",
    "max_invocations",
    "max_queue_per_function",
    "max_queue_wait",
    "max_functions",
    "max_log_entries",
];

/// What a value says that leaves the choice to the server.
const AUTO: &str = "auto";

/// What a value says that leaves the choice to the container engine.
const ENGINE_DEFAULT: &str = "default";

const ISOLATION_LEVELS: &[(&str, IsolationLevel)] =
    &[("strict", IsolationLevel::Strict), ("standard", IsolationLevel::Standard), ("none", IsolationLevel::None)];

const LOG_LEVELS: &[(&str, LevelFilter)] = &[
    ("OFF", LevelFilter::Off),
    ("ERROR", LevelFilter::Error),
    ("WARN", LevelFilter::Warn),
    ("WARNING", LevelFilter::Warn),
    ("INFO", LevelFilter::Info),
    ("DEBUG", LevelFilter::Debug),
    ("TRACE", LevelFilter::Trace),
];

/// Puts what `system` gives over `settings`. `base` is the directory that relative paths start from.
pub(super) fn read_system(settings: &mut Settings, system: &Table<'_>, base: &Path) -> Result<(), ValueError> {
    set(&mut settings.default_mode, system, "default_mode", read_mode)?;
    set(&mut settings.host, system, "host", read_host)?;
    set(&mut settings.port, system, "api_gateway_port", read_port)?;
    set(&mut settings.log_level, system, "logging_level", read_log_level)?;
    read_containers(settings, system, base)?;
    set(&mut settings.isolation, system, "process_isolation_level", |entry| entry.one_of(ISOLATION_LEVELS))?;
    let isolation = settings.isolation;
    set(&mut settings.sandbox_without, system, "sandbox_without", |entry| read_sandbox_without(&entry, isolation))?;
    set(&mut settings.cold_start_timeout, system, "cold_start_timeout", |entry| {
        Ok(Duration::from_millis(entry.duration_ms(limits::COLD_START_TIMEOUT_MS)?))
    })?;
    set(&mut settings.warm_instance_ttl, system, "warm_instance_ttl", |entry| read_idle_ttl(&entry))?;
    set(&mut settings.drain_timeout, system, "drain_timeout", |entry| {
        Ok(Duration::from_millis(entry.duration_ms(limits::DRAIN_TIMEOUT_MS)?))
    })?;
    set(&mut settings.shutdown_grace, system, "shutdown_grace", |entry| {
        Ok(Duration::from_millis(entry.duration_ms(limits::SHUTDOWN_GRACE_MS)?))
    })?;
    set(&mut settings.storage_path, system, "function_storage_path", |entry| read_path(&entry, base))?;
    set(&mut settings.pin_workers, system, "pin_workers", |entry| entry.boolean())?;
    set(&mut settings.workers, system, "workers", |entry| read_workers(&entry))?;
    read_pools(settings, system)?;
    set(&mut settings.sandbox_uid_base, system, "sandbox_uid_base", |entry| {
        let range = limits::SANDBOX_UID_BASE_MIN.into()..=limits::SANDBOX_UID_BASE_MAX.into();
        Ok(entry.integer(range)? as u32)
    })?;
    set(&mut settings.python, system, "python", |entry| read_program(&entry, base))?;
    set(&mut settings.runtimes, system, "runtimes", |entry| read_runtimes(&entry, base))?;
    set(&mut settings.allowed_networks, system, "allowed_networks", |entry| read_networks(&entry))?;
    set(&mut settings.outbound_allow, system, "outbound_allow", |entry| read_exceptions(&entry))?;
    set(&mut settings.well_known_keys, system, "well_known_keys", |entry| entry.boolean())?;
    let anywhere = &mut settings.allow_well_known_keys_anywhere;
    set(anywhere, system, "allow_well_known_keys_anywhere", |entry| entry.boolean())?;
    set(&mut settings.api_keys, system, "api_keys", |entry| read_api_keys(&entry))
}

/// Puts what `limits` gives over `values`.
pub(super) fn read_limits(values: &mut ServerLimits, table: &Table<'_>) -> Result<(), ValueError> {
    let size = |entry: Entry<'_>| Ok(entry.bytes(limits::BODY_BYTES_LIMIT)? as usize);
    set(&mut values.max_request_body_bytes, table, "max_request_body", size)?;
    set(&mut values.max_response_body_bytes, table, "max_response_body", size)?;
    set_count(&mut values.max_connections, table, "max_connections", limits::HTTP_CONNECTIONS_LIMIT_MAX)?;
    set_count(&mut values.max_invocations, table, "max_invocations", limits::INVOCATIONS_MAX)?;
    set_count(&mut values.max_queue_per_function, table, "max_queue_per_function", limits::INVOCATIONS_MAX)?;
    set(&mut values.max_queue_wait, table, "max_queue_wait", |entry| {
        Ok(Duration::from_millis(entry.duration_ms(limits::QUEUE_WAIT_MS)?))
    })?;
    set_count(&mut values.max_functions, table, "max_functions", limits::FUNCTIONS_MAX)?;
    set_count(&mut values.max_log_entries, table, "max_log_entries", limits::LOG_RING_ENTRIES_LIMIT_MAX)
}

pub(super) fn read_mode(entry: Entry<'_>) -> Result<ExecutionMode, ValueError> {
    entry.one_of(&ExecutionMode::NAMES)
}

pub(super) fn read_port(entry: Entry<'_>) -> Result<u16, ValueError> {
    Ok(entry.integer(0..=u16::MAX.into())? as u16)
}

pub(super) fn read_log_level(entry: Entry<'_>) -> Result<LevelFilter, ValueError> {
    entry.one_of(LOG_LEVELS)
}

/// A path; a relative one starts from `base`.
pub(super) fn read_path(entry: &Entry<'_>, base: &Path) -> Result<PathBuf, ValueError> {
    const ALLOWED: &str = "a path, absolute or relative to the configuration file (~ and $ are not expanded)";
    let text = entry.text_where(ALLOWED, |path| {
        let fits = !path.is_empty() && path.len() <= limits::CONFIG_PATH_BYTES_MAX;
        fits && !path.contains('\0') && !path.starts_with(['~', '$'])
    })?;
    Ok(base.join(text))
}

fn read_host(entry: Entry<'_>) -> Result<std::net::IpAddr, ValueError> {
    const ALLOWED: &str = "an IP address such as 127.0.0.1, ::1 or 0.0.0.0, or localhost";
    parse_host(entry.text_where(ALLOWED, |_| true)?).ok_or_else(|| entry.not_allowed(ALLOWED))
}

fn read_containers(settings: &mut Settings, system: &Table<'_>, base: &Path) -> Result<(), ValueError> {
    let runtime = &mut settings.container_runtime;
    set(runtime, system, "container_runtime", |entry| read_container_runtime(&entry, base))?;
    set(&mut settings.base_image, system, "base_image", |entry| read_image(&entry))?;
    set(&mut settings.registry_auth, system, "registry_auth", |entry| {
        match entry.text_where("none, or a path", |_| true)? {
            "none" => Ok(None),
            _ => read_path(&entry, base).map(Some),
        }
    })?;
    set(&mut settings.image_scan, system, "image_scan", |entry| read_image_scan(&entry, base))?;
    set(&mut settings.image_scan_timeout, system, "image_scan_timeout", |entry| {
        Ok(Duration::from_millis(entry.duration_ms(limits::IMAGE_SCAN_TIMEOUT_MS)?))
    })?;
    set(&mut settings.image_scan_max_age, system, "image_scan_max_age", |entry| {
        Ok(Duration::from_millis(entry.duration_ms(limits::IMAGE_SCAN_MAX_AGE_MS)?))
    })?;
    let label = &mut settings.container_security_label;
    set(label, system, "container_security_label", |entry| read_security_label(&entry))
}

/// A program and its arguments, in which something stands for the image; an empty list is no scan.
fn read_image_scan(entry: &Entry<'_>, base: &Path) -> Result<Option<ImageScan>, ValueError> {
    let words = entry.list()?;
    if words.len() > limits::IMAGE_SCAN_WORDS_MAX {
        return Err(entry.not_allowed(&format!("at most {} words", limits::IMAGE_SCAN_WORDS_MAX)));
    }
    let Some((program, arguments)) = words.split_first() else { return Ok(None) };
    let program = read_program(program, base)?;
    let allowed = format!("text of at most {} bytes", limits::IMAGE_SCAN_WORD_BYTES_MAX);
    let read = |argument: &Entry<'_>| {
        let text = argument
            .text_where(&allowed, |text| text.len() <= limits::IMAGE_SCAN_WORD_BYTES_MAX && !text.contains('\0'))?;
        Ok(text.to_owned())
    };
    let arguments: Vec<String> = arguments.iter().map(read).collect::<Result<_, _>>()?;
    if !arguments.iter().any(|argument| argument.contains(ImageScan::IMAGE)) {
        return Err(entry.not_allowed(&format!("a program and its arguments, one of which has {}", ImageScan::IMAGE)));
    }
    Ok(Some(ImageScan { program, arguments }))
}

/// A label in the engine's own spelling. One that takes a wall away is none.
fn read_security_label(entry: &Entry<'_>) -> Result<Option<String>, ValueError> {
    const ALLOWED: &str = "default, apparmor=PROFILE, or label=type:TYPE for SELinux";
    let text = entry.text_where(ALLOWED, |text| text.len() <= limits::SECURITY_LABEL_BYTES_MAX)?;
    if text.eq_ignore_ascii_case(ENGINE_DEFAULT) {
        return Ok(None);
    }
    let is_name = |name: &str, marks: &[u8]| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || marks.contains(&byte);
        name.bytes().next().is_some_and(|first| is_plain(first) && first != b'-') && name.bytes().all(is_plain)
    };
    let holds = match text.split_once('=') {
        Some(("apparmor", profile)) => is_name(profile, b"._/+-") && profile != "unconfined",
        Some(("label", label)) => {
            label.split_once(':').is_some_and(|(part, value)| part == "type" && is_name(value, b"._:,-"))
        }
        _ => false,
    };
    if holds {
        Ok(Some(text.to_owned()))
    } else {
        Err(entry.not_allowed(ALLOWED))
    }
}

/// An experiment on what each layer is worth. At a level that promises anything it would break that promise.
fn read_sandbox_without(entry: &Entry<'_>, isolation: IsolationLevel) -> Result<Layers, ValueError> {
    // Without a mount namespace a sandbox cannot be built.
    let names: Vec<_> = Layer::NAMES.iter().copied().filter(|(_, layer)| *layer != Layer::MountNamespace).collect();
    let layers: Layers = entry.list()?.iter().map(|layer| layer.one_of(&names)).collect::<Result<_, _>>()?;
    if !layers.is_empty() && isolation != IsolationLevel::None {
        return Err(entry.not_allowed("an empty list, unless process_isolation_level is none"));
    }
    Ok(layers)
}

/// Each once, in the order of the names.
fn read_networks(entry: &Entry<'_>) -> Result<Vec<Network>, ValueError> {
    let networks: BTreeSet<Network> =
        entry.list()?.iter().map(|network| network.one_of(&Network::NAMES)).collect::<Result<_, _>>()?;
    if networks.is_empty() {
        return Err(entry.not_allowed("at least one of none, outbound and host"));
    }
    Ok(networks.into_iter().collect())
}

fn read_exceptions(entry: &Entry<'_>) -> Result<Vec<Exception>, ValueError> {
    let exceptions = entry.list()?;
    if exceptions.len() > limits::OUTBOUND_ALLOW_MAX {
        return Err(entry.not_allowed(&format!("at most {} entries", limits::OUTBOUND_ALLOW_MAX)));
    }
    let read = |entry: &Entry<'_>| {
        let text = entry.text_where(&ExceptionError::Form.to_string(), |_| true)?;
        Exception::parse(text).map_err(|error| entry.not_allowed(&error.to_string()))
    };
    exceptions.iter().map(read).collect()
}

fn read_workers(entry: &Entry<'_>) -> Result<usize, ValueError> {
    if entry.text().is_ok_and(|text| text == AUTO) {
        return Ok(super::default_workers());
    }
    let wrong = |_| entry.not_allowed(&format!("{AUTO}, or a whole number from 1 to {}", limits::WORKERS_MAX));
    Ok(entry.integer(1..=limits::WORKERS_MAX as u64).map_err(wrong)? as usize)
}

/// The pools are part of what `max_concurrent_functions` counts: a default that is too large gives way, a given one is a
/// mistake.
fn read_pools(settings: &mut Settings, system: &Table<'_>) -> Result<(), ValueError> {
    set_count(&mut settings.slots_max, system, "max_concurrent_functions", limits::SLOTS_MAX)?;
    let slots_max = settings.slots_max;
    read_pool(&mut settings.pool_size, system, "pool_size", limits::POOL_SIZE_MAX, slots_max)?;
    let (size, most) = (&mut settings.container_pool_size, limits::CONTAINER_POOL_SIZE_MAX);
    read_pool(size, system, "container_pool_size", most, slots_max)
}

fn read_pool(size: &mut usize, system: &Table<'_>, key: &str, most: usize, slots_max: usize) -> Result<(), ValueError> {
    *size = (*size).min(slots_max);
    set(size, system, key, |entry| match entry.integer(0..=most as u64)? {
        given if given > slots_max as u64 => Err(ValueError::Exceeds {
            path: entry.path().clone(),
            given,
            bound: "max_concurrent_functions",
            bound_value: slots_max as u64,
        }),
        given => Ok(given as usize),
    })
}

/// An interpreter: a path, or a bare name that is looked up in `PATH`.
fn read_program(entry: &Entry<'_>, base: &Path) -> Result<PathBuf, ValueError> {
    match entry.text() {
        Ok(name) if !name.is_empty() && !name.contains(['/', '\0', '~', '$']) => Ok(PathBuf::from(name)),
        _ => read_path(entry, base),
    }
}

fn read_runtimes(entry: &Entry<'_>, base: &Path) -> Result<BTreeMap<String, PathBuf>, ValueError> {
    let runtimes = entry.map()?;
    if runtimes.len() > limits::RUNTIMES_MAX {
        return Err(entry.not_allowed(&format!("at most {} runtimes", limits::RUNTIMES_MAX)));
    }
    let read = |(name, program): (&str, Entry<'_>)| match is_versioned_runtime(name) {
        true => Ok((name.to_owned(), read_program(&program, base)?)),
        false => Err(ValueError::NotAllowed {
            path: program.path().clone(),
            given: format!("the name {:?}", crate::values::cut(name)),
            allowed: format!("python3.N with N from 8 (the interpreter of {RUNTIME_DEFAULT} is system.python)"),
        }),
    };
    runtimes.into_iter().map(read).collect()
}

/// Puts the value of `key`, if given, into `place`.
fn set<'a, T>(
    place: &mut T,
    table: &Table<'a>,
    key: &str,
    read: impl FnOnce(Entry<'a>) -> Result<T, ValueError>,
) -> Result<(), ValueError> {
    if let Some(value) = table.read(key, read)? {
        *place = value;
    }
    Ok(())
}

/// Puts the count under `key`, 1 to `most`, into `place`.
fn set_count(place: &mut usize, table: &Table<'_>, key: &str, most: usize) -> Result<(), ValueError> {
    set(place, table, key, |entry| Ok(entry.integer(1..=most as u64)? as usize))
}
