#!/usr/bin/env python3
"""`godwit simulate` as people meet it, and the gates of docs/balancing.md in short form.

Usage: simulate_test.py Simulate|Gate. GODWIT_BUILD names the build directory. Gate needs GODWIT_PLANETLAB, the
directory of the ten days; without it it says so and exits 77. compare.py runs the gates in full.
"""
import csv
import os
import random
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import compare  # noqa: E402

GODWIT = Path(os.environ.get("GODWIT_BUILD", "build/release")).resolve() / "godwit"
SAMPLES = 287  # of a day: the event at its end is never handled
USAGE, FAILURE = 2, 1


class Simulate(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.trace = self.folder / "day"
        self.trace.mkdir()
        chance = random.Random(7)
        for guest in range(30):
            level, lines = chance.randrange(70), []
            for _ in range(288):
                level = min(100, max(1, level + chance.randrange(-12, 13)))
                lines.append(f"{level}\n")
            (self.trace / f"guest {guest}").write_text("".join(lines))

    def run_it(self, *words):
        done = subprocess.run([GODWIT, "simulate", *map(str, words)], capture_output=True, text=True, timeout=50)
        return done.returncode, done.stdout, done.stderr

    def simulate(self, *words):
        status, out, err = self.run_it("--trace", self.trace, "--hosts", 20, *words)
        self.assertEqual((status, err), (0, ""))
        return out

    def rows(self, *words):
        self.simulate("--csv", self.folder / "out.csv", *words)
        with open(self.folder / "out.csv", newline="") as file:
            return list(csv.DictReader(file))

    def test_prints_every_figure_with_its_bound(self):
        out = self.simulate("--policy", "lr-mmt-1.2", "--policy", "consolidate")
        self.assertEqual(out.count("consolidate on day: 20 hosts, 30 guests, seed 0"), 1)
        for figure in (r"energy +[\d.]+ kWh \(bound [\d.]+", r"SLATAH +[\d.]+ %", r"PDM +[\d.]+ %",
                       r"SLAV, ESV +\d\.\d+e-\d+, \d\.\d+e-\d+", r"migrations +\d+ \(\d+ undone, \d+ unprofitable\)",
                       r"load deviation +[\d.]+ \(time average over all hosts; bound [\d.]+",
                       r"overload +\d+ host-seconds", r"decisions +[\d.]+ s for 5740 host rounds"):
            self.assertRegex(out, figure)

    def test_csv_holds_the_same_for_programs(self):
        first, second = self.rows("--policy", "none", "--policy", "balance")
        self.assertEqual((first["policy"], second["policy"]), ("none", "balance"))
        self.assertEqual(first["migrations"], "0")
        self.assertLess(float(second["load_deviation"]), float(first["load_deviation"]))
        for row in (first, second):
            self.assertNotIn(None, row)
            self.assertNotIn(None, row.values())
            self.assertLess(float(row["energy_bound_kwh"]), float(row["energy_kwh"]))
            self.assertLess(float(row["load_deviation_bound"]), float(row["load_deviation"]))
            product = float(row["slatah"]) * float(row["pdm"])
            self.assertAlmostEqual(float(row["slav"]), product, delta=1e-5 * product)
            self.assertAlmostEqual(float(row["esv"]), product * float(row["energy_kwh"]), delta=1e-4 * product * 100)
        # No policy changes what the guests ask for, so none changes the bounds (but for what is asked between samples).
        self.assertEqual(first["load_deviation_bound"], second["load_deviation_bound"])
        self.assertAlmostEqual(float(first["energy_bound_kwh"]), float(second["energy_bound_kwh"]), delta=0.02)
        self.assertEqual(self.rows("--policy", "none", "--no-bound")[0]["load_deviation_bound"], "")

    def test_the_bound_of_the_deviation_is_below_what_greedy_reaches_at_every_sample(self):
        self.simulate("--policy", "greedy", "--keep-idle", "--series", self.folder / "day.csv")
        with open(self.folder / "day.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual(len(rows), SAMPLES)
        self.assertEqual([float(r["seconds"]) for r in rows[:2]], [300, 600])
        for row in rows:
            self.assertLess(float(row["load_deviation_bound"]), float(row["load_deviation"]))

    def test_svg_shows_the_day_of_every_policy(self):
        self.simulate("--policy", "greedy", "--policy", "balance", "--svg", self.folder / "day.svg")
        root = xml.parse(self.folder / "day.svg").getroot()
        lines = [e for e in root.iter() if e.tag.endswith("polyline")]
        self.assertEqual(len(lines), 9)  # two policies in four panels, and the bound
        for line in lines:
            self.assertEqual(len(line.get("points").split()), SAMPLES)
        text = " ".join(e.text or "" for e in root.iter())
        for word in ("greedy (day)", "balance (day)", "active hosts", "power", "deviation", "moves"):
            self.assertIn(word, text)

    def test_a_seed_gives_one_result_and_another_seed_another(self):
        timing = ("wall_seconds", "decision_seconds")
        one, same, other = ({k: v for k, v in self.rows("--policy", "balance", "--seed", seed)[0].items()
                             if k not in timing} for seed in (3, 3, 4))
        self.assertEqual(one, same)
        self.assertNotEqual(one["energy_kwh"], other["energy_kwh"])

    def test_a_policy_file_rules(self):
        policy = self.folder / "policy.json"
        policy.write_text('{"goal": "balance", "deadband": 1}')
        self.assertEqual(self.rows("--policy", policy)[0]["policy"], str(policy))
        self.assertLess(int(self.rows("--policy", policy)[0]["migrations"]),
                        int(self.rows("--policy", "balance")[0]["migrations"]))

    def test_every_decision_and_refusal_is_written_in_words(self):
        row = self.rows("--policy", "balance", "--decisions", self.folder / "why.txt")[0]
        lines = (self.folder / "why.txt").read_text().splitlines()
        moves = sum(" move guest " in line for line in lines) + 2 * sum(" swap guest " in line for line in lines)
        self.assertEqual(moves, int(row["migrations"]))
        self.assertTrue(any(" stay " in line for line in lines))

    def refused(self, status, says, *words):
        found, out, err = self.run_it(*words)
        with self.subTest(" ".join(map(str, words))):
            self.assertEqual((found, out), (status, ""), err)
            self.assertEqual(err.count("\n"), 1, err)
            self.assertRegex(err, says)

    def test_bad_input_is_one_line(self):
        day = ("--trace", self.trace)
        empty, short, word = (self.folder / name for name in ("empty", "short", "word"))
        for folder in (empty, short, word):
            folder.mkdir()
        (short / "guest").write_text("1\n" * 287)
        (word / "guest").write_text("1\n" * 100 + "one\n" + "1\n" * 187)
        for name, text in (("list", "[]"), ("key", '{"hott": 1}'), ("range", '{"fill": 7}'), ("cut", '{"fill"')):
            (self.folder / f"{name}.json").write_text(text)
        self.refused(USAGE, "--trace")
        self.refused(USAGE, "--wings", *day, "--wings", 2)
        for option in ("hosts", "guests", "seed"):
            for value in ("-1", "x", "", "1.5", "99999999999999999999"):
                self.refused(USAGE, f"--{option}", *day, f"--{option}={value}")
        self.refused(USAGE, "--hosts", *day, "--hosts", 0)
        self.refused(FAILURE, "missing", "--trace", self.folder / "missing")
        self.refused(FAILURE, "guest 1", "--trace", self.trace / "guest 1")
        self.refused(FAILURE, "no trace", "--trace", empty)
        self.refused(FAILURE, "287|288", "--trace", short)
        self.refused(FAILURE, "line 101", "--trace", word)
        self.refused(FAILURE, "fits on no host", *day, "--hosts", 2)
        self.refused(FAILURE, "fly", *day, "--policy", "fly")
        # A mistake in the last policy is found before the first is run.
        self.refused(FAILURE, "fly", *day, "--policy", "greedy", "--policy", "fly")
        self.refused(FAILURE, "lr-mmt-x", *day, "--policy", "lr-mmt-x")
        for name, says in (("list", "object"), ("key", "hott"), ("range", "fill"), ("cut", "object")):
            self.refused(FAILURE, says, *day, "--policy", self.folder / f"{name}.json")

    def test_output_that_cannot_be_written_is_one_line(self):
        for option in ("csv", "series", "svg", "decisions"):
            status, _, err = self.run_it("--trace", self.trace, "--hosts", 20, f"--{option}",
                                         self.folder / "missing" / "file")
            with self.subTest(option):
                self.assertEqual(status, FAILURE)
                self.assertEqual(err.count("\n"), 1, err)
                self.assertRegex(err, "cannot write .*missing/file")


class Gate(unittest.TestCase):
    """The seven days that no parameter was chosen on, both zero-VM rules, one order of the files. Goals are stated over the
    medians of ten days and five orders: compare.py."""

    def ratios(self, goal, rule):
        baseline, ours = compare.PAIRS[goal][0]
        options = [*compare.PAIRS[goal][1], *([] if rule == "1" else ["--keep-idle"])]
        root, rows = os.environ["GODWIT_PLANETLAB"], []
        for day in sorted(set(os.listdir(root)) - compare.CHOSEN_ON):
            rows += compare.run(GODWIT, os.path.join(root, day), [baseline, ours], options)
        self.assertEqual({r["idle_removed"] for r in rows}, {rule})
        return compare.ratios(rows, baseline, ours)

    def test_goals(self):
        for goal in compare.PAIRS:
            for rule in ("1", "0"):
                ratios = self.ratios(goal, rule)
                for key, limit in compare.GOALS[goal].items():
                    print(f"{goal}, idle guests {'removed' if rule == '1' else 'kept'}: {key} {ratios[key]:.3f} x, "
                          f"at most {limit}")
                    with self.subTest(goal=goal, rule=rule, key=key):
                        self.assertLessEqual(ratios[key], limit)


if __name__ == "__main__":
    if "Gate" in sys.argv[1:] and "GODWIT_PLANETLAB" not in os.environ:
        print("skipped: set GODWIT_PLANETLAB to the directory of the ten days")
        sys.exit(77)
    unittest.main(verbosity=2)
