"""Debian at work on every device, on one host; and while it moves between two, over RDMA. In the runner, as root."""

import hashlib
import json
import os
import re
import socket
import subprocess
import threading
import time
import unittest

from harness import PATIENCE
from shell_guest import host
from test_debian import DebianCase
from test_devices import MIB, DevicesCase
from test_net import NetCase

BAD = "i/o error|stall|lockup|hung task|BUG:|WARNING: CPU|call trace|virtio.*(error|fail)|ext4-fs (error|warning)"


class WorkCase(DebianCase, NetCase, DevicesCase):
    """Debian with a network, a second disk and a shell at its console."""

    def set_up_guest(self, cpus, more=()):
        self.address_the_bridge()
        self.second = self.folder / "second.img"
        with self.second.open("wb") as image:
            image.truncate(64 * MIB)
        guest = self.boot("6.1", cpus, append="mitigations=off", more=["--disk", self.second, *self.card(), *more])
        self.shell(guest, "bind 'set enable-bracketed-paste off'; dmesg -n 3; card=$(ls /sys/class/net | grep -v lo); ip addr add 10.99.0.2/24 dev $card; ip link set $card up; ip -br addr")
        return guest

    def succeeds(self, guest, command, seconds=60):
        """What it prints; its status has to be 0."""
        text = self.shell(guest, f"({command}); echo status''=$?", seconds)
        self.assertRegex(text, r"(?m)^status=0\r?$", command)
        return text

    def both_ways(self, guest, size):
        """`size` bytes to the guest and back over TCP, the same; MB/s of either."""
        server, port = self.listen()
        at = guest.out.count()
        guest.type(f"socat -b 262144 -u TCP:10.99.0.1:{port} - | tee /dev/shm/data | sha256sum; echo; echo end''-of-it\n")
        block, digest = os.urandom(MIB), hashlib.sha256()
        begin = time.monotonic()
        connection, _ = server.accept()
        with connection:
            for number in range(size // MIB):
                piece = block[number:] + block[:number]  # none like the one before
                digest.update(piece)
                connection.sendall(piece)
        self.line(guest, "^end-of-it", 120, at)
        rates = [size / (time.monotonic() - begin) / 1e6]
        self.line(guest, f"{digest.hexdigest()} ", 10, at)
        at = guest.out.count()
        guest.type(f"socat -b 262144 -u /dev/shm/data TCP:10.99.0.1:{port}; echo; echo end''-of-it\n")
        connection, _ = server.accept()
        begin, back, count = time.monotonic(), hashlib.sha256(), 0
        with connection:
            while data := connection.recv(MIB):
                back.update(data)
                count += len(data)
        rates.append(size / (time.monotonic() - begin) / 1e6)
        self.line(guest, "^end-of-it", 30, at)
        self.assertEqual((count, back.hexdigest()), (size, digest.hexdigest()))
        return rates

    def listen(self):
        server = socket.create_server(("10.99.0.1", 0))
        server.settimeout(60 * PATIENCE)
        self.addCleanup(server.close)
        return server, server.getsockname()[1]

    def no_complaints(self, guest):
        self.assertEqual(re.findall(r"(?m)^\[ *\d+\.\d+\].*$", self.shell(guest, f"dmesg | grep -iE '{BAD}'")), [])

    def ends_with_a_clean_disk(self, guest):
        status, _, err = self.godwit("stop", guest.api, seconds=60)
        self.assertEqual(status, 0, err)
        self.ended(guest, 0, 60)
        check = subprocess.run(["e2fsck", "-fn", self.disk], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertEqual(check.returncode, 0, check.stdout)


class DebianWorkTest(WorkCase):
    def process_kib(self, guest):
        with open(f"/proc/{guest.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def gives_back_what_it_frees(self, guest):
        """The 200 MiB that came over the network."""
        full = self.process_kib(guest)
        self.succeeds(guest, "rm /dev/shm/data")
        self.wait_for("free pages come back", lambda: self.process_kib(guest) < full - 180 * 1024, 30)

    def test_network_disk_entropy_vsock_and_memory_that_it_gives_back(self):
        began = time.monotonic()

        def done(what):
            print(f"{time.monotonic() - began:5.1f} s: {what}", flush=True)

        path = self.folder / "guest.vsock"
        guest = self.set_up_guest(2, ("--rng", "--balloon", "--vsock", f"cid=7,path={path}"))
        done("at the prompt")
        self.assertIn("running", self.succeeds(guest, "systemctl is-system-running --wait", 120))
        self.assertIn("active", self.succeeds(guest, "systemctl is-active multi-user.target"))
        done("multi-user.target")
        self.assertIn(" 0% packet loss", self.succeeds(guest, "ping -c 3 -i 0.2 10.99.0.1"))
        self.assertIn(" 0% packet loss", host("busybox", "ping", "-c", "3", "-i", "0.2", "10.99.0.2"))
        rates = self.both_ways(guest, 200 * MIB)
        done(f"200 MiB over TCP to the guest at {rates[0]:.1f} MB/s, back at {rates[1]:.1f} MB/s")
        self.gives_back_what_it_frees(guest)
        done("memory given back")
        self.succeeds(guest, "fio --name=v --filename=/dev/vdb --rw=randwrite --bsrange=4k-64k --size=32M --ioengine=libaio --iodepth=16 "
                             "--direct=1 --verify=crc32c --verify_fatal=1", 120)
        written = self.succeeds(guest, "sha256sum /dev/vdb")
        self.assertIn(hashlib.sha256(self.second.read_bytes()).hexdigest(), written)
        done("fio")
        self.assertIn("virtio_rng", self.succeeds(guest, "cat /sys/class/misc/hw_random/rng_current"))
        self.assertIn("256", self.succeeds(guest, "dd if=/dev/hwrng bs=64 count=4 2>/dev/null | wc -c"))
        self.succeeds(guest, "socat VSOCK-LISTEN:1024,fork EXEC:cat & sleep 1")
        connection = self.to_guest(path)
        self.echoed(connection, MIB)
        connection.close()
        done("vsock")
        self.no_complaints(guest)
        self.ends_with_a_clean_disk(guest)
        done("off")


class Stream:
    """A TCP stream that the host feeds and the guest echoes, all the time: what comes back is what went, and when."""

    def __init__(self, connection):
        self.connection, self.stop = connection, threading.Event()
        self.sent, self.received, self.error = 0, 0, None
        self.block = os.urandom(1 << 20)
        self.silence, self.last = 0.0, time.monotonic()
        connection.settimeout(600)
        self.threads = [threading.Thread(target=self.run, args=(f,), daemon=True) for f in (self.send, self.receive)]
        for thread in self.threads:
            thread.start()

    def run(self, work):
        try:
            work()
        except OSError as error:
            self.error = self.error or error

    def send(self):
        while not self.stop.is_set():
            at = self.sent % len(self.block)
            data = self.block[at:at + 4096]
            self.connection.sendall(data)
            self.sent += len(data)
            time.sleep(0.02)
        self.connection.shutdown(socket.SHUT_WR)

    def receive(self):
        while data := self.connection.recv(4096):
            now, at = time.monotonic(), self.received % len(self.block)
            self.silence, self.last = max(self.silence, now - self.last), now
            if data != (self.block + self.block[:4096])[at:at + len(data)]:
                self.error = self.error or OSError(f"other data comes back after {self.received} bytes")
            self.received += len(data)

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(60 * PATIENCE)
        self.connection.close()


class Redis:
    """redis-benchmark, again and again; the longest that a request of it took."""

    def __init__(self, address):
        self.address, self.stop = address, threading.Event()
        self.requests, self.stall_ms, self.error = 0, 0.0, None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.stop.is_set() and not self.error:
            done = subprocess.run(["redis-benchmark", "-h", self.address, "-c", "4", "-n", "400", "-t", "set,get", "--csv"],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True)
            rows = re.findall(r'^"(?:SET|GET)",.*"([\d.]+)"$', done.stdout, re.M)  # the last column: max_latency_ms
            if done.returncode != 0 or done.stderr or len(rows) != 2:
                self.error = f"redis-benchmark ended with {done.returncode}: {done.stdout}{done.stderr}"
            self.requests += 800
            self.stall_ms = max([self.stall_ms, *map(float, rows)])

    def end(self):
        self.stop.set()
        self.thread.join(60 * PATIENCE)


FIO = ("fio --name=v --filename=/dev/vdb --rw=randwrite --bsrange=4k-64k --size=16M --rate=4m --ioengine=libaio --iodepth=8 --direct=1 "
       "--verify=crc32c --verify_fatal=1")


class DebianMovesTest(WorkCase):
    MOVES = 10

    def begin_work(self):
        guest = self.set_up_guest(2)
        self.succeeds(guest, "redis-server --save '' --daemonize yes --bind 0.0.0.0 --protected-mode no > /dev/null")
        server, port = self.listen()
        guest.type(f"socat -t 100 TCP:10.99.0.1:{port} EXEC:cat &\n")
        connection, _ = server.accept()
        guest.type("stress-ng --vm 2 --vm-bytes 16M --vm-keep --verify --timeout 0 > /tmp/stress 2>&1 & stress=$!\n")
        guest.type(f"(while [ ! -e /tmp/stop ]; do {FIO} > /tmp/fio 2>&1 && echo pass >> /tmp/passes || cat /tmp/fio | tee -a /tmp/failed; done) & fio=$!\n")
        self.wait_for("redis", lambda: subprocess.run(["redis-cli", "-h", "10.99.0.2", "ping"], capture_output=True).stdout == b"PONG\n", 20)
        stream, redis = Stream(connection), Redis("10.99.0.2")
        self.addCleanup(self.stop_work, stream, redis)
        return guest, stream, redis

    def stop_work(self, stream, redis):
        stream.stop.set()
        redis.stop.set()
        print(f"longest silence of the stream {stream.silence * 1000:.0f} ms, longest stall of redis {redis.stall_ms:.0f} ms "
              f"in {redis.requests} requests", flush=True)

    def goes_on(self, guest, stream):
        """What is sent to it comes back."""
        before, deadline = stream.received, time.monotonic() + 10 * PATIENCE
        while stream.received < before + 16384:
            self.assertIsNone(stream.error)
            self.assertTrue(guest.alive(), guest.err.text())
            self.assertLess(time.monotonic(), deadline, "the guest falls silent")
            time.sleep(0.05)

    def move(self, source, number, tap):
        there = self.receive(listen=f"{os.environ['GODWIT_RDMA_ADDRESS']}:0", more=self.card(tap))
        status, out, err = self.godwit("migrate", source.api, "--to", there.address, "--transport", "rdma", "--throttle", "90",
                                       "--json", seconds=90)
        self.assertEqual(status, 0, out + err)
        self.ended(source, 0)
        report = json.loads(out)
        self.assertEqual(report["transport"], "rdma")
        print(f"move {number + 1}: total {report['total_ms']:.0f} ms, downtime {report['downtime_ms']:.0f} ms", flush=True)
        return there

    def finish_work(self, guest, stream, redis):
        redis.end()
        stream.end()
        self.assertEqual((redis.error, stream.error), (None, None))
        self.assertEqual(stream.received, stream.sent)
        self.succeeds(guest, "touch /tmp/stop; while kill -0 $fio 2> /dev/null; do sleep 0.2; done; cat /tmp/fio; grep -q pass /tmp/passes && [ ! -e /tmp/failed ]", 60)
        self.assertIn("ended=0", self.shell(guest, "kill -INT $stress; wait $stress; echo ended''=$?; cat /tmp/stress", 60))
        self.assertNotRegex(guest.out.text(), r"(?i)verify: bad|verify failed|err= *[1-9]|stress-ng: fail")
        self.no_complaints(guest)
        written = self.succeeds(guest, "sha256sum /dev/vdb")
        self.assertIn(hashlib.sha256(self.second.read_bytes()).hexdigest(), written)
        self.ends_with_a_clean_disk(guest)

    def test_ten_moves_by_rdma_under_load_leave_nothing_broken(self):
        guest, stream, redis = self.begin_work()
        self.goes_on(guest, stream)
        for number in range(self.MOVES):
            guest = self.move(guest, number, (number + 1) % 2)
            self.goes_on(guest, stream)
        self.finish_work(guest, stream, redis)


if __name__ == "__main__":
    unittest.main(verbosity=2)
