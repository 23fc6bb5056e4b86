"""A link that is cut between a commit and its answer: one guest is left, in the end the source knows where, and until
then it is in doubt and says so."""

import json
import os
import shlex
import signal
import socket
import subprocess
import time
import unittest

from harness import GODWIT, Case, Guest
from proxy import Proxy

MOVED, MOVE_FAILED, IN_DOUBT = 0, 3, 5
COMMIT, RUNNING = ("source", "Commit"), ("destination", "Running")


class DoubtCase(Case):
    transport = "tcp"
    more = ()  # of migrate
    NOBODY = "cannot connect to|the peer closed the connection|lost contact with the destination"

    def boot(self, disk=False):
        words = ()
        if disk:
            self.image = self.folder / "disk.img"
            self.image.write_bytes(bytes(1 << 20))
            words = ("--disk", self.image)
        self.source = self.run_guest("pattern.elf", append="mib=4 rate=8 tick=20", more=words)
        self.line(self.source, r"^tick .* pages=[1-9]\d{3}", 30)

    def between(self, *action):
        """A proxy before the destination."""
        return Proxy(self.destination.address, *action)

    def move(self, step, action, *words, destination=None):
        """Begins a move in which `action` happens at that message."""
        self.destination = destination or self.receive()
        self.proxy = self.between(*step, action)
        self.addCleanup(self.proxy.close)
        self.mover = self.start("migrate", self.source.api, "--to", self.proxy.address, "--transport", "tcp", "--json", *words)
        self.assertTrue(self.proxy.acted.wait(30), f"the move never came to {step}: {self.proxy.seen}")

    def report(self, status):
        self.assertEqual(self.mover.wait(30), status, self.mover.err.text())
        return json.loads(self.mover.out.text())

    def doubt(self):
        """What the source says of it; it stands still."""
        count = self.source.out.count()
        status = self.source.request("GET", "/v1/status")[1]
        self.assertEqual(status["state"], "in-doubt")
        self.assertEqual(self.source.out.count(), count, "a committed guest ran on at the source")
        return status["migration"]["doubt"]

    def stays_in_doubt(self, why):
        self.assertEqual(self.report(IN_DOUBT)["status"], "in-doubt")
        before = self.doubt()
        self.source.request("POST", "/v1/migration/resume")
        doubt = self.doubt()
        self.assertGreater(doubt["attempts"], before["attempts"], "it does not ask")
        self.assertGreater(doubt["for_ms"], doubt["last_attempt_ago_ms"])
        self.assertRegex(doubt["last_error"], why)
        _, out, _ = self.godwit("status", self.source.api)
        self.assertRegex(out, f"(?m)^move +in doubt for .*; asked \\d+ times, last .* ago: {why}")

    def runs_here(self):
        self.wait_for("the guest to come back", lambda: self.source.state() == "running", 20)
        self.assertTrue(self.source.wait_ticks(3, 10), "the guest stands still")
        self.no_lost_tick(self.source)
        self.no_corruption(self.source)

    def runs_there(self):
        self.assertTrue(self.destination.wait_ticks(3, 10), "the guest does not run there")
        self.assertEqual(self.destination.state(), "running")
        self.no_lost_tick(self.source, self.destination)
        self.no_corruption(self.source, self.destination)

    def disk_is_taken(self):
        intruder = self.run_guest("idle.elf", more=("--disk", self.image))
        self.ended(intruder, 1)
        self.assertIn("in use", intruder.err.text())

    def a_commit_never_arrives_and_the_link_returns(self):
        self.boot()
        self.move(COMMIT, "down")
        self.stays_in_doubt(self.NOBODY)
        self.wait_for("the destination to give up", lambda: self.destination.state() == "refused", 10)
        self.proxy.mend()
        self.runs_here()
        self.ended(self.destination, 1)
        self.assertEqual(self.destination.ticks(), [], "the guest ran there as well")
        report = self.source.request("GET", "/v1/status")[1]["last_report"]
        self.assertEqual((report["status"], report["guest_state"]), ("failed", "running"))
        self.assertIn("never began to run it", report["reason"])

    def an_answer_is_lost_and_the_link_returns(self):
        self.boot()
        self.move(RUNNING, "down")
        self.stays_in_doubt(self.NOBODY)
        self.runs_there()
        self.proxy.mend()
        self.ended(self.source, 0, seconds=30)
        self.assertIn("moved to", self.source.err.text())
        self.runs_there()


