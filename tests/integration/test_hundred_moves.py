"""A hundred moves over TCP between two nodes, of a guest that writes to its disk and its console: nothing is lost and
nothing is left behind.

Either side is a `godwit node` that lives through all of the moves, and the guest's process of the moment, which is
the offspring of all those before it: what one of them leaks, in itself or by handing it on, grows from hop to hop.
"""

import os
import re
import unittest
from pathlib import Path

from test_node import NodeCase

MOVES = 100
BLOCKS = 64
AT_WORK = 3  # descriptors or threads that a request under way may have


def open_files(pid):
    """What a process has open, by kind: a socket, an eventfd, a memfd, a file."""
    kinds = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            kinds.append(re.sub(r"\[\d+\]| \(deleted\)", "", os.readlink(entry.path)))
        except FileNotFoundError:
            pass
    return sorted(kinds)


def kib(pid, *fields):
    status = Path(f"/proc/{pid}/status").read_text()
    return sum(int(re.search(rf"^{field}:\s+(\d+)", status, re.M)[1]) for field in fields)


def own_memory(pid):
    """KiB in memory that nothing else has: neither a file nor guest RAM."""
    return kib(pid, "RssAnon")


def children(pid):
    return sum(len(path.read_text().split()) for path in Path(f"/proc/{pid}/task").glob("*/children"))


class HundredMovesTest(NodeCase):
    def wait_for_quiet(self, node, guests):
        """A request or a timer of the node may have a descriptor of its own for a moment."""
        self.eventually(lambda: set(node.guests()) == guests and children(node.process.pid) == len(guests), 10,
                        lambda: f"{node.name}: {node.guests()}, {children(node.process.pid)} children")

    def move(self, source, target):
        self.stays.append((target, self.log_size(target)))
        done = source.run("migrate", "g1", "--to", target.name, "--transport", "tcp")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.eventually(lambda: target.guests().get("g1", {}).get("state") == "running", 10)

    def look(self, here, there):
        """The state of both sides right after a move from `there` to `here`."""
        self.wait_for_quiet(here, {"g1"})
        self.wait_for_quiet(there, set())
        guest = here.guests()["g1"]["pid"]
        return {
            "guest": {"files": open_files(guest), "kib": own_memory(guest), "ram": kib(guest, "RssShmem"),
                      "threads": len(os.listdir(f"/proc/{guest}/task"))},
            "nodes": {node.name: {"files": len(open_files(node.process.pid)), "kib": own_memory(node.process.pid),
                                  "threads": len(os.listdir(f"/proc/{node.process.pid}/task"))} for node in (here, there)},
            "sockets": {node.name: sorted(p.name for p in (node.folder / "run").iterdir()) for node in (here, there)},
        }

    def log_size(self, node):
        log = node.folder / "lib/console/g1.log"
        return log.stat().st_size if log.exists() else 0

    def ticks(self):
        """What the guest printed, stay after stay: a move may come in the middle of a line."""
        logs = {node.name: (node.folder / "lib/console/g1.log").read_bytes() for node in self.nodes if self.log_size(node)}
        text = b""
        for number, (node, start) in enumerate(self.stays):
            end = next((size for later, size in self.stays[number + 1:] if later is node), None)
            text += logs.get(node.name, b"")[start:end]
        self.assertNotIn(b"CORRUPT", text)
        return [int(n) for n in re.findall(rb"^tick (\d+) t=\d+\r?\n", text, re.M)]

    def image_is_what_was_written(self, image, last):
        """After tick `last` the guest may have begun the next write, no more."""
        data = image.read_bytes()
        for block in range(BLOCKS):
            word = int.from_bytes(data[block * 4096:block * 4096 + 8], "little")
            done = (last - block) // BLOCKS + 1
            expected = {g << 40 | block << 20 | 1 for g in ({done, done + 1} if block == (last + 1) % BLOCKS else {done})}
            self.assertIn(word, expected, f"block {block} after tick {last}")

    def test_a_hundred_moves_leave_nothing_behind(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        self.stays = [(a, 0)]
        image = self.folder / "disk.img"
        image.write_bytes(bytes(BLOCKS * 4096))
        a.boot("g1", "--disk", image, kernel="disk.elf", append=f"tick=20 blocks={BLOCKS}", memory="16M")
        self.eventually(lambda: self.ticks()[-1:] > [BLOCKS], 20, "the guest does not work")
        looks = []
        for number in range(MOVES):
            source, target = (a, b) if number % 2 == 0 else (b, a)
            self.move(source, target)
            if number in (8, 9, MOVES - 2, MOVES - 1):  # of either direction, early and late
                looks.append(self.look(target, source))
        for early, late in zip(looks[:2], looks[2:]):
            self.assertLessEqual(len(late["guest"]["files"]), len(early["guest"]["files"]) + AT_WORK, late["guest"]["files"])
            self.assertLessEqual(late["guest"]["threads"], early["guest"]["threads"] + AT_WORK)
            self.assertLess(late["guest"]["kib"] - early["guest"]["kib"], 256, "KiB of the guest's process")
            self.assertLess(late["guest"]["ram"] - early["guest"]["ram"], 64, "KiB of guest RAM")
            self.assertEqual(late["sockets"], early["sockets"])
            for name, node in late["nodes"].items():
                before = early["nodes"][name]
                self.assertLessEqual(node["threads"], before["threads"] + AT_WORK, f"threads of node {name}")
                self.assertLessEqual(node["files"], before["files"] + AT_WORK, f"descriptors of node {name}")
                # Its records of 90 moves are in memory, too.
                self.assertLess(node["kib"] - before["kib"], 1024, f"KiB of node {name}")
        last = looks[-1]
        print(f"after {MOVES} moves: the guest's process has {len(last['guest']['files'])} descriptors, {last['guest']['threads']} threads, "
              f"{last['guest']['kib']} KiB (after 10: {looks[1]['guest']['kib']}); nodes: {last['nodes']} (after 10: {looks[1]['nodes']})", flush=True)
        before = self.ticks()[-1]
        self.eventually(lambda: self.ticks()[-1] > before + BLOCKS, 20, "the guest does not work any more")
        self.assertEqual(a.guest_call("g1", "PUT", "/v1/pause"), 200)
        ticks = self.ticks()
        self.assertEqual(ticks, list(range(len(ticks))), "lines of the console lost, or printed twice")
        self.image_is_what_was_written(image, ticks[-1])


if __name__ == "__main__":
    unittest.main(verbosity=2)
