//! The head of a request: which bytes it may consist of, and what they say.
//!
//! `httparse` finds the parts. It lets through what RFC 9112 forbids or merely tolerates (bare line feeds, any number
//! of empty lines, any byte from 0x80 on in a target), so this module looks at those again. What a field means for
//! the server is in `fields`, what a target means in `target`.
//!
//! Invariant: the verdict depends on the bytes alone, never on how they were cut into pieces. Each error is therefore
//! either found at the byte that makes it, or only once the head is complete.

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::fields::{is_withheld, list_items, Facts};
use super::request_id::{RequestId, RequestIds};
use super::target::{self, TargetError};
use crate::limits::{HTTP_HEADERS_MAX, HTTP_HEAD_BYTES_MAX, HTTP_TARGET_BYTES_MAX};

/// Version of the protocol that a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How the end of a request's body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// It has this many bytes, at least one.
    Length(u64),
    /// It comes in chunks.
    Chunked,
}

/// A request's head: an owned copy of its bytes, in which every part is a range.
#[derive(Debug)]
pub struct RequestHead {
    /// The head as it came, but for the field names, which are in lower case.
    bytes: Vec<u8>,
    method: Span,
    /// `None` when an absolute-form target has no path.
    path: Option<Span>,
    query: Option<Span>,
    fields: Vec<Field>,
    version: Version,
    framing: Framing,
    keep_alive: bool,
    expect_continue: bool,
    request_id: RequestId,
}

/// A range of a head's bytes. Sixteen bits suffice: `limits` asserts it.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u16,
    end: u16,
}

#[derive(Debug, Clone, Copy)]
struct Field {
    name: Span,
    value: Span,
    is_withheld: bool,
}

impl RequestHead {
    /// The method as it was sent; methods are case-sensitive.
    pub fn method(&self) -> &str {
        self.text(self.method)
    }

    /// The path, not decoded (see [`target::Path`]); `*` for `OPTIONS *`.
    pub fn path(&self) -> &str {
        self.path.map_or("/", |span| self.text(span))
    }

    /// What follows the `?`, not decoded.
    pub fn query(&self) -> Option<&str> {
        self.query.map(|span| self.text(span))
    }

    /// All header fields in their order, names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|field| (self.text(field.name), self.slice(field.value)))
    }

    /// The fields that a function may see: not those of this connection (RFC 9110, 7.6.1), not the caller's key or
    /// patience, and not `x-request-id`, for which [`RequestHead::request_id`] stands.
    pub fn forwarded_headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let fields = self.fields.iter().filter(|field| !field.is_withheld);
        fields.map(|field| (self.text(field.name), self.slice(field.value)))
    }

    /// The first field of that name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let named = self.fields.iter().find(|field| self.slice(field.name) == name.as_bytes());
        named.map(|field| self.slice(field.value))
    }

    /// Every field of that name, which is given in lower case: who must refuse repeated fields looks for a second.
    pub fn headers_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let named = move |field: &&Field| self.slice(field.name) == name.as_bytes();
        self.fields.iter().filter(named).map(|field| self.slice(field.value))
    }

    /// The version that the client speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How the body's end is found.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// True if the client would use the connection again.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// True if the client waits for `100 Continue` before it sends the body.
    pub fn expect_continue(&self) -> bool {
        self.expect_continue
    }

    /// The client's `X-Request-Id` if it sent exactly one and that is valid, else one made here.
    pub fn request_id(&self) -> &RequestId {
        &self.request_id
    }

    fn slice(&self, span: Span) -> &[u8] {
        &self.bytes[usize::from(span.start)..usize::from(span.end)]
    }

    fn text(&self, span: Span) -> &str {
        // Spans given to this function were ASCII when the head was parsed, so the default is never taken.
        std::str::from_utf8(self.slice(span)).unwrap_or_default()
    }
}

