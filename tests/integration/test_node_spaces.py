"""Three nodes in network namespaces of their own, on a bridge, with guests whose load is switched from outside while they run. What
breaks there is the network, not a process. And a node whose clock somebody sets."""

import os
import shutil
import signal
import subprocess
import time
import unittest

from harness import BUILD, PATIENCE
from test_node import HOLD, POLICY, Node, NodeCase


def ip(*words):
    return subprocess.run(["ip", *map(str, words)], capture_output=True, text=True, timeout=20)


def why_no_namespaces():
    """Empty where network namespaces, veth and bridges can be made."""
    if shutil.which("ip") is None:
        return "no ip(8) here: install iproute2"
    name = f"gwtry{os.getpid()}"
    try:
        for words in (("netns", "add", name), ("-n", name, "link", "add", "br0", "type", "bridge"),
                      ("-n", name, "link", "add", "v0", "type", "veth", "peer", "name", "v1")):
            done = ip(*words)
            if done.returncode != 0:
                return f"network namespaces are not permitted here (ip {' '.join(words)}: {done.stderr.strip()}): run as root with CAP_NET_ADMIN"
    finally:
        ip("netns", "del", name)
    return ""


class SpacedNode(Node):
    """A node whose host is a network namespace."""

    def words(self):
        return ["ip", "netns", "exec", self.space, *super().words()]


