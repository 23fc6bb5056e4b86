"""Debian's kernels: they boot, they move while they work, they power off. In the runner."""

import json
import os
import unittest

from harness import Case
from linux_guest import ask, boot, check_disk_image, complaints

ADDRESS = os.environ.get("GODWIT_RDMA_ADDRESS", "127.0.0.1")


class BootTest(Case):
    """Boots that no other test needs to move; all at once, since most of a boot is waiting."""

    def test_kernels_boot_and_power_off(self):
        guests = [boot(self, version, cpus=cpus, append="mib=16 then=poweroff")
                  for version, cpus in (("6.1", 1), ("6.12", 2))]
        for guest in guests:
            ready = self.line(guest, r"^ready .*cpus=(\d+) kernel=(\S+)", 60)
            self.ended(guest, 0, 30)
            self.assertEqual(int(ready[1]), int(guest.words[guest.words.index("--cpus") + 1]))
            self.no_corruption(guest)
        self.assertEqual(guests[0].out.find("kernel=(6.1)[.]")[0][1], "6.1")
        self.assertEqual(guests[1].out.find("kernel=(6.12)[.]")[0][1], "6.12")


class PowerTest(Case):
    def test_reboot_boots_again_and_the_power_button_powers_off(self):
        guest = boot(self, "6.12", append="mib=16 tick=100")
        self.line(guest, "^ready", 60)
        self.line(guest, "^tick 2 ")
        start = guest.out.count()
        guest.type("reboot\n")
        self.line(guest, "^ready", 60, start)
        self.line(guest, "^tick 2 ", 20, start)
        self.assertEqual(self.godwit("stop", guest.api)[0], 0)
        self.line(guest, "^power button", 20, start)
        self.ended(guest, 0, 30)


class SnapshotTest(Case):
    def test_a_restored_kernel_goes_on_and_notices_that_it_is_another(self):
        guest = boot(self, "6.12", cpus=2, append="mib=16 tick=100")
        self.line(guest, "^ready", 60)
        self.line(guest, "^tick 2 ")
        directory = self.folder / "snapshot"
        status, out, err = self.godwit("snapshot", guest.api, directory, "--json", seconds=60)
        self.assertEqual(status, 0, out + err)
        print(f"snapshot: {out}", flush=True)
        guest.wait_ticks(3, 20)
        restored = self.restore(directory, name="web2")
        self.assertTrue(restored.wait_ticks(3, 30))
        ask(self, restored, "dmesg all", "^dmesg: .*crng reseeded due to virtual machine fork")
        for each in (guest, restored):
            self.assertEqual(complaints(self, each), [])
            self.no_corruption(each)
            self.assertEqual(self.godwit("stop", each.api)[0], 0)
            self.ended(each, 0, 30)


class LinuxMoveTest(Case):
    """One boot each; A to B by RDMA, B to C by TCP, memory and disk being rewritten all the time."""

    def move(self, source, transport):
        destination = self.receive(listen=f"{ADDRESS}:0")
        status, out, err = self.godwit("migrate", source.api, "--to", destination.address, "--transport", transport,
                                       "--json", seconds=90)
        self.assertEqual(status, 0, out + err)
        report = json.loads(out)
        self.assertEqual((report["status"], report["transport"]), ("completed", transport))
        self.ended(source, 0)
        self.assertTrue(destination.wait_ticks(5, 30))
        print(f"{transport}: total {report['total_ms']:.0f} ms, downtime {report['downtime_ms']:.0f} ms, "
              f"{report['pages']['sent']} pages in {len(report['rounds'])} rounds", flush=True)
        return destination, report

    def there_and_back(self, version, cpus, transports):
        disk = self.folder / "disk.img"
        with disk.open("wb") as f:
            f.truncate(32 << 20)
        hosts = [boot(self, version, cpus=cpus, append="mib=64 rate=1024 tick=100", disk=disk)]
        self.line(hosts[0], r"^ready .*disk=/dev/vda", 90)
        self.assertTrue(hosts[0].wait_ticks(5, 30))
        self.assertEqual(complaints(self, hosts[0]), [])
        ask(self, hosts[0], "gap", "^gap")
        for transport in transports:
            destination, _ = self.move(hosts[-1], transport)
            hosts.append(destination)
        last = hosts[-1]
        gap = ask(self, last, "gap", r"^gap longest_us=(\d+)")
        verified = ask(self, last, "verify", r"^verified pages=(\d+) blocks=(\d+) corrupt=(\d+)", 60)
        self.assertEqual(verified.groups(), (str(64 << 8), "256", "0"))
        report = ask(self, last, "report", r"^report .*back=(\d+) .*blocks=(\d+) corrupt=(\d+)")
        self.assertEqual((report[1], report[3]), ("0", "0"))
        self.assertEqual(complaints(self, last), [])
        last.type("poweroff\n")
        self.ended(last, 0, 30)
        print(f"longest gap the guest saw: {int(gap[1]) / 1000:.0f} ms", flush=True)
        self.no_corruption(*hosts)
        self.no_lost_tick(*hosts)
        ticks = [t.values for t in self.all_ticks(*hosts)]
        for clock in ("mono", "real"):
            times = [int(t[clock]) for t in ticks]
            self.assertEqual(times, sorted(times), f"{clock} stepped back")
        self.assertGreater(int(ticks[-1]["pages"]), int(ticks[0]["pages"]))
        check_disk_image(self, disk, int(report[2]))

    def test_6_1_with_two_vcpus(self):
        self.there_and_back("6.1", 2, ("rdma", "tcp"))

    def test_6_12_with_one_vcpu(self):
        self.there_and_back("6.12", 1, ("tcp", "rdma"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