/// Why a head is refused. After any of these the place of the next request is unknown, so the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// A byte that may not stand where it stands.
    Syntax(httparse::Error),
    /// A line that ends in a line feed alone.
    BareLineFeed,
    /// More than one empty line before the request line.
    EmptyLines,
    /// The target is invalid.
    Target(TargetError),
    /// The target is longer than [`HTTP_TARGET_BYTES_MAX`].
    TargetTooLong,
    /// The head is longer than [`HTTP_HEAD_BYTES_MAX`].
    TooLarge,
    /// There are more fields than [`HTTP_HEADERS_MAX`].
    TooManyFields,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    VersionUnsupported,
    /// CONNECT: this is no proxy.
    MethodConnect,
    /// No Host field on HTTP/1.1.
    HostMissing,
    /// Two Host fields.
    HostRepeated,
    /// A Host field that holds anything but a host.
    HostInvalid,
    /// A Content-Length that is not digits alone.
    LengthInvalid,
    /// Two Content-Length fields, be they equal or not.
    LengthRepeated,
    /// Content-Length and Transfer-Encoding.
    LengthBesideCoding,
    /// A Transfer-Encoding other than exactly `chunked`, or two.
    CodingUnsupported,
    /// A Transfer-Encoding on HTTP/1.0.
    CodingOnOldVersion,
    /// An Expect other than `100-continue`.
    ExpectationUnknown,
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeadError::Syntax(httparse::Error::HeaderName) => f.write_str("a header field's name is not valid"),
            HeadError::Syntax(httparse::Error::HeaderValue) => f.write_str("a header field's value is not valid"),
            HeadError::Syntax(_) => f.write_str("the request line is not valid"),
            HeadError::BareLineFeed => f.write_str("a line ends without a carriage return"),
            HeadError::EmptyLines => f.write_str("empty lines precede the request line"),
            HeadError::Target(error) => error.fmt(f),
            HeadError::TargetTooLong => write!(f, "the request target exceeds {HTTP_TARGET_BYTES_MAX} bytes"),
            HeadError::TooLarge => write!(f, "the request head exceeds {HTTP_HEAD_BYTES_MAX} bytes"),
            HeadError::TooManyFields => write!(f, "the request has more than {HTTP_HEADERS_MAX} header fields"),
            HeadError::VersionUnsupported => f.write_str("only HTTP/1.1 and HTTP/1.0 are spoken here"),
            HeadError::MethodConnect => f.write_str("CONNECT is not implemented"),
            HeadError::HostMissing => f.write_str("the Host field is missing"),
            HeadError::HostRepeated => f.write_str("the Host field is given twice"),
            HeadError::HostInvalid => f.write_str("the Host field is not a host"),
            HeadError::LengthInvalid => f.write_str("the Content-Length is not a number"),
            HeadError::LengthRepeated => f.write_str("the Content-Length is given twice"),
            HeadError::LengthBesideCoding => f.write_str("Content-Length and Transfer-Encoding exclude each other"),
            HeadError::CodingUnsupported => f.write_str("the only Transfer-Encoding is chunked"),
            HeadError::CodingOnOldVersion => f.write_str("HTTP/1.0 has no Transfer-Encoding"),
            HeadError::ExpectationUnknown => f.write_str("the only expectation is 100-continue"),
        }
    }
}

impl std::error::Error for HeadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            HeadError::Syntax(error) => Some(error),
            HeadError::Target(error) => Some(error),
            _ => None,
        }
    }
}

