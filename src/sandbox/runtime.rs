//! Finding the Python that functions run on, and what of the host it needs.
//!
//! Owns: the search for `python3` and `python3.N`, the questions put to a candidate, and the refusal of those that
//! cannot work. Does not own which files are then shown (`tree`). A candidate is run once or twice, with a deadline:
//! what it says is taken for true, since the server's operator chose it, but it is never trusted to end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::tree::{self, HostFile, HostFiles};
use crate::limits::{RUNTIME_PROBE_BYTES_MAX, RUNTIME_PROBE_TIMEOUT};
use crate::sys::io::{read_until, wait_readable};
use crate::sys::process::pidfd_open;

/// The oldest Python that the shim runs on.
pub const PYTHON_MIN: (u16, u16) = (3, 8);
/// Names that a wrapper may lead through before the executable itself must be reached.
const HOPS_MAX: usize = 3;

/// A Python that functions can run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// The executable itself: no link, no wrapper script, no virtual environment.
    pub executable: PathBuf,
    /// Major, minor, micro.
    pub version: (u16, u16, u16),
    /// Directories of the standard library and of the shared libraries it loads, sorted, so that a directory comes
    /// before those inside it.
    pub directories: BTreeSet<PathBuf>,
    /// Directories of packages that the host's owner installed. Functions must not see them.
    pub hidden: BTreeSet<PathBuf>,
}

/// Why a runtime cannot be used.
#[derive(Debug)]
pub enum RuntimeError {
    /// The name is neither `python3` nor `python3.N`.
    UnknownName {
        /// The name.
        runtime: String,
    },
    /// No candidate exists.
    NotFound {
        /// The name that was looked for.
        name: String,
    },
    /// A candidate could not be run.
    CannotRun {
        /// The candidate.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A candidate did not say in time what it is.
    TooSlow {
        /// The candidate.
        path: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// A candidate ran and failed.
    Failed {
        /// The candidate.
        path: PathBuf,
        /// The last line that it wrote to its standard error.
        complaint: String,
    },
    /// A candidate printed something that is not the expected answer.
    BadAnswer {
        /// The candidate.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A wrapper that leads to a wrapper that leads to a wrapper.
    NeverItself {
        /// The candidate.
        path: PathBuf,
    },
    /// A Python older than [`PYTHON_MIN`].
    TooOld {
        /// The candidate.
        path: PathBuf,
        /// Its version.
        version: (u16, u16, u16),
    },
    /// A build without a global lock, whose binary interface is another.
    FreeThreaded {
        /// The candidate.
        path: PathBuf,
    },
    /// The candidate for `python3.N` is another version.
    WrongVersion {
        /// The candidate.
        path: PathBuf,
        /// What was asked for.
        runtime: String,
        /// What it is.
        version: (u16, u16, u16),
    },
}

impl fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownName { runtime } => write!(f, "runtime {runtime:?} is not known: use python3 or python3.N"),
            Self::NotFound { name } => {
                write!(f, "no {name} in PATH, /usr/bin or /usr/local/bin: install it or name it in the configuration")
            }
            Self::CannotRun { path, source } => write!(f, "cannot run {}: {source}", path.display()),
            Self::TooSlow { path, limit } => {
                write!(f, "{} did not answer within {} s", path.display(), limit.as_secs())
            }
            Self::Failed { path, complaint } => write!(f, "{} failed: {complaint}", path.display()),
            Self::BadAnswer { path, source } => {
                write!(f, "{} does not answer as a Python does: {source}", path.display())
            }
            Self::NeverItself { path } => write!(f, "{} leads from wrapper to wrapper", path.display()),
            Self::TooOld { path, version: (major, minor, micro) } => {
                let (min_major, min_minor) = PYTHON_MIN;
                let path = path.display();
                write!(f, "{path} is Python {major}.{minor}.{micro}: {min_major}.{min_minor} or newer is needed")
            }
            Self::FreeThreaded { path } => {
                write!(f, "{} is a free-threaded build: use one with the global interpreter lock", path.display())
            }
            Self::WrongVersion { path, runtime, version: (major, minor, micro) } => {
                write!(f, "{} is Python {major}.{minor}.{micro} and not {runtime}", path.display())
            }
        }
    }
}

