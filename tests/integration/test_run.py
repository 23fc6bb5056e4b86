"""A guest on one host: boot, console, control, end."""

import os
import pty
import signal
import socket
import termios
import time
import unittest
from pathlib import Path

from harness import GODWIT, GUESTS, Case, Process


class RunTest(Case):
    def test_power_off_ends_with_status_0_and_leaves_no_socket(self):
        guest = self.run_guest("hello.elf")
        self.ended(guest, 0)
        self.assertEqual(guest.out.text(), "hello from a guest\n")
        self.assertFalse(Path(guest.api).exists())

    def test_a_triple_fault_is_one_clear_line_and_status_1(self):
        guest = self.run_guest("triple_fault.elf")
        self.ended(guest, 1)
        self.one_line(guest.err.text())
        self.assertIn("triple fault", guest.err.text())

    def test_reset_boots_again(self):
        guest = self.run_guest("pattern.elf", append="mib=2 tick=50 rate=8", cpus=2)
        self.line(guest, "ready cpus=2")
        self.assertTrue(guest.wait_ticks(2, 20))
        start = guest.out.count()
        guest.type("r")
        self.line(guest, "ready cpus=2", start=start)
        self.line(guest, "tick 1 ", start=start)
        guest.type("q")
        self.ended(guest, 0)
        self.no_corruption(guest)

    def test_two_vcpus_run_and_their_memory_is_right(self):
        guest = self.run_guest("pattern.elf", append="mib=2 cpus=2 tick=50", cpus=2)
        self.line(guest, r"pages=[1-9]\d*,[1-9]", 30)
        guest.type("v")
        self.line(guest, "verified", 30)
        guest.type("q")
        self.ended(guest, 0)
        self.no_corruption(guest)
        self.no_lost_tick(guest)

    def test_the_pattern_guest_notices_a_changed_word(self):
        guest = self.run_guest("pattern.elf", append="mib=2 tick=50 rate=8")
        self.line(guest, r"pages=[1-9]\d*")
        self.poke(guest, 5 << 20, b"\xee" * 4096)
        self.line(guest, r"^CORRUPT page 1280 word \d+ is eeeeeeeeeeeeeeee not")

    @staticmethod
    def poke(guest, address, data):
        """Writes into guest RAM behind everyone's back, through the memfd."""
        for fd in Path(f"/proc/{guest.pid}/fd").iterdir():
            if "memfd:" in os.readlink(fd) and fd.stat().st_size >= address + len(data):
                file = os.open(fd, os.O_RDWR)
                os.pwrite(file, data, address)
                os.close(file)
                return
        raise AssertionError("guest RAM is no memfd")

    def test_memory_that_the_guest_does_not_touch_costs_nothing(self):
        guest = self.run_guest("idle.elf", memory="2G")
        self.line(guest, "tick 2 ")
        pages = int(Path(f"/proc/{guest.pid}/statm").read_text().split()[1])
        self.assertLess(pages * 4096, 64 << 20)

    def test_high_memory_works(self):
        guest = self.run_guest("pattern.elf", append="base=4096 mib=2 tick=50 rate=8", memory="5G")
        self.line(guest, r"tick \d+ .*pages=[1-9]\d\d\d", 30)
        guest.type("q")
        self.ended(guest, 0)
        self.no_corruption(guest)

    def test_an_idle_guest_costs_no_cpu_time(self):
        guest = self.run_guest("idle.elf", append="tick=200")
        self.line(guest, "tick 1 ")
        before, since = guest.cpu_seconds(), time.monotonic()
        self.assertTrue(guest.wait_ticks(5, 20))
        self.assertLess((guest.cpu_seconds() - before) / (time.monotonic() - since), 0.1)


