"""A fault at every step of a move: exactly one guest is left, and it is the right one."""

import json
import os
import signal
import socket
import struct
import time
import unittest
from pathlib import Path

from harness import PATIENCE, Case
from proxy import Proxy

MOVED, MOVE_FAILED, CANCELLED, IN_DOUBT = 0, 3, 4, 5

# The messages of a move by TCP in their order. A fault hits before each is passed on.
BEFORE_COMMIT = (("source", "Preamble"), ("destination", "Preamble"), ("source", "Hello"), ("destination", "Accept"),
                 ("source", "Begin"), ("source", "Pages"), ("source", "Sync"), ("destination", "Synced"),
                 ("source", "Verify"), ("source", "State"), ("destination", "Ready"))
COMMIT, RUNNING = ("source", "Commit"), ("destination", "Running")


class FaultTest(Case):
    def setUp(self):
        super().setUp()
        self.proxies = []
        self.boot()

    def tearDown(self):
        for proxy in self.proxies:
            proxy.close()
        super().tearDown()

    def boot(self):
        self.source = self.run_guest("pattern.elf", append="mib=4 rate=4 tick=20")
        self.line(self.source, r"^tick .* pages=[1-9]\d\d", 30)

    def all_written(self):
        """Before that the last page is the one just written, which is sent once more."""
        self.line(self.source, r"^tick .* pages=[1-9]\d{3}", 30)

    def between(self, side, kind, action, after=False, connection=0):
        """A proxy before the destination."""
        self.proxies.append(Proxy(self.destination.address, side, kind, action, after, connection))
        return self.proxies[-1]

    def fault(self, step, action, *words, after=False, connection=0):
        """Moves the guest and lets `action` happen at `step`; returns the exit status of `godwit migrate`."""
        self.destination = self.receive()
        self.proxy = self.between(*step, action, after, connection)
        self.mark = self.source.out.count()
        self.mover = self.start("migrate", self.source.api, "--to", self.proxy.address, "--transport", "tcp", *words)
        status = self.mover.wait(30)
        self.assertIsNotNone(status, "godwit migrate does not end")
        self.assertTrue(self.proxy.acted.wait(5), f"the move never came to {step}: {self.proxy.seen}")
        return status

    def goes_on_here(self, ends=True):
        """The guest runs at the source and nowhere else, and never stood still for a second."""
        self.assertEqual(self.source.state(), "running")
        self.assertTrue(self.source.wait_ticks(3, 5), "the guest stands still")
        times = [t.at for t in self.source.ticks(self.mark)]
        gap = max(b - a for a, b in zip(times, times[1:]))
        self.assertLess(gap, 1.0 * PATIENCE, "the guest stood still")
        self.no_lost_tick(self.source)
        self.no_corruption(self.source)
        if ends:
            self.nothing_left_there()

    def nothing_left_there(self, status=1):
        """A destination that was ready cannot know whether the source has committed: it waits to be asked. One that was
        not told of a guest waits for one."""
        waits = "will not run here: waiting for the other host to ask|still listening$"
        self.wait_for("the destination's end", lambda: not self.destination.alive() or self.destination.err.find(waits), 20)
        if self.destination.alive():
            if Path(self.destination.api).exists():
                self.assertEqual(self.destination.state(), "refused")
            self.destination.signal(signal.SIGTERM)
            self.ended(self.destination, 128 + signal.SIGTERM)
            self.assertEqual(self.destination.ticks(), [], "the guest ran there as well")
            return
        self.ended(self.destination, status)
        if status == 1:
            self.one_line(self.destination.err.lines[-1])
        self.assertEqual(self.destination.ticks(), [], "the guest ran there as well")
        self.assertFalse(Path(self.destination.api).exists() and status == 1, "the socket is left")

    def each_step(self, run):
        for step in BEFORE_COMMIT:
            with self.subTest(" ".join(step)):
                run(step)

    def test_the_destination_is_killed(self):
        def run(step):
            status = self.fault(step, self.kill_destination)
            self.assertEqual(status, MOVE_FAILED)
            self.goes_on_here(ends=False)
            self.nothing_left_there(-signal.SIGKILL)

        self.each_step(run)

    def kill_destination(self):
        self.destination.signal(signal.SIGKILL)
        return "drop"  # what it was about to say is not said

    def test_the_destination_is_killed_once_it_was_ready(self):
        """The source may have committed to a dead peer: in doubt, and the user lets it run on here."""
        self.assertEqual(self.fault(COMMIT, self.kill_destination), IN_DOUBT)
        self.in_doubt_until_resolved(-signal.SIGKILL)

    def test_the_link_is_cut(self):
        def run(step):
            self.assertEqual(self.fault(step, "drop"), MOVE_FAILED)
            self.goes_on_here()

        self.each_step(run)

    def test_a_stream_of_pages_is_cut(self):
        """One of two connections, while the other lives."""
        for kind in ("Join", "Pages", "Mark"):
            with self.subTest(kind):
                self.all_written()
                self.assertEqual(self.fault(("source", kind), "cut", "--streams", "2", connection=1), MOVE_FAILED)
                self.assertIn("stream", self.mover.err.text())
                self.goes_on_here()

    def test_a_guest_moves_by_several_streams(self):
        self.all_written()
        self.assertEqual(self.fault(("source", "Mark"), lambda: None, "--streams", "3", connection=2), MOVED)
        self.ended(self.source, 0)
        self.runs_there()

    def test_the_move_is_cancelled(self):
        def run(step):
            asked = []

            def cancel():
                asked.append(time.monotonic())
                self.source.request("DELETE", "/v1/migration")

            status = self.fault(step, cancel)
            self.assertEqual(status, CANCELLED)
            self.assertLess(time.monotonic() - asked[0], 1.0 * PATIENCE, "the cancel took too long")
            self.goes_on_here()

        self.each_step(run)

    def test_a_move_that_does_not_get_through_is_cancelled(self):
        """The destination's queue is full: its kernel drops what comes."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            before = [socket.socket() for _ in range(4)]
            for end in before:
                self.addCleanup(end.close)
                end.setblocking(False)
                end.connect_ex(full.getsockname())
            mover = self.start("migrate", self.source.api, "--to", "127.0.0.1:%d" % full.getsockname()[1])
            self.wait_for("the attempt", lambda: self.source.request("GET", "/v1/migration")[1]["active"], 5)
            time.sleep(0.3)
            asked = time.monotonic()
            self.assertEqual(self.source.request("DELETE", "/v1/migration")[0], 200)
            self.assertEqual(mover.wait(5), CANCELLED, mover.err.text())
            self.assertLess(time.monotonic() - asked, 1.0 * PATIENCE)
        self.assertEqual(self.source.state(), "running")

    def test_the_move_times_out(self):
        def run(step):
            self.assertEqual(self.fault(step, "freeze", "--timeout", "700ms"), MOVE_FAILED)
            self.proxy.close()  # the destination's end of the link dies now
            self.goes_on_here()

        self.each_step(run)

    def test_the_source_is_killed(self):
        def run(step):
            if not self.source.alive():
                self.boot()
            self.fault(step, lambda: self.source.signal(signal.SIGKILL))
            self.ended(self.source, -signal.SIGKILL)
            self.nothing_left_there()

        self.each_step(run)

    def test_the_source_is_killed_after_commit(self):
        self.fault(COMMIT, lambda: self.source.signal(signal.SIGKILL), after=True)
        self.runs_there()

    def runs_there(self):
        self.assertTrue(self.destination.wait_ticks(3, 10), "the guest does not run there")
        self.assertEqual(self.destination.state(), "running")
        self.no_corruption(self.source, self.destination)
        self.no_lost_tick(self.source, self.destination)

    def test_the_link_is_cut_as_it_commits(self):
        """Commit does not arrive: in doubt, and the user lets it run on here."""
        self.assertEqual(self.fault(COMMIT, "down"), IN_DOUBT)
        self.in_doubt_until_resolved(1)

    def in_doubt_until_resolved(self, status_there):
        self.nothing_left_there(status_there)
        count = self.source.out.count()
        time.sleep(0.3)
        self.assertEqual(self.source.state(), "in-doubt")
        self.assertEqual(self.source.out.count(), count, "a committed guest ran on at the source")
        self.assertEqual(self.godwit("resolve", self.source.api, "--here")[0], 0)
        self.assertTrue(self.source.wait_ticks(3, 5))
        self.no_lost_tick(self.source)
        self.no_corruption(self.source)

    def test_the_link_is_cut_once_it_runs_there(self):
        """Running does not arrive: in doubt here, but it runs there."""
        self.assertEqual(self.fault(RUNNING, "down"), IN_DOUBT)
        self.runs_there()
        self.assertEqual(self.source.state(), "in-doubt")
        count = self.source.out.count()
        self.assertEqual(self.godwit("resolve", self.source.api, "--there")[0], 0)
        self.assertIsNotNone(self.source.wait(10))
        self.assertEqual(self.source.out.count(), count)

    def test_a_cancel_that_comes_too_late_changes_nothing(self):
        answers = []
        status = self.fault(RUNNING, lambda: answers.append(self.source.request("DELETE", "/v1/migration")))
        self.assertEqual(status, MOVED)
        self.ended(self.source, 0)
        self.runs_there()

    def test_the_guest_notices_a_page_that_is_lost_on_the_way(self):
        """That these tests can fail: the last page of each piece arrives as zeroes."""
        self.all_written()
        self.destination = self.receive()
        proxy = self.between("source", "Begin", lambda: None)
        proxy.change = lambda kind, piece: piece[:-4096] + bytes(4096) if kind == "Pages" and len(piece) > 65536 else piece
        status, _, err = self.godwit("migrate", self.source.api, "--to", proxy.address, "--transport", "tcp", "--no-verify")
        self.assertEqual(status, MOVED, err)
        self.destination.type("v")
        self.line(self.destination, "^CORRUPT page", 30)

    def test_a_page_that_is_lost_on_the_way_ends_a_verified_move(self):
        self.all_written()

        def run():
            self.destination = self.receive()
            proxy = self.between("source", "Begin", lambda: None)
            proxy.change = lambda kind, piece: piece[:-4096] + bytes(4096) if kind == "Pages" and len(piece) > 65536 else piece
            self.mark = self.source.out.count()
            return self.godwit("migrate", self.source.api, "--to", proxy.address, "--transport", "tcp")

        status, _, err = run()
        self.assertEqual(status, MOVE_FAILED, err)
        self.assertIn("memory arrived altered", err)
        self.goes_on_here()

    def test_a_broken_stream_is_refused(self):
        """Bytes that are no frame, in the middle of a move."""
        def break_it():
            self.proxy.ends[1].sendall(b"\xee" * 64)

        self.assertEqual(self.fault(("source", "State"), break_it), MOVE_FAILED)
        self.goes_on_here()

    def test_a_peer_of_another_version_is_refused(self):
        def other_version():
            self.proxy.ends[0].sendall(b"GODWIT\r\n" + (99).to_bytes(4, "little") + bytes(4))

        self.assertEqual(self.fault(("destination", "Preamble"), other_version), MOVE_FAILED)
        self.assertRegex(self.mover.out.text() + self.mover.err.text(), "version 99")
        self.goes_on_here()


class RdmaFaultTest(Case):
    """RDMA fails in the middle of a move while the connection stands: a memory region's key arrives altered, so a
    WRITE is refused and both queue pairs are in error."""

    def setUp(self):
        super().setUp()
        host = os.environ.get("GODWIT_RDMA_ADDRESS")
        self.assertIsNotNone(host, "GODWIT_RDMA_ADDRESS is not set: run this by ci/runner")
        self.source = self.run_guest("pattern.elf", append="mib=4 rate=4 tick=20")
        self.line(self.source, r"^tick .* pages=[1-9]\d{3}", 30)
        self.destination = self.receive(listen=f"{host}:0")
        self.proxy = Proxy(self.destination.address, "source", "Begin", lambda: None, host=host)
        self.addCleanup(self.proxy.close)
        self.proxy.change = self.alter
        self.altered = False

    def alter(self, kind, piece):
        """The last region of the first answer."""
        if kind != "Registered" or self.altered:
            return piece
        self.altered = True
        address, key, rest = struct.unpack_from("<QII", piece, len(piece) - 16)
        return piece[:-16] + struct.pack("<QII", address, key ^ 0x5a5a00, rest)

    def test_the_move_goes_on_by_tcp(self):
        status, out, err = self.godwit("migrate", self.source.api, "--to", self.proxy.address, "--json", seconds=60)
        self.assertEqual(status, MOVED, err)
        report = json.loads(out)
        self.assertEqual(report["transport"], "tcp")
        self.assertRegex(report["transport_reason"], "^RDMA failed during the move: ")
        self.assertIn(("source", "Register"), self.proxy.seen)
        self.assertIn(("source", "Pages"), self.proxy.seen)
        self.ended(self.source, 0)
        self.destination.type("v")
        self.line(self.destination, "^verified", 60)
        self.no_corruption(self.destination)

    def test_it_fails_where_rdma_was_asked_for_and_the_guest_goes_on(self):
        mark = self.source.out.count()
        status, _, err = self.godwit("migrate", self.source.api, "--to", self.proxy.address, "--transport", "rdma", seconds=60)
        self.assertEqual(status, MOVE_FAILED, err)
        self.one_line(err)
        self.assertEqual(self.source.state(), "running")
        self.assertTrue(self.source.wait_ticks(3, 5), "the guest stands still")
        self.assertGreater(len(self.source.ticks(mark)), 3)
        self.ended(self.destination, 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
