#!/usr/bin/env python3
"""ci/runner keeps its promises: status, output, folders, time-out, and no machine left behind.

usage: tests/ci/test_runner.py   (on the machine itself, not in the runner)
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SLACK = 400  # seconds for a boot on a busy machine; about 10 on a quiet one

INSIDE = r"""
echo "to stdout"; echo "to stderr" >&2
echo "cwd $PWD"; cat ../mark; echo "arguments $0 $1"
echo "memlock $(ulimit -l)"; echo "seen $GODWIT_SEEN"; echo "cpus $(taskset -cp $$ | grep -o "[^ ]*$")"
echo "port $(cat /sys/class/infiniband/*/ports/1/state)"
echo "mtu $(cat /sys/class/net/$(ip -o addr show | awk -v a="$GODWIT_RDMA_ADDRESS" 'index($4, a "/") {print $2}')/mtu)"
python3 -c 'import fcntl; print("kvm", fcntl.ioctl(open("/dev/kvm"), 0xAE00))'
echo back > "$RUNNER_OUT/back"
echo lost > ../lost
exit 3
"""

HERE = r"""
cd "$0"; PATH=$0:$PATH
ci/runner -- sh -c 'echo "cwd $PWD"; echo "memlock $(ulimit -l)"
                    echo "port $(cat /sys/class/infiniband/gw-rxe/ports/1/state)"; exit 3'
echo "ended with $?"
ci/runner --timeout 1 -- sleep 1000
echo "ended with $?"
ci/runner -- sh -c 'kill -9 $$'
echo "ended with $?"
ci/runner -- no-such-command
echo "ended with $?"
echo "devices: $(ls /sys/class/infiniband | wc -l)"
"""

TWO = r"""
python3 - <<END
import os, socket, time
mine, peer = os.environ["GODWIT_RDMA_ADDRESS"], os.environ["GODWIT_PEER_ADDRESS"]
shared = os.environ["GODWIT_SHARED"]
if os.environ["GODWIT_HOST"] == "a":
    with socket.create_server((mine, 7000)) as server:
        open(shared + "/listens", "w").close()
        with server.accept()[0] as connection:
            print("heard", connection.recv(64).decode(), flush=True)
else:
    while not os.path.exists(shared + "/listens"):
        time.sleep(0.05)
    with socket.create_connection((peer, 7000)) as connection:
        connection.sendall(b"hello")