class NodeSpacesTest(NodeCase):
    node_type = SpacedNode

    @classmethod
    def setUpClass(cls):
        if why := why_no_namespaces():
            raise unittest.SkipTest(why)

    def setUp(self):
        super().setUp()
        self.spaces = []
        self.addCleanup(self.remove_spaces)

    def remove_spaces(self):
        for space in self.spaces:
            ip("netns", "del", space)

    def must(self, *words):
        done = ip(*words)
        self.assertEqual(done.returncode, 0, f"ip {' '.join(map(str, words))}: {done.stderr}")

    def space(self, name):
        space = f"gw{os.getpid()}{name}"
        self.must("netns", "add", space)
        self.spaces.append(space)
        self.must("-n", space, "link", "set", "lo", "up")
        return space

    def addresses(self, names):
        """A namespace a name, on a bridge in one more; the name's link there is to-NAME."""
        hub = self.hub = self.space("hub")
        self.must("-n", hub, "link", "add", "br0", "type", "bridge")
        self.must("-n", hub, "link", "set", "br0", "up")
        self.space_of = {}
        for i, name in enumerate(names):
            space = self.space_of[name] = self.space(name)
            self.must("-n", hub, "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", space)
            self.must("-n", hub, "link", "set", f"to-{name}", "master", "br0", "up")
            self.must("-n", space, "addr", "add", f"10.77.7.{i + 1}/24", "dev", "eth0")
            self.must("-n", space, "link", "set", "eth0", "up")
        return [(name, f"10.77.7.{i + 1}:7400") for i, name in enumerate(names)]

    def make_node(self, name, address, **more):
        node = super().make_node(name, address, **more)
        node.space = self.space_of[name]
        return node

    def link(self, name, state):
        self.must("-n", self.hub, "link", "set", f"to-{name}", state)

    def peer(self, node, name):
        return next(p for p in node.get()["peers"] if p["name"] == name)["state"]

    def everywhere(self, nodes):
        return sorted(name for node in nodes for name in node.guests())

    def test_a_hot_spot_is_resolved_over_the_network(self):
        a, b, c = self.cluster()
        a.boot("g1")
        a.boot("g2")
        self.eventually(lambda: len(a.guests()) == 1 and self.everywhere((a, b, c)) == ["g1", "g2"], 60, lambda: a.run("explain").stdout)
        self.eventually(lambda: a.moves()[0].get("outcome", {}).get("status") == "completed", 5)
        time.sleep(HOLD)
        self.assertEqual([len(n.moves()) for n in (a, b, c)], [1, 0, 0])

    def test_a_spike_shorter_than_the_hold_time_moves_nothing(self):
        # On a busy machine idle guests wait for a CPU now and then, and that is load: less than the spike is none here.
        a, b, c = self.cluster(a={"policy": {**POLICY, "deadband": 0.3}})
        for name in ("g1", "g2", "g3"):
            a.boot_load(name)
        time.sleep(2 * HOLD)  # what is usual here
        for name in ("g1", "g2"):
            a.load(name, 100)
        began, most = time.monotonic(), 0
        while time.monotonic() < began + HOLD / 4:
            most = max(most, a.get("/v1/view")["host"]["demand"])
        for name in ("g1", "g2"):
            a.load(name, 0)
        self.assertGreater(most, 1.35, "that was no spike")
        time.sleep(3 * HOLD)
        self.assertEqual((a.moves(), len(a.guests())), ([], 3))

    def test_a_symmetric_load_moves_nothing_for_ten_minutes(self):
        """Shortened: a host's hold time is 25 samples, here of 25 ms, in life 30 of a second. 48 times as fast."""
        fast = {"interval": "25ms", "cpus": 1.2}
        nodes = self.cluster(a=fast, b=fast, c=fast)
        for node in nodes:
            node.boot_load("g-" + node.name, 100)
        time.sleep(600 / 48)
        self.assertEqual([n.moves() for n in nodes], [[], [], []])
        self.assertTrue(all(n.get("/v1/view")["host"]["forecast"]["mean"] > 0.5 for n in nodes))

    def test_a_load_that_alternates_does_not_ping_pong(self):
        settings = {"policy": {**POLICY, "cooldown_seconds": 4}}
        nodes = a, b = self.cluster("ab", a=settings, b=settings)
        for i, node in enumerate(nodes):
            for k in (0, 1):
                node.boot_load(f"g{i}{k}")
        self.alternate(a, 0.5 * HOLD, 10)
        self.assertEqual([n.moves() for n in nodes], [[], []], "faster than the hold time")
        self.alternate(a, 1.5 * HOLD, 4)
        moved = [m["guest"] for n in nodes for m in n.moves()]
        self.assertLessEqual(len(moved), 2, moved)
        self.assertEqual(len(set(moved)), len(moved), "one guest moved to and fro")
        self.assertEqual([n.get()["counters"]["moves_undone"] for n in nodes], [0, 0])

    def alternate(self, node, phase, times):
        """Load here, then there, and so on; wherever the guests are by then."""
        for i in range(times):
            for group in (0, 1):
                for k in (0, 1):
                    node.load(f"g{group}{k}", 100 if i % 2 == group else 0)
            time.sleep(phase)

    def test_two_overloaded_nodes_do_not_crowd_one_target(self):
        a, b, c = self.cluster(a={"cpus": 0.6}, b={"cpus": 0.6}, c={"cpus": 1.3})
        for node in (a, b):
            node.boot_load("g-" + node.name)
        for node in (a, b):
            node.load("g-" + node.name, 100)
        self.eventually(lambda: len(c.guests()) == 1, 60, lambda: a.run("explain").stdout)
        time.sleep(3 * HOLD)
        self.assertEqual(len([g for g in c.guests().values() if g["state"] == "running"]), 1)
        self.assertEqual(self.everywhere((a, b, c)), ["g-a", "g-b"])

    def test_a_full_target_refuses(self):
        a, b = self.cluster("ab", b={"mode": "off", "memory": "64M", "cpus": 1.0})
        for guest, why in (({"name": "g1", "cpus": 1, "memory": 128, "demand": 0.1}, "no memory"),
                           ({"name": "g1", "cpus": 1, "memory": 16, "demand": 0.97}, "above its threshold")):
            status, answer = b.post("/v1/reservations", {"guest": guest, "from": "a"})
            self.assertEqual(status, 409)
            self.assertIn(why, answer["error"])
        for name in ("g1", "g2"):
            a.boot(name, memory="128M")  # for too long too much, and too large for b
        self.eventually(lambda: any(d["action"] == "refuse" and "no peer has room" in d["obstacle"] for d in a.get("/v1/decisions")), 30,
                        lambda: a.run("explain").stdout)
        self.assertEqual((a.moves(), b.guests(), b.get()["counters"]["reservations_refused"]), ([], {}, 2))

    def test_a_peer_whose_link_is_down_is_no_target_and_comes_back(self):
        a, b, c = self.cluster(c={"cpus": 0.3})  # only b has room
        self.link("b", "down")
        self.eventually(lambda: self.peer(a, "b") == "silent" and self.peer(b, "a") == "silent", 20, "nobody notices")
        self.eventually(lambda: self.peer(a, "c") == "alive", 20)
        a.boot("g1")
        a.boot("g2")
        time.sleep(2 * HOLD)
        self.assertEqual((len(a.guests()), a.moves()), (2, []))
        self.link("b", "up")
        self.eventually(lambda: len(b.guests()) == 1 and len(a.guests()) == 1, 60, lambda: a.run("explain").stdout)

    def test_a_link_that_fails_during_a_move_leaves_the_guest_at_one_place(self):
        a, b = self.cluster("ab", a={"mode": "off"}, b={"mode": "off", "reservation": "1s"})
        mover = self.slow_move(a, b)
        self.link("b", "down")
        self.assertEqual(mover.wait(60), 3, mover.err.text())
        # What a node tells of a guest is up to a round old.
        self.eventually(lambda: a.guests()["g1"]["state"] == "running", 20, lambda: str(a.guests()))
        self.link("b", "up")
        self.eventually(lambda: b.guests() == {} and b.get()["host"]["incoming"] == 0, 60, lambda: str(b.guests()))
        self.eventually(lambda: self.peer(a, "b") == "alive", 20)
        done = a.run("migrate", "g1", "--to", "b")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_killed_node_comes_back_to_its_guests(self):
        a, b, c = self.cluster(a={"mode": "off"})
        a.boot("g1")
        pid = a.guests()["g1"]["pid"]
        a.process.signal(signal.SIGKILL)
        a.process.wait(5)
        self.eventually(lambda: self.peer(b, "a") == self.peer(c, "a") == "silent", 20, "nobody notices")
        a.start([b, c])
        self.assertEqual(a.guests()["g1"]["pid"], pid)
        self.eventually(lambda: self.peer(b, "a") == self.peer(c, "a") == "alive", 20)
        self.assertEqual(a.run("migrate", "g1", "--to", "b").returncode, 0)


