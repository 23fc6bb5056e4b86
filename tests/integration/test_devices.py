"""A Linux guest's entropy, memory that it gives back, and virtio sockets; moved or not. In the runner."""

import os
import random
import socket
import subprocess
import threading
import time
import unittest

import shell_guest
from harness import Case
from shell_guest import answer, ask, start

MIB = 1 << 20
PANICKED = 6  # exit code


class DevicesCase(Case):
    def clocks(self, guest):
        """How far the guest's wall clock is from the host's, and its time since it booted, seconds."""
        before = time.time()
        words = ask(self, guest, "echo $(date +%s) $(cut -d' ' -f1 /proc/uptime)").split()
        off = int(words[-2]) - int(before)
        return off, float(words[-1])

    def used(self, guest):
        return guest.request("GET", "/v1/load")[1]["memory_used_bytes"]

    def resident(self, guest):
        """Shared memory of the process: guest RAM that it has mapped and populated."""
        with open(f"/proc/{guest.pid}/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssShmem"))

    def balloon(self, guest):
        return guest.request("GET", "/v1/status")[1]["balloon"]

    def echoed(self, connection, size):
        """Sends data and gets it back."""
        data, back = random.Random(size).randbytes(size), bytearray()
        connection.settimeout(60)
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        while len(back) < size and (more := connection.recv(65536)):
            back += more
        sender.join()
        self.assertEqual(back, data)

    def to_guest(self, path):
        connection = socket.socket(socket.AF_UNIX)
        self.addCleanup(connection.close)
        connection.settimeout(30)
        connection.connect(str(path))
        connection.sendall(b"CONNECT 1024\n")
        answer = b""
        while not answer.endswith(b"\n"):
            byte = connection.recv(1)
            self.assertTrue(byte, "nobody listens in the guest")
            answer += byte
        self.assertRegex(answer, rb"^OK \d+\n$")
        return connection


class LinuxDevicesTest(DevicesCase):
    def gives_back_what_it_frees(self, guest):
        before = self.used(guest)
        ask(self, guest, "dd if=/dev/zero of=/tmp/big bs=1M count=200")
        full, resident = self.used(guest), self.resident(guest)
        self.assertGreater(full - before, 150 * MIB)
        ask(self, guest, "rm /tmp/big")
        self.wait_for("free pages come back", lambda: self.used(guest) < full - 180 * MIB, 20)
        self.assertLess(self.resident(guest), resident - 180 * MIB)
        self.assertGreater(self.balloon(guest)["reported_bytes"], 180 * MIB)

    def speaks_vsock(self, guest, path):
        first = self.to_guest(path)
        self.echoed(first, 1 << 20)
        first.close()
        self.line(guest, r"^echoed 1048576 bytes \(end\)")
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(f"{path}_2048")
        listener.listen()
        connecting = start(guest, "vsock connect 2048")
        listener.settimeout(30)
        connection, _ = listener.accept()
        self.echoed(connection, 300000)
        connection.close()
        self.assertIn("echoed 300000 bytes (end)", answer(self, guest, connecting))

    def hvc_is_a_console(self, guest, path, word):
        at = path.read_text().count("\n") if path.exists() else 0
        ask(self, guest, f"echo {word} > /dev/hvc0")
        self.wait_for("hvc0 prints", lambda: path.read_text().splitlines()[at:] == [word], 20)

    def test_entropy_memory_sockets_and_a_move(self):
        paths = [self.folder / "here.vsock", self.folder / "there.vsock"]
        hvc = [self.folder / "here.hvc", self.folder / "there.hvc"]
        guest = shell_guest.boot(self, "6.12", memory="512M",
                                 more=("--rng", "--balloon", "--vsock", f"cid=7,path={paths[0]}", "--hvc", f"file:{hvc[0]}"))
        self.hvc_is_a_console(guest, hvc[0], "before")
        ask(self, guest, "vsock listen 1024 &")
        self.line(guest, "^listening")
        self.speaks_vsock(guest, paths[0])
        lost = self.to_guest(paths[0])
        self.assertIn("virtio_rng", ask(self, guest, "cat /sys/class/misc/hw_random/rng_current"))
        self.assertEqual(ask(self, guest, "dd if=/dev/hwrng bs=64 count=4 2>/dev/null | wc -c").strip(), "256")
        self.gives_back_what_it_frees(guest)

        self.assertEqual(self.godwit("balloon", guest.api, "100M")[0], 0)
        self.wait_for("the balloon fills", lambda: self.balloon(guest)["actual_bytes"] == 100 * MIB, 20)
        self.wait_for("statistics come", lambda: self.balloon(guest)["statistics"].get("free_bytes", 0) > 0, 10)

        off, up = self.clocks(guest)
        self.assertLessEqual(abs(off), 3)
        there = self.receive(more=("--vsock", f"path={paths[1]}", "--hvc", f"file:{hvc[1]}"))
        status, _, err = self.godwit("migrate", guest.api, "--to", there.address, "--transport", "tcp", seconds=60)
        self.assertEqual(status, 0, err)
        off, later = self.clocks(there)
        self.assertLessEqual(abs(off), 3, "seconds off")
        self.assertGreater(later, up)
        self.assertEqual(self.balloon(there)["actual_bytes"], 100 * MIB)
        self.assertEqual(lost.recv(1), b"", "connections do not move")
        self.line(there, r"^echoed 0 bytes \(Connection reset by peer\)")
        self.hvc_is_a_console(there, hvc[1], "after")
        self.speaks_vsock(there, paths[1])
        self.assertEqual(self.godwit("balloon", there.api, "0")[0], 0)
        self.wait_for("the balloon empties", lambda: self.balloon(there)["actual_bytes"] == 0, 20)
        self.gives_back_what_it_frees(there)
        self.assertEqual(ask(self, there, "dd if=/dev/hwrng bs=64 count=4 2>/dev/null | wc -c").strip(), "256")
        self.assertEqual(ask(self, there, "dmesg | grep -iE 'stall|lockup|BUG:|WARNING|virtio.*(error|fail)' || true"), "")
        self.panics(there)

    def panics(self, guest):
        """Linux tells, by pvpanic; it stands still then, and ends with the exit code that says so."""
        guest.type("echo 0 > /proc/sys/kernel/panic; echo c > /proc/sysrq-trigger\n")
        self.wait_for("the panic shows", lambda: guest.request("GET", "/v1/status")[1]["panicked"], 20)
        self.assertEqual(self.godwit("stop", "--force", guest.api)[0], 0)
        self.ended(guest, PANICKED)
        self.assertIn("the guest's kernel had panicked", guest.err.text())


