#!/usr/bin/env python3
"""Our policies against the baselines on the ten PlanetLab days: 5 orders, both zero-VM rules, medians.

Usage: compare.py GODWIT TRACE_ROOT [--csv FILE] [--seeds N] [--goal G] [--memory]
TRACE_ROOT holds a directory a day (20110303 ...). Exits 1 when a goal of docs/balancing.md is missed.
"""
import argparse
import concurrent.futures
import csv
import itertools
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

FIGURES = ("migrations", "slav", "slatah", "pdm", "energy_kwh", "energy_bound_kwh", "esv", "load_deviation",
           "load_deviation_bound", "overload_seconds", "undone", "unprofitable", "mean_active_hosts")


def run(godwit, trace, policies, options):
    with tempfile.NamedTemporaryFile(suffix=".csv") as out:
        command = [godwit, "simulate", "--trace", trace, "--csv", out.name, *options]
        for policy in policies:
            command += ["--policy", policy]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(out.name, newline="") as file:
            return list(csv.DictReader(file))


def collect(arguments):
    def simulate(day, seed, rule, goal):
        policies, options = PAIRS[goal]
        extra = [*options, *rule, "--seed", str(seed)]
        if arguments.memory and goal == "consolidate":
            extra.append("--memory")
        return [{"goal": goal, **row} for row in run(arguments.godwit, os.path.join(arguments.root, day), policies, extra)]

    rows = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as workers:
        for day in sorted(os.listdir(arguments.root)):
            runs = itertools.product([day], range(arguments.seeds), ([], ["--keep-idle"]), arguments.goals)
            for found in workers.map(lambda one: simulate(*one), runs):
                rows += found
            print(f"{day} done", file=sys.stderr)
    return rows


def ratio(left, right):
    return right / left if left else float("inf") if right else 0.0


def medians(rows, policy):
    return {key: statistics.median(float(r[key]) for r in rows if r["policy"] == policy) for key in FIGURES}


def ratios(rows, baseline, ours):
    """Ours to the baseline's: of medians, as goals are stated over medians of all runs."""
    left, right = medians(rows, baseline), medians(rows, ours)
    return {key: ratio(left[key], right[key]) for key in FIGURES}


def ratios_of_runs(rows, baseline, ours):
    """The median over the runs of ours to the baseline's on the same day in the same order."""
    runs = {}
    for row in rows:
        runs.setdefault((row["trace"], row["seed"]), {})[row["policy"]] = row
    return {key: statistics.median(ratio(float(run[baseline][key]), float(run[ours][key])) for run in runs.values())
            for key in FIGURES}


def table(rows, goal, rule, days, title):
    """Prints the medians of both policies, their ratio, and the median of the runs' ratios; returns the former."""
    baseline, ours = PAIRS[goal][0]
    chosen = [r for r in rows if r["goal"] == goal and r["idle_removed"] == rule and r["trace"] in days]
    found, of_runs = ratios(chosen, baseline, ours), ratios_of_runs(chosen, baseline, ours)
    print(f"\n{goal}, idle guests {'removed' if rule == '1' else 'kept'}, {title} ({len(chosen) // 2} runs)")
    print(f"  {'':20}{baseline:>14}{ours:>14}{'of medians':>12}{'of runs':>10}")
    left, right = medians(chosen, baseline), medians(chosen, ours)
    for key in FIGURES:
        print(f"  {key:20}{left[key]:14.6g}{right[key]:14.6g}{found[key]:12.4f}{of_runs[key]:10.4f}")
    return found


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
    parser.add_argument("--goal", action="append", dest="goals", choices=PAIRS, help="only this one")
    parser.add_argument("--memory", action="store_true", help="RAM binds for both (goal consolidate)")
    arguments = parser.parse_args()
    arguments.goals = arguments.goals or list(PAIRS)
    rows = collect(arguments)
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    days = {r["trace"] for r in rows}
    missed = []
    for goal in arguments.goals:
        goals = GOALS[goal]
        for rule in ("1", "0"):
            for chosen, title in ((days, "all days"), (days & CHOSEN_ON, "days parameters were chosen on"),
                                  (days - CHOSEN_ON, "days nothing was chosen on")):
                if not chosen:
                    continue
                found = table(rows, goal, rule, chosen, title)
                missed += [f"{goal}, idle guests {'removed' if rule == '1' else 'kept'}, {title}: "
                           f"{key} {found[key]:.4f} > {limit}" for key, limit in goals.items() if found[key] > limit]
    print("\n" + ("\n".join("MISSED " + m for m in missed) if missed else "every goal asked for is met"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
