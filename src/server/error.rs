//! Why the server cannot start.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::backend::process::runtimes::RuntimeError;
use crate::config::IsolationLevel;
use crate::sandbox::host::Missing;
use crate::server_log;
use crate::takeover::TakeoverError;

/// Why the server cannot start. The text is for the operator: it says what to do.
#[derive(Debug)]
pub enum StartError {
    /// The state directory cannot be used.
    Store(crate::registry::store::StoreError),
    /// The cgroups cannot be prepared.
    Cgroups(crate::sandbox::cgroup::CgroupError),
    /// The isolation level asks for layers that this host does not give.
    Isolation {
        /// The level.
        level: IsolationLevel,
        /// What is missing, each with its mend.
        missing: Vec<Missing>,
    },
    /// The default interpreter cannot be used.
    Runtime(RuntimeError),
    /// Two API keys are the same.
    Keys(crate::auth::KeyRingError),
    /// The function logs cannot be kept.
    Logs(crate::logs::LogsError),
    /// The server's own log cannot be written.
    ServerLog(server_log::LoggerError),
    /// The address cannot be bound.
    Bind {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The place of the server that runs cannot be taken.
    Takeover(TakeoverError),
    /// A thread, a descriptor or a directory cannot be had.
    System {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Store(error) => error.fmt(f),
            StartError::Cgroups(error) => error.fmt(f),
            StartError::Isolation { level, missing } => {
                write!(f, "this host lacks what process_isolation_level {level} asks for:")?;
                for missing in missing {
                    write!(f, "\n  {missing}")?;
                }
                if *level == IsolationLevel::Strict && missing.iter().all(|missing| !missing.essential) {
                    write!(f, "\nmend that, or set system.process_isolation_level: standard to run without")?;
                }
                Ok(())
            }
            StartError::Runtime(error) => write!(f, "{error}; system.python names another interpreter"),
            StartError::Keys(error) => error.fmt(f),
            StartError::Logs(error) => error.fmt(f),
            StartError::ServerLog(error) => error.fmt(f),
            StartError::Takeover(error) => error.fmt(f),
            StartError::Bind { address, source } => {
                write!(f, "cannot listen on {address}: {source}")?;
                match source.kind() {
                    io::ErrorKind::AddrInUse => f.write_str("; --port or system.api_gateway_port takes another"),
                    io::ErrorKind::AddrNotAvailable => {
                        write!(
                            f,
                            "; no interface of this host has {}: --host or system.host takes another",
                            address.ip()
                        )
                    }
                    io::ErrorKind::PermissionDenied => {
                        f.write_str("; --port or system.api_gateway_port takes one that needs no privilege")
                    }
                    _ => Ok(()),
                }
            }
            StartError::System { action, source } => write!(f, "cannot {action}: {source}"),
        }
    }
}

impl std::error::Error for StartError {}

/// What a system call's error becomes. `action` is a verb phrase.
pub(super) fn system(action: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::System { action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_listened_on_is_told_with_the_setting_that_mends_it() {
        let address: SocketAddr = ([203, 0, 113, 9], 80).into();
        let said = |errno| StartError::Bind { address, source: io::Error::from_raw_os_error(errno) }.to_string();
        for (errno, mend) in [
            (nix::libc::EADDRINUSE, "--port or system.api_gateway_port takes another"),
            (
                nix::libc::EADDRNOTAVAIL,
                "no interface of this host has 203.0.113.9: --host or system.host takes another",
            ),
            (nix::libc::EACCES, "--port or system.api_gateway_port takes one that needs no privilege"),
        ] {
            let said = said(errno);
            assert!(said.starts_with("cannot listen on 203.0.113.9:80: ") && said.ends_with(mend), "{said}");
        }
        assert!(!said(nix::libc::ENOMEM).contains("--port"));
    }
}
