"""Moves under TLS 1.3 with certificates of both ends: what goes by it, what is refused, and the faults of a move again."""

import contextlib
import json
import os
import socket
import ssl
import threading
import time
import unittest

from harness import PATIENCE, Authority, Case, tls_words
from proxy import Proxy
from test_doubt import DoubtCase
from test_faults import FaultTest, MOVE_FAILED, MOVED
from test_postcopy import Link, PostCopyCase

CANCELLED = 4
TCP_ULP = 31


def kernel_has_tls():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as end:
        try:
            end.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
        except OSError:
            return False
        return True


class Secured:
    """A case whose receives and migrates have certificates."""

    def prepare(self):
        self.authority = Authority(self.folder)
        self.ours = tls_words(self.authority.issue("a"))
        self.theirs = tls_words(self.authority.issue("b", also="IP:127.0.0.1"))

    def receive(self, *, more=(), **options):
        return super().receive(more=[*more, *self.theirs], **options)

    def start(self, command, *words):
        return super().start(command, *words, *(self.ours if command == "migrate" and "--resume" not in words else ()))

    def godwit(self, command, *words, **options):
        return super().godwit(command, *words, *(self.ours if command == "migrate" and "--resume" not in words else ()), **options)


class TlsDoubtTest(Secured, DoubtCase):
    """The source asks under TLS, and is answered so."""

    def between(self, *action):
        return Proxy(self.destination.address, *action, tls=self.authority.issue("proxy", also="IP:127.0.0.1"))

    def test_a_commit_that_never_arrived_and_a_link_that_returns(self):
        self.a_commit_never_arrives_and_the_link_returns()

    def test_an_answer_that_was_lost_and_a_link_that_returns(self):
        self.an_answer_is_lost_and_the_link_returns()


class TlsFaultTest(Secured, FaultTest):
    """Every fault of a move, seen by somebody whom both ends believe."""

    def between(self, side, kind, action, after=False, connection=0):
        files = self.authority.issue("proxy", also="IP:127.0.0.1")
        self.proxies.append(Proxy(self.destination.address, side, kind, action, after, connection, tls=files))
        return self.proxies[-1]


class TlsPostCopyTest(Secured, PostCopyCase):
    def test_memory_follows_the_guest(self):
        self.moves_by_hybrid()

    def test_a_lost_link_pauses_and_a_resumed_move_goes_on(self):
        self.goes_on_when_resumed()


class Tap(Link):
    """A link that is listened to, and that may change what goes to the destination."""

    def __init__(self, target, change=lambda count, data: data):
        self.heard = bytearray()
        self.change = change
        self.passed = {}  # bytes so far, by where they go
        super().__init__(target)

    def seen(self, there, data):
        self.heard += data
        count = self.passed.get(there, 0)
        self.passed[there] = count + len(data)
        return self.change(count, data) if there.getpeername()[1] == self.port else data


