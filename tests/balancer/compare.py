#!/usr/bin/env python3
"""Our policies against the baselines on the ten PlanetLab days: 5 orders, both zero-VM rules, medians.

Usage: compare.py GODWIT TRACE_ROOT [--csv FILE] [--seeds N] [--memory]
TRACE_ROOT holds a directory a day (20110303 ...). Exits 1 when a goal of docs/balancing.md is missed.
"""
import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile

CHOSEN_ON = {"20110303", "20110309", "20110403"}
PAIRS = {
    "consolidate": (["lr-mmt-1.2", "consolidate"], []),
    "balance": (["greedy", "balance"], ["--hosts", "100", "--spread"]),
}


def run(godwit, trace, policies, options):
    with tempfile.NamedTemporaryFile(suffix=".csv") as out:
        command = [godwit, "simulate", "--trace", trace, "--csv", out.name, *options]
        for policy in policies:
            command += ["--policy", policy]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(out.name, newline="") as file:
            return list(csv.DictReader(file))


def collect(arguments):
    rows = []
    for day in sorted(os.listdir(arguments.root)):
        for seed in range(arguments.seeds):
            for rule in ([], ["--keep-idle"]):
                for goal, (policies, options) in PAIRS.items():
                    extra = [*options, *rule, "--seed", str(seed)]
                    if arguments.memory and goal == "consolidate":
                        extra.append("--memory")
                    for row in run(arguments.godwit, os.path.join(arguments.root, day), policies, extra):
                        rows.append({"goal": goal, **row})
        print(f"{day} done", file=sys.stderr)
    return rows


def table(rows, goal, rule, days, title):
    """Prints medians of both policies and of the ratio run by run; returns the ratios' medians."""
    baseline, ours = PAIRS[goal][0]
    chosen = [r for r in rows if r["goal"] == goal and r["idle_removed"] == rule and r["trace"] in days]
    pairs = {}
    for row in chosen:
        pairs.setdefault((row["trace"], row["seed"]), {})[row["policy"]] = row
    ratios = {}
    print(f"\n{goal}, idle guests {'removed' if rule == '1' else 'kept'}, {title} ({len(pairs)} runs)")
    print(f"  {'':18}{baseline:>14}{ours:>14}{'ratio':>10}")
    for key in ("migrations", "slav", "slatah", "pdm", "energy_kwh", "energy_bound_kwh", "esv",
                "load_deviation", "overload_seconds", "undone", "unprofitable", "mean_active_hosts"):
        left = [float(p[baseline][key]) for p in pairs.values()]
        right = [float(p[ours][key]) for p in pairs.values()]
        medians = statistics.median(left), statistics.median(right)
        # The ratio of medians, as goals are stated over medians of all runs.
        ratios[key] = medians[1] / medians[0] if medians[0] else float("inf") if medians[1] else 0.0
        print(f"  {key:18}{medians[0]:14.6g}{medians[1]:14.6g}{ratios[key]:10.4f}")
    return ratios


GOALS = {
    "consolidate": {"migrations": 0.25, "slav": 0.1, "energy_kwh": 0.75, "esv": 0.075},
    "balance": {"migrations": 0.1, "load_deviation": 1.0, "overload_seconds": 1.0},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("godwit")
    parser.add_argument("root")
    parser.add_argument("--csv")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="RAM binds for both (goal consolidate)")
    arguments = parser.parse_args()
    rows = collect(arguments)
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    days = {r["trace"] for r in rows}
    missed = []
    for goal, limits in GOALS.items():
        for rule in ("1", "0"):
            for chosen, title in ((days, "all days"), (days & CHOSEN_ON, "days parameters were chosen on"),
                                  (days - CHOSEN_ON, "days never looked at")):
                if not chosen:
                    continue
                ratios = table(rows, goal, rule, chosen, title)
                missed += [f"{goal}, rule {rule}, {title}: {key} {ratios[key]:.4f} > {limit}"
                           for key, limit in limits.items() if ratios[key] > limit]
    print("\n" + ("\n".join("MISSED " + m for m in missed) if missed else "every goal is met"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
