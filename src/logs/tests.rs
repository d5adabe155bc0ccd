use super::*;
use crate::limits::{LOG_ENTRY_BYTES_MAX, LOG_FILE_BYTES_MAX, LOG_RING_ENTRIES_MAX};

pub(super) fn entry(message: &str) -> LogEntry {
    LogEntry {
        time_ms: 1000,
        request_id: "request".to_string(),
        instance: "i1-2".to_string(),
        version: 3,
        stream: LogStream::Stdout,
        message: message.to_string(),
    }
}

fn start(dir: &Path) -> (FunctionLogs, LogSink) {
    let logs = FunctionLogs::start(dir, LOG_RING_ENTRIES_MAX, |_| true).unwrap();
    let sink = logs.sink();
    (logs, sink)
}

fn messages(entries: &[LoggedEntry]) -> Vec<(u64, &str)> {
    entries.iter().map(|logged| (logged.seq, logged.entry.message.as_str())).collect()
}

/// All entries. Asks again while the thread is busy: a debug build on a loaded machine may take its time.
fn all(sink: &LogSink, function: &str) -> Vec<LoggedEntry> {
    let mut answers = (0..15).map(|_| sink.query(function, usize::MAX, None));
    answers.find(|answer| !matches!(answer, Err(LogsError::Busy))).expect("an answer").unwrap()
}

#[test]
fn a_question_is_answered_with_everything_appended_before() {
    let dir = tempfile::tempdir().unwrap();
    let (_logs, sink) = start(dir.path());
    for number in 0..100 {
        sink.append("f", entry(&format!("line {number}")));
        let newest = sink.query("f", 1, None).unwrap();
        assert_eq!(messages(&newest), [(number + 1, format!("line {number}").as_str())]);
    }
    assert_eq!(messages(&sink.query("f", 2, Some(Since::Sequence(10))).unwrap()), [(11, "line 10"), (12, "line 11")]);
    assert_eq!(all(&sink, "g"), []);
}

/// `limits.max_log_entries` once had no effect.
#[test]
fn as_many_entries_are_kept_as_were_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let logs = FunctionLogs::start(dir.path(), 3, |_| true).unwrap();
    for number in 1..=5 {
        logs.sink().append("f", entry(&format!("line {number}")));
    }
    assert_eq!(messages(&all(&logs.sink(), "f")), [(3, "line 3"), (4, "line 4"), (5, "line 5")]);
}

#[test]
fn entries_and_their_numbers_outlive_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let (logs, sink) = start(dir.path());
    sink.append("f", entry("first"));
    sink.append("g", entry("of another"));
    drop(logs);
    let (logs, sink) = start(dir.path());
    // The number goes on even when nobody has asked for the log since the start.
    sink.append("f", entry("second"));
    assert_eq!(messages(&all(&sink, "f")), [(1, "first"), (2, "second")]);
    assert_eq!(all(&sink, "f")[0].entry, entry("first"));
    assert_eq!(messages(&all(&sink, "g")), [(1, "of another")]);
    drop(logs);
    assert!(matches!(sink.query("f", 1, None), Err(LogsError::Stopped)));
}

#[test]
fn what_a_query_showed_is_in_the_file_already() {
    let dir = tempfile::tempdir().unwrap();
    let (_logs, sink) = start(dir.path());
    sink.append("f", entry("shown"));
    all(&sink, "f");
    let text = std::fs::read_to_string(dir.path().join("logs/f.jsonl")).unwrap();
    assert!(text.contains("\"shown\"") && text.ends_with('\n'), "{text}");
}

#[test]
fn torn_and_foreign_lines_are_skipped_and_do_no_harm_to_their_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let (logs, sink) = start(dir.path());
    sink.append("f", entry("whole"));
    drop(logs);
    let path = dir.path().join("logs/f.jsonl");
    let mut text = std::fs::read(&path).unwrap();
    let line = text.clone();
    text.extend_from_slice(b"\xff\xfe\n{}\n\n");
    text.extend_from_slice(&line[..line.len() / 2]);
    std::fs::write(&path, text).unwrap();

    let (logs, sink) = start(dir.path());
    sink.append("f", entry("after the torn line"));
    let expected = [(1, "whole"), (2, "after the torn line")];
    assert_eq!(messages(&all(&sink, "f")), expected);
    drop(logs);
    let (_logs, sink) = start(dir.path());
    assert_eq!(messages(&all(&sink, "f")), expected);
}

#[test]
fn files_are_rotated_within_their_bound_and_fill_the_ring_again() {
    let dir = tempfile::tempdir().unwrap();
    let (logs, sink) = start(dir.path());
    let text = "x".repeat(400);
    for number in 0..6000 {
        sink.append("f", entry(&format!("{number} {text}")));
        if number % 500 == 0 {
            all(&sink, "f");
        }
    }
    let before = all(&sink, "f");
    assert_eq!((before.len(), before[before.len() - 1].seq), (LOG_RING_ENTRIES_MAX, 6000));
    drop(logs);
    for file in ["f.jsonl", "f.jsonl.1"] {
        let len = std::fs::metadata(dir.path().join("logs").join(file)).unwrap().len();
        assert!(0 < len && len <= LOG_FILE_BYTES_MAX, "{file}: {len}");
    }
    let (_logs, sink) = start(dir.path());
    assert!(all(&sink, "f") == before, "the ring was not filled with what it held");
}

