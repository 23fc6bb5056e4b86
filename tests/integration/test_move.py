"""Moves by TCP between processes of one host, with guests of our own."""

import json
import os
import subprocess
import threading
import time
import unittest
from pathlib import Path

from harness import PATIENCE, Case


class MoveTest(Case):
    def move(self, source, destination, *words, seconds=60):
        """Moves the guest, as the user would; checks the report and that the source has ended."""
        status, out, err = self.godwit("migrate", source.api, "--to", destination.address, "--transport", "tcp",
                                       "--json", *words, seconds=seconds)
        self.assertEqual(status, 0, err)
        report = json.loads(out)
        self.assertEqual((report["status"], report["transport"]), ("completed", "tcp"))
        self.ended(source, 0)
        self.assertFalse(Path(source.api).exists())
        return report

    def visited(self, guest, pages):
        """Waits until the pattern guest has visited that many pages."""
        def done():
            ticks = guest.ticks()
            return ticks and sum(int(n) for n in ticks[-1].values["pages"].split(",")) >= pages

        self.wait_for(f"{pages} pages", done, 40)

    def there_and_back(self, cpus, mib, append, moves, memory="64M"):
        hosts = [self.run_guest("pattern.elf", append=f"cpus={cpus} mib={mib} tick=50 {append}", cpus=cpus, memory=memory)]
        self.visited(hosts[0], mib * 256)
        reports = []
        for _ in range(moves):
            self.assertTrue(hosts[-1].wait_ticks(2, 20))
            hosts.append(self.receive())
            reports.append(self.move(hosts[-2], hosts[-1]))
        self.assertTrue(hosts[-1].wait_ticks(3, 20))
        hosts[-1].type("v")
        for _ in range(cpus):
            self.line(hosts[-1], "verified pages", 60)
        hosts[-1].type("q")
        self.ended(hosts[-1], 0)
        self.no_corruption(*hosts)
        self.no_lost_tick(*hosts)
        for cpu in range(cpus):  # every vCPU went on everywhere
            for host in hosts[1:]:
                done = [int(t.values["pages"].split(",")[cpu]) for t in host.ticks()]
                self.assertGreater(done[-1], done[0], f"vCPU {cpu} stood still")
        times = [int(t.values["t"]) for t in self.all_ticks(*hosts)]
        self.assertEqual(times, sorted(times))
        return hosts, reports

    def test_time_and_again_back_and_forth_with_one_vcpu(self):
        self.there_and_back(1, 2, "", 10)

    def test_time_and_again_back_and_forth_with_two_vcpus(self):
        # Two that never rest leave the emulated machine no CPU for the link: that move rightly fails.
        self.there_and_back(2, 2, "rate=8" if os.environ.get("GODWIT_RUNNER") else "", 10)

    def test_memory_above_4_gib_moves(self):
        _, reports = self.there_and_back(1, 4, "base=4096 rate=8", 2, memory="5G")
        self.assertLess(reports[0]["bytes"]["ram"], 64 << 20, "holes were sent")
        self.assertGreater(reports[0]["pages"]["hole"], 1_000_000)

    def test_the_report_adds_up(self):
        _, reports = self.there_and_back(1, 8, "rate=8", 1)
        report = reports[0]
        parts = report["downtime"]
        self.assertGreater(parts["verify_ms"], 0, "moves of tests compare all memory")
        self.assertAlmostEqual(sum(parts.values()), report["downtime_ms"], delta=2 + report["downtime_ms"] * 0.2)
        self.assertEqual(sum(r["pages"] for r in report["rounds"]), report["pages"]["sent"])
        self.assertGreaterEqual(report["pages"]["sent"], 2048)
        self.assertLess(report["downtime_ms"], report["total_ms"])
        self.assertGreater(report["bytes"]["state"], 1000)
        self.assertGreater(report["throughput_mbps"], 0)

    def test_compressed_pages_are_sooner_there_over_a_slow_link(self):
        rate, sent = {}, {}
        for words in ((), ("--compress",)):
            source = self.run_guest("pattern.elf", append="mib=12 rate=4 verify=0 tick=50")
            self.visited(source, 12 * 256)
            destination = self.receive()
            report = self.move(source, destination, "--max-bandwidth", "50Mbit", *words)
            rate[words] = report["throughput_mbps"]
            sent[words] = report["bytes"]["wire"] / report["bytes"]["ram"]
            self.assertTrue(destination.wait_ticks(3, 20))
            self.no_corruption(source, destination)
            destination.type("q")
            self.ended(destination, 0)
        self.assertGreater(sent[()], 0.99)
        self.assertLess(sent["--compress",], 0.6)
        self.assertGreater(rate["--compress",], rate[()] * 1.3)

    def test_a_guest_that_writes_faster_than_the_limit_lets_it_send_moves_or_goes_on(self):
        """Never neither: the move may fail by its time-out, then the guest goes on at the source."""
        source = self.run_guest("pattern.elf", append="mib=32 verify=0 tick=50")
        self.visited(source, 8192)
        destination = self.receive()
        status, out, err = self.godwit("migrate", source.api, "--to", destination.address, "--transport", "tcp",
                                       "--max-bandwidth", "8Mbit", "--timeout", "3s", "--downtime-limit", "1ms",
                                       seconds=60)
        self.assertIn(status, (0, 3), err)
        if status == 3:  # in the middle of a round, as a rule
            self.assertRegex(err, r"raise --(downtime-limit, --)?timeout")
        left = destination if status == 0 else source
        self.assertTrue(left.wait_ticks(5, 20))
        self.ended(source if status == 0 else destination, 0 if status == 0 else 1)

    def test_a_paused_guest_is_refused_or_moves_paused(self):
        source = self.run_guest("idle.elf", append="tick=50")
        self.line(source, "tick 1 ")
        self.godwit("pause", source.api)
        destination = self.receive()
        status, _, err = self.godwit("migrate", source.api, "--to", destination.address)
        self.assertNotEqual(status, 0)
        self.one_line(err)
        self.assertEqual(source.state(), "paused")
        self.godwit("resume", source.api)
        self.assertTrue(source.wait_ticks(2, 10))

    def test_input_and_control_follow_the_guest(self):
        source = self.run_guest("idle.elf", append="tick=50", name="web7")
        self.line(source, "tick 1 ")
        destination = self.receive()
        self.move(source, destination)
        answer = destination.request("GET", "/v1/status")[1]
        self.assertEqual((answer["name"], answer["state"]), ("web7", "running"))
        destination.type("x")
        self.line(destination, "typed x")
        self.godwit("pause", destination.api)
        self.assertEqual(destination.state(), "paused")
        self.godwit("resume", destination.api)
        # It boots again where it is.
        start = destination.out.count()
        destination.type("r")
        self.line(destination, "ready", start=start)
        self.line(destination, "tick 1 ", start=start)
        self.assertEqual(self.godwit("stop", destination.api, "--force")[0], 0)
        self.ended(destination, 0)

    def test_a_guest_whose_own_end_overtakes_its_move_is_said_to_have_ended_so(self):
        for typed, why, code in (("q", "has powered itself off; .* is over", 0), ("t", "crashed: .*; .* is over", 1), ("r", "reboots; .* goes on here", None)):
            with self.subTest(typed=typed):
                source = self.run_guest("pattern.elf", append="mib=32 rate=100 tick=50")
                self.visited(source, 8192)
                destination = self.receive()
                move = self.start("migrate", source.api, "--to", destination.address, "--max-bandwidth", "20Mbit", "--timeout", "30s")
                self.wait_for("the move", lambda: source.state() == "migrating", 10)
                start = source.out.count()
                source.type(typed)
                self.assertEqual(move.wait(10), 3)
                self.one_line(move.err.text())
                self.assertRegex(move.err.text(), why)
                self.ended(destination, 1)
                if code is None:
                    # And it is a guest like any other: nothing of the move is left.
                    self.line(source, "ready", start=start)
                    for command in (("pause", source.api), ("snapshot", source.api, self.folder / "rebooted"), ("resume", source.api)):
                        self.assertEqual(self.godwit(*command)[0], 0, command)
                    self.assertTrue(source.wait_ticks(2, 10))
                else:
                    self.ended(source, code)

    @unittest.skipIf(os.geteuid() != 0, "not root: a process may not raise its own priority")
    def test_while_it_moves_and_just_after_a_guest_goes_before_others(self):
        def of_vcpu(process, ask):
            """What `ask` says of its first vCPU's thread; None where there is none."""
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                try:
                    if (task / "comm").read_text() == "vcpu0\n":
                        return ask(int(task.name))
                except OSError:
                    pass  # it ended just now
            return None

        def nice(process):
            return of_vcpu(process, lambda thread: os.getpriority(os.PRIO_PROCESS, thread))

        source = self.run_guest("pattern.elf", append="mib=32 rate=100 tick=50")
        self.visited(source, 8192)
        usual = nice(source)
        first = self.receive()
        move = self.start("migrate", source.api, "--to", first.address, "--max-bandwidth", "20Mbit", "--timeout", "30s")
        self.wait_for("its vCPU to be preferred", lambda: nice(source) == usual - 10, 10)
        self.assertEqual(self.godwit("cancel", source.api)[0], 0)
        self.ended(move, 4)
        self.assertEqual(nice(source), usual)
        self.ended(first, 1)
        second = self.receive()
        move = self.start("migrate", source.api, "--to", second.address)
        self.seen_in_turn([os.SCHED_RR, os.SCHED_OTHER], lambda: of_vcpu(second, os.sched_getscheduler))
        self.assertEqual(nice(second), usual - 10)
        self.ended(move, 0)
        self.wait_for("it to settle in", lambda: nice(second) == usual, 10)
        self.assertEqual(of_vcpu(second, os.sched_getscheduler), os.SCHED_OTHER)

    def seen_in_turn(self, wanted, look):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(10))  # what lasts 50 ms is to be seen
        try:
            deadline = time.monotonic() + 20
            for one in wanted:
                while look() != one:
                    self.assertLess(time.monotonic(), deadline, f"{one} is not seen")
                    time.sleep(0.001)
        finally:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

    def test_two_moves_at_once_are_refused(self):
        source = self.run_guest("pattern.elf", append="mib=32 rate=100 tick=50")
        self.visited(source, 8192)
        first, second = self.receive(), self.receive()
        move = self.start("migrate", source.api, "--to", first.address, "--max-bandwidth", "20Mbit", "--timeout", "30s")
        self.wait_for("the move", lambda: source.state() == "migrating", 10)
        status, _, err = self.godwit("migrate", source.api, "--to", second.address)
        self.assertEqual(status, 1)
        self.one_line(err)
        self.assertEqual(self.godwit("cancel", source.api)[0], 0)
        self.ended(move, 4)
        self.assertEqual(source.state(), "running")
        self.ended(first, 1)


