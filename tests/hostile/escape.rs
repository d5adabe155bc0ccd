//! Reaching others: their memory, their names, their sockets, the host, and life beyond the instance's end.

use super::*;
use faas::sys::process::pidfd_open;
use nix::sys::signal::Signal;

const SCAN: &str = include_str!("scan.py");

/// The zygote's memory is every instance's inheritance, so nothing of one function may ever get into it.
#[test]
fn an_instance_finds_nothing_of_another_function_in_its_memory() {
    let Some(scene) = Scene::set() else { return };
    let other = "SECRET = 'code-canary-5a17'\nimport os\ndef handle(request): return os.environ['TOKEN']";
    let config = json!({"environment": {"TOKEN": "environment-canary-93c2"}, "min_instances": 1});
    scene.server.deploy("neighbour", other, config);
    assert_eq!(scene.server.post("/invoke/neighbour", "body-canary-7be0").status, 200);
    let texts =
        ["own-canary-1235", "code-canary-5a17", "environment-canary-93c2", "body-canary-7be0", "Bearer demo-key"];
    let backward: Vec<String> =
        texts.iter().map(|text| format!("b'{}'", text.chars().rev().collect::<String>())).collect();
    let code = format!(
        "{SCAN}\nOWN = 'own-canary-' + str(len('x' * 1235))\n\
         def handle(request):\n    return list(counts([{}]))",
        backward.join(", ")
    );
    let reply = scene.attack("searcher", &code, json!({}), "{}");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let (pages, found) = (reply.json()[0].as_u64().unwrap(), reply.json()[1].clone());
    assert!(pages > 500 && found[0].as_u64() >= Some(1), "the search itself finds what is there: {pages} {found}");
    assert_eq!(found.as_array().unwrap()[1..], [0, 0, 0, 0], "{found}");
}

/// The interpreter's files are the same for everybody: a watch on them told by name what each neighbour imported.
#[test]
fn a_function_cannot_watch_which_files_its_neighbours_open() {
    let Some(scene) = Scene::set() else { return };
    let code = "import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\n\
                def handle(request):\n    return [libc.inotify_init1(0), errno.errorcode[ctypes.get_errno()]]";
    assert_eq!(scene.attack("watcher", code, json!({}), "{}").json(), json!([-1, "EPERM"]));
}

#[test]
fn no_socket_and_no_key_of_system_v_leads_to_another_instance_or_to_the_server() {
    let Some(scene) = Scene::set() else { return };
    let open = "import ctypes, socket\nlibc = ctypes.CDLL(None, use_errno=True)\n\
                door = socket.socket(socket.AF_UNIX)\ndoor.bind('\\0faas-door')\ndoor.listen()\n\
                ids = [libc.shmget(4711, 4096, 0o1666), libc.msgget(4711, 0o1666), libc.semget(4711, 1, 0o1666)]\n\
                tcp = socket.socket()\ntcp.bind(('0.0.0.0', 4711))\n\
                def handle(request): return ids";
    let ids = scene.attack("open", open, json!({"min_instances": 1}), "{}").json();
    assert!(ids.as_array().unwrap().iter().all(|id| id.as_i64() >= Some(0)), "{ids}");
    let code = format!(
        "import ctypes, errno, socket\nlibc = ctypes.CDLL(None, use_errno=True)\n\
         def tried(family, address, kind=socket.SOCK_STREAM):\n\
         \x20   try: socket.socket(family, kind).connect(address)\n\
         \x20   except OSError as error: return errno.errorcode[error.errno]\n\
         \x20   return 'connected'\n\
         def handle(request):\n\
         \x20   port = {port}\n\
         \x20   found = [tried(socket.AF_UNIX, '\\0faas-door'), tried(socket.AF_INET, ('127.0.0.1', port)),\n\
         \x20       tried(socket.AF_INET6, ('::1', port)), tried(socket.AF_INET, ('169.254.169.254', 80)),\n\
         \x20       tried(socket.AF_INET, ('127.0.0.1', 4711)), tried(socket.AF_UNIX, '/var/run/docker.sock'),\n\
         \x20       tried(socket.AF_INET, ('192.0.2.1', 53), socket.SOCK_DGRAM)]\n\
         \x20   for get in (lambda: libc.shmget(4711, 4096, 0), lambda: libc.msgget(4711, 0), lambda: libc.semget(4711, 1, 0)):\n\
         \x20       found.append('got' if get() >= 0 else errno.errorcode[ctypes.get_errno()])\n\
         \x20   return found",
        port = scene.server.address.port()
    );
    let net = "ENETUNREACH";
    let expected = json!(["ECONNREFUSED", net, net, net, net, "ENOENT", net, "ENOENT", "ENOENT", "ENOENT"]);
    let found = scene.attack("caller", &code, json!({}), "{}").json();
    // Without an IPv6 stack the family itself is missing; Landlock refuses TCP before the network is looked at.
    let found: Vec<Value> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|value| match value.as_str() {
            Some("EADDRNOTAVAIL" | "EAFNOSUPPORT" | "EACCES") => json!(net),
            _ => value.clone(),
        })
        .collect();
    assert_eq!(json!(found), expected);
}

