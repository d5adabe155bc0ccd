//! A function that says anything at all on its channel, again and again, from seeds: right answers, mutated frames,
//! frames of other calls, too much, too early, too late. Whatever it says, others answer, its own callers are told
//! something defined, and after its end the server holds what it held before.
//!
//! `FUZZ_SECONDS` says for how long; `FUZZ_SEED` repeats the round that failed, as often as there is time for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::*;
use faas::limits::RESPONSE_BODY_BYTES_MAX;

/// Callers of one round; each gets an instance of its own, if that one lives for long enough.
const CALLERS: u64 = 4;
/// Calls of each caller, one after the other: what is left of a life is then taken for the next.
const CALLS: u64 = 2;
/// Memory that the server may hold more of at the end than after the first round, in bytes: what the allocator keeps.
const GROWTH_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What the storm is made of: the shared vectors and the kept corpus, as far as they are short.
fn datagrams() -> Vec<Vec<u8>> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut datagrams = Vec::new();
    for vectors in ["valid.json", "invalid.json"] {
        let text = std::fs::read_to_string(root.join("tests/wire_vectors").join(vectors)).unwrap();
        let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
        datagrams.extend(cases.iter().filter_map(|case| unhex(case["hex"].as_str().unwrap())));
    }
    for entry in std::fs::read_dir(root.join("fuzz/corpus/wire_message")).unwrap() {
        datagrams.push(std::fs::read(entry.unwrap().path()).unwrap());
    }
    datagrams.retain(|datagram| datagram.len() <= 4096);
    // The order of a directory is chance, and a seed must mean the same again.
    datagrams.sort();
    datagrams
}

/// The bytes of a vector; `None` for those that are written as runs, which are long.
fn unhex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

fn code() -> String {
    let mut list = String::new();
    for datagram in datagrams() {
        list.push('\'');
        datagram.iter().for_each(|byte| list.push_str(&format!("{byte:02x}")));
        list.push_str("',");
    }
    format!("{FRAMES}\nDATAGRAMS = [bytes.fromhex(text) for text in [{list}]]\n{}", include_str!("storm.py"))
}

/// One call: its body is its seed, sometimes with more behind it than fits one datagram.
fn call(server: &Server, seed: u64) {
    let padding = match seed % 16 {
        0 => 3_000_000,
        1 => 100_000,
        _ => 0,
    };
    let reply = server.post("/invoke/storm", &format!("{seed:020}{}", " ".repeat(padding)));
    assert!((200..600).contains(&reply.status) && reply.body.len() <= RESPONSE_BODY_BYTES_MAX, "{}", reply.status);
    match reply.header("content-type") {
        Some("application/problem+json") => {
            assert!(reply.code() != "internal", "{}", reply.text());
            assert!([429, 500, 502, 503, 504].contains(&reply.status), "{}", reply.text());
        }
        // A right answer repeats what this very call had said.
        Some("text/plain") => {
            let own = format!("{seed:020}");
            assert!(reply.body.chunks(20).all(|part| part == own.as_bytes()), "an answer to another call than {own}");
        }
        _ => {}
    }
}

fn round(scene: &Scene, code: &str, seed: u64) {
    scene.server.deploy("storm", code, json!({"timeout": 1, "max_instances": CALLERS}));
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            scope.spawn(move || {
                for number in 0..CALLS {
                    call(&scene.server, seed * CALLERS * CALLS + caller * CALLS + number);
                }
            });
        }
    });
    scene.assert_nothing_is_left_of("storm");
}

/// What the server holds in memory, in bytes.
fn resident_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Says at a failure how to have it again, and lets the bystander's thread end.
struct Watch<'a> {
    seed: u64,
    is_over: &'a AtomicBool,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if std::thread::panicking() {
            eprintln!("to repeat this round: FUZZ_SEED={} cargo test --test hostile storm", self.seed);
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

#[test]
fn a_storm_of_frames_harms_nobody_else_and_leaves_nothing() {
    let Some(scene) = Scene::set() else { return };
    let code = code();
    let end = Instant::now() + Duration::from_secs(setting("FUZZ_SECONDS").unwrap_or(20));
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let given = setting("FUZZ_SEED");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut watch = Watch { seed: given.unwrap_or(clock >> 16 & 0xff_ffff_ffff), is_over: &is_over };
        let bystander = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                scene.assert_others_answer();
                // Longer than a call takes, so that there are moments without a connection of its own.
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let (mut rounds, mut before) = (0, u64::MAX);
        while rounds < 2 || Instant::now() < end {
            round(&scene, &code, watch.seed);
            assert!(!bystander.is_finished(), "the bystander was harmed");
            rounds += 1;
            if rounds == 1 {
                before = resident_bytes(&scene.server);
            }
            watch.seed += u64::from(given.is_none());
        }
        let after = resident_bytes(&scene.server);
        assert!(after <= before + GROWTH_BYTES_MAX, "{before} bytes of memory became {after} in {rounds} rounds");
        let violations = scene.server.home.log().matches("broke the frame protocol").count();
        assert!(violations > 0, "it said nothing wrong in {rounds} rounds");
        println!("{rounds} rounds, {violations} violations, memory {before} to {after} bytes");
    });
}
