"""What the benchmark's arithmetic and its care for processes promise. `make test` runs it; it needs no peer."""

import contextlib
import os
import socket
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import churn
import container_cold
import container_cycles
import container_idle
import containers
import cycles
import report
import sandbox
from client import Connection, HttpError
from process import Process, ProcessError
from stats import quantile, summary


def sample(target, number, rate, connections=32, errors=0):
    return {
        "target": target,
        "connections": connections,
        "round": number,
        "requests_per_second": rate,
        "p50_us": 500,
        "p99_us": 900,
        "error_count": errors,
    }


class Quantiles(unittest.TestCase):
    def test_a_quantile_is_a_value_that_was_measured(self):
        values = list(range(100, 0, -1))
        self.assertEqual([quantile(values, share) for share in (0.5, 0.95, 0.99, 1.0)], [50, 95, 99, 100])

    def test_one_value_is_every_quantile(self):
        self.assertEqual(set(summary([7]).values()), {7})


class Repeated(unittest.TestCase):
    class Server:
        def connect(self):
            return contextlib.nullcontext("a connection")

    def test_each_number_is_worked_on_once_by_one_of_them(self):
        done, said = [], []
        cycles.repeat(self.Server(), 250, 4, lambda connection, number: done.append(number), said.append)
        self.assertEqual(sorted(done), list(range(250)))
        self.assertEqual(sorted(said), [100, 200])

    def test_the_first_failure_ends_all_and_is_told(self):
        done = []

        def work(connection, number):
            if number == 3:
                raise ValueError("on purpose")
            done.append(number)

        with self.assertRaisesRegex(cycles.CycleError, "number 3: on purpose"):
            cycles.repeat(self.Server(), 10**9, 2, work)
        self.assertLess(len(done), 10**6)

    def test_a_rest_is_a_second_of_what_is_enough_or_the_end_of_patience(self):
        seen = iter([1, 2])
        begun = time.monotonic()
        self.assertEqual(cycles.at_rest(lambda: next(seen, 3), lambda now: now == 3, 60, 0.01), 3)
        self.assertGreaterEqual(time.monotonic() - begun, 1)
        begun = time.monotonic()
        self.assertEqual(cycles.at_rest(lambda: 3, lambda now: False, 0.1, 0.01), 3)
        self.assertLess(time.monotonic() - begun, 1)


class Sandboxes(unittest.TestCase):
    HELD = {"processes": 3, "cgroups": 12}

    def judged(self, after, per_second):
        return [kept for kept, _ in sandbox.judge({"before": self.HELD, "after": after, "per_second": per_second})]

    def test_each_promise_is_missed_by_itself(self):
        self.assertEqual(self.judged(dict(self.HELD), 200), [True, True])
        self.assertEqual(self.judged({"processes": 3, "cgroups": 13}, 200), [False, True])
        self.assertEqual(self.judged(dict(self.HELD), 199), [True, False])

    def test_holdings_see_what_a_process_has(self):
        read, write = os.pipe()
        try:
            before = churn.holdings(os.getpid())
            child = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
            extra = os.dup(read)
            after = churn.holdings(os.getpid())
            os.close(extra)
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
            os.close(read)
            os.close(write)
        self.assertEqual(after["processes"], before["processes"] + 1)
        self.assertEqual(after["descriptors"], before["descriptors"] + 1)


