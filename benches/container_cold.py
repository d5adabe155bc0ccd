"""Cold starts in containers, against a container that is made and started by hand through the same engine.

Four ways for a call to find no instance: with containers in stock, for a function whose limits are those that the stock
is made with (`pool`) and for one with others (`pool_limits`: the engine is told of them first); with nothing in stock
(`bare`); and in process mode. Next to each of them one container by hand, so that both meet the same machine: the ratio
is the median of the pairs' ratios. Every call waits until engine and server have nothing to do, as a function's that is
called rarely does.
"""

import time

from cold import ColdStartError
from engine import PYTHON
from faas_server import CODE
from stats import median, summary
from target import ANSWER, BODY

STOCK = 2
REST_TIMEOUT_S = 60
# What a function has that says nothing, and what the stock is made with.
DEFAULTS = {"memory": "256Mi"}
WAYS = {
    "bare": {"execution_mode": "container", **DEFAULTS},
    "pool": {"execution_mode": "container", **DEFAULTS},
    "pool_limits": {"execution_mode": "container", "memory": "128Mi", "cpu_limit": "0.5"},
    "process": {"execution_mode": "process", **DEFAULTS},
}


def measure(server, engine, count, gap_ms, say):
    """`server` has nothing in stock, and `STOCK` containers afterwards. Returns {way: {...}}, times in milliseconds."""
    runs = {way: _Way() for way in WAYS}
    with server.connect() as connection:
        for number in range(count):
            _one(server, engine, connection, "bare", number, gap_ms, runs, stock=0)
        say("cold starts without a stock done")
        server.reload(container_pool_size=STOCK)
        await_rest(server, engine, STOCK)
        hardened = []
        for number in range(count):
            for way in ("pool", "pool_limits", "process"):
                _one(server, engine, connection, way, number, gap_ms, runs, stock=STOCK)
            await_rest(server, engine, STOCK)
            hardened.append(engine.run_by_hand(same_walls(engine))[0])
        say("cold starts with a stock done")
    report = {way: run.report() for way, run in runs.items()}
    return {"count": count, "gap_ms": gap_ms, "ways": report, "by_hand_with_walls_ms": summary(hardened)}


def _one(server, engine, connection, way, number, gap_ms, runs, stock):
    name = f"cold-{way.replace('_', '-')}-{number}"
    # Every source differs, so that no cache of code can turn a cold start into a warm one.
    server.register(name, f"NUMBER = {number}\n{CODE}", **WAYS[way])
    await_rest(server, engine, stock)
    by_hand = engine.run_by_hand()
    await_rest(server, engine, stock)
    time.sleep(gap_ms / 1000)
    answer = connection.request("POST", f"/invoke/{name}", BODY)
    if answer.status != 200 or answer.json() != ANSWER:
        raise ColdStartError(f"{name} answered {answer.status} {answer.body[:300]!r}")
    if answer.headers.get("x-faas-cold-start", "").lower() != "true":
        raise ColdStartError(f"{name} was not cold")
    server.delete(name)
    runs[way].add(answer.elapsed_ns / 1e6, by_hand)


class _Way:
    def __init__(self):
        self.calls, self.started, self.ended = [], [], []

    def add(self, call_ms, by_hand):
        self.calls.append(call_ms)
        self.started.append(by_hand[0])
        self.ended.append(by_hand[1])

    def report(self):
        return {
            "http_ms": summary(self.calls),
            "by_hand_ms": summary(self.started),
            "by_hand_with_python_ms": summary(self.ended),
            "ratio": median(call / hand for call, hand in zip(self.calls, self.started)),
            "difference_ms": median(call - hand for call, hand in zip(self.calls, self.started)),
        }


def same_walls(engine):
    """What a container in stock is made of, with another program. Its directory has to be there still."""
    inspected = engine.call("GET", f"/containers/{engine.containers()[0]['Id']}/json")
    config, host = inspected["Config"], inspected["HostConfig"]
    kept = ("Image", "Hostname", "User", "Env", "WorkingDir")
    return {**{key: config[key] for key in kept}, "Entrypoint": PYTHON, "Cmd": [], "HostConfig": host}


def await_rest(server, engine, stock, besides=0):
    """Wait until so many containers are in stock, and none is there but these and so many that functions have."""
    give_up_at = time.monotonic() + REST_TIMEOUT_S
    processes = server.settings["system"].get("pool_size", 8)
    while True:
        blanks, there = server.get("/stats")["blanks"], len(engine.containers())
        if (blanks, there) == (processes + stock, stock + besides):
            return
        if time.monotonic() > give_up_at:
            raise ColdStartError(f"{blanks} blanks and {there} containers are no stock of {stock} and {besides} in use")
        time.sleep(0.02)


def render(result):
    ways = result["ways"]
    rows = [
        ("function in a container, in stock", ways["pool"]["http_ms"], ways["pool"]["ratio"]),
        ("  with limits of its own", ways["pool_limits"]["http_ms"], ways["pool_limits"]["ratio"]),
        ("function in a container, none in stock", ways["bare"]["http_ms"], ways["bare"]["ratio"]),
        ("function in a process, in stock", ways["process"]["http_ms"], ways["process"]["ratio"]),
        ("by hand: create + start", ways["pool"]["by_hand_ms"], None),
        ("  beside those with none in stock", ways["bare"]["by_hand_ms"], None),
        ("  with the walls of faas's containers", result["by_hand_with_walls_ms"], None),
        ("  until python3 -S -c pass has ended", ways["pool"]["by_hand_with_python_ms"], None),
    ]
    lines = [f"cold start, {result['count']} of each (ms; ratio: median over pairs of call and create + start by hand)"]
    lines.append(f"  {'':<42}{'p50':>9}{'p95':>9}{'min':>9}{'max':>9}{'ratio':>8}")
    for name, times, ratio in rows:
        figures = "".join(f"{times[key]:>9.2f}" for key in ("p50", "p95", "min", "max"))
        lines.append(f"  {name:<42}{figures}{'' if ratio is None else f'{ratio:>8.3f}'}")
    more = ways["bare"]["difference_ms"]
    lines.append(f"  with none in stock, a call takes {more:.0f} ms more than create + start by hand")
    return "\n".join(lines)
