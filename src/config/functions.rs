//! `functions:` of the file: what is deployed at start, and the defaults of functions that are posted later.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::system::read_path;
use crate::limits;
use crate::registry::function::ExecutionMode;
use crate::registry::settings::{check_name, FunctionSettings};
use crate::values::{Entry, KeyPath, ValueError};

/// Keys of one function: its settings, and where its code is.
pub(super) const FUNCTION_KEYS: &[&str] = &[
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
    "code",
    "source",
];

/// A function that the configuration file declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredFunction {
    /// Its name, valid.
    pub name: String,
    /// What the file says of it.
    pub settings: FunctionSettings,
    /// Its source text. Without it the settings are the defaults of a function posted later under this name.
    pub code: Option<String>,
}

/// Why a declared function was not taken.
pub(super) enum DeclarationError {
    /// A key or value.
    Value(ValueError),
    /// The file that `source` names.
    Source { key: KeyPath, function: String, source_path: PathBuf, source: io::Error },
}

impl From<ValueError> for DeclarationError {
    fn from(error: ValueError) -> Self {
        Self::Value(error)
    }
}

/// Reads the map of functions, in the order of their names. `base` is the directory that relative paths start from.
pub(super) fn read_functions(
    entry: Option<Entry<'_>>,
    base: &Path,
    default_mode: ExecutionMode,
) -> Result<Vec<DeclaredFunction>, DeclarationError> {
    let Some(entry) = entry else { return Ok(Vec::new()) };
    let functions = entry.map()?;
    if functions.len() > limits::FUNCTIONS_MAX {
        return Err(entry.not_allowed(&format!("at most {} functions", limits::FUNCTIONS_MAX)).into());
    }
    functions.into_iter().map(|(name, function)| read_function(name, &function, base, default_mode)).collect()
}

fn read_function(
    name: &str,
    entry: &Entry<'_>,
    base: &Path,
    default_mode: ExecutionMode,
) -> Result<DeclaredFunction, DeclarationError> {
    check_name(&Entry::new(entry.path().clone(), &serde_json::Value::from(name)))?;
    let table = entry.table(FUNCTION_KEYS)?;
    let settings = FunctionSettings::from_table(&table)?;
    settings.resolve(default_mode).map_err(|error| error.within(table.path()))?;
    let code = match (table.get("code"), table.get("source")) {
        (Some(code), Some(_)) => {
            return Err(ValueError::Both { path: code.path().clone(), other: "source" }.into());
        }
        (Some(code), None) => Some(read_code(&code)?),
        (None, Some(source)) => {
            let source_path = read_path(&source, base)?;
            let text = read_source(&source_path).map_err(|error| DeclarationError::Source {
                key: source.path().clone(),
                function: name.to_owned(),
                source_path,
                source: error,
            })?;
            Some(text)
        }
        (None, None) => None,
    };
    Ok(DeclaredFunction { name: name.to_owned(), settings, code })
}

fn read_code(entry: &Entry<'_>) -> Result<String, ValueError> {
    let allowed = format!("Python source of 1 to {} bytes", limits::FUNCTION_CODE_BYTES_MAX);
    let text =
        entry.text_where(&allowed, |code| !code.trim().is_empty() && code.len() <= limits::FUNCTION_CODE_BYTES_MAX)?;
    Ok(text.to_owned())
}

fn read_source(path: &Path) -> io::Result<String> {
    let bytes = read_bounded(path, limits::FUNCTION_CODE_BYTES_MAX)?;
    let Some(bytes) = bytes else {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {} bytes", limits::FUNCTION_CODE_BYTES_MAX),
        ));
    };
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}

/// The file's bytes, or nothing if they are more than `bytes_max`.
pub(super) fn read_bounded(path: &Path, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= bytes_max).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::settings::SETTING_KEYS;

    #[test]
    fn a_function_has_its_settings_and_its_code() {
        let expected: Vec<&str> = SETTING_KEYS.iter().copied().chain(["code", "source"]).collect();
        assert_eq!(FUNCTION_KEYS, expected);
    }
}
