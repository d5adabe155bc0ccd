//! The two codecs, `src/wire` and `runtime-shim/wire.py`, on the same datagrams: the shared vectors, the corpus that the
//! fuzzers left, and mutations of both. They agree on what is valid, on its frames, and on what is wrong with the rest.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use faas::wire::{decode_message, decode_request_head, decode_spawn, Direction, Frame, Kind, WireError};

/// Mutations besides what is kept.
const MUTATIONS: usize = 20_000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Hexadecimal runs, as `tests/wire_vectors/` has them: `HH…`, or `HH*COUNT` for a byte that is repeated.
fn unhex(text: &str) -> Vec<u8> {
    let byte = |hex: &str| u8::from_str_radix(hex, 16).unwrap();
    let run = |run: &str| match run.split_once('*') {
        Some((hex, count)) => vec![byte(hex); count.parse().unwrap()],
        None => (0..run.len()).step_by(2).map(|at| byte(&run[at..at + 2])).collect(),
    };
    text.split(' ').flat_map(run).collect()
}

fn kept() -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    for vectors in ["valid.json", "invalid.json"] {
        let text = std::fs::read_to_string(root().join("tests/wire_vectors").join(vectors)).unwrap();
        let cases: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        datagrams.extend(cases.iter().map(|case| unhex(case["hex"].as_str().unwrap())));
    }
    for entry in std::fs::read_dir(root().join("fuzz/corpus/wire_message")).unwrap() {
        datagrams.push(std::fs::read(entry.unwrap().path()).unwrap());
    }
    datagrams.sort();
    datagrams
}

/// xorshift64, so that a run is the same as the last.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

/// Another datagram like this one: most changes are in headers, since what is in payloads is mostly not looked at.
fn mutated(datagram: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut data = datagram.to_vec();
    for _ in 0..=chance.below(3) {
        let at = chance.below(data.len().min(48));
        match chance.below(6) {
            0 if !data.is_empty() => data[at] ^= 1 << chance.below(8),
            1 if !data.is_empty() => data[at] = chance.below(36) as u8,
            2 => data.truncate(chance.below(data.len() + 1)),
            3 => data.extend_from_slice(other),
            4 if data.len() >= 4 => {
                let payload_len = data.len().saturating_sub(24 + chance.below(2)) as u32;
                data[..4].copy_from_slice(&payload_len.to_le_bytes());
            }
            _ => data.extend_from_slice(&[0; 24][..chance.below(25)]),
        }
    }
    data
}

/// The name of the error's variant, which is what the twin calls its reason.
fn reason(error: &WireError) -> String {
    format!("{error:?}").split([' ', '{', '(']).next().unwrap().to_owned()
}

fn inside(frame: &Frame<'_>) -> String {
    match frame.kind {
        Kind::Request => decode_request_head(frame.payload).map_or_else(|error| reason(&error), |_| String::new()),
        Kind::Spawn => decode_spawn(frame)
            .map_or_else(|error| reason(&error), |(outer, inner)| format!("{}+{}", outer.len(), inner.len())),
        _ => String::new(),
    }
}

fn verdict(datagram: &[u8], direction: Direction) -> String {
    let frames = match decode_message(datagram, direction) {
        Ok(frames) => frames,
        Err(error) => return reason(&error),
    };
    let describe = |frame: Frame<'_>| {
        let (kind, end, length) = (frame.kind as u8, u8::from(frame.end), frame.payload.len());
        format!("{kind}/{end}/{}/{}/{length}/{}", frame.id, frame.nonce, inside(&frame))
    };
    frames.map(describe).collect::<Vec<_>>().join(" ")
}

fn verdicts(datagram: &[u8]) -> String {
    [Direction::ToInstance, Direction::FromInstance, Direction::ToZygote, Direction::FromZygote]
        .map(|direction| verdict(datagram, direction))
        .join("; ")
}

/// What the twin says, line by line.
fn shim_verdicts(datagrams: &[Vec<u8>]) -> Vec<String> {
    let mut lines = String::new();
    for datagram in datagrams {
        datagram.iter().for_each(|byte| write!(lines, "{byte:02x}").unwrap());
        lines.push('\n');
    }
    let mut shim = Command::new("python3")
        .arg("-B")
        .arg(root().join("tests/python/wire_verdicts.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3, which functions need as well");
    let mut input = shim.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = shim.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn the_two_codecs_agree_on_every_datagram() {
    let mut datagrams = kept();
    let kept = datagrams.len();
    let mut chance = Chance(20_261_126);
    for _ in 0..MUTATIONS {
        let (one, other) = (&datagrams[chance.below(kept)], &datagrams[chance.below(kept)]);
        // Long ones cost much and differ in little.
        if one.len() + other.len() <= 8192 {
            let mutation = mutated(one, other, &mut chance);
            datagrams.push(mutation);
        }
    }
    let theirs = shim_verdicts(&datagrams);
    assert_eq!(theirs.len(), datagrams.len());
    let mut valid = 0;
    for (datagram, theirs) in datagrams.iter().zip(&theirs) {
        let ours = verdicts(datagram);
        assert_eq!(&ours, theirs, "{datagram:02x?}");
        valid += usize::from(ours.contains('/'));
    }
    assert!(valid > datagrams.len() / 20, "only {valid} of {} are valid in any direction", datagrams.len());
}
