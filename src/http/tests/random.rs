//! Bytes and cuts that nobody chose.

use super::super::testing::{self, framed, pieces};
use super::*;
use crate::limits::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// What clients say.
fn words() -> impl Strategy<Value = Vec<u8>> {
    testing::words(vec![
        "GET / HTTP/1.1\r\n",
        "POST /f?q HTTP/1.1\r\n",
        "GET /denied HTTP/1.0\r\n",
        "Host: h\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 99999\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Expect: 100-continue\r\n",
        "Connection: close\r\n",
        "\r\n",
        "\r",
        "\n",
        "5\r\n",
        "hello",
        "hello\r\n",
        "0\r\n",
        "0\r\n\r\n",
        ";x=y",
        "X: y\r\n",
        " ",
        ":",
    ])
}

/// What a client may send in one field.
fn field() -> impl Strategy<Value = (String, String)> {
    ("x-[a-z0-9]{0,12}", "([!-~]([ -~]{0,30}[!-~])?)?")
}

proptest! {
    #[test]
    fn nothing_panics_and_what_is_held_stays_bounded(
        bytes in words(),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
        acts in vec(0..8u8, 0..40),
    ) {
        let mut driver = Driver::new();
        driver.is_holding = true;
        let mut acts = acts.into_iter().chain(std::iter::repeat(0));
        for piece in pieces(&bytes, &cuts) {
            if driver.conn.wants_read() {
                driver.conn.received(piece);
            }
            driver.poll();
            match acts.next() {
                Some(1) => driver.respond(Response::new(200)),
                Some(2) => driver.conn.wrote(7, driver.now),
                Some(3) => { driver.wait(Duration::from_secs(7)); }
                Some(4) => driver.conn.peer_closed(),
                Some(5) => driver.conn.announce_stop(),
                Some(6) => driver.conn.stop(),
                Some(7) => driver.conn.give_up(driver.now, &mut driver.stamp),
                _ => { driver.turn(); }
            }
            prop_assert!(driver.conn.output().len() <= HTTP_OUTPUT_BYTES_MAX + HTTP_BODY_COPY_BYTES_MAX);
        }
        // Whatever happened, an end of the client and enough time end the connection.
        driver.finish();
        driver.respond(Response::new(200));
        driver.is_holding = false;
        driver.turn().wait(HTTP_DRAIN_TIMEOUT);
        prop_assert!(driver.is_closed);
    }

    #[test]
    fn no_cut_changes_what_the_client_sees(bytes in words(), cuts in vec(any::<prop::sample::Index>(), 0..8)) {
        let seen = |pieces: &[&[u8]]| {
            let mut driver = Driver::new();
            for piece in pieces {
                driver.send(piece);
            }
            let mut statuses = driver.statuses();
            statuses.retain(|&status| status != 100);
            (driver.requests, statuses)
        };
        prop_assert_eq!(seen(&pieces(&bytes, &cuts)), seen(&[&bytes]));
    }

    #[test]
    fn what_a_client_writes_is_what_the_front_reads(
        method in "[A-Z]{1,10}",
        path in "/[a-zA-Z0-9._~/-]{0,40}",
        query in prop::option::of("[a-z0-9=&%+]{0,40}"),
        fields in vec(field(), 0..10),
        body in vec(any::<u8>(), 0..=BODY_MAX),
        chunk_sizes in prop::option::of(vec(1..20usize, 1..10)),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        prop_assume!(method != "CONNECT" && path != "/denied");
        let target = query.as_ref().map_or(path.clone(), |query| format!("{path}?{query}"));
        let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n").into_bytes();
        for (name, value) in &fields {
            bytes.extend(format!("{}: {value}\r\n", name.to_ascii_uppercase()).into_bytes());
        }
        bytes.extend(framed(&body, chunk_sizes));
        let mut driver = Driver::new();
        let mut request = None;
        for piece in pieces(&bytes, &cuts) {
            driver.conn.received(piece);
            if let Poll::Request(complete) = driver.conn.poll(driver.now, &mut driver.stamp, &mut admit) {
                request = Some(complete);
            }
        }
        let request = request.expect("a valid request is accepted");
        let head = &request.head;
        prop_assert_eq!((head.method(), head.path(), head.query()), (method.as_str(), path.as_str(), query.as_deref()));
        prop_assert_eq!(&request.body, &body);
        let seen: Vec<(String, String)> = head
            .headers()
            .filter(|(name, _)| name.starts_with("x-"))
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value).into_owned()))
            .collect();
        prop_assert_eq!(seen, fields);
    }
}
