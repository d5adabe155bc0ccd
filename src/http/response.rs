//! A response and its bytes on the wire.
//!
//! Fields are written into one buffer as they are added, so that a response costs two allocations whatever it holds.
//! Invariants: a field is a token and a value without control characters, by type; Date, Content-Length, Connection
//! and X-Request-Id are written here and cannot be added, also by type; what follows the head is exactly as long as
//! the head says.

use std::fmt;
use std::io::Write;

use super::body::{is_token_byte, may_stand_in_value};
use super::date::HttpDate;
use super::request_id::RequestId;
use crate::call::CallReply;

/// A status, header fields and a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    status: u16,
    /// `name: value\r\n`, once for each field.
    fields: Vec<u8>,
    body: Vec<u8>,
}

impl Response {
    /// A response without body. `status` is 200..=599.
    pub fn new(status: u16) -> Response {
        debug_assert!((200..=599).contains(&status), "{status} is no final status");
        Response { status, fields: Vec::new(), body: Vec::new() }
    }

    /// A response whose body is JSON already.
    pub fn json(status: u16, body: Vec<u8>) -> Response {
        const CONTENT_TYPE: HeaderName<'static> = HeaderName::from_static("content-type");
        const JSON: HeaderValue<'static> = HeaderValue::from_static("application/json");
        Response::new(status).with(CONTENT_TYPE, JSON).with_body(body)
    }

    /// A function's answer. The worker has checked its fields; one that could not be sent all the same, or that only
    /// the server writes, is left out.
    pub fn from_reply(reply: CallReply) -> Response {
        let mut response = Response::new(reply.status).with_body(reply.body);
        for (name, value) in &reply.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::new(name), HeaderValue::new(value)) {
                response.add(name, value);
            }
        }
        response
    }

    /// Adds a field behind those that are there.
    pub fn with(mut self, name: HeaderName<'_>, value: HeaderValue<'_>) -> Response {
        self.add(name, value);
        self
    }

    /// Adds a field behind those that are there.
    pub fn add(&mut self, name: HeaderName<'_>, value: HeaderValue<'_>) {
        // One growth covers the fields of an ordinary response.
        if self.fields.capacity() == 0 {
            self.fields.reserve(192);
        }
        self.add_parts(name, value.0.as_bytes());
    }

    /// Adds a field whose value is a number.
    pub fn add_number(&mut self, name: HeaderName<'_>, value: u64) {
        let mut digits = [0; 20];
        self.add_parts(name, decimal(value, &mut digits));
    }

    fn add_parts(&mut self, name: HeaderName<'_>, value: &[u8]) {
        for part in [name.0.as_bytes(), b": ", value, b"\r\n"] {
            self.fields.extend_from_slice(part);
        }
    }

    /// Sets the body.
    pub fn with_body(mut self, body: Vec<u8>) -> Response {
        self.body = body;
        self
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The first field of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = std::str::from_utf8(&self.fields).unwrap_or_default().split_terminator("\r\n");
        let mut fields = lines.filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Appends the head to `out` and gives back the body that is to follow it; an empty one where HTTP allows none.
    pub(super) fn write_head(self, out: &mut Vec<u8>, stamps: &Stamps<'_>) -> Vec<u8> {
        let mut digits = [0; 20];
        out.reserve(192 + self.fields.len());
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(decimal(u64::from(self.status), &mut digits));
        out.push(b' ');
        out.extend_from_slice(reason(self.status).as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.fields);
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(stamps.date.as_bytes());
        out.extend_from_slice(b"\r\nX-Request-Id: ");
        out.extend_from_slice(stamps.request_id.as_bytes());
        // 204 and 304 end with their head by definition, and a length there confuses clients.
        let has_length = !matches!(self.status, 204 | 304);
        if has_length {
            out.extend_from_slice(b"\r\nContent-Length: ");
            out.extend_from_slice(decimal(self.body.len() as u64, &mut digits));
        }
        out.extend_from_slice(match stamps.connection {
            Connection::Default => b"\r\n\r\n".as_slice(),
            Connection::KeepAlive => b"\r\nConnection: keep-alive\r\n\r\n",
            Connection::Close => b"\r\nConnection: close\r\n\r\n",
        });
        if has_length && !stamps.is_head {
            self.body
        } else {
            Vec::new()
        }
    }
}

/// What a response's head says beside what the response itself does.
#[derive(Debug)]
pub(super) struct Stamps<'a> {
    pub(super) date: &'a HttpDate,
    pub(super) request_id: &'a RequestId,
    pub(super) connection: Connection,
    /// It answers a HEAD request: the length is that of the body, which is not sent.
    pub(super) is_head: bool,
}

/// What a response says about its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    /// Nothing: it stays open, as HTTP/1.1 has it.
    Default,
    /// It stays open, which an HTTP/1.0 client must be told.
    KeepAlive,
    /// It ends with this response.
    Close,
}

/// Writes `value` in decimal at the end of `digits`.
fn decimal(value: u64, digits: &mut [u8; 20]) -> &[u8] {
    // Twenty digits hold every u64, so the write cannot fail; `core::fmt` has a fast path for integers.
    let mut rest = &mut digits[..];
    let written = write!(rest, "{value}").map_or(20, |()| rest.len());
    &digits[..20 - written.min(20)]
}

/// The phrase that people read behind the code; machines ignore it.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// A field's name: a token, and none of those that the server writes itself or that belong to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderName<'a>(&'a str);