class HugePagesTest(Case):
    SYSCTL = Path("/proc/sys/vm/nr_hugepages")

    def setUp(self):
        super().setUp()
        before = self.SYSCTL.read_text()
        self.addCleanup(self.SYSCTL.write_text, before)
        self.before = int(before)

    def test_a_guest_in_huge_pages_moves_by_every_transport(self):
        self.SYSCTL.write_text(str(self.before + 64))
        words = ("--hugepages",)
        source = self.run_guest("pattern.elf", append="mib=12 rate=8 tick=50", more=words)
        self.assertTrue(source.wait_ticks(3, 20))
        for transport in ("tcp", "rdma") if "GODWIT_RDMA_ADDRESS" in os.environ else ("tcp",):
            destination = self.receive(listen=f"{os.environ.get('GODWIT_RDMA_ADDRESS', '127.0.0.1')}:0")
            status, out, err = self.godwit("migrate", source.api, "--to", destination.address, "--transport", transport, "--json")
            self.assertEqual(status, 0, err)
            self.ended(source, 0)
            report = json.loads(out)
            self.assertEqual(report["transport"], transport)
            self.assertGreater(report["pages"]["hole"], 8000, "huge pages that hold nothing were read")
            self.assertTrue(destination.wait_ticks(3, 20))
            self.no_corruption(source, destination)
            source = destination
        source.type("v")
        self.line(source, "verified pages", 60)

    def test_too_few_huge_pages_is_one_clear_line(self):
        self.SYSCTL.write_text("0")
        guest = self.run_guest(more=("--hugepages",))
        self.ended(guest, 1)
        self.one_line(guest.err.text())
        self.assertIn("vm.nr_hugepages", guest.err.text())


