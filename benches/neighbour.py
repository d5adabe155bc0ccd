"""A neighbour under attack: how long one function's calls take while another takes all it can.

The neighbour is called at an even pace on one connection, alone and under each attack in turn, in interleaved rounds;
each of its answers is compared. What counts is the ratio of its p99 under attack to its p99 of the same round alone.

The attackers are given a processor each, which on two is the whole machine. Then the p99 is the kernel's affair: who wakes
up waits until the one that runs has had its time slice, which is noticed at a tick (4 ms at 250 Hz) where the kernel is not
preemptible. The median shows that nobody is starved. Shorter slices for instances (sched_setattr) were tried and changed
nothing that could be measured.
"""

import threading
import time

from attacks import ATTACKS, PRELUDE
from client import HttpError
from stats import median, quantile

COUNTER = "count = 0\n\ndef handle(request):\n    global count\n    count += 1\n    return count\n"
PACE_S = 0.004
ATTACKERS = 2


class NeighbourError(Exception):
    """The neighbour did not get its answer."""


def measure(server, rounds, duration_s, say):
    """Returns a list of rows: attack, p50_ms and p99_ms of the neighbour (medians of the rounds), ratio_p99, calls."""
    server.register("neighbour", COUNTER, max_instances=1, min_instances=1)
    for name, code in ATTACKS.items():
        config = {"max_invocations_per_instance": 1} if name == "sandboxes" else {}
        config = {"timeout": 2, "max_instances": ATTACKERS, "memory": "64Mi", **config}
        server.register(f"attack-{name}", PRELUDE + code, **config)
    samples = {name: [] for name in ["alone", *ATTACKS]}
    count = _Count()
    with server.connect() as connection:
        for _ in range(200):
            count.call(connection)
        for number in range(1, rounds + 1):
            alone = _paced(connection, count, duration_s)
            samples["alone"].append((quantile(alone, 0.5), quantile(alone, 0.99), 1.0, len(alone)))
            for name in ATTACKS:
                with _Attack(server, name):
                    times = _paced(connection, count, duration_s)
                ratio = quantile(times, 0.99) / quantile(alone, 0.99)
                samples[name].append((quantile(times, 0.5), quantile(times, 0.99), ratio, len(times)))
            say(f"round {number} of {rounds}: a neighbour alone and under {len(ATTACKS)} attacks")
    for name in ["neighbour", *(f"attack-{name}" for name in ATTACKS)]:
        server.delete(name)
    return [
        {
            "attack": name,
            "p50_ms": median([row[0] for row in rows]),
            "p99_ms": median([row[1] for row in rows]),
            "ratio_p99": median([row[2] for row in rows]),
            "calls": sum(row[3] for row in rows),
        }
        for name, rows in samples.items()
    ]


class _Count:
    """Calls the neighbour, which counts: a wrong number is somebody else's answer, or an instance that was lost."""

    def __init__(self):
        self.calls = 0

    def call(self, connection):
        self.calls += 1
        answer = connection.request("POST", "/invoke/neighbour", b"{}")
        if answer.status != 200 or answer.json() != self.calls:
            raise NeighbourError(f"call {self.calls} was answered {answer.status} {answer.body[:300]!r}")
        return answer.elapsed_ns / 1e6


def _paced(connection, count, duration_s):
    """Times in ms of calls at an even pace."""
    times, begun = [], time.monotonic()
    while (passed := time.monotonic() - begun) < duration_s:
        times.append(count.call(connection))
        time.sleep(max(0.0, (passed // PACE_S + 1) * PACE_S - (time.monotonic() - begun)))
    return times


class _Attack:
    """Calls of one attack without a pause, on as many connections as it has instances, while the block runs."""

    def __init__(self, server, name):
        self.server, self.path, self.stop = server, f"/invoke/attack-{name}", threading.Event()
        self.threads = [threading.Thread(target=self._call, daemon=True) for _ in range(ATTACKERS)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        # The first calls have found their instances.
        time.sleep(0.5)

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _call(self):
        with self.server.connect() as connection:
            while not self.stop.is_set():
                try:
                    answer = connection.request("POST", self.path, b"{}")
                except HttpError:
                    continue
                # One that cannot be started at the moment (it fails again and again) is not asked in a tight loop.
                if answer.status in (429, 503):
                    time.sleep(0.01)


def render(rows):
    lines = [f"a neighbour under attack (called every {PACE_S * 1000:g} ms; attackers: {ATTACKERS} instances at once)"]
    lines.append(f"  {'':<14}{'p50 ms':>9}{'p99 ms':>9}{'p99 / alone':>13}{'calls':>8}")
    for row in rows:
        lines.append(
            f"  {row['attack']:<14}{row['p50_ms']:>9.3f}{row['p99_ms']:>9.3f}{row['ratio_p99']:>13.2f}{row['calls']:>8}"
        )
    return "\n".join(lines)
