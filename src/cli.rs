//! The command line: arguments to one [`Command`], and the help text.
//!
//! Owns the flags and their spelling. Does not act on them, except for `--create-config` ([`create_config`]); exit
//! codes are given by `main` (2 for a [`UsageError`]).

use std::ffi::OsString;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lexopt::{Arg, Parser};

use crate::config::{CONFIG_FILE_DEFAULT, SAMPLE};
use crate::values::{cut, nearest::nearest, parse_host};

pub use crate::backend::docker::HEIR_COMMAND;
pub use crate::config::CliOptions;

/// The first argument that makes this process the executor of a sandbox plan: for the server's own use.
pub const RUN_PLAN: &str = "__run-plan";

/// The flag with which a server takes over from the one that runs.
pub const TAKEOVER: &str = "--takeover";

const FLAGS: &[&str] = &[
    "--config",
    "--host",
    "--port",
    "--debug",
    TAKEOVER,
    "--check-system",
    "--verbose",
    "--create-config",
    "--help",
    "--version",
];

/// What `--help` prints.
pub const HELP: &str = "\
faas - turns this machine into a Lambda: Python functions in sandboxes, over HTTP

Usage: faas [OPTIONS] [CONFIG]

Arguments:
  [CONFIG]  The configuration file. Without one: the file that FAAS_CONFIG_FILE
            names, else ./faas_config.yaml if it is there, else the defaults

Options:
  -c, --config PATH           The same as CONFIG
      --host HOST             Listen on this address [default: 127.0.0.1]
      --port PORT             Listen on this port, 0 for any free one [default: 8000]
      --debug                 Log more: the same as logging_level DEBUG
      --takeover              Take the place of the server that runs on the same
                              state, without losing a request; without one, start
      --check-system          Print what this host offers and what to do about what
                              is missing, and exit: 1 if functions cannot run here
      --verbose               With --check-system: also the sandbox, step by step,
                              with its system calls
      --create-config [PATH]  Write a commented configuration file and exit; never
                              overwrites [default: ./faas_config.yaml]
  -h, --help                  Print this help and exit
  -V, --version               Print the version and exit

Environment (a flag wins over it, and it wins over the file):
  FAAS_CONFIG_FILE            The configuration file
  FAAS_DEFAULT_MODE           How functions run that do not say: process, container
  FAAS_API_PORT               Listen on this port
  FAAS_LOG_LEVEL              OFF, ERROR, WARN, INFO, DEBUG, TRACE
  FAAS_DISABLE_CONTAINER      1: never use containers
  DOCKER_HOST                 unix:///PATH: the socket of the container engine, if
                              the file names the engine and no socket

Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage, 70 a thread panicked or
hung, and the server should be started again

Try it:
  faas --create-config        Then read faas_config.yaml
  faas &
  curl http://localhost:8000/health
";

/// What `--version` prints.
pub const VERSION: &str = concat!("faas ", env!("CARGO_PKG_VERSION"));

/// Writes to standard output. That nobody reads it (`faas --help | head -1`) is no failure.
pub fn say(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Writes what the operator must know to standard error, if that takes it: why the program ends, or what it waits for.
pub fn complain(error: &dyn fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "faas: {error}");
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the server.
    Serve {
        /// The configuration to serve with.
        options: CliOptions,
        /// Take the place of the server that runs.
        takeover: bool,
    },
    /// Print what this host offers.
    CheckSystem {
        /// The configuration to look with.
        options: CliOptions,
        /// Print the sandbox too.
        verbose: bool,
    },
    /// Write the sample configuration to this path.
    CreateConfig(PathBuf),
    /// Print [`HELP`].
    Help,
    /// Print [`VERSION`].
    Version,
    /// Execute a sandbox plan: the server starts itself like this.
    RunPlan,
    /// End the containers of a server when it has died: the server starts itself like this.
    Inherit,
}

/// Why a command line makes no sense.
#[derive(Debug, PartialEq, Eq)]
pub enum UsageError {
    /// There is no such flag.
    UnknownFlag {
        /// As given, cut.
        given: String,
        /// The flag that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A flag lacks its value.
    MissingValue {
        /// Which flag.
        flag: &'static str,
        /// What its value is.
        expected: &'static str,
    },
    /// A flag's value is wrong.
    WrongValue {
        /// Which flag.
        flag: &'static str,
        /// As given, cut.
        given: String,
        /// What its value is.
        expected: &'static str,
    },
    /// A flag that takes no value was given one with `=`.
    UnexpectedValue {
        /// The flag.
        flag: String,
        /// As given, cut.
        given: String,
    },
    /// A flag makes sense with another one only.
    Without {
        /// The flag.
        flag: &'static str,
        /// The one that is missing.
        needs: &'static str,
    },
    /// Two flags ask for different things.
    NotWith {
        /// The flag.
        flag: &'static str,
        /// The other one.
        other: &'static str,
    },
    /// There is one argument too many.
    UnexpectedArgument {
        /// As given, cut.
        given: String,
    },
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFlag { given, nearest: Some(flag) } => {
                write!(f, "unknown flag {given}; did you mean {flag}?")
            }
            Self::UnknownFlag { given, nearest: None } => write!(f, "unknown flag {given}; see faas --help"),
            Self::MissingValue { flag, expected } => write!(f, "{flag} needs {expected}"),
            Self::WrongValue { flag, given, expected } => write!(f, "{flag}: got {given:?}; expected {expected}"),
            Self::UnexpectedValue { flag, given } => write!(f, "{flag} takes no value; got {given:?}"),
            Self::Without { flag, needs } => write!(f, "{flag} goes with {needs}"),
            Self::NotWith { flag, other } => write!(f, "{flag} does not go with {other}"),
            Self::UnexpectedArgument { given } => {
                write!(f, "unexpected argument {given:?}; one configuration file is enough")
            }
        }
    }
}

