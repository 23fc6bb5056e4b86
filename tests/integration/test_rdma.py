"""What a move by RDMA can be asked for: pinned memory, several queue pairs, several ports. In the runner."""

import json
import os
import subprocess
import unittest
from pathlib import Path

from harness import Case

SECOND = "10.78.0.1"  # of the second port, which the test makes


def sh(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def pinned_mib(guest):
    """Of the guest's process, by its memory regions."""
    status = Path(f"/proc/{guest.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmPin:"))) // 1024


class RdmaTest(Case):
    ADDRESS = os.environ.get("GODWIT_RDMA_ADDRESS")

    def move(self, source, *words, receive=()):
        destination = self.receive(listen=f"{self.ADDRESS}:0", more=receive)
        status, out, err = self.godwit("migrate", source.api, "--to", destination.address, "--transport", "rdma", "--verify", "--json",
                                       *words, seconds=60)
        self.assertEqual(status, 0, err)
        self.ended(source, 0)
        self.assertTrue(destination.wait_ticks(3, 20))
        self.no_lost_tick(source, destination)
        self.no_corruption(source, destination)
        return destination, json.loads(out)

    def verified(self, guest):
        guest.type("v")
        self.line(guest, "verified pages", 60)
        self.no_corruption(guest)

    def test_a_pinned_guest_moves_and_is_pinned_there(self):
        source = self.run_guest("pattern.elf", append="mib=16 tick=50", more=("--rdma-pin",))
        self.line(source, "^tick 1 ")
        self.assertEqual(pinned_mib(source), 64)
        source, report = self.move(source, receive=("--rdma-pin",))
        self.assertGreater(report["pages"]["zero"], 8000, "pinned pages that hold nothing were sent")
        self.wait_for("memory is pinned there", lambda: pinned_mib(source) == 64, 20)
        source, _ = self.move(source)
        self.wait_for("memory is not pinned there", lambda: pinned_mib(source) == 0, 20)
        self.verified(source)

    def test_pinned_memory_and_a_balloon_exclude_each_other(self):
        guest = self.run_guest(more=("--rdma-pin", "--balloon"))
        self.ended(guest, 2)
        self.one_line(guest.err.text())
        self.assertIn("--rdma-pin", guest.err.text())

    def test_queue_pairs_and_ports_share_the_work(self):
        sh("ip", "link", "add", "gw-second", "type", "veth", "peer", "name", "gw-third")
        self.addCleanup(sh, "ip", "link", "del", "gw-second")
        for name in ("gw-second", "gw-third"):
            sh("ip", "link", "set", name, "mtu", "9000", "up")
        sh("ip", "addr", "add", f"{SECOND}/24", "dev", "gw-second")
        sh("rdma", "link", "add", "gwrxe1", "type", "rxe", "netdev", "gw-second")
        self.addCleanup(sh, "rdma", "link", "del", "gwrxe1")
        source = self.run_guest("pattern.elf", append="mib=16 tick=50")
        self.line(source, "^tick 1 ")
        counted = Path("/sys/class/infiniband/gwrxe1/ports/1/hw_counters/sent_pkts")
        for pinned in ((), ("--rdma-pin",)):
            before = int(counted.read_text())
            source, report = self.move(source, "--streams", "3", "--rdma-ports", "2", receive=pinned)
            self.assertEqual((report["streams"], report["rdma_ports"]), (6, 2))
            self.assertGreater(int(counted.read_text()) - before, 500, "the second port carried nothing")
        # Asked for more than there are: by those there are.
        source, report = self.move(source, "--rdma-ports", "4")
        self.assertEqual(report["rdma_ports"], 2)
        self.verified(source)


if __name__ == "__main__":
    unittest.main(verbosity=2)
