"""Moves whose guest runs at the destination before its memory is there, and links that are lost meanwhile."""

import json
import os
import shlex
import socket
import threading
import time
import unittest

from harness import GODWIT, Case, Guest

PAUSED = 7


class Link:
    """Passes connections on to `target`, until it is cut; can be mended."""

    def __init__(self, target):
        self.host, port = target.rsplit(":", 1)
        self.port = int(port)
        self.up = True
        self.ends = []
        self.listener = socket.create_server((self.host, 0))
        self.address = "%s:%d" % (self.host, self.listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                if not self.up:
                    near.close()
                    continue
                far = socket.create_connection((self.host, self.port))
            except OSError:
                return
            self.ends += [near, far]
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(a, b), daemon=True).start()

    def seen(self, there, data):
        """What becomes of it on its way to `there`."""
        return data

    def _pass_on(self, here, there):
        try:
            while data := here.recv(1 << 16):
                there.sendall(self.seen(there, data))
        except OSError:
            pass
        for end in (here, there):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        self.up = False
        for end in self.ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def mend(self):
        self.up = True

    def close(self):
        self.cut()
        self.listener.close()


class PostCopyCase(Case):
    transport = "tcp"
    address = "127.0.0.1"

    def setUp(self):
        super().setUp()
        self.links = []
        self.source = self.run_guest("pattern.elf", append="mib=4 tick=20")
        self.line(self.source, "^tick 50 ", 30)
        self.destination = self.receive(listen=self.address + ":0")
        self.link = Link(self.destination.address)
        self.links.append(self.link)

    def tearDown(self):
        if self.links:
            self.links[0].close()
        super().tearDown()

    def migrate(self, *words):
        return self.start("migrate", self.source.api, "--to", self.link.address, "--transport", self.transport, "--json",
                          "--max-bandwidth", "16Mbit", *words)

    def in_post_copy(self):
        """Returns once the guest runs there and memory of it is still here."""
        self.line(self.destination, "^tick ", 20)
        self.wait_for("post-copy", lambda: self.destination.state() in ("postcopy", "running"), 10)
        self.assertEqual(self.destination.state(), "postcopy")

    def all_there(self):
        self.wait_for("its memory", lambda: self.destination.state() == "running", 20)
        self.destination.type("v")
        self.line(self.destination, "^verified", 30)
        self.no_corruption(self.source, self.destination)
        self.no_lost_tick(self.destination)
        self.ended(self.source, 0)

    def lose_the_link(self):
        self.mover = self.migrate("--mode", "postcopy")
        self.in_post_copy()
        self.link.cut()
        self.assertEqual(self.mover.wait(20), PAUSED, self.mover.err.text())
        self.one_line(self.mover.err.lines[-1])
        self.assertRegex(self.mover.err.lines[-1], "godwit migrate .* --resume")
        self.wait_for("the pause", lambda: self.destination.state() == "postcopy-paused", 10)
        self.assertEqual(self.source.state(), "postcopy-paused")

    def moves_by_hybrid(self):
        started = time.monotonic()
        mover = self.migrate("--mode", "hybrid", "--downtime-limit", "5ms")
        self.assertEqual(mover.wait(30), 0, mover.err.text())
        self.assertLess(time.monotonic() - started, 20)
        report = json.loads(mover.out.text())
        self.assertEqual(report["transport"], self.transport)
        self.assertTrue(report["postcopy"]["used"])
        self.assertGreater(report["postcopy"]["missing_bytes"], 0)
        self.all_there()

    def goes_on_when_resumed(self):
        self.lose_the_link()
        _, out, _ = self.godwit("status", self.destination.api)
        self.assertRegex(out, "still to come; the link to the host that it left is lost")
        status, _, err = self.godwit("migrate", self.source.api, "--resume")
        self.assertEqual(status, PAUSED, "nothing has been mended")
        self.link.mend()
        status, _, err = self.godwit("migrate", self.source.api, "--resume")
        self.assertEqual(status, 0, err)
        self.all_there()