impl<'a> HeaderName<'a> {
    /// Takes a literal of this program.
    ///
    /// # Panics
    /// When the literal is not a token; in a `const`, that is a compile error.
    pub const fn from_static(name: &'static str) -> HeaderName<'static> {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty());
        let mut i = 0;
        while i < bytes.len() {
            assert!(bytes[i].is_ascii_alphanumeric() || bytes[i] == b'-');
            i += 1;
        }
        HeaderName(name)
    }

    /// Takes a name that a function gave.
    ///
    /// # Errors
    /// [`HeaderError::Name`] and [`HeaderError::Reserved`].
    pub fn new(name: &'a str) -> Result<HeaderName<'a>, HeaderError> {
        if name.is_empty() || !name.bytes().all(is_token_byte) {
            return Err(HeaderError::Name);
        }
        if RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
            return Err(HeaderError::Reserved);
        }
        Ok(HeaderName(name))
    }
}

/// Fields that the server writes itself, and those that mean the connection and not the response.
const RESERVED: [&str; 11] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

/// A field's value: no control character but the tab, so that it can end neither its line nor the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderValue<'a>(&'a str);

impl<'a> HeaderValue<'a> {
    /// Takes a literal of this program.
    ///
    /// # Panics
    /// When the literal holds anything but printable ASCII; in a `const`, that is a compile error.
    pub const fn from_static(value: &'static str) -> HeaderValue<'static> {
        let bytes = value.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            assert!(bytes[i] == b' ' || bytes[i].is_ascii_graphic());
            i += 1;
        }
        HeaderValue(value)
    }

    /// Takes a value that a function or a user gave.
    ///
    /// # Errors
    /// [`HeaderError::Value`].
    pub fn new(value: &'a str) -> Result<HeaderValue<'a>, HeaderError> {
        if value.bytes().all(may_stand_in_value) {
            Ok(HeaderValue(value))
        } else {
            Err(HeaderError::Value)
        }
    }
}

/// Why a header field of a function cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// The name is not a token.
    Name,
    /// The name is one that only the server writes.
    Reserved,
    /// The value holds a control character.
    Value,
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeaderError::Name => "a header field's name is not a token",
            HeaderError::Reserved => "a header field is one that only the server writes",
            HeaderError::Value => "a header field's value holds a control character",
        })
    }
}

impl std::error::Error for HeaderError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request_id::RequestIds;
    use std::time::UNIX_EPOCH;

    fn wire(response: Response, connection: Connection, is_head: bool) -> String {
        let (date, request_id) = (HttpDate::new(UNIX_EPOCH), RequestIds::from_seed([1; 4]).make());
        let mut out = Vec::new();
        let stamps = Stamps { date: &date, request_id: &request_id, connection, is_head };
        let body = response.write_head(&mut out, &stamps);
        out.extend(body);
        String::from_utf8(out).unwrap().replace(request_id.as_str(), "ID")
    }

    #[test]
    fn a_response_on_the_wire() {
        let expected = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                        X-Request-Id: ID\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(wire(Response::json(200, b"{}".to_vec()), Connection::Default, false), expected);
    }

    #[test]
    fn every_response_has_a_length_but_those_that_may_not() {
        let body = || b"hello".to_vec();
        let close = wire(Response::new(500), Connection::Close, false);
        assert!(close.ends_with("\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"), "{close}");
        let head = wire(Response::new(200).with_body(body()), Connection::KeepAlive, true);
        assert!(head.ends_with("\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n"), "{head}");
        for status in [204, 304] {
            let bare = wire(Response::new(status).with_body(body()), Connection::Default, false);
            assert!(bare.ends_with("\r\nX-Request-Id: ID\r\n\r\n"), "{bare}");
        }
    }

    #[test]
    fn a_functions_answer_keeps_what_may_be_sent() {
        let field = |name: &str, value: &str| (name.to_string(), value.to_string());
        let headers = vec![
            field("set-cookie", "a=1"),
            field("set-cookie", "b=2"),
            field("Date", "never"),
            field("content-length", "99"),
            field("x-evil", "a\r\nb: c"),
        ];
        let reply = CallReply { status: 418, headers, body: b"short".to_vec() };
        let text = wire(Response::from_reply(reply), Connection::Default, false);
        let expected = "HTTP/1.1 418 I'm a teapot\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\
                        Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nX-Request-Id: ID\r\nContent-Length: 5\r\n\r\nshort";
        assert_eq!(text, expected);
    }

    #[test]
    fn numbers_are_written_in_full() {
        let name = HeaderName::from_static("n");
        for number in [0, 7, 10, u64::MAX] {
            let mut response = Response::new(200);
            response.add_number(name, number);
            assert_eq!(response.header("N"), Some(number.to_string().as_str()));
        }
    }

    #[test]
    fn a_function_cannot_break_out_of_its_field() {
        for bad in ["a\r\nb", "a\rb", "a\nb", "a\0b", "\x7f"] {
            assert_eq!(HeaderValue::new(bad), Err(HeaderError::Value));
        }
        assert!(HeaderValue::new("tab\tand é").is_ok());
        for bad in ["", "a b", "a:", "é", "a\r\n"] {
            assert_eq!(HeaderName::new(bad), Err(HeaderError::Name));
        }
        for bad in ["Content-Length", "date", "TRANSFER-encoding", "x-request-id"] {
            assert_eq!(HeaderName::new(bad), Err(HeaderError::Reserved));
        }
    }
}
