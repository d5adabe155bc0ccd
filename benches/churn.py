"""Sandboxes made and destroyed: how many a second, and what is left of them on the host, counted before and after."""

import os
import time
from pathlib import Path

from cycles import CycleError, at_rest, repeat

CONNECTIONS = 8
REST_S = 30


def measure(server, count, say):
    """One call per sandbox, `count` of them. Returns the rate and the holdings before and after."""
    code = "def handle(request):\n    return request.get_json()\n"
    server.register("churn", code, max_invocations_per_instance=1, max_instances=32)
    root = server.process.child.pid
    _calls(server, 200)
    before = _at_rest(root)
    begun = time.monotonic()
    _calls(server, count)
    seconds = time.monotonic() - begun
    after = _at_rest(root, before)
    server.delete("churn")
    say(f"{count} sandboxes made and destroyed")
    return {"count": count, "per_second": count / seconds, "before": before, "after": after}


def _calls(server, count):
    def call(connection, number):
        answer = connection.request("POST", "/invoke/churn", {"number": number})
        if answer.status != 200 or answer.json() != {"number": number}:
            raise CycleError(f"answered {answer.status} {answer.body[:300]!r}")

    repeat(server, count, CONNECTIONS, call)


def _at_rest(root, wanted=None):
    """The holdings at rest; waits for the `wanted` ones for a while."""
    return at_rest(lambda: holdings(root), lambda now: wanted is None or now == wanted, REST_S, 0.05)


def holdings(root):
    """What a server holds of the host: processes, descriptors, threads, cgroups, mounts, namespaces."""
    family = descendants(root)
    namespaces, parents = set(), set()
    for pid in [root, *family]:
        parents.update(_parents_of_groups(pid))
        namespaces.update(_links(f"/proc/{pid}/ns"))
        namespaces.update(link for link in _links(f"/proc/{pid}/fd") if link.startswith("net:"))
    return {
        "processes": len(family),
        "descriptors": len(_list(f"/proc/{root}/fd")),
        "threads": len(_list(f"/proc/{root}/task")),
        "cgroups": sum(len(list(_groups(parent))) for parent in parents),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "namespaces": len(namespaces),
    }


def descendants(root):
    parents = {}
    for name in _list("/proc"):
        if name.isdigit():
            try:
                stat = Path(f"/proc/{name}/stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(name))
    found, waiting = [], [root]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def _parents_of_groups(pid):
    """The names of the directories that hold the cgroups of this server's instances; they have its state in them."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        yield from (part for part in line.split(":", 2)[2].split("/") if part.startswith("faas-"))


def _groups(parent):
    for path, names, _ in os.walk("/sys/fs/cgroup"):
        if os.path.basename(path) == parent:
            yield from names


def _list(path):
    try:
        return os.listdir(path)
    except OSError:
        return []


def _links(directory):
    for name in _list(directory):
        try:
            yield os.readlink(f"{directory}/{name}")
        except OSError:
            continue


def render(result):
    lines = [f"{result['count']} sandboxes made, used once and destroyed: {result['per_second']:.0f} a second"]
    lines.append(f"  {'':<14}{'before':>9}{'after':>9}")
    lines += [f"  {name:<14}{before:>9}{result['after'][name]:>9}" for name, before in result["before"].items()]
    return "\n".join(lines)
