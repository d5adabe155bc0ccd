//! Images by the names that people give them, and by what they are.
//!
//! A *reference* (`python:3.11-slim`, `registry.example:5000/team/app@sha256:…`) is what a setting says; what it stands
//! for may change from one day to the next. An *id* is the digest of an image's configuration, which says all of it: it
//! is what a version of a function was deployed with.
//!
//! The grammar is that of the distribution project, so that nothing that passes here means something else to an engine:
//! a reference has no character that means anything in a path, a query or a command line.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::IMAGE_REFERENCE_BYTES_MAX;

const DIGEST_PREFIX: &str = "sha256:";
const DIGEST_DIGITS: usize = 64;
const TAG_BYTES_MAX: usize = 128;
const TAG_DEFAULT: &str = "latest";

/// What an image is: `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId(String);

impl ImageId {
    /// The id that this text is, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        is_digest(text).then(|| Self(text.to_owned()))
    }

    /// `sha256:` and the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digits that people tell images apart by, as the command lines of engines show them.
    pub fn short(&self) -> &str {
        &self.0[DIGEST_PREFIX.len()..DIGEST_PREFIX.len() + 12]
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is no id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAnImageId(String);

impl fmt::Display for NotAnImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not the id of an image", crate::values::cut(&self.0))
    }
}

impl std::error::Error for NotAnImageId {}

impl TryFrom<String> for ImageId {
    type Error = NotAnImageId;

    fn try_from(text: String) -> Result<Self, NotAnImageId> {
        if is_digest(&text) {
            Ok(Self(text))
        } else {
            Err(NotAnImageId(text))
        }
    }
}

impl From<ImageId> for String {
    fn from(id: ImageId) -> String {
        id.0
    }
}

/// What is said to be allowed where a reference is not one.
pub(crate) const REFERENCE_FORM: &str =
    "the name of an image, such as python:3.11-slim or registry.example:5000/team/app@sha256:…";

/// What an image is called, taken apart: a name, with or without a registry, and a tag or a digest. There always is one
/// of the two: without, it is `latest`, as everywhere, and a pull would fetch every tag that there is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    name: String,
    version: String,
}

impl Reference {
    /// Reads `[HOST[:PORT]/]NAME[/NAME…][:TAG][@sha256:DIGITS]`. A tag beside a digest says nothing more, and is left out.
    /// Nothing is said about whether there is such an image.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > IMAGE_REFERENCE_BYTES_MAX {
            return None;
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // The last colon begins a tag, unless it is that of a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let is_one = digest.is_none_or(is_digest) && tag.is_none_or(is_tag) && is_name(name);
        let version = digest.or(tag).unwrap_or(TAG_DEFAULT);
        is_one.then(|| Reference { name: name.to_owned(), version: version.to_owned() })
    }

    /// All before the tag or the digest.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag or the digest.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What stands between the two: a tag has no colon.
    pub fn separator(&self) -> char {
        if self.version.contains(':') {
            '@'
        } else {
            ':'
        }
    }

    /// The registry that it comes from, `HOST[:PORT]`, if the name has one. Without, it is the engine's own.
    pub fn registry(&self) -> Option<&str> {
        self.name.split_once('/').map(|(first, _)| first).filter(|first| looks_like_host(first))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.name, self.separator(), self.version)
    }
}

/// Whether this is the name of an image: see [`Reference::parse`].
pub fn is_reference(text: &str) -> bool {
    Reference::parse(text).is_some()
}

fn is_name(name: &str) -> bool {
    let path = match name.split_once('/') {
        Some((first, rest)) if looks_like_host(first) => match is_host(first) {
            true => rest,
            false => return false,
        },
        _ => name,
    };
    path.split('/').all(is_component)
}

/// Whether the first part of a name is where the image comes from. An engine decides by the same signs.
fn looks_like_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_port = |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_label = |label: &str| {
        let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = label.as_bytes();
        is_edge(bytes.first())
            && is_edge(bytes.last())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    };
    let is_address = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_label),
    };
    is_address && port.is_none_or(is_port)
}

