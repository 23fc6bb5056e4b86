"""Mistakes at the command line: each is one line that says what is wrong, and a status that is not 0."""

import contextlib
import json
import os
import socket
import struct
import threading
import unittest
from pathlib import Path

from harness import GUESTS, Case, free_port

USAGE, FAILURE, MOVE_FAILED = 2, 1, 3


class BadInputTest(Case):
    def refused(self, status, says, *words, seconds=20):
        found, out, err = self.godwit(*words, seconds=seconds)
        with self.subTest(" ".join(map(str, words))):
            self.assertEqual(found, status, err)
            self.assertEqual(out, "")
            self.one_line(err)
            self.assertRegex(err, says)

    def refused_run(self, says, *words, status=USAGE):
        self.refused(status, says, "run", "--api", self.folder / "bad.sock", *words)

    def test_commands_that_do_not_exist(self):
        self.refused(USAGE, "fly", "fly")
        self.refused(USAGE, "--wings", "run", "--wings", "2")
        self.refused(USAGE, "COMMAND|command", "--nothing")

    def test_missing_arguments(self):
        self.refused(USAGE, "--name", "run", "--kernel", GUESTS / "hello.elf")
        self.refused(USAGE, "--kernel", "run", "--name", "web1")
        for command in ("status", "pause", "resume", "stop", "cancel", "migrate", "resolve"):
            self.refused(USAGE, "NAME", command)
        self.refused(USAGE, "--to", "migrate", "web1")

    def test_kernels(self):
        hello = GUESTS / "hello.elf"
        empty, text, cut, folder = (self.folder / n for n in ("empty", "text", "cut", "folder"))
        empty.touch()
        text.write_text("no kernel\n" * 1000)
        cut.write_bytes(hello.read_bytes()[:5000])
        folder.mkdir()
        for path, says in ((self.folder / "missing", "No such file"), (empty, "no kernel"), (text, "no kernel"),
                           (folder, "directory"), ("", "empty")):
            self.refused_run(says, "--name", "web1", "--kernel", path)
        self.refused_run("truncated|cut", "--name", "web1", "--kernel", cut, status=FAILURE)
        self.refused_run("PVH", "--name", "web1", "--kernel", "/bin/true", status=FAILURE)
        bzimage = self.folder / "bzimage"
        bzimage.write_bytes(bytes(0x1f1) + b"\x04" + bytes(0x202 - 0x1f2) + b"HdrS\x0f\x02" + bytes(4096))
        self.refused_run("bzimage", "--name", "web1", "--kernel", bzimage, status=FAILURE)

    def test_memory(self):
        for size, says in (("0", "small"), ("1M", "small"), ("17T", "more than"), ("3000001", "unit"), ("3M", "multiple"), ("-1", "--memory"),
                           ("lots", "--memory"), ("", "--memory"), ("99999999999999999999G", "--memory"),
                           ("16E", "--memory")):
            self.refused_run(says, "--name", "web1", "--kernel", GUESTS / "hello.elf", f"--memory={size}")
        # Too little for what is to be loaded.
        self.refused_run("memory|RAM|fit", "--name", "web1", "--kernel", GUESTS / "hello.elf", "--memory", "2M",
                         "--initrd", self.big_file(), status=FAILURE)

    def big_file(self):
        path = self.folder / "big"
        with path.open("wb") as f:
            f.truncate(1 << 30)
        return path

    def test_cpus_names_and_consoles(self):
        good = ("--name", "web1", "--kernel", GUESTS / "hello.elf")
        for cpus in ("0", "17", "-1", "two", "1.5", ""):
            self.refused_run("--cpus", *good, f"--cpus={cpus}")
        for name in ("", ".hidden", "-x", "a/b", "x" * 65, "sp ace", "new\nline"):
            self.refused_run("--name", f"--name={name}", "--kernel", GUESTS / "hello.elf")
        for console in ("screen", "file:", ""):
            self.refused_run("--console", *good, f"--console={console}")
        self.refused_run("--append", *good, "--append", "x" * 5000)

    def test_what_only_the_host_can_refuse_names_the_flag_too(self):
        good, nowhere = ("run", "--name", "web1", "--kernel", GUESTS / "hello.elf"), f"{self.folder}/no/such/folder"
        api = ("--api", self.folder / "bad.sock")
        for flag, value in (("console", f"file:{nowhere}/log"), ("hvc", f"file:{nowhere}/log"), ("net", "tap=lo"),
                            ("net", "tap=gw-none,bridge=no-such-bridge"), ("vsock", f"cid=5,path={nowhere}/vsock")):
            self.refused(FAILURE, f"--{flag}: .*({nowhere}|lo|no-such-bridge)", *good, *api, f"--{flag}", value)
        self.refused(FAILURE, f"--api: {nowhere}: No such file", *good, "--api", f"{nowhere}/web1.sock")
        self.refused(FAILURE, f"--api: {nowhere}: No such file", "receive", "--listen", "127.0.0.1:0", "--api", f"{nowhere}/web1.sock")
        if self.lacks_cpu_features():
            self.refused(FAILURE, "--cpu: .*x86-64-v4: it lacks ", *good, *api, "--cpu", "x86-64-v4")
        self.refused(FAILURE, "--hugepages: .*vm.nr_hugepages", *good, *api, "--hugepages", "--memory", "4G")

    def lacks_cpu_features(self):
        flags = set(Path("/proc/cpuinfo").read_text().split())
        return "avx512bw" not in flags or not flags & {"vmx", "svm"}  # KVM without those emulates few instructions

    def test_disks(self):
        good = ("--name", "web1", "--kernel", GUESTS / "hello.elf")
        self.refused_run("No such file", *good, "--disk", self.folder / "missing.img")
        self.refused_run("directory", *good, "--disk", f"{self.folder},readonly")
        self.refused_run("/dev/null", *good, "--disk", "/dev/null")
        image = self.folder / "disk.img"
        image.write_bytes(bytes(1 << 20))
        self.refused_run("twice", *good, "--disk", image, "--disk", image)
        holder = self.run_guest("idle.elf", more=("--disk", image))
        self.line(holder, "tick 1 ")
        self.refused_run("--disk: .*disk.img", *good, "--disk", image, status=FAILURE)
        self.assertTrue(holder.wait_ticks(1, 10))

    def test_configuration_files(self):
        path = self.folder / "web1.ini"
        for content, says in (("nonsense", "--config"), ("name = web1\nwings = 2\n", "wings"), ("memory = ", "--")):
            path.write_text(content)
            self.refused_run(says, "--config", path, "--kernel", GUESTS / "hello.elf")
        self.refused_run("--config", "--config", self.folder / "missing.ini")
        self.refused_run("--config", "--config", self.folder)

    def test_guests_that_are_not_there(self):
        nowhere = self.folder / "nobody.sock"
        for words in (("status",), ("pause",), ("resume",), ("stop",), ("cancel",), ("resolve", "--here"),
                      ("migrate", "--to", "127.0.0.1:1")):
            self.refused(FAILURE, "nobody", *words, nowhere)
            self.refused(FAILURE, "no-such-guest", *words, "no-such-guest")
        file = self.folder / "file.sock"
        file.write_text("no socket")
        self.refused(FAILURE, "file", "status", file)

    def test_sockets_of_others(self):
        path = self.folder / "other.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()

            def answer():
                for _ in range(2):
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(b"SSH-2.0-nonsense\r\n")

            threading.Thread(target=answer, daemon=True).start()
            self.refused(FAILURE, "other", "status", path)
            self.refused(FAILURE, "other", "pause", path)


