#!/usr/bin/env python3
"""The sandbox's tests on machines that this one is not: a kernel of Debian's in QEMU, once with control groups of
version 2 alone and once with version 1 alone, as root and as a common user; and container mode there, with an engine
and AppArmor. `make test-vm` runs it.

    python3 tests/vm/run.py [--only FILE] [v2] [v1]

The tests are built here as usual; with this system's Python they become an archive that is the machine's whole file
system (`image.py`). In the machine `init.sh` sets up a Linux system and `suite.py` runs the tests. Uses KVM where it
works, and emulates the processor elsewhere, which is some 20 times slower.

Exit code 0: every test passed, or QEMU or the kernel is missing and FAAS_CI is not set; 1: anything else.
"""

import argparse
import glob
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import image

ROOT = Path(__file__).resolve().parent.parent.parent
# Before a command in CI: a second chance for a test that fails.
AGAIN = ROOT / ".ci/again"
IMAGE_MAKER = ROOT / "tests/common/engine/image.py"
QEMU = "qemu-system-x86_64"
# The installed one that sorts last. A cloud kernel is small and has built in what the tests need.
KERNELS = "/boot/vmlinuz-*-cloud-amd64"
MEMORY_MIB = 4096
PROCESSORS = 2
# From power on to init; a machine under KVM that takes longer does not work here.
BOOT_S = {"kvm": 10, "tcg,thread=multi": 90}
# Over all. Emulated on two processors both machines together take about half of it.
TIMEOUT_S = 2700
# How many times longer than usual tests may wait.
SLOWNESS = {"kvm": 3, "tcg,thread=multi": 5}
BOTH = ["v1", "v2"]
# What is run: a file of tests, the layouts it is run on, the kinds of groups it is started in (see `suite.py`), and
# beginnings of the names of its tests: those that are left out are not about the kernel, measure, or take minutes. What
# is `alone` runs when nothing else does. Functions run in processes where no `engine` is named.
SUITES = [
    {"binary": "host", "layouts": BOTH, "harness": False},
    {"binary": "cgroup", "layouts": BOTH, "groups": ["top", "shared", "delegated", "service"]},
    {"binary": "delegated", "layouts": ["v2"], "ignored": True},
    {"binary": "layers", "layouts": BOTH},
    {"binary": "abuse", "layouts": ["v1"], "only": ["a_call_that_takes_all"]},
    {
        "binary": "abuse",
        "layouts": ["v2"],
        "only": ["a_call_that_takes_all", "a_call_that_looks", "a_call_reaches", "a_call_is_refused", "nothing_of"],
    },
    {
        "binary": "unprivileged",
        "layouts": BOTH,
        "only": ["strict_refuses", "standard_serves", "level_none_serves", "a_look_at_the_system", "a_common_users"],
    },
    {
        "binary": "takeover",
        "layouts": BOTH,
        "only": ["min_instances_and", "a_server_that_is_killed_while_it_finishes", "sigusr2"],
    },
    {"binary": "sandbox_plan", "layouts": ["v2"], "without": ["cost_of_a_blank"]},
    {"binary": "seccomp", "layouts": ["v2"], "without": ["loading_takes_less_time"]},
    {
        "binary": "faults",
        "layouts": BOTH,
        "only": ["a_child_left_running", "a_function_beyond_its_memory", "an_instance_killed_from_outside"],
    },
    {
        "binary": "lifecycle",
        "layouts": BOTH,
        "only": ["a_call_longer_than_the_shutdown_grace", "a_second_signal", "calls_that_run_at_the_signal"],
    },
    {"binary": "clock", "layouts": ["v2"], "ignored": True, "alone": True},
    {"binary": "container_walls", "layouts": ["v2"], "engine": "docker"},
    {"binary": "container_walls", "layouts": ["v2"], "engine": "podman"},
    {
        "binary": "containers",
        "layouts": ["v2"],
        "engine": "docker",
        "only": ["inside::a_", "inside::its_", "inside::under_apparmor", "life::a_container_that"],
    },
    {"binary": "figures", "layouts": ["v2"], "engine": "docker", "only": ["memory_is_what", "tasks_are_counted"]},
]


class Missing(Exception):
    """What this takes is not there."""


class Stuck(Exception):
    """The machine does not start."""


def main():
    options = parse_arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    suites = [suite for suite in SUITES if options.only in (None, suite["binary"])]
    try:
        kernel = find_kernel()
        containers = find_containers(kernel) if any("engine" in suite for suite in suites) else None
    except (Missing, image.ImageError) as missing:
        print(f"SKIP test-vm: {missing} (.ci/install-vm.sh and .ci/install-docker.sh install it on Debian)")
        return 1 if os.environ.get("FAAS_CI") else 0
    deadline = time.monotonic() + TIMEOUT_S
    binaries = build(suites)
    accelerators = ["kvm"] if os.access("/dev/kvm", os.R_OK | os.W_OK) else []
    accelerators.append("tcg,thread=multi")
    with tempfile.TemporaryDirectory(prefix="faas-vm-") as directory:
        archive = Path(directory, "archive")
        make_archive(archive, binaries, suites, containers)
        codes = []
        for layout in options.layouts or ["v2", "v1"]:
            while True:
                try:
                    codes.append(boot(kernel, archive, layout, accelerators[0], deadline))
                    break
                except Stuck as stuck:
                    print(f"test-vm: {accelerators[0]}: {stuck}")
                    del accelerators[0]
                    if not accelerators:
                        return 1
    print(f"test-vm: {'passed' if not any(codes) else 'FAILED'}")
    return int(any(codes))


