//! `system.container_runtime`: which engine runs containers, and on which socket it is spoken to.
//!
//! An engine is spoken to over a Unix socket only. Over any other way it could be another machine's, and containers are
//! given directories and descriptors of this one.

use std::fmt;
use std::path::{Path, PathBuf};

use super::system::read_path;
use super::Settings;
use crate::limits;
use crate::values::{cut, Entry, ValueError};

/// What runs containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerRuntime {
    /// Docker, on the socket that `DOCKER_HOST` names, or else the usual one.
    Docker,
    /// Podman, which speaks Docker's language: likewise.
    Podman,
    /// The engine that listens on this socket, whichever it is.
    Socket(PathBuf),
    /// Nothing: a function that asks for a container is refused.
    Disabled,
}

/// The scheme of a socket's address.
const UNIX: &str = "unix://";

/// Where Docker listens, and Podman when root's.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";
const PODMAN_SOCKET: &str = "/run/podman/podman.sock";

/// The same for another user, below `XDG_RUNTIME_DIR`.
const PODMAN_USER_SOCKET: &str = "podman/podman.sock";

const VARIABLE: &str = "DOCKER_HOST";

/// Why no engine can be spoken to: the environment names none that could be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineSocketError {
    /// `DOCKER_HOST` names an engine that is not on a Unix socket.
    Scheme {
        /// `tcp`, `ssh` and so on, cut.
        scheme: String,
    },
    /// `DOCKER_HOST` is no address.
    Address {
        /// What it says, cut.
        given: String,
    },
    /// `DOCKER_HOST` or `XDG_RUNTIME_DIR` leads to a path that no socket can have.
    Path {
        /// The path, cut.
        given: String,
    },
    /// Podman of a user who has no directory for sockets.
    NoRuntimeDirectory,
}

impl fmt::Display for EngineSocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme { scheme } => write!(
                f,
                "environment variable {VARIABLE}: an engine is spoken to over a Unix socket only, and not over \
                 {scheme}; unset it, give {UNIX}/PATH, or name the socket in system.container_runtime"
            ),
            Self::Address { given } => write!(
                f,
                "environment variable {VARIABLE}: got {given:?}; expected {UNIX} and the absolute path of a socket"
            ),
            Self::Path { given } => write!(
                f,
                "the container engine's socket: got {given:?}; expected an absolute path of at most {} bytes",
                limits::SOCKET_PATH_BYTES_MAX
            ),
            Self::NoRuntimeDirectory => write!(
                f,
                "no socket of Podman's is known for this user: neither {VARIABLE} nor XDG_RUNTIME_DIR is set; name the \
                 socket in system.container_runtime"
            ),
        }
    }
}

impl std::error::Error for EngineSocketError {}

