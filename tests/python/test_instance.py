"""A function's life in an instance: loading, calls, answers, errors, what it may and may not reach."""

import json
import os
import socket
import time
import unittest

from support import CHILDS_VIEW, FRAMES, FRAMES_SEEN, ORPHAN, InstanceTest, wire


class Calls(InstanceTest):
    def test_the_request_reaches_the_handler(self):
        instance = self.load(
            "def handle(request):\n"
            "    return [request.method, request.path, request.query_params, dict(request.headers),"
            " request.get_text(), request.request_id]\n"
        )
        outcome = instance.call(b"b", method=b"PATCH", path=b"/x/y", query=b"q=1", headers=b"host: h\r\n")
        self.assertEqual(outcome.json, ["PATCH", "/x/y", {"q": "1"}, {"host": "h"}, "b", "req-42"])

    def test_bodies_of_every_size_arrive(self):
        instance = self.load("import hashlib\ndef handle(r):\n    return [len(r.body), hashlib.md5(r.body).hexdigest()]")
        import hashlib

        for size in (0, 1, 40960, 40961, 81920, 500000):
            body = bytes(index * 31 % 251 for index in range(size))
            self.assertEqual(instance.call(body).json, [size, hashlib.md5(body).hexdigest()])

    def test_calls_in_the_pipe_are_answered_in_their_order(self):
        instance = self.load("def handle(request):\n    return request.get_json()")
        calls = [instance.call_messages(b"%d" % index) for index in range(30)]
        for _, _, (datagram,) in calls:
            instance.channel.send(datagram)
        for index, (call_id, nonce, _) in enumerate(calls):
            self.assertEqual(instance.outcome(call_id, nonce).json, index)

    def test_globals_live_as_long_as_the_instance(self):
        instance = self.load("n = 0\ndef handle(request):\n    global n\n    n += 1\n    return n")
        self.assertEqual([instance.call().json for _ in range(3)], [1, 2, 3])

    def test_time_and_json_and_response_are_there_without_an_import(self):
        instance = self.load("start = time.time()\ndef handle(r):\n    return [json.dumps(1), repr(Response('x'))]")
        self.assertEqual(instance.call().json, ["1", "<Response 200>"])

    def test_coroutine_handlers_share_one_loop(self):
        instance = self.load(
            "import asyncio\nloops = set()\n"
            "async def handle(request):\n"
            "    await asyncio.sleep(0)\n"
            "    loops.add(asyncio.get_running_loop())\n"
            "    if request.body: raise KeyError('x')\n"
            "    return len(loops)\n"
        )
        self.assertEqual([instance.call().json for _ in range(2)], [1, 1])
        self.assertEqual(instance.call(b"x").error["type"], "KeyError")
        self.assertEqual(instance.call().json, 1)

    def test_a_datagram_that_breaks_the_protocol_ends_the_instance(self):
        for datagram in (b"x", wire.frame(wire.BODY, wire.END, 1, 2, b"x"), wire.frame(wire.ASSIGN, 0, 0, 0, b"{}")):
            instance = self.load("def handle(request):\n    return 1")
            instance.channel.send(datagram)
            self.assertIsNone(instance.receive())

    def test_an_idle_instance_keeps_no_request_and_no_answer(self):
        instance = self.load(
            "import gc, weakref\nclass D(dict): pass\nlast = None\n"
            "def handle(request):\n"
            "    global last\n"
            "    seen = None if last is None else last() is None\n"
            "    answer = D(seen=seen)\n"
            "    last = weakref.ref(answer)\n"
            "    return (answer, 200)\n"
        )
        self.assertEqual([instance.call().json["seen"] for _ in range(3)], [None, True, True])