class HelloChanger:
    """Between a source and its destination: adds two features that no host of ours has to what the guest uses
    (CPUID leaf 7: of Xeon Phi)."""

    FRAME = struct.Struct("<IIIIQ")  # migration/protocol.h: magic, kind, marker, reserved, length
    PREAMBLE = 16

    def __init__(self, to):
        host, port = to.rsplit(":", 1)
        self.to = host, int(port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self.run, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()

    def run(self):
        with self.listener.accept()[0] as near, socket.create_connection(self.to) as far, near.makefile("rb", buffering=0) as source:
            back = threading.Thread(target=self.pass_on, args=(far, near))
            back.start()
            far.sendall(self.exactly(source, self.PREAMBLE))
            *head, length = self.FRAME.unpack(self.exactly(source, self.FRAME.size))
            payload = self.changed(self.exactly(source, length))
            far.sendall(self.FRAME.pack(*head, len(payload)) + payload)
            self.pass_on(near, far)
            back.join()

    @staticmethod
    def changed(hello):
        hello = json.loads(hello)
        requirements = json.loads(hello["requirements"])
        leaf = next((entry for entry in requirements["cpuid"] if entry[:2] == [7, 0]), None)
        if leaf is None:
            requirements["cpuid"].append(leaf := [7, 0, 1, 0, 0, 0, 0])
        leaf[6] |= 1 << 2 | 1 << 3
        hello["requirements"] = json.dumps(requirements)
        return json.dumps(hello).encode()

    @staticmethod
    def exactly(stream, size):
        data = b""
        while len(data) < size and (more := stream.read(size - len(data))):
            data += more
        return data

    @staticmethod
    def pass_on(here, there):
        with contextlib.suppress(OSError):
            while data := here.recv(1 << 16):
                there.sendall(data)
            there.shutdown(socket.SHUT_WR)


class BadMoveTest(Case):
    """Mistakes around a move: the guest goes on."""

    def refused(self, guest, status, says, *words, seconds=30):
        found, _, err = self.godwit("migrate", guest.api, *words, seconds=seconds)
        with self.subTest(" ".join(map(str, words))):
            self.assertEqual(found, status, err)
            self.assertRegex(err, says)
            self.assertLessEqual(err.count("\n"), 0, err)
        self.assertEqual(guest.state(), "running")
        self.assertTrue(guest.wait_ticks(2, 5), "the guest stands still")

    def setUp(self):
        super().setUp()
        self.guest = self.run_guest("pattern.elf", append="mib=2 rate=4 tick=50")
        self.line(self.guest, "tick 1 ")

    def tearDown(self):
        self.no_lost_tick(self.guest)
        self.no_corruption(self.guest)
        super().tearDown()

    def test_addresses(self):
        for to in ("", "host", "127.0.0.1:", ":1", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", "[::1:5"):
            found, _, err = self.godwit("migrate", self.guest.api, f"--to={to}")
            with self.subTest(to):
                self.assertIn(found, (1, 2, 3), err)
                self.one_line(err)

    def test_options(self):
        to = ("--to", "127.0.0.1:9")
        for words in (("--transport", "pigeon"), ("--downtime-limit", "soon"), ("--timeout", "-1s"),
                      ("--max-bandwidth", "fast"), ("--max-bandwidth", "1Gbyte")):
            self.refused(self.guest, USAGE, words[0], *to, *words)

    def test_nobody_listens(self):
        self.refused(self.guest, MOVE_FAILED, "refused|connect", "--to", f"127.0.0.1:{free_port()}")

    def test_a_peer_that_is_not_godwit(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            def answer():
                while True:
                    try:
                        connection, _ = server.accept()
                    except OSError:
                        return
                    with connection:
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" * 10)
                        connection.recv(4096)

            threading.Thread(target=answer, daemon=True).start()
            self.refused(self.guest, MOVE_FAILED, "Godwit|godwit", "--to", f"127.0.0.1:{server.getsockname()[1]}")

    def test_a_host_that_lacks_what_the_guest_uses_names_all_of_it(self):
        there = self.receive()
        with HelloChanger(there.address) as changer:
            self.refused(self.guest, MOVE_FAILED, r"refused: this host lacks what the guest uses: avx512_4vnniw \(7.0.edx\[2\]\), "
                         r"avx512_4fmaps \(7.0.edx\[3\]\); ", "--to", changer.address)
        self.ended(there, FAILURE)
        self.assertIn("this host lacks what the guest uses", there.err.text())

    def test_a_peer_that_says_nothing(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.refused(self.guest, MOVE_FAILED, "time|answer", "--to", f"127.0.0.1:{server.getsockname()[1]}",
                         "--timeout", "2s")

    def test_a_busy_port(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            found, out, err = self.godwit("receive", "--listen", f"127.0.0.1:{port}", "--api", self.folder / "r.sock")
            self.assertEqual((found, out), (FAILURE, ""))
            self.one_line(err)
            self.assertIn("in use", err)

    def test_bad_listeners(self):
        self.one_line(self.godwit("receive")[2])
        for listen in ("", "nowhere", "127.0.0.1:", "127.0.0.1:99999", "192.0.2.77:7000", "no.such.host.invalid:7000"):
            found, out, err = self.godwit("receive", f"--listen={listen}", "--api", self.folder / "r.sock")
            with self.subTest(listen):
                self.assertIn(found, (FAILURE, USAGE), err)
                self.one_line(err)

    def test_strangers_at_the_listener(self):
        """Whatever a stranger sends ends in one line, never in a crash; the place is kept."""
        for junk in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\0" * 65536, b"\xff" * 65536):
            destination = self.receive()
            host, port = destination.address.rsplit(":", 1)
            with socket.create_connection((host, int(port))) as s:
                try:
                    s.sendall(junk)
                    s.shutdown(socket.SHUT_WR)
                    s.settimeout(20)
                    while s.recv(65536):
                        pass
                except OSError:
                    pass
            with self.subTest(junk[:16]):
                self.assertIsNotNone(destination.err.wait("still listening$", 20), destination.err.text())
                self.assertEqual(len(destination.err.text().strip().splitlines()), 2)
                self.assertTrue(destination.alive(), destination.err.text())


if __name__ == "__main__":
    unittest.main(verbosity=2)
