//! An answer, from the first byte of its status line to the last of its body.
//!
//! Interim answers (1xx) are read and dropped. An answer gets through only if there is one way to say where its body
//! ends: several lengths, a length beside a coding, or a coding other than `chunked` are refused. HTTP/1.0 is, too.

use std::fmt;
use std::mem::MaybeUninit;

use super::body::{BodyDecoder, BodyError, Framing};
use super::request::Method;
use crate::limits::{ENGINE_HEADERS_MAX, ENGINE_HEAD_BYTES_MAX, ENGINE_INTERIM_MAX};

/// What steers the reading of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHead {
    /// 200 to 599.
    pub status: u16,
    /// How the body's end is found.
    pub framing: Framing,
    /// True if the connection can be used again, once the body is complete.
    pub keep_alive: bool,
}

/// A part of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum ResponseEvent<'a> {
    /// The head, once.
    Head(ResponseHead),
    /// Bytes of the body, at least one. How many at once says nothing.
    Data(&'a [u8]),
    /// The answer is complete. What is left of the input belongs to no answer.
    End,
}

/// Why an answer is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseError {
    /// A byte that may not stand where it stands.
    Syntax(httparse::Error),
    /// A version other than HTTP/1.1.
    VersionUnsupported,
    /// The head is longer than [`ENGINE_HEAD_BYTES_MAX`].
    HeadTooLarge,
    /// There are more fields than [`ENGINE_HEADERS_MAX`].
    TooManyFields,
    /// A status below 100 or beyond 599.
    Status(u16),
    /// The connection becomes something else, which nobody asked for.
    Upgraded,
    /// More than [`ENGINE_INTERIM_MAX`] interim answers.
    TooManyInterim,
    /// A Content-Length that is not a number.
    LengthInvalid,
    /// Two Content-Length fields, be they equal or not.
    LengthRepeated,
    /// Content-Length and Transfer-Encoding.
    LengthBesideCoding,
    /// A Transfer-Encoding other than exactly `chunked`, or two.
    CodingUnsupported,
    /// The body is not one.
    Body(BodyError),
    /// The connection ended before the answer.
    Truncated,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResponseError::Syntax(error) => write!(f, "its head is not HTTP: {error}"),
            ResponseError::VersionUnsupported => f.write_str("it is not in HTTP/1.1"),
            ResponseError::HeadTooLarge => write!(f, "its head exceeds {ENGINE_HEAD_BYTES_MAX} bytes"),
            ResponseError::TooManyFields => write!(f, "it has more than {ENGINE_HEADERS_MAX} header fields"),
            ResponseError::Status(status) => write!(f, "its status is {status}"),
            ResponseError::Upgraded => f.write_str("it upgrades the connection"),
            ResponseError::TooManyInterim => write!(f, "more than {ENGINE_INTERIM_MAX} interim answers precede it"),
            ResponseError::LengthInvalid => f.write_str("its Content-Length is not a number"),
            ResponseError::LengthRepeated => f.write_str("its Content-Length is given twice"),
            ResponseError::LengthBesideCoding => f.write_str("it has both Content-Length and Transfer-Encoding"),
            ResponseError::CodingUnsupported => f.write_str("its Transfer-Encoding is not chunked"),
            ResponseError::Body(error) => error.fmt(f),
            ResponseError::Truncated => f.write_str("it is not complete"),
        }
    }
}

impl std::error::Error for ResponseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ResponseError::Syntax(error) => Some(error),
            ResponseError::Body(error) => Some(error),
            _ => None,
        }
    }
}

/// An answer while it comes in.
#[derive(Debug)]
pub struct ResponseDecoder {
    method: Method,
    state: State,
    /// Of an incomplete head, what has come.
    head: Vec<u8>,
    interim: usize,
}

#[derive(Debug)]
enum State {
    Head,
    Body(BodyDecoder),
    Done,
}

impl ResponseDecoder {
    /// For the answer to a request with this method.
    pub fn new(method: Method) -> ResponseDecoder {
        ResponseDecoder { method, state: State::Head, head: Vec::new(), interim: 0 }
    }

