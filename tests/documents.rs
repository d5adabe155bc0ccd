//! The documents against the code: what SPECIFICATION.md promises is what `limits` enforces, and what the documents
//! name is there.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use faas::limits;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below these directories with this extension, as one text.
fn sources(directories: &[&str], extension: &str) -> String {
    let mut waiting: Vec<PathBuf> = directories.iter().map(|directory| root().join(directory)).collect();
    let mut text = String::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|found| found == extension) {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
    text
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The rows of the tables whose head is wanted, as their cells.
fn rows<'a>(document: &'a str, is_wanted: impl Fn(&[&str]) -> bool) -> Vec<Vec<&'a str>> {
    let cells = |line: &'a str| line.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>();
    let mut found = Vec::new();
    let mut wanted = false;
    let mut before = "";
    for line in document.lines() {
        match line.starts_with('|') {
            true if !before.starts_with('|') => wanted = is_wanted(&cells(line)),
            true if wanted && !line.starts_with("|-") => found.push(cells(line)),
            _ => {}
        }
        before = line;
    }
    found
}

fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes % (1 << 40) == 0 => format!("{} TiB", bytes >> 40),
        _ if bytes % (1 << 20) == 0 => format!("{} MiB", bytes >> 20),
        _ if bytes % (1 << 10) == 0 => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} bytes"),
    }
}

fn time(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0".to_owned(),
        ms if ms % 86_400_000 == 0 && ms > 86_400_000 => format!("{} days", ms / 86_400_000),
        ms if ms % 3_600_000 == 0 => format!("{} h", ms / 3_600_000),
        ms if ms % 60_000 == 0 && ms > 60_000 => format!("{} min", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    }
}

/// With commas from five digits on.
fn count(number: u64) -> String {
    let digits = number.to_string();
    if digits.len() < 5 {
        return digits;
    }
    let head = digits.len() % 3;
    let groups = digits.as_bytes()[head..].chunks(3).map(|group| std::str::from_utf8(group).unwrap());
    let text = std::iter::once(&digits[..head]).filter(|head| !head.is_empty()).chain(groups);
    text.collect::<Vec<_>>().join(",")
}

/// The names of limits, each with its value as the document has to write it.
macro_rules! values {
    ($($write:expr => [$($name:ident),* $(,)?]),* $(,)?) => {
        vec![$($((stringify!($name), $write(limits::$name.try_into().unwrap()))),*),*]
    };
}

