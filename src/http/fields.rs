//! The header fields that steer the server: Host, body framing, Connection, Expect.
//!
//! Invariant: a head gets through only if every reader of it, however lax, would agree on where its body ends. Hence
//! several lengths, a length beside a coding and any coding but `chunked` are refused, even where RFC 9112 would let
//! a server repair them.

use super::parse::{Framing, HeadError, Version};
use super::target::is_host;

/// What the fields seen so far say.
#[derive(Debug, Default)]
pub(super) struct Facts {
    has_host: bool,
    length: Option<u64>,
    is_chunked: bool,
    says_close: bool,
    says_keep_alive: bool,
    expects_continue: bool,
    /// The Connection field names others, which then belong to this connection only.
    pub(super) names_fields: bool,
}

impl Facts {
    /// Takes note of one field; `name` is in lower case.
    pub(super) fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), HeadError> {
        match name {
            b"host" if self.has_host => return Err(HeadError::HostRepeated),
            b"host" if !is_host(value) => return Err(HeadError::HostInvalid),
            b"host" => self.has_host = true,
            b"content-length" if self.length.is_some() => return Err(HeadError::LengthRepeated),
            b"content-length" => self.length = Some(parse_length(value)?),
            b"transfer-encoding" if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") => {
                return Err(HeadError::CodingUnsupported);
            }
            b"transfer-encoding" => self.is_chunked = true,
            b"connection" => self.note_connection(value),
            b"expect" if !value.eq_ignore_ascii_case(b"100-continue") => return Err(HeadError::ExpectationUnknown),
            b"expect" => self.expects_continue = true,
            _ => {}
        }
        Ok(())
    }

    fn note_connection(&mut self, value: &[u8]) {
        for option in list_items(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.says_close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.says_keep_alive = true;
            } else if !option.is_empty() {
                self.names_fields = true;
            }
        }
    }

    /// What the whole head means for its body.
    pub(super) fn framing(&self, version: Version) -> Result<Framing, HeadError> {
        match (self.length, self.is_chunked, version) {
            _ if !self.has_host && version == Version::Http11 => Err(HeadError::HostMissing),
            (Some(_), true, _) => Err(HeadError::LengthBesideCoding),
            (None, true, Version::Http10) => Err(HeadError::CodingOnOldVersion),
            (None, true, Version::Http11) => Ok(Framing::Chunked),
            (None | Some(0), false, _) => Ok(Framing::None),
            (Some(length), false, _) => Ok(Framing::Length(length)),
        }
    }

    /// True if the client can use the connection for another request.
    pub(super) fn keep_alive(&self, version: Version) -> bool {
        !self.says_close && (version == Version::Http11 || self.says_keep_alive)
    }

    /// True if the client waits for `100 Continue`. On HTTP/1.0 the expectation is ignored, as RFC 9110 demands.
    pub(super) fn expect_continue(&self, version: Version) -> bool {
        self.expects_continue && version == Version::Http11
    }
}

/// Digits and nothing else. A number beyond 64 bits is not malformed, merely too large, and saturates.
fn parse_length(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::LengthInvalid);
    }
    let digits = value.iter().map(|digit| u64::from(digit - b'0'));
    Ok(digits.fold(0, |length: u64, digit| length.saturating_mul(10).saturating_add(digit)))
}

/// The items of a comma-separated list, without the white space around them.
pub(super) fn list_items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// True for fields that a function must not see: those that belong to this connection, those that the server has
/// acted upon, and the caller's key. `name` is in lower case.
pub(super) fn is_withheld(name: &[u8]) -> bool {
    match name {
        b"authorization" | b"proxy-authorization" | b"proxy-authenticate" => true,
        b"connection" | b"keep-alive" | b"proxy-connection" | b"upgrade" | b"http2-settings" => true,
        b"te" | b"trailer" | b"transfer-encoding" | b"expect" => true,
        // The server's own id, which may be the client's, takes its place.
        b"x-request-id" => true,
        // How long this caller waits for this server. It says nothing of what is left of that, nor whether it holds.
        b"x-faas-timeout" => true,
        _ => false,
    }
}
