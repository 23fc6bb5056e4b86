#!/usr/bin/env python3
"""Cost of the balancer against the size of the cluster: 15 guests a host, one day of traces repeated with shifts.

Usage: scale.py GODWIT TRACE_DIR [--policy P] [--sizes 100,300,...] [--csv FILE] [--svg FILE]
"""
import argparse
import csv
import math
import os
import subprocess
import tempfile


def run(godwit, trace, policy, hosts):
    with tempfile.NamedTemporaryFile(suffix=".csv") as out:
        command = [godwit, "simulate", "--trace", trace, "--policy", policy, "--hosts", str(hosts),
                   "--guests", str(15 * hosts), "--spread", "--keep-idle", "--no-bound", "--csv", out.name]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        # The child's own usage: processor time, not the clock of a machine that does other work.
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise SystemExit(f"{' '.join(command)} failed")
        row = next(csv.DictReader(open(out.name, newline="")))
        return {"policy": policy, "hosts": hosts, "guests": 15 * hosts,
                "wall_seconds": float(row["wall_seconds"]),
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                # The whole simulation, loads and accounting included, a host and sample.
                "host_round_microseconds": 1e6 * (usage.ru_utime + usage.ru_stime) / int(row["decision_rounds"]),
                "round_microseconds": 1e6 * float(row["decision_seconds"]) / int(row["decision_rounds"]),
                "peak_mib": usage.ru_maxrss / 1024}


def panel(rows, key, title, top):
    """One log-log panel."""
    left, width, height = 80, 620, 170
    values = [r[key] for r in rows]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    x0, x1 = math.log10(min(r["hosts"] for r in rows)), math.log10(max(r["hosts"] for r in rows))
    x = lambda v: left + width * (math.log10(v) - x0) / max(x1 - x0, 1e-9)
    y = lambda v: top + height * (high - math.log10(v)) / (high - low)
    out = [f'<text x="{left}" y="{top - 8}" font-weight="bold">{title}</text>']
    for power in range(low, high + 1):
        out.append(f'<line x1="{left}" x2="{left + width}" y1="{y(10**power):.1f}" y2="{y(10**power):.1f}" '
                   f'stroke="#ccc"/><text x="{left - 6}" y="{y(10**power) + 4:.1f}" '
                   f'text-anchor="end">{10**power:g}</text>')
    for index, policy in enumerate(sorted({r["policy"] for r in rows})):
        colour = ["#0072b2", "#d55e00", "#009e73"][index % 3]
        mine = sorted((r for r in rows if r["policy"] == policy), key=lambda r: r["hosts"])
        points = " ".join(f'{x(r["hosts"]):.1f},{y(r[key]):.1f}' for r in mine)
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>')
        out += [f'<circle cx="{x(r["hosts"]):.1f}" cy="{y(r[key]):.1f}" r="3" fill="{colour}"/>' for r in mine]
        out.append(f'<text x="{left + 380 + 130 * index}" y="{top - 8}" fill="{colour}">{policy}</text>')
    for hosts in sorted({r["hosts"] for r in rows}):
        out.append(f'<text x="{x(hosts):.1f}" y="{top + height + 16}" text-anchor="middle">{hosts} hosts</text>')
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("godwit")
    parser.add_argument("trace")
    parser.add_argument("--policy", action="append")
    parser.add_argument("--sizes", default="100,300,1000,3000,10000")
    parser.add_argument("--csv")
    parser.add_argument("--svg")
    arguments = parser.parse_args()
    rows = []
    for policy in arguments.policy or ["consolidate", "balance"]:
        for size in arguments.sizes.split(","):
            rows.append(run(arguments.godwit, arguments.trace, policy, int(size)))
            print(rows[-1], flush=True)
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    if arguments.svg:
        lines = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 740 690" font-family="sans-serif" '
                 'font-size="12">', '<rect width="100%" height="100%" fill="#fff"/>']
        lines += panel(rows, "host_round_microseconds", "a host and sample, processor microseconds", 40)
        lines += panel(rows, "cpu_seconds", "simulated day, processor seconds", 265)
        lines += panel(rows, "peak_mib", "memory, MiB", 490)
        with open(arguments.svg, "w") as file:
            file.write("\n".join(lines + ["</svg>"]) + "\n")


if __name__ == "__main__":
    main()
