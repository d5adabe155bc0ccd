//! What a function may answer, and what becomes of everything else.
#![allow(clippy::unwrap_used)]

mod common;

use common::functions::sandboxed;
use serde_json::{json, Value};

/// Returns what the body says, as Python.
const EVAL: &str = r#"
class Named(dict):
    pass

class Hostile(dict):
    def items(self):
        raise KeyError("no items")

def generate():
    yield 1

def cycle():
    a = []
    a.append({"a": a})
    return a

def deep(levels):
    a = 1
    for _ in range(levels):
        a = [a]
    return a

async def late():
    return 1

def handle(request):
    return eval(request.get_text())
"#;

#[test]
fn every_form_of_an_answer_has_its_status_type_and_body() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("eval", EVAL, json!({}));
    const JSON: &str = "application/json";
    const BYTES: &str = "application/octet-stream";
    const TEXT: &str = "text/plain; charset=utf-8";
    for (answer, status, content_type, body) in [
        ("{'a': 1, 'é': [None, True]}", 200, JSON, "{\"a\":1,\"é\":[null,true]}"),
        ("[1, 'two', 3.5]", 200, JSON, "[1,\"two\",3.5]"),
        ("'text'", 200, JSON, "\"text\""),
        ("7", 200, JSON, "7"),
        ("-0.5", 200, JSON, "-0.5"),
        ("2 ** 100", 200, JSON, "1267650600228229401496703205376"),
        ("None", 200, JSON, "null"),
        ("True", 200, JSON, "true"),
        ("{}", 200, JSON, "{}"),
        ("Named(a=1)", 200, JSON, "{\"a\":1}"),
        ("{1: 2}", 200, JSON, "{\"1\":2}"),
        ("'\\ud800'", 200, JSON, "\"\\ud800\""),
        ("b'raw \\x00'", 200, BYTES, "raw \0"),
        ("b''", 200, BYTES, ""),
        ("bytearray(b'raw')", 200, BYTES, "raw"),
        ("({'a': 1}, 201)", 201, JSON, "{\"a\":1}"),
        ("('gone', 410)", 410, JSON, "\"gone\""),
        ("(b'x', 200, {'Content-Type': 'image/png'})", 200, "image/png", "x"),
        ("('<p>', 200, {'content-type': 'text/html'})", 200, "text/html", "<p>"),
        ("(None, 404)", 404, JSON, "null"),
        ("({'e': 1}, 503)", 503, JSON, "{\"e\":1}"),
        ("({}, 200, [('X-A', '1')])", 200, JSON, "{}"),
        ("Response('plain')", 200, TEXT, "plain"),
        ("Response({'a': 1}, status=202)", 202, JSON, "{\"a\":1}"),
        ("Response(b'x', content_type='image/gif')", 200, "image/gif", "x"),
    ] {
        let reply = server.invoke("eval", answer);
        assert_eq!(reply.status, status, "{answer}: {}", reply.text());
        assert_eq!(reply.header("content-type"), Some(content_type), "{answer}");
        assert_eq!(reply.text(), body, "{answer}");
        assert!(reply.header("x-request-id").is_some() && reply.header("x-faas-instance").is_some(), "{answer}");
    }
}

#[test]
fn an_answer_without_a_body_has_none() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("eval", EVAL, json!({}));
    for (answer, status) in [("(None, 204)", 204), ("('ignored', 204)", 204), ("Response()", 200)] {
        let reply = server.invoke("eval", answer);
        assert_eq!((reply.status, reply.body.as_slice()), (status, &b""[..]), "{answer}");
    }
}

#[test]
fn headers_of_an_answer_reach_the_client() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("eval", EVAL, json!({}));
    let reply = server.invoke("eval", "({}, 200, {'X-One': 'a', 'Set-Cookie': ['a=1', 'b=2'], 'X-Number': 5})");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!((reply.header("x-one"), reply.header("x-number")), (Some("a"), Some("5")));
    let cookies: Vec<&str> =
        reply.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, value)| value.as_str()).collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
}