class Report(unittest.TestCase):
    def test_the_ratio_pairs_the_rounds(self):
        # The second round is slow for both: the ratio must not see it.
        samples = [sample("bjoern", 1, 100), sample("faas-1", 1, 80), sample("bjoern", 2, 10), sample("faas-1", 2, 8)]
        rows = {row["target"]: row for row in report.throughput_rows(samples)}
        self.assertAlmostEqual(rows["faas-1"]["ratio"], 0.8)
        self.assertEqual(rows["faas-1"]["requests_per_second"], 44)

    def test_without_the_baseline_there_is_no_ratio_and_no_promise(self):
        rows = report.throughput_rows([sample("faas-1", 1, 80)])
        self.assertIsNone(rows[0]["ratio"])
        self.assertEqual(report.promises(rows, None), [])

    def test_errors_of_all_rounds_are_summed(self):
        rows = report.throughput_rows([sample("bjoern", 1, 9, errors=1), sample("bjoern", 2, 9, errors=2)])
        self.assertEqual(rows[0]["error_count"], 3)

    def test_a_promise_is_kept_at_its_bound_and_missed_below(self):
        for rate, kept in ((70, True), (69, False)):
            rows = report.throughput_rows([sample("bjoern", 1, 100), sample("faas-1", 1, rate)])
            self.assertEqual([promise["kept"] for promise in report.promises(rows, None)], [kept], rate)
        for ratio, kept in ((0.25, True), (0.26, False)):
            cold = {"spaced": {"ratio": {"p50": ratio}}}
            self.assertEqual([promise["kept"] for promise in report.promises([], cold)], [kept], ratio)


class Containers(unittest.TestCase):
    def warm(self, number, mode, rate, p50=100):
        return {**sample("any", number, rate), "p50_us": p50, "mode": mode, "pair": "one instance"}

    def kept(self, **result):
        return [promise["kept"] for promise in containers.promises(result)]

    def test_a_warm_ratio_pairs_the_rounds(self):
        # The second round is slow for both: the ratio must not see it.
        rounds = [("process", 100), ("container", 90)], [("process", 10), ("container", 9)]
        samples = [self.warm(number, mode, rate) for number, round in enumerate(rounds) for mode, rate in round]
        (row,) = containers.warm_rows(samples)
        self.assertAlmostEqual(row["requests_per_second_ratio"], 0.9)
        self.assertEqual(row["requests_per_second"], {"process": 55, "container": 49.5})

    def test_a_cold_ratio_pairs_a_call_with_the_container_by_hand_beside_it(self):
        way = container_cold._Way()
        for call, by_hand in ((20, (200, 250)), (90, (900, 950)), (1, (10, 11))):
            way.add(call, by_hand)
        found = way.report()
        self.assertAlmostEqual(found["ratio"], 0.1)
        self.assertEqual(found["difference_ms"], -180)

    def test_each_promise_of_cold_starts_is_missed_by_itself(self):
        def kept(pool, pool_limits, bare):
            ratios = {"pool": pool, "pool_limits": pool_limits, "bare": bare}
            return self.kept(cold={"ways": {way: {"ratio": ratio} for way, ratio in ratios.items()}})

        self.assertEqual(kept(0.15, 0.15, 1.3), [True, True, True])
        self.assertEqual(kept(0.16, 0.15, 1.3), [False, True, True])
        self.assertEqual(kept(0.15, 0.16, 1.3), [True, False, True])
        self.assertEqual(kept(0.15, 0.15, 1.31), [True, True, False])

    def test_latency_is_judged_at_one_connection_and_throughput_at_more(self):
        def row(connections, rate, latency):
            ratios = {"requests_per_second_ratio": rate, "p50_us_ratio": latency}
            return {"pair": "any", "connections": connections, **ratios}

        self.assertEqual(self.kept(warm=[row(1, 0.1, 1.3), row(32, 0.85, 9)]), [True, True])
        self.assertEqual(self.kept(warm=[row(1, 0.1, 1.31), row(32, 0.84, 9)]), [False, False])

    def test_memory_is_judged_at_its_bound(self):
        for megabytes, kept in ((10.0, True), (10.1, False)):
            self.assertEqual(self.kept(idle={"container": {"beyond_shim": megabytes}}), [kept])

    def test_less_of_something_is_nothing_left_and_more_of_it_is(self):
        before = {"mounts": 5, "sockets": 3}
        for after, kept in (({"mounts": 5, "sockets": 2}, True), ({"mounts": 6, "sockets": 2}, False)):
            self.assertEqual(self.kept(cycles={"before": before, "after": after}), [kept])

    def test_a_line_is_counted_once_however_many_words_are_in_it(self):
        self.assertEqual(container_cycles.lines_with("/a/b\n/c\n/a /b\n", ["/a", "/b"]), 2)

    def in_files(self, files):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        for name, text in files.items():
            path = Path(directory.name) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Path(directory.name)

    def test_the_group_of_memory_is_found_in_either_version(self):
        first = self.in_files({"proc/7/cgroup": "5:cpu,cpuacct:/x\n4:memory:/engine/c1\n0::/other\n"})
        found = container_idle.memory_group(7, first / "proc", first / "mount")
        self.assertEqual(found, first / "mount/memory/engine/c1")
        second = self.in_files({"proc/7/cgroup": "0::/engine/c1\n", "mount/cgroup.controllers": "memory\n"})
        found = container_idle.memory_group(7, second / "proc", second / "mount")
        self.assertEqual(found, second / "mount/engine/c1")

    def test_charges_are_read_in_either_version(self):
        first = {"memory.stat": "cache 9\nshmem 2\n", "memory.kmem.usage_in_bytes": "3\n"}
        first["memory.usage_in_bytes"] = "8\n"
        second = {"memory.stat": "kernel 3\nshmem 2\n", "memory.current": "8\n"}
        for files in (first, second):
            self.assertEqual(container_idle.charges(self.in_files(files)), (3, 2, 8))


