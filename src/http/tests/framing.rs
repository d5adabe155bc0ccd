//! Which bytes are a request. Every case is sent whole, then cut at every byte, and has to end the same way.

use super::*;

/// What became of the bytes: the requests that the front saw, the final statuses, the last problem's detail, and
/// whether the connection would go on.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    requests: Vec<String>,
    statuses: Vec<u16>,
    detail: String,
    is_over: bool,
}

fn verdict(pieces: &[&[u8]]) -> Verdict {
    let mut driver = Driver::new();
    for piece in pieces {
        driver.send(piece);
    }
    let mut statuses = driver.statuses();
    // Whether a client has to be told to go on depends on whether it did; the verdict does not.
    statuses.retain(|&status| status != 100);
    let text = driver.text();
    let detail = text.rsplit_once("\"detail\":\"").and_then(|(_, rest)| rest.split_once("\",\"code"));
    let detail = detail.map_or("", |(detail, _)| detail).to_string();
    // A refused connection drains; it takes no further request.
    let is_over = driver.is_closed || text.contains("Connection: close");
    Verdict { requests: driver.requests, statuses, detail, is_over }
}

/// The verdict on `bytes`, after having made sure that no cut changes it.
fn verdict_however_cut(bytes: &[u8]) -> Verdict {
    let whole = verdict(&[bytes]);
    for at in 1..bytes.len() {
        let (one, two) = bytes.split_at(at);
        assert_eq!(verdict(&[one, two]), whole, "cut at {at}: {:?}", String::from_utf8_lossy(bytes));
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(verdict(&single), whole, "byte by byte: {:?}", String::from_utf8_lossy(bytes));
    whole
}

#[track_caller]
fn accepts(bytes: &str, requests: &[&str]) {
    let verdict = verdict_however_cut(bytes.as_bytes());
    assert_eq!(verdict.requests, requests, "{bytes:?}: {verdict:?}");
    assert!(verdict.statuses.iter().all(|&status| status == 200), "{bytes:?}: {verdict:?}");
}

#[track_caller]
fn refuses(bytes: impl AsRef<[u8]>, status: u16, detail: &str) {
    let bytes = bytes.as_ref();
    let verdict = verdict_however_cut(bytes);
    let text = String::from_utf8_lossy(bytes);
    assert_eq!((verdict.statuses.as_slice(), verdict.is_over), ([status].as_slice(), true), "{text:?}: {verdict:?}");
    assert_eq!(verdict.requests, [""; 0], "{text:?}");
    assert!(verdict.detail.contains(detail), "{text:?}: {verdict:?}");
}

/// A POST with these fields beside Host, and what follows the head.
fn post(fields: &str, rest: &str) -> String {
    format!("POST /f HTTP/1.1\r\nHost: h\r\n{fields}\r\n{rest}")
}

fn chunked(rest: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", rest)
}

#[test]
fn requests_as_they_should_be() {
    accepts("GET / HTTP/1.1\r\nHost: h\r\n\r\n", &["GET / "]);
    accepts("GET /a/b?c=d&e HTTP/1.1\r\nHost: h:80\r\n\r\n", &["GET /a/b?c=d&e "]);
    accepts("GET / HTTP/1.1\r\nHost:\r\n\r\n", &["GET / "]);
    accepts("GET / HTTP/1.1\r\nHost: \t[::1]:80 \t\r\nEmpty:  \r\nX: \u{e9}\r\n\r\n", &["GET / "]);
    accepts("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", &["GET / "]);
    accepts("GET / HTTP/1.0\r\n\r\n", &["GET / "]);
    accepts(&post("Content-Length: 3\r\n", "abc"), &["POST /f abc"]);
    accepts(&post("content-length: 0003\r\n", "abc"), &["POST /f abc"]);
    accepts(&post("Content-Length: 0\r\n", ""), &["POST /f "]);
    accepts(&post("", ""), &["POST /f "]);
}

#[test]
fn every_target_form() {
    accepts("GET http://other/p?q HTTP/1.1\r\nHost: h\r\n\r\n", &["GET /p?q "]);
    accepts("GET http://other HTTP/1.1\r\nHost: h\r\n\r\n", &["GET / "]);
    accepts("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", &["OPTIONS * "]);
    refuses("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", 501, "CONNECT");
    for bad in ["*", "x", "h:1", "/a\\b", "/a#b", "/\"", "http://u:p@h/", "ftp://h/", "//\u{e9}"] {
        refuses(format!("GET {bad} HTTP/1.1\r\nHost: h\r\n\r\n"), 400, "request");
    }
    refuses(b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n", 400, "request line");
}

#[test]
fn pipelined_requests_and_an_empty_line_after_a_body() {
    let two = [post("Content-Length: 1\r\n", "a\r\n"), chunked("1\r\nb\r\n0\r\n\r\n")].concat();
    accepts(&two, &["POST /f a", "POST /f b"]);
    refuses("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "empty lines");
    refuses("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "carriage return");
    refuses("\rGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "");
}

#[test]
fn the_request_line() {
    for bad in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /",
        "GET / HTTP",
        "GET / http/1.1",
        "G(T / HTTP/1.1",
        "GET / HTTP/1.1\r",
        "GET /\0 HTTP/1.1",
        "\0",
        "GET /\x7f HTTP/1.1",
    ] {
        refuses(format!("{bad}\r\nHost: h\r\n\r\n"), 400, "");
    }
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/11", "HTTP/2"] {
        refuses(format!("GET / {version}\r\nHost: h\r\n\r\n"), 505, "HTTP/1.1");
    }
    refuses(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400, "request line");
}

#[test]
fn bare_line_feeds_and_carriage_returns() {
    for bad in [
        "GET / HTTP/1.1\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\n\r\n",
        "GET / HTTP/1.1\r\nHost: h \t\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX:\nY: z\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: \nY: z\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\n",
        "GET / HTTP/1.1\nHost: h\n\n",
    ] {
        refuses(bad, 400, "without a carriage return");
    }
    for bad in ["X: a\rb", "X: \r", "X: a\r", "\rX: a", "X\r: a", "X:\rY: a"] {
        refuses(post(&format!("{bad}\r\n"), ""), 400, "");
    }
}

#[test]
fn header_fields() {
    for bad in
        ["X : a", "X\t: a", "X Y: a", ": a", "X", " X: a", "\tX: a", "X\0: a", "\u{e9}: a", "X(: a", "X: a\r\n b"]
    {
        refuses(post(&format!("{bad}\r\n"), ""), 400, "name");
    }
    for bad in ["X: \0", "X: a\0b", "X: a\x01", "X: \x7f", "X: \x1b"] {
        refuses(post(&format!("{bad}\r\n"), ""), 400, "value");
    }
    refuses("GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400, "name");
}

#[test]
fn the_host_field() {
    refuses("GET / HTTP/1.1\r\n\r\n", 400, "Host field is missing");
    refuses("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400, "twice");
    refuses("GET / HTTP/1.0\r\nHost: h\r\nhost: i\r\n\r\n", 400, "twice");
    for bad in ["a b", "a,b", "u@h", "h/p", "h\\", "\u{e9}", "h?q"] {
        refuses(format!("GET / HTTP/1.1\r\nHost: {bad}\r\n\r\n"), 400, "not a host");
    }
}

#[test]
fn lengths() {
    for bad in ["", "+3", "-3", "3,3", "3, 3", "0x3", "3 3", "three", "3.0", "\u{663}"] {
        refuses(post(&format!("Content-Length: {bad}\r\n"), "abc"), 400, "not a number");
    }
    refuses(post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"), 400, "twice");
    refuses(post("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"), 400, "twice");
    for large in ["101", "18446744073709551615", "18446744073709551616", "99999999999999999999999999"] {
        refuses(post(&format!("Content-Length: {large}\r\n"), "abc"), 413, "100 bytes");
    }
}

#[test]
fn lengths_and_codings_exclude_each_other() {
    let body = "1\r\na\r\n0\r\n\r\n";
    refuses(post("Content-Length: 11\r\nTransfer-Encoding: chunked\r\n", body), 400, "exclude");
    refuses(post("Transfer-Encoding: chunked\r\nContent-Length: 11\r\n", body), 400, "exclude");
    refuses(post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", body), 400, "exclude");
    for bad in ["", "gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked", "identity", "xchunked", "chunked;q=1"]
    {
        refuses(post(&format!("Transfer-Encoding: {bad}\r\n"), body), 400, "only Transfer-Encoding");
    }
    refuses(post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", body), 400, "only Transfer-Encoding");
    refuses(format!("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{body}"), 400, "HTTP/1.0");
    accepts(&post("Transfer-Encoding: \tCHUNKED \r\n", body), &["POST /f a"]);
}

#[test]
fn chunks() {
    accepts(&chunked("0\r\n\r\n"), &["POST /f "]);
    accepts(&chunked("3\r\nabc\r\n0002\r\nde\r\n0\r\n\r\n"), &["POST /f abcde"]);
    accepts(&chunked("A\r\n0123456789\r\na\r\n0123456789\r\n00\r\n\r\n"), &["POST /f 01234567890123456789"]);
    for bad in [
        "\r\n",
        "+1\r\na\r\n",
        "-1\r\na\r\n",
        "x\r\n",
        "0x1\r\na\r\n",
        " 1\r\na\r\n",
        "1 \r\na\r\n",
        "1,\r\n",
        "\n",
        "1\na\r\n",
        "10000000000000000\r\n",
        "00000000000000000ffffffffffffffff0\r\n",
        ";x\r\n",
    ] {
        refuses(chunked(bad), 400, "chunk size");
    }
    for bad in
        ["1\r\na0\r\n\r\n", "1\r\nab\r\n0\r\n\r\n", "1\r\na\n0\r\n\r\n", "1\r\na\r0\r\n\r\n", "1\r\na\r\r\n0\r\n\r\n"]
    {
        refuses(chunked(bad), 400, "not followed by an end of line");
    }
    refuses(chunked("1\ra"), 400, "extension");
    refuses(chunked("65\r\n"), 413, "100 bytes");
    refuses(chunked("ffffffffffffffff\r\n"), 413, "100 bytes");
    refuses(chunked(&format!("64\r\n{}\r\n1\r\n", "x".repeat(100))), 413, "100 bytes");
    accepts(&chunked(&format!("64\r\n{0}\r\n0\r\n\r\n", "x".repeat(100))), &[&format!("POST /f {}", "x".repeat(100))]);
}

#[test]
fn chunk_extensions_are_checked_and_dropped() {
    accepts(&chunked("1;a=b\r\nx\r\n1 ; q=\"\t \u{e9};\"\r\ny\r\n0;last\r\n\r\n"), &["POST /f xy"]);
    for bad in ["1;a\nx\r\n", "1;a\rx", "1;\0\r\n", "1;\x7f\r\n"] {
        refuses(chunked(bad), 400, "extension");
    }
    refuses(chunked(&format!("1;{}\r\n", "x".repeat(300))), 400, "256 bytes");
    let chunk = format!("1;{}\r\nx\r\n", "x".repeat(200));
    refuses(chunked(&chunk.repeat(21)), 400, "4096 bytes");
}

#[test]
fn trailers_are_checked_and_dropped() {
    accepts(&chunked("1\r\na\r\n0\r\nX-T: v\r\nY:\r\n\r\n"), &["POST /f a"]);
    for bad in [
        "X\r\n\r\n",
        ": v\r\n\r\n",
        "X : v\r\n\r\n",
        " X: v\r\n\r\n",
        "X: v\n\r\n",
        "X: \0\r\n",
        "X: v\r\n y\r\n",
        "X: v\rY",
        "\n",
        "\rX",
    ] {
        refuses(chunked(&format!("0\r\n{bad}")), 400, "trailer");
    }
    refuses(chunked(&format!("0\r\nX: {}\r\n\r\n", "v".repeat(5000))), 431, "4096 bytes");
}

#[test]
fn trailers_are_never_headers() {
    let mut driver = Driver::new();
    driver.conn.received(chunked("0\r\nX-Evil: 1\r\nAuthorization: Bearer k\r\n\r\n").as_bytes());
    let Poll::Request(request) = driver.conn.poll(driver.now, &mut driver.stamp, &mut admit) else { panic!() };
    let names: Vec<&str> = request.head.headers().map(|(name, _)| name).collect();
    assert_eq!(names, ["host", "transfer-encoding"]);
}

#[test]
fn expectations() {
    accepts(&post("Expect: 100-continue\r\nContent-Length: 1\r\n", "a"), &["POST /f a"]);
    accepts(&post("Expect: 100-CONTINUE\r\n", ""), &["POST /f "]);
    refuses(post("Expect: 200-ok\r\nContent-Length: 1\r\n", "a"), 417, "100-continue");
    refuses(post("Expect:\r\n", ""), 417, "100-continue");
}

/// Cuts of long heads are tried near the limits only; everywhere would take minutes.
#[track_caller]
fn refuses_long(bytes: &str, status: u16, detail: &str) {
    let whole = verdict(&[bytes.as_bytes()]);
    assert_eq!((whole.statuses.as_slice(), whole.is_over), ([status].as_slice(), true), "{whole:?}");
    assert!(whole.detail.contains(detail), "{whole:?}");
    for near in [1, 8 * 1024, 16 * 1024, bytes.len() - 20] {
        for at in near.saturating_sub(20).max(1)..(near + 20).min(bytes.len()) {
            let (one, two) = bytes.as_bytes().split_at(at);
            assert_eq!(verdict(&[one, two]), whole, "cut at {at}");
        }
    }
}

#[test]
fn what_is_too_long() {
    let long = |n: usize| "a".repeat(n);
    refuses_long(&format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", long(8192)), 414, "8192 bytes");
    refuses_long(&format!("GET /{}", long(8192)), 414, "8192 bytes");
    // A fault beyond a limit does not matter, before it it does.
    refuses_long(&format!("GET /{}\0 HTTP/1.1\r\nHost: h\r\n\r\n", long(8192)), 414, "8192 bytes");
    refuses_long(&format!("GET /\0{} HTTP/1.1\r\nHost: h\r\n\r\n", long(8192)), 400, "request line");
    refuses_long(&post(&format!("X: {}\r\n", long(17_000)), ""), 431, "16384 bytes");
    refuses_long(&post(&format!("X: {}\0\r\n", long(17_000)), ""), 431, "16384 bytes");
    refuses_long(&post(&format!("X: \0{}\r\n", long(17_000)), ""), 400, "value");
    refuses_long(&long(17_000), 431, "16384 bytes");
    refuses_long(&post(&"X: y\r\n".repeat(64), ""), 431, "64 header fields");
    let verdict = verdict(&[post(&"X: y\r\n".repeat(63), "").as_bytes()]);
    assert_eq!(verdict.statuses, [200]);
    let target = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", long(8191));
    assert_eq!(super::framing::verdict(&[target.as_bytes()]).statuses, [200]);
}

#[test]
fn a_request_turned_away_is_answered_whatever_its_body() {
    let denied = |fields: &str, body: &str| format!("POST /denied HTTP/1.1\r\nHost: h\r\n{fields}\r\n{body}");
    let next = "GET /next HTTP/1.1\r\nHost: h\r\n\r\n";
    // The body's end is known and near: the connection goes on behind it.
    for (fields, body) in [("", ""), ("Content-Length: 3\r\n", "abc"), ("Content-Length: 200\r\n", &"x".repeat(200))] {
        let verdict = verdict_however_cut((denied(fields, body) + next).as_bytes());
        assert_eq!((verdict.statuses, verdict.requests), (vec![401, 200], vec!["GET /next ".to_string()]), "{fields}");
    }
    // It is not: the connection ends.
    for fields in [
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: 9\r\nExpect: 100-continue\r\n",
        "Content-Length: 1000000\r\n",
    ] {
        let verdict = verdict_however_cut((denied(fields, "") + next).as_bytes());
        assert_eq!((verdict.statuses, verdict.requests, verdict.is_over), (vec![401], vec![], true), "{fields}");
    }
}
