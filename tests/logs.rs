//! A function's log: what is captured, under which request id, in which order, how much, and for how long.
#![allow(clippy::unwrap_used)]

mod common;

use common::functions::sandboxed;
use common::{eventually, Reply, Server};
use nix::sys::signal::Signal;
use serde_json::{json, Value};

/// Runs the body, as Python.
const EXEC: &str = r#"
import logging, os, subprocess, sys, threading

def handle(request):
    exec(request.get_text())
    return "done"
"#;

fn id(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.header("x-request-id").unwrap().to_owned()
}

/// Stream and text of each entry that a call has left.
fn of_call(logs: &[Value], id: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let own = logs.iter().filter(|entry| entry["request_id"] == id);
    own.map(|entry| (text(&entry["stream"]), text(&entry["message"]))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(stream, text)| ((*stream).to_owned(), (*text).to_owned())).collect()
}

/// What a call that has been answered left in the log.
fn log_of(server: &Server, name: &str, code: &str) -> Vec<(String, String)> {
    let id = id(&server.invoke(name, code));
    of_call(&server.logs(name), &id)
}

#[test]
fn everything_that_a_call_writes_is_in_its_log_when_it_is_answered() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("exec", EXEC, json!({}));
    for (code, expected) in [
        ("print('one'); print('two')", &[("stdout", "one"), ("stdout", "two")][..]),
        ("print('to', 'stderr', file=sys.stderr)", &[("stderr", "to stderr")]),
        ("print('é', '\\ud800')", &[("stdout", "é ?")]),
        ("logging.warning('careful')", &[("stderr", "WARNING:root:careful")]),
        ("sys.stdout.write('no line end')", &[("stdout", "no line end")]),
        ("print('a', end=''); print('b', end=''); print('c')", &[("stdout", "abc")]),
        (
            "print('out'); print('err', file=sys.stderr); print('out')",
            &[("stdout", "out"), ("stderr", "err"), ("stdout", "out")],
        ),
        ("sys.stdout.buffer.write(b'bytes\\n')", &[("stdout", "bytes")]),
        ("os.write(1, b'raw out\\n')", &[("output", "raw out")]),
        ("os.write(2, b'raw err\\n')", &[("output", "raw err")]),
        ("os.write(1, b'in '); time.sleep(0.05); os.write(1, b'\\xc3'); time.sleep(0.05); os.write(1, b'\\xa9 pieces\\n')", &[("output", "in é pieces")]),
        ("os.write(1, b'raw, no line end')", &[("output", "raw, no line end")]),
        ("subprocess.run([sys.executable, '-c', 'print(\"of a child\")'])", &[("output", "of a child")]),
        (
            "pid = os.fork()\nif pid == 0:\n    print('of a fork')\n    os._exit(0)\nos.waitpid(pid, 0)",
            &[("output", "of a fork")],
        ),
        (
            "os.system('echo of a shell >&2') if os.path.exists('/bin/sh') else os.write(2, b'of a shell\\n')",
            &[("output", "of a shell")],
        ),
        (
            "t = threading.Thread(target=print, args=('of a thread',)); t.start(); t.join()",
            &[("stdout", "of a thread")],
        ),
        ("pass", &[]),
    ] {
        assert_eq!(log_of(&server, "exec", code), pairs(expected), "{code}");
    }
}

#[test]
fn an_entry_says_when_and_where_it_was_written() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("exec", EXEC, json!({}));
    let reply = server.send(
        "POST",
        "/invoke/exec",
        &[("Authorization", "Bearer demo-key"), ("X-Request-Id", "my-own-id")],
        b"print('hello')",
    );
    assert_eq!(id(&reply), "my-own-id");
    let logs = server.logs("exec");
    let [entry] = logs.as_slice() else { panic!("{logs:?}") };
    assert_eq!((&entry["seq"], &entry["request_id"]), (&json!(1), &json!("my-own-id")));
    assert_eq!(entry["instance"].as_str(), reply.header("x-faas-instance"));
    assert_eq!(
        (&entry["version"], &entry["stream"], &entry["message"]),
        (&json!(1), &json!("stdout"), &json!("hello"))
    );
    assert!(entry["time"].as_str().unwrap().ends_with('Z'), "{entry}");
}

#[test]
fn what_the_top_level_prints_belongs_to_no_call() {
    let Some(server) = sandboxed("", "") else { return };
    let code = "print('loading')\ndef handle(request):\n    print('calling')";
    server.deploy("top", code, json!({}));
    let id = id(&server.invoke("top", ""));
    let logs = server.logs("top");
    assert_eq!(of_call(&logs, ""), pairs(&[("stdout", "loading")]));
    assert_eq!(of_call(&logs, &id), pairs(&[("stdout", "calling")]));
}

