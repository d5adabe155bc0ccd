//! The stop of the server, as a connection sees it.

use super::*;
use crate::limits::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const SECOND: Duration = Duration::from_secs(1);

fn post(len: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n")
}

/// How many of the answers say that the connection ends.
fn ends(driver: &Driver) -> usize {
    driver.text().matches("\r\nConnection: close\r\n").count()
}

#[test]
fn a_connection_without_a_request_outlives_the_announcement_and_not_the_stop() {
    let mut driver = Driver::new();
    driver.send(GET);
    driver.conn.announce_stop();
    assert!(!driver.turn().is_closed);
    driver.conn.stop();
    assert!(driver.turn().is_closed);
    assert_eq!((driver.statuses(), ends(&driver)), (vec![200], 0));
}

#[test]
fn a_request_after_the_announcement_is_answered_and_ends_the_connection() {
    let mut driver = Driver::new();
    driver.conn.announce_stop();
    driver.send(GET);
    assert_eq!((driver.statuses(), ends(&driver)), (vec![200], 1));
    // The client may be sending the next one: a close would reset what it has not read.
    assert!(driver.conn.take_half_close() && !driver.is_closed);
    driver.send(GET);
    assert_eq!(driver.statuses(), [200]);
    assert!(driver.finish().is_closed);
}

#[test]
fn pipelined_requests_are_all_answered_and_the_last_answer_alone_ends_the_connection() {
    for stops in [false, true] {
        let mut driver = Driver::new();
        driver.is_holding = true;
        driver.send([GET, GET, "GET /half HTTP/1.1\r\n"].concat());
        driver.conn.announce_stop();
        if stops {
            driver.conn.stop();
        }
        driver.is_holding = false;
        driver.respond(Response::new(200));
        driver.turn().send("Host: h\r\n\r\n");
        assert_eq!((driver.statuses(), ends(&driver)), (vec![200, 200, 200], 1), "{stops}");
        assert!(driver.text().rfind("HTTP/1.1 200") < driver.text().find("Connection: close"));
    }
}

#[test]
fn a_body_that_was_under_way_at_the_stop_is_taken_and_answered() {
    let mut driver = Driver::new();
    driver.send(post(5)).send("he");
    driver.conn.announce_stop();
    driver.conn.stop();
    driver.turn().send("llo");
    assert_eq!((driver.requests.as_slice(), ends(&driver)), (["POST / hello".to_owned()].as_slice(), 1));
}

#[test]
fn requests_that_begin_after_the_stop_are_refused_and_the_one_before_them_is_not() {
    let mut driver = Driver::new();
    driver.is_holding = true;
    driver.send(GET);
    driver.conn.announce_stop();
    driver.conn.stop();
    driver.turn().send(GET.repeat(2));
    driver.respond(Response::new(200));
    driver.turn();
    assert_eq!((driver.statuses(), ends(&driver)), (vec![200, 503, 503], 1));
    assert!(driver.text().contains("\"code\":\"shutting_down\""), "{}", driver.text());
    assert_eq!(driver.requests.len(), 1);
    assert!(driver.finish().is_closed);
    // What is not a whole request by then is not waited for.
    let mut driver = Driver::new();
    driver.is_holding = true;
    driver.send(GET);
    driver.conn.stop();
    driver.turn().send("GET / HT");
    driver.respond(Response::new(200));
    assert!(driver.turn().conn.take_half_close());
    assert_eq!(driver.statuses(), [200]);
}

#[test]
fn what_has_not_come_whole_when_the_grace_is_over_is_refused() {
    for (sent, answered) in [(post(5) + "he", 1), ("GET / HTTP".to_owned(), 1), (String::new(), 0)] {
        let mut driver = Driver::new();
        driver.send(&sent);
        driver.conn.announce_stop();
        driver.conn.stop();
        driver.turn();
        driver.conn.give_up(driver.now, &mut driver.stamp);
        driver.turn();
        assert_eq!((driver.statuses(), ends(&driver)), (vec![503; answered], answered), "{sent}");
        assert!(driver.wait(HTTP_DRAIN_TIMEOUT).is_closed);
    }
}

#[test]
fn a_refusal_for_the_lack_of_a_key_ends_the_connection_only_when_nothing_follows() {
    let denied = "POST /denied HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi";
    let mut driver = Driver::new();
    driver.conn.announce_stop();
    driver.send([denied, GET].concat());
    assert_eq!((driver.statuses(), ends(&driver)), (vec![401, 200], 1));
    let mut driver = Driver::new();
    driver.conn.announce_stop();
    driver.send(denied);
    assert_eq!((driver.statuses(), ends(&driver)), (vec![401], 1));
    assert!(driver.wait(4 * SECOND).is_closed);
}