impl std::error::Error for RuntimeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::CannotRun { source, .. } => Some(source),
            Self::BadAnswer { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Finds the interpreter for `runtime`: the path that `configured` has for it, else the first that works of those in
/// PATH, /usr/bin and /usr/local/bin with the bare name that `configured` has for it, else with the runtime's own.
///
/// # Errors
/// That of the configured one, else of the first candidate that exists, since a wrapper further down the PATH says
/// less than the one that the user means.
pub fn find(runtime: &str, configured: &BTreeMap<String, PathBuf>) -> Result<Interpreter, RuntimeError> {
    let minor = parse_name(runtime)?;
    let checked = |path: &Path| {
        let found = probe(path, RUNTIME_PROBE_TIMEOUT)?;
        match minor {
            Some(minor) if minor != found.version.1 => Err(RuntimeError::WrongVersion {
                path: path.to_owned(),
                runtime: runtime.to_owned(),
                version: found.version,
            }),
            _ => Ok(found),
        }
    };
    let name = match configured.get(runtime).map(|path| (path, path.to_str())) {
        Some((_, Some(name))) if !name.contains('/') => name,
        Some((path, _)) => return checked(path),
        None => runtime,
    };
    let mut first_error = None;
    for candidate in candidates(name).into_iter().filter(|candidate| candidate.is_file()) {
        match checked(&candidate) {
            Ok(found) => return Ok(found),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| RuntimeError::NotFound { name: name.to_owned() }))
}

/// `python3` has no minor version, `python3.N` has N; there are no others.
fn parse_name(runtime: &str) -> Result<Option<u16>, RuntimeError> {
    let unknown = || RuntimeError::UnknownName { runtime: runtime.to_owned() };
    match runtime.strip_prefix("python3").ok_or_else(unknown)? {
        "" => Ok(None),
        rest => {
            let digits = rest.strip_prefix('.').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            digits.and_then(|digits| digits.parse().ok()).map(Some).ok_or_else(unknown)
        }
    }
}

fn candidates(runtime: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/bin".into(), "/usr/local/bin".into()]);
    let mut found: Vec<PathBuf> = Vec::new();
    for candidate in directories.filter(|directory| directory.is_absolute()).map(|directory| directory.join(runtime)) {
        if !found.contains(&candidate) {
            found.push(candidate);
        }
    }
    found
}

/// Asks the interpreter at `candidate` what it is, and follows it through wrappers and virtual environments.
///
/// # Errors
/// When it cannot be run, does not answer in `timeout`, or is not a Python that the shim and the native module work on.
pub fn probe(candidate: &Path, timeout: Duration) -> Result<Interpreter, RuntimeError> {
    let mut path = candidate.to_owned();
    for _ in 0..HOPS_MAX {
        let answer = ask(&path, timeout)?;
        let [major, minor, micro] = answer.version;
        if (major, minor) < PYTHON_MIN {
            return Err(RuntimeError::TooOld { path, version: (major, minor, micro) });
        }
        if answer.free_threaded {
            return Err(RuntimeError::FreeThreaded { path });
        }
        // Only the executable's own answer counts: started under another name it would find another library.
        if answer.executable == path {
            return Ok(answer.into_interpreter());
        }
        path = answer.executable;
    }
    Err(RuntimeError::NeverItself { path: candidate.to_owned() })
}

/// What the interpreter is asked. It loads the extension modules with foreign libraries first, so that the list of
/// what is mapped into its memory names those too. The syntax is one that any Python 3, and 2.7, understands.
const QUESTION: &str = r#"
import json, os, sys, sysconfig
for name in ("ssl", "hashlib", "zlib", "bz2", "lzma", "sqlite3", "ctypes", "_decimal", "pyexpat", "_uuid"):
    try:
        __import__(name)
    except Exception:
        pass
try:
    with open("/proc/self/maps") as maps:
        mapped = set(line.split(None, 5)[5].strip() for line in maps if ".so" in line)
except Exception:
    mapped = set()
paths = sysconfig.get_paths()
print(json.dumps({
    "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "version": list(sys.version_info[:3]),
    "libraries": sorted(path for path in mapped if path.startswith("/") and os.path.isfile(path)),
    "standard": [os.path.realpath(paths["stdlib"]), os.path.realpath(paths["platstdlib"])],
    "packages": [os.path.realpath(paths["purelib"]), os.path.realpath(paths["platlib"])],
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
}))
"#;

#[derive(Debug, Deserialize)]
struct Answer {
    executable: PathBuf,
    version: [u16; 3],
    libraries: Vec<PathBuf>,
    standard: Vec<PathBuf>,
    packages: Vec<PathBuf>,
    free_threaded: bool,
}

impl Answer {
    fn into_interpreter(self) -> Interpreter {
        let [major, minor, micro] = self.version;
        let of_libraries = self.libraries.iter().filter_map(|path| path.parent()).map(Path::to_owned);
        let beside = self.standard.iter().flat_map(|standard| {
            let neutral = standard.with_file_name("python3");
            ["site-packages", "dist-packages"].map(|name| [standard.join(name), neutral.join(name)]).concat()
        });
        let hidden = beside.chain(self.packages.iter().cloned()).collect();
        let directories = of_libraries.chain(self.standard.iter().cloned()).collect();
        Interpreter { executable: self.executable, version: (major, minor, micro), directories, hidden }
    }
}

fn ask(path: &Path, timeout: Duration) -> Result<Answer, RuntimeError> {
    let cannot_run = |source| RuntimeError::CannotRun { path: path.to_owned(), source };
    let mut command = Command::new(path);
    command.args(["-I", "-S", "-B", "-c", QUESTION]);
    // The rest of the environment stays: wrappers of version managers need it. These two would let the interpreter
    // find libraries that the zygote, which has an empty environment, will not.
    command.env_remove("LD_LIBRARY_PATH").env_remove("LD_PRELOAD");
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(cannot_run)?;
    let heard = listen(&mut child, Instant::now() + timeout);
    if heard.is_err() {
        child.kill().map_err(cannot_run)?;
    }
    let status = child.wait().map_err(cannot_run)?;
    match heard {
        Ok((answer, _)) if status.success() => {
            serde_json::from_slice(&answer).map_err(|source| RuntimeError::BadAnswer { path: path.to_owned(), source })
        }
        Ok((_, complaint)) => {
            let text = String::from_utf8_lossy(&complaint);
            let last = text.lines().rev().find(|line| !line.trim().is_empty()).map(str::trim);
            let complaint = last.map_or_else(|| status.to_string(), str::to_owned);
            Err(RuntimeError::Failed { path: path.to_owned(), complaint })
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(RuntimeError::TooSlow { path: path.to_owned(), limit: timeout })
        }
        Err(error) => Err(cannot_run(error)),
    }
}

/// What the child writes to its standard output and error until it ends, which it must do by the deadline. Closing
/// both is not the end: only the pidfd tells.
fn listen(child: &mut Child, deadline: Instant) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let pidfd = pidfd_open(child.id())?;
    let answer =
        child.stdout.take().map_or(Ok(Vec::new()), |pipe| read_until(&pipe, RUNTIME_PROBE_BYTES_MAX, deadline))?;
    let complaint =
        child.stderr.take().map_or(Ok(Vec::new()), |pipe| read_until(&pipe, RUNTIME_PROBE_BYTES_MAX, deadline))?;
    wait_readable(&pidfd, deadline)?;
    Ok((answer, complaint))
}

/// What this host has of the files that the tree may show. What cannot be looked at is taken for absent.
pub fn host_files(interpreter: &Interpreter) -> HostFiles {
    let kind = |path: &PathBuf| {
        let metadata = std::fs::symlink_metadata(path).ok()?;
        if metadata.is_symlink() {
            return std::fs::read_link(path).ok().map(HostFile::Link);
        }
        Some(if metadata.is_dir() { HostFile::Directory } else { HostFile::File })
    };
    tree::looked_at(interpreter).into_iter().filter_map(|path| kind(&path).map(|kind| (path, kind))).collect()
}

#[cfg(test)]
mod tests;