class RdmaRegionsTest(Case):
    """By the kernel's own list of memory regions, and who has them."""

    def setUp(self):
        self.host = os.environ.get("GODWIT_RDMA_ADDRESS")
        self.assertIsNotNone(self.host, "GODWIT_RDMA_ADDRESS is not set: run this by ci/runner")
        super().setUp()

    def all_regions(self):
        """Of all processes, also of threads that have ended, which it cannot name any more; not the kernel's own."""
        done = subprocess.run(["rdma", "-j", "resource", "show", "mr"], capture_output=True, text=True, check=True)
        return [region for region in json.loads(done.stdout or "[]") if not region.get("comm", "").startswith("[")]

    def regions(self, process):
        threads = os.listdir(f"/proc/{process.pid}/task")  # it names the one that made it
        return [region for region in self.all_regions() if str(region.get("pid")) in threads]

    def move(self, *words):
        # In two pieces of 16 MiB, so that the second waits for the limit while the first is registered.
        source = self.run_guest("pattern.elf", append="mib=8 base=12 rate=4 tick=50", memory="64M")
        self.line(source, r"^tick .* pages=([2-9]\d{3}|\d{5})", 60)
        destination = self.receive(listen=f"{self.host}:0")
        mover = self.start("migrate", source.api, "--to", destination.address, "--transport", "rdma", "--timeout", "0", "--downtime-limit", "1s",
                           *words)
        return source, destination, mover

    def arrived(self, source, destination, mover):
        self.ended(mover, 0, seconds=60)
        self.ended(source, 0)
        self.wait_for("its memory", lambda: destination.state() == "running", 30)
        self.assertTrue(destination.wait_ticks(3, 20))
        self.wait_for("the regions to go", lambda: self.all_regions() == [], 5)
        self.no_corruption(destination)

    def test_a_guest_that_runs_has_none_open(self):
        source, destination, mover = self.move("--max-bandwidth", "20Mbit")
        self.wait_for("its regions", lambda: self.regions(destination) and self.regions(source), 30)
        self.arrived(source, destination, mover)

    def test_nor_has_one_whose_memory_has_followed_it(self):
        source, destination, mover = self.move("--mode", "postcopy", "--max-bandwidth", "20Mbit")
        self.wait_for("its regions", lambda: self.regions(destination) and self.regions(source), 30)
        self.arrived(source, destination, mover)

    def test_nor_has_either_end_of_a_move_that_was_cancelled(self):
        source, destination, mover = self.move("--max-bandwidth", "20Mbit")
        self.wait_for("its regions", lambda: self.regions(destination) and self.regions(source), 30)
        self.assertEqual(self.godwit("cancel", source.api)[0], 0)
        self.ended(mover, 4)
        self.ended(destination, 1)
        self.wait_for("the regions to go", lambda: self.all_regions() == [], 5)
        self.assertTrue(source.wait_ticks(3, 20))