class Exceptions(InstanceTest):
    def raising(self, statements, before=""):
        code = before + "\ndef handle(request):\n    if request.method == 'GET': return 'alive'\n"
        code += "".join("    %s\n" % line for line in statements.split("\n"))
        instance = self.load(code)
        outcome = instance.call(b"x")
        self.assertEqual(instance.call(method=b"GET").json, "alive", statements)
        self.assertEqual(outcome.error["phase"], "call", statements)
        return outcome

    def test_are_named_and_their_traceback_is_logged_without_the_shim(self):
        outcome = self.raising("x = 1\nraise ValueError('no ' + str(x))")
        self.assertEqual((outcome.error["type"], outcome.error["message"]), ("ValueError", "no 1"))
        (text,) = outcome.text(2)
        self.assertIn('File "/function/main.py", line 5, in handle\n    raise ValueError(\'no \' + str(x))', text)
        self.assertNotIn("instance.py", text)

    def test_of_every_kind_are_caught(self):
        cases = {
            "raise SystemExit(3)": ("SystemExit", "3"),
            "import sys; sys.exit()": ("SystemExit", ""),
            "raise KeyboardInterrupt": ("KeyboardInterrupt", ""),
            "raise GeneratorExit": ("GeneratorExit", ""),
            "raise BaseException('b')": ("BaseException", "b"),
            "raise StopIteration('s')": ("StopIteration", "s"),
            "def f(): f()\nf()": ("RecursionError", "maximum recursion"),
            "[0] * (1 << 60)": ("MemoryError", ""),
            "import re; re.compile('(' * 10000)": (None, ""),
            "import json; json.loads('[' * 100000)": ("RecursionError", ""),
            "raise UnicodeDecodeError('utf-8', b'', 0, 1, 'x')": ("UnicodeDecodeError", ""),
            "raise BlockingIOError": ("BlockingIOError", ""),
            "raise ConnectionResetError": ("ConnectionResetError", ""),
        }
        for statements, (kind, words) in cases.items():
            outcome = self.raising(statements)
            if kind is not None:
                self.assertEqual(outcome.error["type"], kind)
            self.assertIn(words, outcome.error["message"])

    def test_with_a_hostile_class_are_defined(self):
        cases = {
            "class E(Exception):\n    def __str__(self): raise KeyboardInterrupt": "__str__ raised KeyboardInterrupt",
            "class E(Exception):\n    def __str__(self): return 7": "__str__ raised TypeError",
            "class E(Exception):\n    def __str__(self): return str(self)": "__str__ raised RecursionError",
            "class E(Exception):\n    def __str__(self): return '\\ud800'": "\\ud800",
            "class E(Exception):\n    def __str__(self): return 'x' * 10**7": "xxx",
            "class M(type):\n    @property\n    def __name__(cls): raise OSError\n"
            "class E(Exception, metaclass=M): pass": "",
        }
        for before, words in cases.items():
            outcome = self.raising("raise E()", before)
            self.assertIn(words, outcome.error["message"], before)
            self.assertLessEqual(len(outcome.error["message"].encode()), 4096)
        outcome = self.raising("raise type('N' * 1000, (Exception,), {})()")
        self.assertEqual(outcome.error["type"], "N" * 256)
        outcome = self.raising("raise ValueError('\\u2603' * 2000)")
        self.assertEqual(outcome.error["message"], "\u2603" * 1365)


