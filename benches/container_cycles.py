"""Functions deployed into containers, called and deleted by the thousand, and what is left of them.

Counted is what the server holds, what its directory holds, and what the engine has, keeps on its disk and holds. A
moment of rest is waited for on either side; then there may be no more of anything than there was.
"""

import time
from pathlib import Path

from container_cold import STOCK, await_rest
from cycles import CycleError, at_rest, repeat
from target import ANSWER, BODY

# More at a time than the engine is asked to make.
CONNECTIONS = 6
WARM_UP = 20
REST_S = 60
# As long as the server keeps a connection to the engine that nobody needs, and a little more.
ENGINE_IDLE_S = 12


def measure(server, engine, count, say):
    """`count` functions. Returns how many a second, and the holdings before and after."""
    # Connections, pools and caches are there after the first.
    _cycles(server, "warm-up", WARM_UP, say)
    await_rest(server, engine, STOCK)
    time.sleep(ENGINE_IDLE_S)
    before = _at_rest(server, engine)
    begun = time.monotonic()
    _cycles(server, "cycle", count, say)
    seconds = time.monotonic() - begun
    await_rest(server, engine, STOCK)
    after = _at_rest(server, engine, before)
    say(f"{count} functions deployed, called and deleted")
    return {"count": count, "per_second": count / seconds, "before": before, "after": after}


def _cycles(server, prefix, count, say):
    def cycle(connection, number):
        _cycle(server, connection, f"{prefix}-{number}")

    repeat(server, count, CONNECTIONS, cycle, lambda number: say(f"{number} of {count} functions"))


def _cycle(server, connection, name):
    server.register(name, execution_mode="container")
    answer = connection.request("POST", f"/invoke/{name}", BODY)
    if answer.status != 200 or answer.json() != ANSWER:
        raise CycleError(f"answered {answer.status} {answer.body[:300]!r}")
    server.delete(name)


def _at_rest(server, engine, wanted=None):
    """The holdings at rest; waits for no more than the `wanted` ones for a while."""
    return at_rest(lambda: holdings(server, engine), lambda now: wanted is None or not left(wanted, now), REST_S, 0.1)


def left(before, after):
    """What there is more of than there was."""
    return [name for name, count in after.items() if count > before[name]]


def holdings(server, engine):
    root = server.process.child.pid
    family = engine.processes()
    held = _files_of(engine)
    mounts = Path(f"/proc/{engine.pid}/mountinfo").read_text() + Path(f"/proc/{root}/mountinfo").read_text()
    sockets = Path("/proc/net/unix").read_text()
    places = [str(engine.directory), str(server.state)]
    return {
        "containers": len(engine.call("GET", "/containers/json?all=1")),
        "images and layers": held["layers"] + len(engine.call("GET", "/images/json?all=1")),
        "volumes": len(engine.call("GET", "/volumes")["Volumes"] or []),
        "the engine's directories": held["directories"],
        "the server's files": sum(1 for _ in server.state.rglob("*")),
        "sockets with a name": lines_with(sockets, places),
        "mounts": lines_with(mounts, places),
        "control groups": sum(1 for _ in _groups(engine)),
        "the engine's processes": len(family),
        "the server's descriptors": _descriptors(root),
        "the engine's descriptors": sum(_descriptors(pid) for pid in family),
    }


def lines_with(text, words):
    return sum(1 for line in text.splitlines() if any(word in line for word in words))


def _files_of(engine):
    """What the engine keeps where only it sees it: in its own mount namespace."""
    data = Path(f"/proc/{engine.pid}/root{engine.directory}/data")
    driver = engine.call("GET", "/info")["Driver"]
    places = ["containers", f"image/{driver}/layerdb/mounts"]
    layers = len(list((data / driver).iterdir())) if (data / driver).is_dir() else 0
    return {"layers": layers, "directories": sum(len(list((data / place).iterdir())) for place in places)}


def _groups(engine):
    """The control groups of its containers, in every hierarchy."""
    name = "test-engine-" + engine.directory.name.rpartition("-")[2]
    root = Path("/sys/fs/cgroup")
    for top in [root / name, *(entry / name for entry in root.iterdir() if entry.is_dir())]:
        yield from (path for path in top.rglob("*") if path.is_dir())


def _descriptors(pid):
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0


def render(result):
    lines = [f"{result['count']} functions deployed, called and deleted: {result['per_second']:.1f} a second"]
    lines.append(f"  {'':<26}{'before':>9}{'after':>9}")
    lines += [f"  {name:<26}{before:>9}{result['after'][name]:>9}" for name, before in result["before"].items()]
    return "\n".join(lines)
