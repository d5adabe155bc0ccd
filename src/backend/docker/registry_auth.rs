//! What a registry that wants a password is told (`system.registry_auth`): a file of the operator's, in the form of Docker's
//! `config.json`, of which `auths` alone is read. An engine has no credentials of its own; those of the `docker` command are
//! its user's.
//!
//! The file is read for each pull, so that what is new in it needs no reload. Nothing of it is logged or shown.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use crate::limits::REGISTRY_AUTH_BYTES_MAX;
use crate::registry::image::Reference;

/// What Docker's own registry is called in such files.
const HUB: [&str; 3] = ["index.docker.io", "docker.io", "registry-1.docker.io"];
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The value of `X-Registry-Auth`: it is sent to the engine, and nobody can read it here.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryAuth(String);

impl RegistryAuth {
    /// As it is sent: letters, digits, `-`, `_` and `=`.
    pub(super) fn header_value(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegistryAuth(…)")
    }
}

/// Why nothing is known of passwords. It tells nothing of what is in the file.
#[derive(Debug)]
pub enum RegistryAuthError {
    /// It cannot be read.
    Unreadable {
        /// What the system says.
        source: io::Error,
    },
    /// Others than its owner can read it, or its owner is somebody else than the server's user or root.
    Exposed {
        /// Its permissions.
        mode: u32,
        /// Its owner.
        owner: u32,
    },
    /// It is too large.
    TooLarge,
    /// It is not in the form of Docker's `config.json`.
    Malformed {
        /// Where.
        line: usize,
    },
    /// What it has for this registry is no password.
    BadEntry {
        /// The registry.
        host: String,
    },
}

impl fmt::Display for RegistryAuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegistryAuthError::Unreadable { source } => write!(f, "it cannot be read: {source}"),
            RegistryAuthError::Exposed { mode, owner } => write!(
                f,
                "its mode is {mode:04o} and its owner {owner}; only the server's user or root may be able to read it \
                 (chmod 600)"
            ),
            RegistryAuthError::TooLarge => write!(f, "it has more than {REGISTRY_AUTH_BYTES_MAX} bytes"),
            RegistryAuthError::Malformed { line } => write!(f, "it is not as Docker's config.json is, in line {line}"),
            RegistryAuthError::BadEntry { host } => {
                write!(f, "what it has for {host} is neither auth, nor username and password, nor identitytoken")
            }
        }
    }
}

impl std::error::Error for RegistryAuthError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RegistryAuthError::Unreadable { source } => Some(source),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
}

/// What the registry of this image is to be told; nothing, if the file has nothing for it.
///
/// # Errors
/// Why the file is not used.
pub fn read(file: &Path, image: &Reference) -> Result<Option<RegistryAuth>, RegistryAuthError> {
    find(&content(file)?, image)
}

fn content(file: &Path) -> Result<Vec<u8>, RegistryAuthError> {
    let unreadable = |source| RegistryAuthError::Unreadable { source };
    // A pipe would be waited for.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(file).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(io::Error::other("it is no file")));
    }
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if mode & 0o077 != 0 || (owner != 0 && owner != nix::unistd::geteuid().as_raw()) {
        return Err(RegistryAuthError::Exposed { mode, owner });
    }
    let mut content = Vec::new();
    file.take(REGISTRY_AUTH_BYTES_MAX + 1).read_to_end(&mut content).map_err(unreadable)?;
    match content.len() as u64 > REGISTRY_AUTH_BYTES_MAX {
        true => Err(RegistryAuthError::TooLarge),
        false => Ok(content),
    }
}

fn find(content: &[u8], image: &Reference) -> Result<Option<RegistryAuth>, RegistryAuthError> {
    // The message of such an error may quote what is there.
    let malformed = |error: serde_json::Error| RegistryAuthError::Malformed { line: error.line() };
    let document: Document = serde_json::from_slice(content).map_err(malformed)?;
    let is_meant = |key: &str| match (host_of(key), image.registry()) {
        (Some(host), Some(registry)) => host == registry || (HUB.contains(&host) && HUB.contains(&registry)),
        (Some(host), None) => HUB.contains(&host),
        (None, _) => false,
    };
    let Some((key, entry)) = document.auths.into_iter().find(|(key, _)| is_meant(key)) else { return Ok(None) };
    let bad = || RegistryAuthError::BadEntry { host: image.registry().unwrap_or(HUB[0]).to_owned() };
    let pair = decode(&entry.auth).and_then(|text| {
        // As Docker writes them, there may be zeros behind.
        let (user, password) = text.split_once(':')?;
        Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
    });
    let told = match pair {
        _ if !entry.identitytoken.is_empty() => {
            json!({ "identitytoken": entry.identitytoken, "serveraddress": key })
        }
        Some((user, password)) => json!({ "username": user, "password": password, "serveraddress": key }),
        None if entry.auth.is_empty() && !entry.username.is_empty() => {
            json!({ "username": entry.username, "password": entry.password, "serveraddress": key })
        }
        None => return Err(bad()),
    };
    Ok(Some(RegistryAuth(encode(told.to_string().as_bytes()))))
}

/// The registry that a key of such a file is for. Keys may have a scheme, and the path of a version of the interface; one
/// with any other path is for a part of a registry, which an engine cannot be told.
fn host_of(key: &str) -> Option<&str> {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    matches!(path.trim_end_matches('/'), "" | "v1" | "v2").then_some(host)
}

