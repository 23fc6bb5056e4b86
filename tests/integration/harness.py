"""What the integration tests share: processes that cannot outlive their test, consoles that are read as they
come, and waits that always end.

GODWIT_BUILD names the build directory (CTest sets it); otherwise it is the one built last.
"""

import ctypes
import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import termios
import threading
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def last_build():
    """Of build/release and build/debug."""
    made = {b: b.joinpath("godwit").stat().st_mtime for b in (ROOT / "build/release", ROOT / "build/debug") if (b / "godwit").exists()}
    return max(made, key=made.get, default=ROOT / "build/debug")


BUILD = Path(os.environ.get("GODWIT_BUILD") or last_build())
GODWIT = BUILD / "godwit"
GUESTS = BUILD / "guests"
# Everything is slower on an emulated machine, and on a busy one.
PATIENCE = float(os.environ.get("GODWIT_TEST_PATIENCE", "3" if os.environ.get("GODWIT_RUNNER") else "1"))

PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None)

def verified(words):
    """The words of a command; a move's ends compare all memory before its commit, unless it cannot or a test has
    said otherwise."""
    words = [str(w) for w in words]
    if words[0] != "migrate" or not any(w == "--to" or w.startswith("--to=") for w in words):
        return words
    if "--no-verify" in words:  # a word of these tests alone
        return [w for w in words if w != "--no-verify"]
    mode = words[words.index("--mode") + 1] if "--mode" in words else "precopy"
    return words if mode != "precopy" or "--verify" in words or "--dry-run" in words else [*words, "--verify"]


class Lines:
    """Lines of a stream with the time each came (CLOCK_MONOTONIC), and waiting for one."""

    def __init__(self, stream):
        self.lines, self.times, self.open = [], [], True
        self.rest = b""  # of a line that has not ended yet
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self.thread.start()

    def _read(self, stream):
        data = b"-"
        while data:
            try:
                data = os.read(stream.fileno(), 65536)
            except (OSError, ValueError):
                data = b""
            now = time.monotonic()
            with self.changed:
                *whole, self.rest = (self.rest + data).split(b"\n")
                for line in whole:
                    self.lines.append(line.decode(errors="replace").strip("\r"))
                    self.times.append(now)
                self.open = bool(data)
                self.changed.notify_all()
        stream.close()

    def count(self):
        with self.changed:
            return len(self.lines)

    def text(self):
        """Everything so far, the unfinished line included."""
        with self.changed:
            return "\n".join([*self.lines, self.rest.decode(errors="replace")])

    def find(self, pattern, start=0):
        with self.changed:
            return [m for line in self.lines[start:] if (m := re.search(pattern, line))]

    def wait(self, pattern, seconds, start=0):
        """The first match in lines from `start` on; waits for it. None when time or the stream is over."""
        deadline = time.monotonic() + seconds * PATIENCE
        at = start
        with self.changed:
            while True:
                for at in range(at, len(self.lines)):
                    if m := re.search(pattern, self.lines[at]):
                        return m
                at = max(start, len(self.lines))
                left = deadline - time.monotonic()
                if not self.open or left <= 0:
                    return None
                self.changed.wait(left)


