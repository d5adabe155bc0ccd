"""A container's first program: a real process that connects to a real socket, without the container around it."""

import array
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import unittest

from support import CHILDS_VIEW, FRAMES, FRAMES_SEEN, ORPHAN, TIMEOUT_SECONDS, Instance, shim_directory, wire

NOT_LAUNCHED = 118


class ContainerTest(unittest.TestCase):
    def setUp(self):
        self.directory = shim_directory()
        self.addCleanup(shutil.rmtree, self.directory)
        self.launch = os.path.join(self.directory, "launch")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(self.listener.close)
        self.listener.bind(self.launch)
        self.listener.listen(1)
        self.listener.settimeout(TIMEOUT_SECONDS)

    def start(self, prefix=(), where=None, **options):
        script = os.path.join(self.directory, "container.py")
        process = subprocess.Popen(
            [*prefix, sys.executable, "-I", "-S", "-B", script, where or self.launch],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"LANG": "C.UTF-8", "OF_THE_IMAGE": "canary"}, **options
        )
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        process.kill()
        process.communicate()

    def answer(self, message, *descriptors, over=None):
        """Accepts the container's connection, or takes this one, and sends it this."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        with over or self.listener.accept()[0] as server:
            server.sendmsg([message], rights)

    def serve(self, process, over=None):
        """Gives the container its channel: an `Instance`."""
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pipe_read, pipe_write = os.pipe()
        self.answer(b"!", theirs.fileno(), pipe_write, over=over)
        theirs.close()
        os.close(pipe_write)
        instance = Instance(channel, pipe_read)
        instance.pid = process.pid
        self.addCleanup(instance.close)
        return instance

    def load(self, code, **options):
        """A container that became this function."""
        instance = self.serve(self.start(**options))
        self.assertEqual(instance.receive()[0], wire.HELLO)
        instance.assign(code)
        logs, frame = instance.receive_with_logs()
        self.assertEqual(frame[0], wire.LOADED, frame)
        return instance

    def refusal(self, process):
        """The exit status, and what was said about it."""
        said = process.communicate(timeout=TIMEOUT_SECONDS)[1].decode()
        return process.returncode, said

    def test_a_container_becomes_a_function_like_any_other_instance(self):
        instance = self.load("import os\ndef handle(r):\n    print('hello')\n    return [r.body.decode(), os.getcwd()]\n")
        outcome = instance.call(b"body")
        self.assertEqual((outcome.json, outcome.text()), (["body", "/tmp"], ["hello"]))
        self.assertEqual(instance.call().json[0], "")

    def test_it_holds_four_descriptors_whatever_it_was_started_with(self):
        left_open = os.open("/etc/hostname", os.O_RDONLY)
        self.addCleanup(os.close, left_open)
        instance = self.load(
            "import os\ndef handle(r):\n"
            "    os.write(2, b'to the pipe')\n"
            "    return [os.readlink('/proc/self/fd/%d' % n) for n in range(4)]\n",
            pass_fds=(left_open,),
        )
        self.assertEqual(sorted(os.listdir("/proc/%d/fd" % instance.pid)), ["0", "1", "2", "3"])
        null, output, errors, channel = instance.call().json
        self.assertEqual((null, output), ("/dev/null", errors))
        self.assertTrue(output.startswith("pipe:") and channel.startswith("socket:"), (output, channel))
        self.assertEqual(os.read(instance.pipe_read, 100), b"to the pipe")

    def test_children_get_no_more_than_elsewhere(self):
        instance = self.load(CHILDS_VIEW)
        text = instance.call().json
        self.assertIn("FAAS_FUNCTION", text)
        self.assertNotIn("OF_THE_IMAGE", text)
        self.assertIn("['0', '1', '2', '3']", text)

    def test_the_launch_leaves_no_trace(self):
        self.assertEqual(self.load(FRAMES).call().json, FRAMES_SEEN)
        instance = self.load(
            "import gc, sys\ndef handle(r):\n"
            "    shim = [n for n in ('wire', 'container', 'instance', '_faas') if n in sys.modules]\n"
            "    return [shim, sys.argv, gc.isenabled(), gc.get_freeze_count() > 1000]\n"
        )
        shim, argv, collects, is_frozen = instance.call().json
        self.assertEqual((shim, argv, collects, is_frozen), ([], [""], True, True))

    def test_what_the_image_has_installed_can_be_imported(self):
        instance = self.load("import sys\ndef handle(r):\n    return sys.path\n")
        installed = subprocess.run(
            [sys.executable, "-I", "-c", "import json, sys; print(json.dumps(sys.path))"], stdout=-1, check=True
        )
        self.assertEqual(instance.call().json, json.loads(installed.stdout))

    def test_a_connection_that_is_there_is_taken_by_its_number(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            os.set_inheritable(theirs.fileno(), True)
            process = self.start(where=str(theirs.fileno()), pass_fds=(theirs.fileno(),))
            instance = self.serve(process, over=ours)
        self.assertEqual(instance.receive()[0], wire.HELLO)
        self.assertEqual(sorted(os.listdir("/proc/%d/fd" % instance.pid)), ["0", "1", "2", "3"])
        status, said = self.refusal(self.start(where="99"))
        self.assertEqual((status, "it cannot connect to 99" in said), (NOT_LAUNCHED, True), said)

    def test_without_a_server_it_says_so_and_ends(self):
        self.listener.close()
        status, said = self.refusal(self.start())
        self.assertEqual(status, NOT_LAUNCHED)
        self.assertRegex(said, "^faas: no function can run in this container: it cannot connect to .*refused\n$")
        os.unlink(self.launch)
        status, said = self.refusal(self.start())
        self.assertEqual((status, "No such file" in said), (NOT_LAUNCHED, True), said)

    def test_a_server_that_hangs_up_ends_it(self):
        process = self.start()
        self.listener.accept()[0].close()
        status, said = self.refusal(process)
        self.assertEqual((status, said.endswith("its channel did not arrive: the server hung up\n")), (NOT_LAUNCHED, True), said)

    def test_a_message_without_the_two_descriptors_is_none(self):
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(one.close)
        self.addCleanup(other.close)
        many = [one.fileno()] * 9
        for descriptors in ((), many[:1], many[:3], many):
            process = self.start()
            self.answer(b"!", *descriptors)
            status, said = self.refusal(process)
            self.assertEqual((status, "its channel did not arrive: " in said), (NOT_LAUNCHED, True), (descriptors, said))
            self.assertRegex(said, "descriptors came with it|was cut")

    def test_it_ends_when_its_channel_closes(self):
        process = self.start()
        instance = self.serve(process)
        self.assertEqual(instance.receive()[0], wire.HELLO)
        instance.close()
        self.assertEqual(self.refusal(process), (0, ""))

    # A child that the interpreter knows nothing of, as an extension may start one, and an orphan.
    FAMILY = (
        "import ctypes, os, time\n"
        "def handle(r):\n"
        "    if r.path == '/pid':\n"
        "        return os.getpid()\n"
        "    if r.path == '/own':\n"
        # One that it does know and that lives has it look at its children.
        "        if os.fork() == 0:\n            time.sleep(2)\n            os._exit(0)\n"
        "        pid = ctypes.CDLL(None).fork()\n"
        "        if pid == 0:\n            os._exit(7)\n"
        "        time.sleep(0.1)\n"
        "        return pid\n"
        "    if r.path.startswith('/wait/'):\n"
        "        return os.waitpid(int(r.path[6:]), 0)[1] >> 8\n"
        + ORPHAN +
        "        time.sleep(0.1)\n"
        "    return 'ok'\n"
    )

    def test_below_an_init_nobody_is_buried(self):
        instance = self.load(self.FAMILY)
        self.assertEqual(instance.call(path=b"/orphan").json, "ok")
        pid = instance.call(path=b"/own").json
        for _ in range(3):
            instance.call()
        self.assertEqual(instance.call(path=b"/wait/%d" % pid).json, 7)

    def test_as_pid_1_it_buries_orphans(self):
        unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        if subprocess.run(unshare + ["true"], stdout=-1, stderr=-1).returncode != 0:
            print("SKIP as pid 1: it takes the right to make namespaces")
            return
        instance = self.load(self.FAMILY, prefix=unshare)
        self.assertEqual(instance.call(path=b"/pid").json, 1)
        for _ in range(3):
            instance.call(path=b"/orphan")
        for _ in range(1000):
            instance.call()
            if self.descendants(instance.pid) == 1:
                break
            time.sleep(0.02)
        self.assertEqual(self.descendants(instance.pid), 1)

    def descendants(self, pid):
        with open("/proc/%d/task/%d/children" % (pid, pid)) as file:
            children = file.read().split()
        return len(children) + sum(self.descendants(int(child)) for child in children)


if __name__ == "__main__":
    unittest.main()
