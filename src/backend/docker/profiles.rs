//! The profiles of system calls as each engine wants them: Docker takes the text itself, Podman a file of the host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::api::system::EngineKind;
use super::hardening::SeccompProfile;
use super::profile::profile;
use crate::sandbox::plan::Network;
use crate::sandbox::seccomp::Arch;

/// One profile as text and as a file.
#[derive(Debug, Clone)]
struct Both {
    text: Arc<str>,
    file: PathBuf,
}

/// The profiles of all containers of a server.
#[derive(Debug, Clone)]
pub struct Profiles {
    direct: Both,
    brokered: Both,
}

impl Profiles {
    /// Makes them, and writes them into a directory that is the server's alone.
    ///
    /// # Errors
    /// Those of the file system; `Unsupported` on a processor for which there is no list of system calls.
    pub fn prepare(directory: &Path) -> io::Result<Profiles> {
        let arch = Arch::native().ok_or_else(|| {
            let text = "there is no list of system calls for this processor";
            io::Error::new(io::ErrorKind::Unsupported, text)
        })?;
        let both = |name: &str, network| -> io::Result<Both> {
            let (text, file) = (profile(arch, network), directory.join(name));
            fs::write(&file, text.as_bytes())?;
            Ok(Both { text, file })
        };
        Ok(Profiles {
            direct: both("seccomp-direct.json", Network::None)?,
            brokered: both("seccomp-brokered.json", Network::Outbound)?,
        })
    }

    /// What a container with this network may call, as this engine is told.
    pub fn of(&self, engine: EngineKind, network: Network) -> SeccompProfile {
        let both = match network {
            Network::Outbound => &self.brokered,
            Network::None | Network::Host => &self.direct,
        };
        match engine {
            EngineKind::Docker => SeccompProfile::Inline(Arc::clone(&both.text)),
            EngineKind::Podman => SeccompProfile::File(both.file.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_is_given_the_text_and_podman_the_file_with_the_same_text() {
        let directory = tempfile::tempdir().unwrap();
        let profiles = Profiles::prepare(directory.path()).unwrap();
        for network in [Network::None, Network::Outbound, Network::Host] {
            let SeccompProfile::Inline(text) = profiles.of(EngineKind::Docker, network) else { panic!("not the text") };
            let SeccompProfile::File(file) = profiles.of(EngineKind::Podman, network) else { panic!("not the file") };
            assert_eq!(fs::read_to_string(file).unwrap(), *text);
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
        let of = |network| profiles.of(EngineKind::Docker, network);
        assert!(of(Network::None) == of(Network::Host) && of(Network::None) != of(Network::Outbound));
    }
}