class DiskTest(Case):
    def test_the_lock_of_a_disk_follows_the_guest(self):
        image = self.folder / "disk.img"
        image.write_bytes(bytes(1 << 20))
        source = self.run_guest("idle.elf", append="tick=50", more=("--disk", image))
        self.line(source, "tick 1 ")
        destination = self.receive()
        self.assertEqual(self.godwit("migrate", source.api, "--to", destination.address)[0], 0)
        self.ended(source, 0)
        self.assertTrue(destination.wait_ticks(2, 10))
        intruder = self.run_guest("idle.elf", more=("--disk", image))
        self.ended(intruder, 1)
        self.one_line(intruder.err.text())

    def test_a_destination_without_the_disk_refuses(self):
        image = self.folder / "disk.img"
        image.write_bytes(bytes(1 << 20))
        source = self.run_guest("idle.elf", append="tick=50", more=("--disk", image))
        self.line(source, "tick 1 ")
        image.rename(self.folder / "elsewhere.img")
        destination = self.receive()
        status, out, err = self.godwit("migrate", source.api, "--to", destination.address)
        self.assertEqual(status, 3, err)
        self.assertIn("disk.img", out + err)
        self.ended(destination, 1)
        self.assertIn("disk.img", destination.err.text())
        self.assertTrue(source.wait_ticks(3, 10))
        self.no_lost_tick(source)


if __name__ == "__main__":
    unittest.main(verbosity=2)