class ControlTest(Case):
    def test_pause_stops_the_guest_and_resume_lets_it_go_on(self):
        guest = self.run_guest("idle.elf", append="tick=50")
        self.line(guest, "tick 1 ")
        self.assertEqual(self.godwit("pause", guest.api), (0, "", ""))
        self.assertEqual(guest.state(), "paused")
        count = guest.out.count()
        time.sleep(0.5)
        self.assertEqual(guest.out.count(), count)
        self.assertEqual(self.godwit("resume", guest.api), (0, "", ""))
        self.assertTrue(guest.wait_ticks(3, 10))
        self.no_lost_tick(guest)

    def test_what_is_typed_while_paused_arrives_later(self):
        guest = self.run_guest("idle.elf", append="tick=50")
        self.line(guest, "tick 1 ")
        self.godwit("pause", guest.api)
        guest.type("abc")
        time.sleep(0.3)
        self.godwit("resume", guest.api)
        self.line(guest, "typed c")
        self.assertEqual([m[1] for m in guest.out.find("typed (.)")], ["a", "b", "c"])

    def test_list_and_status_show_it(self):
        # Under a short name, in the default place: a user who is not root has it below XDG_RUNTIME_DIR.
        name = f"test-{os.getpid()}"
        runtime = Path("/run/godwit") if os.geteuid() == 0 else self.folder / "godwit"
        guest = self.run_guest("idle.elf", name=name, api=runtime / f"{name}.sock", cpus=2)
        self.line(guest, "tick 1 ")
        status, out, _ = self.godwit("list")
        self.assertEqual(status, 0)
        self.assertRegex(out, rf"(?m)^{name}\s.*running")
        status, out, _ = self.godwit("status", name)
        self.assertEqual(status, 0)
        self.assertIn("running", out)
        answer = guest.request("GET", "/v1/status")[1]
        self.assertEqual((answer["name"], answer["cpus"], answer["memory_bytes"], answer["pid"]),
                         (name, 2, 64 << 20, guest.pid))
        self.assertEqual(self.godwit("stop", name, "--force")[0], 0)
        self.ended(guest, 0)
        self.assertNotIn(name, self.godwit("list")[1])

    def test_a_second_guest_of_that_name_is_refused_and_a_stale_socket_replaced(self):
        guest = self.run_guest("idle.elf")
        self.line(guest, "tick 1 ")
        second = self.run_guest("idle.elf", api=guest.api)
        self.ended(second, 1)
        self.one_line(second.err.text())
        guest.signal(signal.SIGKILL)
        self.ended(guest, -signal.SIGKILL)
        self.assertTrue(Path(guest.api).exists())
        third = self.run_guest("idle.elf", api=guest.api)
        self.line(third, "tick 1 ")
        self.assertEqual(third.state(), "running")

    def test_a_signal_ends_the_guest(self):
        guest = self.run_guest("idle.elf")
        self.line(guest, "tick 1 ")
        guest.signal(signal.SIGTERM)
        self.ended(guest, 128 + signal.SIGTERM)
        self.assertFalse(Path(guest.api).exists())

    def test_a_guest_without_input_goes_on(self):
        guest = self.run_guest("idle.elf", append="tick=50")
        guest.process.stdin.close()
        guest.process.stdin = None
        self.assertTrue(guest.wait_ticks(5, 20))
        self.godwit("stop", guest.api, "--force")
        self.ended(guest, 0)

    def test_the_console_goes_to_a_file(self):
        path = self.folder / "console"
        guest = self.run_guest("hello.elf", more=("--console", f"file:{path}"))
        self.ended(guest, 0)
        self.assertEqual(path.read_text(), "hello from a guest\n")
        self.assertEqual(guest.out.text(), "")

    def test_requests_that_make_no_sense_are_answered_and_do_no_harm(self):
        guest = self.run_guest("idle.elf", append="tick=50")
        self.line(guest, "tick 1 ")
        for method, path, body, expected in (("GET", "/nowhere", None, 404), ("POST", "/v1/status", None, 405),
                                             ("PUT", "/v1/pause", {"x": 1}, 400), ("PUT", "/v1/stop", [], 400),
                                             ("POST", "/v1/migrate", {}, 400), ("DELETE", "/v1/migration", None, 409)):
            status, answer = guest.request(method, path, body)
            self.assertEqual((status, list(answer)), (expected, ["error"]), (method, path, answer))
        for junk in (b"\0" * 5000, b"GET / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"x" * 100_000):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(guest.api)
                try:
                    s.sendall(junk)
                except OSError:
                    pass
        self.assertEqual(guest.state(), "running")
        self.assertTrue(guest.wait_ticks(2, 10))


class TerminalTest(Case):
    """The console on a terminal: raw, with an escape, put back at the end."""

    def setUp(self):
        super().setUp()
        self.master, self.slave = pty.openpty()
        self.addCleanup(os.close, self.slave)
        self.before = termios.tcgetattr(self.slave)
        words = [GODWIT, "run", "--name", "web1", "--kernel", GUESTS / "idle.elf", "--append", "tick=50",
                 "--api", self.folder / "tty.sock"]
        self.guest = self.keep(Process(words, self.env, terminal=(self.master, self.slave)))
        self.line(self.guest, "tick 1 ")

    def type(self, data):
        os.write(self.master, data)

    def ended_by(self, status):
        self.wait_for("the end of godwit run", lambda: not self.guest.alive(), 20)
        self.assertEqual(self.guest.process.returncode, status)
        self.assertEqual(termios.tcgetattr(self.slave), self.before, "the terminal is not put back")

    def test_keys_reach_the_guest_raw_and_the_escape_quits(self):
        self.assertEqual(termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG), 0)
        self.type(b"a")
        self.line(self.guest, "typed a")
        self.type(b"\x03")  # Ctrl-C is the guest's
        self.line(self.guest, "typed \x03")
        self.type(b"\x01\x01")
        self.line(self.guest, "typed \x01")
        self.type(b"\x01x")
        self.ended_by(0)

    def test_the_terminal_is_put_back_when_the_guest_powers_off(self):
        self.type(b"q")
        self.ended_by(0)

    def test_the_terminal_is_put_back_on_a_signal(self):
        self.guest.signal(signal.SIGTERM)
        self.ended_by(128 + signal.SIGTERM)


if __name__ == "__main__":
    unittest.main(verbosity=2)
