"""The zygote: blanks come, failures are reported, nothing is left behind."""

import os
import time
import unittest

from support import Zygote, wire


def descriptors_of(pid):
    return len(os.listdir("/proc/%d/fd" % pid))


def resident_kib(pid):
    with open("/proc/%d/statm" % pid) as file:
        return int(file.read().split()[1]) * 4


class ZygoteTest(unittest.TestCase):
    def setUp(self):
        self.zygote = Zygote()
        self.addCleanup(self.zygote.close)

    def test_says_which_python_it_is(self):
        self.assertRegex(self.zygote.about["python"], r"^3\.\d+\.\d+$")
        self.assertIs(self.zygote.about["free_threaded"], False)

    def test_a_blank_says_hello_and_has_the_pid_that_was_reported(self):
        kind, blank_id, payload, instance = self.zygote.spawn()
        with instance:
            self.assertEqual((kind, blank_id), (wire.SPAWNED, 1))
            self.assertEqual(instance.receive()[0], wire.HELLO)
            with open("/proc/%d/cmdline" % instance.pid) as file:
                self.assertIn("zygote.py", file.read())

    def test_a_blank_holds_four_descriptors(self):
        with self.zygote.blank() as instance:
            self.assertEqual(sorted(os.listdir("/proc/%d/fd" % instance.pid)), ["0", "1", "2", "3"])

    def test_a_failing_outer_plan_is_reported_with_its_step(self):
        kind, blank_id, payload, instance = self.zygote.spawn(outer=b"fail7")
        with instance:
            self.assertEqual((kind, blank_id), (wire.SPAWN_FAILED, 1))
            self.assertEqual(wire.SPAWN_FAILURE.unpack(payload), (1, 7, 1))
            self.assertIsNone(instance.receive())

    def test_a_failing_inner_plan_is_reported_on_the_channel_wherever_it_is_by_then(self):
        for plan in (b"fail3", b"inner fail3"):
            kind, _, _, instance = self.zygote.spawn(inner=plan)
            with instance:
                self.assertEqual(kind, wire.SPAWNED)
                kind, _, _, _, payload = instance.receive()
                self.assertEqual(kind, wire.ERROR)
                self.assertIn(b'"phase": "sandbox"', payload)
                self.assertIn(b"step 3: Unshare: Operation not permitted", payload)
                self.assertIsNone(instance.receive())

    def test_an_m_that_dies_or_breaks_is_reported(self):
        for plan in (b"die", b"crash"):
            kind, _, payload, instance = self.zygote.spawn(outer=plan)
            with instance:
                self.assertEqual(kind, wire.SPAWN_FAILED, plan)
                self.assertEqual(wire.SPAWN_FAILURE.unpack(payload), (0, 0, 10))
        with self.zygote.blank():
            pass

    def test_a_blank_ends_when_its_channel_closes(self):
        instance = self.zygote.blank()
        pid = instance.pid
        instance.close()
        self.wait_for_end(pid)

    def test_the_zygote_ends_when_its_control_socket_closes_and_its_blanks_live_on(self):
        with self.zygote.blank() as instance:
            self.zygote.control.close()
            self.assertEqual(self.zygote.process.wait(10), 0)
            instance.assign("def handle(request):\n    return 1\n")
            self.assertEqual(instance.receive()[0], wire.LOADED)

    def test_many_blanks_leave_no_descriptor_no_zombie_and_no_memory(self):
        count = int(os.environ.get("FAAS_TEST_SPAWNS", "150"))
        pid = self.zygote.process.pid
        descriptors = descriptors_of(pid)
        self.one_of_each()
        memory_kib = resident_kib(pid)
        for _ in range(count):
            self.one_of_each()
        # The zygote may still be busy with the last M when that one's message is here.
        self.wait_until(lambda: (descriptors_of(pid), self.children(pid)), (descriptors, ""))
        self.assertLess(resident_kib(pid) - memory_kib, 256)

    def children(self, pid):
        with open("/proc/%d/task/%d/children" % (pid, pid)) as file:
            return file.read()

    def wait_until(self, measure, expected):
        for _ in range(2000):
            if measure() == expected:
                return
            time.sleep(0.01)
        self.assertEqual(measure(), expected)

    def one_of_each(self):
        self.zygote.blank().close()
        self.zygote.spawn(outer=b"fail1")[3].close()

    def wait_for_end(self, pid):
        def is_over():
            try:
                with open("/proc/%d/stat" % pid) as file:
                    return file.read().rsplit(")", 1)[1].split()[0] == "Z"
            except FileNotFoundError:
                return True

        self.wait_until(is_over, True)


if __name__ == "__main__":
    unittest.main()
