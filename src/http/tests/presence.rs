//! Clients that close their side while they wait for an answer.

use super::*;
use crate::limits::*;

/// A connection whose client has sent a request and its end.
fn half_closed(request: &str) -> Driver {
    let mut driver = Driver::new();
    driver.is_holding = true;
    driver.send(request).finish();
    driver
}

#[test]
fn a_client_that_has_half_closed_is_asked_now_and_then_whether_it_still_waits() {
    let mut driver = half_closed("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut pause = HTTP_PRESENCE_PAUSE;
    for asked in 1..=HTTP_PRESENCE_ASKED_MAX as usize {
        assert_eq!(driver.conn.deadline(), Some(driver.now + pause));
        assert_eq!(driver.wait(pause).statuses(), vec![100; asked]);
        pause *= HTTP_PRESENCE_PAUSE_GROWTH;
    }
    assert_eq!(driver.conn.deadline(), None, "and then it is believed");
    driver.respond(Response::new(204));
    assert_eq!(driver.turn().statuses(), [100, 100, 100, 100, 204]);
    assert!(driver.is_closed && !driver.text().contains("100 Continue\r\nDate"));
}

#[test]
fn a_fast_answer_comes_alone() {
    let mut driver = half_closed("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    driver.wait(HTTP_PRESENCE_PAUSE - Duration::from_millis(1)).respond(Response::new(204));
    assert_eq!(driver.turn().statuses(), [204]);
}

#[test]
fn a_client_that_may_still_send_or_speaks_http_1_0_is_not_asked() {
    let mut driver = half_closed("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((driver.conn.deadline(), driver.wait(HTTP_PRESENCE_PAUSE * 9).statuses()), (None, vec![]));
    let mut driver = Driver::new();
    driver.is_holding = true;
    driver.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((driver.conn.deadline(), driver.wait(HTTP_PRESENCE_PAUSE * 9).statuses()), (None, vec![]));
}

#[test]
fn each_of_pipelined_requests_is_asked_about_and_never_amid_an_answer() {
    let mut driver = half_closed(&"GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(2));
    driver.wait(HTTP_PRESENCE_PAUSE);
    driver.respond(Response::new(200).with_body(vec![b'x'; HTTP_BODY_COPY_BYTES_MAX]));
    assert!(driver.poll() && !driver.poll(), "the second request, and a wait");
    // The client is slow to take the first answer.
    let held = driver.conn.output().len();
    driver.now += HTTP_PRESENCE_PAUSE;
    driver.conn.expired(driver.now, &mut driver.stamp);
    assert_eq!(driver.conn.output().len(), held);
    driver.write();
    assert_eq!(driver.wait(HTTP_PRESENCE_PAUSE).statuses(), [100, 200, 100]);
    driver.respond(Response::new(204));
    assert_eq!(driver.turn().statuses(), [100, 200, 100, 204]);
}
