//! What is said on a zygote's control socket: `Spawn` and its three possible answers.

use serde::Deserialize;

use super::error::WireError;
use super::frame::{push_frame, Frame, Kind, FRAME_HEADER_BYTES};
use super::instance::decode_json;
use crate::limits::WIRE_MESSAGE_BYTES_MAX;

/// Encodes the datagram that asks for the blank `blank_id`. Its descriptors ride along as ancillary data.
///
/// # Errors
/// [`WireError::PartTooLong`] when both plans together do not fit one datagram.
pub fn encode_spawn(blank_id: u64, outer_plan: &[u8], inner_plan: &[u8]) -> Result<Vec<u8>, WireError> {
    let len = 8 + outer_plan.len() + inner_plan.len();
    if len > WIRE_MESSAGE_BYTES_MAX - FRAME_HEADER_BYTES {
        return Err(WireError::PartTooLong { part: "sandbox plans", len });
    }
    let mut payload = Vec::with_capacity(len);
    // The check above bounds both lengths far below what these fields hold.
    payload.extend_from_slice(&(outer_plan.len() as u32).to_le_bytes());
    payload.extend_from_slice(&(inner_plan.len() as u32).to_le_bytes());
    payload.extend_from_slice(outer_plan);
    payload.extend_from_slice(inner_plan);
    let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + len);
    push_frame(&mut out, Kind::Spawn, false, blank_id, 0, &payload);
    Ok(out)
}

/// Decodes a `Spawn` into its outer and inner plan.
///
/// # Errors
/// [`WireError::UnexpectedFrame`] for another kind, [`WireError::BadHeadLength`] when the lengths do not add up.
pub fn decode_spawn<'a>(frame: &Frame<'a>) -> Result<(&'a [u8], &'a [u8]), WireError> {
    expect(frame, Kind::Spawn)?;
    let bad_length = || WireError::BadHeadLength { kind: Kind::Spawn };
    let (fixed, rest) = frame.payload.split_first_chunk::<8>().ok_or_else(bad_length)?;
    let [o0, o1, o2, o3, i0, i1, i2, i3] = *fixed;
    let (outer, inner) = rest.split_at_checked(u32::from_le_bytes([o0, o1, o2, o3]) as usize).ok_or_else(bad_length)?;
    if inner.len() == u32::from_le_bytes([i0, i1, i2, i3]) as usize {
        Ok((outer, inner))
    } else {
        Err(bad_length())
    }
}

/// Decodes a `Spawned`: the blank's process id as the zygote's pid namespace has it. The blank is the frame's id.
///
/// # Errors
/// [`WireError::UnexpectedFrame`] for another kind, [`WireError::BadPayloadLength`] for a payload that is no u32.
pub fn decode_spawned(frame: &Frame<'_>) -> Result<u32, WireError> {
    expect(frame, Kind::Spawned)?;
    let bytes = <[u8; 4]>::try_from(frame.payload);
    bytes.map(u32::from_le_bytes).map_err(|_| bad_payload(frame))
}

/// At what the making of a blank failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpawnStage {
    /// `fork`, of M or of the instance.
    Fork,
    /// The outer plan.
    Outer,
    /// The inner plan. The zygote of this version never says so: an instance whose inner plan fails reports it on its
    /// own channel, as an `Error` of phase `sandbox`, since it no longer holds the control socket by then.
    Inner,
}

/// Why a blank could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpawnFailure {
    /// At what.
    pub stage: SpawnStage,
    /// Which step of that plan, counted from 0; 0 when no plan is concerned.
    pub step: u16,
    /// The kernel's reason.
    pub errno: i32,
}

/// Encodes a `SpawnFailed`. Blank 0 stands for the zygote itself, whose own plan failed.
pub fn encode_spawn_failed(blank_id: u64, failure: SpawnFailure) -> Vec<u8> {
    let [s0, s1] = failure.step.to_le_bytes();
    let [e0, e1, e2, e3] = failure.errno.to_le_bytes();
    let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + 7);
    push_frame(&mut out, Kind::SpawnFailed, false, blank_id, 0, &[failure.stage as u8, s0, s1, e0, e1, e2, e3]);
    out
}

/// Decodes a `SpawnFailed`. The blank is the frame's id.
///
/// # Errors
/// [`WireError::UnexpectedFrame`] for another kind, [`WireError::BadPayloadLength`] and [`WireError::BadCode`] for
/// another payload.
pub fn decode_spawn_failed(frame: &Frame<'_>) -> Result<SpawnFailure, WireError> {
    expect(frame, Kind::SpawnFailed)?;
    let Ok([stage, s0, s1, e0, e1, e2, e3]) = <[u8; 7]>::try_from(frame.payload) else {
        return Err(bad_payload(frame));
    };
    let stage = match stage {
        0 => SpawnStage::Fork,
        1 => SpawnStage::Outer,
        2 => SpawnStage::Inner,
        code => return Err(WireError::BadCode { kind: Kind::SpawnFailed, code }),
    };
    let step = u16::from_le_bytes([s0, s1]);
    Ok(SpawnFailure { stage, step, errno: i32::from_le_bytes([e0, e1, e2, e3]) })
}

/// What a zygote says about itself when it is ready.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ZygoteInfo {
    /// Version of the interpreter.
    pub python: String,
    /// Whether it was built without the global interpreter lock.
    pub free_threaded: bool,
}

/// Decodes a `ZygoteReady`.
///
/// # Errors
/// [`WireError::UnexpectedFrame`] for another kind, [`WireError::BadJson`] for another payload.
pub fn decode_zygote_ready(frame: &Frame<'_>) -> Result<ZygoteInfo, WireError> {
    decode_json(frame, Kind::ZygoteReady)
}

fn expect(frame: &Frame<'_>, kind: Kind) -> Result<(), WireError> {
    if frame.kind == kind {
        Ok(())
    } else {
        Err(WireError::UnexpectedFrame { kind: frame.kind })
    }
}

fn bad_payload(frame: &Frame<'_>) -> WireError {
    WireError::BadPayloadLength { kind: frame.kind, len: frame.payload.len() }
}
