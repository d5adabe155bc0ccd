//! The shared vectors of `tests/wire_vectors/`, which `tests/python/test_wire.py` runs too.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::*;

fn vectors<T: serde::de::DeserializeOwned>(name: &str) -> Vec<T> {
    let path = format!("{}/tests/wire_vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Hexadecimal runs: `HH…`, or `HH*COUNT` for a byte that is repeated.
fn unhex(text: &str) -> Vec<u8> {
    let byte = |hex: &str| u8::from_str_radix(hex, 16).unwrap();
    let run = |run: &str| match run.split_once('*') {
        Some((hex, count)) => vec![byte(hex); count.parse().unwrap()],
        None => (0..run.len()).step_by(2).map(|at| byte(&run[at..at + 2])).collect(),
    };
    text.split(' ').flat_map(run).collect()
}

fn direction(name: &str) -> Direction {
    match name {
        "to_instance" => Direction::ToInstance,
        "from_instance" => Direction::FromInstance,
        "to_zygote" => Direction::ToZygote,
        "from_zygote" => Direction::FromZygote,
        other => panic!("{other}"),
    }
}

/// The name of the error's variant, which is what the Python twin calls its reason.
fn variant(error: &WireError) -> String {
    let text = format!("{error:?}");
    text.split([' ', '{', '(']).next().unwrap().to_owned()
}

#[derive(Deserialize)]
struct Valid {
    name: String,
    direction: String,
    hex: String,
    frames: Vec<Meaning>,
    request: Option<RequestMeaning>,
    response: Option<ResponseMeaning>,
    error: Option<BTreeMap<String, String>>,
    spawn: Option<BTreeMap<String, String>>,
    spawned: Option<u32>,
    spawn_failed: Option<SpawnFailedMeaning>,
}

#[derive(Deserialize)]
struct Meaning {
    kind: String,
    end: bool,
    id: String,
    nonce: String,
    payload: String,
}

#[derive(Deserialize)]
struct RequestMeaning {
    method: String,
    path: String,
    query: String,
    request_id: String,
    headers: String,
    body_len: u64,
}

#[derive(Deserialize)]
struct ResponseMeaning {
    status: u16,
    headers: Vec<(String, String)>,
    body_len: u64,
}

#[derive(Deserialize)]
struct SpawnFailedMeaning {
    stage: u8,
    step: u16,
    errno: i32,
}

#[derive(Deserialize)]
struct Invalid {
    name: String,
    direction: String,
    hex: String,
    error: String,
}

#[derive(Deserialize)]
struct InvalidHead {
    name: String,
    kind: String,
    payload: String,
    error: String,
}

#[test]
fn valid_vectors_decode_to_their_meaning_and_encode_to_their_bytes() {
    for case in vectors::<Valid>("valid.json") {
        let name = &case.name;
        let datagram = unhex(&case.hex);
        let frames: Vec<Frame<'_>> = decode_message(&datagram, direction(&case.direction)).expect(name).collect();
        let mut encoded = Vec::new();
        assert_eq!(frames.len(), case.frames.len(), "{name}");
        for (frame, meaning) in frames.iter().zip(&case.frames) {
            assert_eq!(format!("{:?}", frame.kind), meaning.kind, "{name}");
            assert_eq!(frame.end, meaning.end, "{name}");
            assert_eq!((frame.id.to_string(), frame.nonce.to_string()), (meaning.id.clone(), meaning.nonce.clone()));
            assert_eq!(frame.payload, unhex(&meaning.payload), "{name}");
            push_frame(&mut encoded, frame.kind, frame.end, frame.id, frame.nonce, frame.payload);
        }
        assert_eq!(encoded, datagram, "{name}");
        check_payload(&case, &frames[0]);
    }
}

fn check_payload(case: &Valid, frame: &Frame<'_>) {
    let name = &case.name;
    if let Some(meaning) = &case.request {
        let head = decode_request_head(frame.payload).expect(name);
        assert_eq!(head.method, meaning.method.as_bytes(), "{name}");
        assert_eq!(head.path, meaning.path.as_bytes(), "{name}");
        assert_eq!(head.query, meaning.query.as_bytes(), "{name}");
        assert_eq!(head.request_id, meaning.request_id.as_bytes(), "{name}");
        assert_eq!(head.headers, meaning.headers.as_bytes(), "{name}");
        assert_eq!(head.body_len, meaning.body_len, "{name}");
    }
    if let Some(meaning) = &case.response {
        let head = decode_response_head(frame.payload, 16384).expect(name);
        assert_eq!((head.status, head.body_len), (meaning.status, meaning.body_len), "{name}");
        assert_eq!(head.headers, meaning.headers, "{name}");
    }
    if let Some(meaning) = &case.error {
        let report = decode_error(frame).expect(name);
        assert_eq!((&report.kind, &report.message), (&meaning["type"], &meaning["message"]), "{name}");
        assert_eq!(report.phase, ErrorPhase::Call, "{name}");
    }
    if let Some(meaning) = &case.spawn {
        let (outer, inner) = decode_spawn(frame).expect(name);
        assert_eq!((outer.to_vec(), inner.to_vec()), (unhex(&meaning["outer"]), unhex(&meaning["inner"])), "{name}");
    }
    if let Some(pid) = case.spawned {
        assert_eq!(decode_spawned(frame).expect(name), pid);
    }
    if let Some(meaning) = &case.spawn_failed {
        let failure = decode_spawn_failed(frame).expect(name);
        assert_eq!((failure.stage as u8, failure.step, failure.errno), (meaning.stage, meaning.step, meaning.errno));
        assert_eq!(encode_spawn_failed(frame.id, failure), unhex(&case.hex), "{name}");
    }
}

#[test]
fn invalid_vectors_are_refused_for_their_reason() {
    for case in vectors::<Invalid>("invalid.json") {
        let error = decode_message(&unhex(&case.hex), direction(&case.direction)).map(|_| ()).expect_err(&case.name);
        assert_eq!(variant(&error), case.error, "{}", case.name);
    }
}

#[test]
fn invalid_heads_are_refused_for_their_reason() {
    for case in vectors::<InvalidHead>("invalid_heads.json") {
        let payload = unhex(&case.payload);
        let result = match case.kind.as_str() {
            "Request" => decode_request_head(&payload).map(|_| ()),
            "Response" => decode_response_head(&payload, 16384).map(|_| ()),
            "Spawn" => {
                let frame = Frame { kind: Kind::Spawn, end: false, id: 1, nonce: 0, payload: &payload };
                decode_spawn(&frame).map(|_| ())
            }
            other => panic!("{other}"),
        };
        assert_eq!(variant(&result.expect_err(&case.name)), case.error, "{}", case.name);
    }
}
