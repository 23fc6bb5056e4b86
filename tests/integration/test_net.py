"""Network cards: what they do to the host's interfaces, and Linux talking through them, moved or not. As root."""

import contextlib
import hashlib
import json
import os
import random
import socket
import threading
import time
import unittest
from pathlib import Path

import shell_guest
from harness import GODWIT, GUESTS, PATIENCE, Case, Process
from shell_guest import ask, answer, host, start


class NetCase(Case):
    """With a bridge of its own."""

    def setUp(self):
        super().setUp()
        self.tag = f"{os.getpid() % 10000:04d}"
        self.bridge = f"gwb{self.tag}"
        host("ip", "link", "add", self.bridge, "type", "bridge")
        self.addCleanup(host, "ip", "link", "del", self.bridge)
        host("ip", "link", "set", self.bridge, "up")

    def address_the_bridge(self):
        """10.99.0.1/24; a test that was killed may have left a bridge that has it."""
        for link in json.loads(host("ip", "-json", "-4", "addr", "show", "to", "10.99.0.1/32") or "[]"):
            if link.get("ifname", self.bridge) != self.bridge:
                host("ip", "link", "del", link["ifname"])
        host("ip", "addr", "replace", "10.99.0.1/24", "dev", self.bridge)

    def tap(self, number=0):
        return f"gwt{self.tag}-{number}"

    def card(self, number=0, more=""):
        return ("--net", f"tap={self.tap(number)},bridge={self.bridge}{more}")

    def exists(self, name):
        return Path("/sys/class/net", name).exists()


