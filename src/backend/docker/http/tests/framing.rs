//! Which bytes are an answer. Every case is sent whole, then cut at every byte, and has to end the same way.

use super::*;
use crate::limits::*;

/// What is heard of `bytes`, after having made sure that no cut changes it.
#[track_caller]
fn heard_however_cut(method: Method, bytes: &[u8], is_closed: bool) -> Heard {
    let whole = hear(method, &[bytes], is_closed);
    // Beyond some length, looking at every cut takes the square of it.
    for at in (1..bytes.len()).step_by(1 + bytes.len() / 500) {
        let (one, two) = bytes.split_at(at);
        let heard = hear(method, &[one, two], is_closed);
        assert_eq!(heard, whole, "cut at {at}: {:?}", String::from_utf8_lossy(bytes));
    }
    let single: Vec<&[u8]> = bytes.chunks(1 + bytes.len() / 5000).collect();
    assert_eq!(hear(method, &single, is_closed), whole, "byte by byte: {:?}", String::from_utf8_lossy(bytes));
    whole
}

/// The answer is complete with its last byte: status, body, and whether the connection goes on.
#[track_caller]
fn answers(bytes: &str, status: u16, body: &str, keep_alive: bool) {
    let heard = heard_however_cut(Method::Get, bytes.as_bytes(), false);
    assert_eq!(heard.ending, Ending::Complete(bytes.len()), "{bytes:?}");
    let head = heard.head.unwrap();
    assert_eq!(
        (head.status, String::from_utf8_lossy(&heard.body).as_ref(), head.keep_alive),
        (status, body, keep_alive)
    );
}

#[track_caller]
fn refuses(bytes: impl AsRef<[u8]>, error: ResponseError) {
    let bytes = bytes.as_ref();
    let heard = heard_however_cut(Method::Get, bytes, false);
    assert_eq!(heard.ending, Ending::Refused(error), "{:?}", String::from_utf8_lossy(bytes));
}

/// An answer with these fields, and what follows the head.
fn answer(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}")
}

#[test]
fn an_answer_ends_with_its_length_or_with_its_last_chunk() {
    answers(&answer("Content-Length: 5\r\n", "hello"), 200, "hello", true);
    answers(&answer("content-length: 0\r\n", ""), 200, "", true);
    answers(&answer("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"), 200, "hello!", true);
    answers(
        &answer("Transfer-Encoding: Chunked\r\n", "00a;x=\"y\"\r\n0123456789\r\n0\r\nA: b\r\nC: d\r\n\r\n"),
        200,
        "0123456789",
        true,
    );
    answers(&answer("Transfer-Encoding: chunked\r\n", "A \r\n0123456789\r\n000\r\n\r\n"), 200, "0123456789", true);
    answers("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", 404, "{}", true);
    answers("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, "", true);
}

#[test]
fn answers_to_head_and_204_and_304_have_no_body_whatever_they_say() {
    answers("HTTP/1.1 204 No Content\r\n\r\n", 204, "", true);
    answers("HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n", 304, "", true);
    let ping = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\n";
    let heard = heard_however_cut(Method::Head, ping.as_bytes(), false);
    assert_eq!((heard.ending, heard.body), (Ending::Complete(ping.len()), vec![]));
}

#[test]
fn an_answer_without_an_end_of_its_own_ends_with_the_connection_which_is_no_more() {
    let bytes = answer("Content-Type: text/plain\r\n", "hello");
    let heard = heard_however_cut(Method::Get, bytes.as_bytes(), false);
    assert_eq!((heard.ending, heard.body.as_slice()), (Ending::Open, b"hello".as_slice()));
    let head = ResponseHead { status: 200, framing: Framing::UntilClose, keep_alive: false };
    assert_eq!(heard.head, Some(head));
    let heard = heard_however_cut(Method::Get, bytes.as_bytes(), true);
    assert_eq!((heard.ending, heard.body.as_slice()), (Ending::Complete(bytes.len()), b"hello".as_slice()));
}

#[test]
fn no_other_answer_ends_with_the_connection() {
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    let whole = [answer("Content-Length: 5\r\n", "hello"), answer("Transfer-Encoding: chunked\r\n", chunked)];
    for bytes in whole {
        for end in 0..bytes.len() {
            let heard = hear(Method::Get, &[&bytes.as_bytes()[..end]], true);
            assert_eq!(heard.ending, Ending::Refused(ResponseError::Truncated), "{:?}", &bytes[..end]);
        }
        assert_eq!(hear(Method::Get, &[bytes.as_bytes()], true).ending, Ending::Complete(bytes.len()));
    }
}

#[test]
fn what_follows_an_answer_is_not_part_of_it() {
    for first in
        [answer("Content-Length: 2\r\n", "ok"), answer("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n")]
    {
        let heard = heard_however_cut(Method::Get, format!("{first}HTTP/1.1 500 No\r\n\r\n").as_bytes(), false);
        assert_eq!((heard.ending, heard.body.as_slice()), (Ending::Complete(first.len()), b"ok".as_slice()));
    }
}

#[test]
fn interim_answers_are_skipped_up_to_a_limit_and_an_upgrade_is_none() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    let last = answer("Content-Length: 2\r\n", "ok");
    answers(&format!("{interim}HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{last}"), 200, "ok", true);
    answers(&format!("{}{last}", interim.repeat(ENGINE_INTERIM_MAX)), 200, "ok", true);
    refuses(format!("{}{last}", interim.repeat(ENGINE_INTERIM_MAX + 1)), ResponseError::TooManyInterim);
    refuses("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\n", ResponseError::Upgraded);
}

