//! Bytes and cuts that nobody chose.

use super::super::fuzzing::engine_response;
use super::*;
use crate::http::testing::{self, framed, pieces};
use proptest::collection::vec;
use proptest::prelude::*;

/// What engines say.
fn words() -> impl Strategy<Value = Vec<u8>> {
    let words = testing::words(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 500 ",
        "Content-Length: 5\r\n",
        "Content-Length: 99999\r\n",
        "Transfer-Encoding: chunked\r\n",
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
    ]);
    // Most begin as an answer does, or little else would be heard.
    (prop::bool::weighted(0.8), words).prop_map(|(is_answer, words)| {
        let start: &[u8] = if is_answer { b"HTTP/1.1 200 OK\r\n" } else { b"" };
        [start, words.as_slice()].concat()
    })
}

proptest! {
    #[test]
    fn no_cut_changes_what_is_heard(
        bytes in words(),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
        is_closed in any::<bool>(),
        is_head in any::<bool>(),
    ) {
        let method = if is_head { Method::Head } else { Method::Post };
        prop_assert_eq!(hear(method, &pieces(&bytes, &cuts), is_closed), hear(method, &[&bytes], is_closed));
    }

    #[test]
    fn no_bytes_at_all_break_a_promise_of_the_fuzzer(input in vec(any::<u8>(), 0..200)) {
        engine_response(&input);
    }

    #[test]
    fn what_an_engine_writes_is_what_is_heard(
        status in 200..600u16,
        fields in vec(("x-[a-z0-9]{0,12}", "([!-~]([ -~]{0,30}[!-~])?)?"), 0..10),
        body in vec(any::<u8>(), 0..300),
        chunk_sizes in prop::option::of(vec(1..40usize, 1..10)),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        prop_assume!(status != 204 && status != 304);
        let mut bytes = format!("HTTP/1.1 {status} Whatever\r\n").into_bytes();
        for (name, value) in &fields {
            bytes.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        bytes.extend(framed(&body, chunk_sizes));
        let heard = hear(Method::Get, &pieces(&bytes, &cuts), false);
        prop_assert_eq!(heard.ending, Ending::Complete(bytes.len()));
        prop_assert_eq!((heard.head.unwrap().status, heard.body), (status, body));
    }
}