class NetTest(NetCase):
    def test_a_tap_is_created_put_into_its_bridge_and_removed(self):
        for end in ("stop", "kill"):
            guest = self.run_guest("idle.elf", more=self.card(more=",mtu=1400"))
            self.line(guest, "^tick 1 ")
            link = json.loads(host("ip", "-json", "link", "show", self.tap()))[0]
            self.assertEqual((link["master"], link["mtu"]), (self.bridge, 1400))
            self.assertIn("UP", link["flags"])
            [net] = guest.request("GET", "/v1/status")[1]["nets"]
            self.assertEqual((net["tap"], net["bridge"], net["mtu"]), (self.tap(), self.bridge, 1400))
            self.assertRegex(net["mac"], "^.[26ae]:")
            if end == "kill":
                guest.end()
            else:
                self.assertEqual(self.godwit("stop", "--force", guest.api)[0], 0)
                self.ended(guest, 0)
            self.wait_for("the tap goes", lambda: not self.exists(self.tap()), 5)

    def test_a_tap_that_was_there_stays(self):
        host("ip", "tuntap", "add", self.tap(), "mode", "tap")
        self.addCleanup(host, "ip", "link", "del", self.tap())
        guest = self.run_guest("idle.elf", more=self.card())
        self.line(guest, "^tick 1 ")
        self.assertEqual(json.loads(host("ip", "-json", "link", "show", self.tap()))[0]["master"], self.bridge)
        self.assertEqual(self.godwit("stop", "--force", guest.api)[0], 0)
        self.ended(guest, 0)
        self.assertNotIn("master", json.loads(host("ip", "-json", "link", "show", self.tap()))[0])

    def test_what_cannot_work_is_said_in_one_line(self):
        first = self.run_guest("idle.elf", more=self.card())
        self.line(first, "^tick 1 ")
        words = ("run", "--name", "other", "--kernel", GUESTS / "idle.elf", "--api", self.folder / "other.sock")
        for net, why in ((f"tap={self.tap()}", f"tap {self.tap()}: another process uses it"),
                         (f"tap={self.tap(1)},bridge=gwnone", "there is no bridge gwnone"),
                         (f"tap={self.tap(1)},bridge=lo", "lo is no bridge"),
                         ("tap=lo", "tap lo: an interface of that name exists and is no")):
            status, _, err = self.godwit(*words, "--net", net)
            self.assertEqual(status, 1)
            self.one_line(err)
            self.assertIn(why, err)
            self.assertFalse(self.exists(self.tap(1)))
        for net, why in (("tap=a/b", "--net: a/b: an interface's name"), ("mac=02:00:00:00:00:01", "tap=NAME is missing"),
                         ("tap=a,mac=01:00:00:00:00:01", "is no station's MAC"), ("tap=a,mtu=9", "mtu must be a whole number"),
                         ("tap=a,speed=9", 'unknown field "speed"'), ("tap=a,tap=b", "tap is given twice"), ("tap", "tap has no value")):
            status, _, err = self.godwit(*words, "--net", net)
            self.assertEqual(status, 2, err)
            self.one_line(err)
            self.assertIn(why, err)
        powerless = self.keep(Process(["setpriv", "--bounding-set=-net_admin", GODWIT, *words, "--net", f"tap={self.tap(1)}"], self.env))
        self.ended(powerless, 1)
        self.one_line(powerless.err.text())
        self.assertIn("needs CAP_NET_ADMIN", powerless.err.text())

    def test_on_one_host_it_moves_to_another_tap(self):
        guest = self.run_guest("idle.elf", more=self.card())
        self.line(guest, "^tick 1 ")
        [before] = guest.request("GET", "/v1/status")[1]["nets"]
        refused = self.receive()
        status, _, err = self.godwit("migrate", guest.api, "--to", refused.address)
        self.assertEqual(status, 3)
        self.assertIn(f"tap {self.tap()}: another process uses it", err)
        self.assertTrue(guest.wait_ticks(2, 5))
        there = self.receive(more=self.card(1))
        status, _, err = self.godwit("migrate", guest.api, "--to", there.address)
        self.assertEqual(status, 0, err)
        self.ended(guest, 0)
        [after] = there.request("GET", "/v1/status")[1]["nets"]
        self.assertEqual((after["tap"], after["mac"]), (self.tap(1), before["mac"]))
        self.assertFalse(self.exists(self.tap()))
        self.assertTrue(there.wait_ticks(2, 5))

    def test_guests_of_one_snapshot_have_mac_addresses_of_their_own_when_asked(self):
        guest = self.run_guest("idle.elf", more=self.card())
        self.line(guest, "^tick 1 ")
        directory = self.folder / "snapshot"
        self.assertEqual(self.godwit("snapshot", guest.api, directory)[0], 0)
        [first] = guest.request("GET", "/v1/status")[1]["nets"]
        status, _, err = self.godwit("restore", directory, "--new-mac", *self.card(1), "--api", self.folder / "again.sock")
        self.assertEqual(status, 2)
        self.one_line(err)
        self.assertIn("--new-mac", err)
        macs = {first["mac"]}
        for number, more in ((1, ()), (2, ("--new-mac",)), (3, ("--new-mac",))):
            restored = self.restore(directory, name=f"copy{number}", more=(*self.card(number), *more))
            self.assertTrue(restored.wait_ticks(2, 10), restored.err.text())
            [net] = restored.request("GET", "/v1/status")[1]["nets"]
            self.assertEqual(net["tap"], self.tap(number))
            self.assertEqual(net["mac"] not in macs, bool(more), net)
            macs.add(net["mac"])

    def test_more_taps_than_the_guest_has_cards_are_refused(self):
        guest = self.run_guest("idle.elf")
        self.line(guest, "^tick 1 ")
        there = self.receive(more=self.card(1))
        status, _, err = self.godwit("migrate", guest.api, "--to", there.address)
        self.assertEqual(status, 3)
        self.assertIn("--net is given 1 times here, the guest has 0 network cards", err)


