//! What an engine is asked, and the bytes of it.
//!
//! Invariant: whatever a path is made of, the request line stays one line of three parts: bytes that may not stand in a
//! target are percent-encoded on the way out.

use std::fmt;
use std::time::Duration;

use crate::backend::docker::registry_auth::RegistryAuth;

/// Longest text that stands for a call in errors, in bytes.
const WHAT_BYTES_MAX: usize = 160;

/// What is done to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Read it.
    Get,
    /// Make it, or do something with it.
    Post,
    /// Replace it.
    Put,
    /// Remove it.
    Delete,
    /// Read it, without its body.
    Head,
}

impl Method {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Head => "HEAD",
        }
    }

    /// True if it changes nothing, so that a request that may have been heard can be sent again.
    pub fn is_safe(self) -> bool {
        matches!(self, Method::Get | Method::Head)
    }
}

/// A version of the engine's API, which paths begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// What stands before the point.
    pub major: u16,
    /// What stands behind it.
    pub minor: u16,
}

impl ApiVersion {
    /// Reads `1.41`: two numbers in digits, and nothing else.
    pub fn parse(text: &str) -> Option<ApiVersion> {
        let (major, minor) = text.split_once('.')?;
        let number = |digits: &str| {
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            if is_number {
                digits.parse().ok()
            } else {
                None
            }
        };
        Some(ApiVersion { major: number(major)?, minor: number(minor)? })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// How an answer is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// As a whole, when it is complete.
    Whole {
        /// Largest body of a good answer, in bytes. One that is an error may have
        /// [`ENGINE_ERROR_BODY_BYTES_MAX`](crate::limits::ENGINE_ERROR_BODY_BYTES_MAX), if that is more.
        bytes_max: usize,
    },
    /// As it comes. The pieces are not the chunks that the engine wrote: who reads lines looks for their ends.
    Stream,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is done.
    pub method: Method,
    /// To what: begins with `/`, without the version; the query, encoded, is part of it.
    pub path: String,
    /// Whether the version goes before the path. It does not for `/_ping` and `/version`, which say what the versions are.
    pub is_versioned: bool,
    /// JSON.
    pub body: Option<Vec<u8>>,
    /// What the engine is to tell a registry.
    pub registry_auth: Option<RegistryAuth>,
    /// How the answer is taken.
    pub reply: ReplyKind,
    /// From being asked for until the end of a whole answer, the wait for a connection included; of a stream, until its
    /// head.
    pub timeout: Duration,
    /// Longest silence of a stream behind its head; none, if it may be silent for ever.
    pub idle_timeout: Option<Duration>,
}

impl Request {
    /// The request as people know it: method and path, without the query.
    pub fn what(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        let mut what = format!("{} {path}", self.method.as_str());
        if what.len() > WHAT_BYTES_MAX {
            let end = (0..=WHAT_BYTES_MAX).rev().find(|&end| what.is_char_boundary(end)).unwrap_or(0);
            what.truncate(end);
            what.push('…');
        }
        what
    }

    /// True if its answer is a stream.
    pub fn is_stream(&self) -> bool {
        self.reply == ReplyKind::Stream
    }