END
[ "$GODWIT_HOST" = a ] || exit 7
"""


def children(pid):
    """Processes whose parent is `pid`, and their states."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = stat.read_text().rsplit(") ", 1)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(rest.split()[1]) == pid and "(qemu" in name:
            found[int(stat.parent.name)] = rest.split()[0]
    return found


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class RunnerTest(unittest.TestCase):
    def setUp(self):
        # A checkout below /tmp, over which the machine inside mounts a /tmp of its own.
        self.folder = Path(tempfile.mkdtemp(prefix="godwit-checkout-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.folder)
        shutil.copytree(ROOT / "ci", self.folder / "ci")
        (self.folder / "mark").write_text("the checkout is visible\n")
        (self.folder / "sub folder").mkdir()
        self.out = self.folder / "out"

    def start(self, *words):
        # Not on this machine itself, if it could: it is to be cut short and powered off.
        return subprocess.Popen([self.folder / "ci/runner", "--emulated", *words], cwd=self.folder / "sub folder", text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env=os.environ | {"RUNNER_OUT": str(self.out), "GODWIT_SEEN": "a 'quoted' word"})

    def run_it(self, *words):
        process = self.start(*words)
        out, err = process.communicate(timeout=2 * SLACK)
        return process.returncode, out, err

    def machine(self, process):
        """The runner's QEMU, once there is one."""
        for _ in range(SLACK * 10):
            if found := children(process.pid):
                return next(iter(found))
            self.assertIsNone(process.poll(), "the runner has ended before its machine began")
            time.sleep(0.1)
        return self.fail("the runner has started no machine")

    def gone(self, pid):
        for _ in range(100):
            if not running(pid):
                return
            time.sleep(0.1)
        self.fail(f"QEMU {pid} is still there 10 s after its runner")

    def test_a_command_runs_in_its_folder_with_rdma_and_kvm_and_its_status_and_files_come_back(self):
        status, out, err = self.run_it("--timeout", str(SLACK), "--", "bash", "-c", INSIDE, "zero", "it's $HOME; one")
        self.assertEqual(status, 3, out + err)
        self.assertEqual(out.splitlines(), [
            "to stdout", f"cwd {self.folder}/sub folder", "the checkout is visible", "arguments zero it's $HOME; one",
            "memlock unlimited", "seen a 'quoted' word", "cpus 1,2", "port 4: ACTIVE", "mtu 9000", "kvm 12"])
        self.assertIn("to stderr", err.splitlines())
        self.assertEqual((self.out / "back").read_text(), "back\n")
        self.assertFalse((self.folder / "lost").exists(), "the machine wrote into the checkout")

    def test_a_command_that_does_not_end_is_a_time_out(self):
        process = self.start("--timeout", "3", "--", "sleep", "1000")
        machine = self.machine(process)
        self.assertEqual(process.wait(60), 124)
        self.assertIn("time-out after 3 s: sleep 1000", process.communicate()[1])
        self.gone(machine)

    def test_a_machine_that_goes_down_under_its_command_is_no_success(self):
        status, out, err = self.run_it("--timeout", str(SLACK), "--", "sh", "-c", "echo o > /proc/sysrq-trigger; sleep 1000")
        self.assertEqual(status, 125, out + err)
        self.assertIn("the machine ended before the command did", err)

    def test_a_machine_that_hangs_or_one_of_whose_cpus_does_has_failed(self):
        keep_a_cpu = "echo -1 > /proc/sys/kernel/sched_rt_runtime_us; exec chrt -f 99 taskset -c 1 sh -c 'echo up; while :; do :; done'"
        hung = [self.start("--timeout", str(2 * SLACK), "--", "sh", "-c", command) for command in ("echo up; sleep 1000", keep_a_cpu)]
        for process in hung:
            self.assertEqual(process.stdout.readline(), "up\n")
        machines = [self.machine(process) for process in hung]
        os.kill(machines[0], signal.SIGSTOP)
        for process, machine in zip(hung, machines):
            self.assertEqual(process.wait(240), 125)
            self.assertIn("the emulator hangs", process.communicate()[1])
            self.gone(machine)

    def test_no_machine_outlives_its_runner(self):
        for number, expected in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
            process = self.start("--", "sleep", "1000")
            machine = self.machine(process)
            process.send_signal(number)
            self.assertEqual(process.wait(30), expected)
            process.communicate()
            self.gone(machine)

    def test_two_hosts_talk_and_the_failure_of_either_is_the_failure_of_both(self):
        status, out, err = self.run_it("--hosts", "2", "--timeout", str(SLACK), "--", "bash", "-c", TWO)
        self.assertEqual(status, 7, out + err)
        self.assertEqual(out, "[a] heard hello\n", err)

    def test_where_a_machine_can_do_it_all_itself_the_command_runs_right_there(self):
        # The machine that the runner boots is such a one, but that its modules are not where modprobe looks.
        fake = self.folder / "modprobe"
        fake.write_text("#!/bin/sh\n")
        fake.chmod(0o755)
        status, out, err = self.run_it("--timeout", str(SLACK), "--", "bash", "-c", HERE, self.folder)
        self.assertEqual(out.splitlines(), ["cwd " + str(self.folder), "memlock unlimited", "port 4: ACTIVE", "ended with 3",
                                            "ended with 124", "ended with 137", "ended with 127", "devices: 1"], err)
        self.assertEqual(status, 0)
        self.assertIn("running right here", err)

    def test_nonsense_is_refused(self):
        for words in ([], ["--kernel", "5.10", "--", "true"], ["--hosts", "3", "--", "true"]):
            status, out, err = self.run_it(*words)
            self.assertEqual((status, out), (2, ""), err)


if __name__ == "__main__":
    unittest.main(verbosity=2)