    /// The next part at the start of `input`, which loses its bytes. `None` until there is more input; `input` is empty
    /// then. Not to be asked again after [`ResponseEvent::End`] or an error.
    ///
    /// # Errors
    /// [`ResponseError`], the same one for the same bytes however they were cut.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<ResponseEvent<'a>>, ResponseError> {
        loop {
            match &mut self.state {
                State::Head => {
                    let Some(head) = self.read_head(input)? else { return Ok(None) };
                    if (100..200).contains(&head.status) {
                        self.interim += 1;
                        if self.interim > ENGINE_INTERIM_MAX {
                            return Err(ResponseError::TooManyInterim);
                        }
                        continue;
                    }
                    self.state = State::Body(BodyDecoder::new(head.framing));
                    return Ok(Some(ResponseEvent::Head(head)));
                }
                State::Body(body) => {
                    if let Some(data) = body.next(input).map_err(ResponseError::Body)? {
                        return Ok(Some(ResponseEvent::Data(data)));
                    }
                    if !body.is_done() {
                        return Ok(None);
                    }
                    self.state = State::Done;
                    return Ok(Some(ResponseEvent::End));
                }
                State::Done => return Ok(None),
            }
        }
    }

    /// The engine sends no more.
    ///
    /// # Errors
    /// [`ResponseError::Truncated`], unless the answer is one that ends with the connection.
    pub fn closed(&mut self) -> Result<(), ResponseError> {
        match &self.state {
            State::Body(body) if body.may_end_here() => {
                self.state = State::Done;
                Ok(())
            }
            State::Done => Ok(()),
            State::Head | State::Body(_) => Err(ResponseError::Truncated),
        }
    }

    /// Bytes that are held.
    pub fn held(&self) -> usize {
        self.head.len()
    }

    /// Takes bytes until the head is complete, and says what is in it.
    ///
    /// An incomplete head is parsed again from its start when more of it comes, which its limit makes cheap enough.
    fn read_head(&mut self, input: &mut &[u8]) -> Result<Option<ResponseHead>, ResponseError> {
        if input.is_empty() {
            return Ok(None);
        }
        let held = self.head.len();
        // What lies beyond the limit is never looked at: it could otherwise decide between two errors.
        let taken = input.len().min(ENGINE_HEAD_BYTES_MAX - held);
        self.head.extend_from_slice(&input[..taken]);
        let Some((head, len)) = parse_head(&self.head, self.method)? else {
            if self.head.len() >= ENGINE_HEAD_BYTES_MAX {
                return Err(ResponseError::HeadTooLarge);
            }
            *input = &input[taken..];
            return Ok(None);
        };
        // The bytes held before were no whole head, so this one ends within the input.
        *input = input.get(len.saturating_sub(held)..).unwrap_or_default();
        self.head = Vec::new();
        Ok(Some(head))
    }
}

/// The head at the start of `bytes`, and its length; `None` while it is incomplete.
fn parse_head(bytes: &[u8], method: Method) -> Result<Option<(ResponseHead, usize)>, ResponseError> {
    let mut fields = [const { MaybeUninit::uninit() }; ENGINE_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let len = match config.parse_response_with_uninit_headers(&mut response, bytes, &mut fields) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(ResponseError::TooManyFields),
        Err(httparse::Error::Version) => return Err(ResponseError::VersionUnsupported),
        Err(error) => return Err(ResponseError::Syntax(error)),
    };
    if response.version != Some(1) {
        return Err(ResponseError::VersionUnsupported);
    }
    let status = match response.code.unwrap_or_default() {
        101 => return Err(ResponseError::Upgraded),
        status @ 100..=599 => status,
        status => return Err(ResponseError::Status(status)),
    };
    let mut facts = Facts::default();
    for field in response.headers.iter() {
        facts.note(field)?;
    }
    let is_bodiless = method == Method::Head || status < 200 || status == 204 || status == 304;
    let framing = match (is_bodiless, facts.length, facts.is_chunked) {
        (_, Some(_), true) => return Err(ResponseError::LengthBesideCoding),
        (true, ..) => Framing::None,
        (false, Some(length), false) => Framing::Length(length),
        (false, None, true) => Framing::Chunked,
        (false, None, false) => Framing::UntilClose,
    };
    let keep_alive = !facts.says_close && framing != Framing::UntilClose;
    Ok(Some((ResponseHead { status, framing, keep_alive }, len)))
}

/// What the fields seen so far say.
#[derive(Debug, Default)]
struct Facts {
    length: Option<u64>,
    is_chunked: bool,
    says_close: bool,
}

impl Facts {
    fn note(&mut self, field: &httparse::Header<'_>) -> Result<(), ResponseError> {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            if self.length.is_some() {
                return Err(ResponseError::LengthRepeated);
            }
            self.length = Some(parse_length(field.value)?);
        } else if is("transfer-encoding") {
            if self.is_chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(ResponseError::CodingUnsupported);
            }
            self.is_chunked = true;
        } else if is("connection") {
            let mut options = field.value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
            self.says_close |= options.any(|option| option.eq_ignore_ascii_case(b"close"));
        }
        Ok(())
    }
}

/// Digits and nothing else. A number beyond 64 bits is too large for anybody, and saturates.
fn parse_length(value: &[u8]) -> Result<u64, ResponseError> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(ResponseError::LengthInvalid);
    }
    let digits = value.iter().map(|digit| u64::from(digit - b'0'));
    Ok(digits.fold(0, |length: u64, digit| length.saturating_mul(10).saturating_add(digit)))
}
