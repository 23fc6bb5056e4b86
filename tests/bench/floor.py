"""What the device and the kernel take for what a move cannot do without, measured beside the moves."""

import ctypes
import mmap
import os
import re
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from harness import free_port

MIB = 1 << 20
ACCESS = 1 | 2 | 4  # IBV_ACCESS_LOCAL_WRITE, _REMOTE_WRITE, _REMOTE_READ


def touch_memory(most_mib=1 << 20):
    """What a virtual machine touches for the first time, or has given back to its own host (free page reporting: within seconds of being freed),
    costs it many times as much: nearly all that is free, or so many MiB, has been touched then."""
    available = int(re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024
    size = min(available * 4 // 5 // mmap.PAGESIZE * mmap.PAGESIZE, most_mib * MIB)
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 1, size)


def registration_ms(mib, address):
    """Milliseconds to register so many MiB of a memfd that was never touched, as one memory region, with the device of `address`."""
    verbs = ctypes.CDLL("libibverbs.so.1", use_errno=True)
    for name in ("ibv_get_device_list", "ibv_open_device", "ibv_alloc_pd", "ibv_reg_mr"):
        getattr(verbs, name).restype = ctypes.c_void_p
    verbs.ibv_get_device_name.restype = ctypes.c_char_p
    devices = ctypes.cast(verbs.ibv_get_device_list(None), ctypes.POINTER(ctypes.c_void_p))
    wanted = device_of(address).encode()
    index = next(i for i in range(64) if devices[i] and verbs.ibv_get_device_name(ctypes.c_void_p(devices[i])) == wanted)
    context = verbs.ibv_open_device(ctypes.c_void_p(devices[index]))
    domain = verbs.ibv_alloc_pd(ctypes.c_void_p(context))
    size = mib * MIB
    fd = os.memfd_create("floor")
    os.ftruncate(fd, size)
    try:
        with mmap.mmap(fd, size) as memory:
            view = (ctypes.c_char * size).from_buffer(memory)
            began = time.monotonic()
            region = verbs.ibv_reg_mr(ctypes.c_void_p(domain), ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(size), ACCESS)
            took = (time.monotonic() - began) * 1000
            del view
            if not region:
                raise RuntimeError(f"ibv_reg_mr: {os.strerror(ctypes.get_errno())}")
            verbs.ibv_dereg_mr(ctypes.c_void_p(region))
    finally:
        os.close(fd)
        verbs.ibv_dealloc_pd(ctypes.c_void_p(domain))
        verbs.ibv_close_device(ctypes.c_void_p(context))
    return took


@contextmanager
def fresh_memory(mib):
    """So many MiB (an even number) of a memfd that were made (cleared) just now, in pages of 2 MiB; and the milliseconds of CPU which that took the kernel."""
    collapse, fixed = 25, 0x10  # MADV_COLLAPSE: whatever the machine's setting for huge pages is; MAP_FIXED
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    size = mib * MIB
    with mmap.mmap(-1, size + 2 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as room:  # what it has is gone with it
        begin = -(-ctypes.addressof(ctypes.c_char.from_buffer(room)) // (2 * MIB)) * 2 * MIB
        fd = os.memfd_create("floor")
        try:
            os.ftruncate(fd, size)
            if libc.mmap(begin, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | fixed, fd, 0) != begin:
                raise OSError(ctypes.get_errno(), "mmap")
        finally:
            os.close(fd)
        with memoryview((ctypes.c_char * size).from_address(begin)).cast("B") as memory:
            began = time.thread_time()
            for block in range(0, size, 2 * MIB):  # it takes one page of each that is there
                memory[block] = 0
            if libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), collapse) != 0:
                raise OSError(ctypes.get_errno(), "MADV_COLLAPSE")
            yield memory, (time.thread_time() - began) * 1000


def making_cpu_ms(mib):
    """What no cold destination can save."""
    with fresh_memory(mib) as (_, milliseconds):
        return milliseconds


def tcp_cpu_s(mib, address):
    """Seconds of CPU of both ends of one connection over which so many MiB are copied into memory that is made for them: a move that copies at both ends
    takes that beside all else."""
    def send(connection):
        began, block = time.thread_time(), memoryview(bytes(MIB))
        with connection:
            for _ in range(mib):
                connection.sendall(block)
        return time.thread_time() - began

    with socket.create_server((address, 0)) as server, ThreadPoolExecutor(1) as pool, fresh_memory(mib) as (memory, milliseconds):
        server.settimeout(60)
        sender = pool.submit(send, socket.create_connection(server.getsockname(), timeout=60))
        began, at = time.thread_time(), 0
        with server.accept()[0] as connection:
            while at < len(memory):
                count = connection.recv_into(memory[at:at + MIB], 0, socket.MSG_WAITALL)
                if count == 0:
                    raise RuntimeError(f"the connection ended after {at} bytes")
                at += count
        return time.thread_time() - began + milliseconds / 1000 + sender.result()


def device_of(address):
    """The RDMA device whose network interface has the address."""
    lines = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout.splitlines()
    interface = next(line.split()[1] for line in lines if f" {address}/" in line)
    links = subprocess.run(["rdma", "link"], capture_output=True, text=True, check=True).stdout
    return re.search(rf"link (\S+)/\d+ .*netdev {interface}\b", links)[1]


def overlapped_ms(mib, address):
    """Milliseconds until both are done when they are begun together: what the machine's CPUs leave to be gained by that."""
    with ThreadPoolExecutor(1) as pool:
        begun = []
        rate = write_mib_per_s(mib, address, lambda: begun.append(pool.submit(registration_ms, mib, address)))
        return max(begun[-1].result(), mib / rate * 1000)


def write_mib_per_s(mib, address, beside=lambda: None):
    """What ib_write_bw reaches with messages of 1 MiB on one queue pair, over so many MiB. `beside` is called just before."""
    words = ["ib_write_bw", "-d", device_of(address), "-s", str(MIB), "-n", str(mib), "-p", str(free_port()), "-F"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            time.sleep(1)  # until it listens
            beside()
            for _ in range(100):
                client = subprocess.run([*words, address], capture_output=True, text=True, timeout=300)
                if match := re.search(r"^ *1048576 +\d+ +[\d.]+ +([\d.]+)", client.stdout, re.MULTILINE):
                    return float(match[1])
                time.sleep(0.2)
            raise RuntimeError(f"ib_write_bw: {client.stdout}{client.stderr}")
        finally:
            server.kill()
