"""What the benchmark's arithmetic and its care for processes promise. `make test` runs it; it needs no peer."""

import os
import socket
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import churn
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
