"""The tour of README.md: its very commands, and what it says that they print, but for figures, names of guests and hosts."""

import os
import re
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from harness import BUILD, PATIENCE, ROOT

SECTION = "## Three nodes on one machine"
DONE = "---done---"


def shape(line):
    """What a line of output is, whatever was measured."""
    line = re.sub(r"\[[#|> ]+\]", "[]", line)
    line = re.sub(r"; the load here went .*", "", line)  # half a minute later
    line = re.sub(r"\b(web|batch)\b", "GUEST", line)
    line = re.sub(r"\((overload|imbalance)\)", "(CAUSE)", line)
    line = re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "0", line)
    line = re.sub(r"0[BKMGT]\b|0 (us|ms|s|min)\b", "0", line)
    return " ".join(line.split())


class Shell:
    """One bash, as a reader of the tour has it."""

    def __init__(self, change):
        self.change = change
        self.process = subprocess.Popen(["bash"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        start_new_session=True)

    def run(self, command):
        self.process.stdin.write(f"{self.change(command)}\necho {DONE}\n")
        self.process.stdin.flush()
        lines = []
        while (line := self.process.stdout.readline()) and line.strip() != DONE:
            lines.append(line.rstrip("\n"))
        return lines

    def end(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(20)


@unittest.skipUnless(os.access("/dev/kvm", os.R_OK | os.W_OK), "no /dev/kvm here")
class TourTest(unittest.TestCase):
    def setUp(self):
        text = (ROOT / "README.md").read_text()
        section = text[text.index(SECTION):]
        self.section = section[:section.index("\n## ", 3)]
        self.folder = tempfile.TemporaryDirectory(prefix="godwit-tour-")
        self.addCleanup(self.folder.cleanup)
        port = 20000 + os.getpid() % 10000  # none that outgoing connections get
        self.shell = Shell(lambda command: command.replace("/tmp/tour", self.folder.name).replace(":7400", f":{port}").replace("build/release", str(BUILD)))
        self.addCleanup(self.shell.end)
        self.addCleanup(self.shell.run, re.search(r"To end it:\s*`(.*?)`", self.section, re.DOTALL)[1].replace("\n", " "))

    def expect(self, said, printed):
        printed = [shape(line) for line in printed]
        for line in said:
            if line != "...":
                self.assertIn(shape(line), printed)

    def test_it_goes_as_it_says(self):
        for kind, block in re.findall(r"```(bash|console)\n(.*?)```", self.section, re.DOTALL):
            if kind == "bash":
                self.shell.run(block)
                continue
            for step in block.removeprefix("$ ").split("\n$ "):
                command, *said = step.strip().splitlines()
                deadline = time.monotonic() + 60 * PATIENCE
                while True:
                    printed = self.shell.run(command)
                    try:
                        self.expect(said, printed)
                        break
                    except AssertionError:  # nodes take a moment to begin, and nothing moves for a spike
                        if time.monotonic() > deadline:
                            print("\n".join(printed), (Path(self.folder.name) / "n1.log").read_text())
                            raise
                    time.sleep(1)


if __name__ == "__main__":
    unittest.main()