class TlsMoveTest(Case):
    def setUp(self):
        super().setUp()
        self.authority = Authority(self.folder)
        self.a, self.b = self.authority.issue("a"), self.authority.issue("b", also="DNS:host-b,IP:127.0.0.1")
        self.source = self.run_guest("pattern.elf", append="mib=4 rate=1 tick=20")
        self.line(self.source, r"^tick .* pages=[1-9]\d{3}", 30)
        self.links = []

    def tearDown(self):
        for link in self.links:
            link.close()
        super().tearDown()

    def link(self, *words):
        self.links.append(Tap(self.destination.address, *words))
        return self.links[-1]

    def migrate(self, to, *words, seconds=20):
        return self.godwit("migrate", self.source.api, "--to", to, *words, seconds=seconds)

    def refused(self, to, *words, says, there, destination=None):
        """The move fails within a few seconds, each end says in one line why, and the guest goes on where it was; the destination goes
        on listening."""
        began = time.monotonic()
        status, _, err = self.migrate(to, *words)
        self.assertEqual(status, MOVE_FAILED, err)
        self.one_line(err)
        self.assertIn(says, err)
        self.assertLess(time.monotonic() - began, 4 * PATIENCE)
        self.goes_on_here()
        if destination:
            self.still_listens(destination, there)
            self.assertEqual(destination.ticks(), [])

    def still_listens(self, destination, why):
        """And has said why somebody was sent away, in one line. Then it ends."""
        self.message(destination, f"^godwit: receive: [^\n]*({why})[^\n]*; still listening$", 5)
        self.assertIsNone(destination.process.poll())
        destination.end()

    def goes_on_here(self):
        self.assertEqual(self.source.state(), "running")
        self.assertTrue(self.source.wait_ticks(3, 5), "the guest stands still")
        self.no_lost_tick(self.source)

    def test_nothing_crosses_the_link_in_the_clear(self):
        self.destination = self.receive(more=tls_words(self.b))
        link = self.link()
        status, out, err = self.migrate(link.address, "--streams", "3", "--verify", "--json", *tls_words(self.a))
        self.assertEqual(status, MOVED, err)
        report = json.loads(out)
        self.assertEqual(report["tls"], "kernel" if kernel_has_tls() else "user")
        self.assertEqual(report["transport"], "tcp")
        self.assertGreater(report["streams"], 1)  # an emulated machine may be too slow for the third
        self.ended(self.source, 0)
        self.message(self.destination, "it came by tcp and TLS")
        self.destination.type("v")
        self.line(self.destination, "^verified", 30)
        self.no_corruption(self.destination)
        self.assertGreater(len(link.heard), 4 << 20)
        for words in (b"GODWIT\r\n", b"GDWT", b"memory_bytes", b"pattern.elf"):
            self.assertNotIn(words, link.heard)

    def test_a_plain_move_is_heard(self):
        """That the test before can fail."""
        self.destination = self.receive()
        link = self.link()
        status, out, err = self.migrate(link.address, "--json")
        self.assertEqual(status, MOVED, err)
        self.assertEqual(json.loads(out)["tls"], "none")
        for words in (b"GODWIT\r\n", b"GDWT", b"memory_bytes", b"pattern.elf"):
            self.assertIn(words, link.heard)

    def test_one_end_alone_is_refused(self):
        destination = self.receive(more=tls_words(self.b))
        self.refused(destination.address, says="the source does not use TLS, and guests come here by nothing else",
                     there="the source does not use TLS", destination=destination)
        destination = self.receive()
        self.refused(destination.address, *tls_words(self.a), says="the destination does not speak TLS: start godwit receive there with --tls-cert",
                     there="the source uses TLS, and this end has no certificate", destination=destination)

    def test_certificates_of_others_are_refused(self):
        foreign = Authority(self.folder, "foreign")
        stranger = {**foreign.issue("a"), "ca": self.authority.certificate}
        false_b = {**foreign.issue("b", also="IP:127.0.0.1"), "ca": self.authority.certificate}
        old_a, old_b = self.authority.issue("a", days=-1), self.authority.issue("b", also="IP:127.0.0.1", days=-1)
        for ours, theirs, says, there in (
                (stranger, self.b, "refuses our certificate: its CA did not sign it", "certificate of the source is refused: unable to get local issuer"),
                (old_a, self.b, "refuses our certificate: it has expired", "certificate of the source is refused: certificate has expired"),
                (self.a, false_b, "certificate of the destination is refused: unable to get local issuer", "refuses our certificate: its CA did not sign"),
                (self.a, old_b, "certificate of the destination is refused: certificate has expired", "refuses our certificate: it has expired"),
                (self.a, self.authority.issue("c"), 'its certificate says "c", not "127.0.0.1": --tls-name', "the peer closed the connection")):
            with self.subTest(says):
                destination = self.receive(more=tls_words(theirs))
                self.refused(destination.address, *tls_words(ours), says=says, there=there, destination=destination)

    def test_the_name_is_the_hosts_or_as_asked_for(self):
        for name in ("b", "host-b"):
            destination = self.receive(more=tls_words(self.b))
            status, _, err = self.migrate(destination.address, *tls_words(self.a), "--tls-name", name)
            self.assertEqual(status, MOVED, err)
            self.ended(self.source, 0)
            self.source = destination
            self.a = self.b = self.authority.issue("b", also="DNS:host-b")

    def test_the_guests_process_has_certificates_of_its_own(self):
        """Given to it once, they are for every move; also after an upgrade."""
        self.source.request("PUT", "/v1/stop", {"force": True})
        self.source = self.run_guest("pattern.elf", append="mib=4 rate=1 tick=20", more=tls_words(self.a))
        self.line(self.source, r"^tick .* pages=[1-9]\d\d", 30)
        destination = self.receive()
        self.refused(destination.address, says="the destination does not speak TLS", there="the source uses TLS", destination=destination)
        self.assertEqual(self.godwit("upgrade", self.source.api)[0], 0)
        destination = self.receive()
        self.refused(destination.address, says="the destination does not speak TLS", there="the source uses TLS", destination=destination)
        destination = self.receive(more=tls_words(self.b))
        status, out, err = self.migrate(destination.address, "--json")
        self.assertEqual(status, MOVED, err)
        self.assertNotEqual(json.loads(out)["tls"], "none")

    def test_bytes_that_are_altered_on_the_way_end_the_move(self):
        self.destination = self.receive(more=tls_words(self.b))
        link = self.link(lambda count, data: data if count < 1 << 20 else data[:-1] + bytes([data[-1] ^ 1]))
        self.refused(link.address, *tls_words(self.a), "--streams", "1", says="", there="")
        self.ended(self.destination, 1, 3)
        self.assertRegex(self.destination.err.lines[-1], "TLS|altered")

    def silent_listener(self, says=b""):
        """Accepts, says that, and nothing more."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        kept = []

        def accept():
            while True:
                try:
                    kept.append(listener.accept()[0])
                    kept[-1].sendall(says)
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        return "127.0.0.1:%d" % listener.getsockname()[1]

    def test_a_handshake_that_stalls_is_given_up_or_cancelled(self):
        for says in (b"", b"\x16\x03\x03\x02\x00\x02"):
            with self.subTest(says):
                mover = self.start("migrate", self.source.api, "--to", self.silent_listener(says), *tls_words(self.a))
                self.wait_for("the handshake", lambda: (self.source.request("GET", "/v1/migration")[1]["active"] or {}).get("phase") == "preparing", 5)
                time.sleep(0.2)
                asked = time.monotonic()
                self.assertEqual(self.source.request("DELETE", "/v1/migration")[0], 200)
                self.assertEqual(mover.wait(5), CANCELLED, mover.err.text())
                self.assertLess(time.monotonic() - asked, 1.0 * PATIENCE)
                self.goes_on_here()
        status, _, err = self.migrate(self.silent_listener(), *tls_words(self.a), "--timeout", "700ms")
        self.assertEqual(status, MOVE_FAILED, err)
        self.assertIn("does not finish the TLS handshake in time", err)
        self.goes_on_here()

    def test_a_destination_takes_no_nonsense(self):
        for says, why in ((b"\x16\x03\x01\x02\x00" + b"x" * 600, "TLS with the source fails"), (b"G" * 200, "the peer is not Godwit"),
                          (b"\x16", "the peer closed the connection|lost contact with the source in the TLS handshake")):
            with self.subTest(says):
                destination = self.receive(more=tls_words(self.b))
                host, port = destination.address.split(":")
                with socket.create_connection((host, int(port))) as peer:
                    peer.sendall(says)
                    with contextlib.suppress(OSError):  # it may have gone already
                        peer.shutdown(socket.SHUT_WR)
                    self.still_listens(destination, why)

    def test_a_peer_without_a_certificate_is_refused(self):
        destination = self.receive(more=tls_words(self.b))
        host, port = destination.address.split(":")
        context = ssl.create_default_context(cafile=self.authority.certificate)
        with context.wrap_socket(socket.create_connection((host, int(port))), server_hostname="127.0.0.1") as peer:
            with self.assertRaisesRegex(ssl.SSLError, "CERTIFICATE_REQUIRED"):
                peer.recv(1)
        self.still_listens(destination, "the source shows no certificate")

    def test_a_stranger_leaves_the_place_to_who_comes_with_a_certificate(self):
        """Also after a dry run, which goes by TLS, too."""
        self.destination = self.receive(more=tls_words(self.b))
        host, port = self.destination.address.split(":")
        with socket.create_connection((host, int(port))) as peer:
            peer.sendall(b"G" * 200)
        self.message(self.destination, "the peer is not Godwit[^\n]*; still listening", 10)
        link = self.link()
        status, out, err = self.migrate(link.address, *tls_words(self.a), "--dry-run", "--json", seconds=60)
        self.assertEqual(status, MOVED, err)
        self.assertEqual(json.loads(out)["status"], "would-complete")
        self.assertIn(json.loads(out)["tls"], ("kernel", "user"))
        self.assertNotIn(b"GDWT", link.heard)
        self.message(self.destination, "a dry run; still listening", 10)
        self.assertEqual(self.migrate(self.destination.address)[0], MOVE_FAILED)
        status, _, err = self.migrate(self.destination.address, *tls_words(self.a))
        self.assertEqual(status, MOVED, err)
        self.assertTrue(self.destination.wait_ticks(3, 10))

    def test_files_that_cannot_be_used_are_named(self):
        nowhere = self.folder / "nowhere"
        for words, why in ((["--tls-cert", self.b["certificate"]], "all three of them, or none"),
                           (tls_words({**self.b, "key": nowhere}), f"--tls-key: {nowhere}: No such file"),
                           (tls_words({**self.b, "key": self.a["key"]}), "is not the key of")):
            with self.subTest(why):
                status, _, err = self.godwit("receive", "--listen", "127.0.0.1:0", *words)
                self.assertIn(status, (1, 2))
                self.one_line(err)
                self.assertIn(why, err)
        destination = self.receive(more=tls_words(self.b))
        self.refused(destination.address, *tls_words({**self.a, "key": self.b["key"]}), says="is not the key of", there="")


class TlsRdmaTest(Case):
    """RDMA does not encrypt: with TLS guests go by it only when asked to, and the connection is encrypted."""

    def test_rdma_has_to_be_asked_for(self):
        host = os.environ.get("GODWIT_RDMA_ADDRESS")
        self.assertIsNotNone(host, "GODWIT_RDMA_ADDRESS is not set: run this by ci/runner")
        authority = Authority(self.folder)
        a, b = authority.issue("a"), authority.issue("b", also=f"IP:{host}")
        source = self.run_guest("pattern.elf", append="mib=4 rate=1 tick=20")
        self.line(source, r"^tick .* pages=[1-9]\d{3}", 60)
        for transport in ("rdma", "auto"):
            destination = self.receive(listen=f"{host}:0", more=tls_words(b))
            link = Tap(destination.address)
            self.addCleanup(link.close)
            status, out, err = self.godwit("migrate", source.api, "--to", link.address, "--transport", transport, "--verify", "--json",
                                           *tls_words(a), seconds=60)
            self.assertEqual(status, MOVED, err)
            report = json.loads(out)
            self.assertEqual((report["transport"], report["tls"]), ("rdma" if transport == "rdma" else "tcp", "kernel"))
            self.assertIn("reach each other" if transport == "rdma" else "does not encrypt", report["transport_reason"])
            self.assertNotIn(b"memory_bytes", link.heard)
            self.ended(source, 0)
            source = destination
        self.assertTrue(source.wait_ticks(3, 20))
        source.type("v")
        self.line(source, "^verified", 60)
        self.no_corruption(source)


if __name__ == "__main__":
    unittest.main(verbosity=2)
