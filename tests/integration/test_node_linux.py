"""The balancer itself decides to move a Linux guest, over RDMA, because of a real CPU hog inside it."""

import os
import time
import unittest

from harness import PATIENCE
from linux_guest import COMMAND_LINE, kernel
from test_node import NodeCase

POLICY = {"hot_n": 10, "hot_k": 6, "slow_samples": 20, "cooldown_seconds": 600, "settle_seconds": 1, "horizon_seconds": 600}


class LinuxNodeTest(NodeCase):
    def test_a_hog_inside_a_guest_makes_it_move_by_rdma(self):
        address = os.environ["GODWIT_RDMA_ADDRESS"]
        settings = {"receive_host": address, "cpus": 1.4, "policy": POLICY, "interval": "1s", "reservation": "30s"}
        a, b = self.cluster("ab", a=settings, b=settings)
        image, initrd = kernel("6.1")
        for name in ("g1", "g2"):
            a.boot(name, "--initrd", initrd, kernel=image, memory="192M", append=f"{COMMAND_LINE} mib=16 rate=4000000 tick=500")
        self.eventually(lambda: len(b.guests()) == 1 and len(a.guests()) == 1, 150, lambda: a.run("explain").stdout)
        self.eventually(lambda: next(iter(b.guests().values()))["state"] == "running", 20)
        self.eventually(lambda: a.moves()[0].get("outcome", {}).get("status") == "completed", 20, lambda: a.run("explain").stdout)
        outcome = a.moves()[0]["outcome"]
        self.assertEqual(outcome["transport"], "rdma")
        guest = next(iter(b.guests()))
        console = b.folder / f"lib/console/{guest}.log"
        size = console.stat().st_size
        self.eventually(lambda: console.stat().st_size > size, 20, "the guest says nothing at its new host")
        self.assertNotIn("CORRUPT", console.read_text(errors="replace"))
        time.sleep(5 * PATIENCE)
        self.assertEqual(b.moves(), [], "it was moved back")


if __name__ == "__main__":
    unittest.main()