class Loading(InstanceTest):
    def failing(self, code, **options):
        with self.zygote.blank() as instance:
            instance.assign(code, **options)
            logs, frame = instance.receive_with_logs()
            self.assertEqual(frame[0], wire.ERROR)
            error = json.loads(frame[4])
            self.assertEqual(error["phase"], "load")
            self.assertIsNone(instance.receive())
            return error, logs

    def test_failures_are_reported_with_their_traceback(self):
        error, logs = self.failing("print('before')\nx = 1 / 0\n")
        self.assertEqual(error["type"], "ZeroDivisionError")
        self.assertEqual(logs[0], (0, 0, "before"))
        self.assertIn('  File "/function/main.py", line 2, in <module>\n    x = 1 / 0', logs[1][2])
        self.assertNotIn("instance.py", logs[1][2])

    def test_everything_that_can_be_raised_is_a_failure(self):
        for code, kind in (
            ("raise SystemExit", "SystemExit"), ("raise KeyboardInterrupt", "KeyboardInterrupt"),
            ("import nothing_like_it", "ModuleNotFoundError"), ("def f(): f()\nf()", "RecursionError"), ("x =", "SyntaxError"),
        ):
            self.assertEqual(self.failing(code)[0]["type"], kind)

    def test_a_handler_that_is_missing_or_not_callable_is_a_failure(self):
        error, _ = self.failing("x = 1")
        self.assertEqual(error["type"], "AttributeError")
        error, _ = self.failing("handle = 3")
        self.assertEqual((error["type"], error["message"]), ("TypeError", "the handler `handle` is of type int, not callable"))

    def test_a_call_that_was_piped_behind_a_failing_load_can_be_taken_back(self):
        kind, _, _, instance = self.zygote.spawn(keep_duplicate=True)
        with instance:
            self.assertEqual(instance.receive()[0], wire.HELLO)
            _, _, (datagram,) = instance.call_messages(b"x")
            instance.assign("raise ValueError")
            instance.channel.send(datagram)
            _, frame = instance.receive_with_logs()
            self.assertEqual(frame[0], wire.ERROR)
            # As the server does: the duplicate of the instance's own end still has what was not claimed.
            time.sleep(0.05)
            self.assertEqual(instance.duplicate.recv(wire.MESSAGE_BYTES_MAX, socket.MSG_DONTWAIT), datagram)

    def test_module_and_handler_have_the_given_names(self):
        instance = self.load("def go(r):\n    return [__name__, __file__]\n", handler="go", module="app")
        self.assertEqual(instance.call().json, ["app", "/function/app.py"])

    def test_an_environment_that_the_kernel_refuses_is_a_failure(self):
        self.assertEqual(self.failing("def handle(r): pass", environment={"A": "\0"})[0]["type"], "ValueError")

    def test_callable_objects_are_handlers(self):
        instance = self.load("class H:\n    def __call__(self, request):\n        return 5\nhandle = H()")
        self.assertEqual(instance.call().json, 5)

    def test_long_environments_arrive(self):
        environment = {"V%d" % index: "\x01" * 250 for index in range(256)}
        instance = self.load("import os\ndef handle(r):\n    return os.environ['V255']", environment=environment)
        self.assertEqual(instance.call().json, "\x01" * 250)


class Surroundings(InstanceTest):
    def test_the_environment_is_an_allow_list_and_the_functions_own(self):
        instance = self.load("import os\ndef handle(r):\n    return dict(os.environ)", environment={"A": "b", "TZ": "UTC"})
        self.assertEqual(
            instance.call().json,
            {
                "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp",
                "PYTHONDONTWRITEBYTECODE": "1", "A": "b", "TZ": "UTC",
                "FAAS_FUNCTION": "hello-world", "FAAS_VERSION": "7", "FAAS_INSTANCE": "i3-17",
            },
        )

    def test_children_inherit_that_environment_and_not_the_channel(self):
        instance = self.load(CHILDS_VIEW)
        text = instance.call().json
        self.assertIn("FAAS_FUNCTION", text)
        self.assertNotIn("SECRET_OF_THE_SERVER", text)
        # 3 is the descriptor of the listing itself.
        self.assertIn("['0', '1', '2', '3']", text)

    def test_the_shims_modules_are_out_of_the_way(self):
        instance = self.load(
            "import sys\ndef handle(r):\n"
            "    return [n for n in ('wire', 'request', 'logs', 'answer', 'instance', '_faas') if n in sys.modules],"
            " 200, {'x': str(any('faas' in p for p in sys.path))}\n"
        )
        outcome = instance.call()
        self.assertEqual(outcome.json, [])
        self.assertIn(("x", "False"), outcome.headers)

    def test_the_zygotes_frames_and_plans_are_gone(self):
        self.assertEqual(self.load(FRAMES).call().json, FRAMES_SEEN)

    def test_collection_is_on_again(self):
        instance = self.load("import gc\ndef handle(r):\n    return [gc.isenabled(), gc.get_freeze_count() > 1000]")
        self.assertEqual(instance.call().json, [True, True])

    def test_interrupts_are_not_exceptions(self):
        instance = self.load("import signal\ndef handle(r):\n    return signal.getsignal(signal.SIGINT) == signal.SIG_DFL")
        self.assertIs(instance.call().json, True)


