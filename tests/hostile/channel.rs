//! What an instance may say to the server, and what becomes of one that says anything else.

use super::*;
use faas::limits::LOG_INVOCATION_ENTRIES_MAX;

/// Each speaks in the shim's place. The first two lines of most: the function claims to be loaded and takes a call.
const GARBAGE: [(&str, &str); 23] = [
    ("an empty datagram", "take(); os.write(3, b'')\nimport socket; socket.socket(fileno=3).send(b'')"),
    ("half a header", "take(); os.write(3, b'\\0' * 11)"),
    ("a payload longer than the datagram", "take(); send(frame(LOG, length=0xffffffff, payload=b'\\0x'))"),
    ("a payload that is cut", "take(); send(frame(RESPONSE, 1, length=17, payload=head()))"),
    ("a kind that does not exist", "take(); send(frame(99))"),
    ("a kind of the zygote's", "take(); send(frame(33, payload=b'\\1\\0\\0\\0'))"),
    ("a kind of the server's", "take(); send(frame(3, 1, payload=b'\\0' * 20))"),
    ("more frames than fit", "take(); send(*[frame(LOG, payload=b'\\0')] * 65)"),
    ("a second greeting", "take(); send(frame(HELLO, payload=b'{\"python\":\"9\"}'))"),
    ("a second success in loading", "take(); send(frame(LOADED))"),
    ("an answer to no call", "take(); send(frame(RESPONSE, 1, 0, 0, head()))"),
    ("an answer with a guessed nonce", "i, n = take(); send(frame(RESPONSE, 1, i, n ^ 1, head()))"),
    ("an answer to another call", "i, n = take(); send(frame(RESPONSE, 1, i + (1 << 32), n, head()))"),
    ("a body before its head", "i, n = take(); send(frame(BODY, 1, i, n, b'x'))"),
    ("a body that is announced as endless", "i, n = take(); send(frame(RESPONSE, 0, i, n, head(body_len=1 << 63)))"),
    (
        "a body that never gets longer",
        "i, n = take(); send(frame(RESPONSE, 0, i, n, head(body_len=1)), frame(BODY, 0, i, n))",
    ),
    (
        "a body longer than announced",
        "i, n = take(); send(frame(RESPONSE, 0, i, n, head(body_len=1)), frame(BODY, 1, i, n, b'xx'))",
    ),
    ("a status that no answer has", "i, n = take(); send(frame(RESPONSE, 1, i, n, head(101)))"),
    (
        "a header that ends the head",
        "i, n = take(); send(frame(RESPONSE, 1, i, n, head(200, b'a: b\\r\\n\\r\\nc: d\\r\\n')))",
    ),
    (
        "a header with a bare line feed",
        "i, n = take(); send(frame(RESPONSE, 1, i, n, head(200, b'a: b\\nc: d\\r\\n')))",
    ),
    ("an error that is no JSON", "i, n = take(); send(frame(ERROR, 1, i, n, b'[' * 60000))"),
    ("an undefined log stream", "take(); send(frame(LOG, payload=b'\\7x'))"),
    ("its half of the channel shut", "take()\nimport socket; socket.socket(fileno=3).shutdown(socket.SHUT_RDWR)"),
];

#[test]
fn garbage_on_the_channel_ends_its_instance_at_once_and_no_other() {
    let Some(scene) = Scene::set() else { return };
    for (number, (what, code)) in GARBAGE.iter().enumerate() {
        let name = format!("garbage-{number}");
        let reply = scene.attack(&name, &format!("send(frame(LOADED))\n{code}\nforever()"), json!({}), "{}");
        assert_eq!(reply.status, 502, "{what}: {}", reply.text());
        assert!(
            ["protocol_violation", "function_crashed"].contains(&reply.code().as_str()),
            "{what}: {}",
            reply.text()
        );
        scene.assert_nothing_is_left_of(&name);
    }
}

/// The rest of the body was then taken for part of calls that were not there, and the worker ended with all that was
/// its.
#[test]
fn an_answer_before_the_whole_request_was_sent_ends_the_instance_and_not_the_worker() {
    let Some(scene) = Scene::set() else { return };
    // It reads no further, or the rest might be sent before the answer is looked at.
    let code = "send(frame(LOADED))\ni, n = take()\nsend(frame(RESPONSE, 1, i, n, head()))\ntime.sleep(600)";
    let reply = scene.attack("early", code, json!({}), &"x".repeat(3_000_000));
    assert_eq!((reply.status, reply.code().as_str()), (502, "protocol_violation"));
    scene.assert_nothing_is_left_of("early");
}

