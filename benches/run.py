#!/usr/bin/env python3
"""The benchmark: faas and its peers under the same load, and cold starts. `make bench` runs it.

    python3 benches/run.py [--quick] [--rounds N] [--json PATH] [--only WHAT[,WHAT…]] …

The report goes to standard output, progress to standard error, all samples to a JSON file. Exit code 0: measured;
1: something failed, or an answer was wrong, or (with --strict) a promise was missed; 2: usage.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import cold
import load
import machine
import peers
import report
from client import HttpError
from faas_server import FaasError, FaasServer, build
from process import ProcessError
from target import WrongAnswer

BENCHES = Path(__file__).resolve().parent
ROOT = BENCHES.parent
CACHE = BENCHES / ".cache"
# The first is shown as `faas-N`, N being its max_instances; the second has what a function has that says nothing.
FAAS_TARGETS = ["faas-limited", "faas-default"]
GROUPS = {"faas": FAAS_TARGETS, "peers": peers.NAMES, "cold": ["cold"]}
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FAILURES = (
    cold.ColdStartError,
    FaasError,
    HttpError,
    load.LoadError,
    machine.MachineError,
    OSError,
    ProcessError,
    WrongAnswer,
)


def main():
    options = parse_arguments()
    for number in STOP_SIGNALS:
        signal.signal(number, unwind)
    try:
        result = measure(options)
    except FAILURES as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(report.render(result))
    print(f"\nwritten to {options.json}", file=sys.stderr)
    return verdict(result, options.strict)


def unwind(number, _frame):
    """Leave by an exception, so that every server is ended; a second signal must not interrupt that."""
    for other in STOP_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def parse_arguments():
    known = sorted({name for names in GROUPS.values() for name in names} | set(GROUPS))
    parser = argparse.ArgumentParser(prog="benches/run.py", description="Measure faas against its peers.")
    parser.add_argument("--quick", action="store_true", help="short rounds, few cold starts: nothing to quote")
    parser.add_argument("--rounds", type=positive, help="rounds of every measurement (5; 3 with --quick)")
    parser.add_argument("--duration", type=positive, help="seconds of one measurement (3; 1 with --quick)")
    parser.add_argument("--connections", type=numbers, default=[1, 32, 128], help="comma-separated (1,32,128)")
    parser.add_argument("--cold-starts", type=positive, help="functions of the cold start (200; 40 with --quick)")
    parser.add_argument("--cold-gap-ms", type=positive, default=20, help="pause around each spaced cold start (20)")
    parser.add_argument("--max-instances", type=positive, default=1, help="max_instances of faas-limited (1)")
    parser.add_argument("--only", type=names(known), help=f"comma-separated, from: {' '.join(known)}")
    parser.add_argument("--binary", type=Path, help="measure this faas and build none")
    parser.add_argument("--json", type=Path, default=CACHE / "result.json", help="where the samples go")
    parser.add_argument("--strict", action="store_true", help="a missed promise is a failure")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.duration = options.duration or (1 if options.quick else 3)
    options.cold_starts = options.cold_starts or (40 if options.quick else 200)
    options.only = options.only or list(GROUPS)
    options.selected = [name for group in GROUPS.values() for name in group if selected(name, options.only)]
    return options


def selected(name, only):
    return name in only or any(name in GROUPS.get(group, []) for group in only)


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def numbers(text):
    return [positive(part) for part in text.split(",")]


def names(known):
    def parse(text):
        for part in text.split(","):
            if part not in known:
                raise argparse.ArgumentTypeError(f"{part!r} is none of {', '.join(known)}")
        return text.split(",")

    return parse


def measure(options):
    """Start what was selected, measure, and end it all, whatever happens."""
    interpreter = machine.real_interpreter()
    peer_names = [name for name in options.selected if name in peers.NAMES]
    faas_names = [name for name in options.selected if name in FAAS_TARGETS]
    with_cold = "cold" in options.selected
    machine.require((["wrk"] if peer_names or faas_names else []) + (["nginx"] if "nginx-static" in peer_names else []))
    facts = machine.facts(interpreter, ROOT)
    venv = machine.ensure_venv(interpreter, BENCHES / "requirements.txt", CACHE) if peer_names else None
    binary = (options.binary or build(ROOT)) if faas_names or with_cold else None
    samples, cold_start = [], None
    with ExitStack() as stack:
        work_dir = Path(tempfile.mkdtemp(prefix="faas-bench-"))
        stack.callback(shutil.rmtree, work_dir, ignore_errors=True)
        targets = []
        if binary is not None:
            server = FaasServer(binary, interpreter, work_dir)
            stack.callback(server.process.stop)
            if with_cold:
                # Before the load, so that no warm instance competes with the blanks for memory and processors.
                cold_start = cold.measure(server, interpreter, options.cold_starts, options.cold_gap_ms, say)
            targets += faas_targets(server, faas_names, options.max_instances)
        for name in peer_names:
            target = peers.start(name, venv, BENCHES, work_dir)
            stack.callback(target.process.stop)
            targets.append(target)
        if targets:
            script = BENCHES / "post.lua"
            samples = load.run_rounds(targets, options.connections, options.rounds, options.duration, script, say)
    rows = report.throughput_rows(samples)
    return {
        "machine": facts,
        "settings": {
            "rounds": options.rounds,
            "duration_s": options.duration,
            "connections": options.connections,
            "max_instances_of_faas_limited": options.max_instances,
        },
        "throughput": rows,
        "cold_start": cold_start,
        "promises": report.promises(rows, cold_start),
        "samples": samples,
    }


def faas_targets(server, wanted, max_instances):
    made = {
        "faas-limited": lambda: server.target(f"faas-{max_instances}", max_instances=max_instances),
        "faas-default": lambda: server.target("faas-default"),
    }
    return [made[name]() for name in wanted]


def verdict(result, strict):
    wrong = sum(row["error_count"] for row in result["throughput"])
    if wrong:
        print(f"bench: {wrong} requests failed", file=sys.stderr)
        return 1
    missed = [promise for promise in result["promises"] if not promise["kept"]]
    return 1 if strict and missed else 0


_STARTED = time.monotonic()


def say(text):
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
