"""Cold starts: functions that have never run, called once each through HTTP, against the start of an interpreter.

Two ways: spaced (each call finds the pool of blanks full, as a rarely used function does), with a bare interpreter
start between two calls, so that both meet the same machine; and back to back (the pool is emptied faster than it is
filled, as in a burst after a restart).
"""

import os
import time

from faas_server import CODE
from stats import summary
from target import ANSWER, BODY


class ColdStartError(Exception):
    """A call that should have been a cold start was none, or failed."""


def measure(server, interpreter, count, gap_ms, say):
    """Returns {"spaced": …, "back_to_back": …, "interpreter": …, "ratio_p50": …}; times in milliseconds."""
    names = {way: [f"cold-{way}-{number}" for number in range(count)] for way in ("spaced", "burst")}
    for number, name in enumerate(names["spaced"] + names["burst"]):
        # Every source differs, so that no cache of code can turn a cold start into a warm one.
        server.register(name, f"NUMBER = {number}\n{CODE}")
    say(f"{2 * count} functions registered, none has run")
    start_interpreter(interpreter)
    time.sleep(1)

    spaced, bare = _Calls(), []
    with server.connect() as connection:
        connection.request("GET", "/health")
        for name in names["spaced"]:
            spaced.add(_call(connection, name))
            time.sleep(gap_ms / 1000)
            bare.append(start_interpreter(interpreter))
            time.sleep(gap_ms / 1000)
        say("spaced cold starts done")
        burst = _Calls()
        for name in names["burst"]:
            burst.add(_call(connection, name))
    for name in names["spaced"] + names["burst"]:
        server.delete(name)

    report = {"count": count, "gap_ms": gap_ms, "spaced": spaced.report(), "back_to_back": burst.report()}
    report["interpreter"] = {"command": f"{interpreter} -S -c pass", "wall_ms": summary(bare)}
    for way in ("spaced", "back_to_back"):
        http, python = report[way]["http_ms"], report["interpreter"]["wall_ms"]
        report[way]["ratio"] = {quantile: http[quantile] / python[quantile] for quantile in ("p50", "p95", "p99")}
    return report


class _Calls:
    def __init__(self):
        self.http_ms = []
        self.server_ms = []

    def add(self, answer):
        self.http_ms.append(answer.elapsed_ns / 1e6)
        if "x-faas-duration-ms" in answer.headers:
            self.server_ms.append(float(answer.headers["x-faas-duration-ms"]))

    def report(self):
        server = summary(self.server_ms) if len(self.server_ms) == len(self.http_ms) else None
        return {"http_ms": summary(self.http_ms), "header_duration_ms": server}


def _call(connection, name):
    answer = connection.request("POST", f"/invoke/{name}", BODY)
    if answer.status != 200 or answer.json() != ANSWER:
        raise ColdStartError(f"{name} answered {answer.status} {answer.body[:300]!r}")
    if answer.headers.get("x-faas-cold-start", "").lower() != "true":
        raise ColdStartError(f"{name} was not cold: x-faas-cold-start is {answer.headers.get('x-faas-cold-start')!r}")
    return answer


def start_interpreter(interpreter):
    """Wall time of `interpreter -S -c pass` in milliseconds, by posix_spawn: no fork of this process is in it."""
    begun_ns = time.perf_counter_ns()
    pid = os.posix_spawn(interpreter, [interpreter, "-S", "-c", "pass"], {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"})
    _, status = os.waitpid(pid, 0)
    elapsed_ns = time.perf_counter_ns() - begun_ns
    if status != 0:
        raise ColdStartError(f"{interpreter} -S -c pass ended with wait status {status}")
    return elapsed_ns / 1e6