@unittest.skipUnless(os.geteuid() == 0, "mounts a file system: only root can")
class FullDiskTest(Case):
    """Natively, with a small guest that writes to its disk block after block."""

    def mount(self, *words):
        subprocess.run(["mount", *words], check=True)

    def test_a_full_file_system_is_the_guests_io_error_and_the_guest_goes_on(self):
        small = self.folder / "small"
        small.mkdir()
        self.mount("-t", "tmpfs", "-o", "size=128k", "tmpfs", small)
        self.addCleanup(subprocess.run, ["umount", "--lazy", small], check=True)
        image = small / "disk.img"
        with image.open("wb") as file:
            file.truncate(64 * 4096)
        guest = self.run_guest("disk.elf", append="tick=5 blocks=64", memory="16M", more=("--disk", image))
        self.line(guest, r"^CORRUPT block \d+ is not written")
        self.assertTrue(guest.wait_ticks(5, 10), "it stands still")
        [disk] = guest.request("GET", "/v1/status")[1]["disks"]
        self.assertGreater(disk["errors"], 0)
        self.assertEqual(disk["last_error"], "No space left on device")
        self.assertRegex(self.godwit("status", guest.api)[1], r"disk .*disk.img, \d+ requests failed: No space left on device")
        self.mount("-o", "remount,size=1m", small)
        self.assertTrue(guest.wait_ticks(66, 20))  # every block, and one more
        errors = guest.request("GET", "/v1/status")[1]["disks"][0]["errors"]
        at = guest.out.count()
        guest.type("v")
        self.line(guest, "^verified blocks=64", 20, at)
        self.assertEqual(guest.out.find("CORRUPT", at), [])
        self.assertEqual(guest.request("GET", "/v1/status")[1]["disks"][0]["errors"], errors, "room has been made")


class LinuxRestoreTest(DevicesCase):
    def test_the_wall_clock_is_right_after_hours_in_a_snapshot(self):
        disk = self.folder / "disk"
        disk.write_bytes(bytes(8 << 20))
        guest = shell_guest.boot(self, "6.12", more=("--disk", f"{disk},serial=data-1"))
        self.assertEqual(ask(self, guest, "echo $(cat /sys/block/vda/serial)"), "data-1")
        off, up = self.clocks(guest)
        self.assertLessEqual(abs(off), 3)
        self.assertEqual(self.godwit("snapshot", guest.api, self.folder / "snapshot", seconds=60)[0], 0)
        self.assertEqual(self.godwit("stop", guest.api, "--force")[0], 0)
        self.ended(guest, 0)
        # Two hours later, as far as anyone here can tell.
        self.addCleanup(lambda: time.clock_settime(time.CLOCK_REALTIME, time.time() - 7200))
        time.clock_settime(time.CLOCK_REALTIME, time.time() + 7200)
        restored = self.restore(self.folder / "snapshot", name="web2")
        off, later = self.clocks(restored)
        self.assertLessEqual(abs(off), 3, "seconds off")
        self.assertGreaterEqual(later, up + 7200, "it has gone on, and not back")
        self.assertLess(later, up + 7200 + 120)
        off, last = self.clocks(restored)
        self.assertGreaterEqual(last, later)
        self.assertEqual(ask(self, restored, "dmesg | grep -iE 'stall|lockup|BUG:|WARNING' || true"), "")


if __name__ == "__main__":
    unittest.main(verbosity=2)