#[test]
fn a_removed_log_is_gone_and_a_new_one_begins_at_one() {
    let dir = tempfile::tempdir().unwrap();
    let (_logs, sink) = start(dir.path());
    sink.append("f", entry("old"));
    sink.append("f-2", entry("another's"));
    sink.forget("f");
    sink.forget("never-was");
    assert_eq!(messages(&all(&sink, "f")), []);
    assert!(!dir.path().join("logs/f.jsonl").exists());
    sink.append("f", entry("new"));
    assert_eq!(messages(&all(&sink, "f")), [(1, "new")]);
    assert_eq!(messages(&all(&sink, "f-2")), [(1, "another's")]);
}

#[test]
fn logs_of_functions_that_are_gone_are_removed_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    for file in ["kept.jsonl", "kept.jsonl.1", "gone.jsonl", "gone.jsonl.1", "notes.txt"] {
        std::fs::write(logs.join(file), "").unwrap();
    }
    drop(FunctionLogs::start(dir.path(), LOG_RING_ENTRIES_MAX, |function| function == "kept").unwrap());
    let mut left: Vec<_> = std::fs::read_dir(&logs).unwrap().map(|item| item.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["kept.jsonl", "kept.jsonl.1", "notes.txt"]);
}

#[test]
fn a_disk_that_cannot_be_written_leaves_the_ring() {
    let dir = tempfile::tempdir().unwrap();
    let (logs, sink) = start(dir.path());
    let in_the_way = dir.path().join("logs/f.jsonl");
    std::fs::create_dir(&in_the_way).unwrap();
    sink.append("f", entry("lost on disk"));
    assert_eq!(messages(&all(&sink, "f")), [(1, "lost on disk")]);
    std::fs::remove_dir(&in_the_way).unwrap();
    sink.append("f", entry("written"));
    drop(logs);
    let (_logs, sink) = start(dir.path());
    assert_eq!(messages(&all(&sink, "f")), [(2, "written")]);
}

#[test]
fn a_long_entry_is_cut_between_two_characters() {
    let dir = tempfile::tempdir().unwrap();
    let (_logs, sink) = start(dir.path());
    sink.append("f", entry(&format!("x{}", "é".repeat(LOG_ENTRY_BYTES_MAX))));
    assert_eq!(all(&sink, "f")[0].entry.message, format!("x{}", "é".repeat((LOG_ENTRY_BYTES_MAX - 1) / 2)));
}

const MEMORY_BYTES_MAX: usize = 1024 * 1024;

/// A sink whose service does not run yet.
fn unattended(dir: &Path, queue_max: usize) -> (LogSink, Service) {
    let (queue, messages) = bounded(queue_max);
    let pressure = Arc::new(Pressure::default());
    let service =
        Service::new(dir.to_path_buf(), messages, Arc::clone(&pressure), MEMORY_BYTES_MAX, LOG_RING_ENTRIES_MAX);
    (LogSink { queue, pressure }, service)
}

#[test]
fn a_full_queue_drops_and_says_so_in_the_log_that_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (sink, service) = unattended(dir.path(), 4);
    for number in 0..6 {
        sink.append("f", entry(&number.to_string()));
    }
    sink.append("g", entry("no room"));
    let running = thread::spawn(move || service.run());
    let noted = loop {
        // The note is made after the batch in which the first question was asked.
        let entries = all(&sink, "f");
        if entries.len() > 4 {
            break entries;
        }
    };
    let note = "2 log entries were dropped: the log queue was full";
    assert_eq!(messages(&noted), [(1, "0"), (2, "1"), (3, "2"), (4, "3"), (5, note)]);
    assert_eq!(noted[4].entry.stream, LogStream::System);
    assert_eq!(messages(&all(&sink, "g")), [(1, "1 log entry was dropped: the log queue was full")]);
    drop(sink);
    running.join().unwrap();
}

#[test]
fn the_queue_is_bounded_in_bytes_too_and_empties_again() {
    let dir = tempfile::tempdir().unwrap();
    let (sink, service) = unattended(dir.path(), LOG_QUEUE_MAX);
    let large = "x".repeat(LOG_ENTRY_BYTES_MAX);
    let fitting = LOG_QUEUE_BYTES_MAX / entry(&large).bytes();
    for _ in 0..fitting + 3 {
        sink.append("f", entry(&large));
    }
    assert_eq!(sink.queue.len(), fitting);
    let running = thread::spawn(move || service.run());
    all(&sink, "f");
    assert_eq!(sink.pressure.queued_bytes.load(Ordering::Relaxed), 0);
    sink.append("f", entry("room again"));
    assert_eq!(sink.query("f", 1, None).unwrap()[0].entry.message, "room again");
    drop(sink);
    running.join().unwrap();
}