class LinuxNetTest(NetCase):
    """One boot: ping, TCP both ways, and a stream that goes on while the guest moves."""

    def listen(self):
        server = socket.create_server(("10.99.0.1", 0))
        self.addCleanup(server.close)
        return server, server.getsockname()[1]

    def accept(self, server):
        """A guest that stands still must not hold up the test until it is killed."""
        server.settimeout(20 * PATIENCE)
        connection, _ = server.accept()
        connection.settimeout(20 * PATIENCE)
        return connection

    def to_guest(self, guest, data):
        """Sends data to the guest, which says what it got."""
        server, port = self.listen()
        at = start(guest, f"nc 10.99.0.1 {port} < /dev/null | sha256sum")
        with self.accept(server) as connection:
            begin = time.monotonic()
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            text = answer(self, guest, at)
        self.assertIn(hashlib.sha256(data).hexdigest(), text)
        return len(data) / (time.monotonic() - begin) / 1e6

    def from_guest(self, guest, mib):
        server, port = self.listen()
        ask(self, guest, f"dd if=/dev/urandom of=/tmp/data bs=1M count={mib}")
        at = start(guest, f"nc 10.99.0.1 {port} < /tmp/data")
        connection, _ = server.accept()
        digest, size, begin = hashlib.sha256(), 0, time.monotonic()
        with connection:
            while data := connection.recv(1 << 20):
                digest.update(data)
                size += len(data)
        rate = size / (time.monotonic() - begin) / 1e6
        answer(self, guest, at)
        self.assertEqual(size, mib << 20)
        self.assertIn(digest.hexdigest(), ask(self, guest, "sha256sum /tmp/data"))
        return rate

    def stream_while_moving(self, guest):
        """The host sends a stream the guest echoes back; the longest silence, the destination."""
        server, port = self.listen()
        at = start(guest, f"nc 10.99.0.1 {port} -e /bin/cat")
        connection = self.accept(server)
        sent, received, longest, stop = bytearray(), bytearray(), 0.0, threading.Event()

        def send():
            numbers = random.Random(1)
            while not stop.is_set():
                data = numbers.randbytes(8192)
                connection.sendall(data)
                sent.extend(data)
                time.sleep(0.01)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        self.addCleanup(stop.set)
        there = self.receive(more=self.card(1))
        move = self.start("migrate", guest.api, "--to", there.address, "--transport", "tcp")
        last, ended = time.monotonic(), None
        while data := connection.recv(65536):
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            received.extend(data)
            if ended is None and not move.alive():
                ended = now
            if ended is not None and now - ended > 2:
                stop.set()
        sender.join()
        connection.close()
        self.ended(move, 0)
        self.ended(guest, 0)
        self.assertEqual(received, sent)
        answer(self, there, 0)
        return there, longest

    def listen_on_the_bridge(self, kind):
        """Frames of an EtherType that come to the bridge."""
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
        self.addCleanup(listener.close)
        listener.bind((self.bridge, kind))
        listener.setblocking(False)
        return listener

    @staticmethod
    def heard(listener):
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(listener.recv(2048))
        return frames

    def test_ping_tcp_both_ways_and_a_move_in_between(self):
        self.address_the_bridge()
        guest = shell_guest.boot(self, "6.12", address="10.99.0.2/24", more=self.card())
        self.assertIn(" 0% packet loss", ask(self, guest, "ping -c 3 -i 0.2 10.99.0.1"))
        self.assertIn(" 0% packet loss", host("busybox", "ping", "-c", "3", "-i", "0.2", "10.99.0.2"))
        data = random.Random(2).randbytes(16 << 20)
        print(f"to the guest {self.to_guest(guest, data):.1f} MB/s, from it {self.from_guest(guest, 16):.1f} MB/s", flush=True)
        load = guest.request("GET", "/v1/load")[1]
        self.assertGreater(load["net_receive_bytes"], 16 << 20)
        self.assertGreater(load["net_send_bytes"], 16 << 20)
        [net] = guest.request("GET", "/v1/status")[1]["nets"]
        mac = bytes.fromhex(net["mac"].replace(":", ""))
        rarp, arp = self.listen_on_the_bridge(0x8035), self.listen_on_the_bridge(0x0806)
        there, silence = self.stream_while_moving(guest)
        # The network learns where the guest is now: RFC 903's reverse request of its own address, RFC 5227's announcement.
        self.assertGreaterEqual(sum(frame[6:12] == mac and frame[22:28] == mac for frame in self.heard(rarp)), 3)
        mine = socket.inet_aton("10.99.0.2")
        self.assertTrue(any(frame[6:12] == mac and frame[28:32] == frame[38:42] == mine for frame in self.heard(arp)), "no gratuitous ARP")
        print(f"longest silence of the stream over the move: {silence * 1000:.0f} ms", flush=True)
        self.assertIn(" 0% packet loss", host("busybox", "ping", "-c", "3", "-i", "0.2", "10.99.0.2"))
        self.assertEqual(ask(self, there, "dmesg | grep -iE 'stall|lockup|BUG:|WARNING|virtio.*(error|fail)' || true"), "")


if __name__ == "__main__":
    unittest.main(verbosity=2)
