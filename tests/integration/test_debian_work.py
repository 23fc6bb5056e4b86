"""Debian at work on every device. In the runner, as root."""

import hashlib
import os
import re
import socket
import subprocess
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
        host("ip", "addr", "replace", "10.99.0.1/24", "dev", self.bridge)
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


if __name__ == "__main__":
    unittest.main(verbosity=2)