class Ends(InstanceTest):
    def test_stop_runs_atexit_and_does_not_wait_for_threads(self):
        instance = self.load(
            "import atexit, threading, time\natexit.register(print, 'bye')\n"
            "def handle(r):\n    threading.Thread(target=time.sleep, args=(600,)).start()\n    return 1"
        )
        instance.call()
        instance.send(wire.frame(wire.STOP, 0, 0, 0, b""))
        logs, frame = instance.receive_with_logs()
        self.assertEqual((logs, frame), ([(0, 0, "bye")], None))

    def test_an_atexit_that_raises_is_logged(self):
        instance = self.load("import atexit\natexit.register(lambda: 1 / 0)\ndef handle(r): pass")
        instance.send(wire.frame(wire.STOP, 0, 0, 0, b""))
        logs, frame = instance.receive_with_logs()
        self.assertIsNone(frame)
        self.assertIn("ZeroDivisionError", "".join(text for _, _, text in logs))

    def test_taking_away_the_channel_ends_the_instance(self):
        for code in ("os.close(3)", "os.closerange(0, 1024)", "os._exit(1)", "os.dup2(0, 3)"):
            instance = self.load("import os\ndef handle(r):\n    %s\n    return 1" % code)
            self.assertTrue(instance.call().ended, code)

    def test_an_exception_between_two_calls_ends_the_instance_and_is_logged(self):
        instance = self.load(
            "import signal\n"
            "def late(*_): raise KeyError('late')\n"
            "signal.signal(signal.SIGALRM, late)\n"
            "def handle(r):\n    signal.setitimer(signal.ITIMER_REAL, 0.05)\n    return 1\n"
        )
        self.assertEqual(instance.call().json, 1)
        logs, frame = instance.receive_with_logs()
        self.assertIsNone(frame)
        self.assertIn("KeyError: 'late'", "".join(text for _, _, text in logs))

    def test_a_thread_that_is_left_behind_cannot_reach_into_a_later_answer(self):
        instance = self.load(
            "import threading, time\n"
            "def chatter():\n    while True:\n        print('still here')\n        time.sleep(0.001)\n"
            "def handle(r):\n"
            "    if r.body: threading.Thread(target=chatter, daemon=True).start()\n"
            "    time.sleep(0.005)\n    return r.path\n"
        )
        instance.call(b"x")
        for index in range(50):
            path = "/%d" % index
            self.assertEqual(instance.call(path=path.encode()).json, path)


class Children(InstanceTest):
    CODE = (
        "import os, subprocess, time, ctypes\n"
        # Off a pid namespace, only a subreaper is given orphans.
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
        "running = []\n"
        "def handle(r):\n"
        + ORPHAN +
        "    if r.path == '/popen':\n"
        "        running.append(subprocess.Popen(['/bin/sh', '-c', 'exit 7']))\n"
        "    if r.path == '/poll':\n"
        "        return [process.wait() for process in running]\n"
        "    if r.path == '/return-in-child':\n"
        "        os.fork()\n"
        "    if r.path == '/print-in-child':\n"
        "        child = os.fork()\n"
        "        if child == 0:\n"
        "            print('from the child', flush=True)\n"
        "            os._exit(0)\n"
        "        os.waitpid(child, 0)\n"
        "    return 'ok'\n"
    )

    def children(self, instance):
        with open("/proc/%d/task/%d/children" % (instance.pid, instance.pid)) as file:
            return len(file.read().split())

    def test_orphans_are_buried(self):
        instance = self.load(self.CODE)
        for _ in range(5):
            instance.call(path=b"/orphan")
        # They end by themselves, and are buried by the next calls.
        for _ in range(1000):
            instance.call()
            if self.children(instance) == 0:
                break
            time.sleep(0.02)
        self.assertEqual(self.children(instance), 0)

    def test_exit_statuses_are_left_to_those_who_wait_for_them(self):
        instance = self.load(self.CODE)
        instance.call(path=b"/popen")
        instance.call(path=b"/orphan")
        time.sleep(0.2)
        for _ in range(3):
            instance.call()
        self.assertEqual(instance.call(path=b"/poll").json, [7])

    def test_a_child_that_returns_from_the_handler_answers_nothing(self):
        instance = self.load(self.CODE)
        for _ in range(5):
            self.assertEqual(instance.call(path=b"/return-in-child").json, "ok")
        for _ in range(20):
            self.assertEqual(instance.call().json, "ok")

    def test_prints_of_a_child_go_to_the_pipe(self):
        instance = self.load(self.CODE)
        outcome = instance.call(path=b"/print-in-child")
        self.assertEqual(outcome.logs, [])
        self.assertEqual(os.read(instance.pipe_read, 100), b"from the child\n")


if __name__ == "__main__":
    unittest.main()