class Client(unittest.TestCase):
    def answer_with(self, *answers):
        """A port whose server sends these bytes, one piece at a time, for the first request, and hangs up."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                for piece in answers:
                    connection.sendall(piece)
                    time.sleep(0.01)

        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join)
        return listener.getsockname()[1]

    def test_an_answer_in_pieces_is_put_together(self):
        port = self.answer_with(b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 8\r\n\r\n{\"a\"", b": 1}")
        with Connection(port, "key") as connection:
            answer = connection.request("POST", "/", {"b": 2})
        self.assertEqual((answer.status, answer.json()), (200, {"a": 1}))

    def test_a_truncated_answer_is_an_error(self):
        port = self.answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}")
        with Connection(port, "key") as connection, self.assertRaisesRegex(HttpError, "before its answer was complete"):
            connection.request("GET", "/")

    def test_an_answer_without_a_length_is_an_error(self):
        port = self.answer_with(b"HTTP/1.1 200 OK\r\n\r\n{}")
        with Connection(port, "key") as connection, self.assertRaisesRegex(HttpError, "content-length"):
            connection.request("GET", "/")


class Processes(unittest.TestCase):
    def start(self, code):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        process = Process("a test", [sys.executable, "-c", code], Path(directory.name) / "log")
        self.addCleanup(process.stop)
        return process

    def test_stop_ends_the_children_too(self):
        # The child ignores the polite signal; the parent does not wait for it.
        process = self.start(
            "import os, signal, sys, time\n"
            "pid = os.fork()\n"
            "if pid == 0: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "else: print(pid, flush=True)\n"
            "time.sleep(60)\n"
        )
        child = self.wait_for_line(process.log_path)
        process.stop()
        self.assert_ends(int(child))

    def test_a_server_that_ends_is_reported_with_its_log(self):
        process = self.start("print('no such option'); raise SystemExit(2)")
        with self.assertRaisesRegex(ProcessError, "no such option"):
            process.wait_until_listening(1)

    def test_stop_may_be_called_twice(self):
        process = self.start("pass")
        process.stop()
        process.stop()

    def wait_for_line(self, path):
        give_up_at = time.monotonic() + 20
        while time.monotonic() < give_up_at:
            text = path.read_text()
            if text.endswith("\n"):
                return text.strip()
            time.sleep(0.01)
        self.fail(f"nothing in {path}")

    def assert_ends(self, pid):
        # An orphan is reaped by whoever adopted it, a moment after it was killed; until then it is a zombie.
        give_up_at = time.monotonic() + 20
        while time.monotonic() < give_up_at:
            try:
                os.kill(pid, 0)
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    return
            except (ProcessLookupError, FileNotFoundError):
                return
            time.sleep(0.01)
        self.fail(f"process {pid} is still alive")


if __name__ == "__main__":
    unittest.main()
