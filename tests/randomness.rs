//! Instances are forks of one process: none may repeat what another draws. And what they do have in common, which
//! SECURITY.md tells.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod common;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{json, Map, Value};

use common::functions::sandboxed;
use common::Server;

const INSTANCES: usize = 10;

/// Draws from every generator of the standard library, with state made while the code is loaded and without.
const DRAW: &str = r#"
import os, random, secrets, tempfile, uuid

try:
    import ssl
except ImportError:
    ssl = None

early = random.Random()
early_draw = random.getrandbits(64)
early_id = uuid.uuid4()
early_token = secrets.token_hex(8)

def of_a_child():
    """What a child of the function's own draws."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, b'%d' % random.getrandbits(64))
        os._exit(0)
    os.close(write)
    drawn = os.read(read, 100).decode()
    os.close(read)
    os.waitpid(pid, 0)
    return drawn

def handle(request):
    if not request.body:
        # Long enough for all calls of the round to find an instance of their own.
        time.sleep(4)
    handle, path = tempfile.mkstemp()
    os.close(handle)
    drawn = {
        'random while loading': early_draw,
        'random.Random made while loading': early.getrandbits(64),
        'uuid4 while loading': early_id,
        'secrets while loading': early_token,
        'random': random.random(),
        'random state': hash(random.getstate()),
        'random.sample': random.sample(range(10**9), 3),
        'random.Random': random.Random().getrandbits(64),
        'random.SystemRandom': random.SystemRandom().getrandbits(64),
        'random of a child': of_a_child(),
        'secrets': secrets.token_bytes(8),
        'uuid1': uuid.uuid1(),
        'uuid1 without its time': (uuid.uuid1().node, uuid.uuid1().clock_seq),
        'uuid4': uuid.uuid4(),
        'os.urandom': os.urandom(8),
        'tempfile': os.path.basename(path),
        'tempfile.mkdtemp': os.path.basename(tempfile.mkdtemp()),
    }
    if ssl is not None:
        drawn['ssl'] = ssl.RAND_bytes(8)
    return {'instance': os.environ['FAAS_INSTANCE'], 'drawn': {name: str(value) for name, value in drawn.items()}}
"#;

/// One answer of each of ten instances.
fn of_all_instances(server: &Server, name: &str) -> Vec<Value> {
    server.await_idle(name, INSTANCES);
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..INSTANCES).map(|_| scope.spawn(|| server.answer(name, ""))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let instances: BTreeSet<String> = answers.iter().map(|answer| answer["instance"].to_string()).collect();
    assert_eq!(instances.len(), INSTANCES, "each call had an instance of its own");
    answers
}

fn drawn(answer: &Value) -> &Map<String, Value> {
    answer["drawn"].as_object().unwrap()
}

#[test]
fn no_two_instances_draw_the_same_from_any_generator() {
    let Some(server) = sandboxed("pool_size: 4", "") else { return };
    server.deploy("draw", DRAW, json!({"min_instances": INSTANCES, "max_instances": INSTANCES, "timeout": 120}));
    let mut seen = BTreeMap::<String, BTreeSet<String>>::new();
    let answers = of_all_instances(&server, "draw");
    assert!(drawn(&answers[0]).contains_key("ssl"), "ssl does not load: {answers:?}");
    for answer in &answers {
        for (name, value) in drawn(answer) {
            let values = seen.entry(name.clone()).or_default();
            assert!(values.insert(value.to_string()), "{name}: two instances drew {value}");
        }
    }
    // Nor does an instance repeat itself, or what another one drew before, in what it draws in a call.
    let of_a_call = |name: &&String| !name.contains("while loading") && !name.contains("without its time");
    for _ in 0..20 {
        let again = server.answer("draw", "at once");
        for (name, value) in drawn(&again).iter().filter(|(name, _)| of_a_call(name)) {
            assert!(seen.get_mut(name).unwrap().insert(value.to_string()), "{name}: {value} was drawn before");
        }
    }
}

#[test]
fn instances_that_follow_each_other_on_one_slot_draw_differently() {
    let Some(server) = sandboxed("pool_size: 1\nmax_concurrent_functions: 2", "") else { return };
    server.deploy("draw", DRAW, json!({"max_instances": 1, "max_invocations_per_instance": 1, "timeout": 60}));
    let mut seen = BTreeMap::<String, BTreeSet<String>>::new();
    for _ in 0..6 {
        for (name, value) in drawn(&server.answer("draw", "at once")) {
            let values = seen.entry(name.clone()).or_default();
            assert!(values.insert(value.to_string()), "{name}: {value} was drawn before");
        }
    }
}

/// What SECURITY.md says of what instances have in common.
#[test]
fn instances_have_in_common_what_security_md_says() {
    if common::mode::about_processes_alone("each container runs a Python of its own, which is no fork of another") {
        return;
    }
    let Some(server) = sandboxed("pool_size: 4", "") else { return };
    let code = "
import os, socket
def handle(request):
    time.sleep(4)
    same = {'pid': os.getpid(), 'user': os.getuid(), 'host': socket.gethostname(), 'hash': hash('a text'),
            'address': id(len)}
    return {'instance': os.environ['FAAS_INSTANCE'], 'same': same}
";
    server.deploy("same", code, json!({"min_instances": INSTANCES, "max_instances": INSTANCES, "timeout": 120}));
    let answers = of_all_instances(&server, "same");
    assert!(answers.iter().all(|answer| answer["same"] == answers[0]["same"]), "{answers:?}");
    let same = &answers[0]["same"];
    assert_eq!((&same["pid"], &same["user"], &same["host"]), (&json!(1), &json!(1000), &json!("faas")), "{same}");
    assert_ne!(same["hash"], 0, "strings are hashed with a seed");
}