#[test]
fn memory_is_bounded_over_all_functions_and_what_is_given_up_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (_sink, mut service) = unattended(dir.path(), 1);
    let text = "x".repeat(1000);
    let mut given_up = false;
    for number in 0..100 {
        let function: Arc<str> = format!("f{number}").into();
        for _ in 0..70 {
            service.append(Arc::clone(&function), entry(&text));
        }
        given_up |= service.memory_bytes() > MEMORY_BYTES_MAX;
        service.end_batch();
        assert!(service.memory_bytes() <= MEMORY_BYTES_MAX);
    }
    assert!(given_up, "the bound was never reached");
    let oldest = service.query("f0".into(), usize::MAX, None);
    assert_eq!((oldest.len(), oldest[69].seq), (70, 70));
    service.append("f0".into(), entry("next"));
    assert_eq!(messages(&service.query("f0".into(), 1, None)), [(71, "next")]);
    for number in 0..100 {
        service.forget(&format!("f{number}").into());
    }
    assert_eq!(service.memory_bytes(), 0);
}

#[test]
fn another_number_of_entries_is_kept_from_then_on_and_more_are_found_again_in_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let (_sink, mut service) = unattended(dir.path(), 1);
    service.bound(5);
    for number in 0..20 {
        service.append("f".into(), entry(&number.to_string()));
    }
    let count = |service: &mut Service| service.query("f".into(), usize::MAX, None).len();
    service.bound(100);
    assert_eq!(count(&mut service), 20, "what had gone from memory is in the file");
    let before = service.memory_bytes();
    service.bound(3);
    assert_eq!(messages(&service.query("f".into(), usize::MAX, None)), [(18, "17"), (19, "18"), (20, "19")]);
    assert!(service.memory_bytes() < before);
    service.append("f".into(), entry("next"));
    assert_eq!(count(&mut service), 3);
    service.forget(&"f".into());
    assert_eq!(service.memory_bytes(), 0);
}

/// What the service does while another server takes over, as seen from that one.
#[test]
fn a_service_that_is_closed_writes_out_what_it_has_and_sends_the_rest_to_its_successor() {
    use crate::takeover::{message::Message as Said, socket};
    let dir = tempfile::tempdir().unwrap();
    let (_logs, sink) = start(dir.path());
    let (begin, opening) = FunctionLogs::start_closed(dir.path(), LOG_RING_ENTRIES_MAX).unwrap();
    let successor = begin.sink();
    successor.append("f", entry("early"));
    sink.append("f", entry("one"));
    let (done, is_done) = bounded(1);
    let decision = sink.close(move || done.send(()).unwrap()).unwrap();
    is_done.recv().unwrap();
    sink.append("f", entry("between"));
    let written = std::fs::read_to_string(dir.path().join("logs/f.jsonl")).unwrap();
    assert!(written.ends_with("\n") && written.lines().count() == 1, "{written}");
    let (ours, theirs) = crate::sys::io::seqpacket_pair().unwrap();
    decision.leave_to(ours);
    opening.open(|_| true).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let (said, _) = socket::receive_by(&theirs, &mut socket::buffer(), deadline).unwrap().unwrap();
    let Said::Log(line) = said.unwrap() else { panic!("no log entry") };
    assert_eq!((line.function.as_str(), line.entry.message.as_str()), ("f", "between"));
    successor.append(line.function, line.entry);
    let expected = [(1, "one"), (2, "early"), (3, "between")];
    assert_eq!(messages(&all(&successor, "f")), expected);
    // Who asks the other one is told what is in the files.
    let found = all(&sink, "f");
    assert_eq!(messages(&found), expected);
    // A successor that is gone: the lines are written here again.
    drop(theirs);
    sink.append("f", entry("alone"));
    assert_eq!(messages(&all(&sink, "f"))[3], (4, "alone"));
}

#[test]
fn a_service_whose_closing_is_called_off_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (logs, sink) = start(dir.path());
    sink.append("f", entry("one"));
    for number in 2..5 {
        let (done, is_done) = bounded(1);
        let decision = sink.close(move || done.send(()).unwrap()).unwrap();
        is_done.recv().unwrap();
        sink.append("f", entry("more"));
        drop(decision);
        assert_eq!(messages(&all(&sink, "f")).last(), Some(&(number, "more")));
    }
    drop(logs);
    // And one that never came to serve has written nothing.
    let before = std::fs::read(dir.path().join("logs/f.jsonl")).unwrap();
    let (begin, opening) = FunctionLogs::start_closed(dir.path(), LOG_RING_ENTRIES_MAX).unwrap();
    begin.sink().append("f", entry("never"));
    drop(opening);
    drop(begin);
    assert_eq!(std::fs::read(dir.path().join("logs/f.jsonl")).unwrap(), before);
}