class DoubtTest(DoubtCase):
    # -- asking

    def test_a_commit_that_never_arrived_and_a_link_that_returns(self):
        self.a_commit_never_arrives_and_the_link_returns()
        # And it can move again.
        self.destination = self.receive()
        self.assertEqual(self.godwit("migrate", self.source.api, "--to", self.destination.address)[0], MOVED)
        self.runs_there()

    def test_an_answer_that_was_lost_and_a_link_that_returns(self):
        self.an_answer_is_lost_and_the_link_returns()

    def test_a_link_that_returns_at_once_leaves_no_doubt(self):
        """A connection that is reset while the network is well."""
        for step, status, word in ((COMMIT, MOVE_FAILED, "failed"), (RUNNING, MOVED, "completed")):
            with self.subTest(step):
                self.boot()
                self.move(step, "down")
                self.proxy.mend()
                self.assertEqual(self.report(status)["status"], word)
                self.runs_here() if status else self.runs_there()
                self.ended(self.destination if status else self.source, 1 if status else 0)

    def test_who_waits_hears_how_it_ended(self):
        self.boot()
        self.move(RUNNING, "down")
        self.report(IN_DOUBT)
        waiting = subprocess.Popen(["curl", "-s", "--unix-socket", self.source.api, "-d", json.dumps({"wait_ms": 60000}),
                                    "http://godwit/v1/migration/resume"], stdout=subprocess.PIPE)
        time.sleep(1)
        self.assertIsNone(waiting.poll(), "it did not wait")
        self.proxy.mend()
        report = json.loads(waiting.communicate(timeout=60)[0])
        self.assertEqual((report["status"], report["guest_state"]), ("completed", "over"))
        self.ended(self.source, 0)

    def test_who_does_not_know_the_move_is_no_answer_and_is_not_disturbed(self):
        """Another destination on the port of one that is gone."""
        self.boot()
        first = self.receive()
        self.move(COMMIT, self.kill(first), destination=first)
        self.report(IN_DOUBT)
        second = self.receive(listen=first.address)
        with socket.create_connection(first.address.rsplit(":", 1)) as stranger:
            stranger.sendall(b"\xee" * 64)
        self.message(second, "the peer is not Godwit: what it sent is not Godwit's protocol; still listening")
        self.proxy.mend()
        self.message(second, "asked about an earlier move, of which nothing is known here; still listening")
        self.wait_for("the refusal", lambda: "knows nothing of this guest" in self.doubt()["last_error"], 10)
        self.assertEqual(self.godwit("resolve", self.source.api, "--here")[0], 0)
        self.runs_here()
        self.assertEqual(self.godwit("migrate", self.source.api, "--to", second.address)[0], MOVED)
        self.destination = second
        self.runs_there()

    def test_strangers_at_a_destination_that_waits_to_be_asked_learn_and_change_nothing(self):
        self.boot()
        self.move(COMMIT, "down")
        self.wait_for("the destination to give up", lambda: self.destination.err.find("waiting for the other host"), 10)
        host, port = self.destination.address.rsplit(":", 1)
        for bytes_ in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xee" * 4096):
            with socket.create_connection((host, int(port))) as stranger:
                stranger.settimeout(20)
                try:
                    stranger.sendall(bytes_)
                    stranger.shutdown(socket.SHUT_WR)
                    while stranger.recv(4096):
                        pass
                except TimeoutError:
                    raise
                except OSError:
                    pass  # it did not care to read all of it
        self.assertTrue(self.destination.alive())
        self.proxy.mend()
        self.runs_here()
        self.ended(self.destination, 1)

    # -- the operator

    def test_what_a_person_says_goes(self):
        for answer in ("--here", "--there"):
            with self.subTest(answer):
                self.boot()
                self.move(COMMIT, "down")
                self.report(IN_DOUBT)
                status, _, err = self.godwit("cancel", self.source.api)
                self.assertEqual(status, 1)
                self.assertIn("too late to cancel", err)
                self.assertEqual(self.godwit("resolve", self.source.api, answer)[0], 0)
                if answer == "--here":
                    self.runs_here()
                self.proxy.mend()  # too late to matter
                if answer == "--there":
                    self.ended(self.source, 0)
                    self.assertEqual(self.destination.ticks(), [])
                self.assertTrue(self.destination.alive())
                self.destination.signal(signal.SIGTERM)
                self.ended(self.destination, 128 + signal.SIGTERM)

    def test_it_can_be_stopped_in_doubt(self):
        self.boot()
        self.move(COMMIT, "down")
        self.wait_for("the doubt", lambda: self.source.state() == "in-doubt", 5)  # the move goes on for a moment
        started = time.monotonic()
        self.assertEqual(self.godwit("stop", self.source.api, "--force")[0], 0)
        self.ended(self.source, 0)
        self.assertLess(time.monotonic() - started, 10)
        self.report(IN_DOUBT)

    def test_nothing_is_proven_by_a_destination_that_is_gone(self):
        self.boot()
        self.killed(COMMIT)
        self.proxy.mend()  # nobody listens behind it
        self.stays_in_doubt("the peer closed the connection|cannot connect to")
        self.assertEqual(self.godwit("resolve", self.source.api, "--here")[0], 0)
        self.runs_here()

    # -- the disks

    def kill(self, process):
        """An action of the proxy."""
        def act():
            self.proxy.down.set()  # else it takes the end of this connection for its own
            process.signal(signal.SIGKILL)
            process.process.wait()
            return "down"

        return act

    def killed(self, step):
        destination = self.receive()
        self.move(step, self.kill(destination), destination=destination)

    def test_the_disks_tell_that_a_destination_that_was_killed_never_ran_it(self):
        self.boot(disk=True)
        self.killed(COMMIT)
        report = self.report(MOVE_FAILED)
        self.assertIn("never began to run it", report["reason"])
        self.runs_here()
        self.disk_is_taken()

    def test_the_disks_tell_that_it_runs_there_without_a_link(self):
        self.boot(disk=True)
        self.move(RUNNING, "down")
        self.assertEqual(self.report(MOVED)["status"], "completed")
        self.ended(self.source, 0)
        self.runs_there()
        self.disk_is_taken()

    def test_a_destination_that_is_about_to_commit_has_the_disks(self):
        """It does not move, and nobody can know: in doubt, until it ends."""
        self.boot(disk=True)
        destination = self.receive()
        self.move(COMMIT, lambda: (destination.signal(signal.SIGSTOP), "down")[1], destination=destination)
        self.stays_in_doubt(".")
        destination.signal(signal.SIGKILL)
        self.runs_here()

    def test_a_guest_that_has_run_there_is_not_taken_back(self):
        """Not even where its disks are free: they are ahead of the memory that is here."""
        self.boot(disk=True)
        self.killed(RUNNING)
        self.stays_in_doubt("it has run there, as its disks show, and nobody has them now")
        self.assertEqual(self.godwit("resolve", self.source.api, "--there")[0], 0)
        self.ended(self.source, 0)

    def test_locks_that_do_not_reach_the_destination_prove_nothing(self):
        """Another file by the same path, as on a file system whose locks are each host's own."""
        self.boot(disk=True)
        other = self.folder / "other.img"
        other.write_bytes(bytes(1 << 20))
        api = self.folder / "elsewhere.sock"
        receive = " ".join(shlex.quote(str(word)) for word in (GODWIT, "receive", "--listen", "127.0.0.1:0", "--api", api))
        destination = self.keep(Guest(["unshare", "--mount", "sh", "-c", f"mount --bind {shlex.quote(str(other))} "
                                       f"{shlex.quote(str(self.image))} && exec {receive}"], api, self.env))
        destination.address = self.message(destination, r"^godwit: receive: listening on (\S+)$", 10)[1]
        self.move(COMMIT, self.kill(destination), destination=destination)
        self.stays_in_doubt(".")
        self.assertEqual(self.godwit("resolve", self.source.api, "--here")[0], 0)
        self.runs_here()

    # -- post-copy

    def test_in_post_copy_a_commit_that_never_arrived(self):
        self.boot()
        self.move(COMMIT, "down", "--mode", "postcopy")
        self.report(IN_DOUBT)
        self.proxy.mend()
        self.runs_here()
        self.ended(self.destination, 1)

    def test_in_post_copy_the_rest_follows_once_the_link_returns(self):
        self.boot()
        self.move(RUNNING, "down", "--mode", "postcopy")
        self.report(IN_DOUBT)
        self.proxy.mend()
        self.ended(self.source, 0, seconds=40)
        self.wait_for("its memory", lambda: self.destination.state() == "running", 20)
        self.runs_there()
        self.destination.type("v")
        self.line(self.destination, "^verified", 30)


if __name__ == "__main__":
    unittest.main(verbosity=2)