class RdmaPostCopyTest(PostCopyCase):
    transport = "rdma"
    address = os.environ.get("GODWIT_RDMA_ADDRESS")

    def setUp(self):
        self.assertIsNotNone(self.address, "GODWIT_RDMA_ADDRESS is not set: run this by ci/runner")
        super().setUp()

    def test_a_guest_too_busy_for_the_link_moves_by_hybrid(self):
        self.moves_by_hybrid()

    def test_a_lost_link_pauses_and_a_resumed_move_goes_on(self):
        self.goes_on_when_resumed()


class PostCopyTest(PostCopyCase):
    def test_a_guest_too_busy_for_the_link_moves_by_hybrid(self):
        self.moves_by_hybrid()

    def test_what_needs_all_of_its_memory_is_refused_until_it_is_there(self):
        mover = self.migrate("--mode", "postcopy")
        self.in_post_copy()
        status, answer = self.source.request("DELETE", "/v1/migration")
        self.assertEqual(status, 409)
        self.assertIn("too late to cancel", answer["error"])
        for method, path, body in (("PUT", "/v1/pause", None), ("POST", "/v1/migrate", {"to": "127.0.0.1:9"}),
                                   ("POST", "/v1/snapshot", {"directory": str(self.folder / "s")})):
            status, answer = self.destination.request(method, path, body)
            self.assertEqual(status, 409, path)
            self.assertIn("of its memory are still to come", answer["error"])
        self.assertEqual(mover.wait(30), 0, mover.err.text())
        self.all_there()

    def test_a_lost_link_pauses_and_a_resumed_move_goes_on(self):
        self.goes_on_when_resumed()

    def test_the_source_cannot_have_it_back(self):
        self.lose_the_link()
        self.assertEqual(self.godwit("resolve", self.source.api, "--here")[0], 1)
        self.assertEqual(self.godwit("resume", self.source.api)[0], 1)
        self.assertEqual(self.source.state(), "postcopy-paused")
        self.assertEqual(self.godwit("stop", self.source.api, "--force")[0], 0)
        self.ended(self.source, 0)
        self.assertEqual(self.destination.state(), "postcopy-paused")
        self.godwit("stop", self.destination.api, "--force")
        self.ended(self.destination, 1)

    def test_a_guest_whose_memory_never_comes_can_be_given_up(self):
        self.lose_the_link()
        time.sleep(0.5)  # by now it waits for a page
        self.assertEqual(self.godwit("stop", self.destination.api, "--force")[0], 1)
        self.ended(self.destination, 1)
        self.assertRegex(self.destination.err.text(), "ends with its process: .* still to come")
        self.assertEqual(self.godwit("stop", self.source.api, "--force")[0], 0)
        self.ended(self.source, 0)

    def test_a_destination_without_userfaultfd_refuses_and_the_guest_goes_on(self):
        api = self.folder / "without.sock"
        receive = " ".join(shlex.quote(str(word)) for word in (
            GODWIT, "receive", "--listen", "127.0.0.1:0", "--api", api))
        guest = self.keep(Guest(["unshare", "--mount", "sh", "-c", "mount --bind /dev/null /dev/userfaultfd && "
                                 f"exec setpriv --bounding-set=-sys_ptrace {receive}"], api, self.env))
        address = self.message(guest, r"^godwit: receive: listening on (\S+)$", 10)[1]
        status, _, err = self.godwit("migrate", self.source.api, "--to", address, "--mode", "hybrid")
        self.assertEqual(status, 3, err)
        self.assertIn("no post-copy without userfaultfd at the destination", err)
        self.assertEqual(self.source.state(), "running")
        self.assertTrue(self.source.wait_ticks(3, 5))

    def test_a_guest_that_powers_off_needs_no_more_memory(self):
        mover = self.migrate("--mode", "postcopy")
        self.in_post_copy()
        self.destination.type("q")
        self.ended(self.destination, 0)
        self.assertEqual(mover.wait(20), 0, mover.err.text())
        self.ended(self.source, 0)

    def test_a_guest_that_resets_boots_there_again(self):
        mover = self.migrate("--mode", "postcopy")
        self.in_post_copy()
        start = self.destination.out.count()
        self.destination.type("r")
        self.line(self.destination, "^tick 1 ", 20, start)
        self.assertEqual(mover.wait(20), 0, mover.err.text())
        self.assertEqual(self.destination.state(), "running")


if __name__ == "__main__":
    unittest.main(verbosity=2)