#[test]
fn every_number_of_the_specification_is_the_one_that_is_enforced() {
    let specification = read("SPECIFICATION.md");
    let ms = |ms: u64| time(Duration::from_millis(ms));
    let mut values = values![
        size => [
            FUNCTION_MEMORY_BYTES_DEFAULT, FUNCTION_CODE_BYTES_MAX, FUNCTION_ENVIRONMENT_BYTES_MAX,
            RESPONSE_BODY_BYTES_MAX, RESPONSE_HEADER_BYTES_MAX, ERROR_KIND_BYTES_MAX, ERROR_MESSAGE_BYTES_MAX,
            SANDBOX_TMP_BYTES, SANDBOX_SHM_BYTES, SANDBOX_FILE_BYTES, SANDBOX_STACK_BYTES,
            LOG_ENTRY_BYTES_MAX, LOG_INVOCATION_BYTES_MAX, LOG_RING_BYTES_MAX, LOG_MEMORY_BYTES_MAX,
            LOG_FILE_BYTES_MAX, LOG_QUEUE_BYTES_MAX, HTTP_HEAD_BYTES_MAX, HTTP_TARGET_BYTES_MAX, HTTP_BODY_BYTES_MAX,
            API_BODY_BYTES_MAX, HTTP_CHUNK_LINE_BYTES_MAX, HTTP_CHUNK_EXTENSION_BYTES_MAX, HTTP_TRAILER_BYTES_MAX,
            HTTP_DRAIN_BYTES_MAX, HTTP_PIPELINE_BYTES_MAX, HTTP_OUTPUT_BYTES_MAX, HTTP_BODY_RATE_MIN,
            CONFIG_FILE_BYTES_MAX, FUNCTION_NAME_BYTES_MAX, FUNCTION_HANDLER_BYTES_MAX, AUTH_TOKEN_BYTES_MAX,
            API_KEY_BYTES_MIN, REGISTRY_AUTH_BYTES_MAX, IMAGE_REFERENCE_BYTES_MAX, IMAGE_SCAN_OUTPUT_BYTES_MAX, IMAGE_SCAN_WORD_BYTES_MAX,
            SOCKET_PATH_BYTES_MAX, SECURITY_LABEL_BYTES_MAX, CONTAINER_LOG_BYTES_MAX, ENGINE_REPLY_BYTES_MAX,
            ENGINE_LIST_BYTES_MAX, ENGINE_HEAD_BYTES_MAX, PREPARATION_BYTES_MAX,
        ],
        count => [
            FUNCTION_INSTANCES_DEFAULT, FUNCTION_ENVIRONMENT_MAX, FUNCTIONS_MAX, FUNCTION_VERSIONS_KEPT,
            QUEUE_PER_FUNCTION_MAX, INVOCATIONS_MAX, PIPE_DEPTH_MAX, BLANK_FAILURES_MAX, POOL_SIZE_DEFAULT,
            SLOTS_DEFAULT, ZYGOTE_FORKS_MAX, NETWORKS_IDLE, INSTANCE_TASKS_MAX, SANDBOX_OPEN_FILES, SANDBOX_TMP_INODES,
            SANDBOX_UID_BASE_DEFAULT, LOG_RING_ENTRIES_MAX, LOG_INVOCATION_ENTRIES_MAX, HTTP_HEADERS_MAX, HTTP_CONNECTIONS_MAX, HTTP_CONNECTIONS_REFUSED_MAX, API_PAGE_DEFAULT,
            API_PAGE_MAX, CONTROL_QUEUE_MAX, SLOTS_MAX, POOL_SIZE_MAX, WORKERS_MAX, SANDBOX_UID_BASE_MIN,
            SANDBOX_UID_BASE_MAX, SANDBOX_UIDS_PER_SIDE, RUNTIMES_MAX, API_KEYS_MAX, HTTP_CONNECTIONS_LIMIT_MAX, LOG_RING_ENTRIES_LIMIT_MAX,
            FUNCTION_INSTANCES_MAX, FUNCTION_INVOCATIONS_PER_INSTANCE_MAX, EGRESS_CONNECTS_PER_INSTANCE_MAX,
            EGRESS_CONNECTS_MAX, EGRESS_CONNECTS_RESERVED, EGRESS_CALLS_BURST_MAX, EGRESS_CALLS_PER_SECOND_MAX,
            OUTBOUND_ALLOW_MAX, HTTP_PRESENCE_PAUSE_GROWTH, HTTP_PRESENCE_ASKED_MAX, TCP_KEEPALIVE_PROBES_MAX,
            IMAGES_MAX, CONTAINER_POOL_SIZE_DEFAULT, CONTAINER_POOL_SIZE_MAX, IMAGE_SCAN_WORDS_MAX, CONTAINER_STARTS_MAX,
            ENGINE_CONNECTIONS_MAX, ENGINE_STREAMS_MAX, IMAGE_PULLS_MAX, IMAGE_PREPARATIONS_MAX, IMAGE_VERDICTS_MAX, ENGINE_QUEUE_MAX, ENGINE_HEADERS_MAX, ENGINE_FAILURES_MAX,
            CONNECTIONS_WAITING_MAX, IDLE_TIMES_MIN, IDLE_BINS, IDLE_FORECAST_TIMES, IDLE_FORECAST_LAG_MAX, IDLE_LEVELS_MAX,
        ],
        time => [
            CHECK_TIMEOUT, COLD_START_TIMEOUT_DEFAULT, PIPE_WAIT_MAX, PIPE_STALL, RAW_OUTPUT_QUIET, START_BACKOFF_MIN,
            START_BACKOFF_MAX, BLANK_START_TIMEOUT, WARM_INSTANCE_TTL_DEFAULT, DRAIN_TIMEOUT_DEFAULT,
            SHUTDOWN_GRACE_DEFAULT, SHUTDOWN_LINGER, SHUTDOWN_ANSWERS_TIMEOUT, HTTP_PRESENCE_PAUSE, TCP_KEEPALIVE_IDLE,
            TCP_KEEPALIVE_INTERVAL, STORE_TROUBLE_TOLD,
            HTTP_HEAD_TIMEOUT, HTTP_BODY_TIMEOUT, HTTP_IDLE_TIMEOUT, HTTP_WRITE_STALL_TIMEOUT, HTTP_SWEEP_INTERVAL,
            EGRESS_CONNECT_TIMEOUT, EGRESS_NAME_SERVER_TIMEOUT, TAKEOVER_GREETING_TIMEOUT,
            TAKEOVER_PREPARATION_TIMEOUT, TAKEOVER_READY_TIMEOUT, TAKEOVER_HOLD_TIMEOUT, TAKEOVER_SIDE_TIMEOUT, RELOAD_FRONT_TIMEOUT,
            NOTIFY_TIMEOUT, WATCHDOG_TIMEOUT, WATCHDOG_INTERVAL, WATCHDOG_LAST_WORDS, CONTROL_JOB_SLOW, QUEUE_WAIT_MAX,
            EVICTION_GRACE, SHARE_QUANTUM,
            IDLE_UNSURE_TTL, IDLE_BIN, IDLE_HALF_LIFE, IMAGE_SCAN_TIMEOUT_DEFAULT, IMAGE_SCAN_MAX_AGE_DEFAULT, CONTAINER_BLANK_TIMEOUT,
            CONTAINER_START_TIMEOUT, CONTAINER_EXIT_WAIT, CONTAINER_REMOVAL_RETRY, CONTAINER_REMOVAL_RETRY_MAX,
            CONTAINERS_STOP_WAIT, HEIR_END_WAIT, IMAGE_REFUSAL_MAX_AGE, ENGINE_CALL_TIMEOUT, ENGINE_LOOK, ENGINE_RETRY, ENGINE_SWEEP, ENGINE_ASK_AGAIN, ENGINE_ASK_PATIENCE,
            IMAGE_SCAN_FAILURE_MAX_AGE,
            ENGINE_IDLE_TIMEOUT, IMAGE_PULL_TIMEOUT, ENGINE_PULL_SILENCE_MAX,
        ],
        ms => [FUNCTION_TIMEOUT_MS_DEFAULT],
    ];
    let ranges = [
        ("COLD_START_TIMEOUT_MS", limits::COLD_START_TIMEOUT_MS),
        ("WARM_INSTANCE_TTL_MS", limits::WARM_INSTANCE_TTL_MS),
        ("DRAIN_TIMEOUT_MS", limits::DRAIN_TIMEOUT_MS),
        ("SHUTDOWN_GRACE_MS", limits::SHUTDOWN_GRACE_MS),
        ("QUEUE_WAIT_MS", limits::QUEUE_WAIT_MS),
        ("IMAGE_SCAN_TIMEOUT_MS", limits::IMAGE_SCAN_TIMEOUT_MS),
        ("IMAGE_SCAN_MAX_AGE_MS", limits::IMAGE_SCAN_MAX_AGE_MS),
    ];
    values.extend(ranges.iter().flat_map(|(name, range)| [(*name, ms(*range.start())), (*name, ms(*range.end()))]));
    let bodies = limits::BODY_BYTES_LIMIT;
    values.extend([*bodies.start(), *bodies.end()].map(|bytes| ("BODY_BYTES_LIMIT", size(bytes))));
    values.push(("CALLER_TIMEOUT_MS", ms(*limits::CALLER_TIMEOUT_MS.end())));
    // The row of a default also holds its least and most.
    values.extend([
        ("INVOCATIONS_SHARE", format!("fewer than {} times the free places", limits::INVOCATIONS_SHARE)),
        ("FUNCTION_TIMEOUT_MS_DEFAULT", ms(limits::FUNCTION_TIMEOUT_MS_MIN)),
        ("FUNCTION_TIMEOUT_MS_DEFAULT", ms(limits::FUNCTION_TIMEOUT_MS_MAX)),
        ("FUNCTION_MEMORY_BYTES_DEFAULT", size(limits::FUNCTION_MEMORY_BYTES_MIN)),
        ("FUNCTION_MEMORY_BYTES_DEFAULT", size(limits::FUNCTION_MEMORY_BYTES_MAX)),
        ("FUNCTION_CPU_MILLIS_DEFAULT", format!("{} core", limits::FUNCTION_CPU_MILLIS_DEFAULT / 1000)),
        ("FUNCTION_CPU_MILLIS_DEFAULT", format!("{}", f64::from(limits::FUNCTION_CPU_MILLIS_MIN) / 1000.0)),
        ("FUNCTION_CPU_MILLIS_DEFAULT", format!("{}", limits::FUNCTION_CPU_MILLIS_MAX / 1000)),
        ("API_KEY_BYTES_MIN", size(limits::API_KEY_BYTES_MAX as u64)),
    ]);
    for (name, value) in &values {
        let row = specification.lines().find(|line| quoted(line).any(|found| found == *name));
        let row = row.unwrap_or_else(|| panic!("{name} has no row"));
        // A cell is the value, perhaps with a word of explanation behind it.
        let is_value = |cell: &str| {
            let rest = cell.trim().trim_start_matches("`sandbox_uid_base` + slot, from ").strip_prefix(value.as_str());
            rest.is_some_and(|rest| matches!(rest, "" | "/s" | " entries") || rest.starts_with(", "))
        };
        let is_there = row.split('|').any(is_value);
        assert!(is_there, "{name} is {value}, but the row says: {row}");
    }
    // And the other way round: no limit is named there whose value is not compared above.
    let compared: BTreeSet<&str> = values.iter().map(|(name, _)| *name).collect();
    let others = ["FUNCTION_CPU_MILLIS_DEFAULT", "API_KEY_BYTES_MAX"];
    for name in quoted(&specification).filter(|name| name.len() > 4 && !name.starts_with('_')) {
        let is_limit = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        assert!(!is_limit || compared.contains(name) || others.contains(&name), "{name} is not compared");
    }
}

