#!/usr/bin/env python3
"""What the sandbox costs and what it is worth to others: `make bench-sandbox`.

Sandboxes made and destroyed in their thousands, with what is left of them; and a neighbour's calls while other functions
take all they can. Needs root, as functions do at level strict. Exits with 1 when a promise of SPECIFICATION.md is missed
under --strict.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import churn
import machine
import neighbour
from faas_server import FaasServer, build
from run import CACHE, ROOT, STOP_SIGNALS, positive, say, unwind

PER_SECOND_PROMISED = 200


def main():
    for number in STOP_SIGNALS:
        signal.signal(number, unwind)
    parser = argparse.ArgumentParser(prog="benches/sandbox.py", description=__doc__.splitlines()[0])
    parser.add_argument("--sandboxes", type=positive, default=10_000, help="sandboxes to make (10000)")
    parser.add_argument("--rounds", type=positive, default=3, help="rounds of the neighbour (3)")
    parser.add_argument("--duration", type=positive, default=3, help="seconds of each attack in a round (3)")
    parser.add_argument("--binary", type=Path, help="measure this faas and build none")
    parser.add_argument("--json", type=Path, default=CACHE / "sandbox.json", help="where the figures go")
    parser.add_argument("--strict", action="store_true", help="a missed promise is a failure")
    options = parser.parse_args()

    interpreter = machine.real_interpreter()
    binary = options.binary or build(ROOT)
    with ExitStack() as stack:
        work_dir = Path(tempfile.mkdtemp(prefix="faas-bench-"))
        stack.callback(shutil.rmtree, work_dir, ignore_errors=True)
        server = FaasServer(binary, interpreter, work_dir)
        stack.callback(server.process.stop)
        churned = churn.measure(server, options.sandboxes, say)
        rows = neighbour.measure(server, options.rounds, options.duration, say)
    promises = judge(churned)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine.facts(interpreter, ROOT), "churn": churned, "neighbour": rows, "promises": promises}
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(churn.render(churned), neighbour.render(rows), sep="\n\n", end="\n\n")
    for kept, text in promises:
        print(f"{'kept  ' if kept else 'MISSED'} {text}")
    return 1 if options.strict and not all(kept for kept, _ in promises) else 0


def judge(churned):
    """The promises as (kept, text). A neighbour's ratio is measured and not promised: see benches/neighbour.py."""
    return [
        (churned["after"] == churned["before"], "nothing is left of the sandboxes"),
        (
            churned["per_second"] >= PER_SECOND_PROMISED,
            f"sandboxes a second: {churned['per_second']:.0f}, promised at least {PER_SECOND_PROMISED}",
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
