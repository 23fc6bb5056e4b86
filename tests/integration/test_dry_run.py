"""What `godwit migrate --dry-run` says, and what it leaves: everything as it was, at both ends."""

import json
import os
import unittest
from pathlib import Path

from harness import Case
from proxy import Proxy

WOULD_MOVE, REFUSED, CANCELLED, WOULD_NOT_CONVERGE = 0, 3, 4, 8


class DryRunCase(Case):
    transport = "tcp"
    address = "127.0.0.1"

    def setUp(self):
        super().setUp()
        self.destination = self.receive(listen=self.address + ":0")

    def guest(self, append="mib=8 rate=8 tick=20", more=()):
        self.source = self.run_guest("pattern.elf", append=append, more=more)
        self.line(self.source, "^tick 50 ", 30)

    def dry_run(self, *words, to=None):
        """(exit status, report)"""
        status, out, err = self.godwit("migrate", self.source.api, "--to", to or self.destination.address, "--transport",
                                       self.transport, "--dry-run", "--json", *words, seconds=60)
        if status:
            self.one_line(err)
        report = json.loads(out)
        self.assertTrue(report["dry_run"])
        self.all_as_it_was()
        return status, report

    def all_as_it_was(self):
        status = self.source.request("GET", "/v1/status")[1]
        self.assertEqual((status["state"], status["migration"], status["last_report"]), ("running", None, None))
        self.assertTrue(self.source.wait_ticks(3, 10), "the guest stands still")
        self.no_lost_tick(self.source)
        self.assertTrue(self.destination.alive(), self.destination.err.text())
        self.assertEqual(self.destination.out.text(), "")
        self.assertFalse(Path(self.destination.api).exists(), "the destination takes itself for a guest")

    def move(self, *words):
        status, out, err = self.godwit("migrate", self.source.api, "--to", self.destination.address, "--transport",
                                       self.transport, "--json", *words, seconds=60)
        self.assertEqual(status, 0, err)
        self.assertTrue(self.destination.wait_ticks(3, 20))
        self.no_corruption(self.source, self.destination)
        return json.loads(out)

    def bears_out(self):
        """Time and again, and the move that follows is as was foretold, as far as a busy machine lets it be."""
        self.guest()
        for _ in range(3):
            status, told = self.dry_run("--downtime-limit", "400ms")
            self.assertEqual((status, told["status"], told["transport"]), (WOULD_MOVE, "would-complete", self.transport))
        self.message(self.destination, "a dry run; still listening")
        moved = self.move("--downtime-limit", "400ms", "--no-verify")  # comparing all memory is no part of what is foretold
        self.assertEqual(moved["transport"], told["transport"])
        self.assertLess(moved["rounds"][0]["bytes"] / told["ram"]["data"], 1.5)
        self.assertGreater(moved["rounds"][0]["bytes"] / told["ram"]["data"], 0.6)
        predicted = told["predicted"]
        for name in ("total_ms", "downtime_ms"):
            ratio = moved[name] / predicted[name]
            self.assertTrue(0.05 < ratio < 20, f"{name}: predicted {predicted[name]}, it was {moved[name]}")


class RdmaDryRunTest(DryRunCase):
    transport = "rdma"
    address = os.environ.get("GODWIT_RDMA_ADDRESS")

    def setUp(self):
        self.assertIsNotNone(self.address, "GODWIT_RDMA_ADDRESS is not set: run this by ci/runner")
        super().setUp()

    def test_the_move_that_follows_bears_it_out(self):
        self.bears_out()


class DryRunTest(DryRunCase):
    def test_the_move_that_follows_bears_it_out(self):
        self.bears_out()

    def test_a_guest_too_busy_for_the_link_is_told_what_would_help(self):
        self.guest("mib=8 tick=20")
        limits = ("--max-bandwidth", "8Mbit", "--downtime-limit", "1ms")
        status, told = self.dry_run(*limits, "--timeout", "20s")
        self.assertEqual((status, told["status"]), (WOULD_NOT_CONVERGE, "would-not-converge"))
        self.assertIn("the guest dirties its memory too fast", told["reason"])
        options = [remedy["option"] for remedy in told["remedies"]]
        self.assertIn("--mode hybrid", options)
        status, told = self.dry_run(*limits, "--mode", "hybrid", "--timeout", "20s")
        self.assertEqual(status, WOULD_MOVE)
        self.assertTrue(told["predicted"]["postcopy"])

    def test_a_refusal_is_that_of_a_move_and_the_destination_waits_on(self):
        image = self.folder / "disk.img"
        image.write_bytes(bytes(1 << 20))
        self.guest(more=("--disk", image))
        image.rename(self.folder / "elsewhere.img")
        status, told = self.dry_run()
        self.assertEqual((status, told["status"]), (REFUSED, "failed"))
        self.assertIn("disk.img", told["reason"])
        self.message(self.destination, "a dry run failed: .*disk.img.*; still listening")
        (self.folder / "elsewhere.img").rename(image)
        self.assertEqual(self.dry_run()[0], WOULD_MOVE)
        self.move()

    def test_it_takes_no_lock_and_leaves_the_disk_alone(self):
        image = self.folder / "disk.img"
        image.write_bytes(bytes(1 << 20))
        self.guest(more=("--disk", image))
        before = image.stat().st_mtime_ns
        self.assertEqual(self.dry_run()[0], WOULD_MOVE)
        self.assertEqual(image.stat().st_mtime_ns, before)

    def test_a_link_that_is_cut_meanwhile_leaves_both_ends_as_they_were(self):
        self.guest()
        for step in (("source", "Begin"), ("source", "Rehearse"), ("destination", "Ready")):
            with self.subTest(step):
                proxy = Proxy(self.destination.address, *step, "drop")
                self.addCleanup(proxy.close)
                status, told = self.dry_run(to=proxy.address)
                self.assertTrue(proxy.acted.is_set())
                self.assertEqual((status, told["status"]), (REFUSED, "failed"))
        self.move()

    def test_it_can_be_cancelled(self):
        self.guest()
        proxy = Proxy(self.destination.address, "source", "Rehearse", lambda: self.source.request("DELETE", "/v1/migration"))
        self.addCleanup(proxy.close)
        self.assertEqual(self.dry_run(to=proxy.address)[0], CANCELLED)
        self.move()

    def test_people_get_a_few_lines(self):
        self.guest()
        status, out, err = self.godwit("migrate", self.source.api, "--to", self.destination.address, "--dry-run",
                                       "--downtime-limit", "400ms")
        self.assertEqual((status, err), (WOULD_MOVE, ""))
        for name in ("transport", "memory", "link", "dirties", "switch", "predicted", "dry run"):
            self.assertRegex(out, f"(?m)^  {name} +\\S")


if __name__ == "__main__":
    unittest.main(verbosity=2)