#[test]
fn every_test_that_the_specification_names_is_there() {
    let specification = read("SPECIFICATION.md");
    let rust = sources(&["src", "tests"], "rs");
    let python = sources(&["tests/python"], "py");
    let mut seen = 0;
    for row in rows(&specification, |head| head.last() == Some(&"held by")) {
        for name in quoted(row.last().unwrap()).filter(|name| !name.contains(['/', ' ', '-'])) {
            seen += 1;
            let is_there = rust.contains(&format!("fn {name}(")) || python.contains(&format!("def test_{name}("));
            assert!(is_there, "there is no test {name}");
        }
    }
    assert!(seen > 50, "the tables were not found");
    for path in quoted(&specification).filter(|name| name.starts_with("tests/") || name.starts_with("src/")) {
        assert!(root().join(path).exists(), "{path} is not there");
    }
}

#[test]
fn every_code_of_a_problem_is_in_the_specification() {
    let code = sources(&["src"], "rs");
    let specification = read("SPECIFICATION.md");
    let documented: BTreeSet<&str> = rows(&specification, |head| head.get(1) == Some(&"code"))
        .iter()
        .flat_map(|row| quoted(row[1]).collect::<Vec<_>>())
        .collect();
    let mut made = BTreeSet::new();
    for marker in
        ["Problem::new(", "Problem::invalid(", "Problem::unavailable(", "Fault::Syntax =>", "Fault::Handler =>"]
    {
        for (at, _) in code.match_indices(marker) {
            let rest = &code[at + marker.len()..];
            let Some((before, rest)) = rest.split_once('"') else { continue };
            // The code is the first or the second argument; where it is neither, a variable holds it.
            if before.chars().all(|character| character.is_ascii_digit() || ", \n".contains(character)) {
                made.insert(rest.split('"').next().unwrap());
            }
        }
    }
    assert!(made.len() > 30, "{made:?}");
    // Nothing limits the rate yet.
    let missing: Vec<_> = made.iter().filter(|code| **code != "rate_limited" && !documented.contains(*code)).collect();
    assert!(missing.is_empty(), "not in SPECIFICATION.md: {missing:?}");
}

#[test]
fn the_module_map_shows_what_is_there_and_all_of_it() {
    let architecture = read("ARCHITECTURE.md");
    let mut shown = BTreeSet::new();
    for row in rows(&architecture, |head| head == ["path", "owns"]) {
        let mut directory = PathBuf::new();
        for name in quoted(row[0]) {
            // `src/http/parse.rs`, `fields.rs`: what has no directory lies beside the one before.
            let path = if name.contains('/') { PathBuf::from(name) } else { directory.join(name) };
            assert!(root().join(&path).exists(), "{} is not there", path.display());
            directory = path.parent().unwrap().to_owned();
            shown.insert(path);
        }
    }
    for entry in std::fs::read_dir(root().join("src")).unwrap() {
        let path = entry.unwrap().path();
        let path = path.strip_prefix(root()).unwrap();
        // `cli.rs` stands for `cli/` as well.
        let has_rows = shown.iter().any(|shown| shown.starts_with(path) || path.with_extension("rs") == *shown)
            || shown.contains(&path.with_extension(""));
        assert!(has_rows, "{} is not in the module map", path.display());
    }
}
