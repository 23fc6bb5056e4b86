"""Nodes that balance, drain, die and lie: three on this machine, each at a loopback address of its own, with a
capacity of its own and small guests."""

import http.client
import http.server
import json
import os
import shutil
import signal
import socket
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
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10 * PATIENCE)
            s.connect(str(self.socket))
            s.sendall(f"GET {target} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            while piece := s.recv(65536):
                answer += piece
        return json.loads(answer.partition(b"\r\n\r\n")[2])

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
    def test_it_answers_what_its_description_says(self):
        described = json.loads((ROOT / "docs/openapi-node.json").read_text())
        a, b = self.cluster("ab", b={"mode": "off"})
        a.boot("g1", "--sensitivity", 3)
        a.boot("g2")  # more than a has: a decision
        self.eventually(lambda: a.moves() and a.get("/v1/view")["host"]["offers"], 40, lambda: a.run("explain").stdout)
        for target in ("/v1/view", "/v1/node", "/v1/guests", "/v1/decisions"):
            schema = described["paths"][target]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            self.assertEqual(list(undescribed(described["components"]["schemas"], schema, a.get(target), target)), [])

    def test_a_hot_spot_is_resolved_and_explained(self):
        a, b, c = self.cluster()
        a.boot("g1")
        a.boot("g2")
        self.eventually(lambda: len(a.guests()) == 1 and len(b.guests()) + len(c.guests()) == 1, 60, lambda: a.run("explain").stdout)
        moves = a.moves()
        self.assertEqual(len(moves), 1, moves)
        self.eventually(lambda: a.moves()[0].get("outcome", {}).get("status") == "completed", 5)
        self.assertGreater(moves[0]["benefit"], moves[0]["cost"])
        self.assertGreater(moves[0]["predicted"]["source_before"], 1.0)
        words = a.run("explain").stdout
        self.assertIn("move guest g", words)
        self.assertIn("-> completed", words)
        time.sleep(3)
        self.assertEqual([len(n.moves()) for n in (b, c)], [0, 0], "the guest was moved on")

    def test_a_spike_shorter_than_the_hold_time_moves_nothing(self):
        # On a busy machine idle guests wait for a CPU now and then, and that is load: less than the spike is none here.
        a, b, c = self.cluster(a={"policy": {**POLICY, "deadband": 0.3}})
        for name in ("g1", "g2"):
            a.boot(name, kernel="idle.elf", append="")
        time.sleep(2 * HOLD)  # what is usual here
        a.boot("spike")
        time.sleep(HOLD / 4)
        a.guest_call("spike", "PUT", "/v1/pause")
        time.sleep(3 * HOLD)
        self.assertEqual(a.moves(), [])
        self.assertEqual(len(a.guests()), 3)

    def test_a_symmetric_load_moves_nothing_for_ten_minutes(self):
        """Shortened: a host's hold time is 25 samples, here of 25 ms, in life 30 of a second. 48 times as fast."""
        fast = {"interval": "25ms", "cpus": 1.2}
        nodes = self.cluster(a=fast, b=fast, c=fast)
        for node in nodes:
            node.boot("g-" + node.name)
        time.sleep(600 / 48)
        self.assertEqual([n.moves() for n in nodes], [[], [], []])

    def alternate(self, nodes, phase, times):
        """Load here, then there, and so on; wherever the guests are by then."""
        for i in range(times):
            for group in (0, 1):
                for node in nodes:
                    for name in node.guests():
                        if name.startswith(f"g{group}"):
                            node.guest_call(name, "PUT", "/v1/resume" if i % 2 == group else "/v1/pause")
            time.sleep(phase)

    def test_a_load_that_alternates_does_not_ping_pong(self):
        settings = {"policy": {**POLICY, "cooldown_seconds": 4}}
        nodes = a, b = self.cluster("ab", a=settings, b=settings)
        for i, node in enumerate(nodes):
            for k in (0, 1):
                node.boot(f"g{i}{k}")
        self.alternate(nodes, 0.5 * HOLD, 10)
        self.assertEqual([n.moves() for n in nodes], [[], []], "faster than the hold time")
        self.alternate(nodes, 1.5 * HOLD, 4)
        moved = [m["guest"] for n in nodes for m in n.moves()]
        self.assertLessEqual(len(moved), 2, moved)
        self.assertEqual(len(set(moved)), len(moved), "one guest moved to and fro")
        self.assertEqual([n.get()["counters"]["moves_undone"] for n in nodes], [0, 0])

    def test_guests_survive_a_killed_node_and_are_adopted(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        a.boot("g1", "--apart", "db", "--sensitivity", 7)
        pid = a.guests()["g1"]["pid"]
        a.process.signal(signal.SIGKILL)
        a.process.wait(5)
        os.kill(pid, 0)  # it runs on
        self.eventually(lambda: b.get()["peers"][0]["state"] == "silent", 20, "b does not notice")
        a.start([b])
        guest = a.guests()["g1"]
        self.assertEqual((guest["pid"], guest["apart"], guest["sensitivity"]), (pid, "db", 7.0))
        self.eventually(lambda: b.get()["peers"][0]["state"] == "alive", 20)

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

    def test_the_name_of_a_guest_is_taken_once(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        a.boot("g1", kernel="idle.elf", append="")
        again = a.run("start", "--name", "g1", "--kernel", GUESTS / "idle.elf", "--memory", "32M")
        self.assertEqual((again.returncode, again.stderr), (1, "godwit: start: a guest called g1 is here already\n"))

    def test_a_guest_larger_than_the_host_is_refused(self):
        a, = self.cluster("a", a={"mode": "off", "memory": "64M"})
        done = a.run("start", "--name", "g1", "--kernel", GUESTS / "idle.elf", "--memory", "128M")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no room: g1 needs 128 MB", done.stderr)
        self.assertEqual(a.guests(), {})

    def post(self, node, target, body):
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
        self.assertEqual(status, 409)
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

    def test_a_full_target_refuses(self):
        a, = self.cluster("a", a={"mode": "off", "memory": "64M", "cpus": 1.0})
        for guest, why in (({"name": "g1", "cpus": 1, "memory": 128, "demand": 0.1}, "no memory"),
                           ({"name": "g1", "cpus": 1, "memory": 16, "demand": 0.97}, "above its threshold")):
            status, answer = self.post(a, "/v1/reservations", {"guest": guest, "from": "z"})
            self.assertEqual(status, 409)
            self.assertIn(why, answer["error"])
        self.assertEqual(a.guests(), {})

    def lying_peer(self, view):
        class Liar(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = json.dumps(view).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.9", 0), Liar)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.shutdown)
        return "%s:%d" % server.server_address

    def with_liar(self, view):
        with socket.socket() as s:
            s.bind(("127.0.0.2", 0))
            address = "%s:%d" % s.getsockname()
        node = Node(self, "a", address)
        self.nodes = [node]
        liar = Node(self, "z", self.lying_peer(view))
        node.start([liar])
        return node

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

    def test_a_peer_of_another_version_says_so(self):
        a = self.with_liar({"name": "z", "protocol": 99})
        self.eventually(lambda: "version 99" in a.get()["peers"][0]["why"], 10)
        self.assertEqual(a.get()["peers"][0]["state"], "refused")

    def test_drain_spreads_ten_guests_over_two_hosts_one_small_and_keeps_the_host_closed(self):
        # b holds two of them, c nine: neither could take all.
        a, b, c = self.cluster(a={"mode": "off", "cpus": 4}, b={"mode": "off", "memory": "64M"}, c={"mode": "off", "memory": "288M"})
        for i in range(10):
            a.boot(f"g{i}", kernel="idle.elf", append="")
        done = a.run("drain")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("empty, and closed until godwit undrain", done.stdout)
        here, there, also = (len(n.guests()) for n in (a, b, c))
        self.assertEqual((here, there + also), (0, 10))
        self.assertTrue(there <= 2 and also <= 9, f"a host has more than its memory holds: {there}, {also}")
        status, refused = self.post(a, "/v1/reservations", {"guest": {"name": "x", "cpus": 1, "memory": 16}, "from": "z"})
        self.assertEqual(status, 409)
        a.process.signal(signal.SIGTERM)
        a.process.wait(10)
        a.start([b, c])
        self.assertEqual(a.get()["state"], "closed", "a restart opened it")
        self.assertEqual(a.run("undrain").returncode, 0)
        self.assertEqual(a.get()["state"], "open")

    def test_a_drain_that_does_not_fit_is_refused_before_anything_moves(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off", "memory": "64M"})
        for i in range(4):
            a.boot(f"g{i}", kernel="idle.elf", append="")
        done = a.run("drain")
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot be drained", done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1)
        self.assertEqual((len(a.guests()), len(b.guests()), a.get()["state"]), (4, 0, "open"))

    def test_two_overloaded_nodes_do_not_crowd_one_target(self):
        a, b, c = self.cluster(a={"cpus": 0.6}, b={"cpus": 0.6}, c={"cpus": 1.3})
        for node in (a, b):
            node.boot("g-" + node.name)
        self.eventually(lambda: len(c.guests()) == 1, 60, lambda: a.run("explain").stdout)
        time.sleep(3 * HOLD)
        self.assertEqual(len([g for g in c.guests().values() if g["state"] == "running"]), 1)

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
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        a.boot("g1", "--sensitivity", 3)
        done = a.run("migrate", "g1", "--to", "b", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["peer"], "b")
        self.eventually(lambda: b.guests().get("g1", {}).get("state") == "running", 5)
        self.assertEqual((b.guests()["g1"]["left"], b.guests()["g1"]["sensitivity"]), ("a", 3.0))
        self.eventually(lambda: a.guests() == {}, 5)
        done = a.run("migrate", "g2", "--to", "b")
        self.assertEqual((done.returncode, done.stderr), (1, "godwit: migrate: no guest called g2 is here\n"))

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
        self.assertEqual(a.run("migrate", "g1", "--to", "b").returncode, 0)

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
        self.slow_move(a, b)
        for node in (a, b):
            node.process.signal(signal.SIGKILL)
            node.process.wait(5)
        a.start([b])
        b.start([a])
        self.eventually(lambda: b.guests().get("g1", {}).get("state") == "running" and a.guests() == {}, 60,
                        lambda: f"{a.guests()} {b.guests()}")
        self.eventually(lambda: b.get()["host"]["incoming"] == 0, 5)

    def test_a_source_that_dies_leaves_no_guest_and_no_reservation(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        mover = self.slow_move(a, b)
        os.kill(a.guests()["g1"]["pid"], signal.SIGKILL)
        self.assertEqual(mover.wait(20), 1, mover.err.text())
        self.eventually(lambda: a.guests() == {} and b.guests() == {} and b.get()["host"]["incoming"] == 0, 10, lambda: str(b.guests()))
        a.boot("g1", kernel="idle.elf", append="")  # the name is free
        self.assertEqual(a.run("migrate", "g1", "--to", "b").returncode, 0)

    def test_a_destination_that_dies_leaves_the_guest_and_no_reservation(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off"})
        mover = self.slow_move(a, b)
        os.kill(b.guests()["g1"]["pid"], signal.SIGKILL)
        self.assertEqual(mover.wait(20), 3, mover.err.text())
        self.eventually(lambda: a.guests()["g1"]["state"] == "running" and b.guests() == {}, 10)
        self.assertEqual(a.get()["counters"]["moves_failed"], 1)

    def test_nodes_with_certificates_trust_their_own_authority_only(self):
        ours, theirs = Authority(self.folder, "ours"), Authority(self.folder, "theirs")
        a, b = self.cluster("ab", a={"mode": "off", "tls": ours.issue("a")}, b={"mode": "off", "tls": ours.issue("b")})
        a.boot("g1", kernel="idle.elf", append="")
        self.moves_by_tls(a, b)
        a.process.signal(signal.SIGTERM)
        self.assertEqual(a.process.wait(10), 0)
        a.config["tls"] = theirs.issue("a")
        a.start([b])
        self.eventually(lambda: "certificate" in a.get()["peers"][0]["why"], 10, lambda: str(a.get()["peers"]))
        self.eventually(lambda: b.get()["peers"][0]["state"] == "silent", 20)

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
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(a.socket))
            s.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            text = b""
            while piece := s.recv(65536):
                text += piece
        self.assertIn(b"text/plain", text)
        self.assertIn(b'godwit_guest_memory_used_bytes{guest="g1"}', text)

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
        self.assertLessEqual(len(a.moves()), 3, "the same advice is recorded again and again")
        self.assertEqual(a.run("mode", "automatic").stdout, "mode automatic, goal balance\n")
        self.eventually(lambda: len(b.guests()) == 1, 20)
        self.assertEqual(a.run("mode", "--goal", "consolidate").stdout, "mode automatic, goal consolidate\n")
        self.assertEqual(a.get()["goal"], "consolidate")
        for words, why in ((["of"], "the mode must be off, advise or automatic"), (["--goal", "x"], "--goal: must be balance or consolidate")):
            done = a.run("mode", *words)
            self.assertEqual((done.returncode, done.stderr), (2, f"godwit: mode: {why}\n"))

    def test_bad_configuration_is_one_line(self):
        path = self.folder / "bad.json"
        for text, why in (("{", "no valid JSON"), ('{"nmae": "a"}', '"nmae": no such key'), ('{"cpus": -1}', '"cpus": must be a number'),
                          ('{"listen": "192.0.2.1:7400"}', "give certificates"), ('{"policy": {"hott": 1}}', '"policy"'),
                          ('{"interval": "1"}', '"interval"')):
            path.write_text(text)
            done = subprocess.run([GODWIT, "node", "--config", path], capture_output=True, text=True, timeout=20 * PATIENCE)
            self.assertEqual(done.returncode, 1, text)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
            self.assertIn(why, done.stderr)


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
        """a is hot, nothing of it fits b: its memory is full. One of b's guests could come to a in exchange."""
        a, b = self.cluster("ab", a={"mode": "off", **of_a}, b={"memory": f"{2 * size}M", "cpus": 4})
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
        a, b = self.cluster("ab", a={"mode": "off"}, b={"cpus": 1.2})
        b.boot("small", append="mib=4 rate=3 tick=200")
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
        a.boot("g2")
        self.eventually(lambda: len(c.guests()) == 1, 40, lambda: a.run("explain").stdout)
        self.assertEqual((self.folder / "log").read_text(), "sleep c\nwake c\n")
        self.assertEqual(self.outcome(a, "wake")["status"], "completed")
        self.assertEqual([d["action"] for d in a.get("/v1/decisions") if d["action"] in ("wake", "move", "swap")], ["wake", "move"])
        self.assertIn("awake again after", self.outcome(c, "sleep")["reason"])
        self.assertEqual(c.get()["state"], "open")

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
