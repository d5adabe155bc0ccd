"""What an idle container costs in memory, beyond the engine's own process beside it.

Counted for each container: the proportional share (PSS) of every process in it, what the kernel has for it (slab,
stacks, page tables, sockets) as its control group is charged, and its files in memory. Pages of the image's files that
it maps are in PSS, shared out among all that map them. Told beside it: what it has alone (USS), the engine's process
(containerd-shim), the same figures of an instance in process mode, and all that the group is charged with.
"""

import time
from pathlib import Path

from stats import median

INSTANCES = 8
READY_TIMEOUT_S = 120
MB = 1_000_000


class IdleError(Exception):
    """The instances did not come, or cannot be looked at."""


def measure(server, engine, say):
    """Medians over `INSTANCES` idle instances that have answered calls, of each mode, in MB."""
    report = {}
    for mode in ("container", "process"):
        name = f"idle-{mode}"
        config = {"execution_mode": mode, "memory": "256Mi", "min_instances": INSTANCES, "max_instances": INSTANCES}
        server.register(name, **config)
        pids = _idle(server, name)
        report[mode] = _medians([_instance(pid) for pid in pids])
        if mode == "container":
            shims = [pid for pid, name in engine.processes().items() if name.startswith("containerd-shim")]
            report["shim_pss"] = median(_rollup(pid)["Pss"] for pid in shims) / MB
        server.delete(name)
    say("memory of idle instances looked at")
    return report


def _idle(server, name):
    """The first processes of its instances, once all of them are there and have been called."""
    give_up_at = time.monotonic() + READY_TIMEOUT_S
    while True:
        found = server.get(f"/functions/{name}")["instance_details"]
        pids = [instance["pid"] for instance in found if instance["state"] == "idle"]
        if len(pids) == INSTANCES:
            break
        if time.monotonic() > give_up_at:
            raise IdleError(f"{name} has {len(pids)} idle instances after {READY_TIMEOUT_S} s")
        time.sleep(0.1)
    with server.connect() as connection:
        for _ in range(100):
            connection.request("POST", f"/invoke/{name}", {})
    return pids


def _instance(pid):
    group = memory_group(pid)
    tasks = [int(number) for number in (group / "cgroup.procs").read_text().split()]
    rollups = [_rollup(task) for task in tasks]
    own = sum(rollup["Private_Clean"] + rollup["Private_Dirty"] for rollup in rollups)
    pss = sum(rollup["Pss"] for rollup in rollups)
    kernel, files, charged = charges(group)
    return {
        "processes": len(tasks),
        "beyond_shim": (pss + kernel + files) / MB,
        "pss": pss / MB,
        "uss": own / MB,
        "kernel": kernel / MB,
        "files": files / MB,
        "charged": charged / MB,
    }


def _medians(instances):
    return {key: median(instance[key] for instance in instances) for key in instances[0]}


def memory_group(pid, proc=Path("/proc"), mount=Path("/sys/fs/cgroup")):
    """The control group that a process's memory is charged to."""
    for line in (proc / str(pid) / "cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return mount / "memory" / path.lstrip("/")
        if number == "0" and (mount / "cgroup.controllers").exists():
            return mount / path.lstrip("/")
    raise IdleError(f"process {pid} is in no group that counts memory")


def charges(group):
    """What a group is charged with: for the kernel, for files in memory, and all in all, in bytes."""
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    if (group / "memory.current").exists():
        return int(stat["kernel"]), int(stat["shmem"]), int((group / "memory.current").read_text())
    kernel = int((group / "memory.kmem.usage_in_bytes").read_text())
    return kernel, int(stat["shmem"]), int((group / "memory.usage_in_bytes").read_text())


def _rollup(pid):
    """The sums over a process's mappings, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def render(result):
    lines = [f"memory of an idle instance (MB, median of {INSTANCES})"]
    columns = [("pss", "PSS"), ("kernel", "kernel"), ("files", "files"), ("beyond_shim", "sum"), ("uss", "USS")]
    columns += [("charged", "charged")]
    lines.append(f"  {'':<16}" + "".join(f"{title:>9}" for _, title in columns))
    for mode in ("container", "process"):
        lines.append(f"  {mode:<16}" + "".join(f"{result[mode][key]:>9.2f}" for key, _ in columns))
    lines.append(f"  {'containerd-shim':<16}{result['shim_pss']:>9.2f}")
    return "\n".join(lines)