#[test]
fn a_function_cannot_change_the_framing_or_the_servers_own_headers() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("eval", EVAL, json!({}));
    let answer = "({'a': 1}, 200, {'Content-Length': '1', 'Transfer-Encoding': 'chunked', 'Connection': 'x', \
                  'X-Request-Id': 'forged', 'X-Faas-Instance': 'forged', 'X-Faas-Cold-Start': 'forged', \
                  'X-Faas-Duration-Ms': 'forged', 'Date': 'forged'})";
    let reply = server.invoke("eval", answer);
    assert_eq!((reply.status, reply.text().as_str()), (200, "{\"a\":1}"));
    assert!(reply.headers.iter().all(|(name, value)| value != "forged" && name != "transfer-encoding"), "{reply:?}");
    for name in ["x-request-id", "x-faas-instance", "x-faas-cold-start", "x-faas-duration-ms", "date"] {
        assert_eq!(reply.headers.iter().filter(|(other, _)| other == name).count(), 1, "{name}: {reply:?}");
    }
}

#[test]
fn what_is_no_answer_is_a_defined_error_and_the_next_call_works() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("eval", EVAL, json!({}));
    for (answer, words) in [
        ("{1, 2}", "set"),
        ("object()", "object"),
        ("float('nan')", "JSON"),
        ("[float('inf')]", "JSON"),
        ("cycle()", "ircular"),
        ("deep(10_000)", "deep"),
        ("{'a': object()}", "object"),
        ("{(1, 2): 3}", "keys must be"),
        ("generate()", "generator"),
        ("late()", "coroutine"),
        ("handle", "function"),
        ("()", "tuple"),
        ("(1, 2, 3, 4)", "tuple"),
        ("('a', 'b')", "status"),
        ("('a', True)", "status"),
        ("('a', 99)", "99"),
        ("('a', 600)", "600"),
        ("('a', 101)", "101"),
        ("('a', -1)", "-1"),
        ("('a', 10 ** 5000)", "huge"),
        ("({}, 200, {'X-A': 'a\\r\\nX-B: b'})", "control"),
        ("({}, 200, {'X-A': 'a\\0'})", "control"),
        ("({}, 200, {'X A': 'a'})", "token"),
        ("({}, 200, {'X-A\\r\\nX-B': 'a'})", "token"),
        ("({}, 200, {'': 'a'})", "token"),
        ("({}, 200, {'X-A': None})", "NoneType"),
        ("({}, 200, 7)", "headers"),
        ("({}, 200, {'X-A': 'a' * 20_000})", "headers"),
        ("Response(object())", "object"),
        ("Response('x', status='200')", "status"),
        ("Response('x', content_type='a\\r\\nb')", "control"),
        ("Hostile(a=1)", "KeyError"),
        ("type('S', (str,), {'encode': lambda *a: 1})('x'), 200, {'content-type': 'text/css'}", ""),
    ] {
        let reply = server.invoke("eval", answer);
        assert_eq!((reply.status, reply.code().as_str()), (502, "invalid_response"), "{answer}");
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(words), "{answer}: {detail}");
        assert!(reply.header("x-b").is_none());
        assert_eq!(server.answer("eval", "{'fine': 1}"), json!({"fine": 1}), "after {answer}");
    }
    let only = server.instances("eval");
    assert_eq!(only.len(), 1, "none of this costs an instance: {only:?}");
}

#[test]
fn an_answer_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let Some(server) = sandboxed("", "limits:\n  max_response_body: 1Mi") else { return };
    server.deploy("eval", EVAL, json!({"memory": "256Mi"}));
    assert_eq!(server.invoke("eval", "b'x' * 1048576").body.len(), 1_048_576);
    for answer in ["b'x' * 1048577", "'x' * 1048575", "b'x' * 50_000_000"] {
        let (status, code, detail) = server.failure("eval", answer);
        assert_eq!((status, code.as_str()), (502, "response_too_large"), "{answer}");
        assert!(detail.contains("1048576"), "{detail}");
    }
    assert_eq!(server.answer("eval", "1"), 1);
}

