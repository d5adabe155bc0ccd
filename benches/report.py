"""From samples to medians, from medians to a table, and what SPECIFICATION.md promises held against them."""

from peers import BASELINE
from stats import median

# (what, the bound). The first compares one interpreter with one: `faas-1` is a function with max_instances 1.
THROUGHPUT_PROMISE = ("faas-1 at 32 connections, requests/s as a ratio to bjoern", 0.7)
COLD_START_PROMISE = ("cold start p50 as a ratio to the interpreter's start", 0.25)


def throughput_rows(samples):
    """One row per target and connection count: medians over the rounds, in the order of the first round.

    The ratio is the median of the rounds' ratios, not the ratio of the medians: what disturbed a whole round cancels.
    """
    groups = {}
    for sample in samples:
        groups.setdefault((sample["connections"], sample["target"]), []).append(sample)
    rows = []
    for (connections, target), group in groups.items():
        rates = [sample["requests_per_second"] for sample in group]
        rows.append(
            {
                "connections": connections,
                "target": target,
                "rounds": len(group),
                "requests_per_second": median(rates),
                "requests_per_second_min": min(rates),
                "requests_per_second_max": max(rates),
                "p50_us": median(sample["p50_us"] for sample in group),
                "p99_us": median(sample["p99_us"] for sample in group),
                "error_count": sum(sample["error_count"] for sample in group),
                "ratio": _ratio(group, groups.get((connections, BASELINE))),
            }
        )
    return rows


def _ratio(group, baseline):
    if baseline is None:
        return None
    base = {sample["round"]: sample["requests_per_second"] for sample in baseline}
    ratios = [sample["requests_per_second"] / base[sample["round"]] for sample in group if base.get(sample["round"])]
    return median(ratios) if ratios else None


def promises(rows, cold):
    """The promises this run can judge, as dictionaries with `kept`."""
    judged = []
    for row in rows:
        if row["target"] == "faas-1" and row["connections"] == 32 and row["ratio"] is not None:
            what, bound = THROUGHPUT_PROMISE
            judged.append({"what": what, "at_least": bound, "found": row["ratio"], "kept": row["ratio"] >= bound})
    if cold is not None:
        what, bound = COLD_START_PROMISE
        found = cold["spaced"]["ratio"]["p50"]
        judged.append({"what": what, "at_most": bound, "found": found, "kept": found <= bound})
    return judged


def render(result):
    """The whole report as text."""
    parts = [machine_line(result["machine"])]
    if result["throughput"]:
        parts.append(_throughput(result["throughput"]))
    if result["cold_start"] is not None:
        parts.append(_cold_start(result["cold_start"]))
    if result["promises"]:
        parts.append("\n".join(promise_line(promise) for promise in result["promises"]))
    return "\n\n".join(parts)


def machine_line(machine):
    return (
        f"{machine['cores']} cores ({machine['cpu']}), Linux {machine['kernel']}, Python {machine['python']}, "
        f"faas {machine['commit']}"
    )


def _throughput(rows):
    lines = []
    for connections in sorted({row["connections"] for row in rows}):
        lines += [""] if lines else []
        lines.append(f"{connections} connection{'s' if connections > 1 else ''}")
        titles = "".join(f"{title:>9}" for title in ("req/s", "min", "max", "p50 ms", "p99 ms"))
        lines.append(f"  {'':<18}{titles}{'/ ' + BASELINE:>10}  errors")
        for row in rows:
            if row["connections"] != connections:
                continue
            ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
            lines.append(
                f"  {row['target']:<18}{row['requests_per_second']:>9.0f}{row['requests_per_second_min']:>9.0f}"
                f"{row['requests_per_second_max']:>9.0f}{row['p50_us'] / 1000:>9.3f}{row['p99_us'] / 1000:>9.3f}"
                f"{ratio:>10}  {row['error_count'] or '-'}"
            )
    return "\n".join(lines)


def _cold_start(cold):
    spaced, burst = cold["spaced"], cold["back_to_back"]
    rows = [
        (f"faas, {2 * cold['gap_ms']:g} ms and more between", spaced["http_ms"], spaced["ratio"]),
        ("  X-Faas-Duration-Ms of these", spaced["header_duration_ms"], None),
        ("faas, back to back", burst["http_ms"], burst["ratio"]),
        ("  X-Faas-Duration-Ms of these", burst["header_duration_ms"], None),
        ("python3 -S -c pass", cold["interpreter"]["wall_ms"], None),
    ]
    lines = [f"cold start, {cold['count']} functions that had never run (ms; ratios to python3 -S -c pass)"]
    lines.append(f"  {'':<34}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}  ratio p50   p95   p99")
    for name, times, ratio in rows:
        if times is None:
            continue
        ratios = "" if ratio is None else f"{ratio['p50']:>11.2f}{ratio['p95']:>6.2f}{ratio['p99']:>6.2f}"
        lines.append(
            f"  {name:<34}{times['p50']:>9.3f}{times['p95']:>9.3f}{times['p99']:>9.3f}{times['max']:>9.3f}{ratios}"
        )
    return "\n".join(lines)


def promise_line(promise):
    bound = f"at least {promise['at_least']}" if "at_least" in promise else f"at most {promise['at_most']}"
    return f"{'kept  ' if promise['kept'] else 'MISSED'} {promise['what']}: {promise['found']:.2f}, promised {bound}"