#[test]
fn a_connection_goes_on_unless_the_engine_says_close() {
    answers(&answer("Connection: close\r\nContent-Length: 0\r\n", ""), 200, "", false);
    answers(&answer("Connection: x, Close\r\nContent-Length: 0\r\n", ""), 200, "", false);
    answers(&answer("Connection: keep-alive\r\nContent-Length: 0\r\n", ""), 200, "", true);
}

#[test]
fn an_answer_whose_end_is_not_certain_is_garbage() {
    let fields = [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", ResponseError::LengthRepeated),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", ResponseError::LengthBesideCoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", ResponseError::LengthBesideCoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", ResponseError::CodingUnsupported),
        ("Transfer-Encoding: gzip, chunked\r\n", ResponseError::CodingUnsupported),
        ("Transfer-Encoding: identity\r\n", ResponseError::CodingUnsupported),
        ("Content-Length: +5\r\n", ResponseError::LengthInvalid),
        ("Content-Length: 5, 5\r\n", ResponseError::LengthInvalid),
        ("Content-Length: \r\n", ResponseError::LengthInvalid),
        ("Content-Length: -1\r\n", ResponseError::LengthInvalid),
    ];
    for (fields, error) in fields {
        refuses(answer(fields, "hello"), error);
    }
    refuses(
        "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        ResponseError::LengthBesideCoding,
    );
}

#[test]
fn a_length_beyond_all_numbers_is_a_very_long_body() {
    let heard =
        heard_however_cut(Method::Get, answer("Content-Length: 99999999999999999999\r\n", "x").as_bytes(), false);
    assert_eq!((heard.ending, heard.head.unwrap().framing), (Ending::Open, Framing::Length(u64::MAX)));
}

#[test]
fn chunks_that_are_none_are_garbage() {
    let long = format!("5;{}", "x".repeat(ENGINE_CHUNK_LINE_BYTES_MAX));
    let chunks = [
        ("x\r\n", BodyError::ChunkSize),
        ("\r\n", BodyError::ChunkSize),
        ("-5\r\n", BodyError::ChunkSize),
        ("0x5\r\n", BodyError::ChunkSize),
        ("10000000000000000\r\n", BodyError::ChunkSize),
        ("5\nhello", BodyError::ChunkSize),
        ("5;x\nhello", BodyError::LineEnd),
        ("5\rhello", BodyError::LineEnd),
        ("5\r\nhello!", BodyError::ChunkEnd),
        ("5\r\nhello\n", BodyError::ChunkEnd),
        ("5\r\nhello\r!", BodyError::ChunkEnd),
        ("0\r\nA: b\n", BodyError::LineEnd),
        ("0\r\nA\u{0}: b\r\n", BodyError::LineEnd),
        ("0\r\n\rx", BodyError::LineEnd),
        (&long, BodyError::ChunkLineTooLong),
    ];
    for (chunks, error) in chunks {
        refuses(answer("Transfer-Encoding: chunked\r\n", chunks), ResponseError::Body(error));
    }
    let trailers = format!("0\r\n{}", "A: b\r\n".repeat(ENGINE_TRAILER_BYTES_MAX / 6 + 1));
    refuses(answer("Transfer-Encoding: chunked\r\n", &trailers), ResponseError::Body(BodyError::TrailersTooLarge));
}

#[test]
fn what_is_no_http_11_is_garbage() {
    for version in ["HTTP/1.0", "HTTP/2.0", "HTTP/1.2", "http/1.1"] {
        refuses(format!("{version} 200 OK\r\nContent-Length: 0\r\n\r\n"), ResponseError::VersionUnsupported);
    }
    refuses("SSH-2.0-OpenSSH_9.2\r\n", ResponseError::VersionUnsupported);
    refuses("\u{15}\u{3}\u{1}\u{0}\u{2}\u{2}\u{46}\u{50}\u{50}", ResponseError::VersionUnsupported);
    refuses("HTTP/1.1 20 OK\r\n\r\n", ResponseError::Syntax(httparse::Error::Status));
    refuses("HTTP/1.1 000 OK\r\n\r\n", ResponseError::Status(0));
    refuses("HTTP/1.1 999 OK\r\n\r\n", ResponseError::Status(999));
    refuses(answer("A B: c\r\n", ""), ResponseError::Syntax(httparse::Error::HeaderName));
    refuses(answer("A: b\u{0}c\r\n", ""), ResponseError::Syntax(httparse::Error::HeaderValue));
}

#[test]
fn a_head_has_limits_and_reaches_them() {
    let fill = |len: usize| {
        let frame = answer("A: \r\nContent-Length: 0\r\n", "").len();
        answer(&format!("A: {}\r\nContent-Length: 0\r\n", "x".repeat(len - frame)), "")
    };
    answers(&fill(ENGINE_HEAD_BYTES_MAX - 1), 200, "", true);
    answers(&fill(ENGINE_HEAD_BYTES_MAX), 200, "", true);
    refuses(fill(ENGINE_HEAD_BYTES_MAX + 1), ResponseError::HeadTooLarge);
    refuses("\r\n".repeat(ENGINE_HEAD_BYTES_MAX), ResponseError::HeadTooLarge);
    let fields = |count: usize| answer(&format!("Content-Length: 0\r\n{}", "A: b\r\n".repeat(count - 1)), "");
    answers(&fields(ENGINE_HEADERS_MAX), 200, "", true);
    refuses(fields(ENGINE_HEADERS_MAX + 1), ResponseError::TooManyFields);
}
