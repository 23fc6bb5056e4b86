"""Debian's kernels with the workload as /init: what boots, and what is asked of it on its console."""

import functools
import os
import subprocess
from pathlib import Path

from harness import BUILD, GUESTS, ROOT


@functools.cache
def kernel(version):
    """(bzImage, initramfs) of Debian's 6.1 or 6.12."""
    tree = subprocess.run([ROOT / "ci/kernel", version], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    initramfs = subprocess.run([ROOT / "tests/guests/linux/initramfs", version, GUESTS / "workload"], check=True,
                               stdout=subprocess.PIPE, text=True).stdout.strip()
    return Path(tree) / "vmlinuz", Path(initramfs)


# quiet: what the kernel prints goes between the lines of the workload; dmesg shows it later.
# tsc=unstable: the runner's TSC is emulated; the kernel's watchdog finds out sooner or later, moved or not, and says
# so. What it says of kvm-clock, the clock source in use, still counts.
COMMAND_LINE = "console=ttyS0 quiet loglevel=3 mitigations=off tsc=unstable"

# An emulated TSC is not synchronised between CPUs: told at boot, nothing to do with Godwit.
AT_BOOT = ("Marking TSC unstable due to TSCs unsynchronized", "Marking TSC unstable due to boot parameter", "ommand line: ",
           "Unstable clock detected", "TSC unstable")


def boot(case, version, *, cpus=1, memory="256M", append="", disk=None, more=()):
    image, initramfs = kernel(version)
    disks = ("--disk", disk) if disk else ()
    append = f"{COMMAND_LINE} {append}" + (" disk=/dev/vda" if disk else "")
    return case.run_guest(image, append=append, memory=memory, cpus=cpus, more=("--initrd", initramfs, *disks, *more))


def ask(case, guest, command, answer, seconds=30):
    """Types a line; the match of the answer's line."""
    start = guest.out.count()
    guest.type(command + "\n")
    return case.line(guest, answer, seconds, start)


def complaints(case, guest):
    """What the guest's kernel complained of, without what an emulated machine has at boot."""
    start = guest.out.count()
    ask(case, guest, "dmesg", "^dmesg end")
    return [m.string for m in guest.out.find("^dmesg: ", start) if not any(known in m.string for known in AT_BOOT)]


def check_disk_image(case, path, written):
    """From outside: every 64 KiB block is either untouched or one whole write of the workload."""
    blocks = 0
    with path.open("rb") as image:
        for number in range(path.stat().st_size // 65536):
            words = memoryview(image.read(65536)).cast("Q")
            if words[0] == words[-1] == 0:
                continue
            generation = words[0] >> 48
            case.assertGreater(generation, 0)
            for i in (0, 1, 511, 512, 4095, 8191):
                case.assertEqual(words[i], generation << 48 | number << 16 | i, f"block {number} of the image")
            blocks += 1
    case.assertGreaterEqual(blocks, min(written, 256) - 1)
