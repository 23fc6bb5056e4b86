"""A guest goes on in another process of its host."""

import json
import os
import pty
import signal
import subprocess
import termios
import unittest

from harness import GODWIT, GUESTS, Case, Process


class UpgradeTest(Case):
    def upgrade(self, guest, *words):
        status, out, err = self.godwit("upgrade", guest.api, "--json", *words)
        self.assertEqual(status, 0, err)
        report = json.loads(out)
        self.assertEqual((report["status"], report["transport"], report["bytes"]["ram"]), ("completed", "shared", 0))
        return report

    def pid(self, guest):
        return guest.request("GET", "/v1/status")[1]["pid"]

    def children(self, guest):
        return subprocess.run(["ps", "--ppid", str(guest.pid), "-o", "pid="], capture_output=True, text=True).stdout.split()

    def test_a_guest_goes_on_with_its_memory_three_times(self):
        guest = self.run_guest("pattern.elf", append="cpus=2 mib=8 rate=20 tick=50", cpus=2)
        self.assertTrue(guest.wait_ticks(3, 20))
        pids = {self.pid(guest)}
        for _ in range(3):
            self.upgrade(guest)
            pids.add(self.pid(guest))
            self.assertTrue(guest.wait_ticks(5, 20))
        self.assertEqual(len(pids), 4, pids)
        self.assertEqual(len(self.children(guest)), 1, "a process between the first and the last is left")
        guest.type("v")
        for _ in range(2):
            self.line(guest, "verified pages", 60)
        self.no_corruption(guest)
        self.no_lost_tick(guest)
        guest.type("q")
        self.ended(guest, 0)
        self.assertFalse(os.path.exists(guest.api))

    def test_an_upgraded_guest_moves_away(self):
        guest = self.run_guest("pattern.elf", append="mib=8 rate=20 tick=50")
        self.assertTrue(guest.wait_ticks(3, 20))
        self.upgrade(guest)
        destination = self.receive()
        self.assertEqual(self.godwit("migrate", guest.api, "--to", destination.address)[0], 0)
        self.ended(guest, 0)
        self.upgrade(destination)
        destination.type("v")
        self.line(destination, "verified pages", 60)
        self.no_corruption(guest, destination)
        self.no_lost_tick(guest, destination)

    def test_its_disk_stays_locked(self):
        image = self.folder / "disk.img"
        image.write_bytes(bytes(1 << 20))
        guest = self.run_guest("idle.elf", append="tick=50", more=("--disk", image))
        self.line(guest, "tick 1 ")
        self.upgrade(guest)
        intruder = self.run_guest("idle.elf", more=("--disk", image))
        self.ended(intruder, 1)

    def test_a_program_that_is_no_godwit_changes_nothing(self):
        guest = self.run_guest("idle.elf", append="tick=50")
        self.line(guest, "tick 1 ")
        before = self.pid(guest)
        for program, why in (("/bin/true", "closed the connection"), ("/nonexistent", "No such file")):
            status, _, err = self.godwit("upgrade", guest.api, "--program", program)
            self.assertIn(status, (1, 3))
            self.one_line(err)
            self.assertIn(why, err)
        self.assertEqual(self.pid(guest), before)
        self.assertEqual(self.children(guest), [])
        self.assertTrue(guest.wait_ticks(3, 20))
        self.no_lost_tick(guest)

    def test_a_signal_to_the_first_process_ends_the_guest(self):
        guest = self.run_guest("idle.elf", append="tick=50")
        self.line(guest, "tick 1 ")
        self.upgrade(guest)
        pid = self.pid(guest)
        guest.signal(signal.SIGTERM)
        self.ended(guest, 128 + signal.SIGTERM)
        self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    def test_the_terminal_follows_the_guest(self):
        master, slave = pty.openpty()
        self.addCleanup(os.close, slave)
        before = termios.tcgetattr(slave)
        api = self.folder / "tty.sock"
        guest = self.keep(Process([GODWIT, "run", "--name", "web1", "--kernel", GUESTS / "idle.elf", "--append", "tick=50",
                                   "--api", api], self.env, terminal=(master, slave)))
        self.line(guest, "tick 1 ")
        self.assertEqual(self.godwit("upgrade", api)[0], 0)
        self.wait_for("raw mode", lambda: termios.tcgetattr(slave)[3] & termios.ICANON == 0, 10)
        os.write(master, b"a")
        self.line(guest, "typed a")
        os.write(master, b"\x01x")
        self.wait_for("the end of godwit run", lambda: not guest.alive(), 20)
        self.assertEqual(guest.process.returncode, 0)
        self.assertEqual(termios.tcgetattr(slave), before, "the terminal is not put back")


if __name__ == "__main__":
    unittest.main(verbosity=2)