#[test]
fn raw_output_of_the_top_level_belongs_to_the_call_that_it_was_loaded_for() {
    let Some(server) = sandboxed("", "") else { return };
    let code = "import os\nos.write(1, b'loading\\n')\ndef handle(request):\n    os.write(1, b'calling\\n')";
    server.deploy("top", code, json!({}));
    let id = id(&server.invoke("top", ""));
    assert_eq!(of_call(&server.logs("top"), &id), pairs(&[("output", "loading"), ("output", "calling")]));
}

#[test]
fn the_first_raw_output_of_a_function_is_its_own_calls_even_after_prints() {
    let Some(server) = sandboxed("", "") else { return };
    // Every function is called once: only the first raw output of an instance could be missed.
    for round in 0..30 {
        let name = format!("first-{round}");
        let code = "import os\ndef handle(request):\n    print('printed')\n    os.write(1, b'raw')\n    return 1";
        server.deploy(&name, code, json!({}));
        let id = id(&server.invoke(&name, ""));
        let mut own = of_call(&server.logs(&name), &id);
        own.sort();
        assert_eq!(own, pairs(&[("output", "raw"), ("stdout", "printed")]), "round {round}");
    }
}

#[test]
fn calls_at_once_each_have_their_own_lines_in_their_order() {
    let Some(server) = sandboxed("", "") else { return };
    let code = r#"
import os
def handle(request):
    who = request.get_text()
    for n in range(4):
        print(who, n)
    if who.startswith("raw"):
        os.write(1, who.encode() + b" raw\n")
"#;
    server.deploy("chatty", code, json!({"max_instances": 3}));
    // A function that is known to write to the descriptors gets one call at a time, and every line its own call's id.
    id(&server.invoke("chatty", "raw first"));
    let calls: Vec<(String, String)> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..6)
            .map(|caller| {
                let server = &server;
                scope.spawn(move || {
                    let call = |n| {
                        let who = format!("{}{caller}-{n}", if caller == 0 { "raw" } else { "plain" });
                        (id(&server.invoke("chatty", &who)), who)
                    };
                    (0..15).map(call).collect::<Vec<_>>()
                })
            })
            .collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    let logs = server.logs("chatty");
    for (id, who) in &calls {
        let mut own = of_call(&logs, id);
        let raw: Vec<_> = own.iter().filter(|(stream, _)| stream == "output").cloned().collect();
        own.retain(|(stream, _)| stream == "stdout");
        let expected: Vec<_> = (0..4).map(|n| ("stdout".to_owned(), format!("{who} {n}"))).collect();
        assert_eq!(own, expected, "{who}");
        let expected = if who.starts_with("raw") { vec![("output".to_owned(), format!("{who} raw"))] } else { vec![] };
        assert_eq!(raw, expected, "{who}");
    }
    let seqs: Vec<u64> = logs.iter().map(|entry| entry["seq"].as_u64().unwrap()).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "oldest first: {seqs:?}");
}

#[test]
fn one_call_cannot_write_more_than_its_share_and_the_log_says_so() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("exec", EXEC, json!({}));
    let share = 256 * 1024;
    for (code, note) in [
        ("print('x' * 10_000_000)", "[log cut at 262144 bytes]"),
        ("for n in range(200_000): print('line', n)", "[log cut at 4096 entries for this call]"),
        (
            "os.write(1, b'') or [os.write(1, b'y' * 65536) for _ in range(160)]",
            "[raw output cut at 262144 bytes for this call]",
        ),
    ] {
        let entries = log_of(&server, "exec", code);
        let (_, last) = entries.last().unwrap();
        assert!(last == note, "{code}: {last:.60}");
        let bytes: usize = entries.iter().map(|(_, text)| text.len()).sum();
        assert!(bytes <= share + 1024, "{code}: {bytes} bytes");
        assert!(entries.iter().all(|(_, text)| text.len() <= 16 * 1024), "{code}");
        assert_eq!(
            log_of(&server, "exec", "print('next')"),
            pairs(&[("stdout", "next")]),
            "the next has a share again"
        );
    }
}

#[test]
fn a_line_of_ten_megabytes_keeps_its_beginning() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("exec", EXEC, json!({}));
    let entries = log_of(&server, "exec", "print('begin', 'é' * 5_000_000)");
    let text: String = entries[..entries.len() - 1].iter().map(|(_, text)| text.as_str()).collect();
    assert!(text.starts_with("begin éé") && text.len() > 200 * 1024, "{} bytes", text.len());
    assert!(!text.contains('\u{fffd}'), "cut within a character");
}

