"""Nodes that balance, drain, die and lie: three on this machine, each at a loopback address of its own, with a
capacity of its own and small guests."""

import http.client
import http.server
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

from harness import BUILD, GODWIT, GUESTS, PATIENCE, ROOT, Authority, Guest, Process, failed, verified
from proxy import Proxy

HOLD = 2.0  # seconds that a load must last: hot_k samples of 100 ms
POLICY = {"hot_n": 25, "hot_k": 20, "slow_samples": 40, "cooldown_seconds": 600, "settle_seconds": 1, "horizon_seconds": 600}
DECIDES_NOTHING = {"policy": {**POLICY, "work_per_imbalance": 0}}  # of a node that is not overloaded, but takes part in what others decide


class Node:
    env = None  # this process's own

    def __init__(self, case, name, address, **more):
        self.case, self.name, self.address = case, name, address
        self.folder = case.folder / name
        self.folder.mkdir()
        self.config = {"name": name, "listen": address, "insecure": "tls" not in more, "directory": str(self.folder / "lib"), "runtime": str(self.folder / "run"),
                       "interval": "100ms", "reservation": "3s", "cpus": 1.5, "memory": "1G", "policy": POLICY, **more}
        self.socket = self.folder / "run/node.api"

    def start(self, peers):
        self.config["peers"] = [{"name": p.name, "address": p.address} for p in peers]
        path = self.folder / "node.json"
        path.write_text(json.dumps(self.config))
        self.process = Process(self.words(), env=self.env)
        self.case.assertIsNotNone(self.process.err.wait("is ready", 20), self.process.err.text())

    def words(self):
        return [GODWIT, "node", "--config", self.folder / "node.json"]

    def run(self, command, *words):
        return subprocess.run([GODWIT, *verified([command, "--node", self.socket, *words])], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=140 * PATIENCE)

    def get(self, target="/v1/node"):
        return json.loads(self.text(target))

    def text(self, target):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10 * PATIENCE)
            s.connect(str(self.socket))
            s.sendall(f"GET {target} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            while piece := s.recv(65536):
                answer += piece
        return answer.partition(b"\r\n\r\n")[2]

    def peer_host(self, name):
        return next((p for p in self.get()["peers"] if p["name"] == name), {})

    def guests(self):
        return {g["name"]: g for g in self.get()["guests"]}

    def boot(self, name, *words, kernel="pattern.elf", append="mib=4 rate=0 tick=200", memory="32M"):
        done = self.run("start", "--name", name, "--kernel", GUESTS / kernel, "--append", append, "--memory", memory, *words)
        self.case.assertEqual(done.returncode, 0, done.stderr)

    def guest_call(self, name, method, target):
        connection = http.client.HTTPConnection("guest")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.folder / "run" / f"{name}.sock"))
        try:
            connection.request(method, target)
            return connection.getresponse().status
        finally:
            connection.close()

    def boot_load(self, name, percent=0):
        """A guest whose load() is set from outside, wherever it is by then."""
        self.load(name, percent)
        self.boot(name, "--disk", self.case.folder / f"{name}.img", kernel="load.elf", append="")

    def load(self, name, percent):
        """Of its vCPU."""
        path = self.case.folder / f"{name}.img"
        if not path.exists():
            path.write_bytes(bytes(4096))
        with path.open("r+b") as image:
            image.write(b"%d\0" % percent)

    def post(self, target, body):
        connection = http.client.HTTPConnection("node")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(30 * PATIENCE)
        connection.sock.connect(str(self.socket))
        try:
            connection.request("POST", target, json.dumps(body))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def moves(self):
        return [d for d in self.get("/v1/decisions") if d["action"] in ("move", "swap")]

    def show(self):
        """What it said and decided, for who reads of a failure afterwards."""
        print(f"---- node {self.name}:")
        if not hasattr(self, "process"):
            return print("  not started")
        print(f"  exit: {self.process.process.poll()}, stderr: {self.process.err.text()}")
        for what in (lambda: self.run("explain").stdout, lambda: json.dumps(self.get())):
            try:
                print(what())
            except (OSError, ValueError, subprocess.TimeoutExpired) as error:
                print(f"  no answer: {error}")

    def end(self):
        if hasattr(self, "process"):
            self.process.end()
        for path in (self.folder / "lib/guests").glob("*.json"):
            try:
                os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)
            except (OSError, ValueError, KeyError):
                pass


@unittest.skipUnless(os.access("/dev/kvm", os.R_OK | os.W_OK), "no /dev/kvm here")
class NodeCase(unittest.TestCase):
    """Nodes that are ended with all their guests."""

    node_type = Node

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="godwit-node-"))
        self.nodes = []

    def tearDown(self):
        if failed(self):
            for node in self.nodes:
                node.show()
        for node in self.nodes:
            node.end()
        shutil.rmtree(self.folder)

    def addresses(self, names):
        for i, name in enumerate(names):
            with socket.socket() as s:
                s.bind((f"127.0.0.{i + 2}", 0))
                yield name, "%s:%d" % s.getsockname()

    def make_node(self, name, address, **more):
        return self.node_type(self, name, address, **more)

    def cluster(self, names="abc", env=None, **more):
        self.nodes = [self.make_node(name, address, **more.get(name, {})) for name, address in list(self.addresses(names))]
        for node in self.nodes:
            node.env = env
        for node in self.nodes:
            node.start([p for p in self.nodes if p is not node])
        self.eventually(lambda: all(p["state"] == "alive" for n in self.nodes for p in n.get()["peers"]), 20)
        return self.nodes

    def eventually(self, condition, seconds, what="it never happened"):
        deadline = time.monotonic() + seconds * PATIENCE
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.1)
        self.fail(what() if callable(what) else what)

    def slow_move(self, a, b):
        """A move of nine seconds or so, under way: a busy machine may see that late."""
        a.boot("g1", append="mib=4 rate=1 tick=50", memory="64M")
        # What it has not touched yet does not take long.
        self.eventually(lambda: a.guests()["g1"]["memory_used"] >= 4, 30, lambda: str(a.guests()))
        mover = Process([GODWIT, "migrate", "g1", "--to", b.name, "--node", a.socket, "--max-bandwidth", "12Mbit", "--verify"])
        self.addCleanup(mover.end)
        self.eventually(lambda: a.guests()["g1"]["state"] == "migrating", 10)
        return mover



TYPES = {"null": type(None), "boolean": bool, "string": str, "integer": int, "number": (int, float), "array": list, "object": dict}


