#!/usr/bin/env python3
"""A Linux guest moves by RDMA between two kernels, after a first try over a link that is cut.

usage: ci/runner --hosts 2 -- tests/integration/two_hosts.py   (on both; it sees which one it is)
"""

import json
import os
import subprocess
import sys
import unittest
from pathlib import Path

from harness import Case, Tick
from linux_guest import ask, boot, complaints

HOST = os.environ.get("GODWIT_HOST")
SHARED = Path(os.environ.get("GODWIT_SHARED", "."))
MINE, PEER = os.environ.get("GODWIT_RDMA_ADDRESS"), os.environ.get("GODWIT_PEER_ADDRESS")


def tell(name, text="done"):
    partial = SHARED / f".{name}"
    partial.write_text(text)
    partial.rename(SHARED / name)


def cut(on):
    """No packet of the other host's passes any more; or does again."""
    rules = "add table inet cut; add chain inet cut in { type filter hook input priority 0; policy drop; }; " \
            "add rule inet cut in iif lo accept" if on else "delete table inet cut"
    subprocess.run(["nft", rules], check=True)


class Shared(Case):
    def hear(self, name, seconds=120):
        self.wait_for(f"{name} of the other host", (SHARED / name).exists, seconds)
        return (SHARED / name).read_text()


@unittest.skipUnless(HOST == "a", "the other host's part")
class HostA(Shared):
    def test_a_guest_moves_from_here(self):
        guest = boot(self, "6.1", append="mib=64 rate=1024 tick=100")
        self.line(guest, "^ready", 120)
        self.assertTrue(guest.wait_ticks(5, 30))

        # The link is cut in the middle of a move: the guest goes on here.
        self.hear("first-listens")
        mover = self.start("migrate", guest.api, "--to", f"{PEER}:7001", "--transport", "rdma", "--max-bandwidth", "20Mbit")
        self.wait_for("pages on their way", lambda: self.remaining(guest), 60)
        mark = guest.out.count()
        cut(True)
        self.ended(mover, 3, 30)
        self.assertEqual(guest.state(), "running")
        self.assertTrue(guest.wait_ticks(5, 30))
        gaps = [b.at - a.at for a, b in zip(guest.ticks(mark), guest.ticks(mark)[1:])]
        print(f"cut link: {mover.err.text()}; longest gap between ticks {max(gaps):.2f} s", flush=True)
        self.hear("first-is-over")
        cut(False)

        self.hear("second-listens")
        status, out, err = self.godwit("migrate", guest.api, "--to", f"{PEER}:7002", "--transport", "rdma", "--json",
                                       seconds=120)
        self.assertEqual(status, 0, out + err)
        report = json.loads(out)
        self.assertEqual(report["transport"], "rdma")
        print(f"two hosts: total {report['total_ms']:.0f} ms, downtime {report['downtime_ms']:.0f} ms", flush=True)
        self.ended(guest, 0)
        self.no_corruption(guest)
        lines = (guest.out.text() + self.hear("console")).split("\n")
        ticks = [Tick(line, 0) for line in lines if line.startswith("tick ")]
        self.assertEqual([t.sequence for t in ticks], list(range(len(ticks))), "a console line is lost")
        for clock in ("mono", "real"):
            times = [int(t.values[clock]) for t in ticks]
            self.assertEqual(times, sorted(times), f"{clock} stepped back")

    @staticmethod
    def remaining(guest):
        active = guest.request("GET", "/v1/migration")[1]["active"]
        return active and active.get("throughput_mbps", 0) > 0


@unittest.skipUnless(HOST == "b", "the other host's part")
class HostB(Shared):
    def test_a_guest_moves_to_here(self):
        first = self.receive(listen=f"{MINE}:7001")
        tell("first-listens")
        self.ended(first, 1, 180)
        self.one_line(first.err.lines[-1])
        print(f"cut link, destination: {first.err.lines[-1]}", flush=True)
        self.assertEqual(first.ticks(), [])
        tell("first-is-over")

        guest = self.receive(listen=f"{MINE}:7002")
        tell("second-listens")
        self.line(guest, "^tick", 180)
        self.assertTrue(guest.wait_ticks(10, 30))
        self.assertEqual(ask(self, guest, "verify", r"^verified .*corrupt=(\d+)", 60)[1], "0")
        self.assertEqual(complaints(self, guest), [])
        guest.type("poweroff\n")
        self.ended(guest, 0, 30)
        self.no_corruption(guest)
        tell("console", "\n".join(self.console(guest)))


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=[sys.argv[0], {"a": "HostA", "b": "HostB"}[HOST]])
