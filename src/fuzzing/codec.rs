//! Any datagram, in every direction, through every decoder: nothing panics, what is refused is refused by all, and what
//! is taken has one meaning, which encodes to the same bytes.

use crate::limits::{
    ERROR_KIND_BYTES_MAX, ERROR_MESSAGE_BYTES_MAX, RESPONSE_HEADER_BYTES_MAX, WIRE_FRAMES_PER_MESSAGE_MAX,
};
use crate::wire::*;

/// The input is one datagram.
pub fn wire_message(datagram: &[u8]) {
    for direction in [Direction::ToInstance, Direction::FromInstance, Direction::ToZygote, Direction::FromZygote] {
        let Ok(frames) = decode_message(datagram, direction) else { continue };
        let frames: Vec<Frame<'_>> = frames.collect();
        assert!((1..=WIRE_FRAMES_PER_MESSAGE_MAX).contains(&frames.len()), "{} frames", frames.len());
        let mut encoded = Vec::with_capacity(datagram.len());
        for frame in &frames {
            push_frame(&mut encoded, frame.kind, frame.end, frame.id, frame.nonce, frame.payload);
            decode_payload(frame);
        }
        assert_eq!(encoded, datagram, "the frames are not those of the datagram");
    }
}

/// Every decoder sees every frame, and only the one of its kind takes it.
fn decode_payload(frame: &Frame<'_>) {
    type Takes = fn(&Frame<'_>) -> bool;
    let decoders: [(Kind, Takes); 8] = [
        (Kind::Hello, |frame| decode_hello(frame).is_ok()),
        (Kind::Error, |frame| decode_error(frame).is_ok()),
        (Kind::Log, |frame| decode_log(frame).is_ok()),
        (Kind::CheckResult, |frame| decode_check_result(frame).is_ok()),
        (Kind::Spawn, |frame| decode_spawn(frame).is_ok()),
        (Kind::Spawned, |frame| decode_spawned(frame).is_ok()),
        (Kind::SpawnFailed, |frame| decode_spawn_failed(frame).is_ok()),
        (Kind::ZygoteReady, |frame| decode_zygote_ready(frame).is_ok()),
    ];
    for (kind, takes) in decoders {
        assert!(!takes(frame) || frame.kind == kind, "{:?} taken for {kind:?}", frame.kind);
    }
    match frame.kind {
        Kind::Request => request(frame.payload),
        Kind::Response => response(frame.payload),
        Kind::Error => {
            if let Ok(report) = decode_error(frame) {
                assert!(report.kind.len() <= ERROR_KIND_BYTES_MAX && report.message.len() <= ERROR_MESSAGE_BYTES_MAX);
            }
        }
        Kind::CheckResult => {
            if let Ok(Err(CheckProblem::Syntax { message, .. })) = decode_check_result(frame) {
                assert!(message.len() <= ERROR_MESSAGE_BYTES_MAX);
            }
        }
        Kind::Spawn => {
            if let Ok((outer, inner)) = decode_spawn(frame) {
                let again = encode_spawn(frame.id, outer, inner).expect("it came in one datagram");
                assert_eq!(&again[FRAME_HEADER_BYTES..], frame.payload);
            }
        }
        Kind::SpawnFailed => {
            if let Ok(failure) = decode_spawn_failed(frame) {
                assert_eq!(&encode_spawn_failed(frame.id, failure)[FRAME_HEADER_BYTES..], frame.payload);
            }
        }
        _ => {}
    }
}

fn request(payload: &[u8]) {
    let Ok(head) = decode_request_head(payload) else { return };
    let RequestHead { method, path, query, request_id, headers, body_len } = head;
    let parts = [method, path, query, request_id, headers];
    assert_eq!(parts.concat(), payload[20..], "the parts are not the head");
    // What the server itself would write is read as what it meant.
    let Some(fields) = fields(headers) else { return };
    let Ok(encoded) = encode_request_head(&RequestParts { method, path, query, request_id, body_len }, fields) else {
        return;
    };
    assert_eq!(encoded, payload, "another head");
}

/// The fields of a header block that has the form in which the server writes it.
fn fields(mut block: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut fields = Vec::new();
    while !block.is_empty() {
        let end = block.windows(2).position(|pair| pair == b"\r\n")?;
        let colon = block[..end].windows(2).position(|pair| pair == b": ")?;
        let name = &block[..colon];
        if name.iter().any(u8::is_ascii_uppercase) {
            return None;
        }
        fields.push((name, &block[colon + 2..end]));
        block = &block[end + 2..];
    }
    Some(fields)
}

fn response(payload: &[u8]) {
    let Ok(head) = decode_response_head(payload, RESPONSE_HEADER_BYTES_MAX) else { return };
    assert!((200..=599).contains(&head.status), "status {}", head.status);
    let mut block = Vec::new();
    for (name, value) in &head.headers {
        assert_harmless(name, value);
        block.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    // Written again it may be longer, by a blank for each field that had none.
    let mut again = payload[..16].to_vec();
    again[4..8].copy_from_slice(&(block.len() as u32).to_le_bytes());
    again.extend_from_slice(&block);
    let again = decode_response_head(&again, usize::MAX).expect("what was taken once is taken again");
    assert_eq!(again, head);
}

/// A field that goes to a client can neither end the head nor steer the connection.
pub(crate) fn assert_harmless(name: &str, value: &str) {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    assert!(!name.is_empty() && name.bytes().all(token), "the name {name:?}");
    assert!(!value.chars().any(|c| c.is_control() && c != '\t'), "the value {value:?}");
    let steering = ["connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "keep-alive"];
    assert!(!steering.iter().any(|field| name.eq_ignore_ascii_case(field)), "the field {name:?}");
}