impl std::error::Error for UsageError {}

/// Reads the arguments, the program's name not among them. The last of several equal flags counts.
pub fn parse(args: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Command, UsageError> {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    if args.first().is_some_and(|first| first == RUN_PLAN) {
        return Ok(Command::RunPlan);
    }
    if args.first().is_some_and(|first| first == HEIR_COMMAND) {
        return Ok(Command::Inherit);
    }
    let mut parser = Parser::from_args(args);
    let mut options = CliOptions::default();
    let mut file = None;
    let mut check_system = false;
    let mut verbose = false;
    let mut takeover = false;
    let mut create_config = None;
    while let Some(arg) = parser.next().map_err(usage_error)? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help),
            Arg::Short('V') | Arg::Long("version") => return Ok(Command::Version),
            Arg::Short('c') | Arg::Long("config") => {
                options.config = Some(value(&mut parser, "--config", "the path of a file")?.into());
            }
            Arg::Long("host") => {
                const EXPECTED: &str = "an IP address or localhost";
                options.host = Some(parsed(&mut parser, "--host", EXPECTED, parse_host)?);
            }
            Arg::Long("port") => {
                const EXPECTED: &str = "a number from 0 to 65535";
                options.port = Some(parsed(&mut parser, "--port", EXPECTED, |text| text.parse().ok())?);
            }
            Arg::Long("debug") => options.debug = true,
            Arg::Long("takeover") => takeover = true,
            Arg::Long("check-system") => check_system = true,
            Arg::Long("verbose") => verbose = true,
            Arg::Long("create-config") => create_config = Some(optional_path(&mut parser)),
            Arg::Value(path) if file.is_none() => file = Some(PathBuf::from(path)),
            Arg::Value(extra) => return Err(UsageError::UnexpectedArgument { given: shown(&extra) }),
            Arg::Short(_) | Arg::Long(_) => return Err(usage_error(arg.unexpected())),
        }
    }
    if verbose && !check_system {
        return Err(UsageError::Without { flag: "--verbose", needs: "--check-system" });
    }
    if takeover && (check_system || create_config.is_some()) {
        return Err(UsageError::NotWith {
            flag: TAKEOVER,
            other: if check_system { "--check-system" } else { "--create-config" },
        });
    }
    match (file, &options.config, create_config) {
        (Some(extra), Some(_), _) | (Some(extra), None, Some(_)) => {
            Err(UsageError::UnexpectedArgument { given: shown(extra.as_os_str()) })
        }
        (None, _, Some(path)) => Ok(Command::CreateConfig(path)),
        (file, _, None) => {
            options.config = file.or(options.config);
            Ok(if check_system {
                Command::CheckSystem { options, verbose }
            } else {
                Command::Serve { options, takeover }
            })
        }
    }
}

/// Why the sample was not written.
#[derive(Debug)]
pub enum CreateConfigError {
    /// There is something of that name already; it was not touched.
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// The file cannot be written.
    Unwritable {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for CreateConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists { path } => write!(f, "{} exists; it is left as it is", path.display()),
            Self::Unwritable { path, source } => write!(f, "cannot write {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for CreateConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Exists { .. } => None,
            Self::Unwritable { source, .. } => Some(source),
        }
    }
}

/// Writes the commented sample to a new file.
pub fn create_config(path: &Path) -> Result<(), CreateConfigError> {
    // `create_new` is O_EXCL: neither a file nor a dangling link that appears meanwhile is followed or overwritten.
    let written = OpenOptions::new().write(true).create_new(true).open(path).and_then(|mut file| {
        // A half-written sample would load as something else than it says.
        file.write_all(SAMPLE.as_bytes()).inspect_err(|_| drop(std::fs::remove_file(path)))
    });
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CreateConfigError::Exists { path: path.to_path_buf() },
        _ => CreateConfigError::Unwritable { path: path.to_path_buf(), source },
    })
}

fn value(parser: &mut Parser, flag: &'static str, expected: &'static str) -> Result<OsString, UsageError> {
    parser.value().map_err(|_| UsageError::MissingValue { flag, expected })
}

fn parsed<T>(
    parser: &mut Parser,
    flag: &'static str,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, UsageError> {
    let given = value(parser, flag, expected)?;
    let wrong = || UsageError::WrongValue { flag, given: shown(&given), expected };
    given.to_str().and_then(parse).ok_or_else(wrong)
}

/// The value of `--create-config`: after `=`, or the next argument unless that is a flag.
fn optional_path(parser: &mut Parser) -> PathBuf {
    let is_path = |next: &std::ffi::OsStr| !next.as_encoded_bytes().starts_with(b"-");
    let attached = parser.optional_value();
    let path = attached.or_else(|| parser.try_raw_args()?.next_if(is_path));
    path.map_or_else(|| Path::new(".").join(CONFIG_FILE_DEFAULT), PathBuf::from)
}

fn usage_error(error: lexopt::Error) -> UsageError {
    match error {
        lexopt::Error::UnexpectedOption(given) => {
            UsageError::UnknownFlag { nearest: nearest(&given, FLAGS), given: cut(&given) }
        }
        lexopt::Error::UnexpectedValue { option, value } => {
            UsageError::UnexpectedValue { flag: option, given: shown(&value) }
        }
        // What remains of lexopt's errors comes from reading values, which is done here.
        other => UsageError::UnexpectedArgument { given: cut(&other.to_string()) },
    }
}

fn shown(given: &std::ffi::OsStr) -> String {
    cut(&given.to_string_lossy())
}

#[cfg(test)]
mod tests;
