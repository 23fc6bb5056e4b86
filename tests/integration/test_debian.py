"""A real Debian on a disk of its own (ci/rootfs): to the login prompt, writing, and off by the power button."""

import hashlib
import re
import subprocess
import unittest

from harness import ROOT, Case


def ci(*words):
    return subprocess.run([ROOT / "ci" / words[0], *words[1:]], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


class DebianCase(Case):
    def boot(self, version, cpus, block_device=False, append="", more=()):
        self.disk = self.folder / "disk.img"
        subprocess.run(["cp", "--sparse=always", ci("rootfs"), self.disk], check=True)
        if block_device:
            self.disk = subprocess.run(["losetup", "--find", "--show", self.disk], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
            self.addCleanup(subprocess.run, ["losetup", "--detach", self.disk], check=True)
        guest = self.run_guest(f"{ci('kernel', version)}/vmlinuz", append=f"console=ttyS0 panic=-1 quiet {append}", memory="512M", cpus=cpus,
                               more=["--initrd", ci("rootfs", "--initrd", version), "--disk", f"{self.disk},cache=none" if block_device else self.disk, *more])
        self.line(guest, "^Debian GNU/Linux 12 .* ttyS0", 120)
        # The prompt itself ends without a line; what is typed too early is lost, as on any terminal.
        for _ in range(20):
            guest.type("root\n")
            if guest.out.wait("login: root", 2):
                break
        self.line(guest, r"ABSOLUTELY NO WARRANTY", 60)
        return guest

    def shell(self, guest, command, seconds=60):
        """What `command` prints at the guest's prompt."""
        start = guest.out.count()
        guest.type(f"{command}; echo; echo end''-of-it\n")
        self.line(guest, "^end-of-it", seconds, start)
        with guest.out.changed:
            lines = guest.out.lines[start:]
        return "\n".join(lines[:[i for i, line in enumerate(lines) if line.startswith("end-of-it")][0]])

    def file_on_disk(self, path):
        return subprocess.run(["debugfs", "-R", f"cat {path}", self.disk], check=True, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL).stdout

    def keeps_what_it_writes(self, version, cpus, block_device=False):
        guest = self.boot(version, cpus, block_device)
        output = self.shell(guest, "dd if=/dev/urandom of=/big bs=1M count=24 && sync && echo 3 > /proc/sys/vm/drop_caches && sha256sum /big")
        digest = re.search(r"\b([0-9a-f]{64})\b", output).group(1)
        self.assertIn("trimmed", self.shell(guest, "fstrim -v /"))
        self.assertIn("godwit-disk0", self.shell(guest, "cat /sys/block/vda/serial"))
        complaints = self.shell(guest, "dmesg | grep -iE 'i/o error|stall|lockup|hung task|BUG:|WARNING: CPU'")
        self.assertNotRegex(complaints, r"\[ *\d+\.\d+\]")
        status, _, err = self.godwit("stop", guest.api, seconds=60)
        self.assertEqual(status, 0, err)
        self.ended(guest, 0, 60)
        check = subprocess.run(["e2fsck", "-fn", self.disk], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertEqual(check.returncode, 0, check.stdout)
        self.assertEqual(hashlib.sha256(self.file_on_disk("/big")).hexdigest(), digest)


class Debian61Test(DebianCase):
    def test_it_boots_logs_in_and_keeps_what_it_writes(self):
        self.keeps_what_it_writes("6.1", 1)


class Debian612Test(DebianCase):
    def test_it_boots_from_a_block_device_past_the_page_cache_and_keeps_what_it_writes(self):
        self.keeps_what_it_writes("6.12", 2, block_device=True)


if __name__ == "__main__":
    unittest.main()
