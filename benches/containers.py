#!/usr/bin/env python3
"""What container mode costs, beside process mode and beside containers made by hand: `make bench-containers`.

Everything is measured against its peer in the same run: cold starts against `create` and `start` by hand through the
same engine, warm calls against process mode in the same server, in interleaved rounds. Needs root, and Docker: a
`dockerd` of its own is started and ended. Exits with 1 when a promise of SPECIFICATION.md is missed under --strict.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import container_cold
import container_cycles
import container_idle
import cycles
import load
import machine
import report
from engine import IMAGE, Engine, EngineError, lacking
from faas_server import FaasServer, build
from run import BENCHES, CACHE, FAILURES, ROOT, STOP_SIGNALS, names, positive, say, unwind
from stats import median

PARTS = ["cold", "warm", "idle", "cycles"]
CONNECTIONS = [1, 32, 128]
# Of every pair the same function with the same settings, in either mode: with one instance, which compares one
# interpreter with one, and with as many as a function may have that says nothing.
PAIRS = {"one instance": {"max_instances": 1}, "as deployed": {}}

# Ratios to `create` and `start` by hand.
COLD_FROM_STOCK_MOST = 0.15
COLD_WITHOUT_STOCK_MOST = 1.3
# Ratios to process mode.
THROUGHPUT_LEAST = 0.85
LATENCY_MOST = 1.3
IDLE_MB_MOST = 10.0


def main():
    for number in STOP_SIGNALS:
        signal.signal(number, unwind)
    options = parse_arguments()
    why = lacking() if os.geteuid() == 0 else "needs root"
    if why is not None:
        print(f"SKIP containers: {why}")
        return 0
    try:
        result = measure(options)
    except FAILURES + (EngineError, cycles.CycleError, container_idle.IdleError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(render(result))
    print(f"\nwritten to {options.json}", file=sys.stderr)
    wrong = sum(row["errors"] for row in result.get("warm", []))
    if wrong:
        print(f"bench: {wrong} requests failed", file=sys.stderr)
        return 1
    missed = [promise for promise in result["promises"] if not promise["kept"]]
    return 1 if options.strict and missed else 0


def parse_arguments():
    parser = argparse.ArgumentParser(prog="benches/containers.py", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short rounds, few of everything: nothing to quote")
    parser.add_argument("--cold-starts", type=positive, help="cold starts of each kind (40; 8 with --quick)")
    parser.add_argument("--cold-gap-ms", type=positive, default=50, help="rest before each of them (50)")
    parser.add_argument("--rounds", type=positive, help="rounds of warm calls (7; 3 with --quick)")
    parser.add_argument("--duration", type=positive, help="seconds of one measurement of them (3; 1 with --quick)")
    parser.add_argument("--cycles", type=positive, help="functions deployed and deleted (1000; 30 with --quick)")
    parser.add_argument("--only", type=names(PARTS), default=PARTS, help=f"comma-separated, from: {' '.join(PARTS)}")
    parser.add_argument("--python", help="the interpreter of process mode; the image's version, if the host has it")
    parser.add_argument("--binary", type=Path, help="measure this faas and build none")
    parser.add_argument("--json", type=Path, default=CACHE / "containers.json", help="where the samples go")
    parser.add_argument("--strict", action="store_true", help="a missed promise is a failure")
    options = parser.parse_args()
    options.cold_starts = options.cold_starts or (8 if options.quick else 40)
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.duration = options.duration or (1 if options.quick else 3)
    options.cycles = options.cycles or (30 if options.quick else 1000)
    return options


def measure(options):
    machine.require(["wrk"] if "warm" in options.only else [])
    interpreter = options.python or twin_interpreter()
    binary = options.binary or build(ROOT)
    result = {"machine": machine.facts(interpreter, ROOT)}
    with ExitStack() as stack:
        work_dir = Path(tempfile.mkdtemp(prefix="faas-bench-"))
        stack.callback(shutil.rmtree, work_dir, ignore_errors=True)
        engine = Engine()
        stack.callback(engine.stop)
        say(f"Docker {engine.version} of our own is there")
        server = FaasServer(
            binary,
            interpreter,
            work_dir,
            container_runtime=str(engine.socket),
            base_image=IMAGE,
            container_pool_size=0,
        )
        stack.callback(server.process.stop)
        result["engine"] = engine.version
        result["pythons"] = pythons(server)
        # A stock is kept as long as somebody may need it.
        server.register("resident", execution_mode="container")
        if "cold" in options.only:
            result["cold"] = container_cold.measure(server, engine, options.cold_starts, options.cold_gap_ms, say)
        server.reload(container_pool_size=container_cold.STOCK)
        if "idle" in options.only:
            result["idle"] = container_idle.measure(server, engine, say)
        if "warm" in options.only:
            result["samples"] = warm(server, options.rounds, options.duration)
            result["warm"] = warm_rows(result["samples"])
        if "cycles" in options.only:
            result["cycles"] = container_cycles.measure(server, engine, options.cycles, say)
    result["promises"] = promises(result)
    return result


def twin_interpreter():
    """The host's own Python, which the image has too when both are the same Debian; else the one that runs this."""
    return os.path.realpath("/usr/bin/python3") if os.path.exists("/usr/bin/python3") else machine.real_interpreter()


