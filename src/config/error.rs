//! Why the server has no configuration to start with, or to go on with, in one line for the one who wrote it.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::limits;
use crate::values::ValueError;

/// Why a configuration was not taken.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is larger than [`limits::CONFIG_FILE_BYTES_MAX`].
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// The file is not YAML, or not in UTF-8.
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: Option<usize>,
        /// The parser's words.
        message: String,
    },
    /// A key or value of the file cannot be taken.
    Value {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: Option<usize>,
        /// Which key and why.
        error: ValueError,
    },
    /// A function's `source` cannot be read.
    Source {
        /// Which file names it.
        path: PathBuf,
        /// Counted from 1.
        line: Option<usize>,
        /// The function.
        function: String,
        /// The file it names.
        source_path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An environment variable cannot be taken. Its name is the key.
    Environment(ValueError),
    /// Nothing says where the state is to be kept.
    NoStateDirectory,
    /// The address is open to others while the well-known keys are valid.
    WellKnownKeysExposed {
        /// The address.
        host: IpAddr,
    },
    /// Functions are to run in containers by default, and containers are disabled.
    DefaultModeDisabled,
}

impl ConfigError {
    /// The file at fault, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Unreadable { path, .. }
            | Self::TooLarge { path }
            | Self::Syntax { path, .. }
            | Self::Value { path, .. }
            | Self::Source { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The line at fault, counted from 1, if it is known.
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Syntax { line, .. } | Self::Value { line, .. } | Self::Source { line, .. } => *line,
            _ => None,
        }
    }

    /// The key at fault, or the environment variable, if it is one.
    pub fn key(&self) -> Option<String> {
        match self {
            Self::Value { error, .. } | Self::Environment(error) => Some(error.path().to_string()),
            Self::Source { function, .. } => Some(format!("functions.{function}.source")),
            Self::WellKnownKeysExposed { .. } => Some("system.well_known_keys".to_owned()),
            Self::DefaultModeDisabled => Some("system.default_mode".to_owned()),
            _ => None,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, source } => {
                write!(f, "cannot read {}: {source}", path.display())?;
                if source.kind() == std::io::ErrorKind::NotFound {
                    write!(f, "; faas --create-config PATH writes a file to begin with")?;
                }
                Ok(())
            }
            Self::TooLarge { path } => {
                write!(f, "{}: larger than {} bytes", path.display(), limits::CONFIG_FILE_BYTES_MAX)
            }
            Self::Syntax { path, line, message } => {
                write_place(f, path, *line)?;
                write!(f, "not valid YAML: {message}")
            }
            Self::Value { path, line, error } => {
                write_place(f, path, *line)?;
                write!(f, "{error}")
            }
            Self::Source { path, line, function, source_path, source } => {
                write_place(f, path, *line)?;
                write!(f, "functions.{function}.source: cannot read {}: {source}", source_path.display())
            }
            Self::Environment(error) => write!(f, "environment variable {error}"),
            Self::NoStateDirectory => f.write_str(
                "no place to keep functions: neither XDG_STATE_HOME nor HOME is an absolute path; \
                 set system.function_storage_path",
            ),
            Self::WellKnownKeysExposed { host } => write!(
                f,
                "{host} (system.host or --host) can be reached from other machines, and the well-known keys demo-key \
                 and admin-key are enabled; make a key of your own with `openssl rand -hex 32`, give its SHA-256 (`printf \
                 %s KEY | sha256sum`) as key_sha256 under system.api_keys and set system.well_known_keys: false; or, \
                 to let anyone in, set system.allow_well_known_keys_anywhere: true"
            ),
            Self::DefaultModeDisabled => f.write_str(
                "system.default_mode: container, but containers are disabled by FAAS_DISABLE_CONTAINER or \
                 system.container_runtime: none",
            ),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } | Self::Source { source, .. } => Some(source),
            Self::Value { error, .. } | Self::Environment(error) => Some(error),
            Self::TooLarge { .. }
            | Self::Syntax { .. }
            | Self::NoStateDirectory
            | Self::WellKnownKeysExposed { .. }
            | Self::DefaultModeDisabled => None,
        }
    }
}

/// `faas_config.yaml:12: `
fn write_place(f: &mut fmt::Formatter<'_>, path: &Path, line: Option<usize>) -> fmt::Result {
    write!(f, "{}:", path.display())?;
    if let Some(line) = line {
        write!(f, "{line}:")?;
    }
    f.write_str(" ")
}