    /// The bytes of the request. Without a version the path has none either, and the engine takes its own newest.
    pub fn encode(&self, version: Option<ApiVersion>) -> Vec<u8> {
        let body = self.body.as_deref().unwrap_or_default();
        let mut bytes = Vec::with_capacity(256 + self.path.len() + body.len());
        bytes.extend_from_slice(self.method.as_str().as_bytes());
        bytes.push(b' ');
        if let Some(version) = version.filter(|_| self.is_versioned) {
            bytes.extend_from_slice(format!("/v{version}").as_bytes());
        }
        push_target(&mut bytes, &self.path);
        // No engine looks at the host, but HTTP/1.1 demands one.
        bytes.extend_from_slice(b" HTTP/1.1\r\nHost: engine\r\nUser-Agent: faas\r\n");
        if self.body.is_some() {
            bytes.extend_from_slice(b"Content-Type: application/json\r\n");
        }
        if let Some(auth) = &self.registry_auth {
            bytes.extend_from_slice(format!("X-Registry-Auth: {}\r\n", auth.header_value()).as_bytes());
        }
        if self.body.is_some() || matches!(self.method, Method::Post | Method::Put) {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        bytes
    }
}

/// Writes a target, in which what may not stand there is percent-encoded. A `%` is taken to be encoded already.
fn push_target(bytes: &mut Vec<u8>, target: &str) {
    for &byte in target.as_bytes() {
        if byte.is_ascii_graphic() && byte != b'#' {
            bytes.push(byte);
        } else {
            push_encoded(bytes, byte);
        }
    }
}

fn push_encoded(bytes: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    bytes.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// Encodes a text that becomes one segment of a path, or the name or value of one parameter of a query.
pub fn percent_encoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            bytes.push(byte);
        } else {
            push_encoded(&mut bytes, byte);
        }
    }
    // Every byte that was pushed is ASCII.
    String::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, path: &str, body: Option<&str>) -> Request {
        Request {
            method,
            path: path.to_owned(),
            is_versioned: true,
            body: body.map(|body| body.as_bytes().to_vec()),
            registry_auth: None,
            reply: ReplyKind::Whole { bytes_max: 100 },
            timeout: Duration::from_secs(1),
            idle_timeout: None,
        }
    }

    fn text(request: &Request, version: Option<ApiVersion>) -> String {
        String::from_utf8(request.encode(version)).unwrap()
    }

    #[test]
    fn the_version_goes_before_paths_that_have_one() {
        let version = ApiVersion::parse("1.41");
        let mut create = request(Method::Post, "/containers/create?name=a", Some("{}"));
        assert_eq!(
            text(&create, version),
            "POST /v1.41/containers/create?name=a HTTP/1.1\r\nHost: engine\r\nUser-Agent: faas\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        );
        assert!(text(&create, None).starts_with("POST /containers/create?name=a HTTP/1.1\r\n"));
        create.is_versioned = false;
        assert!(text(&create, version).starts_with("POST /containers/create?name=a HTTP/1.1\r\n"));
    }

    #[test]
    fn a_post_without_a_body_says_that_it_has_none_and_a_get_says_nothing() {
        let start = text(&request(Method::Post, "/containers/a/start", None), None);
        assert!(start.contains("\r\nContent-Length: 0\r\n\r\n") && !start.contains("Content-Type"), "{start}");
        let get = text(&request(Method::Get, "/_ping", None), None);
        assert!(!get.contains("Content-"), "{get}");
    }

    #[test]
    fn no_path_makes_a_second_line_or_a_fourth_part_of_the_first() {
        for path in ["/a b", "/a\r\nHost: evil", "/a\u{0}", "/\u{e9}", "/a#b", "/a\tb\n"] {
            let encoded = text(&request(Method::Get, path, None), None);
            let line = encoded.split("\r\n").next().unwrap();
            assert_eq!(line.split(' ').count(), 3, "{line}");
            assert_eq!(encoded.matches("\r\n").count(), 4, "{encoded}");
            assert!(encoded.is_ascii() && !encoded.contains('#'), "{encoded}");
        }
        assert!(text(&request(Method::Get, "/a%20b?c=%7B%7D", None), None).starts_with("GET /a%20b?c=%7B%7D HTTP"));
    }

    #[test]
    fn a_parameter_is_encoded_as_one() {
        assert_eq!(percent_encoded(r#"{"a":["b=c&d"]}"#), "%7B%22a%22%3A%5B%22b%3Dc%26d%22%5D%7D");
        assert_eq!(percent_encoded("a-Z_0.~/\u{fc}"), "a-Z_0.~%2F%C3%BC");
    }

    #[test]
    fn a_call_is_named_by_method_and_path_in_bounded_length() {
        assert_eq!(request(Method::Get, "/events?filters=x", None).what(), "GET /events");
        let long = request(Method::Delete, &"/\u{fc}".repeat(1000), None).what();
        assert!(long.len() <= WHAT_BYTES_MAX + '…'.len_utf8() && long.ends_with('…'), "{long}");
    }

    #[test]
    fn versions_are_two_numbers_and_ordered_as_such() {
        let version = |text| ApiVersion::parse(text).unwrap();
        assert!(version("1.9") < version("1.41") && version("1.41") < version("2.0"));
        assert_eq!(version("1.41").to_string(), "1.41");
        for text in ["", "1", "1.", ".1", "1.41.0", "+1.41", "1.-4", "1.99999", "v1.41", "1.41 "] {
            assert_eq!(ApiVersion::parse(text), None, "{text:?}");
        }
    }
}