/// Lower-case letters and digits, and between them a dot, one or two underscores, or dashes.
fn is_component(component: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let edges = [component.bytes().next(), component.bytes().last()];
    let is_separator = |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    let mut between = component.split(|character: char| character.is_ascii_lowercase() || character.is_ascii_digit());
    edges.iter().all(|edge| edge.is_some_and(is_alphanumeric)) && between.all(is_separator)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let fits = (1..=TAG_BYTES_MAX).contains(&tag.len());
    fits && tag.bytes().next().is_some_and(is_word) && tag.bytes().all(|byte| is_word(byte) || b".-".contains(&byte))
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix(DIGEST_PREFIX).is_some_and(|digits| {
        digits.len() == DIGEST_DIGITS && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest() -> String {
        format!("sha256:{}", "0123456789abcdef".repeat(4))
    }

    #[test]
    fn what_engines_take_for_a_name_of_an_image_is_one() {
        let pinned = format!("python:3.11-slim@{}", digest());
        let (untagged, id) = (format!("python@{}", digest()), digest());
        let long_tag = format!("a:{}", "x".repeat(128));
        for good in [
            "python",
            "python:3.11-slim",
            "library/python:3",
            "docker.io/library/python:3.11-slim",
            "localhost/app",
            "localhost:5000/app:1",
            "registry.example:5000/team/app",
            "REGISTRY/app",
            "127.0.0.1:5000/app",
            "[::1]:5000/app:1",
            "a.b/c",
            "a__b",
            "a_b-c---d.e",
            "0",
            "a:_",
            "a:V1.0-rc_1",
            &pinned,
            &untagged,
            &id,
            &long_tag,
        ] {
            assert!(is_reference(good), "{good}");
        }
    }

    #[test]
    fn what_an_engine_would_refuse_or_read_as_something_else_is_none() {
        let upper = format!("python@{}", digest().to_uppercase());
        let (short, twice) = (format!("python@{}", &digest()[..70]), format!("a@{0}@{0}", digest()));
        let (long_tag, long) = (format!("a:{}", "x".repeat(129)), "a/".repeat(256) + "a");
        for bad in [
            "",
            ":",
            "@",
            "/",
            "/a",
            "a/",
            "a//b",
            "..",
            "../a",
            "a/../b",
            ".a",
            "a.",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "Python",
            "a:",
            "a:-1",
            "a:.1",
            "a:b c",
            "a:b/c:",
            "a b",
            "a\nb",
            "a\0",
            "é",
            "a?b",
            "a#b",
            "a%2fb",
            "a&b=c",
            "http://a/b",
            "unix:///a",
            "host:port/a",
            "a..b/c",
            "-a.b/c",
            "[::1/a",
            "[zz]:1/a",
            "a@sha256:",
            "a@md5:0123",
            "@sha256",
            &upper,
            &short,
            &twice,
            &long_tag,
            &long,
        ] {
            assert!(!is_reference(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_name_of_an_image_always_has_a_tag_or_a_digest() {
        let digest = digest();
        for (given, full, registry) in [
            ("python", "python:latest".to_owned(), None),
            ("python:3.11", "python:3.11".to_owned(), None),
            ("team/python", "team/python:latest".to_owned(), None),
            ("host.example:5000/team/app", "host.example:5000/team/app:latest".to_owned(), Some("host.example:5000")),
            ("localhost/app:v1", "localhost/app:v1".to_owned(), Some("localhost")),
            ("[::1]:5000/app", "[::1]:5000/app:latest".to_owned(), Some("[::1]:5000")),
            (&format!("python@{digest}"), format!("python@{digest}"), None),
            (&format!("python:3@{digest}"), format!("python@{digest}"), None),
        ] {
            let reference = Reference::parse(given).unwrap();
            assert_eq!((reference.to_string(), reference.registry()), (full, registry));
        }
        // As long as one may be, it is one everywhere.
        let long = format!("{}a", "a/".repeat((IMAGE_REFERENCE_BYTES_MAX - 1) / 2));
        assert_eq!(Reference::parse(&long).unwrap().name(), long);
    }

    #[test]
    fn an_id_is_a_digest_to_the_letter() {
        let id = ImageId::parse(&digest()).unwrap();
        assert_eq!((id.as_str(), id.short(), id.to_string()), (&*digest(), "0123456789ab", digest()));
        for bad in ["", "sha256:", &digest()[7..], &digest()[..70], &(digest() + "0"), &digest().to_uppercase()] {
            assert_eq!(ImageId::parse(bad), None, "{bad:?}");
        }
        let text = serde_json::to_string(&id).unwrap();
        assert_eq!(text, format!("\"{}\"", digest()));
        assert_eq!(serde_json::from_str::<ImageId>(&text).unwrap(), id);
        assert!(serde_json::from_str::<ImageId>("\"python:3\"").is_err());
    }

    proptest! {
        #[test]
        fn a_reference_has_no_character_that_means_something_elsewhere(
            text in "([a-zA-Z0-9._:/@\\[\\]-]|\\PC){0,40}"
        ) {
            if is_reference(&text) {
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@[]-".contains(&byte);
                prop_assert!(text.bytes().all(is_plain), "{text:?}");
                prop_assert!(!text.contains("..") && !text.contains("//") && !text.starts_with(['-', '/', '.']));
            }
        }
    }
}