def parse_arguments():
    parser = argparse.ArgumentParser(description="The sandbox's tests in a virtual machine.")
    parser.add_argument("--only", metavar="FILE", choices={suite["binary"] for suite in SUITES})
    parser.add_argument("layouts", nargs="*", metavar="v2|v1", help="layouts of control groups, by default both")
    options = parser.parse_args()
    if set(options.layouts) - set(BOTH):
        parser.error("a layout is v2 or v1")
    return options


def find_kernel():
    if os.uname().machine != "x86_64":
        raise Missing("the machine is an x86_64, and this one is not")
    if not shutil.which(QEMU):
        raise Missing(f"{QEMU} is not installed")
    if not image.BUSYBOX.exists():
        raise Missing("a static busybox is not installed")
    kernels = sorted(glob.glob(KERNELS))
    if not kernels:
        raise Missing(f"there is no kernel {KERNELS}")
    return kernels[-1]


def find_containers(kernel):
    made = subprocess.run([sys.executable, IMAGE_MAKER], stdout=subprocess.PIPE, text=True)
    if made.returncode:
        raise Missing("there is no image for containers")
    return image.Containers(Path(made.stdout.strip()), Path(kernel).name.removeprefix("vmlinuz-"))


def build(suites):
    """Builds the server and the tests: paths by their names."""
    command = ["cargo", "test", "--locked", "--no-run", "--message-format=json", "--bin", "faas"]
    for name in sorted({suite["binary"] for suite in suites}):
        command += ["--test", name]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    found = {}
    for line in output.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["executable"]:
            target = message["target"]
            if target["kind"] == ["test"] or (target["kind"] == ["bin"] and not message["profile"]["test"]):
                found[target["name"]] = Path(message["executable"])
    return found


def make_archive(path, binaries, suites, containers):
    started = time.monotonic()
    plan = {
        "suites": suites,
        "binaries": {name: str(binary) for name, binary in binaries.items()},
        "again": ["/usr/bin/python3", str(AGAIN)] if os.environ.get("FAAS_CI") else [],
    }
    image.build(path, ROOT, binaries.values(), json.dumps(plan).encode(), containers)
    print(f"test-vm: an archive of {path.stat().st_size >> 20} MiB in {time.monotonic() - started:.1f} s")


def boot(kernel, archive, layout, accelerator, deadline):
    """Runs one machine to its end and prints its console; the exit code that its suite had."""
    print(f"test-vm: {Path(kernel).name}, cgroup {layout}, {accelerator}", flush=True)
    settings = {
        "FAAS_CGROUPS": layout,
        "FAAS_SUITE": ROOT / "tests/vm/suite.py",
        "FAAS_TEST_SLOWNESS": SLOWNESS[accelerator],
        # A search of all memory is native code page by page: minutes under emulation, and not about the kernel.
        "FAAS_ABUSE_NOT": "searches_its_memory",
        "FAAS_MAY_SET_CLOCK": 1,
        "FAAS_CI": 1,
    }
    parameters = "console=ttyS0 loglevel=1 panic=-1 " + " ".join(f"{name}={value}" for name, value in settings.items())
    command = [QEMU, "-accel", accelerator, "-cpu", "max", "-smp", str(PROCESSORS), "-m", str(MEMORY_MIB)]
    command += ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]
    command += ["-kernel", kernel, "-initrd", str(archive), "-append", parameters]
    machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines = queue.Queue()
    threading.Thread(target=read, args=(machine.stdout, lines), daemon=True).start()
    started, is_up, code = time.monotonic(), False, None
    try:
        while True:
            limit = deadline if is_up else min(deadline, started + BOOT_S[accelerator])
            line = lines.get(timeout=max(0.0, limit - time.monotonic()))
            if line is None:
                break
            print(line, flush=True)
            if line == "vm: up":
                is_up = True
                print(f"test-vm: up after {time.monotonic() - started:.1f} s", flush=True)
            elif line.startswith("vm: exit code "):
                code = int(line.rsplit(" ", 1)[1])
    except queue.Empty:
        if not is_up:
            raise Stuck(f"no sign of life after {BOOT_S[accelerator]} s") from None
        print(f"test-vm: no end within {TIMEOUT_S} s", flush=True)
    finally:
        machine.kill()
        machine.wait()
    if code is None:
        print("test-vm: the machine ended before its tests", flush=True)
        return 1
    return code


def read(console, lines):
    for line in console:
        lines.put(line.decode(errors="replace").rstrip("\r\n"))
    lines.put(None)


if __name__ == "__main__":
    sys.exit(main())
