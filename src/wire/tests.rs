//! The codec against itself, against random bytes, and (in `vectors`) against what its twin is held to.

mod vectors;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::call::{CallReply, CallRequest, InvocationId, InvokeError};
use crate::limits::{WIRE_BODY_PIECE_BYTES_MAX, WIRE_MESSAGE_BYTES_MAX};

// ---- Calls on their way in ----

/// What an instance makes of the datagrams of one call: the head's payload and the body.
fn receive_call(messages: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
    let (mut head, mut body, mut ended) = (Vec::new(), Vec::new(), false);
    for (index, message) in messages.iter().enumerate() {
        for (position, frame) in decode_message(message, Direction::ToInstance).unwrap().enumerate() {
            assert!(!ended, "a frame after END");
            assert_eq!((frame.id, frame.nonce), (5, 6));
            ended = frame.end;
            match frame.kind {
                Kind::Request => {
                    assert_eq!((index, position), (0, 0));
                    head = frame.payload.to_vec();
                }
                Kind::Body => body.extend_from_slice(frame.payload),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(ended, "no END");
    (head, body)
}

fn messages_of(request: &CallRequest) -> Vec<Vec<u8>> {
    let mut cursor = RequestMessages::new(5, 6);
    let (mut out, mut messages) = (Vec::new(), Vec::new());
    while cursor.next_into(request, &mut out) {
        messages.push(out.clone());
    }
    messages
}

fn a_head(body_len: usize) -> Vec<u8> {
    let parts =
        RequestParts { method: b"POST", path: b"/x", query: b"a=b", request_id: b"req-1", body_len: body_len as u64 };
    let headers: [(&[u8], &[u8]); 1] = [(b"Content-Type", b"text/plain")];
    encode_request_head(&parts, headers).unwrap()
}

#[test]
fn a_call_is_split_exactly_where_its_body_no_longer_fits() {
    const PIECE: usize = WIRE_BODY_PIECE_BYTES_MAX;
    for (body_len, datagrams) in [(0, 1), (1, 1), (PIECE, 1), (PIECE + 1, 2), (2 * PIECE, 2), (2 * PIECE + 1, 3)] {
        let request = CallRequest { head: a_head(body_len), body: (0..body_len).map(|at| at as u8).collect() };
        let messages = messages_of(&request);
        assert_eq!(messages.len(), datagrams, "{body_len}");
        assert_eq!(fits_one_message(body_len), datagrams == 1, "{body_len}");
        assert_eq!(receive_call(&messages), (request.head, request.body), "{body_len}");
    }
}

#[test]
fn header_names_travel_in_lower_case() {
    let head = a_head(0);
    assert_eq!(decode_request_head(&head).unwrap().headers, b"content-type: text/plain\r\n");
}

#[test]
fn a_head_that_fits_no_datagram_is_refused() {
    let parts = RequestParts { method: b"GET", path: b"/", query: b"", request_id: b"r", body_len: 0 };
    let long = vec![b'x'; 30_000];
    let headers: [(&[u8], &[u8]); 1] = [(b"a", &long)];
    assert!(matches!(encode_request_head(&parts, headers), Err(WireError::PartTooLong { part: "request head", .. })));
    let parts = RequestParts { method: &long, ..parts };
    assert!(matches!(encode_request_head(&parts, []), Err(WireError::PartTooLong { part: "method", .. })));
}

#[test]
fn a_function_survives_the_way_to_its_instance_however_long() {
    for environment_bytes in [0, 70_000, 200_000] {
        for code_bytes in [0, 20, 41_000, 1_000_000] {
            let environment = BTreeMap::from([("A".to_owned(), "\u{1}".repeat(environment_bytes / 6))]);
            let head = AssignHead {
                function: "f",
                version: 3,
                module: "main",
                handler: "handle",
                environment: &environment,
                instance: "i1-1",
                log_bytes_max: 10,
                response_bytes_max: 20,
            };
            let code = "#".repeat(code_bytes);
            let (mut json, mut received, mut ended) = (Vec::new(), Vec::new(), false);
            for message in CodeMessages::assign(&head, &code).unwrap() {
                assert!(message.len() <= WIRE_MESSAGE_BYTES_MAX);
                for frame in decode_message(&message, Direction::ToInstance).unwrap() {
                    assert!(!ended);
                    match frame.kind {
                        Kind::Assign => json.extend_from_slice(frame.payload),
                        _ => received.extend_from_slice(frame.payload),
                    }
                    ended = frame.end;
                }
            }
            assert!(ended);
            assert_eq!(received, code.as_bytes());
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(json["environment"]["A"].as_str().unwrap(), environment["A"]);
        }
    }
}

#[test]
fn a_small_function_is_one_datagram() {
    let head = CheckHead { module: "main", handler: "handle" };
    assert_eq!(CodeMessages::check(&head, "def handle(request): ...\n").unwrap().count(), 1);
}

#[test]
fn spawn_plans_that_fit_no_datagram_are_refused() {
    assert!(encode_spawn(1, &[0; 40_000], &[0; 25_504]).is_ok());
    assert!(matches!(encode_spawn(1, &[0; 40_000], &[0; 25_505]), Err(WireError::PartTooLong { .. })));
}

// ---- Answers on their way out ----

const LIMITS: ReplyLimits = ReplyLimits { body_bytes_max: 100_000, header_bytes_max: 64 };

fn assembler() -> ReplyAssembler {
    ReplyAssembler::new(InvocationId(5), 6, LIMITS)
}

fn response(status: u16, headers: &[u8], body_len: u64) -> Vec<u8> {
    let mut head = status.to_le_bytes().to_vec();
    head.extend_from_slice(&[0, 0]);
    head.extend_from_slice(&(headers.len() as u32).to_le_bytes());
    head.extend_from_slice(&body_len.to_le_bytes());
    head.extend_from_slice(headers);
    head
}

fn frame(kind: Kind, end: bool, payload: &[u8]) -> Frame<'_> {
    Frame { kind, end, id: 5, nonce: 6, payload }
}

#[test]
fn an_answer_is_put_together_from_its_pieces() {
    let mut assembler = assembler();
    let head = response(201, b"a: b\r\n", 5);
    assert_eq!(assembler.push(&frame(Kind::Response, false, &head)).unwrap(), None);
    assert_eq!(assembler.push(&frame(Kind::Body, false, b"he")).unwrap(), None);
    let reply = assembler.push(&frame(Kind::Body, true, b"llo")).unwrap();
    let headers = vec![("a".to_owned(), "b".to_owned())];
    assert_eq!(reply, Some(Ok(CallReply { status: 201, headers, body: b"hello".to_vec() })));
    let after = assembler.push(&frame(Kind::Body, true, b"x"));
    assert!(matches!(after, Err(WireError::UnexpectedFrame { kind: Kind::Body })));
}

#[test]
fn errors_become_their_outcome() {
    let outcome = |json: &str| assembler().push(&frame(Kind::Error, true, json.as_bytes()));
    assert_eq!(
        outcome(r#"{"phase":"call","type":"KeyError","message":"'x'"}"#).unwrap(),
        Some(Err(InvokeError::Raised { kind: "KeyError".into(), message: "'x'".into() }))
    );
    assert_eq!(
        outcome(r#"{"phase":"answer","type":"bad_answer","message":"a set"}"#).unwrap(),
        Some(Err(InvokeError::BadAnswer { message: "a set".into() }))
    );
    assert_eq!(
        outcome(r#"{"phase":"answer","type":"too_large","message":""}"#).unwrap(),
        Some(Err(InvokeError::AnswerTooLarge { limit_bytes: 100_000 }))
    );
    assert!(matches!(outcome(r#"{"phase":"load","type":"","message":""}"#), Err(WireError::UnexpectedFrame { .. })));
    assert!(matches!(outcome(r#"{"phase":"nap","type":"","message":""}"#), Err(WireError::BadJson { .. })));
    let long = format!(r#"{{"phase":"call","type":"{0}","message":"{0}"}}"#, "é".repeat(5000));
    let Some(Err(InvokeError::Raised { kind, message })) = outcome(&long).unwrap() else { panic!() };
    assert_eq!((kind.len(), message.len()), (256, 4096));
}

#[test]
fn an_answer_that_breaks_the_rules_is_a_violation() {
    let foreign = Frame { id: 7, ..frame(Kind::Response, true, &[]) };
    assert!(matches!(assembler().push(&foreign), Err(WireError::ForeignCall { id: 7 })));
    let forged = Frame { nonce: 7, ..frame(Kind::Response, true, &[]) };
    assert!(matches!(assembler().push(&forged), Err(WireError::ForeignCall { id: 5 })));
    let body_first = assembler().push(&frame(Kind::Body, true, b"x"));
    assert!(matches!(body_first, Err(WireError::UnexpectedFrame { .. })));

    let head = response(200, b"", 100_001);
    let too_long = assembler().push(&frame(Kind::Response, false, &head));
    assert!(matches!(too_long, Err(WireError::AnswerTooLong { part: "body", len: 100_001, limit: 100_000 })));
    let head = response(200, b"", u64::MAX);
    let huge = assembler().push(&frame(Kind::Response, false, &head));
    assert!(matches!(huge, Err(WireError::AnswerTooLong { part: "body", .. })));
    let head = response(200, format!("a: {}\r\n", "x".repeat(60)).as_bytes(), 0);
    let headers = assembler().push(&frame(Kind::Response, true, &head));
    assert!(matches!(headers, Err(WireError::AnswerTooLong { part: "header block", len: 65, limit: 64 })));
    let head = response(200, b"", 1);
    let no_body = assembler().push(&frame(Kind::Response, true, &head));
    assert!(matches!(no_body, Err(WireError::BodyLengthMismatch { declared: 1, received: 0 })));

    for (piece, end) in [(&b"toolong"[..], false), (b"ab", true)] {
        let mut assembler = assembler();
        let head = response(200, b"", 5);
        assembler.push(&frame(Kind::Response, false, &head)).unwrap();
        let result = assembler.push(&frame(Kind::Body, end, piece));
        assert!(matches!(result, Err(WireError::BodyLengthMismatch { declared: 5, .. })));
    }
    let mut twice = assembler();
    let head = response(200, b"", 5);
    twice.push(&frame(Kind::Response, false, &head)).unwrap();
    assert!(matches!(twice.push(&frame(Kind::Response, false, &head)), Err(WireError::UnexpectedFrame { .. })));
}

// ---- Everything else an instance says ----

#[test]
fn reports_of_blanks_are_read() {
    let hello = frame(Kind::Hello, false, br#"{"python":"3.11.7"}"#);
    assert_eq!(decode_hello(&hello).unwrap(), "3.11.7");
    assert!(matches!(decode_hello(&frame(Kind::Loaded, false, b"")), Err(WireError::UnexpectedFrame { .. })));
    let check = |json: &'static str| decode_check_result(&frame(Kind::CheckResult, false, json.as_bytes())).unwrap();
    assert_eq!(check(r#"{"ok":true}"#), Ok(()));
    assert_eq!(
        check(r#"{"ok":false,"reason":"syntax","line":3,"column":7,"message":"m"}"#),
        Err(CheckProblem::Syntax { line: Some(3), column: Some(7), message: "m".into() })
    );
    assert_eq!(
        check(r#"{"ok":false,"reason":"handler","line":null,"column":null,"message":"m"}"#),
        Err(CheckProblem::Handler { message: "m".into() })
    );
    let odd = decode_check_result(&frame(Kind::CheckResult, false, br#"{"ok":false,"reason":"mood","message":""}"#));
    assert!(matches!(odd, Err(WireError::BadJson { .. })));
    let sandbox = br#"{"phase":"sandbox","type":"OSError","message":"step 3: MountProc: Operation not permitted"}"#;
    let report = decode_error(&frame(Kind::Error, true, sandbox)).unwrap();
    assert_eq!(report.phase, ErrorPhase::Sandbox);
}

#[test]
fn log_entries_are_text_whatever_their_bytes() {
    let bytes = [1, b'a', 0xff, b'b'];
    let entry = frame(Kind::Log, false, &bytes);
    assert_eq!(decode_log(&entry).unwrap(), LogEntry { stream: LogStream::Stderr, text: "a\u{fffd}b".into() });
    assert!(matches!(decode_log(&frame(Kind::Log, false, &[3])), Err(WireError::BadCode { code: 3, .. })));
}

// ---- Properties ----

fn any_direction() -> impl Strategy<Value = Direction> {
    prop_oneof![
        Just(Direction::ToInstance),
        Just(Direction::FromInstance),
        Just(Direction::ToZygote),
        Just(Direction::FromZygote)
    ]
}

/// Bytes that often look like a datagram: frames whose headers are nearly right.
fn near_datagram() -> impl Strategy<Value = Vec<u8>> {
    let near_frame = (0u8..40, 0u8..3, prop::collection::vec(any::<u8>(), 0..80), -1i32..2, any::<bool>()).prop_map(
        |(kind, flags, payload, skew, same)| {
            let mut bytes = Vec::new();
            bytes.extend_from_slice(&((payload.len() as i32 + skew).max(0) as u32).to_le_bytes());
            bytes.extend_from_slice(&[kind, flags, 0, 0]);
            bytes.extend_from_slice(&[if same { 5 } else { 9 }, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend_from_slice(&payload);
            bytes
        },
    );
    prop::collection::vec(near_frame, 1..5).prop_map(|frames| frames.concat())
}

fn decode_everything(datagram: &[u8], direction: Direction) {
    let Ok(frames) = decode_message(datagram, direction) else { return };
    let mut total = 0;
    let mut assembler = assembler();
    for frame in frames {
        total += FRAME_HEADER_BYTES + frame.payload.len();
        let _ = decode_request_head(frame.payload);
        let _ = decode_response_head(frame.payload, 16384);
        let _ = (decode_hello(&frame), decode_check_result(&frame), decode_log(&frame), decode_error(&frame));
        let _ = (decode_spawn(&frame), decode_spawned(&frame), decode_spawn_failed(&frame));
        let _ = decode_zygote_ready(&frame);
        let _ = assembler.push(&frame);
    }
    assert_eq!(total, datagram.len(), "the frames of a valid datagram are all of it");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), direction in any_direction()) {
        decode_everything(&bytes, direction);
    }

    #[test]
    fn nearly_right_bytes_never_panic(bytes in near_datagram(), direction in any_direction()) {
        decode_everything(&bytes, direction);
    }

    #[test]
    fn a_valid_datagram_cut_anywhere_is_refused_or_shorter(bytes in near_datagram(), cut in any::<prop::sample::Index>()) {
        let cut = cut.index(bytes.len());
        if let (Ok(whole), Ok(part)) = (
            decode_message(&bytes, Direction::FromInstance),
            decode_message(&bytes[..cut], Direction::FromInstance),
        ) {
            prop_assert!(part.count() < whole.count());
        }
    }

    #[test]
    fn a_request_head_survives_encoding(
        method in prop::collection::vec(any::<u8>(), 1..20),
        path in prop::collection::vec(any::<u8>(), 1..300),
        query in prop::collection::vec(any::<u8>(), 0..300),
        request_id in prop::collection::vec(any::<u8>(), 0..64),
        headers in prop::collection::vec(("[a-z-]{1,12}", "[ -~]{0,40}"), 0..20),
        body_len in any::<u64>(),
    ) {
        let parts =
            RequestParts { method: &method, path: &path, query: &query, request_id: &request_id, body_len };
        let fields = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let payload = encode_request_head(&parts, fields).unwrap();
        let head = decode_request_head(&payload).unwrap();
        prop_assert_eq!((head.method, head.path, head.query), (&method[..], &path[..], &query[..]));
        prop_assert_eq!((head.request_id, head.body_len), (&request_id[..], body_len));
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        prop_assert_eq!(head.headers, lines.as_bytes());
    }

    #[test]
    fn a_body_survives_any_splitting(body in prop::collection::vec(any::<u8>(), 0..100_000)) {
        let request = CallRequest { head: a_head(body.len()), body };
        let (head, body) = receive_call(&messages_of(&request));
        prop_assert_eq!(head, request.head);
        prop_assert_eq!(body, request.body);
    }

    #[test]
    fn an_answer_in_any_pieces_is_the_same_answer(
        body in prop::collection::vec(any::<u8>(), 1..2000),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).collect();
        // A piece that is not the last must hold something.
        cuts.sort_unstable();
        cuts.dedup();
        cuts.retain(|&cut| cut > 0);
        let head = response(200, b"", body.len() as u64);
        let mut assembler = assembler();
        prop_assert_eq!(assembler.push(&frame(Kind::Response, false, &head)).unwrap(), None);
        let mut start = 0;
        for cut in cuts {
            prop_assert_eq!(assembler.push(&frame(Kind::Body, false, &body[start..cut])).unwrap(), None);
            start = cut;
        }
        let outcome = assembler.push(&frame(Kind::Body, true, &body[start..])).unwrap();
        prop_assert_eq!(outcome, Some(Ok(CallReply { status: 200, headers: vec![], body })));
    }
}
