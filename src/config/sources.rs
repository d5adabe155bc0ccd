//! Where a configuration comes from, to be read at the start and again at every reload.

use super::{load, CliOptions, ConfigError, Settings};

/// A variable of this process. One that is not UTF-8 cannot be any value that is allowed, so it is treated as one that is
/// wrong.
pub fn environment(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// The flags of this process and its environment, which are the same for as long as it lives, and the file that they
/// led to.
#[derive(Debug, Clone)]
pub struct Sources {
    options: CliOptions,
}

impl Sources {
    /// These flags, over the environment of this process.
    pub fn new(options: CliOptions) -> Self {
        Self { options }
    }

    /// Reads the configuration as it is now.
    ///
    /// A file that was found without being named is named from then on: were it missing at a reload, the defaults would
    /// not be what its author means.
    ///
    /// # Errors
    /// Why there is none.
    pub fn load(&mut self) -> Result<Settings, ConfigError> {
        let settings = load(&self.options, &environment)?;
        if settings.config_file.is_some() {
            self.options.config.clone_from(&settings.config_file);
        }
        Ok(settings)
    }
}