#[test]
fn a_failure_to_load_is_heard_once() {
    let Some(scene) = Scene::set() else { return };
    let code = "again = frame(ERROR, 1, payload=b'{\"phase\":\"load\",\"type\":\"T\",\"message\":\"m\"}')\n\
                while True: send(*[again] * 60)";
    let reply = scene.attack("failing", code, json!({}), "{}");
    assert_eq!((reply.status, reply.code().as_str()), (500, "function_load_error"));
    eventually("it is ended for what it said after", || {
        scene.server.home.log().contains("broke the frame protocol: Error frame out of order").then_some(())
    });
    scene.assert_nothing_is_left_of("failing");
}

#[test]
fn an_endless_row_of_empty_log_lines_is_cut_and_then_ends_the_instance() {
    let Some(scene) = Scene::set() else { return };
    let code = "empty = frame(LOG, payload=b'\\0') * 64\n\
                def flood():\n    while True: os.write(3, empty)\n\
                def handle(request):\n    threading.Thread(target=flood).start()\n    return 'answered'";
    assert_eq!(scene.attack("chatty", code, json!({}), "{}").status, 200);
    eventually("the flooding instance is ended", || {
        scene.server.home.log().contains("broke the frame protocol").then_some(())
    });
    // As many for the call, and again as many for the time after it.
    let last = &scene.server.get("/functions/chatty/logs?limit=1").json()["entries"][0]["seq"];
    assert!(last.as_u64() <= Some(2 * LOG_INVOCATION_ENTRIES_MAX as u64), "{last}");
    scene.assert_nothing_is_left_of("chatty");
}

#[test]
fn raw_output_is_cut_at_a_number_of_lines_and_never_stops_its_writer() {
    let Some(scene) = Scene::set() else { return };
    let code = "def handle(request):\n    for _ in range(64): os.write(1, b'\\n' * 65536)\n    return 'answered'";
    assert_eq!(scene.attack("raw", code, json!({}), "{}").text(), "\"answered\"");
    let last = eventually("the cut is noted", || {
        let entries = scene.server.get("/functions/raw/logs?limit=1").json();
        let entry = entries["entries"][0].clone();
        (entry["stream"] == "system").then_some(entry)
    });
    assert_eq!(
        (&last["message"], &last["seq"]),
        (
            &json!(format!("[log cut at {LOG_INVOCATION_ENTRIES_MAX} entries for this call]")),
            &json!(LOG_INVOCATION_ENTRIES_MAX)
        )
    );
    scene.assert_nothing_is_left_of("raw");
}

#[test]
fn descriptors_sent_to_the_server_never_become_its_own() {
    let Some(scene) = Scene::set() else { return };
    let code = "import array, socket\n\
                def handle(request):\n\
                \x20   channel = socket.socket(fileno=os.dup(3))\n\
                \x20   files = array.array('i', [os.open('/dev/null', os.O_RDONLY) for _ in range(100)])\n\
                \x20   for _ in range(3):\n\
                \x20       try: channel.sendmsg([frame(LOG, payload=b'\\0x')], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])\n\
                \x20       except OSError: pass\n\
                \x20   for file in files: os.close(file)\n\
                \x20   return 'answered'";
    assert_eq!(scene.attack("giver", code, json!({}), "{}").text(), "\"answered\"");
    scene.assert_nothing_is_left_of("giver");
}

#[test]
fn an_instance_without_its_channel_is_an_error_and_not_a_hang() {
    let Some(scene) = Scene::set() else { return };
    let closing = "def handle(request):\n    os.closerange(0, 256)\n    return 'answered'";
    let reply = scene.attack("closing", closing, json!({}), "{}");
    assert_eq!((reply.status, reply.code().as_str()), (502, "function_crashed"), "{}", reply.text());
    // The server holds a duplicate of the instance's end, so nothing tells it that this one is closed: the deadline does.
    let hiding = "send(frame(LOADED))\ntake()\nos.close(3)\nforever()";
    let reply = scene.attack("hiding", hiding, json!({"timeout": 4}), "{}");
    assert_eq!((reply.status, reply.code().as_str()), (504, "function_timeout"), "{}", reply.text());
    scene.assert_nothing_is_left_of("closing");
    scene.assert_nothing_is_left_of("hiding");
}

#[test]
fn an_instance_that_takes_nothing_out_of_its_channel_blocks_nobody() {
    let Some(scene) = Scene::set() else { return };
    scene.server.deploy(
        "deaf",
        &format!("{FRAMES}\nsend(frame(LOADED))\nforever()"),
        json!({"timeout": 2, "max_instances": 2}),
    );
    std::thread::scope(|scope| {
        let callers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| scene.server.post("/invoke/deaf", &"x".repeat(2_000_000)))).collect();
        for _ in 0..20 {
            scene.assert_others_answer();
        }
        for caller in callers {
            let reply = caller.join().unwrap();
            // Two had an instance each; two waited for one in vain.
            assert!(["function_timeout", "queue_timeout"].contains(&reply.code().as_str()), "{}", reply.text());
        }
    });
    scene.assert_nothing_is_left_of("deaf");
}