/// The socket of the engine that runs containers; `None` when containers are disabled. Whether anybody listens there is
/// another question.
///
/// A socket that the configuration names is that one. Otherwise `DOCKER_HOST` counts, as it does for Docker's and
/// Podman's own programs. `is_root` is whether this process is root's.
///
/// # Errors
/// When the environment names an engine that cannot be spoken to. It may do so for other programs' sake: so this ends
/// container mode, and not the server.
pub fn engine_socket(
    settings: &Settings,
    is_root: bool,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<PathBuf>, EngineSocketError> {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let usual = match &settings.container_runtime {
        ContainerRuntime::Disabled => return Ok(None),
        ContainerRuntime::Socket(path) => return Ok(Some(path.clone())),
        _ if env(VARIABLE).is_some() => return socket_of_address(&env(VARIABLE).unwrap_or_default()).map(Some),
        ContainerRuntime::Docker => PathBuf::from(DOCKER_SOCKET),
        ContainerRuntime::Podman if is_root => PathBuf::from(PODMAN_SOCKET),
        ContainerRuntime::Podman => {
            let directory = env("XDG_RUNTIME_DIR").ok_or(EngineSocketError::NoRuntimeDirectory)?;
            Path::new(&directory).join(PODMAN_USER_SOCKET)
        }
    };
    check(usual).map(Some)
}

fn socket_of_address(address: &str) -> Result<PathBuf, EngineSocketError> {
    match address.split_once("://") {
        Some(("unix", path)) => check(PathBuf::from(path)),
        // What is behind it may be a name and a password.
        Some((scheme, _)) => Err(EngineSocketError::Scheme { scheme: cut(scheme) }),
        None => Err(EngineSocketError::Address { given: cut(address) }),
    }
}

fn check(path: PathBuf) -> Result<PathBuf, EngineSocketError> {
    let fits = path.as_os_str().len() <= limits::SOCKET_PATH_BYTES_MAX && path.is_absolute();
    if fits && !path.as_os_str().as_encoded_bytes().contains(&0) {
        Ok(path)
    } else {
        Err(EngineSocketError::Path { given: cut(&path.to_string_lossy()) })
    }
}

/// An engine by its name, or by its socket; a relative path starts from `base`.
pub(super) fn read_container_runtime(entry: &Entry<'_>, base: &Path) -> Result<ContainerRuntime, ValueError> {
    let allowed = format!(
        "docker, podman, none, or the path of an engine's socket, of at most {} bytes",
        limits::SOCKET_PATH_BYTES_MAX
    );
    let text = entry.text_where(&allowed, |_| true)?;
    let names = [
        ("docker", ContainerRuntime::Docker),
        ("podman", ContainerRuntime::Podman),
        ("none", ContainerRuntime::Disabled),
    ];
    if let Some((_, runtime)) = names.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
        return Ok(runtime);
    }
    let is_path = |path: &str| path.contains('/') && !path.contains("://") && !path.ends_with('/');
    let path = text.strip_prefix(UNIX).filter(|path| path.starts_with('/')).unwrap_or(text);
    let path = if is_path(path) { read_path(&Entry::new(entry.path().clone(), &path.into()), base).ok() } else { None };
    let path = path.filter(|path| path.as_os_str().len() <= limits::SOCKET_PATH_BYTES_MAX);
    path.map(ContainerRuntime::Socket).ok_or_else(|| entry.not_allowed(&allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(
        runtime: ContainerRuntime,
        is_root: bool,
        variables: &[(&str, &str)],
    ) -> Result<Option<PathBuf>, EngineSocketError> {
        let settings = Settings { container_runtime: runtime, ..Settings::builtin("/state".into()) };
        let env = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        engine_socket(&settings, is_root, &env)
    }

    fn found(runtime: ContainerRuntime, is_root: bool, variables: &[(&str, &str)]) -> String {
        socket(runtime, is_root, variables).unwrap().unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn each_engine_has_its_usual_socket() {
        use ContainerRuntime::{Disabled, Docker, Podman, Socket};
        let user = [("XDG_RUNTIME_DIR", "/run/user/1000"), (VARIABLE, "")];
        for is_root in [true, false] {
            assert_eq!(found(Docker, is_root, &user), "/var/run/docker.sock");
            assert_eq!(found(Socket("/run/e.sock".into()), is_root, &user), "/run/e.sock");
            assert_eq!(socket(Disabled, is_root, &user), Ok(None));
        }
        assert_eq!(found(Podman, true, &user), "/run/podman/podman.sock");
        assert_eq!(found(Podman, false, &user), "/run/user/1000/podman/podman.sock");
        assert_eq!(socket(Podman, false, &[]), Err(EngineSocketError::NoRuntimeDirectory));
    }

    #[test]
    fn docker_host_counts_unless_the_configuration_names_a_socket() {
        use ContainerRuntime::{Disabled, Docker, Podman, Socket};
        let env = [(VARIABLE, "unix:///srv/engine.sock")];
        assert_eq!(found(Docker, true, &env), "/srv/engine.sock");
        assert_eq!(found(Podman, false, &env), "/srv/engine.sock");
        assert_eq!(found(Socket("/run/e.sock".into()), true, &env), "/run/e.sock");
        assert_eq!(socket(Disabled, true, &env), Ok(None));
        // Nor is it looked at then, whatever it says.
        assert_eq!(socket(Disabled, true, &[(VARIABLE, "tcp://x")]), Ok(None));
        assert_eq!(found(Socket("/e".into()), true, &[(VARIABLE, "tcp://x")]), "/e");
    }

    #[test]
    fn an_engine_that_is_on_no_unix_socket_is_refused_with_words_and_without_its_secrets() {
        let refused =
            |value: &str| socket(ContainerRuntime::Docker, true, &[(VARIABLE, value)]).unwrap_err().to_string();
        for scheme in ["tcp", "http", "https", "ssh", "npipe", "fd", "UNIX"] {
            let text = refused(&format!("{scheme}://me:hunter2@host:2375"));
            assert!(
                text.starts_with("environment variable DOCKER_HOST: an engine is spoken to over a Unix socket only")
            );
            assert!(text.contains(&format!("not over {scheme};")) && !text.contains("hunter2"), "{text}");
        }
        for address in ["/var/run/docker.sock", "docker", "unix:/x"] {
            assert!(refused(address).contains("expected unix:// and the absolute path"), "{address}");
        }
        for path in ["", "relative.sock", &"/x".repeat(54)] {
            let text = refused(&format!("unix://{path}"));
            assert!(text.contains("an absolute path of at most 107 bytes"), "{path}: {text}");
        }
    }
}