def undescribed(schemas, schema, value, where):
    """What of an answer is not as docs/openapi-node.json says: fields and types."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rsplit("/", 1)[1]]
    types = schema.get("type", [])
    types = types if isinstance(types, list) else [types]
    if types and not any(isinstance(value, TYPES[t]) and (t == "boolean" or not isinstance(value, bool)) for t in types):
        yield f"{where} is {value!r}, not {types}"
    if value not in schema.get("enum", [value]):
        yield f"{where} is {value!r}"
    if isinstance(value, list):
        for item in value:
            yield from undescribed(schemas, schema.get("items", {}), item, f"{where}[]")
    if isinstance(value, dict) and "properties" in schema:
        fields = schema["properties"]
        yield from (f"{where}.{name} is in one of them only" for name in set(fields) ^ set(value))
        for name in set(fields) & set(value):
            yield from undescribed(schemas, fields[name], value[name], f"{where}.{name}")


class NodeTest(NodeCase):
    def test_guests_are_pinned_where_the_configuration_says_so(self):
        """Without an RDMA device the guest's process refuses, by its flag; one with a balloon is not to be pinned."""
        a, = self.cluster("a", a={"rdma_pin": True})
        done = a.run("start", "--name", "g1", "--kernel", GUESTS / "pattern.elf", "--append", "mib=4 rate=0 tick=200", "--memory", "32M")
        if os.path.exists("/sys/class/infiniband"):
            self.assertIn("--rdma-pin", Path(f"/proc/{a.guests()['g1']['pid']}/cmdline").read_text().split("\0"))
        else:
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("--rdma-pin", done.stderr)
        a.boot("g2", "--balloon")
        self.assertNotIn("--rdma-pin", Path(f"/proc/{a.guests()['g2']['pid']}/cmdline").read_text().split("\0"))

    def test_pages_are_compressed_where_the_configuration_says_so(self):
        a, b = self.cluster("ab", a={"mode": "off", "compress": True}, b={"mode": "off"})
        a.boot("g1", append="mib=12 rate=8 tick=50")
        self.eventually(lambda: a.guests()["g1"]["memory_used"] >= 12, 30, lambda: str(a.guests()))
        for here, there, compressed in ((a, b, True), (b, a, False)):
            done = here.run("migrate", "g1", "--to", there.name, "--transport", "tcp", "--max-bandwidth", "50Mbit", "--downtime-limit", "2s", "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            sent = json.loads(done.stdout)["bytes"]
            (self.assertLess if compressed else self.assertGreater)(sent["wire"] / sent["ram"], 0.8, sent)
            self.eventually(lambda: there.guests().get("g1", {}).get("state") == "running", 10)

    def test_it_answers_what_its_description_says(self):
        described = json.loads((ROOT / "docs/openapi-node.json").read_text())
        a, b = self.cluster("ab", b={"mode": "off"})
        a.boot("g1", "--sensitivity", 3)
        a.boot("g2")  # more than a has: a decision
        self.eventually(lambda: a.moves() and a.get("/v1/view")["host"]["offers"], 40, lambda: a.run("explain").stdout)
        for target in ("/v1/view", "/v1/node", "/v1/guests", "/v1/guests/g1", "/v1/decisions"):
            schema = described["paths"][target.replace("g1", "{guest}")]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            self.assertEqual(list(undescribed(described["components"]["schemas"], schema, a.get(target), target)), [])

    def test_a_hot_spot_is_resolved_and_explained(self):
        a, b, c = self.cluster()
        a.boot("g1")
        a.boot("g2")
        self.eventually(lambda: len(a.guests()) == 1 and len(b.guests()) + len(c.guests()) == 1, 60, lambda: a.run("explain").stdout)
        moves = a.moves()
        self.assertEqual(len(moves), 1, moves)
        self.eventually(lambda: a.moves()[0].get("outcome", {}).get("status") == "completed", 5)
        known = json.loads((a.folder / "lib/paths.json").read_text())[moves[0]["to"]]
        self.assertGreater(known["setup"], 0)
        self.assertEqual([a.get()["counters"]["moves"][what]["counts"][-1] for what in ("seconds", "downtime_seconds")], [1, 1])
        self.assertGreater(moves[0]["benefit"], moves[0]["cost"])
        self.assertGreater(moves[0]["predicted"]["source_before"], 1.0)
        words = a.run("explain").stdout
        self.assertRegex(words, "move guest g.*; benefit [0-9.]+ core-seconds, cost ")
        self.assertRegex(words, r"guests: g[12] (0\.9|1\.0)\d cores, g[12] ")
        self.assertIn("-> completed", words)
        self.assertEqual([len(json.loads(a.run("explain", "--json", "--last", n).stdout)) for n in (1, 1000)], [1, len(a.get("/v1/decisions"))])
        there, gone = (b if b.guests() else c), moves[0]["guest"]
        self.assertEqual(there.run("explain", "--guest", gone).stdout,
                         f"no decisions about {gone} yet\n{gone} came from a: what was decided before that, a knows\n")
        nobody = a.run("explain", "--guest", "nope")
        self.assertEqual((nobody.returncode, nobody.stderr), (1, "godwit: explain: no guest called nope is here, and no decision was about one\n"))
        time.sleep(3)
        self.assertEqual([len(n.moves()) for n in (b, c)], [0, 0], "the guest was moved on")
        self.eventually(lambda: "verdict" in a.moves()[0]["outcome"], 10)
        outcome = a.moves()[0]["outcome"]
        self.assertTrue(outcome["relieved"])
        self.assertGreater(outcome["target_load_later"], outcome["target_load_before"])
        self.assertLess(outcome["deviation_later"], outcome["deviation_before"])

        self.assertEqual([d["text"] for n in (a, b, c) for d in n.get("/v1/decisions") if d["cause"] == "none" and "nothing to gain" in d["obstacle"]], [])

    def test_a_move_that_is_soon_followed_by_another_was_undone_and_its_record_says_so(self):
        quick = {"cpus": 1.2, "policy": {**POLICY, "hot_n": 5, "hot_k": 4, "cooldown_seconds": 1}}
        a, b, c = self.cluster(a=quick, b=quick, c=quick)
        a.boot("g1", "--pin")
        a.boot("g2")
        self.eventually(lambda: any("g2" in n.guests() for n in (b, c)), 30, lambda: a.run("explain").stdout)
        first, last = (b, c) if "g2" in b.guests() else (c, b)
        first.boot("g3", "--pin")
        self.eventually(lambda: a.moves()[0].get("outcome", {}).get("undone"), 30, lambda: first.run("explain").stdout)
        self.assertEqual((a.moves()[0]["to"], a.moves()[0]["outcome"]["undone"]["to"]), (first.name, last.name))
        self.assertIn(f"it went on to {last.name}", a.run("explain").stdout)
        self.assertEqual([n.get()["counters"]["moves_undone"] for n in (a, first, last)], [0, 1, 0])

    def test_a_host_of_several_guests_empties_itself_one_after_another(self):
        settings = {"goal": "consolidate", "policy": {**POLICY, "hot_n": 5, "hot_k": 4}}
        a, b = self.cluster("ab", a={"mode": "off", **settings}, b={"mode": "off", **settings})
        for name in ("g1", "g2"):
            a.boot(name, kernel="idle.elf", append="")
        b.boot("g3", "--pin", append="mib=4 rate=1 tick=200")
        a.run("mode", "automatic")
        self.eventually(lambda: set(b.guests()) == {"g1", "g2", "g3"}, 20, lambda: a.run("explain").stdout)

    def test_guests_survive_a_killed_node_and_are_adopted(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        a.boot("g1", "--apart", "db", "--sensitivity", 7)
        pid = a.guests()["g1"]["pid"]
        a.process.signal(signal.SIGKILL)
        a.process.wait(5)
        os.kill(pid, 0)  # it runs on
        self.eventually(lambda: b.get()["peers"][0]["state"] == "silent", 20, "b does not notice")
        self.assertIsNotNone(b.process.err.wait("peer a is silent: .*nothing listens there", 5), b.process.err.text())
        a.start([b])
        guest = a.guests()["g1"]
        self.assertEqual((guest["pid"], guest["apart"], guest["sensitivity"]), (pid, "db", 7.0))
        self.eventually(lambda: b.get()["peers"][0]["state"] == "alive", 20)
        said = [line for line in b.process.err.text().splitlines() if "peer a is" in line and "unreached" not in line]
        self.assertEqual([line.split(":")[2] for line in said], [" peer a is alive", " peer a is silent", " peer a is alive"])

    def test_a_peer_that_never_answered_is_unreached(self):
        with socket.socket() as s:  # bound, and nobody listens
            s.bind(("127.0.0.9", 0))
            a = self.with_peer(Node(self, "z", "%s:%d" % s.getsockname()))
            self.assertIsNotNone(a.process.err.wait("peer z is unreached: .*nothing listens there", 10), a.process.err.text())
            self.assertEqual(a.get()["peers"][0]["state"], "unreached")

    def test_a_guest_too_busy_to_answer_is_adopted_as_well(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        a.boot("g1", "--apart", "db", kernel="idle.elf", append="")
        self.assertEqual(a.run("migrate", "g1", "--to", "b").returncode, 0)
        self.eventually(lambda: b.guests().get("g1", {}).get("state") == "running", 10)
        pid = b.guests()["g1"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        b.process.signal(signal.SIGKILL)
        b.process.wait(5)
        b.start([a])
        os.kill(pid, signal.SIGCONT)
        self.eventually(lambda: b.guests().get("g1", {}).get("state") == "running", 10, b.process.err.text)
        self.assertEqual((b.guests()["g1"]["pid"], b.guests()["g1"]["apart"]), (pid, "db"))

    def fill_backlog(self, path):
        """Until nobody can connect there without waiting."""
        for _ in range(200):
            client = socket.socket(socket.AF_UNIX)
            self.addCleanup(client.close)
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                return
        self.fail("it accepts")

    def test_a_guest_that_hangs_holds_up_nobody(self):
        a, = self.cluster("a", a={"mode": "off"})
        for name in ("g1", "g2"):
            a.boot(name, kernel="idle.elf", append="")
        self.eventually(lambda: [g["state"] for g in a.guests().values()] == ["running"] * 2, 10)
        pid = a.guests()["g1"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        self.fill_backlog(a.folder / "run/g1.sock")
        a.boot("g3", kernel="idle.elf", append="")
        self.eventually(lambda: [g["state"] for g in a.guests().values()] == ["silent", "running", "running"], 10, lambda: str(a.guests()))
        a.process.signal(signal.SIGKILL)
        a.process.wait(5)
        a.start([])
        self.assertEqual((a.guests()["g1"]["state"], a.get()["host"]["memory_used"]), ("starting", 96.0))
        self.eventually(lambda: a.guests()["g3"]["state"] == "running", 10)
        os.kill(pid, signal.SIGCONT)
        self.eventually(lambda: a.guests()["g1"]["state"] == "running", 10, lambda: str(a.guests()))

    def sockets_of(self, pid):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                link = os.readlink(fd)
            except OSError:
                continue  # closed just now
            if link.startswith("socket:"):
                yield link

    def test_a_guest_inherits_nothing_from_its_node(self):
        a, = self.cluster("a", a={"mode": "off"})
        with socket.socket(socket.AF_UNIX) as client:  # a connection that the node has while it starts a guest
            client.connect(str(a.socket))
            a.boot("g1", kernel="idle.elf", append="")
            sockets = []
            for pid in (a.process.pid, a.guests()["g1"]["pid"]):
                sockets.append(set(self.sockets_of(pid)))
        self.assertEqual(sockets[0] & sockets[1], set())

    def test_guests_are_listed_looked_at_and_stopped_through_the_node(self):
        a, = self.cluster("a", a={"mode": "off"})
        self.assertEqual(a.run("list").stdout, "no guests\n")
        for name in ("g1", "g2"):
            a.boot(name, kernel="idle.elf", append="")
        self.eventually(lambda: [line.split()[:2] for line in a.run("list").stdout.splitlines()[1:]] == [["g1", "running"], ["g2", "running"]], 5)
        for words, says in ((("status", "g1"), "state     running\n"), (("status", "g1"), "load      0."), (("status", "--json", "g1"), '"status": {')):
            done = a.run(*words)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(says, done.stdout)
        completed = subprocess.run(["bash", "-c", f"source {ROOT}/node/godwit.bash; COMP_WORDS=(godwit status --node {a.socket} g); COMP_CWORD=4; "
                                    f"_godwit {GODWIT}; echo ${{COMPREPLY[*]}}"], capture_output=True, text=True, timeout=20 * PATIENCE)
        self.assertEqual(completed.stdout, "g1 g2\n", completed.stderr)
        console = a.folder / "lib/console/g1.log"
        with console.open("ab") as printed:
            printed.write(bytes(17 << 20))
        self.eventually(lambda: console.stat().st_size < 1 << 20, 5, "it grows for ever")
        self.assertGreater((a.folder / "lib/console/g1.log.1").stat().st_size, 16 << 20)
        done = a.run("status", "g3")
        self.assertEqual((done.returncode, done.stderr), (1, "godwit: status: no guest called g3 is at a\n"))
        self.assertEqual(a.run("stop", "g1", "--force").returncode, 0)
        self.eventually(lambda: set(a.guests()) == {"g2"}, 5)
        os.kill(a.guests()["g2"]["pid"], signal.SIGSTOP)  # it hangs
        self.eventually(lambda: "silent; it does not answer" in a.run("status", "g2").stdout, 10)
        self.assertIn("only --force ends it", a.run("stop", "g2").stderr)
        self.assertEqual(a.run("stop", "g2", "--force").returncode, 0)
        self.eventually(lambda: a.guests() == {}, 5)

    def test_the_name_of_a_guest_is_taken_once(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        a.boot("g1", kernel="idle.elf", append="")
        again = a.run("start", "--name", "g1", "--kernel", GUESTS / "idle.elf", "--memory", "32M")
        self.assertEqual((again.returncode, again.stderr), (1, "godwit: start: a guest called g1 is here already\n"))

    def test_a_guest_is_started_only_where_its_rules_allow(self):
        a, b = self.cluster("ab", a={"mode": "off", "capabilities": ["ssd"]}, b={"mode": "off"})
        a.boot("g1", "--apart", "db", "--together", "web", "--needs", "ssd", kernel="idle.elf", append="")
        self.eventually(lambda: b.peer_host("a").get("guests") == 1, 10)
        for node, words, why in ((a, ["--needs", "gpu"], "it needs gpu, which a does not have"),
                                 (a, ["--apart", "db"], "g1 is here, and at most one of the group db may be"),
                                 (b, ["--together", "web"], "its group web is at a: start it there")):
            done = node.run("start", "--name", "g2", "--kernel", GUESTS / "idle.elf", "--memory", "32M", *words)
            self.assertEqual((done.returncode, done.stderr), (1, f"godwit: start: the rules keep g2 off {node.name}: {why}\n"))
        a.boot("g2", "--apart", "web", "--together", "web", kernel="idle.elf", append="")
        done = a.run("migrate", "g1", "--to", "b")
        self.assertEqual((done.returncode, done.stderr), (1, "godwit: migrate: the rules keep it off b: it needs ssd, which b does not have\n"))

    def test_what_peers_say_they_can_does_not_make_room_for_more(self):
        host = {"capacity": 2, "memory": 64, "memory_used": 0, "link": 1250, "demand": 0, "forecast": {"mean": 0, "variance": 0}, "guests": 0}
        liar = {"name": "z", "protocol": 1, "state": "open", "host": {**host, "capabilities": [f"w{i}" for i in range(64)]}}
        a = self.with_liar(liar)
        self.eventually(lambda: a.get()["peers"][0]["state"] == "alive", 10)
        time.sleep(0.5)  # a few rounds
        done = a.run("start", "--name", "g3", "--kernel", GUESTS / "idle.elf", "--memory", "32M", "--needs", "gpu")
        self.assertIn("it needs gpu, which a does not have", done.stderr)

    def test_a_guest_larger_than_the_host_is_refused(self):
        a, = self.cluster("a", a={"mode": "off", "memory": "64M"})
        done = a.run("start", "--name", "g1", "--kernel", GUESTS / "idle.elf", "--memory", "128M")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no room: g1 needs 128 MB, 0 of 64 MB are taken", done.stderr)
        self.assertEqual(a.guests(), {})

    def test_a_guest_larger_than_what_the_machine_has_left_is_refused(self):
        a, = self.cluster("a", a={"mode": "off", "memory": "9000G"})
        self.eventually(lambda: 0 < a.get()["host"]["memory_available"] < 9000 * 1024, 5)
        total = int(re.search(r"MemTotal: *(\d+)", Path("/proc/meminfo").read_text())[1]) // 2048 * 2
        done = a.run("start", "--name", "g1", "--kernel", GUESTS / "idle.elf", "--memory", f"{total}M")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, f"no room: g1 needs {total} MB, the machine has [0-9]+ MB left")
        status, answer = self.post(a, "/v1/reservations", {"guest": {"name": "g1", "cpus": 1, "memory": total}, "from": "z"})
        self.assertEqual(status, 409)
        self.assertRegex(answer["error"], "a has no memory for it: the machine has [0-9]+ MB left")

    def post(self, node, target, body):
        """As a peer does."""
        host, port = node.address.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=30 * PATIENCE)
        connection.request("POST", target, json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def test_a_reservation_that_nobody_uses_ends(self):
        a, = self.cluster("a", a={"mode": "off"})
        wanted = {"guest": {"name": "g1", "cpus": 1, "memory": 64, "demand": 0.5}, "from": "z"}
        status, place = self.post(a, "/v1/reservations", wanted)
        self.assertEqual(status, 200, place)
        self.assertEqual(a.get()["host"]["incoming"], 1)
        status, refused = self.post(a, "/v1/reservations", {**wanted, "guest": {**wanted["guest"], "name": "g2"}})
        self.assertEqual(status, 503)
        self.assertIn("as many guests as it may", refused["error"])
        self.eventually(lambda: a.get()["host"]["incoming"] == 0 and a.guests() == {}, 15, "the place is kept for ever")
        self.assertEqual(a.get()["counters"]["reservations_expired"], 1)

    def test_a_killed_node_leaves_no_reservation_behind(self):
        a, = self.cluster("a", a={"mode": "off"})
        status, place = self.post(a, "/v1/reservations", {"guest": {"name": "g1", "cpus": 1, "memory": 64}, "from": "z"})
        self.assertEqual(status, 200, place)
        pid = a.guests()["g1"]["pid"]
        a.process.signal(signal.SIGKILL)
        a.process.wait(5)
        a.start([])
        self.eventually(lambda: not Path(f"/proc/{pid}").exists(), 5, "its process waits for ever")
        self.assertEqual(list((a.folder / "lib/guests").iterdir()), [])

    def test_a_guest_on_its_way_is_charged_with_its_whole_load(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off", "policy": {**POLICY, "incoming_limit": 2}})
        a.boot("g1", append="mib=8 rate=0 tick=200")
        self.eventually(lambda: a.guests()["g1"]["forecast"]["mean"] > 0.6, 20, lambda: str(a.guests()))
        # It writes more than the link carries: it is on its way until somebody cancels that.
        a.boot("g2", kernel="idle.elf", append="")
        mover = Process([GODWIT, "migrate", "g1", "--to", "b", "--node", a.socket, "--max-bandwidth", "12Mbit"])
        self.addCleanup(mover.end)
        self.eventually(lambda: b.guests().get("g1", {}).get("state") == "arriving", 20)
        for node, phase in ((a, "rounds"), (b, "arriving")):
            self.eventually(lambda: [(m["guest"], m["from"], m["to"], m.get("phase")) for m in node.get()["moves"]] == [("g1", "a", "b", phase)], 5,
                            lambda: str(node.get()["moves"]))
        self.assertIn(b'godwit_migration_remaining_bytes{guest="g1"}', a.text("/metrics"))
        done = a.run("migrate", "g2", "--to", "b")
        self.assertEqual((done.returncode, done.stderr), (1, "godwit: migrate: a moves as many guests as it may at a time (1): g1 is on its way\n"))
        for _ in range(20):  # rounds at b
            self.assertGreater(b.get()["host"]["forecast"]["mean"], 0.6)
            self.assertGreater(b.guests()["g1"]["demand"], 0.3)
            time.sleep(0.1)
        status, refused = self.post(b, "/v1/reservations", {"guest": {"name": "h1", "cpus": 1, "memory": 16, "demand": 0.9}, "from": "z"})
        self.assertEqual((status, refused["error"]), (409, "b would be above its threshold with it"))
        mover.signal(signal.SIGINT)
        self.assertEqual(mover.wait(20), 4, mover.err.text())

    def test_a_node_ends_no_guest_of_another(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        a.boot("g1", kernel="idle.elf", append="")
        self.assertEqual(a.run("migrate", "g1", "--to", "b").returncode, 0)
        self.eventually(lambda: b.guests().get("g1", {}).get("state") == "running", 10)
        pid = b.guests()["g1"]["pid"]
        second = self.folder / "second.json"
        second.write_text(json.dumps({"name": "x", "directory": str(b.folder / "lib"), "runtime": str(self.folder / "other")}))
        done = subprocess.run([GODWIT, "node", "--config", second], capture_output=True, text=True, timeout=20 * PATIENCE)
        self.assertEqual((done.returncode, done.stderr),
                         (1, f'godwit: node: another node runs with the "directory" {b.folder}/lib: give each its own\n'))
        b.process.signal(signal.SIGTERM)
        self.assertEqual(b.process.wait(10), 0)
        other = Process([GODWIT, "node", "--config", second])  # b, with another runtime directory
        self.addCleanup(other.end)
        self.assertIsNotNone(other.err.wait("g1 runs, but is not adopted: its socket is .*/b/run/g1.sock", 20), other.err.text())
        self.assertIsNotNone(other.err.wait("is ready", 20))
        other.end()
        b.start([a])
        self.eventually(lambda: b.guests().get("g1", {}).get("state") == "running", 10)
        self.assertEqual((b.guests()["g1"]["pid"], b.guests()["g1"]["left"]), (pid, "a"))

    def lying_peer(self, view, place=(404, {})):
        """`place`: the answer to who asks for one."""
        asked = self.asked = []  # when

        class Liar(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer(200, view)

            def do_POST(self):
                if self.path == "/v1/reservations":
                    asked.append(time.monotonic())
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(*place)

            def answer(self, status, value):
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.9", 0), Liar)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.shutdown)
        return "%s:%d" % server.server_address

    def with_peer(self, peer):
        with socket.socket() as s:
            s.bind(("127.0.0.2", 0))
            address = "%s:%d" % s.getsockname()
        node = Node(self, "a", address)
        self.nodes = [node]
        node.start([peer])
        return node

    def with_liar(self, view, **more):
        return self.with_peer(Node(self, "z", self.lying_peer(view, **more)))

    def test_a_peer_that_says_it_is_empty_and_takes_nothing_costs_its_guests_nothing(self):
        host = {"capacity": 4, "memory": 4096, "memory_used": 0, "link": 1250, "demand": 0, "forecast": {"mean": 0, "variance": 0}, "guests": 0,
                "incoming": 0, "outgoing": 0}
        a = self.with_liar({"name": "z", "protocol": 1, "state": "open", "host": host}, place=(409, {"error": "z has no memory for it"}))
        a.boot("g1")
        a.boot("g2")
        self.eventually(lambda: len([m for m in a.moves() if m.get("outcome")]) == 2, 30, lambda: a.run("explain").stdout)
        self.assertEqual([(m["outcome"]["status"], m["outcome"]["reason"]) for m in a.moves()], 2 * [("refused", "z has no memory for it")])
        time.sleep(HOLD)
        self.assertEqual((len(self.asked), len(a.moves())), (2, 2), "it is asked again and again")
        self.assertEqual({n: g["state"] for n, g in a.guests().items()}, {"g1": "running", "g2": "running"})

    def test_a_peer_with_nonsense_figures_is_no_target(self):
        nonsense = {"name": "z", "protocol": 1, "state": "open",
                    "host": {"capacity": 1e300, "memory": -5, "memory_used": "x", "demand": -1, "link": None,
                             "forecast": {"mean": -1e9, "variance": -1}, "incoming": -7}}
        a = self.with_liar(nonsense)
        a.boot("g1")
        a.boot("g2")
        time.sleep(3 * HOLD)
        self.assertEqual(a.moves(), [])
        self.assertEqual(a.get()["state"], "open")

    def test_a_peer_that_says_it_is_empty_but_takes_nothing_is_asked_ever_more_rarely(self):
        host = {"capacity": 8, "memory": 4096, "memory_used": 0, "link": 1250, "demand": 0, "forecast": {"mean": 0, "variance": 0}, "guests": 0,
                "incoming": 0, "outgoing": 0}
        a = self.with_liar({"name": "z", "protocol": 1, "state": "open", "host": host}, place=(503, {"error": "z is taking in as many guests as it may"}))
        a.boot("g1")
        a.boot("g2")
        self.eventually(lambda: len(self.asked) >= 3, 40, lambda: a.run("explain").stdout)
        self.assertGreater(self.asked[2] - self.asked[1], 2 * 0.5, "0.6 s after the first time, 1.2 s after the second")
        self.assertEqual({m["outcome"]["status"] for m in a.moves()}, {"refused"})
        self.assertEqual((len(a.guests()), a.get()["counters"]["moves_failed"], a.get()["host"]["outgoing"]), (2, 0, 0))

    def test_a_peer_of_another_version_says_so(self):
        a = self.with_liar({"name": "z", "protocol": 99})
        self.eventually(lambda: a.get()["peers"][0]["state"] == "refused", 10, lambda: str(a.get()["peers"]))
        self.assertIn("version 99", a.get()["peers"][0]["why"])
        self.assertIsNotNone(a.process.err.wait("peer z is refused: it speaks version 99 ", 5), a.process.err.text())

    def test_drain_spreads_ten_guests_over_two_hosts_one_small_and_keeps_the_host_closed(self):
        # b holds two of them, c nine: neither could take all.
        a, b, c = self.cluster(a={"mode": "off", "cpus": 4}, b={"mode": "off", "memory": "64M"}, c={"mode": "off", "memory": "288M"})
        for i in range(10):
            a.boot(f"g{i}", kernel="idle.elf", append="")
        a.boot("ending", kernel="idle.elf", append="")
        subprocess.run([GODWIT, "stop", "--force", a.folder / "run/ending.sock"], check=True, timeout=20 * PATIENCE)
        done = a.run("drain")
        self.assertEqual(done.returncode, 0, done.stderr)
        progress = [m for line in done.stdout.splitlines() if (m := re.fullmatch(r"(g\d) at [bc], (\d+) of 10, \d+\.\d s", line))]
        self.assertEqual(([int(m[2]) for m in progress], len({m[1] for m in progress})), (list(range(1, 11)), 10), done.stdout)
        self.assertEqual(len(a.process.err.find(r"drain: g\d at [bc], \d+ of 10")), 10, a.process.err.text())
        self.assertIn("empty, and closed until godwit undrain", done.stdout)
        here, there, also = (len(n.guests()) for n in (a, b, c))
        self.assertEqual((here, there + also), (0, 10))
        self.assertTrue(there <= 2 and also <= 9, f"a host has more than its memory holds: {there}, {also}")
        self.assertEqual([(m["cause"], m["outcome"]["status"]) for m in a.moves()], [("drain", "completed")] * 10, "attempts that failed")
        self.assertEqual((done.stderr, a.get()["counters"]["moves_failed"]), ("", 0))
        status, refused = self.post(a, "/v1/reservations", {"guest": {"name": "x", "cpus": 1, "memory": 16}, "from": "z"})
        self.assertEqual(status, 409)
        a.process.signal(signal.SIGTERM)
        a.process.wait(10)
        a.start([b, c])
        self.assertEqual(a.get()["state"], "closed", "a restart opened it")
        self.assertEqual(a.run("undrain").stdout, "a is open\n")
        self.assertEqual(a.get()["state"], "open")

    def test_a_drain_that_does_not_fit_is_refused_before_anything_moves(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off", "memory": "64M"})
        for i in range(4):
            a.boot(f"g{i}", kernel="idle.elf", append="")
        def refused(why):
            done = a.run("drain")
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, f"^godwit: drain: a cannot be drained: {why}\n$")
            self.assertEqual((len(b.guests()), a.get()["state"]), (0, "open"))

        refused(r"g\d \(32 MB\) fits nowhere: b has room for the others only")
        a.boot("large", kernel="pattern.elf", memory="128M")
        self.eventually(lambda: a.guests()["large"]["demand"] > 0.3, 10)  # the largest load is placed first
        refused(r"large \(128 MB\) fits nowhere: b has 64 of 64 MB left")
        a.boot("still", "--pin", kernel="idle.elf", append="")
        refused("still is pinned")

    def test_a_drain_waits_for_a_busy_target_and_goes_on_after_a_restart(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        for name in ("g1", "g2"):
            a.boot(name, kernel="idle.elf", append="")
        status, place = self.post(b, "/v1/reservations", {"guest": {"name": "h1", "cpus": 1, "memory": 16}, "from": "z"})
        self.assertEqual(status, 200, place)  # which nobody will use, for three seconds
        drains = [Process([GODWIT, "drain", "--node", a.socket]) for _ in range(2)]
        for drain in drains:
            self.addCleanup(drain.end)
        self.eventually(lambda: any(not d.alive() for d in drains), 10)
        second, first = sorted(drains, key=lambda d: d.alive())
        self.assertEqual(second.err.text(), "godwit: drain: a is being drained already\n")
        self.assertIsNotNone(first.err.wait("waiting: b is taking in as many guests as it may", 3), first.err.text())
        a.process.signal(signal.SIGKILL)
        self.assertEqual(first.wait(10), 1)
        a.start([b])
        self.assertIsNotNone(a.process.err.wait("the drain that a restart interrupted goes on, 2 guests are left", 5), a.process.err.text())
        self.eventually(lambda: a.get()["state"] == "closed", 20, lambda: a.process.err.text())
        self.assertEqual((set(b.guests()), a.get()["counters"]["moves_failed"]), ({"g1", "g2"}, 0))

    def test_two_overloaded_nodes_do_not_crowd_one_target(self):
        # The first guest is on its way for so long that the second node looks at the target many times meanwhile.
        a, b, c = self.cluster(a={"cpus": 0.6}, b={"cpus": 0.6}, c={"cpus": 1.3})
        for node in (a, b):
            node.boot("g-" + node.name, append="mib=96 rate=0 tick=200", memory="128M")
        self.eventually(lambda: any(g["state"] == "running" for g in c.guests().values()), 60, lambda: a.run("explain").stdout)
        first, second = (a, b) if "g-a" in c.guests() else (b, a)
        time.sleep(2 * HOLD)
        self.assertEqual(([g["state"] for g in c.guests().values()], len(second.guests())), (["running"], 1))
        self.assertEqual({m["outcome"]["status"] for m in second.moves()} - {"refused"}, set())

    def test_a_peer_that_offers_nonsense_gets_no_guest(self):
        offers = [7, {"name": "../x"}, {"name": "x1", "memory": -1}, {"name": "x2", "memory": 1e300}, {"name": "g1"},
                  {"name": "x3", "cpus": 1, "demand": 0, "forecast": {"mean": 0, "variance": 0}, "memory": 8, "dirty_rate": 0, "needs": 7, "apart": []},
                  {"name": "x4", "cpus": 1, "demand": 0, "forecast": {"mean": 0, "variance": 0}, "memory": 32, "dirty_rate": 0}]
        host = {"capacity": 2, "memory": 64, "memory_used": 64, "link": 1250, "demand": 0, "forecast": {"mean": 0, "variance": 0}, "guests": 2,
                "incoming": 0, "outgoing": 0, "offers": offers}
        a = self.with_liar({"name": "z", "protocol": 1, "state": "open", "host": host})
        a.boot("g1")
        a.boot("g2")
        self.eventually(lambda: a.moves() and a.moves()[0].get("outcome"), 20, lambda: a.run("explain").stdout)
        self.assertEqual((a.moves()[0]["partner"], a.moves()[0]["outcome"]["status"]), ("x4", "failed"))
        self.assertEqual(set(a.guests()), {"g1", "g2"})

    def test_a_person_moves_a_guest_to_a_peer_by_its_name(self):
        a, b = self.cluster("ab", a={"mode": "off", "interval": "1s"}, b={"mode": "off"})  # a judges its move half a minute later
        a.boot("g1", "--sensitivity", 3)
        done = a.run("migrate", "g1", "--to", "b", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["peer"], "b")
        a.boot("g3", kernel="idle.elf", append="")
        self.assertIn("g3 runs at b now\n", a.run("migrate", "g3", "--to", "b").stdout)
        self.eventually(lambda: b.guests().get("g1", {}).get("state") == "running", 5)
        self.assertEqual((b.guests()["g1"]["left"], b.guests()["g1"]["sensitivity"]), ("a", 3.0))
        self.eventually(lambda: a.guests() == {}, 5)
        record, _ = a.get("/v1/decisions")
        self.assertEqual((record["cause"], record["guest"], record["to"], record["outcome"]["status"]), ("by hand", "g1", "b", "completed"))
        self.assertGreater(record["predicted"]["seconds"], 0)
        self.assertEqual(b.run("drain").returncode, 0)
        self.assertEqual([(d["cause"], d["outcome"]["status"]) for d in b.get("/v1/decisions")], [("drain", "completed")] * 2)
        self.assertNotIn("verdict", a.get("/v1/decisions")[0]["outcome"])
        a.process.signal(signal.SIGKILL)
        a.process.wait(5)
        a.start([b])
        self.assertEqual(a.get("/v1/decisions")[0]["outcome"]["verdict"], "unknown: the node restarted")
        done = a.run("migrate", "g2", "--to", "b")
        self.assertEqual((done.returncode, done.stderr), (1, "godwit: migrate: no guest called g2 is here\n"))

    def test_a_peer_that_is_none_or_is_down_costs_a_guest_no_rest(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        a.boot("g1", kernel="idle.elf", append="")
        done = a.run("migrate", "g1", "--to", "bb")
        self.assertEqual((done.returncode, done.stderr), (1, "godwit: migrate: bb is no peer of this node\n"))
        self.assertEqual(a.get()["counters"]["moves_failed"], 0)
        b.process.signal(signal.SIGKILL)
        b.process.wait(5)
        done = a.run("migrate", "g1", "--to", "b")
        self.assertEqual(done.returncode, 1)
        self.assertIn("nothing listens there", done.stderr)
        self.assertIsNone(a.guests()["g1"]["last_move_age_s"])

    def test_a_dry_run_leaves_no_trace_at_either_node(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        a.boot("g1", append="mib=4 rate=1 tick=50")
        told = a.run("migrate", "g1", "--to", "b", "--dry-run", "--json")
        self.assertEqual(told.returncode, 0, told.stderr)
        self.assertEqual(json.loads(told.stdout)["status"], "would-complete")
        self.eventually(lambda: b.guests() == {}, 10, "its place is kept")
        self.assertEqual(list((b.folder / "lib/guests").iterdir()), [])
        counters = a.get()["counters"]
        self.assertEqual((counters["moves_completed"], counters["moves_failed"]), (0, 0))
        self.assertIsNone(a.guests()["g1"]["last_move_age_s"])
        done = a.run("migrate", "g1", "--to", "b")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_guest_comes_back_before_a_round_has_seen_it_leave(self):
        a, b = self.cluster("ab", a={"mode": "off", "interval": "3s"}, b={"mode": "off"})
        self.eventually(lambda: a.get()["peers"][0]["state"] == "alive", 10)
        a.boot("g1", kernel="idle.elf", append="")
        for here, there in ((a, b), (b, a)):
            done = here.run("migrate", "g1", "--to", there.name)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.eventually(lambda: there.guests().get("g1", {}).get("state") == "running", 10, lambda: str(there.guests()))
        self.assertEqual(b.guests(), {})

    def test_a_second_console_goes_along(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        a.boot("g1", "--hvc", kernel="idle.elf", append="")
        a.boot("g2", kernel="idle.elf", append="")
        a.process.signal(signal.SIGKILL)  # its next one knows, too
        a.process.wait(5)
        a.start([b])
        for name in ("g1", "g2"):
            done = a.run("migrate", name, "--to", "b")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.eventually(lambda: b.guests()[name]["state"] == "running", 5)  # one at a time is taken in
        self.eventually(lambda: [g["hvc"] for g in b.guests().values()] == [True, False], 5, lambda: str(b.guests()))
        for node in (a, b):
            self.assertEqual([p.name for p in (node.folder / "lib/console").glob("*.hvc")], ["g1.hvc"])

    def test_a_move_survives_the_nodes_of_both_ends(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        mover = self.slow_move(a, b)
        for node in (a, b):
            node.process.signal(signal.SIGKILL)
            node.process.wait(5)
        self.assertEqual(mover.wait(10), 9, mover.err.text())
        self.assertIn("the move goes on without it, or is over; godwit status g1 tells, here and at b", mover.err.text())
        a.start([b])
        b.start([a])
        there = b.get()["host"]
        self.assertEqual((a.get()["host"]["outgoing"], there["incoming"], there["memory_used"]), (1, 1, 64.0))
        self.assertGreater(there["forecast"]["mean"], 0)
        self.eventually(lambda: b.guests().get("g1", {}).get("state") == "running" and a.guests() == {}, 60,
                        lambda: f"{a.guests()} {b.guests()}")
        self.eventually(lambda: b.get()["host"]["incoming"] == 0, 5)
        self.assertIsNotNone(b.process.err.wait("g1 came from a", 1), b.process.err.text())
        self.assertIsNotNone(b.get()["host"]["last_arrival_age_s"])
        self.assertEqual((a.moves()[0]["outcome"]["status"], a.get()["counters"]["moves_completed"]), ("completed", 1))

    def test_a_source_that_dies_leaves_no_guest_and_no_reservation(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        mover = self.slow_move(a, b)
        os.kill(a.guests()["g1"]["pid"], signal.SIGKILL)
        self.assertEqual(mover.wait(20), 1, mover.err.text())
        self.eventually(lambda: a.guests() == {} and b.guests() == {} and b.get()["host"]["incoming"] == 0, 10, lambda: str(b.guests()))
        self.assertEqual(a.moves()[0]["outcome"]["status"], "failed")
        a.boot("g1", kernel="idle.elf", append="")  # the name is free
        self.assertEqual(a.run("migrate", "g1", "--to", "b").returncode, 0)

    def test_a_destination_that_dies_leaves_the_guest_and_no_reservation(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        mover = self.slow_move(a, b)
        os.kill(b.guests()["g1"]["pid"], signal.SIGKILL)
        self.assertEqual(mover.wait(20), 3, mover.err.text())
        self.eventually(lambda: a.guests()["g1"]["state"] == "running" and b.guests() == {}, 10)
        self.assertEqual(a.get()["counters"]["moves_failed"], 1)

    def test_a_move_that_fails_when_its_node_has_died_is_concluded_by_the_next(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        self.slow_move(a, b)
        a.process.signal(signal.SIGKILL)
        a.process.wait(5)
        a.start([b])
        os.kill(b.guests()["g1"]["pid"], signal.SIGKILL)
        self.eventually(lambda: a.moves()[0].get("outcome"), 20, lambda: str(a.guests()))
        self.assertEqual(a.moves()[0]["outcome"]["status"], "failed")
        self.assertIn("connection", a.moves()[0]["outcome"]["reason"])
        self.assertEqual((a.get()["host"]["outgoing"], a.get()["counters"]["moves_failed"]), (0, 1))
        self.eventually(lambda: b.guests() == {} and a.get()["peers"][0]["state"] == "alive", 10)
        self.assertEqual(a.run("migrate", "g1", "--to", "b").returncode, 0)

    def test_nodes_with_certificates_trust_their_own_authority_only(self):
        ours, theirs = Authority(self.folder, "ours"), Authority(self.folder, "theirs")
        a, b = self.cluster("ab", a={"mode": "off", "tls": ours.issue("a")}, b={"mode": "off", "tls": ours.issue("b")})
        a.boot("g1", kernel="idle.elf", append="")
        self.moves_by_tls(a, b)
        self.assertIn(f"certificate {a.config['tls']['certificate']} expires in 48 h", a.process.err.text())
        self.assertGreater(a.get()["certificate_left_s"], 86400)
        a.process.signal(signal.SIGTERM)
        self.assertEqual(a.process.wait(10), 0)
        of_b = b.config["tls"]
        (self.folder / "bad.json").write_text(json.dumps({**a.config, "tls": of_b}))
        self.refused(2, '"tls": certificate ' + of_b["certificate"] + ' says "b", but this node is called "a"', self.folder / "bad.json")
        a.config["tls"] = theirs.issue("a")
        a.start([b])
        for node in (a, b):
            self.eventually(lambda: node.get()["peers"][0]["state"] == "refused", 20, lambda: str(node.get()["peers"]))
            self.assertIn("certificate", node.get()["peers"][0]["why"])
        self.assertIsNotNone(b.process.err.wait("peer a is refused: .*certificate", 5), b.process.err.text())

    def test_the_certificates_of_the_documentation_are_believed(self):
        """By nodes, and by a client that knows no common names, as Prometheus."""
        text = (ROOT / "docs/operations.md").read_text()
        recipe = next(block for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "openssl" in block)
        subprocess.run(["bash", "-e", "-c", recipe], cwd=self.folder, check=True, capture_output=True, timeout=60 * PATIENCE)
        tls = {n: {"ca": f"{self.folder}/ca.crt", "certificate": f"{self.folder}/{n}.crt", "key": f"{self.folder}/{n}.key"} for n in "ab"}
        a, b = self.cluster("ab", **{n: {"mode": "off", "tls": tls[n]} for n in "ab"})
        context = ssl.create_default_context(cafile=f"{self.folder}/ca.crt")
        context.hostname_checks_common_name = False
        context.load_cert_chain(f"{self.folder}/prometheus.crt", f"{self.folder}/prometheus.key")
        host, port = a.address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), 10) as plain, context.wrap_socket(plain, server_hostname="a") as s:
            s.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            self.assertIn(b" 200 ", s.recv(64))

    def moves_by_tls(self, a, b, guest="g1"):
        done = a.run("migrate", guest, "--to", b.name, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertIn(report["tls"], ("user", "kernel"))
        self.assertRegex(report["transport_reason"], "does not encrypt")
        self.eventually(lambda: b.guests().get(guest, {}).get("state") == "running", 5)

    def test_guests_move_by_their_nodes_certificates(self):
        """Those that a node has started, that have come to it, that it has adopted; by hand as well, and never in plain."""
        ours = Authority(self.folder)
        a, b = self.cluster("ab", a={"mode": "off", "tls": ours.issue("a")}, b={"mode": "off", "tls": ours.issue("b")})
        a.boot("g1", kernel="idle.elf", append="")
        self.moves_by_tls(a, b)
        self.moves_by_tls(b, a)
        api = a.folder / "run/g1.sock"
        plain = Process([GODWIT, "receive", "--listen", "127.0.0.1:0", "--api", self.folder / "plain.sock"])
        self.addCleanup(plain.end)
        to = plain.err.wait(r"listening on (\S+)", 10)[1]
        done = subprocess.run([GODWIT, "migrate", api, "--to", to], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60 * PATIENCE)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("the destination does not speak TLS", done.stderr)
        own = Guest([GODWIT, "run", "--name", "g2", "--kernel", GUESTS / "idle.elf", "--memory", "32M", "--console", "none", "--api",
                     a.folder / "run/g2.sock"], a.folder / "run/g2.sock")
        self.addCleanup(own.end)
        self.eventually(lambda: (a.folder / "run/g2.sock").exists() and own.state() == "running", 10)
        a.process.signal(signal.SIGTERM)
        self.assertEqual(a.process.wait(10), 0)
        a.start([b])
        self.eventually(lambda: a.guests().keys() == {"g1", "g2"} and a.get()["peers"][0]["state"] == "alive", 10)
        self.moves_by_tls(a, b, "g2")
        self.moves_by_tls(a, b)

    def test_what_is_installed_runs(self):
        """The binary finds its TLS module, and the unit starts the binary, where `cmake --install` puts them."""
        prefix = self.folder / "usr/local"
        subprocess.run(["cmake", "--install", BUILD, "--prefix", prefix], check=True, capture_output=True, timeout=60 * PATIENCE)
        unit = (prefix / "lib/systemd/system/godwit-node.service").read_text()
        starts = next(line for line in unit.splitlines() if line.startswith("ExecStart=")).split("=")[1].split()
        binary = self.folder / starts[0].lstrip("/")
        self.assertEqual(binary, prefix / "bin/godwit")
        for line in ("StartLimitIntervalSec=0", "RestartPreventExitStatus=2", "KillMode=process"):
            self.assertIn(line, unit.splitlines())
        tls = Authority(self.folder).issue("a")
        (self.folder / "a.json").write_text(json.dumps({"name": "a", "listen": "127.0.0.2:0", "tls": tls, "directory": str(self.folder / "lib"),
                                                        "runtime": str(self.folder / "run")}))
        node = Process([binary, *starts[1:-1], self.folder / "a.json"])
        self.addCleanup(node.end)
        self.assertIsNotNone(node.err.wait(r"listens on .* \(TLS\)", 20), node.err.text())

    def test_metrics_and_top_show_it(self):
        a, = self.cluster("a", a={"mode": "off"})
        a.boot("g1", kernel="idle.elf", append="")
        frame = a.run("top", "--once")
        self.assertEqual(frame.returncode, 0, frame.stderr)
        self.assertIn("g1", frame.stdout)
        self.assertIn(b"# TYPE godwit_node_info gauge", a.text("/metrics"))
        for sample in ('godwit_guest_memory_used_bytes{guest="g1"}', 'godwit_guest_cpu_seconds_total{guest="g1"}', "godwit_migration_duration_seconds_count 0"):
            self.assertIn(sample.encode(), a.text("/metrics"))

    def test_the_mode_holds_the_balancer_and_lets_it_go(self):
        a, b = self.cluster("ab", a={"mode": "off"})
        self.assertEqual(a.run("mode").stdout, "mode off, goal balance\n")
        a.boot("g1")
        a.boot("g2")
        time.sleep(2 * HOLD)
        self.assertEqual(a.get("/v1/decisions"), [])
        self.assertEqual(json.loads(a.run("mode", "advise", "--json").stdout), {"mode": "advise", "goal": "balance"})
        self.eventually(lambda: a.moves(), 20, lambda: a.run("explain").stdout)
        time.sleep(1)
        self.assertEqual((len(a.guests()), a.get()["counters"]["moves_completed"]), (2, 0), "an advice was carried out")
        said = [tuple(d[k] for k in ("action", "cause", "obstacle", "guest", "to")) for d in a.get("/v1/decisions")]
        self.assertEqual(sorted(set(said)), sorted(said), "the same is recorded again and again")
        self.assertGreaterEqual(len(said), len(a.moves()))
        self.assertEqual(a.run("mode", "automatic").stdout, "mode automatic, goal balance\n")
        self.eventually(lambda: len(b.guests()) == 1, 20)
        self.assertEqual(a.run("mode", "--goal", "consolidate").stdout, "mode automatic, goal consolidate\n")
        self.assertEqual(a.get()["goal"], "consolidate")
        for words, why in ((["of"], "the mode must be off, advise or automatic"), (["--goal", "x"], "--goal: must be balance or consolidate")):
            done = a.run("mode", *words)
            self.assertEqual((done.returncode, done.stderr), (2, f"godwit: mode: {why}\n"))

    def test_bad_configuration_is_one_line(self):
        path = self.folder / "bad.json"
        for text, why in (("{", "no valid JSON: line 1, column 2"), ('{"nmae": "a"}', '"nmae": no such key'), ('{"cpus": -1}', '"cpus": must be a number'),
                          ('{"listen": "192.0.2.1:7400"}', "give certificates"), ('{"policy": {"hott": 1}}', '"policy"'),
                          ('{"interval": "1"}', '"interval"')):
            path.write_text(text)
            self.refused(2, why, path)
        self.refused(2, "is a directory", self.folder)
        path.write_text(json.dumps({"name": "a", "runtime": str(self.folder / "run"), "directory": str(self.folder / "lib")}))
        for peer, why in (("b", "must be NAME=HOST:PORT"), ("a=127.0.0.1:1", "a is this node itself"), ("b=here", "the address of b: ")):
            self.refused(2, f"--peer: {peer}: {why}", path, "--peer", peer)
        self.refused(2, "--peer: b=127.0.0.1:2: b is there twice", path, "--peer", "b=127.0.0.1:1", "--peer", "b=127.0.0.1:2")

    def refused(self, code, why, *words):
        done = subprocess.run([GODWIT, "node", "--config", *map(str, words)], capture_output=True, text=True, timeout=20 * PATIENCE)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        self.assertIn(why, done.stderr)

    def test_what_a_host_lacks_for_a_node_names_the_key(self):
        a, = self.cluster("a", a={"mode": "off"})
        path = self.folder / "bad.json"
        for changed, why in (({"runtime": "/proc/1/no"}, '"runtime": /proc/1/no cannot be made: '),
                             ({"directory": "/proc/1/no"}, '"directory": /proc/1/no/guests cannot be made: '),
                             ({"listen": a.address}, f'"listen": {a.address}: Address already in use; '),
                             ({"listen": "192.0.2.7:7400"}, '"listen": 192.0.2.7:7400: Cannot assign requested address; '),
                             ({"runtime": a.config["runtime"]}, '"runtime": a node is already running (')):
            path.write_text(json.dumps({**a.config, "name": "z", "runtime": str(self.folder / "run"), "directory": str(self.folder / "lib"), **changed}))
            self.refused(1, why, path)


class Between:
    """A peer's API passed on, but for the address of a place that it gives: there a Proxy stands first, if one is wanted."""

    def __init__(self, name, peer, step, action):
        self.name, self.step, self.action, self.proxy = name, step, action, None

        class Handler(http.server.BaseHTTPRequestHandler):
            def pass_on(handler):
                body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
                host, port = peer.address.rsplit(":", 1)
                connection = http.client.HTTPConnection(host, int(port), timeout=60 * PATIENCE)
                connection.request(handler.command, handler.path, body)
                answer = connection.getresponse()
                text = answer.read()
                connection.close()
                if handler.path == "/v1/reservations" and answer.status == 200 and self.step:
                    place = json.loads(text)
                    self.proxy = Proxy(place["address"], *self.step, self.action)
                    text = json.dumps({**place, "address": self.proxy.address}).encode()
                handler.send_response(answer.status)
                handler.send_header("Content-Length", str(len(text)))
                handler.end_headers()
                handler.wfile.write(text)

            do_GET = do_POST = do_DELETE = do_PUT = pass_on

            def log_message(handler, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = "127.0.0.1:%d" % self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        if self.proxy:
            self.proxy.close()


class NodeDoubtTest(NodeCase):
    """A connection that is lost at commit: what the nodes say of the guest, and that their books are right in the end."""

    def in_doubt(self, step):
        self.nodes = a, b = [self.make_node(name, address, mode="off") for name, address in self.addresses("ab")]
        b.start([])
        self.between = Between("b", b, step, "down")
        self.addCleanup(self.between.close)
        a.start([self.between])
        self.eventually(lambda: a.get()["peers"][0]["state"] == "alive", 20)
        a.boot("g1", append="mib=4 rate=1 tick=50")
        done = a.run("migrate", "g1", "--to", "b")
        self.assertEqual(done.returncode, 5, done.stderr)
        self.eventually(lambda: a.guests()["g1"]["state"] == "in-doubt", 5, lambda: str(a.guests()))
        self.eventually(lambda: a.get()["moves"] and a.get()["moves"][0].get("phase") == "in-doubt", 5, lambda: str(a.get()["moves"]))
        self.assertEqual(self.counters(a), (0, 0))
        return a, b

    @staticmethod
    def counters(node):
        return tuple(node.get()["counters"][name] for name in ("moves_completed", "moves_failed"))

    def stays_at(self, a, b):
        self.eventually(lambda: a.guests()["g1"]["state"] == "running" and a.get()["moves"] == [], 30, lambda: str(a.get()))
        self.eventually(lambda: b.guests() == {}, 20, lambda: str(b.guests()))
        self.assertEqual(list((b.folder / "lib/guests").iterdir()), [])
        self.assertEqual(self.counters(a), (0, 1))
        self.between.step = None
        self.assertEqual(a.run("migrate", "g1", "--to", "b").returncode, 0)

    def test_one_that_runs_there_after_all_is_forgotten_here(self):
        a, b = self.in_doubt(("destination", "Running"))
        self.eventually(lambda: b.guests()["g1"]["state"] == "running", 10)
        self.between.proxy.mend()
        self.eventually(lambda: a.guests() == {} and a.get()["moves"] == [], 30, lambda: str(a.get()))
        self.assertEqual(self.counters(a), (1, 0))
        self.assertEqual(b.guests()["g1"]["state"], "running")

    def test_one_that_never_ran_there_goes_on_here_and_its_place_is_free(self):
        a, b = self.in_doubt(("source", "Commit"))
        self.eventually(lambda: b.guests()["g1"]["state"] == "refused", 10, lambda: str(b.guests()))
        self.between.proxy.mend()
        self.stays_at(a, b)

    def test_where_a_person_decides_the_place_is_given_up(self):
        a, b = self.in_doubt(("source", "Commit"))
        self.eventually(lambda: b.guests()["g1"]["state"] == "refused", 10, lambda: str(b.guests()))
        done = subprocess.run([GODWIT, "resolve", a.folder / "run/g1.sock", "--here"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.stays_at(a, b)

    def test_a_node_can_end_meanwhile_and_the_next_one_adopts(self):
        a, b = self.in_doubt(("destination", "Running"))
        a.process.signal(signal.SIGTERM)
        self.assertIsNotNone(a.process.wait(30), "the node waits for ever")
        a.start([self.between])
        self.assertEqual(a.guests()["g1"]["state"], "in-doubt")
        self.between.proxy.mend()
        self.eventually(lambda: a.guests() == {}, 30, lambda: str(a.guests()))


class SwapTest(NodeCase):
    def swap_case(self, partner="idle.elf", append="", size=32, **of_a):
        """a is hot, nothing of it fits b: its memory is full. One of b's guests could come to a in exchange. b, which
        could wish for the same, decides nothing."""
        a, b = self.cluster("ab", a={"mode": "off", **of_a}, b={**DECIDES_NOTHING, "memory": f"{2 * size}M", "cpus": 4})
        for name in ("i1", "i2"):
            b.boot(name, kernel=partner, append=append, memory=f"{size}M")
        a.boot("g1")
        a.boot("g2")
        self.eventually(lambda: len(a.get()["peers"]) and all(g["state"] == "running" for g in b.guests().values()), 5)
        return a, b

    def test_where_nothing_fits_alone_two_guests_are_swapped(self):
        a, b = self.swap_case()
        a.run("mode", "automatic")
        self.eventually(lambda: a.moves() and a.moves()[0].get("outcome"), 30, lambda: a.run("explain").stdout)
        swap = a.moves()[0]
        self.assertEqual((swap["action"], swap["outcome"]["status"]), ("swap", "completed"), swap)
        self.eventually(lambda: set(a.guests()) | set(b.guests()) == {"g1", "g2", "i1", "i2"}, 5)
        self.assertEqual({swap["guest"], *(set(a.guests()) - {swap["partner"]})}, {"g1", "g2"})
        self.assertEqual((len(a.guests()), len(b.guests())), (2, 2))
        self.assertEqual((a.guests()[swap["partner"]]["left"], b.guests()[swap["guest"]]["left"]), ("b", "a"))
        self.assertIn(f"swap guest {swap['guest']} against guest {swap['partner']}", a.run("explain").stdout)
        self.eventually(lambda: [n.get()["host"]["incoming"] for n in (a, b)] == [0, 0], 5, "a place is still kept")
        time.sleep(2)
        self.assertEqual(len(a.moves()), 1, "it was swapped again")

    def test_a_swap_for_the_sake_of_the_cpu_alone(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={**DECIDES_NOTHING, "cpus": 1.2})
        b.boot_load("small", 25)
        a.boot("heavy", "--pin")
        a.boot("light")
        time.sleep(HOLD)  # b has to know what small takes
        a.run("mode", "automatic")
        self.eventually(lambda: set(a.guests()) == {"heavy", "small"} and set(b.guests()) == {"light"}, 30, lambda: a.run("explain").stdout)
        self.assertEqual([m["action"] for m in a.moves()], ["swap"])

    def test_a_swap_of_which_one_leg_is_refused_moves_nothing(self):
        a, b = self.swap_case(receive_host="192.0.2.1")  # no address of this machine: nobody can come to a
        a.run("mode", "automatic")
        self.eventually(lambda: a.moves() and a.moves()[0].get("outcome"), 30, lambda: a.run("explain").stdout)
        outcome = a.moves()[0]["outcome"]
        self.assertEqual(outcome["status"], "failed")
        self.assertIn("cannot receive it", outcome["reason"])
        self.eventually(lambda: (set(a.guests()), set(b.guests())) == ({"g1", "g2"}, {"i1", "i2"}), 10)
        self.assertEqual([n.get()["counters"]["moves_completed"] for n in (a, b)], [0, 0])
        self.assertEqual(b.run("migrate", a.moves()[0]["partner"], "--to", "a").returncode, 1)
        self.assertNotIn("promised", b.run("migrate", a.moves()[0]["partner"], "--to", "a").stderr, "the promise is kept for ever")

    def test_a_swap_whose_second_leg_fails_says_so(self):
        a, b = self.swap_case(partner="pattern.elf", append="mib=300 rate=1 tick=200", size=400)
        threading.Thread(target=self.kill_place, args=(a, b), daemon=True).start()
        a.run("mode", "automatic")
        self.eventually(lambda: a.moves() and a.moves()[0].get("outcome"), 30, lambda: a.run("explain").stdout)
        swap = a.moves()[0]
        self.assertEqual((swap["action"], swap["outcome"]["status"]), ("swap", "half"), swap)
        self.assertIn(f"{swap['partner']} came from b, {swap['guest']} did not go", swap["outcome"]["reason"])
        self.eventually(lambda: set(a.guests()) == {"g1", "g2", swap["partner"]} and len(b.guests()) == 1, 5)
        self.eventually(lambda: {g["state"] for n in (a, b) for g in n.guests().values()} == {"running"}, 5)
        self.assertEqual([(n.get()["counters"]["moves_completed"], n.get()["counters"]["moves_failed"]) for n in (a, b)], [(0, 1), (1, 0)])

    def kill_place(self, a, b):
        """Ends the process that waits at b, once both places are kept: the partner, which is large, goes first."""
        waiting = {}
        while len(waiting) < 2:
            for node in (b, a):
                waiting.update((node, g["pid"]) for g in node.guests().values() if g["state"] == "reserved")
        os.kill(waiting[b], signal.SIGKILL)


class SleepTest(NodeCase):
    def sleepers(self, sleep, wake, **more):
        """c consolidates and is empty; a and b stay awake, a with a guest. Hooks are shell commands; PID is that of c's node."""
        hooks = {"hook_timeout": "2s", "wake_timeout": "6s", "sleep_after": "1s", "wake_hook": wake, "policy": {**POLICY, "cooldown_seconds": 1}}
        nodes = self.cluster(a={"cpus": 1.2, **hooks}, b={"cpus": 0.3, "mode": "off"},
                             c={"goal": "consolidate", "mode": "off", "sleep_hook": sleep, **hooks, **more})
        (self.folder / "pid").write_text(str(nodes[2].process.pid))
        nodes[0].boot("g1", "--pin")
        nodes[2].run("mode", "automatic")
        return nodes

    def peer(self, node, name):
        return next(p for p in node.get()["peers"] if p["name"] == name)["state"]

    def outcome(self, node, action):
        records = [d for d in node.get("/v1/decisions") if d["action"] == action]
        return records[-1].get("outcome", {}) if records else {}

    def test_an_empty_host_sleeps_and_is_woken_for_a_hot_spot(self):
        pid = f"$(cat {self.folder}/pid)"
        a, b, c = self.sleepers(f'echo sleep $1 >> {self.folder}/log; kill -STOP {pid}', f'echo wake $1 >> {self.folder}/log; kill -CONT {pid}')
        self.eventually(lambda: self.peer(a, "c") == "asleep", 30, lambda: str(a.get()["peers"]))
        a.process.signal(signal.SIGKILL)  # its next one knows, too
        a.process.wait(5)
        a.start([b, c])
        self.assertEqual(self.peer(a, "c"), "asleep")
        a.boot("g2")
        self.eventually(lambda: len(c.guests()) == 1, 40, lambda: a.run("explain").stdout)
        self.assertEqual((self.folder / "log").read_text(), "sleep c\nwake c\n")
        self.assertEqual(self.outcome(a, "wake")["status"], "completed")
        self.assertEqual([d["action"] for d in a.get("/v1/decisions") if d["action"] in ("wake", "move", "swap")], ["wake", "move"])
        self.assertIn("awake again after", self.outcome(c, "sleep")["reason"])
        self.assertEqual(c.get()["state"], "open")

    def test_a_start_that_finds_no_room_wakes_a_host_that_has_it(self):
        pid = f"$(cat {self.folder}/pid)"
        a, b, c = self.sleepers(f'kill -STOP {pid}', f'kill -CONT {pid}', sleep_after="4s")
        self.eventually(lambda: self.peer(a, "c") == "asleep", 30, lambda: str(a.get()["peers"]))
        words = ("start", "--name", "g2", "--kernel", GUESTS / "idle.elf", "--memory", "1000M")
        self.assertIn("no room: g2 needs 1000 MB, 32 of 1024 MB are taken; b has room for it", a.run(*words).stderr)
        b.boot("g3", kernel="idle.elf", append="", memory="32M")
        self.eventually(lambda: a.peer_host("b")["memory_used"] == 32, 10)
        self.assertIn("no room: g2 needs 1000 MB, 32 of 1024 MB are taken; c has, and is being woken: start it there", a.run(*words).stderr)
        self.eventually(lambda: self.peer(a, "c") == "alive", 20)
        self.assertEqual(c.run(*words).returncode, 0)
        self.eventually(lambda: self.outcome(a, "wake").get("status") == "completed", 10)

    def test_a_wake_that_does_not_come_is_recorded(self):
        pid = f"$(cat {self.folder}/pid)"
        a, b, c = self.sleepers(f'kill -STOP {pid}', f'echo wake $1 >> {self.folder}/log')
        self.eventually(lambda: self.peer(a, "c") == "asleep", 30)
        a.boot("g2")
        self.eventually(lambda: self.outcome(a, "wake"), 40, lambda: a.run("explain").stdout)
        self.assertEqual(self.outcome(a, "wake")["status"], "failed")
        self.assertIn("c does not answer 6 s after it was woken", self.outcome(a, "wake")["reason"])
        tries = (self.folder / "log").read_text()
        self.assertGreaterEqual(tries.count("wake c\n"), 2, "a machine that is going down misses the first")
        time.sleep(2 * HOLD)
        self.assertEqual((self.folder / "log").read_text(), tries, "it is woken again at once")
        self.assertEqual(len(a.guests()), 2)

    def test_hooks_that_fail_hang_or_do_nothing_leave_the_host_open(self):
        for hook, why in (("exit 3", "the hook exited with 3"), ("sleep 60", "the hook took more than 2 s and was ended"),
                          ("true", "the hook ended well, but this host runs on")):
            with self.subTest(hook):
                a, b, c = self.sleepers(hook, "exit 4")
                self.eventually(lambda: self.outcome(c, "sleep"), 20, lambda: str(c.get("/v1/decisions")))
                self.assertEqual((self.outcome(c, "sleep")["status"], self.outcome(c, "sleep")["reason"]), ("failed", why))
                self.assertEqual(c.get()["state"], "open")
                self.assertIn(why, c.run("explain").stdout)
                for node in self.nodes:
                    node.end()
                    shutil.rmtree(node.folder)
                self.nodes = []

    def test_a_hook_that_outlives_the_sleep_holds_up_nothing(self):
        pid = f"$(cat {self.folder}/pid)"
        a, b, c = self.sleepers(f"echo $1 >> {self.folder}/log; kill -STOP {pid}; sleep 8", "exit 4", hook_timeout="30s")
        self.eventually(lambda: self.peer(a, "c") == "asleep", 30)
        time.sleep(1)
        os.kill(c.process.pid, signal.SIGCONT)
        self.eventually(lambda: c.get()["state"] == "open", 5)
        time.sleep(3)  # empty for long enough to sleep again
        self.assertEqual((c.get()["state"], (self.folder / "log").read_text()), ("open", "c\n"))

    def test_a_host_that_is_needed_before_it_powers_down_stays(self):
        a, b, c = self.sleepers("true", "exit 4", interval="1s")
        self.eventually(lambda: c.get()["state"] == "asleep", 20, lambda: json.dumps(c.get()))  # it says so for three intervals first
        c.boot("g9", kernel="idle.elf", append="")
        self.assertEqual((c.get()["state"], self.outcome(c, "sleep")["status"]), ("open", "completed"))

    def test_the_last_host_without_guests_stays_awake(self):
        settings = {"goal": "consolidate", "sleep_hook": f"echo $1 >> {self.folder}/log", "sleep_after": "1s", "hook_timeout": "1s"}
        a, b = self.cluster("ab", a=settings, b=settings)
        self.eventually(lambda: self.outcome(b, "sleep"), 20)
        self.assertEqual((self.folder / "log").read_text(), "b\n")
        self.assertEqual(self.outcome(a, "sleep"), {})

if __name__ == "__main__":
    unittest.main()
