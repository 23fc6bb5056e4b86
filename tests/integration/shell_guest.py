"""A Linux guest with busybox as all of its user space: each line typed at its console is run as a command."""

import importlib.machinery
import importlib.util
import subprocess

from harness import GUESTS, ROOT
from linux_guest import COMMAND_LINE

MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "virtio_balloon", "vmw_vsock_virtio_transport", "virtio_console", "pvpanic_mmio", "button",
           "evdev")


def initramfs(version):
    path = str(ROOT / "tests/guests/linux/initramfs")
    loader = importlib.machinery.SourceFileLoader("initramfs", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("initramfs", loader))
    loader.exec_module(module)
    return module.build(version, ROOT / "tests/guests/linux/shell_init", MODULES, (("bin/busybox", "/bin/busybox"), ("bin/vsock", GUESTS / "vsock")))


def boot(case, version, *, address="", memory="256M", cpus=1, more=()):
    append = f"{COMMAND_LINE} panic=-1" + (f" address={address}" if address else "")
    guest = case.run_guest(f"{host(ROOT / 'ci/kernel', version).strip()}/vmlinuz", append=append, memory=memory, cpus=cpus,
                           more=("--initrd", initramfs(version), *more))
    case.line(guest, "^ready", 60)
    return guest


def start(guest, command):
    """Types a command; what to give to answer()."""
    at = guest.out.count()
    guest.type(command + "\n")
    return at


def answer(case, guest, at, seconds=60):
    """What the command printed; fails unless it ended with status 0."""
    status = case.line(guest, r"^done (\d+)", seconds, at)
    with guest.out.changed:
        lines = guest.out.lines[at:]
    text = "\n".join(lines[:next(i for i, line in enumerate(lines) if line.startswith("done "))])
    case.assertEqual(status[1], "0", text)
    return text


def ask(case, guest, command, seconds=60):
    return answer(case, guest, start(guest, command), seconds)


def host(*words, check=True):
    return subprocess.run([str(w) for w in words], check=check, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