/// Runs the body, as Python.
const EXEC: &str = r#"
class Mute(Exception):
    def __str__(self):
        raise ValueError("no words")

class Own(Exception):
    pass

def endless(n):
    return endless(n + 1)

def handle(request):
    exec(request.get_text())
    return "done"
"#;

#[test]
fn whatever_is_raised_is_a_function_error_with_type_and_message() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("exec", EXEC, json!({}));
    for (code, kind, message) in [
        ("raise ValueError('bad value')", "ValueError", "bad value"),
        ("raise Own('é', 2)", "Own", "('é', 2)"),
        ("{}['missing']", "KeyError", "'missing'"),
        ("1 / 0", "ZeroDivisionError", "division by zero"),
        ("raise Mute()", "Mute", "(its __str__ raised ValueError)"),
        ("raise SystemExit(3)", "SystemExit", "3"),
        ("import sys; sys.exit()", "SystemExit", ""),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("raise BaseException('base')", "BaseException", "base"),
        ("raise GeneratorExit", "GeneratorExit", ""),
        ("raise StopIteration(1)", "StopIteration", "1"),
        ("endless(0)", "RecursionError", "maximum recursion depth exceeded"),
        ("json.loads('[' * 100_000)", "RecursionError", "maximum recursion depth exceeded"),
        ("bytearray(1 << 50)", "MemoryError", ""),
        ("raise Own('\\ud800')", "Own", "\\ud800"),
    ] {
        let reply = server.invoke("exec", code);
        assert_eq!((reply.status, reply.code().as_str()), (500, "function_error"), "{code}: {}", reply.text());
        let error = &reply.json()["error"];
        assert_eq!(error["type"], kind, "{code}");
        assert!(error["message"].as_str().unwrap().starts_with(message), "{code}: {error}");
        assert_eq!(server.answer("exec", "pass"), "done", "after {code}");
    }
    assert_eq!(server.instances("exec").len(), 1, "none of this costs an instance");
}

#[test]
fn a_message_of_a_megabyte_is_cut() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("exec", EXEC, json!({}));
    let reply = server.invoke("exec", "raise Own('é' * 1_000_000)");
    assert_eq!(reply.code(), "function_error");
    let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.len() <= 4096 && message.chars().all(|char| char == 'é'), "{} bytes", message.len());
}

#[test]
fn the_traceback_is_in_the_log_with_its_source_lines_and_not_in_the_answer() {
    let Some(server) = sandboxed("", "") else { return };
    let code = "def inner(x):\n    return 1 / x  # the guilty line\n\ndef handle(request):\n    return inner(0)\n";
    server.deploy("broken", code, json!({}));
    let reply = server.invoke("broken", "");
    assert_eq!(reply.code(), "function_error");
    assert!(!reply.text().contains("Traceback"), "{}", reply.text());
    let logs = server.logs("broken");
    let [entry] = logs.as_slice() else { panic!("one entry: {logs:?}") };
    assert_eq!(entry["stream"], "traceback");
    assert_eq!(entry["request_id"].as_str(), reply.header("x-request-id"));
    let text = entry["message"].as_str().unwrap();
    for line in ["Traceback (most recent call last)", "in inner", "the guilty line", "ZeroDivisionError: division by"] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    assert!(!text.contains("instance.py"), "the frames of the server's own code are left out: {text}");
}

#[test]
fn an_async_handler_is_awaited() {
    let Some(server) = sandboxed("", "") else { return };
    let code = "import asyncio\nasync def handle(request):\n    await asyncio.sleep(0)\n    return {'a': 1}";
    assert_eq!(server.run("async", code, ""), json!({"a": 1}));
}

#[test]
fn a_callable_object_and_a_name_in_a_module_are_handlers() {
    let Some(server) = sandboxed("", "") else { return };
    let code = "class Handler:\n    def __call__(self, request):\n        return __name__\nserve = Handler()";
    server.deploy("object", code, json!({"handler": "shop.serve"}));
    let answer: Value = server.answer("object", "");
    assert_eq!(answer, "shop");
}