/// Reads one head from the start of `input`: the head and how many bytes it took, or `None` while it is incomplete.
///
/// An incomplete head is parsed again from its start when more of it comes. A client that sends byte by byte makes
/// the server read the square of its head, which with 16 KiB stays in the order of what those reads cost anyway.
///
/// # Errors
/// [`HeadError`], the same one for the same bytes however they were cut.
pub fn parse_head(input: &[u8], ids: &mut RequestIds) -> Result<Option<(RequestHead, usize)>, HeadError> {
    let Some(skipped) = skip_empty_line(input)? else { return Ok(None) };
    let input = &input[skipped..];
    // What lies beyond the limit is never looked at: it could otherwise decide between two errors.
    let window = &input[..input.len().min(HTTP_HEAD_BYTES_MAX)];
    let mut fields = [const { MaybeUninit::uninit() }; HTTP_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(window, &mut fields);
    if is_target_too_long(window, request.method, request.path) {
        return Err(HeadError::TargetTooLong);
    }
    match parsed {
        Ok(httparse::Status::Complete(len)) => Ok(Some((own(&window[..len], &request, ids)?, skipped + len))),
        Ok(httparse::Status::Partial) if window.len() == HTTP_HEAD_BYTES_MAX => Err(HeadError::TooLarge),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(HeadError::TooManyFields),
        Err(httparse::Error::Version) => Err(version_error(window, request.path)),
        Err(error) => Err(HeadError::Syntax(error)),
    }
}

/// True while `input` holds nothing of a request: no byte, or part of the one empty line that may precede it.
pub(super) fn is_blank(input: &[u8]) -> bool {
    b"\r\n".starts_with(input)
}

/// Skips the empty line that some clients send after a body (RFC 9112, 2.2). `None`: it may yet become one.
fn skip_empty_line(input: &[u8]) -> Result<Option<usize>, HeadError> {
    let skipped = if input.starts_with(b"\r\n") { 2 } else { 0 };
    match &input[skipped..] {
        [] => Ok(None),
        [b'\r'] if skipped == 0 => Ok(None),
        [b'\n', ..] if skipped == 0 => Err(HeadError::BareLineFeed),
        [b'\r' | b'\n', ..] => Err(HeadError::EmptyLines),
        _ => Ok(Some(skipped)),
    }
}

/// Measures the target even when `httparse` has not come to its end, so that 414 does not depend on what follows.
fn is_target_too_long(window: &[u8], method: Option<&str>, path: Option<&str>) -> bool {
    match (method, path) {
        (_, Some(path)) => path.len() > HTTP_TARGET_BYTES_MAX,
        (None, None) => false,
        (Some(method), None) => {
            let target = window.get(method.len() + 1..).unwrap_or_default();
            let end = target.iter().position(|&byte| byte <= b' ' || byte == 0x7f);
            end.unwrap_or(target.len()) > HTTP_TARGET_BYTES_MAX
        }
    }
}

/// Another version of HTTP is told which ones are spoken; anything else is not HTTP.
fn version_error(window: &[u8], path: Option<&str>) -> HeadError {
    let after_target = path.map_or(window.len(), |path| range_in(window, path.as_bytes()).end + 1);
    match window.get(after_target..) {
        Some(version) if version.starts_with(b"HTTP/") => HeadError::VersionUnsupported,
        _ => HeadError::Syntax(httparse::Error::Version),
    }
}

/// Checks a complete head and makes an owned one of it.
fn own(head: &[u8], request: &httparse::Request<'_, '_>, ids: &mut RequestIds) -> Result<RequestHead, HeadError> {
    check_line_ends(head, request)?;
    // `httparse` sets these three when it says that the head is complete.
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let version = if request.version == Some(1) { Version::Http11 } else { Version::Http10 };
    if method == "CONNECT" {
        return Err(HeadError::MethodConnect);
    }
    let located = target::locate(method, target).map_err(HeadError::Target)?;

    let mut bytes = head.to_vec();
    let mut facts = Facts::default();
    let mut request_id = None;
    let mut fields = Vec::with_capacity(request.headers.len());
    for header in request.headers.iter() {
        let name_range = range_in(head, header.name.as_bytes());
        bytes[name_range.clone()].make_ascii_lowercase();
        let name = &bytes[name_range.clone()];
        facts.note(name, header.value)?;
        if name == b"x-request-id" {
            request_id = Some(if request_id.is_none() { RequestId::from_client(header.value) } else { None });
        }
        let value = Span::from(range_in(head, header.value));
        fields.push(Field { is_withheld: is_withheld(name), name: name_range.into(), value });
    }
    let target_start = range_in(head, target.as_bytes()).start;
    let in_head = |range: Range<usize>| Span::from(target_start + range.start..target_start + range.end);
    let mut head = RequestHead {
        method: Span::from(0..method.len()),
        path: located.path.map(in_head),
        query: located.query.map(in_head),
        version,
        framing: facts.framing(version)?,
        keep_alive: facts.keep_alive(version),
        expect_continue: facts.expect_continue(version),
        request_id: request_id.flatten().unwrap_or_else(|| ids.make()),
        bytes,
        fields,
    };
    if facts.names_fields {
        head.withhold_named_fields();
    }
    Ok(head)
}

impl RequestHead {
    /// Withholds the fields that the Connection field names: they are meant for the server, not for the function.
    fn withhold_named_fields(&mut self) {
        for i in 0..self.fields.len() {
            let name = self.slice(self.fields[i].name);
            let is_named =
                self.headers_named("connection").flat_map(list_items).any(|item| item.eq_ignore_ascii_case(name));
            self.fields[i].is_withheld |= is_named;
        }
    }
}

/// Refuses bare line feeds. `httparse` takes them for line ends, but only between the parts that it reports, so it is
/// enough to look there.
fn check_line_ends(head: &[u8], request: &httparse::Request<'_, '_>) -> Result<(), HeadError> {
    let target_end = range_in(head, request.path.unwrap_or_default().as_bytes()).end;
    let version_end = target_end + " HTTP/1.1".len();
    let mut line_ends = std::iter::once(version_end).chain(request.headers.iter().map(|header| {
        let end = range_in(head, header.value).end;
        end + head[end..].iter().take_while(|&&byte| byte == b' ' || byte == b'\t').count()
    }));
    if line_ends.all(|at| head.get(at) == Some(&b'\r')) && head.ends_with(b"\r\n\r\n") {
        Ok(())
    } else {
        Err(HeadError::BareLineFeed)
    }
}

/// Where `part`, a slice of `whole`, lies in it.
fn range_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize).min(whole.len());
    start..(start + part.len()).min(whole.len())
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Span {
        // Both ends lie within a head, whose length `limits` asserts to fit.
        Span { start: range.start as u16, end: range.end as u16 }
    }
}
