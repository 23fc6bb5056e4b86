"""Guests' control groups, as below a unit of systemd's: in the runner, which has cgroup v2 all to itself."""

import re
import shlex
import signal
import subprocess
import unittest
from pathlib import Path

from harness import ROOT
from test_node import Node, NodeCase

UNIT = "godwit-node.service"
GROUP = Path("/sys/fs/cgroup/system.slice") / UNIT


def as_systemd(group, *words):
    """A command in a control group: there before it begins."""
    return ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "systemd", *map(str, words)]


class ServiceNode(Node):
    def words(self):
        return as_systemd(GROUP, *super().words())


class GroupsTest(NodeCase):
    node_type = ServiceNode

    def setUp(self):
        super().setUp()
        for group in (GROUP.parent.parent, GROUP.parent):
            group.mkdir(exist_ok=True)
            (group / "cgroup.subtree_control").write_text("+cpu +memory +io")
        GROUP.mkdir()

    def group_of(self, pid):
        return Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")

    def stop_post(self):
        """What the unit does after each end of the node, in the group that systemd has for such commands."""
        unit = (ROOT / "node" / UNIT).read_text()
        command = re.search("^ExecStopPost=-(.*)$", unit, re.MULTILINE)[1].replace("%n", UNIT)
        (GROUP / ".control").mkdir()
        subprocess.run(as_systemd(GROUP / ".control", *shlex.split(command)), check=True, timeout=60)
        (GROUP / ".control").rmdir()

    def test_each_guest_has_a_group_that_outlives_the_node(self):
        a, = self.cluster("a", a={"mode": "off", "interval": "1s"})
        a.boot("g1", kernel="idle.elf", append="")
        pid, own = a.guests()["g1"]["pid"], GROUP / "g1.guest"
        below = "/" + str(GROUP.relative_to("/sys/fs/cgroup"))
        self.assertEqual((self.group_of(a.process.pid), self.group_of(pid)), (f"{below}/node", f"{below}/g1.guest"))
        self.assertEqual(set((own / "cgroup.controllers").read_text().split()), {"cpu", "memory", "io"})
        self.eventually(lambda: int((own / "memory.current").read_text()) > 0, 5)
        self.assertGreater(int(re.search("usage_usec ([0-9]+)", (own / "cpu.stat").read_text())[1]), 0)
        a.process.signal(signal.SIGKILL)
        a.process.wait(5)
        again = subprocess.run(as_systemd(GROUP, "true"), capture_output=True, text=True, timeout=60)
        self.assertNotEqual(again.returncode, 0, "so nothing has to be switched off")
        self.stop_post()
        a.start([])
        self.assertEqual((a.guests()["g1"]["pid"], self.group_of(pid)), (pid, f"{below}/g1.guest"))
        self.assertIn("memory", (own / "cgroup.controllers").read_text())
        self.assertEqual(a.run("stop", "g1", "--force").returncode, 0)
        self.eventually(lambda: not own.exists(), 10, "its group is left")


if __name__ == "__main__":
    unittest.main()