def pythons(server):
    """The interpreter's version in each mode, as a function sees it."""
    found = {}
    for mode in ("process", "container"):
        code = "import platform\n\n\ndef handle(request):\n    return platform.python_version()\n"
        server.register(f"version-{mode}", code, execution_mode=mode)
        with server.connect() as connection:
            found[mode] = connection.request("POST", f"/invoke/version-{mode}", {}).json()
        server.delete(f"version-{mode}")
    return found


def warm(server, rounds, duration):
    targets = []
    for pair, config in PAIRS.items():
        for mode in ("process", "container"):
            name = f"{mode}-{pair.replace(' ', '-')}"
            target = server.target(name, execution_mode=mode, memory="256Mi", **config)
            target.pair, target.mode = pair, mode
            targets.append(target)
    samples = load.run_rounds(targets, CONNECTIONS, rounds, duration, BENCHES / "post.lua", say)
    known = {target.name: target for target in targets}
    for sample in samples:
        sample["pair"], sample["mode"] = known[sample["target"]].pair, known[sample["target"]].mode
    for target in targets:
        server.delete(target.name)
    return samples


def warm_rows(samples):
    """One row per pair and connection count: medians of both modes, and the medians of the rounds' ratios."""
    groups = {}
    for sample in samples:
        rounds = groups.setdefault((sample["pair"], sample["connections"]), {})
        rounds.setdefault(sample["round"], {})[sample["mode"]] = sample
    rows = []
    for (pair, connections), rounds in groups.items():
        both = [(it["process"], it["container"]) for it in rounds.values()]
        errors = sum(p["error_count"] + c["error_count"] for p, c in both)
        row = {"pair": pair, "connections": connections, "errors": errors}
        for key in ("requests_per_second", "p50_us", "p99_us"):
            row[key] = {"process": median(p[key] for p, _ in both), "container": median(c[key] for _, c in both)}
            row[f"{key}_ratio"] = median(c[key] / p[key] for p, c in both)
        rows.append(row)
    return rows


def promises(result):
    """The promises that this run can judge, as dictionaries with `kept`."""
    judged = []

    def at_most(what, found, bound):
        judged.append({"what": what, "at_most": bound, "found": found, "kept": found <= bound})

    def at_least(what, found, bound):
        judged.append({"what": what, "at_least": bound, "found": found, "kept": found >= bound})

    if "cold" in result:
        ways = result["cold"]["ways"]
        hand = "as a ratio to create + start by hand"
        at_most(f"cold start from the stock, {hand}", ways["pool"]["ratio"], COLD_FROM_STOCK_MOST)
        at_most(f"the same with limits of its own, {hand}", ways["pool_limits"]["ratio"], COLD_FROM_STOCK_MOST)
        at_most(f"cold start without a stock, {hand}", ways["bare"]["ratio"], COLD_WITHOUT_STOCK_MOST)
    for row in result.get("warm", []):
        where = f"{row['connections']} connection{'s' if row['connections'] > 1 else ''}, {row['pair']}"
        if row["connections"] == 1:
            at_most(f"p50 at {where}, as a ratio to process mode", row["p50_us_ratio"], LATENCY_MOST)
        else:
            ratio = row["requests_per_second_ratio"]
            at_least(f"requests/s at {where}, as a ratio to process mode", ratio, THROUGHPUT_LEAST)
    if "idle" in result:
        beyond = result["idle"]["container"]["beyond_shim"]
        at_most("MB of an idle container beyond the engine's own process", beyond, IDLE_MB_MOST)
    if "cycles" in result:
        left = container_cycles.left(result["cycles"]["before"], result["cycles"]["after"])
        at_most("kinds of things left of functions deployed, called and deleted", len(left), 0)
    return judged


def render(result):
    found = result["pythons"]
    versions = f"Docker {result['engine']}, Python {found['process']}, in the image {found['container']}"
    parts = [f"{report.machine_line(result['machine'])}\n{versions}"]
    parts += [container_cold.render(result["cold"])] if "cold" in result else []
    parts += [render_warm(result["warm"])] if "warm" in result else []
    parts += [container_idle.render(result["idle"])] if "idle" in result else []
    parts += [container_cycles.render(result["cycles"])] if "cycles" in result else []
    parts.append("\n".join(report.promise_line(promise) for promise in result["promises"]))
    return "\n\n".join(parts)


def render_warm(rows):
    lines = ["warm calls, medians of the rounds (ratio: median of the rounds' ratios, container to process)"]
    titles = "".join(f"{title:>9}" for title in ("req/s", "p50 ms", "p99 ms", "req/s"))
    lines.append(f"  {'':<14}{'conns':>6}{'mode':>11}{titles}{'p50':>7}  errors")
    for row in rows:
        for mode in ("process", "container"):
            rate, p50, p99 = (row[key][mode] for key in ("requests_per_second", "p50_us", "p99_us"))
            figures = f"{rate:>9.0f}{p50 / 1000:>9.3f}{p99 / 1000:>9.3f}"
            ratios = f"{row['requests_per_second_ratio']:>9.3f}{row['p50_us_ratio']:>7.3f}  {row['errors'] or '-'}"
            head = f"{row['pair']:<14}{row['connections']:>6}" if mode == "process" else " " * 20
            lines.append(f"  {head}{mode:>11}{figures}{ratios if mode == 'container' else ''}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