#[test]
fn a_fork_bomb_ends_at_the_limit_of_its_own_instance() {
    let Some(scene) = Scene::set() else { return };
    let code = "import errno, resource\n\
        def handle(request):\n\
        \x20   limits, count = resource.getrlimit(resource.RLIMIT_NPROC), 0\n\
        \x20   while count < 1000:\n\
        \x20       try:\n\
        \x20           if os.fork() == 0: forever()\n\
        \x20       except OSError as error: return [limits, count, errno.errorcode[error.errno]]\n\
        \x20       count += 1";
    let reply = scene.attack("bomb", code, json!({}), "{}");
    let tasks = u64::from(faas::limits::INSTANCE_TASKS_MAX);
    assert_eq!(reply.json(), json!([[tasks, tasks], tasks - 1, "EAGAIN"]), "{}", reply.text());
    scene.assert_nothing_is_left_of("bomb");
}

/// Double forks into new sessions, every signal ignored, the death signal to be cleared, the process group left.
const DAEMONS: &str = "import ctypes, signal\nlibc = ctypes.CDLL(None, use_errno=True)\n\
    def daemon():\n\
    \x20   if os.fork(): return\n\
    \x20   os.setsid()\n\
    \x20   if os.fork(): os._exit(0)\n\
    \x20   libc.prctl(1, 0, 0, 0, 0)\n\
    \x20   for number in range(1, 65):\n\
    \x20       try: signal.signal(number, signal.SIG_IGN)\n\
    \x20       except (OSError, ValueError): pass\n\
    \x20   forever()\n\
    def handle(request):\n\
    \x20   for _ in range(4): daemon()\n\
    \x20   refused = libc.prctl(1, 0, 0, 0, 0)\n\
    \x20   return [refused, ctypes.get_errno()]";

#[test]
fn daemons_of_a_function_end_with_its_instance() {
    let Some(scene) = Scene::set() else { return };
    let reply = scene.attack("daemons", DAEMONS, json!({}), "{}");
    assert_eq!(reply.json(), json!([-1, libc::EPERM]), "the death signal can be cleared");
    eventually("the daemons run", || (descendants(scene.server.pid()).len() >= 7).then_some(()));
    scene.assert_nothing_is_left_of("daemons");
}

#[test]
fn nothing_of_a_function_outlives_a_server_that_is_killed() {
    let Some(scene) = Scene::set() else { return };
    assert_eq!(scene.attack("daemons", DAEMONS, json!({}), "{}").status, 200);
    let all = eventually("the daemons run", || Some(descendants(scene.server.pid())).filter(|all| all.len() >= 7));
    let held: Vec<_> = all.into_iter().filter_map(|pid| pidfd_open(pid).ok()).collect();
    assert!(held.len() >= 7);
    let (_home, status) = scene.server.end(Signal::SIGKILL);
    assert!(!status.success());
    for process in &held {
        let deadline = std::time::Instant::now() + common::patience();
        faas::sys::io::wait_readable(process, deadline).expect("a process outlived its server");
    }
}

#[test]
fn a_function_reaches_no_process_but_its_own_and_no_file_of_the_host() {
    let Some(scene) = Scene::set() else { return };
    let code = format!(
        "import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\n\
         def name(result): return 'done' if result >= 0 else errno.errorcode[ctypes.get_errno()]\n\
         def opened(path, how=os.O_RDONLY):\n\
         \x20   try: os.close(os.open(path, how))\n\
         \x20   except OSError as error: return errno.errorcode[error.errno]\n\
         \x20   return 'opened'\n\
         def handle(request):\n\
         \x20   return {{\n\
         \x20       'kill the server': name(libc.kill({pid}, 9)),\n\
         \x20       'pidfd of the server': name(libc.syscall(434, {pid}, 0)),\n\
         \x20       'ptrace': name(libc.ptrace(16, 1, 0, 0)),\n\
         \x20       'lower the nice value of others': name(libc.setpriority(2, 1000, -1)),\n\
         \x20       'a sibling of pid 1': name(libc.syscall(56, 0x8000 | 17, 0, 0, 0, 0)),\n\
         \x20       'shadow': opened('/etc/shadow'), 'state': opened({state:?}), 'core_pattern': opened('/proc/sys/kernel/core_pattern'),\n\
         \x20       'memory of the server': opened('/proc/{pid}/mem'), 'root of pid 1': opened('/proc/1/root/etc/shadow'),\n\
         \x20       'own memory': opened('/proc/self/mem', os.O_RDWR), 'interpreter': opened('/proc/self/exe', os.O_WRONLY),\n\
         \x20       'shim': opened('/faas/instance.py', os.O_WRONLY), 'output read back': opened('/proc/self/fd/1'),\n\
         \x20       'descriptors': sorted(os.readlink('/proc/self/fd/' + fd).split(':')[0] for fd in os.listdir('/proc/self/fd') if os.path.lexists('/proc/self/fd/' + fd)),\n\
         \x20   }}",
        pid = scene.server.pid(),
        state = scene.server.home.state().join("faas.db"),
    );
    let found = scene.attack("reacher", &code, json!({}), "{}");
    assert_eq!(found.status, 200, "{}", found.text());
    let expected = json!({
        "kill the server": "ESRCH",
        "pidfd of the server": "ESRCH",
        "ptrace": "EPERM",
        "lower the nice value of others": "EACCES",
        "a sibling of pid 1": "EINVAL",
        "shadow": "ENOENT",
        "state": "ENOENT",
        "core_pattern": "ENOENT",
        "memory of the server": "ENOENT",
        "root of pid 1": "ENOENT",
        "own memory": "EACCES",
        "interpreter": "EACCES",
        "shim": "EACCES",
        "output read back": "EACCES",
        "descriptors": ["/dev/null", "pipe", "pipe", "socket"],
    });
    assert_eq!(found.json(), expected);
    scene.assert_nothing_is_left_of("reacher");
}
