"""One measurement with wrk, and all of them in interleaved rounds."""

import json
import subprocess
import time

from target import BODY_TEXT, KEY

MARKER = "RESULT "


class LoadError(Exception):
    """wrk did not run to its end."""


def run_wrk(target, connections, duration_s, script):
    """Load `target` and return what `post.lua` reports, with `requests_per_second` and `error_count` added."""
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{duration_s}s"]
    command += ["--timeout", "10s", "--script", str(script), target.url, "--", BODY_TEXT, KEY]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=duration_s + 60)
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARKER)), None)
    if done.returncode != 0 or line is None:
        raise LoadError(f"wrk on {target.name} ended with {done.returncode}: {done.stdout}{done.stderr}")
    result = json.loads(line[len(MARKER) :])
    result["requests_per_second"] = result["requests"] * 1e6 / result["duration_us"]
    # wrk counts statuses above 399 and a 3xx not at all; `Target.check` has seen a 200 just before.
    result["error_count"] = sum(result["errors"].values())
    if result["requests"] == 0:
        result["error_count"] += 1
    return result


def run_rounds(targets, connections, rounds, duration_s, script, say):
    """Measure every target at every connection count, `rounds` times.

    One round visits all targets before the next begins, and every other round goes the other way round, so that a slow
    minute of the machine, and the heat its neighbour leaves, fall on all alike. Returns a list of samples.
    """
    samples = []
    for target in targets:
        target.check()
        run_wrk(target, max(connections), 1, script)
    for number in range(1, rounds + 1):
        order = targets if number % 2 else targets[::-1]
        for count in connections:
            begun = time.monotonic()
            for target in order:
                target.check()
                sample = run_wrk(target, count, duration_s, script)
                samples.append({"target": target.name, "connections": count, "round": number, **sample})
            say(f"round {number} of {rounds}, {count} connections: {time.monotonic() - begun:.0f} s")
    return samples