/// Base64 with either alphabet, and with or without its padding; none, if that is no text.
fn decode(text: &str) -> Option<String> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0u32, 0u32);
    for byte in text.trim_end_matches('=').bytes() {
        let byte = match byte {
            b'+' => b'-',
            b'/' => b'_',
            byte => byte,
        };
        let value = ALPHABET.iter().position(|letter| *letter == byte)?;
        held = (held << 6 | value as u32) & 0xfff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Base64 as URLs have it, padded: engines want it so.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for piece in bytes.chunks(3) {
        let held = piece.iter().fold(0u32, |held, byte| held << 8 | u32::from(*byte)) << (8 * (3 - piece.len()));
        for place in 0..4 {
            match place <= piece.len() {
                true => text.push(char::from(ALPHABET[(held >> (18 - 6 * place) & 63) as usize])),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const HUB_KEY: &str = "https://index.docker.io/v1/";

    fn told(content: &str, image: &str) -> Result<Option<String>, RegistryAuthError> {
        let found = find(content.as_bytes(), &Reference::parse(image).unwrap())?;
        Ok(found.map(|auth| decode(auth.header_value()).unwrap()))
    }

    #[test]
    fn a_registry_is_told_what_the_file_has_for_it_and_for_nobody_else() {
        // user:pässword? and user:secret, as Docker writes them.
        let content = r#"{
            "auths": {
                "https://index.docker.io/v1/": { "auth": "dXNlcjpww6Rzc3dvcmQ/" },
                "registry.example:5000": { "username": "me", "password": "it" },
                "http://127.0.0.1:5000/v2/": { "auth": "dXNlcjpzZWNyZXQAAA==" },
                "token.example": { "auth": "", "identitytoken": "abc" },
                "part.example/team": { "auth": "dXNlcjpzZWNyZXQ=" }
            },
            "credsStore": "desktop", "HttpHeaders": {}
        }"#;
        for (image, expected) in [
            ("python", json!({ "username": "user", "password": "pässword?", "serveraddress": HUB_KEY })),
            ("docker.io/a/b", json!({ "username": "user", "password": "pässword?", "serveraddress": HUB_KEY })),
            (
                "registry.example:5000/a",
                json!({ "username": "me", "password": "it", "serveraddress": "registry.example:5000" }),
            ),
            (
                "127.0.0.1:5000/a:1",
                json!({ "username": "user", "password": "secret", "serveraddress": "http://127.0.0.1:5000/v2/" }),
            ),
            ("token.example/a", json!({ "identitytoken": "abc", "serveraddress": "token.example" })),
        ] {
            let told = told(content, image).unwrap().unwrap();
            assert_eq!(serde_json::from_str::<serde_json::Value>(&told).unwrap(), expected, "{image}");
        }
        for image in ["registry.example/a", "registry.example:5001/a", "part.example/team/a", "example/a@sha256:"] {
            let Some(reference) = Reference::parse(image) else { continue };
            assert!(find(content.as_bytes(), &reference).unwrap().is_none(), "{image}");
        }
        assert_eq!(told("{}", "a.b/c").unwrap(), None);
    }

    #[test]
    fn what_is_wrong_with_the_file_is_told_without_what_is_in_it() {
        let secret = "aHVzaDpzZWNyZXQ";
        for content in [
            format!("{{\"auths\": {{\"a.b\": {{\"auth\": \"{secret}!\"}}}}}}"),
            format!("{{\"auths\": {{\"a.b\": {{\"auth\": {{\"{secret}\": 1}}}}}}}}"),
            format!("{{\"auths\": \"{secret}\"}}"),
            format!("{{\"auths\": {{\"a.b\": {{\"auth\": \"{}\"}}}}}}", encode(b"nocolon")),
            "{\"auths\": {\"a.b\": {}}}".to_owned(),
            secret.to_owned(),
            String::new(),
        ] {
            let error = told(&content, "a.b/c").unwrap_err();
            assert!(!format!("{error} {error:?}").contains(secret), "{error}");
        }
        let auth =
            find(br#"{"auths": {"a.b": {"username": "me", "password": "hush"}}}"#, &Reference::parse("a.b/c").unwrap());
        assert_eq!(format!("{:?}", auth.unwrap()), "Some(RegistryAuth(…))");
    }

    #[test]
    fn a_file_that_others_can_read_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("auth.json");
        let image = Reference::parse("a.b/c").unwrap();
        assert!(matches!(read(&file, &image), Err(RegistryAuthError::Unreadable { .. })));
        std::fs::write(&file, r#"{"auths": {"a.b": {"username": "me", "password": "it"}}}"#).unwrap();
        for mode in [0o644, 0o640, 0o620, 0o604, 0o601] {
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            let error = read(&file, &image).unwrap_err();
            assert!(matches!(error, RegistryAuthError::Exposed { .. }), "{mode:o}: {error}");
        }
        for mode in [0o600, 0o400] {
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            assert!(read(&file, &image).unwrap().is_some(), "{mode:o}");
        }
        std::fs::write(directory.path().join("large"), vec![b' '; REGISTRY_AUTH_BYTES_MAX as usize + 1]).unwrap();
        std::fs::set_permissions(directory.path().join("large"), PermissionsExt::from_mode(0o600)).unwrap();
        assert!(matches!(read(&directory.path().join("large"), &image), Err(RegistryAuthError::TooLarge)));
        assert!(matches!(read(directory.path(), &image), Err(RegistryAuthError::Unreadable { .. })));
    }

    #[test]
    fn base64_is_that_of_everybody_else() {
        for (text, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("~~>>??", "fn4-Pj8_")]
        {
            assert_eq!(encode(text.as_bytes()), encoded);
            assert_eq!(decode(encoded).as_deref(), Some(text));
        }
        assert_eq!(decode("fn4+Pj8/").as_deref(), Some("~~>>??"));
        assert_eq!((decode("a b"), decode("/w==")), (None, None));
    }
}