#[test]
fn a_reader_goes_on_where_it_stopped() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("exec", EXEC, json!({}));
    id(&server.invoke("exec", "for n in range(10): print(n)"));
    let messages = |query: &str| -> Vec<String> {
        let logs = server.logs_where("exec", query);
        logs.iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(messages("limit=3"), ["7", "8", "9"], "the newest");
    assert_eq!(messages("since=0&limit=3"), ["0", "1", "2"], "the first from there on");
    assert_eq!(messages("since=3&limit=3"), ["3", "4", "5"]);
    assert_eq!(messages("since=10"), Vec::<String>::new());
    let last = server.logs("exec").last().unwrap()["time"].as_str().unwrap().to_owned();
    assert!(messages(&format!("since={last}")).contains(&"9".to_owned()));
    assert_eq!(messages("since=2099-01-01T00:00:00Z"), Vec::<String>::new());
    assert_eq!(messages("since=1999-01-01T00:00:00Z").len(), 10);
    for wrong in ["since=yesterday", "since=-1", "limit=0", "limit=-1", "limit=many", "limit=100000"] {
        let reply = server.get(&format!("/functions/exec/logs?{wrong}"));
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_query"), "{wrong}");
    }
    assert_eq!(server.get("/functions/nobody/logs").status, 404);
}

#[test]
fn what_a_call_printed_before_it_was_killed_is_there() {
    let Some(server) = sandboxed("", "") else { return };
    let code = r#"
import os, time
def handle(request):
    print("complete line")
    print("begun line", end="")
    os.write(1, b"raw line\n")
    if request.get_text() == "hang":
        time.sleep(600)
    os._exit(3)
"#;
    // Its start is part of it.
    server.deploy("doomed", code, json!({"timeout": "4s"}));
    let endings = [
        ("hang", 504, "the function's timeout of 4000 ms passed while the function ran"),
        ("exit", 502, "the function's process exited with status 3"),
    ];
    for (how, status, ending) in endings {
        common::mode::await_stock(&server);
        let reply = server.invoke("doomed", how);
        assert_eq!(reply.status, status, "{}", reply.text());
        let id = reply.header("x-request-id").unwrap().to_owned();
        // The end of a killed instance is reported after its answer; its last output is read before that.
        eventually("both lines are in the log, and how the call ended", || {
            let own = of_call(&server.logs("doomed"), &id);
            let has = |stream: &str, text: &str| own.contains(&(stream.to_owned(), text.to_owned()));
            (has("stdout", "complete line") && has("output", "raw line") && has("system", ending)).then_some(())
        });
    }
}

#[test]
fn the_log_survives_a_restart_and_goes_with_its_function() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("exec", EXEC, json!({}));
    let first = id(&server.invoke("exec", "print('before')"));
    let before = server.logs("exec");
    let (home, status) = server.end(Signal::SIGTERM);
    assert!(status.success(), "{status}");
    let server = Server::on(home);
    assert_eq!(server.logs("exec"), before);
    let second = id(&server.invoke("exec", "print('after')"));
    let logs = server.logs("exec");
    assert_eq!(of_call(&logs, &first), pairs(&[("stdout", "before")]));
    assert_eq!(of_call(&logs, &second), pairs(&[("stdout", "after")]));
    assert!(logs.last().unwrap()["seq"].as_u64() > before.last().unwrap()["seq"].as_u64());

    assert_eq!(server.call("DELETE", "/functions/exec", "").status, 204);
    assert_eq!(server.get("/functions/exec/logs").status, 404);
    let of_function = || {
        let files = walk(&server.home.state());
        files.into_iter().filter(|path| path.to_string_lossy().contains("exec")).collect::<Vec<_>>()
    };
    eventually("its files are gone", || of_function().is_empty().then_some(()));
    server.deploy("exec", EXEC, json!({}));
    assert_eq!(server.logs("exec"), Vec::<Value>::new(), "a new function of that name has a new log");
}

#[test]
fn a_function_posted_again_at_once_keeps_its_own_log() {
    let Some(server) = sandboxed("", "") else { return };
    for round in 0..5 {
        server.deploy("again", EXEC, json!({}));
        let id = id(&server.invoke("again", &format!("print('round {round}')")));
        let logs = server.logs("again");
        assert_eq!(of_call(&logs, &id), pairs(&[("stdout", &format!("round {round}"))]));
        assert_eq!(logs.len(), 1, "nothing of the one before: {logs:?}");
        assert_eq!(server.call("DELETE", "/functions/again", "").status, 204);
    }
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
