"""What runs in the machine: tests, each in a process of its own, two at a time; what came of each and how long it took.
Those that change the machine itself run alone, after the others, and so do those of container mode: all that are wanted
of a program in one process, since an engine and its image take longer than most tests.

Exits 0 when all passed and none was skipped. What is run where is the table below; the binaries are in /plan.json.
"""

import concurrent.futures
import json
import os
import subprocess
import sys
import time

SLOWNESS = float(os.environ.get("FAAS_TEST_SLOWNESS", "1"))
# Longer than the patience of any test, so that it is the test that says what it waited for.
TIMEOUT_S = 60 + 40 * SLOWNESS
ENGINE_TIMEOUT_S = 200 * SLOWNESS
CGROUPS = "/sys/fs/cgroup"
# The kinds of groups that tests are started in: the top of the tree, a group that others are in
# too (as after a login), one made for it that was given every controller (a service with Delegate=yes), or given none (a
# service without).
TOP, SHARED, DELEGATED, SERVICE = "top", "shared", "delegated", "service"


def main():
    with open("/plan.json", encoding="ascii") as file:
        plan = json.load(file)
    layout = os.environ.get("FAAS_CGROUPS", "v2")
    print(f"vm: Linux {os.uname().release}, cgroup {layout}, {os.cpu_count()} processors, slowness {SLOWNESS}")
    started = time.monotonic()
    failed = []
    if layout == "v2":
        with open(f"{CGROUPS}/cgroup.subtree_control", "w", encoding="ascii") as file:
            # As systemd does it, so that an engine finds what it gives to its containers.
            file.write("+memory +pids +cpu +cpuset +io")
        os.mkdir(f"{CGROUPS}/{SHARED}")
        os.mkdir(f"{CGROUPS}/{SERVICE}")
        subprocess.Popen(enter(SHARED, ["sleep", "1d"]))
    count = 0
    for alone in (False, True):
        with concurrent.futures.ThreadPoolExecutor(1 if alone else os.cpu_count()) as pool:
            suites = [suite for suite in plan["suites"] if is_alone(suite) == alone]
            runs = [pool.submit(run, plan["again"], *case) for case in cases(suites, plan["binaries"], layout)]
            count += len(runs)
            for done in concurrent.futures.as_completed(runs):
                name, problem, seconds, output = done.result()
                print(f"vm: {seconds:6.1f} s  {'FAILED' if problem else 'ok    '}  {name}{problem and ': ' + problem}")
                if problem or "\nFLAKY " in output:
                    print(output)
                if problem:
                    failed.append(name)
    print(f"vm: {count} tests, {len(failed)} failed, {time.monotonic() - started:.0f} s")
    for name in failed:
        print(f"vm: FAILED {name}")
    return 1 if failed or not count else 0


def is_alone(suite):
    return suite.get("alone", False) or "engine" in suite


def cases(suites, binaries, layout):
    """Name, command, the control group to run in, and the engine of functions' containers, of each process."""
    for suite in suites:
        if layout not in suite["layouts"]:
            continue
        binary = binaries[suite["binary"]]
        if "engine" in suite:
            names = tests(binary, suite)
            # One after the other: under emulation two containers that start at once take longer than either may.
            command = [binary, "--exact", *names, "--test-threads=1"]
            yield f"{suite['binary']}, {suite['engine']}: {len(names)} tests", command, TOP, suite["engine"]
            continue
        for group in suite.get("groups", [TOP]) if layout == "v2" else [TOP]:
            place = suite["binary"] if group == TOP else f"{suite['binary']}, {group} group"
            for test in tests(binary, suite):
                arguments = [] if test is None else ["--exact", test, "--include-ignored"]
                yield f"{place}: {test or 'all'}", [binary, *arguments], group, None


def tests(binary, suite):
    """The tests of a binary that are wanted here; `None` for a binary that has no harness and is a test itself."""
    if not suite.get("harness", True):
        return [None]
    which = ["--ignored"] if suite.get("ignored") else []
    listed = subprocess.run([binary, "--list", "--format", "terse", *which], stdout=-1, check=True, text=True).stdout
    names = [line.rsplit(": ", 1)[0] for line in listed.splitlines() if line.endswith(": test")]
    if not suite.get("ignored"):
        listed = subprocess.run([binary, "--list", "--format", "terse", "--ignored"], stdout=-1, check=True, text=True)
        ignored = {line.rsplit(": ", 1)[0] for line in listed.stdout.splitlines()}
        names = [name for name in names if name not in ignored]
    chosen, without = suite.get("only", [""]), suite.get("without", [])
    for prefix in [*chosen, *without]:
        if not any(name.startswith(prefix) for name in names):
            sys.exit(f"vm: {binary} has no test {prefix}")
    return [name for name in names if name.startswith(tuple(chosen)) and not name.startswith(tuple(without))]


def run(again, name, command, group, engine):
    """One process; `again` is put before the command. What it is, what is wrong, how long it took, what it said."""
    started = time.monotonic()
    command = [*again, *command]
    if group in (DELEGATED, SERVICE):
        group = f"{group}-{started}" if group == DELEGATED else f"{group}/{started}"
        os.mkdir(f"{CGROUPS}/{group}")
    command = command if group == TOP else enter(group, command)
    environment = {**os.environ, **({"FAAS_TEST_MODE": "container", "FAAS_TEST_ENGINE_KIND": engine} if engine else {})}
    timeout = ENGINE_TIMEOUT_S if engine else TIMEOUT_S
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=-1, stderr=subprocess.STDOUT, env=environment)
    try:
        output = child.communicate(timeout=timeout)[0].decode(errors="replace")
        problem = f"exit code {child.returncode}" if child.returncode else ""
    except subprocess.TimeoutExpired:
        child.kill()
        output, problem = child.communicate()[0].decode(errors="replace"), f"no end after {timeout:.0f} s"
    if not problem and any(words in output for words in ("SKIP", "DOES NOT APPLY")):
        problem = "skipped"
    return name, problem, time.monotonic() - started, output


def enter(group, command):
    """The command, in a control group."""
    return ["sh", "-c", f'echo 0 > {CGROUPS}/{group}/cgroup.procs && exec "$@"', "sh", *command]


if __name__ == "__main__":
    sys.exit(main())
