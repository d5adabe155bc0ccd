//! What the fuzzers of `fuzz/` run: each takes any bytes and panics when a promise does not hold for them.
//!
//! Owns the list of them. Does not own the engine, which is not part of the server: this module exists only in builds of
//! the fuzzers (`cfg(fuzzing)`) and of the unit tests, which run the kept corpus through it. Those that need the private
//! parts of a module are with that module.

mod codec;
mod steps;

pub use crate::backend::docker::http::fuzzing::engine_response;
pub use crate::http::fuzzing::http_connection;
pub use crate::worker::fuzzing::worker_intake;
pub(crate) use codec::assert_harmless;
pub use codec::wire_message;
pub(crate) use steps::Steps;

/// See `backend/process/zygote/fuzzing.rs`.
pub fn zygote_message(datagram: &[u8]) {
    crate::backend::process::fuzz_zygote_message(datagram);
}

/// A function that panics when it finds something.
pub type Target = fn(&[u8]);

/// Every target under the name that its fuzzer and its corpus have.
pub const TARGETS: [(&str, Target); 5] = [
    ("wire_message", wire_message),
    ("worker_intake", worker_intake),
    ("zygote_message", zygote_message),
    ("http_connection", http_connection),
    ("engine_response", engine_response),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Runs every file of a directory, which need not be there, and counts them.
    fn run_all(target: Target, directory: &Path) -> usize {
        let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
        let paths = entries.map(|entry| entry.unwrap().path());
        let run = |path: std::path::PathBuf| {
            let input = std::fs::read(&path).unwrap();
            assert!(std::panic::catch_unwind(|| target(&input)).is_ok(), "{}", path.display());
        };
        paths.map(run).count()
    }

    #[test]
    fn nothing_in_the_kept_corpus_breaks_a_promise() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        for (name, target) in TARGETS {
            assert!(run_all(target, &root.join("corpus").join(name)) > 0, "no corpus for {name}");
            run_all(target, &root.join("regressions").join(name));
        }
    }

    #[test]
    fn every_target_has_its_fuzzer() {
        let manifest = include_str!("../../fuzz/Cargo.toml");
        for (name, _) in TARGETS {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    }
}