class ClockTest(NodeCase):
    """The time of day jumps to and fro, by hours and days, all the time."""

    def setUp(self):
        super().setUp()
        source, self.library = self.folder / "clock.c", self.folder / "clock.so"
        source.write_text(r"""
            #define _GNU_SOURCE
            #include <sys/syscall.h>
            #include <sys/time.h>
            #include <time.h>
            #include <unistd.h>
            static long jump(void) {  // every 300 ms two hours further than ever, into the future or into the past
              static long began;
              struct timespec t;
              syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
              const long ms = t.tv_sec * 1000 + t.tv_nsec / 1000000;
              if (began == 0) began = ms;
              const long step = (ms - began) / 300;
              return (step % 2 ? 7200 : -7200) * step;
            }
            int clock_gettime(clockid_t id, struct timespec* t) {
              int result = syscall(SYS_clock_gettime, id, t);
              if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += jump();
              return result;
            }
            int gettimeofday(struct timeval* t, void* zone) {
              (void)zone;
              struct timespec now;
              clock_gettime(CLOCK_REALTIME, &now);
              t->tv_sec = now.tv_sec;
              t->tv_usec = now.tv_nsec / 1000;
              return 0;
            }
            time_t time(time_t* t) {
              struct timespec now;
              clock_gettime(CLOCK_REALTIME, &now);
              if (t) *t = now.tv_sec;
              return now.tv_sec;
            }
        """)
        subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O", "-o", self.library, source], check=True, timeout=60)
        self.env = {**os.environ, "LD_PRELOAD": str(self.library)}

    def test_a_clock_that_jumps_neither_moves_nor_keeps_a_guest(self):
        nodes = a, b, c = self.cluster(env=self.env)
        a.boot("idle", kernel="idle.elf", append="")
        silent = 0
        for _ in range(10):
            time.sleep(2 * HOLD / 10)
            silent += sum(p["state"] != "alive" for n in nodes for p in n.get()["peers"])
        self.assertEqual((silent, [n.moves() for n in nodes]), (0, [[], [], []]))
        began = time.monotonic()
        a.boot("g1")
        a.boot("g2")
        self.eventually(lambda: a.moves(), 30, lambda: a.run("explain").stdout)
        self.assertGreater(time.monotonic() - began, 0.7 * HOLD, "moved before the load had lasted")
        self.eventually(lambda: len(a.guests()) == 2, 20)
        host = next(n for n in (b, c) if n.guests())
        # It is hot now, but the one guest that may move has just done so; the third host has room.
        host.boot("g3", "--pin")
        self.eventually(lambda: any(d["obstacle"] == "its guests moved too recently" for d in host.get("/v1/decisions")), 20,
                        lambda: host.run("explain").stdout)
        for _ in range(10):  # at every setting of the clock
            time.sleep(0.4)
            ages = [g["last_move_age_s"] for g in host.guests().values() if g["last_move_age_s"] is not None]
            self.assertTrue(len(ages) == 1 and ages[0] < 60 * PATIENCE, ages)
        self.assertEqual(host.moves(), [], "its rest ended with a jump of the clock")
        times = [d["time"] for n in nodes for d in n.get("/v1/decisions")]
        self.assertTrue(any(abs(t - time.time()) > 80000 for t in times), "the clock did not jump: this tests nothing")


if __name__ == "__main__":
    unittest.main()