class Process:
    """One godwit (or other) process with its output as Lines."""

    def __init__(self, words, env=None, stdin=subprocess.PIPE, terminal=None):
        """`terminal` is a (master, slave) pair of a pty: its foreground process, instead of pipes."""
        self.words = [str(w) for w in words]
        stdout = subprocess.PIPE
        if terminal:
            stdin = stdout = terminal[1]

        def prepare():
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.setsid()
            if terminal:
                fcntl.ioctl(terminal[1], termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(self.words, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=env,
                                        preexec_fn=prepare)
        self.pid = self.process.pid
        self.out = Lines(os.fdopen(terminal[0], "rb", 0) if terminal else self.process.stdout)
        self.err = Lines(self.process.stderr)

    def type(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def signal(self, number):
        if self.process.poll() is None:
            self.process.send_signal(number)

    def alive(self):
        return self.process.poll() is None

    def wait(self, seconds):
        """The exit status; None when it still runs after that long."""
        try:
            status = self.process.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            return None
        self.out.thread.join(5)
        self.err.thread.join(5)
        return status

    def end(self):
        """Kills it, with those that an upgrade has put in its place, and closes everything; for clean-up only."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.err.thread.join(5)
        if self.process.stdout:  # a terminal stays open
            self.out.thread.join(5)
        if self.process.stdin:
            try:
                self.process.stdin.close()
            except OSError:
                pass

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Tick:
    """A line "tick SEQ name=value ..." of the pattern guest, the idle guest or the Linux workload."""

    def __init__(self, line, at):
        if not re.fullmatch(r"tick \d+( \w+=[\d,]+)+", line):
            raise AssertionError(f"a broken tick line: {line!r}")
        words = line.split()
        self.sequence, self.at = int(words[1]), at
        self.values = dict(w.split("=", 1) for w in words[2:])


class Guest(Process):
    """A process that runs a guest: `godwit run` or `godwit receive`."""

    def __init__(self, words, api, env=None):
        self.api = str(api)
        super().__init__(words, env)

    def ticks(self, start=0):
        with self.out.changed:
            lines = list(zip(self.out.lines, self.out.times))[start:]
        found = []
        for line, at in lines:
            if re.match(r"tick \d+ ", line):
                found.append(Tick(line, at))
        return found

    def wait_ticks(self, count, seconds):
        """Waits for that many ticks from now on. False if they do not come."""
        start = self.out.count()
        deadline = time.monotonic() + seconds * PATIENCE
        while time.monotonic() < deadline:
            if len(self.ticks(start)) >= count:
                return True
            if not self.alive():
                return False
            time.sleep(0.02)
        return False

    def request(self, method, path, body=None, seconds=60):
        """(status, parsed body) of a request to the control socket."""
        connection = http.client.HTTPConnection("godwit", timeout=seconds * PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(seconds * PATIENCE)
        try:
            connection.sock.connect(self.api)
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def state(self):
        return self.request("GET", "/v1/status")[1]["state"]


class Authority:
    """A certificate authority, and what it signs: PEM files in `folder`."""

    KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")

    def __init__(self, folder, name="ca"):
        self.files = Path(folder) / name
        self.certificate = f"{self.files}.crt"
        self._openssl("req", "-x509", *self.KEY, "-days", 2, "-subj", f"/CN={name}", "-keyout", f"{self.files}.key", "-out", self.certificate)

    def _openssl(self, *words):
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)

    def issue(self, name, *, also="", days=2):
        """A certificate, its key and this authority; `also`: alternative names, as "IP:127.0.0.1". A day ago it was over with -1 day."""
        own = f"{self.files}-{name}{days}"
        extensions = Path(f"{own}.ext")
        extensions.write_text(f"basicConstraints=CA:false\n" + (f"subjectAltName={also}\n" if also else ""))
        self._openssl("req", "-new", *self.KEY, "-subj", f"/CN={name}", "-keyout", f"{own}.key", "-out", f"{own}.csr")
        self._openssl("x509", "-req", "-in", f"{own}.csr", "-CA", self.certificate, "-CAkey", f"{self.files}.key", "-CAcreateserial",
                      "-days", days, "-extfile", extensions, "-out", f"{own}.crt")
        return {"ca": self.certificate, "certificate": f"{own}.crt", "key": f"{own}.key"}


def tls_words(files):
    """The options of these files."""
    return ["--tls-cert", files["certificate"], "--tls-key", files["key"], "--tls-ca", files["ca"]]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def failed(case):
    """Whether a test has failed; for its tearDown."""
    result = case._outcome.result
    return any(test is case for test, _ in result.failures + result.errors) or any(
        error for test, error in getattr(case._outcome, "errors", []) if test is case and error)


class Case(unittest.TestCase):
    """A test with a folder of its own, whose processes are killed at its end, passed or failed."""

    maxDiff = None

    def setUp(self):
        if not GODWIT.exists():
            self.fail(f"{GODWIT} is not built")
        self.folder = Path(tempfile.mkdtemp(prefix="godwit-test-"))
        self.processes = []
        # Sockets go to the folder, not to the host's /run/godwit.
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(self.folder)}
        self.prepare()

    def prepare(self):
        """What a case needs before its own setUp() goes on."""

    def tearDown(self):
        for process in self.processes:
            process.end()
        if failed(self):
            for process in self.processes:
                self._show(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _show(process):
        print(f"\n---- {' '.join(process.words)}\n---- exit {process.process.returncode}, its output:")
        for lines, name in ((process.out.lines, "out"), (process.err.lines, "err")):
            shown = lines if len(lines) <= 60 else [*lines[:20], f"... {len(lines) - 60} lines ...", *lines[-40:]]
            for line in shown:
                print(f"  {name}: {line}")

    # -- starting

    def keep(self, process):
        self.processes.append(process)
        return process

    def start(self, *words):
        """`godwit WORD...` in the background."""
        return self.keep(Process([GODWIT, *verified(words)], self.env))

    def godwit(self, *words, seconds=20):
        """`godwit WORD...` to its end: (status, stdout, stderr)."""
        process = self.keep(Process([GODWIT, *verified(words)], self.env, stdin=subprocess.DEVNULL))
        status = process.wait(seconds)
        self.assertIsNotNone(status, f"godwit {' '.join(map(str, words))} does not end")
        return status, process.out.text(), process.err.text().rstrip("\n")

    def run_guest(self, kernel="idle.elf", *, name="web1", append="", memory="64M", cpus=1, api=None, more=()):
        api = api or self.folder / f"run-{len(self.processes)}.sock"
        kernel = GUESTS / kernel if "/" not in str(kernel) else kernel
        words = [GODWIT, "run", "--name", name, "--kernel", kernel, "--append", append, "--memory", memory,
                 "--cpus", cpus, "--api", api, *more]
        return self.keep(Guest(words, api, self.env))

    def restore(self, directory, *, name, more=()):
        api = self.folder / f"restore-{len(self.processes)}.sock"
        return self.keep(Guest([GODWIT, "restore", directory, "--name", name, "--api", api, *more], api, self.env))

    def receive(self, *, listen="127.0.0.1:0", more=(), api=None):
        """`godwit receive`, once it listens; its `address` is HOST:PORT."""
        api = api or self.folder / f"receive-{len(self.processes)}.sock"
        guest = self.keep(Guest([GODWIT, "receive", "--listen", listen, "--api", api, *more], api, self.env))
        guest.address = self.message(guest, r"^godwit: receive: listening on (\S+)$", 10)[1]
        return guest

    # -- checking

    def wait_for(self, what, condition, seconds):
        """Waits until condition() is true; fails otherwise."""
        deadline = time.monotonic() + seconds * PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                self.fail(f"{what}: not within {seconds * PATIENCE:g} s")
            time.sleep(0.02)

    def line(self, guest, pattern, seconds=20, start=0):
        """The first match on the guest's console, waited for."""
        match = guest.out.wait(pattern, seconds, start)
        self.assertIsNotNone(match, f"no line like {pattern!r} on the console")
        return match

    def message(self, guest, pattern, seconds=20):
        match = guest.err.wait(pattern, seconds)
        self.assertIsNotNone(match, f"no line like {pattern!r} on stderr:\n{guest.err.text()}")
        return match

    def ended(self, process, status, seconds=20):
        found = process.wait(seconds)
        self.assertIsNotNone(found, f"{' '.join(process.words[:3])} still runs")
        self.assertEqual(found, status, process.err.text())

    def console(self, *guests):
        """What a guest printed on one host after the other: the stop may come in the middle of a line."""
        return "".join(guest.out.text() for guest in guests).split("\n")

    def no_corruption(self, *guests):
        for guest in guests:
            self.assertEqual([m.string for m in guest.out.find("CORRUPT")], [])

    def all_ticks(self, *guests):
        return [Tick(line, 0) for line in self.console(*guests)[:-1] if line.startswith("tick ")]

    def no_lost_tick(self, *guests):
        """The consoles of the hosts a guest was on, one after the other, show every tick once."""
        sequences = [tick.sequence for tick in self.all_ticks(*guests)]
        self.assertGreater(len(sequences), 0, "no tick at all")
        jumps = [f"{a}, {b}" for a, b in zip(sequences, sequences[1:]) if b != a + 1]
        self.assertEqual(jumps, [], "ticks lost or printed twice")

    def one_line(self, text):
        """A complaint is one line that names the program."""
        self.assertRegex(text, r"\Agodwit: [^\n]+\n?\Z")
